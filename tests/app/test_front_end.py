"""A front end names the person in a header: the real proxy before the real pages, and strangers who send the same header."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchhub.auth.base import Place
from batchhub.auth.header import HeaderAuthenticator
from batchhub.core.errors import ConfigError
from batchhub.core.vouching import ADDRESS, HEADER, LIFE, vouch, vouched
from batchhub.web.base import SESSION_COOKIE
from tests.proxy.harness import KEY, App, World, running, settings, ticket_cookie, world
from tests.web.fakes import Site, open_site

NAMES = ("Remote-User", "Remote-Groups")
HERE = ("127.0.0.1",)


def place(**changes: Any) -> Place:
    given = {"front_ends": HERE, "identity_headers": frozenset(name.lower() for name in NAMES), **changes}
    return Place("0.0.0.0", KEY, given.pop("clock", lambda: None), **given)


@asynccontextmanager
async def both(tmp_path: Path, *, trusted: tuple[str, ...] = HERE, **changes: Any) -> AsyncIterator[tuple[World, Site]]:
    traits = {"allow_all": True, **changes.pop("traits", {})}
    front = HeaderAuthenticator(groups_header="Remote-Groups", **traits)
    site = open_site(more={"front": front}, without=("plain", "link"))
    chosen = {"identity_headers": NAMES, **changes}
    async with world(tmp_path, trusted_proxies=trusted, **chosen) as w:
        front.settle(place(clock=w.clock))
        site.clock.now = w.clock()
        w.route("/", site.port)
        try:
            yield w, site
        finally:
            site.server.stop()
            await site.server.close_all_connections()


async def who(w: World, *lines: str) -> str:
    """Whose session begins when a request with these lines comes to the sign-in page; the status, if nobody's does."""
    more = "".join(f"{line}\r\n" for line in lines)
    asked = f"GET /hub/login HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n{more}\r\n"
    answer = (await w.raw(asked.encode("latin-1"))).decode()
    session = re.search(rf"{SESSION_COOKIE}=[^;]+", answer)
    if session is None:
        return answer.split()[1]
    _, _, body = await w.get("/hub/api/user", f"Cookie: {session[0]}")
    return json.loads(body)["name"]


async def test_the_front_ends_word_is_believed(tmp_path: Path) -> None:
    async with both(tmp_path) as (w, _):
        assert await who(w, "Remote-User: Ann") == "ann"
        assert await who(w, "Remote-User: bob", "Remote-User-Not: root") == "bob"


async def test_a_session_ends_when_the_front_end_names_somebody_else(tmp_path: Path) -> None:
    """Ann has signed out at the front end, and Bob in, at the same computer: JupyterHub's pages went on being Ann's."""

    async def page(w: World, path: str, cookie: str, *lines: str) -> tuple[str, str, str]:
        more = "".join(f"{line}\r\n" for line in (f"Cookie: {cookie}", *lines))
        asked = f"GET {path} HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n{more}\r\n"
        answer = (await w.raw(asked.encode("latin-1"))).decode()
        leads, begun = re.search(r"(?i)location: (\S+)", answer), re.search(rf"{SESSION_COOKIE}=[^;]+", answer)
        return answer.split()[1], leads[1] if leads else "", begun[0] if begun else cookie

    async with both(tmp_path) as (w, site):
        _, _, anns = await page(w, "/hub/login", "", "Remote-User: Ann")
        assert (await page(w, "/hub/home", anns, "Remote-User: ann"))[0] == "200"
        assert (await page(w, "/hub/home", anns))[0] == "200", "where the front end names nobody, nothing is said"
        status, leads, _ = await page(w, "/hub/home", anns, "Remote-User: bob")
        assert (status, leads.partition("?")[0]) == ("302", "/hub/login")
        status, leads, bobs = await page(w, leads, anns, "Remote-User: bob")
        assert (status, leads, bobs != anns) == ("303", "/hub/home", True)
        assert (await page(w, "/hub/home", anns))[0] == "302", "hers has ended, and the proxy is told"
        assert len(site.revoked) == 1
        assert json.loads((await w.get("/hub/api/user", f"Cookie: {bobs}"))[2])["name"] == "bob"
        assert await who(w, f"Cookie: {bobs}", "Remote-User: ../x") == "403", "and no circle"


ATTACKS = [
    ["Remote-User: root"],
    ["REMOTE-USER: root"],
    ["Remote_User: root"],
    ["remote-user: root", "Remote_User: root"],
    ["X-Forwarded-For: 127.0.0.1", "Remote-User: root"],
    ["Connection: x-forwarded-for", "Remote-User: root"],
    [f"{HEADER}: e30=.0000", "Remote-User: root"],
]


@pytest.mark.parametrize("lines", ATTACKS)
async def test_a_stranger_is_nobody(tmp_path: Path, lines: list[str]) -> None:
    async with both(tmp_path, trusted=("10.1.2.3",)) as (w, _):
        assert await who(w, *lines) == "403"


@pytest.mark.parametrize(
    "lines",
    [
        ["Remote-User: ann", "Remote-User: root"],
        ["Remote-User: root", "remote-user: ann"],
        ["Remote_User: root"],
        ["Remote-User:"],
        ["Remote-User: (null)"],
        ["Remote-User: ann, root"],
        ["Remote-User: ../root"],
        ["Remote-User: -root"],
        ["Remote-User: \xff\xfe"],
        ["Remote-User: an\xc2\x85n"],
        [f"{HEADER}: e30=.0000"],
    ],
)
async def test_what_a_front_end_let_through_is_not_believed(tmp_path: Path, lines: list[str]) -> None:
    async with both(tmp_path) as (w, _):
        assert await who(w, *lines) == "403"


@pytest.mark.parametrize("value", ["ro\0ot", "ro\rot", "ro\x7fot", "ro\x01ot"])
async def test_control_characters(tmp_path: Path, value: str) -> None:
    async with both(tmp_path) as (w, _):
        assert await who(w, f"Remote-User: {value}") in {"400", "403"}


async def test_beside_the_right_one_a_lookalike_is_nothing(tmp_path: Path) -> None:
    async with both(tmp_path) as (w, _):
        assert await who(w, "Remote-User: ann", "Remote_User: root") == "ann"


async def test_straight_to_the_hubs_own_port(tmp_path: Path) -> None:
    """Any account of the hub's machine can do this."""
    async with both(tmp_path) as (w, site):
        browser = site.browser()
        assert (await browser.get("hub/login", Remote_User="root")).code == 403
        mine = vouch(b"m" * 32, {"remote-user": "root"}, w.clock())
        old = vouch(KEY, {"remote-user": "root"}, w.clock() - 2 * LIFE)
        for sealed in ("", "x", ".", mine, old, old[:-1] + "\u00e9"):
            answer = await browser.ask("GET", "hub/login", headers={HEADER: sealed})
            assert answer.code == 403, sealed


async def test_a_proxy_that_was_not_told_the_header_lets_nobody_in(tmp_path: Path) -> None:
    """The proxy outlives the hub: it may have been started with an earlier configuration."""
    async with both(tmp_path, identity_headers=()) as (w, _):
        assert await who(w, "Remote-User: root") == "403"


async def test_no_application_gets_the_headers_or_the_seal(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, trusted_proxies=HERE, identity_headers=NAMES) as w:
        w.route("/user/alice/", app.port, owner="alice")
        w.route("/services/x/", app.port)
        lines = ("Remote-User: ann", "Remote_Groups: g", f"{HEADER}: x", f"{HEADER.replace('-', '_')}: x", "X-Kept: 1")
        await w.get("/user/alice/x", ticket_cookie(), *lines)
        await w.get("/services/x/", *lines)
        for request in app.requests:
            assert not [name for name in request.headers if "remote" in name or "vouched" in name]
            assert request.header("x-kept") == "1"


async def test_a_kept_connection_is_sealed_anew(tmp_path: Path) -> None:
    """The proxy remembers what a connection's last request became; not its seal."""
    async with running(App()) as app, world(tmp_path, trusted_proxies=HERE, identity_headers=NAMES) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        for _ in range(3):
            writer.write(b"GET /hub/login HTTP/1.1\r\nHost: a\r\nRemote-User: ann\r\n\r\n")
            await reader.readuntil(b"\r\n\r\nok")
            assert vouched(KEY, app.requests[-1].header(HEADER) or "", w.clock()) == {
                "remote-user": "ann",
                ADDRESS: "127.0.0.1",
            }
            w.clock.now += LIFE
        writer.close()


async def test_groups_let_in_and_make_admins(tmp_path: Path) -> None:
    traits = {"allow_all": False, "allowed_groups": {"hpc"}, "admin_groups": {"hpc-admins"}}
    async with both(tmp_path, traits=traits) as (w, site):
        assert await who(w, "Remote-User: ann") == "403"
        assert await who(w, "Remote-User: ann", "Remote-Groups: all;hpc") == "ann"
        assert await who(w, "Remote-User: bob", "Remote-Groups: hpc-admins") == "bob"
        assert [(await site.store.user(name)).admin for name in ("ann", "bob")] == [False, True]


async def test_many_people_from_one_place_are_not_one_account_that_is_guessed_at(tmp_path: Path) -> None:
    async with both(tmp_path) as (w, _):
        for _ in range(12):
            assert await who(w) == "403"
        assert await who(w, "Remote-User: ann") == "ann"


@pytest.mark.parametrize("change", [{"front_ends": ()}, {"identity_headers": frozenset()}])
def test_a_configuration_that_would_believe_anybody_or_nobody_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"c\.Proxy"):
        HeaderAuthenticator().settle(place(**change))


@pytest.mark.parametrize("name", ["Cookie", "host", "X-Forwarded-For", "a b", "a_b", ""])
def test_headers_that_cannot_say_who_asks(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="identity_headers"):
        settings(tmp_path, identity_headers=(name,)).check()


def test_this_machine_as_a_front_end_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    HeaderAuthenticator().settle(place(front_ends=("10.0.0.1",)))
    assert not caplog.text
    HeaderAuthenticator().settle(place(front_ends=("::1",)))
    assert "everybody who can run a program here" in caplog.text


@pytest.mark.parametrize("scheme", ["Basic YW5uOm5uYQ==", "Negotiate YII=", "Digest username=ann"])
async def test_what_the_front_end_asked_the_browser_for_keeps_no_page_from_its_api(tmp_path: Path, scheme: str) -> None:
    """nginx passes on what its ``auth_basic`` asked for, with every request: it is no token of ours, nor a way round the XSRF token."""
    async with both(tmp_path) as (w, site):
        browser = site.browser()
        sealed = {HEADER: vouch(KEY, {"remote-user": "ann"}, w.clock()), "Authorization": scheme}
        assert (await browser.ask("GET", "/hub/login", headers=sealed)).code == 303
        await browser.ask("GET", "/hub/home", headers=sealed)
        script = {**sealed, "Sec-Fetch-Mode": "cors", "Accept": "*/*"}
        assert (await browser.ask("GET", "/hub/api/user", headers=script)).code == 403
        assert (await browser.ask("GET", "/hub/api/user", headers={**script, "X-XSRFToken": browser.xsrf})).code == 200
        assert (await browser.ask("GET", "/hub/api/user", headers={**script, "Authorization": "token x"})).code == 403
        assert (await browser.ask("GET", "/user/ann/lab", headers=sealed)).code == 302, (
            "the page about a stopped server"
        )


# ---------------------------------------------------------------- where people are, whoever they are


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 127.0.0.1", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ("203.0.113.9, unknown", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("x" * 9000, "127.0.0.1"),
    ],
)
async def test_people_behind_a_front_end_have_an_address_each(tmp_path: Path, said: str, address: str) -> None:
    """Else all of a site would share one allowance of attempts, and the trail would name the front end alone."""
    async with both(tmp_path) as (w, site):
        assert await who(w, f"X-Forwarded-For: {said}", "X-Real-IP: 192.0.2.66") == "403"
        assert site.audit.deeds[-1].address == address


async def test_a_guesser_behind_a_front_end_keeps_nobody_else_out(tmp_path: Path) -> None:
    async with both(tmp_path) as (w, _):
        answers = [await who(w, "X-Forwarded-For: 203.0.113.9") for _ in range(61)]
        assert answers == ["403"] * 60 + ["429"]
        assert await who(w, "X-Forwarded-For: 203.0.113.10", "Remote-User: ann") == "ann"


async def test_a_stranger_has_the_address_it_comes_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with both(tmp_path, trusted=("10.1.2.3",)) as (w, site):
        for lines in (["X-Forwarded-For: 203.0.113.9"], ["X-Real-IP: 203.0.113.9"], ["Forwarded: for=203.0.113.9"]):
            assert await who(w, *lines) == "403"
            assert site.audit.deeds[-1].address == "127.0.0.1"
        sealed = vouch(KEY, {ADDRESS: "203.0.113.9"}, w.clock() - 2 * LIFE)
        for headers in ({"X-Forwarded-For": "203.0.113.9"}, {"X-Real-IP": "203.0.113.9"}, {HEADER: sealed}):
            assert (await site.browser().ask("GET", "/hub/login", headers=headers)).code == 403
            assert site.audit.deeds[-1].address == "127.0.0.1", "straight to the hub's own port"
        assert caplog.text.count("not under this proxy's seal") == 1, "who looks for a reason finds it"
