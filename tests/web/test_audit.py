"""Who did what: from the pages into the trail on a real database, and onto the admins' page."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from batchhub.core.deeds import Deed, DeedKind, DeedScope
from batchhub.core.errors import Unreachable
from batchhub.core.model import Phase
from tests.web.fakes import Browser, Plain, Site, open_site

PAGE = "/hub/admin/audit"


async def written(site: Site) -> None:
    while site.audit._waiting:
        await asyncio.sleep(0)


async def trail(site: Site, **scope: str) -> list[Deed]:
    """Oldest first."""
    await written(site)
    found = await site.audit._store.find(DeedScope(**scope), 1000)
    return [line.deed for line in reversed(found)]


async def try_to(site: Site, name: str, password: str, code: int = 403) -> Browser:
    browser = site.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", username=name, password=password)
    assert answer.code == code, answer.body
    return browser


@pytest.mark.parametrize(
    ("name", "password", "user", "words"),
    [
        ("ann", "geheim", "ann", "plain: not recognised"),
        ("gast", "tsag", "gast", "plain: blocked"),
        ("a b", "b a", "a b", "plain: 'a b' is not an acceptable user name"),
        ("ann\nroot", "x", r"ann\nroot", "plain: a field is too long or holds a control character"),
        ("ann\u202enna", "x", r"ann\u202enna", "plain: a field is too long or holds a control character"),
        ("<script>alert(1)</script>", "x", "<script>alert(1)</script>", "plain: not recognised"),
    ],
)
async def test_a_refusal_is_kept_with_its_reason_the_name_as_typed_and_no_password(
    kept: Site, caplog: pytest.LogCaptureFixture, *, name: str, password: str, user: str, words: str
) -> None:
    root = await kept.signed_in("root")
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        browser = await try_to(kept, name, password)
    (done,) = await trail(kept, kind="sign-in refused")
    assert (done.user, done.by, done.address, done.words) == (user, "", "127.0.0.1", words)
    (line,) = [json.loads(record.getMessage()) for record in caplog.records if record.name == "batchhub.audit"]
    assert line["user"] == user
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)
    if len(password) > 1:
        assert password not in repr(done)
        assert password not in caplog.text
    assert words.partition(": ")[2] not in browser.text, "a stranger is not told why"
    await written(kept)
    await root.get(PAGE)
    root.has(user, words, "a stranger")
    assert "<script>alert" not in root.text
    assert "\u202e" not in root.text


async def test_who_is_not_allowed_is_kept_by_the_hubs_name_for_them() -> None:
    site = open_site(more={"strict": Plain(allowed_users={"ann"}, username_prefix="x-")}, without=("plain",))
    browser = site.browser()
    await browser.get("/hub/login")
    await browser.post("/hub/login", username="Bob", password="boB")
    site.server.stop()
    (done,) = site.audit.deeds
    assert (done.user, done.words) == ("x-bob", "strict: not allowed")


async def test_too_many_attempts_are_kept_too(kept: Site) -> None:
    browser = kept.browser()
    await browser.get("/hub/login")
    for _ in range(11):
        answer = await browser.post("/hub/login", username="ann", password="x")
    assert answer.code == 429
    assert [done.words for done in await trail(kept)][-1] == "plain: too many attempts; the next is heard in 15 s"


async def test_an_answer_that_no_browser_asked_for_is_kept(kept: Site) -> None:
    await kept.browser().get("/hub/oauth_callback?state=made-up&code=c")
    (done,) = await trail(kept)
    assert (done.kind, done.user, done.words) == (
        "sign-in refused",
        "",
        "an answer that this browser did not ask for, or too late",
    )


class Away(Plain):
    async def authenticate(self, handler, data):
        raise Unreachable("Nobody could be asked.")


async def test_who_could_not_be_asked_about_was_not_refused() -> None:
    site = open_site(more={"away": Away(allow_all=True)}, without=("plain",))
    await try_to(site, "ann", "nna", 503)
    site.server.stop()
    assert site.audit.deeds == []


async def test_a_day_of_a_person_and_an_admin(kept: Site) -> None:
    ann, root = await kept.signed_in("ann"), await kept.signed_in("root")
    await ann.get("/hub/token")
    await ann.post("/hub/token", note="a\u202escript", days="30")
    assert ann.text.count("fresh-token") == 0, "that is no note"
    await ann.post("/hub/token", note="a script", days="30")
    await ann.post("/hub/token", revoke="1")
    assert (await ann.get("/hub/access?next=/user/bob/lab")).code == 403
    kept.hub.put("ann", phase=Phase.READY)
    kept.hub.put("root", phase=Phase.READY)
    await root.get("/hub/admin")
    await root.post("/hub/stop/ann")
    await root.post("/hub/stop/root")
    headers = {"X-XSRFToken": root.xsrf, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
    await root.ask("POST", "/hub/api/users/ann/server/extend", body='{"walltime": "3h"}', headers=headers)
    await root.ask("DELETE", "/hub/api/users/ann/server", headers=headers)
    await ann.get("/hub/home")
    await ann.post("/hub/logout")
    said = [f"{done.by}: {done.kind} {done.user}: {done.words}" for done in await trail(kept)]
    assert [line for line in said if ": sign-" not in line] == [
        "hub: admin given root: as plain said at the sign-in",
        "ann: token made ann: for 'a script', valid 30 days",
        "ann: token revoked ann: token 1",
        "ann: entry refused ann: /user/bob/lab",
        "root: server stopped for ann: server (default)",
        "root: server extended for ann: server (default): 3:00:00 in all",
        "root: server stopped for ann: server (default)",
    ]
    assert said[-1].startswith("ann: sign-out ann: session ")
    everything = " ".join(said)
    assert "bh_" not in everything
    for session in await kept.store.sessions_of("root"):
        assert session.id not in everything


async def test_rights_that_were_taken_are_kept() -> None:
    site = open_site(more={"plain": Plain(allow_all=True)})
    await site.signed_in("ann")
    site.store.people["ann"].admin = True

    class Says(Plain):
        async def authenticate(self, handler, data):
            return {"name": data["username"], "admin": False}

    await site.signed_in("ann")
    assert "admin taken" not in {done.kind for done in site.audit.deeds}, "None leaves it as it is"
    site.server.stop()
    other = open_site(more={"says": Says(allow_all=True)}, without=("plain",))
    await other.store.get_or_create_user("ann", True)
    await other.signed_in("ann")
    other.server.stop()
    listed = open_site(more={"plain": Plain(allow_all=True, admin_users={"root"})})
    await listed.store.get_or_create_user("ann", True)
    await listed.signed_in("ann")
    listed.server.stop()
    for one in (other, listed):
        assert [(done.kind, done.by) for done in one.audit.deeds][-1] == ("admin taken", "hub")


async def test_the_page_filters_and_turns_pages(kept: Site) -> None:
    root = await kept.signed_in("root")
    for number in range(150):
        kept.audit.note(DeedKind.STOPPED_FOR, f"u{number}", by="root", words=f"number {number:03}")
    await written(kept)
    await root.get(f"{PAGE}?kind=server+stopped+for")
    root.has("number 149", "number 050", 'value="server stopped for" selected')
    assert "number 049" not in root.text
    older = root.text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    await root.get(older)
    root.has("number 049", "number 000")
    assert 'rel="next"' not in root.text
    assert "number 050" not in root.text
    await root.get(f"{PAGE}?user=u7")
    root.has("number 007")
    assert "number 008" not in root.text
    for odd in ("user=%00", "kind=%27", "before=-1", "before=" + "9" * 18, "before=%C2%B2", "user=" + "x" * 5000):
        assert (await root.get(f"{PAGE}?{odd}")).code == 200


async def test_it_is_for_admins(kept: Site) -> None:
    ann = await kept.signed_in("ann")
    assert (await ann.get(PAGE)).code == 403
    assert (await kept.browser().get(PAGE)).headers["Location"] == "/hub/login?next=%2Fhub%2Fadmin%2Faudit"
