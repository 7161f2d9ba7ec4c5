"""The way into a server at its own host: who is let in by the hub's form, and all who are not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from batchhub.core.hosts import ENTER, read_origin
from batchhub.core.tickets import ENTRY_LIFE, Entry, Ticket, door_of, sign, sign_entry, verify
from batchhub.proxy.access import Refuse, Tickets
from batchhub.proxy.book import EndSession
from batchhub.proxy.counters import key
from batchhub.proxy.doorway import Entered, enter, knock
from tests.proxy.harness import HOUR, KEY, NOW, TICKET, App, World, parse, running, world

ORIGIN = read_origin("https://hub.test:8443")
HOST = "alice.hub.test:8443"
SECRET = "s" * 43
TICKET_AT_HOST = replace(TICKET, host="alice.hub.test")
ENTRY = Entry(TICKET_AT_HOST, door_of(SECRET), NOW + ENTRY_LIFE)
AFTER = "/user/alice/lab?x=1"


def form(entry: Entry = ENTRY, after: str = AFTER, key: bytes = KEY) -> bytes:
    return urlencode({"entry": sign_entry(key, entry), "next": after}).encode()


def come(body: bytes, host: str = HOST, door: str = SECRET, now: datetime = NOW, revoked: Any = ()) -> Entered | Refuse:
    return enter(body, host, door, now, tickets=Tickets([b"n" * 32, KEY]), revoked=revoked, secure=True)


def test_the_hubs_form_brings_a_ticket_for_this_host() -> None:
    got = come(form())
    assert isinstance(got, Entered)
    assert got.location == AFTER
    name, _, rest = got.cookie.partition("=")
    text, *marks = rest.split("; ")
    assert (name, marks) == (
        "batchhub-access",
        ["Path=/user/alice/", "Max-Age=3600", "HttpOnly", "SameSite=Lax", "Secure"],
    )
    assert verify([b"n" * 32], text, NOW) == TICKET_AT_HOST


REFUSED = {
    "the entry was given to another browser": (form(), {"door": "t" * 43}),
    "the browser keeps no cookies": (form(), {"door": ""}),
    "at another server's host": (form(), {"host": "bob.hub.test:8443"}),
    "at the hub's host": (form(), {"host": "hub.test:8443"}),
    "for a ticket without a host": (form(replace(ENTRY, ticket=TICKET)), {}),
    "a minute later": (form(), {"now": NOW + ENTRY_LIFE}),
    "the session ended": (form(), {"revoked": {"s1"}}),
    "signed by somebody else": (form(key=b"o" * 32), {}),
    "a ticket for an entry": (urlencode({"entry": sign(KEY, TICKET_AT_HOST), "next": AFTER}).encode(), {}),
    "nothing": (b"", {}),
    "nonsense": (b"\xff=%zz&&&", {}),
    "no entry": (b"next=%2F", {}),
    "no address": (urlencode({"entry": sign_entry(KEY, ENTRY)}).encode(), {}),
    "too many fields": (form() + b"&a=1&b=1&c=1", {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_who_is_not_let_in(why: str) -> None:
    body, changes = REFUSED[why]
    got = come(body, **changes)  # type: ignore[arg-type]
    assert isinstance(got, Refuse)
    assert got.status in {400, 403}


@pytest.mark.parametrize(
    "after",
    [
        "https://evil.test/user/alice/",
        "//evil.test/user/alice/",
        "/\\evil.test",
        "/user/alice/../../evil",
        "/user/bob/",
        "/user/alice%2f..%2fbob/",
        "/user/alicia/",
        "/hub/home",
        "/user/alice/x\r\nSet-Cookie: a=b",
        "/user/alice/x?a=b\r\nX: y",
        "/user/alice/x?\u00e9",
        "/user/alice/#x",
        "",
    ],
)
def test_the_form_leads_into_the_server_alone(after: str) -> None:
    assert isinstance(come(form(after=after)), Refuse)


@pytest.mark.parametrize(
    ("after", "location"),
    [("/user/alice", "/user/alice"), ("/user/alice/./a%20b//c?x=/y", "/user/alice/a%20b/c?x=/y"), ("/user/alice/?", "/user/alice/?")],
)  # fmt: skip
def test_its_address_is_made_canonical(after: str, location: str) -> None:
    got = come(form(after=after))
    assert isinstance(got, Entered)
    assert got.location == location


def test_a_door_is_kept_for_a_browsers_other_tabs_and_made_anew_if_it_is_none() -> None:
    url, cookie = knock("https://hub.test/hub/access?next=x", SECRET, secure=True)
    assert url == f"https://hub.test/hub/access?next=x&door={door_of(SECRET)}"
    assert cookie == f"__Host-batchhub-door={SECRET}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"
    made = {knock("u?", known, secure=False) for known in ("", "x", SECRET + "x", "<" * 43)}
    assert len(made) == 4
    for url, cookie in made:
        name, _, rest = cookie.partition("=")
        assert name == "batchhub-door"
        assert url == f"u?&door={door_of(rest.partition(';')[0])}"
        assert "Secure" not in cookie


# ---------------------------------------------------------------- through the proxy


@asynccontextmanager
async def hosts(tmp_path: Path, **changes: Any) -> AsyncIterator[tuple[World, App, App]]:
    """A proxy with Alice's server at its host, and a hub behind it."""
    async with (
        running(App()) as app,
        running(App()) as hub,
        world(tmp_path, origin=ORIGIN, secure_cookies=True, **changes) as w,
    ):
        w.route("/", hub.port)
        w.route("/user/alice", app.port, owner="alice", authorization="token s", host="alice.hub.test")
        yield w, app, hub


async def ask(
    w: World, path: str, *lines: str, host: str = HOST, method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    extra = "".join(f"{line}\r\n" for line in lines)
    if body:
        extra += f"Content-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\r\n"
    return parse(await w.raw(head.encode() + body))


NAVIGATE = "Sec-Fetch-Mode: navigate"
FORM = ("Content-Type: application/x-www-form-urlencoded", f"Origin: {ORIGIN.text}", "Sec-Fetch-Site: same-site")


def door_cookie(secret: str = SECRET) -> str:
    return f"Cookie: __Host-batchhub-door={secret}"


async def test_from_the_door_to_the_hub_and_in(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, app, hub):
        status, headers, _ = await ask(w, AFTER, NAVIGATE)
        assert status == 302
        sent = urlsplit(headers["location"])
        assert (sent.scheme, sent.netloc, sent.path) == ("https", "hub.test:8443", "/hub/access")
        query = {name: value[0] for name, value in parse_qs(sent.query).items()}
        secret = headers["set-cookie"].partition("=")[2].partition(";")[0]
        assert query == {"next": AFTER, "at": "/user/alice/", "door": door_of(secret)}
        assert "no-store" in headers["cache-control"]

        body = form(replace(ENTRY, door=query["door"]))
        status, headers, _ = await ask(w, ENTER, *FORM, door_cookie(secret), NAVIGATE, method="POST", body=body)
        assert (status, headers["location"]) == (303, AFTER)
        cookie = headers["set-cookie"].partition(";")[0]
        assert not app.requests
        assert not hub.requests

        status, _, _ = await ask(w, AFTER, f"Cookie: {cookie}; __Host-batchhub-door={secret}; own=1")
        assert (status, app.requests[0].target) == (200, AFTER)
        assert app.requests[0].header("cookie") == "own=1", "neither the ticket nor the door reaches the application"
        counts = w.proxy.plane.report().counts
        assert {name: number for name, number in counts.items() if "access" in name} == {
            key("access", "sent for an entry"): 1,
            key("access", "entered"): 1,
            key("access", "allowed"): 1,
        }


@pytest.mark.parametrize(
    "lines",
    [
        (FORM[0],),
        (FORM[0], "Origin: null"),
        (FORM[0], "Origin: https://alice.hub.test:8443"),
        (FORM[0], "Origin: https://bob.hub.test:8443"),
        (FORM[0], "Origin: https://evil.test"),
        (FORM[0], "Origin: http://hub.test:8443"),
        (FORM[0], "Origin: https://hub.test"),
        FORM[1:],
        ("Content-Type: multipart/form-data", *FORM[1:]),
        ("Content-Type: text/plain", *FORM[1:]),
    ],
)
async def test_only_the_hubs_own_form_is_read(tmp_path: Path, lines: tuple[str, ...]) -> None:
    async with hosts(tmp_path) as (w, _, _):
        status, headers, _ = await ask(w, ENTER, *lines, door_cookie(), method="POST", body=form())
        assert status in {400, 403}
        assert "set-cookie" not in headers


async def test_other_ways_to_the_door(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, app, hub):
        assert (await ask(w, ENTER, NAVIGATE))[1]["location"] == "https://hub.test:8443/hub/home"
        assert (await ask(w, ENTER))[0] == 400
        assert (await ask(w, ENTER, *FORM, method="PUT", body=form()))[0] == 400
        assert (await ask(w, ENTER, *FORM, method="POST"))[0] == 400
        assert (await ask(w, ENTER, *FORM, door_cookie(), method="POST", body=form() + b"&x=" + b"y" * 20000))[0] == 400
        assert (await ask(w, ENTER, *FORM, door_cookie(), host="hub.test", method="POST", body=form()))[0] == 404
        chunked = f"POST {ENTER} HTTP/1.1\r\nHost: {HOST}\r\n{FORM[0]}\r\n{FORM[1]}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
        assert parse(await w.raw(chunked.encode()))[0] == 400
        assert not app.requests
        assert not hub.requests


async def test_a_proxy_without_hosts_has_no_door(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert (await ask(w, ENTER, *FORM, method="POST", body=form()))[0] == 404


async def test_a_form_in_pieces_keeps_the_connection(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, _, _):
        reader, writer = await w.connect()
        body = form()
        head = "\r\n".join(
            (f"POST {ENTER} HTTP/1.1", f"Host: {HOST}", *FORM, door_cookie(), f"Content-Length: {len(body)}", "\r\n")
        )
        for piece in (head.encode(), body[:50], body[50:]):
            writer.write(piece)
            await writer.drain()
            for _ in range(20):
                await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert answer.startswith(b"HTTP/1.1 303 ")
        assert b"Connection: close" not in answer
        writer.write(f"GET /_chp_healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_who_leaves_before_the_form_is_whole_is_forgotten(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, _, _):
        reader, writer = await w.connect()
        head = "\r\n".join((f"POST {ENTER} HTTP/1.1", f"Host: {HOST}", *FORM, "Content-Length: 900", "\r\n"))
        writer.write(head.encode() + b"entry=")
        await writer.drain()
        writer.close()
        assert await reader.read() == b""
        async with asyncio.timeout(60):
            while w.proxy.context.clients:
                await asyncio.sleep(0)


async def test_each_thing_at_its_host_alone(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, app, hub):
        ticket = f"Cookie: batchhub-access={sign(KEY, TICKET_AT_HOST)}"
        for host in ("hub.test:8443", "bob.hub.test:8443", "127.0.0.1:80"):
            status, headers, _ = await ask(w, AFTER, ticket, NAVIGATE, host=host)
            assert (status, headers["location"]) == (302, f"https://{HOST}{AFTER}")
            assert (await ask(w, "/user/alice/api", ticket, host=host))[0] == 403
        assert not app.requests
        for path in ("/hub/home", "/", "/user/bob/"):
            status, headers, _ = await ask(w, path, ticket, NAVIGATE)
            assert (status, headers["location"]) == (302, f"https://hub.test:8443{path}")
        status, headers, _ = await ask(w, "/hub/api/user", ticket, "Origin: https://alice.hub.test:8443")
        assert status == 404
        assert not any(name.startswith("access-control") for name in headers)
        assert not hub.requests
        assert (await ask(w, "/hub/home", host="hub.test:8443"))[0] == 200
        assert (await ask(w, "/user/alice/x", ticket))[0] == 200


async def test_behind_a_front_end_its_word_on_the_host_counts_if_it_is_trusted(tmp_path: Path) -> None:
    ticket = f"Cookie: batchhub-access={sign(KEY, TICKET_AT_HOST)}"
    told = (ticket, f"X-Forwarded-Host: {HOST}")
    async with hosts(tmp_path, trusted_proxies=("127.0.0.1",)) as (w, _, _):
        assert (await ask(w, "/user/alice/x", *told, host="inner:8000"))[0] == 200
    (tmp_path / "state.json").unlink()
    async with hosts(tmp_path) as (w, _, _):
        assert (await ask(w, "/user/alice/x", *told, host="inner:8000"))[0] == 403


async def test_the_end_of_the_session_ends_it_at_every_host(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, _, _):
        ticket = f"Cookie: batchhub-access={sign(KEY, TICKET_AT_HOST)}"
        assert (await ask(w, "/user/alice/x", ticket))[0] == 200
        await w.proxy.change(EndSession("s1", NOW + HOUR))
        assert (await ask(w, "/user/alice/x", ticket))[0] == 403
        assert (await ask(w, ENTER, *FORM, door_cookie(), method="POST", body=form()))[0] == 403


async def test_renewed_tickets_stay_with_the_host(tmp_path: Path) -> None:
    async with hosts(tmp_path) as (w, _, _):
        w.clock.now += timedelta(minutes=30)
        cookie = (await ask(w, "/user/alice/x", f"Cookie: batchhub-access={sign(KEY, TICKET_AT_HOST)}"))[1][
            "set-cookie"
        ]
        fresh: Ticket = verify([KEY], cookie.partition("=")[2].partition(";")[0], w.clock.now)
        assert fresh.host == "alice.hub.test"
