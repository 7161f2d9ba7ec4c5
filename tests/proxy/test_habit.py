"""What is remembered of a connection's last request changes nothing but the time it takes."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest

from batchhub.proxy.book import EndSession, read_route
from batchhub.proxy.gate import facts_of
from batchhub.proxy.habit import Habit
from batchhub.proxy.headers import Peer
from batchhub.proxy.wire import Refused, RequestHead, parse_request
from tests.proxy.harness import NOW, App, running, ticket_cookie, world

PEER = Peer("192.0.2.1", "http", trusted=True)
LINES = [
    b"Host: a\r\n",
    b"Host: a\r\nX-Forwarded-Host: b\r\nCookie: batchhub-access=x\r\n",
    b"Host: a\r\nContent-Length: 3\r\n",
    b"Host: a\r\nConnection: close\r\nOrigin: http://a\r\n",
    b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Host: a\r\nX: %b\r\n" % (b"x" * 5000),
    b"Host: a\r\nHost: b\r\n",
    b"",
]
FIRST = [
    b"GET /x HTTP/1.1",
    b"GET /y?a=b?c HTTP/1.1",
    b"GET /y HTTP/1.0",
    b"POST /x HTTP/1.1",
    b"GET http://b/x HTTP/1.1",
    b"GET /\x80 HTTP/1.1",
    b"GET  /x HTTP/1.1",
    b"GET /x# HTTP/1.1",
    b"GET /x HTTP/1.1 ",
    b"CONNECT /x HTTP/1.1",
    b"G\nT /x HTTP/1.1",
]
HEADS = [b"%b\r\n%b\r\n" % both for both in product(FIRST, LINES)]


def outcome(read: object, head: bytes) -> RequestHead | tuple[int, str]:
    assert callable(read)
    try:
        result = read(head)
        assert isinstance(result, RequestHead)
    except Refused as error:
        return error.code, str(error)
    return result


@pytest.mark.parametrize("first", HEADS[:: len(LINES) + 1] + HEADS[: 2 * len(LINES)])
def test_a_head_after_another_is_read_as_if_it_were_the_first(first: bytes) -> None:
    for second in HEADS:
        habit = Habit()
        outcome(habit.read, first)
        expected, got = outcome(parse_request, second), outcome(habit.read, second)
        assert got == expected
        if isinstance(got, RequestHead):
            for path in ("/p", "/q"):
                assert habit.facts(got, PEER, path) == facts_of(got, PEER, path)


def test_lines_that_came_before_are_not_read_again() -> None:
    habit = Habit()
    one, two = habit.read(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"), habit.read(b"GET /y?z HTTP/1.1\r\nHost: a\r\n\r\n")
    assert two.headers is one.headers
    assert (two.path, two.query) == (b"/y", b"?z")
    route, other = (read_route("/x", {"target": "http://127.0.0.1:1"}, NOW) for _ in range(2))
    assert habit.below(one, route) == b""
    habit.keep(one, route, b"Host: a\r\n\r\n")
    assert habit.below(two, route) == b"Host: a\r\n\r\n"
    assert habit.below(two, other) == b"", "a changed route is a new one"
    three = habit.read(b"GET /x HTTP/1.1\r\nHost: b\r\n\r\n")
    assert habit.below(three, route) == b""
    assert habit.below(two, route) == b"", "not of the last request"
    habit.forget()
    assert habit.read(b"GET /x HTTP/1.1\r\nHost: b\r\n\r\n").headers is not three.headers


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, *lines: str) -> int:
    writer.write("\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *lines, "", "")).encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(size.partition(b":")[2]))
    return int(head.split()[1])


async def test_each_request_of_a_connection_is_decided_and_sent_anew(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization="token one")
        w.route("/open", app.port)
        cookie = ticket_cookie()
        mine = await w.connect()
        assert await ask(*mine, "/user/alice/a", cookie) == 200
        assert await ask(*mine, "/user/alice/b?c", cookie) == 200
        assert await ask(*mine, "/open/a", cookie) == 200
        w.route("/user/alice", app.port, owner="alice", authorization="token two")
        assert await ask(*mine, "/user/alice/a", cookie) == 200
        assert await ask(*mine, "/user/alice/a") == 403
        assert await ask(*mine, "/user/alice/a", cookie, "X-A: b") == 200
        targets = ["/user/alice/a", "/user/alice/b?c", "/open/a", "/user/alice/a", "/user/alice/a"]
        assert [request.target for request in app.requests] == targets
        said = [request.header("authorization") for request in app.requests]
        assert said == ["token one", "token one", None, "token two", "token two"]
        assert [request.header("x-a") for request in app.requests] == [None] * 4 + ["b"]
        assert all(b"batchhub-" not in request.raw for request in app.requests)

        w.clock.now += timedelta(hours=2)
        assert await ask(*mine, "/user/alice/a", cookie) == 403, "the ticket has expired"
        w.clock.now -= timedelta(hours=2)
        assert await ask(*mine, "/user/alice/a", cookie) == 200
        w.route("/user/alice", app.port, owner="bob")
        assert await ask(*mine, "/user/alice/a", cookie) == 403, "it belongs to somebody else now"
        w.route("/user/alice", app.port, owner="alice")
        assert await ask(*mine, "/user/alice/a", cookie) == 200
        await w.proxy.change(EndSession("s1", w.clock() + timedelta(days=1)))
        assert await ask(*mine, "/user/alice/a", cookie) == 403, "the session is over"
        mine[1].close()


def test_facts_do_not_outlive_their_lines() -> None:
    habit = Habit()
    head = habit.read(b"GET /x HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n")
    facts = habit.facts(head, PEER, "/x")
    again = habit.facts(habit.read(b"GET /y?q HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n"), PEER, "/y")
    assert again == replace(facts, target="/y?q")
    assert habit.facts(habit.read(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"), PEER, "/x").origin is None


async def test_a_front_ends_connection_carries_many_people(tmp_path: Path) -> None:
    """Requests of one connection that differ in one line alone, as a front end sends them for different people."""
    async with running(App()) as app, world(tmp_path, trusted_proxies=("127.0.0.1",)) as w:
        for name in ("alice", "bob"):
            w.route(f"/user/{name}", app.port, owner=name, authorization=f"token {name}'s")
        alice = ticket_cookie()
        bob = ticket_cookie(user="bob", path="/user/bob/", session="s2")
        connection = await w.connect()
        for _ in range(2):
            assert await ask(*connection, "/user/alice/", "X-Forwarded-For: 192.0.2.1", alice) == 200
            assert await ask(*connection, "/user/alice/", "X-Forwarded-For: 192.0.2.2", bob) == 403
            assert await ask(*connection, "/user/bob/", "X-Forwarded-For: 192.0.2.2", bob) == 200
            assert await ask(*connection, "/user/bob/", "X-Forwarded-For: 192.0.2.1", alice) == 403
            assert await ask(*connection, "/user/alice/", "X-Forwarded-For: 192.0.2.3", alice) == 200
            assert await ask(*connection, "/user/alice/", "X-Forwarded-For: 192.0.2.3") == 403
        said = [(request.header("x-forwarded-for"), request.header("authorization")) for request in app.requests]
        assert said == 2 * [
            ("192.0.2.1, 127.0.0.1", "token alice's"),
            ("192.0.2.2, 127.0.0.1", "token bob's"),
            ("192.0.2.3, 127.0.0.1", "token alice's"),
        ]
        connection[1].close()
