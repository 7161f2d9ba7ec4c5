"""Signing in and out, where that leads, and what protects every form."""

import json
import logging
from datetime import timedelta

import pytest

from batchhub.core.errors import ConfigError
from batchhub.web.ports import WebSettings
from tests.web.fakes import Browser, Plain, Site, open_site


async def test_strangers_are_sent_to_the_sign_in_page_and_come_back(site: Site) -> None:
    browser = site.browser()
    answer = await browser.get("/hub/spawn/ann?cores=4")
    assert answer.code == 302
    assert answer.headers["Location"] == "/hub/login?next=%2Fhub%2Fspawn%2Fann%3Fcores%3D4"
    await browser.get(answer.headers["Location"])
    browser.has('name="next" value="/hub/spawn/ann?cores=4"')
    answer = await browser.post("/hub/login", username="ann", password="nna", next="/hub/spawn/ann?cores=4")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/spawn/ann?cores=4")


async def test_cookies_are_scoped_and_hidden_from_scripts(site: Site) -> None:
    browser = site.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", username="ann", password="nna")
    (line,) = [line for line in answer.headers.get_list("Set-Cookie") if line.startswith("batchhub-session=1.")]
    assert "Path=/hub/" in line
    assert "HttpOnly" in line
    assert "SameSite=Lax" in line
    assert "Secure" not in line


async def test_secure_cookies_when_the_site_says_so() -> None:
    site = open_site(WebSettings(secure_cookies="always"))
    answer = await site.browser().get("/hub/login")
    assert all("Secure" in line for line in answer.headers.get_list("Set-Cookie"))
    site.server.stop()


async def test_a_wrong_password_is_told_with_the_name_kept_and_the_password_not(site: Site) -> None:
    browser = site.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", username="ann", password="geheim")
    assert answer.code == 403
    browser.has("The username or the password is not right.", 'value="ann"', 'role="alert"')
    assert "geheim" not in browser.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"username": "ann", "password": ""}, "are needed"),
        ({"username": "", "password": "x"}, "are needed"),
        ({"username": "a" * 256, "password": "x"}, "at most 255"),
        ({"username": "ann", "password": "ä" * 513}, "1024 bytes"),
        ({"link": "x" * 513}, "not one of ours"),
        ({"link": "wrong"}, "used already"),
    ],
)
async def test_what_cannot_be_a_sign_in_is_refused_unhashed(site: Site, fields: dict[str, str], words: str) -> None:
    browser = site.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", **fields)
    assert answer.code in {400, 403}
    browser.has(words)


async def test_guessing_is_slowed_down_with_a_sentence(site: Site) -> None:
    browser = site.browser()
    await browser.get("/hub/login")
    for _ in range(20):
        answer = await browser.post("/hub/login", username="ann", password="x")
        if answer.code == 429:
            break
    assert answer.code == 429
    assert answer.headers["Retry-After"] == "15"
    browser.has("Try again in 15 seconds")


async def test_nobody_is_kept_out_of_their_own_browser_by_others_guesses(site: Site) -> None:
    mine, thief = await site.signed_in("ann"), site.browser()
    await mine.get("/hub/home")
    await mine.post("/hub/logout")
    assert {path for name, path in mine.cookies if name == "batchhub-known"} == {"/hub/login"}
    await thief.get("/hub/login")
    thief.cookies["batchhub-known", "/hub/login"] = (await site.signed_in("eve")).cookies[
        "batchhub-known", "/hub/login"
    ]
    answers = [(await thief.post("/hub/login", username="ann", password="x")).code for _ in range(11)]
    assert answers == [403] * 10 + [429], "a browser that is known to be another's is not known"
    await mine.get("/hub/login")
    assert (await mine.post("/hub/login", username="ann", password="x")).code == 403, "heard, and wrong"
    assert (await mine.post("/hub/login", username="ann", password="nna")).code == 303


async def test_what_is_set_up_wrongly_is_for_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Plain):
        async def authenticate(self, handler, data):
            raise ConfigError("The key file /srv/hub/vault.keys can be read by others.")

    wrong = open_site(more={"plain": Wrong(allow_all=True)})
    browser = wrong.browser()
    await browser.get("/hub/login")
    assert (await browser.post("/hub/login", username="ann", password="x")).code == 500
    browser.has("Its administrators find in its log what is wrong")
    assert "/srv" not in browser.text
    assert "The key file /srv/hub/vault.keys" in caplog.text
    wrong.server.stop()


async def test_a_link_signs_in_once(site: Site) -> None:
    token = site.links.issue("demo", site.clock())
    browser = site.browser()
    await browser.get("/hub/login")
    browser.has('id="link-form"', "login.js")
    assert (await browser.post("/hub/login", link=token)).code == 303
    assert (await browser.get("/hub/home")).code == 200
    other = site.browser()
    await other.get("/hub/login")
    assert (await other.post("/hub/login", link=token)).code == 403


NEXT = [
    ("/hub/home", "/hub/home"),
    ("/user/ann/lab/tree/a%20b?x=1#y", "/user/ann/lab/tree/a%20b?x=1#y"),
    ("https://evil.example/", "/hub/home"),
    ("//evil.example/", "/hub/home"),
    ("/\\evil.example/", "/hub/home"),
    ("\t//evil.example", "/hub/home"),
    ("/..//evil.example", "/hub/home"),
    ("/%2e%2e//evil.example", "/hub/home"),
    ("javascript:alert(1)", "/hub/home"),
    ("hub/home", "/hub/home"),
    ("/hub/logout", "/hub/home"),
    ("/a\r\nSet-Cookie: x=1", "/hub/home"),
    ("/" + "a" * 5000, "/hub/home"),
    ("", "/hub/home"),
]


@pytest.mark.parametrize(("given", "led"), NEXT)
async def test_next_leads_nowhere_else(site: Site, given: str, led: str) -> None:
    browser = site.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", username="ann", password="nna", next=given)
    assert (answer.code, answer.headers["Location"]) == (303, led)


async def test_signing_out_needs_a_button_and_ends_the_session(site: Site, ann: Browser) -> None:
    assert (await ann.get("/hub/logout")).code == 200
    ann.has("Your servers go on running", 'method="post"')
    assert not site.revoked
    old = dict(ann.cookies)
    answer = await ann.post("/hub/logout")
    assert answer.code == 303
    assert len(site.revoked) == 1
    ann.cookies = old
    assert (await ann.get("/hub/home")).code == 302
    await ann.get(answer.headers["Location"])
    ann.has("You are signed out.")


async def test_a_session_ends_by_itself(site: Site, ann: Browser) -> None:
    site.clock.now += timedelta(days=15)
    assert (await ann.get("/hub/home")).code == 302


@pytest.mark.parametrize("path", ["/hub/spawn/ann", "/hub/stop/ann", "/hub/token", "/hub/logout", "/hub/login"])
async def test_state_changes_need_a_token_of_this_session(site: Site, ann: Browser, path: str) -> None:
    other = await site.signed_in("bob")
    await other.get("/hub/home")
    for given in ("", "x" * 86, other.xsrf):
        answer = await ann.post(path, _xsrf=given)
        assert answer.code == 403, given
        ann.has("Load the page again")
    assert not site.hub.calls


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
async def test_other_sites_change_nothing_even_with_a_token(site: Site, ann: Browser, origin: str) -> None:
    site.hub.put("ann")
    await ann.get("/hub/home")
    answer = await ann.post("/hub/stop/ann", headers={"Sec-Fetch-Site": origin})
    assert answer.code == 403
    ann.has("Another site sent this request")
    assert not site.hub.calls


async def test_pages_are_not_handed_to_scripts(site: Site, ann: Browser) -> None:
    """A notebook page has our origin; it must not read forms and their tokens with fetch()."""
    assert (await ann.get("/hub/home", Sec_Fetch_Mode="cors")).code == 403
    assert (await ann.get("/hub/token", Sec_Fetch_Mode="same-origin", Accept="*/*")).code == 403
    await ann.get("/hub/home", Sec_Fetch_Mode="navigate")
    assert (await ann.get("/hub/home", Sec_Fetch_Mode="cors", X_XSRFToken=ann.xsrf)).code == 200


async def test_security_headers_are_everywhere(site: Site, ann: Browser) -> None:
    for path in ("/hub/home", "/hub/nothing", "/hub/api", "/hub/api/nothing", "/hub/login", "/hub/static/hub.css"):
        answer = await ann.get(path)
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"], path
        assert "frame-ancestors" in answer.headers["Content-Security-Policy"], path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers
    answer = await ann.get("/hub/home")
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "style=" not in ann.text
    assert " onclick" not in ann.text


async def test_the_access_log_holds_no_query(site: Site, ann: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await ann.get("/hub/home?secret=4711")
        await ann.get("/hub/nothing?secret=4711")
        await ann.get("/hub/a%0Ab")
    assert "/hub/home" in caplog.text
    assert "4711" not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


async def test_bodies_are_bounded(ann: Browser) -> None:
    assert (await ann.post("/hub/token", note="x" * 70000)).code == 413
    assert (await ann.post("/hub/token", **{f"f{number}": "" for number in range(300)})).code == 400


async def test_what_nobody_foresaw_gets_a_number_and_no_details(
    site: Site, ann: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(user: str) -> None:
        raise ZeroDivisionError("inner secret")

    site.hub.servers_of = broken  # type: ignore[assignment]
    answer = await ann.get("/hub/home")
    assert answer.code == 500
    assert "inner secret" not in ann.text
    assert "Traceback" not in ann.text
    (number,) = [word for record in caplog.records if "Incident" in record.msg for word in record.args[:1]]
    ann.has(f"under {number}")
    answer = await ann.get("/hub/api/user")
    assert answer.code == 500
    assert json.loads(ann.text)["status"] == 500


async def test_who_was_idle_for_too_long_is_signed_out_everywhere_by_asking_for_it(site: Site, ann: Browser) -> None:
    """The hub knows them no more, but notebooks that were used meanwhile are still open to them."""
    (session,) = site.store.sessions
    site.clock.now += timedelta(days=2)
    assert (await ann.get("/hub/logout", Sec_Fetch_Mode="no-cors")).code == 403
    assert site.revoked == [], "an image on another page signs nobody out"
    answer = await ann.get("/hub/logout")
    assert answer.headers["Location"] == "/hub/login?out=1"
    assert site.revoked == [session]
    assert (await ann.get("/hub/logout")).headers["Location"] == "/hub/login"


async def test_signing_in_again_ends_what_was_idle(site: Site, ann: Browser) -> None:
    (session,) = site.store.sessions
    site.clock.now += timedelta(days=2)
    await ann.get("/hub/login")
    assert (await ann.post("/hub/login", username="ann", password="nna")).code == 303
    assert site.revoked == [session]


async def test_a_revoked_token_is_told_to_the_proxy(site: Site, ann: Browser) -> None:
    await ann.get("/hub/token")
    await ann.post("/hub/token", note="x", days="1")
    (token,) = site.store.access
    await ann.post("/hub/token", revoke="99")
    assert site.revoked == []
    assert (await ann.post("/hub/token", revoke=str(token.id))).code == 303
    assert site.revoked == [token.hash]
