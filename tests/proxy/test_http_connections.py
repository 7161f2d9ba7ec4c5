"""Connections: which are kept, which end, in what order answers come, and who is given up for being slow."""

import asyncio
from pathlib import Path

import pytest

from batchhub.proxy.book import EndSession
from batchhub.proxy.downstream import Phase
from batchhub.proxy.settings import Limits
from tests.proxy.harness import (
    HOUR,
    NOW,
    App,
    World,
    parse,
    read_request,
    running,
    statuses,
    ticket_cookie,
    until,
    world,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASK = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


# ---------------------------------------------------------------- pipelining


async def test_a_slow_first_answer_comes_first_and_no_request_is_sent_before_it(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            app.requests.append(request)
            if request.target == "/slow":
                await go.wait()
            body = request.target.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    app = App(serve=serve)
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(ASK % b"slow" + ASK % b"b" + LAST % b"c")
        await until(lambda: bool(app.requests))
        for _ in range(5):
            await asyncio.sleep(0)
        assert [request.target for request in app.requests] == ["/slow"]
        go.set()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert [part.rpartition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"/slow", b"/b", b"/c"]


async def test_pipelined_requests_with_bodies_keep_theirs(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET"
        chunked = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nHEA\r\n0\r\n\r\n"
        empty = b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        answer = await w.raw(post + chunked + b"\r\n" + empty + ASK % b"d" + post + LAST % b"e")
        assert statuses(answer) == [200] * 6
        assert [(request.line[:7], request.body) for request in app.requests] == [
            ("POST /a", b"GET"),
            ("POST /b", b"HEA"),
            ("POST /c", b""),
            ("GET /d ", b""),
            ("POST /a", b"GET"),
            ("GET /e ", b""),
        ]


async def test_an_error_of_the_application_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await read_request(reader)).target != "/bad":
            writer.write(OK)
        writer.write(b"nonsense\r\n\r\n")

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        assert statuses(await w.raw(ASK % b"a" + ASK % b"bad" + LAST % b"c")) == [200, 502, 200]


async def test_an_error_of_the_client_in_the_middle_ends_all_that_comes_after(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, limits=Limits(linger=0.05, tick=0.02)) as w:
        w.route("/", app.port)
        bad = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"
        assert statuses(await w.raw(ASK % b"a" + bad + LAST % b"c")) == [200, 400]
        assert [request.target for request in app.requests] == ["/a"]


# ---------------------------------------------------------------- keep-alive and close


@pytest.mark.parametrize(
    ("version", "line", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive\r\n", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.1", "Connection: X, Close\r\n", False),
        ("1.1", "Connection: keep-alive\r\nConnection: CLOSE\r\n", False),
        ("1.1", "Connection: , ,\r\n", True),
        ("1.1", "Proxy-Connection: close\r\n", True),
        ("1.0", "", False),
        # RFC 9112 section 9.3: a proxy keeps no connection with an HTTP/1.0 client.
        ("1.0", "Connection: keep-alive\r\n", False),
    ],
)
@pytest.mark.parametrize("path", ["/a", "/none"])
async def test_the_clients_connection(tmp_path: Path, version: str, line: str, kept: bool, path: str) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/a", app.port)
        reader, writer = await w.connect()
        request = f"GET {path} HTTP/{version}\r\nHost: x\r\n{line}\r\n".encode()
        writer.write(request + (LAST % b"a" if kept else ASK % b"a"))
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        code = 200 if path == "/a" else 404
        assert statuses(answer) == ([code, 200] if kept else [code])
        assert (b"\r\nConnection: close" in answer.partition(b"\r\n\r\n")[0]) is not kept


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (OK, True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nConnection: a, close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False),
        (OK + b"more", False),
    ],
)
async def test_the_applications_connection(tmp_path: Path, answer: bytes, kept: bool) -> None:
    async with running(App(answer=answer)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for _ in range(3):
            status, headers, body = await w.get("/")
            assert (status, body.replace(b"2\r\nok\r\n0\r\n\r\n", b"ok")) == (200, b"ok")
            assert headers["connection"] == "close", "the client's own, not the application's"
        assert app.connections == (1 if kept else 3)


async def test_an_idle_connection_that_the_application_closed_is_not_used(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for _ in range(3):
            assert (await w.get("/"))[0] == 200
            await until(lambda: not len(w.proxy.context.pool))
        assert app.connections == 3


async def test_what_an_application_says_unasked_ends_its_idle_connection(tmp_path: Path) -> None:
    say = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await say.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await reader.read()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        assert (await w.get("/"))[2] == b"ok"
        assert len(w.proxy.context.pool) == 1
        say.set()
        await until(lambda: not len(w.proxy.context.pool))
        assert (await w.get("/"))[2] == b"ok"
        assert app.connections == 2


@pytest.mark.parametrize(
    ("method", "body", "used", "requests"),
    [
        ("GET", b"", True, 2),  # sent once more, over a new connection
        ("HEAD", b"", True, 2),
        ("OPTIONS", b"", True, 2),
        ("GET", b"abc", False, 1),
        ("POST", b"abc", False, 1),
        ("POST", b"", False, 1),
        ("PUT", b"abc", False, 1),
        ("DELETE", b"", False, 1),
        ("PATCH", b"abc", False, 1),
    ],
)
async def test_only_what_may_be_repeated_is_sent_again(
    tmp_path: Path, method: str, body: bytes, used: bool, requests: int
) -> None:
    """The application answers the first request, and takes the next on any connection only to die on it."""
    app = App()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = app.connections == 1
        while True:
            app.requests.append(await read_request(reader))
            if len(app.requests) > 1:
                writer.transport.abort()
                return
            writer.write(OK)
            if not first:
                return

    app.serve = serve
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        assert (await w.get("/first"))[0] == 200
        assert len(w.proxy.context.pool) == 1
        status, _, _ = await w.get("/x", method=method, body=body)
        assert status == 502
        assert app.connections == 2, "a new connection, at once or after the used one died"
        assert [request.target for request in app.requests] == ["/first"] + ["/x"] * requests


async def test_whose_answer_began_is_not_asked_again(tmp_path: Path) -> None:
    """A connection that was used before brings something, and only then ends or goes wrong."""
    for begun in (b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"garbage\r\n\r\n"):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes = begun) -> None:
            app.requests.append(await read_request(reader))
            writer.write(OK)
            app.requests.append(await read_request(reader))
            writer.write(begun)

        async with running(App(serve=serve)) as app, world(tmp_path) as w:
            w.route("/", app.port)
            assert (await w.get("/a"))[0] == 200
            answer = await w.raw(LAST % b"b")
            assert statuses(answer)[-1] == 502
            assert app.connections == 1


# ---------------------------------------------------------------- bad answers


@pytest.mark.parametrize(
    "bad",
    [
        b"garbage\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent_Length: 2\r\n\r\nab",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nSet-Cookie: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: \x01\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
    ],
)
async def test_a_bad_answer_is_a_502_and_its_connection_is_not_used_again(tmp_path: Path, bad: bytes) -> None:
    app = App()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = app.connections
        while True:
            await read_request(reader)
            writer.write(bad if one == 1 else OK)
            if one == 1 and not bad.endswith(b"\r\n"):
                return

    app.serve = serve
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        status, _, body = parse((await w.raw(LAST % b"")).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
        assert status == 502
        assert b"application" in body
        assert (await w.get("/"))[::2] == (200, b"ok")
        assert app.connections == 2


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_that_breaks_off_is_broken_off(tmp_path: Path, framing: bytes, version: bytes) -> None:
    """Also for a client to whom the end of the connection would be the end of the answer: it gets a reset."""
    seen = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + (b"4\r\nhalf" if b"T" in framing else b"half"))
        await seen.wait()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"half"), 5)
        seen.set()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 9\r\n"])
@pytest.mark.parametrize("why", ["its session ended", "it reads nothing", "the proxy ends"])
async def test_an_answer_that_is_cut_short_looks_so_to_a_client_that_reads_to_the_end(
    tmp_path: Path, framing: bytes, why: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\nhalf")
        await reader.read()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        reader, writer = await w.connect()
        writer.write(f"GET /user/alice/x HTTP/1.0\r\nHost: x\r\n{ticket_cookie()}\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"half"), 5)
        (client,) = w.proxy.context.clients
        if why == "its session ended":
            w.proxy.plane.apply(EndSession("s1", NOW + HOUR))
        elif why == "it reads nothing":
            client.phase = Phase.LINGER  # the answer is in our buffers, and nobody takes it
            client.expire()
        else:
            await w.proxy.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


# ---------------------------------------------------------------- the slow


async def drip(w: World, data: bytes, *, first: bytes = b"") -> bytes:
    """Send byte by byte, for ever, until the proxy has had enough; what it said."""
    reader, writer = await w.connect()
    writer.write(first)
    answer = asyncio.get_running_loop().create_task(reader.read())
    at = 0
    try:
        while not answer.done():
            writer.write(data[at % len(data) :][:1])
            at += 1
            await asyncio.sleep(0.002)
    except ConnectionError:
        pass
    writer.close()
    return await asyncio.wait_for(answer, 5)


SLOW = Limits(head_time=0.1, body_idle=0.1, keep_alive=0.1, linger=0.05, tick=0.01)


async def test_a_head_that_drips_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path, limits=SLOW) as w:
        assert (await drip(w, b"X-A: bcdefghi\r\n", first=b"GET / HTTP/1.1\r\nHost: x\r\n")).startswith(
            b"HTTP/1.1 408 "
        )
        assert (await drip(w, b"a", first=b"GET /")).startswith(b"HTTP/1.1 408 ")
        assert (await drip(w, b"a", first=b"\r\nG")).startswith(b"HTTP/1.1 408 ")
        second = b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"
        assert statuses(await drip(w, b"a", first=second + b"GET /")) == [404, 408], "between two requests as well"


async def test_who_says_nothing_or_an_empty_line_is_let_go_without_a_word(tmp_path: Path) -> None:
    async with world(tmp_path, limits=SLOW) as w:
        for nothing in (b"", b"\r\n"):
            reader, writer = await w.connect()
            writer.write(nothing)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def test_a_body_that_stops_is_408(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, limits=SLOW) as w:
        w.route("/", app.port)
        for framing in (b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"):
            answer = await w.raw(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing)
            assert statuses(answer) == [408]
        assert app.requests == []
