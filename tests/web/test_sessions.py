"""One's sessions, seen and ended: by oneself, by admins, by page and by API; and all that ends with one. On a real database."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from batchhub.core.deeds import DeedScope
from batchhub.web.agents import agent_words
from tests.web.fakes import Browser, Site

PAGE = "/hub/settings/sessions"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)


async def signed_in(site: Site, name: str, agent: str = FIREFOX) -> Browser:
    browser = site.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", {"User-Agent": agent}, username=name, password=name[::-1])
    assert answer.code == 303, answer.body
    site.clock.now += timedelta(minutes=1)
    return browser


async def is_in(browser: Browser) -> bool:
    return (await browser.get("/hub/home")).code == 200


async def handles(browser: Browser, page: str = PAGE) -> list[str]:
    """Of the sessions on the page, in its order."""
    assert (await browser.get(page)).code == 200
    return re.findall(r'name="end" value="([0-9a-f]+)"', browser.text)


async def ids(site: Site, name: str) -> list[str]:
    return [row.id for row in await site.store.sessions_of(name)]


async def test_the_list_tells_them_apart_and_shows_nothing_that_opens_anything(kept: Site) -> None:
    first, second = await signed_in(kept, "ann", CHROME), await signed_in(kept, "ann")
    await second.get(PAGE)
    second.has("Firefox on Linux", "Chrome on Windows", "127.0.0.1")
    assert second.text.count("(this one)") == 1
    assert second.text.index("(this one)") < second.text.index("Chrome on Windows")
    assert second.text.index("2026-03-02T09:31:00Z") > 0, "when it ends: a day after the sign-in"
    for session in await ids(kept, "ann"):
        assert session not in second.text
        assert session[:16] in second.text
    for browser in (first, second):
        secret = browser.cookies["batchhub-session", "/hub/"].split(".")[1]
        assert secret not in second.text


async def test_an_idle_one_is_there_to_be_ended(kept: Site) -> None:
    old = await signed_in(kept, "ann", CHROME)
    kept.clock.now += timedelta(days=2)
    ann = await signed_in(kept, "ann")
    mine, idle = await handles(ann)
    ann.has("Idle. Open notebooks:", "2026-03-15T09:30:00Z")
    assert [one["idle"] for one in json.loads((await api(ann, "GET", "ann/sessions")).body)["sessions"]] == [
        False,
        True,
    ]
    await ann.post(PAGE, end=idle)
    assert [session[:16] for session in kept.revoked] == [idle], "so its notebooks are shut"
    assert await handles(ann) == [mine]
    assert not await is_in(old)


async def test_one_is_signed_out_the_others_stay(kept: Site) -> None:
    first, second = await signed_in(kept, "ann", CHROME), await signed_in(kept, "ann")
    mine, other = await handles(second)
    answer = await second.post(PAGE, end=other)
    assert (answer.code, answer.headers["Location"]) == (303, f"{PAGE}?ended=1")
    await second.get(answer.headers["Location"])
    second.has("One session was ended.")
    assert await handles(second) == [mine]
    assert not await is_in(first)
    assert await is_in(second)
    assert [session[:16] for session in kept.revoked] == [other]
    assert (await second.post(PAGE, end=other)).code == 404, "it has ended"


async def test_everywhere_else_and_everywhere(kept: Site) -> None:
    browsers = [await signed_in(kept, "ann") for _ in range(3)]
    stranger = await signed_in(kept, "bob")
    mine = browsers[-1]
    await mine.get(PAGE)
    assert (await mine.post(PAGE, what="others")).headers["Location"] == f"{PAGE}?ended=2"
    assert [await is_in(one) for one in browsers] == [False, False, True]
    browsers[0] = await signed_in(kept, "ann")
    await mine.get(PAGE)
    answer = await mine.post(PAGE, what="all")
    assert answer.headers["Location"] == "/hub/login?out=1"
    assert ("batchhub-session", "/hub/") not in mine.cookies
    assert [await is_in(one) for one in (browsers[0], mine)] == [False, False]
    assert await is_in(stranger)


async def test_ones_own_is_signing_out(kept: Site) -> None:
    ann = await signed_in(kept, "ann")
    (mine,) = await handles(ann)
    assert (await ann.post(PAGE, end=mine)).headers["Location"] == "/hub/login?out=1"
    assert not await is_in(ann)


@pytest.mark.parametrize("fields", [{}, {"what": "nothing"}, {"end": "0" * 16}, {"end": ""}, {"end": "\0"}])
async def test_what_names_no_session_ends_none(kept: Site, fields: dict[str, str]) -> None:
    ann = await signed_in(kept, "ann")
    await ann.get(PAGE)
    assert (await ann.post(PAGE, **fields)).code in {400, 404}
    assert await is_in(ann)


async def test_nobody_ends_somebody_elses(kept: Site) -> None:
    ann, bob = await signed_in(kept, "ann"), await signed_in(kept, "bob")
    (anns,) = await handles(ann)
    await bob.get(PAGE)
    assert (await bob.post(PAGE, end=anns)).code == 404
    for method in ("GET", "DELETE"):
        for path in ("sessions", f"sessions/{anns}"):
            headers = {"X-XSRFToken": bob.xsrf, "Sec-Fetch-Site": "same-origin"}
            answer = await bob.ask(method, f"/hub/api/users/ann/{path}", headers=headers)
            assert answer.code in {404, 405}, (method, path)
    for path in ("/hub/admin/people", "/hub/admin/people/ann", "/hub/admin/audit"):
        assert (await bob.get(path)).code == 403
    assert (await bob.post("/hub/admin/people/ann", what="sessions")).code == 403
    assert await is_in(ann)


async def test_no_other_site_ends_one(kept: Site) -> None:
    ann = await signed_in(kept, "ann")
    await ann.get(PAGE)
    assert (await ann.post(PAGE, {"Sec-Fetch-Site": "cross-site"}, what="all")).code == 403
    ann.xsrf = ""
    assert (await ann.post(PAGE, what="all")).code == 403
    assert await is_in(ann)


async def test_admins_see_and_end_a_persons_sessions_and_tokens(kept: Site) -> None:
    root, ann, other = [await signed_in(kept, name) for name in ("root", "ann", "ann")]
    await root.get("/hub/admin/people?q=an")
    root.has('href="/hub/admin/people/ann"')
    assert "/hub/admin/people/root" not in root.text
    page = "/hub/admin/people/ann"
    found = await handles(root, page)
    assert len(found) == 2
    assert (await root.post(page, end=found[0])).headers["Location"] == f"{page}?ended=1&what=sessions"
    assert [await is_in(ann), await is_in(other)] == [True, False]
    await ann.get("/hub/token")
    await ann.post("/hub/token", note="a script", days="30")
    await root.get(page)
    root.has("a script", "Revoke all tokens")
    await root.post(page, what="tokens")
    assert await kept.store.tokens_of("ann") == ()
    await root.get(page)
    await root.post(page, what="sessions")
    assert not await is_in(ann)
    await root.get(page)
    root.has("Signed in nowhere.")
    assert await is_in(root)
    assert (await root.get("/hub/admin/people/nobody")).code == 404
    assert (await root.post(page, what="everything")).code == 400


async def api(browser: Browser, method: str, path: str) -> HTTPResponse:
    return await browser.ask(
        method, f"/hub/api/users/{path}", headers={"X-XSRFToken": browser.xsrf, "Sec-Fetch-Site": "same-origin"}
    )


async def test_the_api(kept: Site) -> None:
    root, ann, other = [await signed_in(kept, name) for name in ("root", "ann", "ann")]
    await ann.get("/hub/home")
    answer = await api(ann, "GET", "ann/sessions")
    listed = json.loads(answer.body)["sessions"]
    assert [one["current"] for one in listed] == [False, True]
    assert listed[0] == {
        "id": (await ids(kept, "ann"))[0][:16],
        "created": "2026-03-01T09:32:00Z",
        "last_activity": "2026-03-01T09:32:00Z",
        "expires_at": "2026-03-02T09:32:00Z",
        "address": "127.0.0.1",
        "agent": FIREFOX,
        "current": False,
        "idle": False,
    }
    assert (await api(ann, "DELETE", f"ann/sessions/{listed[0]['id']}")).code == 204
    assert (await api(ann, "DELETE", f"ann/sessions/{listed[0]['id']}")).code == 404
    assert not await is_in(other)
    await root.get("/hub/home")
    assert [one["current"] for one in json.loads((await api(root, "GET", "ann/sessions")).body)["sessions"]] == [False]
    assert json.loads((await api(root, "DELETE", "ann/sessions")).body) == {"ended": 1}
    assert not await is_in(ann)
    assert (await api(root, "GET", "nobody/sessions")).code == 404


# ---------------------------------------------------------------- what ends with a session


class Stream:
    """An event stream, open until the hub ends it."""

    def __init__(self, site: Site, headers: dict[str, str]) -> None:
        self.began = asyncio.Event()
        request = HTTPRequest(
            f"{site.url}/hub/api/events",
            headers={"Accept": "text/event-stream", **headers},
            streaming_callback=lambda _: self.began.set(),
            request_timeout=3000,
        )
        self.end = asyncio.ensure_future(AsyncHTTPClient().fetch(request, raise_error=False))


async def opened(site: Site, browser: Browser | None = None, token: str = "") -> Stream:
    if browser is not None:
        await browser.get("/hub/home")
        cookie = browser.cookies["batchhub-session", "/hub/"]
        headers = {"Cookie": f"batchhub-session={cookie}", "X-XSRFToken": browser.xsrf}
    else:
        headers = {"Authorization": f"token {token}"}
    stream = Stream(site, headers)
    async with asyncio.timeout(60):
        await stream.began.wait()
    return stream


async def until_out(browser: Browser) -> str:
    """A token that ends with this browser's session."""
    await browser.get("/hub/token")
    browser.has("until I sign out here")
    await browser.post("/hub/token", note="for now", days="session")
    found = re.search(r'id="fresh-token">(bh_[\w-]+)<', browser.text)
    assert found, browser.text
    return found[1]


async def by_logout(site: Site, ann: Browser) -> None:
    del site
    await ann.get("/hub/home")
    assert (await ann.post("/hub/logout")).code == 303


async def by_an_admin(site: Site, ann: Browser) -> None:
    del ann
    root = await signed_in(site, "root")
    await root.get("/hub/admin/people/ann")
    assert (await root.post("/hub/admin/people/ann", what="sessions")).code == 303


async def from_elsewhere(site: Site, ann: Browser) -> None:
    del ann
    elsewhere = await signed_in(site, "ann")
    await elsewhere.get(PAGE)
    assert (await elsewhere.post(PAGE, what="others")).code == 303


async def by_signing_in_again(site: Site, ann: Browser) -> None:
    await ann.get("/hub/home")
    old = dict(ann.cookies)
    answer = await ann.post("/hub/login", username="ann", password="nna")
    assert answer.code == 303
    ann.cookies = old


@pytest.mark.parametrize("how", [by_logout, by_an_admin, from_elsewhere, by_signing_in_again])
async def test_streams_and_bound_tokens_end_with_the_session_at_once(kept: Site, how) -> None:
    ann, bob = await signed_in(kept, "ann"), await signed_in(kept, "bob")
    bound = await until_out(ann)
    await ann.get("/hub/token")
    await ann.post("/hub/token", note="for long", days="30")
    free = re.search(r'id="fresh-token">(bh_[\w-]+)<', ann.text)
    assert free
    mine = [await opened(kept, ann), await opened(kept, token=bound)]
    others = [await opened(kept, token=free[1]), await opened(kept, bob)]
    await how(kept, ann)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(stream.end for stream in mine))
    assert [answer.code for answer in answers] == [200, 200]
    assert not any(stream.end.done() for stream in others)
    assert not await is_in(ann)

    async def code(token: str) -> int:
        return (await kept.browser().get("/hub/api/user", Authorization=f"token {token}")).code

    assert await code(bound) == 403
    assert await code(free[1]) == 200, "made to live on when its maker signs out"
    assert [row.note for row in await kept.store.tokens_of("ann")] == ["for long"]
    assert (await kept.store.token(kept.revoked[-1])) is None
    assert len(kept.revoked) == 2, "the proxy was told of session and token"
    for stream in others:
        stream.end.cancel()


async def test_a_revoked_tokens_streams_end_at_once(kept: Site) -> None:
    ann = await signed_in(kept, "ann")
    stream = await opened(kept, token=await until_out(ann))
    await ann.get("/hub/token")
    number = re.search(r'name="revoke" value="(\d+)"', ann.text)
    assert number
    await ann.post("/hub/token", revoke=number[1])
    async with asyncio.timeout(60):
        await stream.end


async def test_a_bound_token_is_no_better_than_its_session(kept: Site) -> None:
    ann = await signed_in(kept, "ann")
    token = await until_out(ann)
    await ann.get("/hub/token")
    ann.has("the session it was made in ends", "2026-03-15")
    # Idle for too long: the row is there, and worth nothing.
    kept.clock.now += timedelta(days=2)
    assert (await kept.browser().get("/hub/api/user", Authorization=f"token {token}")).code == 403
    again = await signed_in(kept, "ann")
    await again.get("/hub/token")
    assert "for now" not in again.text


async def test_an_open_page_does_not_keep_its_session_alive(kept: Site) -> None:
    """It asks for its list by itself, for as long as it is open; what a person asks for counts."""
    ann = await signed_in(kept, "ann")
    for asking, code in (({}, 200), ({"Sec_Fetch_Mode": "cors"}, 403)):
        await ann.get("/hub/home")
        for _ in range(5):
            kept.clock.now += timedelta(hours=5)
            answer = await ann.get("/hub/home", X_XSRFToken=ann.xsrf, Accept="*/*", **asking)
        assert answer.code == code


async def test_a_bound_token_does_not_keep_its_session_alive(kept: Site) -> None:
    ann = await signed_in(kept, "ann")
    token = await until_out(ann)
    for _ in range(5):
        kept.clock.now += timedelta(hours=5)
        answer = await kept.browser().get("/hub/api/user", Authorization=f"token {token}")
    assert answer.code == 403


# ---------------------------------------------------------------- the trail of it


async def test_what_was_ended_by_whom_is_in_the_trail(kept: Site) -> None:
    ann = await signed_in(kept, "ann")
    (handle,) = await handles(ann)
    await by_an_admin(kept, ann)
    await kept.audit.close()
    found = [line.deed for line in await kept.audit._store.find(DeedScope(user="ann"), 10)]
    assert [(one.kind, one.user, one.by, one.words) for one in found] == [
        ("session ended", "ann", "root", "all: 1"),
        ("sign-in", "ann", "ann", f"plain; Firefox on Linux; session {handle}"),
    ]
    assert {one.address for one in found} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        (CHROME, "Chrome on Windows"),
        (CHROME + " Edg/140.0.0.0", "Edge on Windows"),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
            "Safari on macOS",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0 Mobile/15E148 Safari/604.1",
            "Chrome on an iPhone",
        ),
        ("curl/8.5.0", "curl"),
        ("Mozilla/5.0 (X11; FreeBSD amd64)", "a browser on FreeBSD"),
        ("", "an unknown browser"),
    ],
)
def test_a_browser_in_words(agent: str, words: str) -> None:
    assert agent_words(agent) == words
