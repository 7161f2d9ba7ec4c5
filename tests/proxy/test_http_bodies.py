"""Bodies through a running proxy, read at both ends by h11: chunks, trailers, answers without a body, interim and early answers."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import h11
import pytest

from tests.proxy.harness import App, World, parse, read_head, read_request, running, statuses, world

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Answer:
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    rest: bytes = b""


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> Answer:
    """One answer as h11 reads it."""
    them = h11.Connection(h11.CLIENT)
    them.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    them.send(h11.EndOfMessage())
    answer = Answer()
    while True:
        event = them.next_event()
        if event is h11.NEED_DATA:
            them.receive_data(await asyncio.wait_for(reader.read(65536), 5))
        elif isinstance(event, h11.Response):
            answer = Answer(event.status_code, dict(event.headers))
        elif isinstance(event, h11.Data):
            answer.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            answer.trailers, answer.rest = list(event.headers), them.trailing_data[0]
            return answer


async def ask(w: World, *lines: str, method: str = "GET", version: str = "1.1") -> Answer:
    """The answer; ``rest`` is all that came after it until the end of the connection."""
    reader, writer = await w.connect()
    extra = "".join(f"{line}\r\n" for line in lines)
    writer.write(f"{method} / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n{extra}\r\n".encode())
    answer = await read_answer(reader, method)
    answer.rest += await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def answering(*pieces: bytes) -> App:
    """An application that answers each request with these pieces, one by one."""
    app = App()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            app.requests.append(await read_request(reader))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    app.serve = serve
    return app


# ---------------------------------------------------------------- chunks

BODY = bytes(range(256)) * 3
MANY = b"".join(b"1;n=%d\r\n%c\r\n" % (n, byte) for n, byte in enumerate(BODY)) + b"0\r\n\r\n"
ONE = b'00300 ; a="b;c" ;d\r\n' + BODY + b"\r\n000;end\r\n\r\n"


@pytest.mark.parametrize("raw", [MANY, ONE], ids=["many", "one"])
@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_chunks_down_whatever_pieces_they_come_in(tmp_path: Path, raw: bytes, step: int) -> None:
    raw = CHUNKED + raw
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    async with running(answering(*pieces)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await ask(w)
        assert (answer.status, answer.body, answer.rest) == (200, BODY, b"")
        assert answer.headers[b"transfer-encoding"] == b"chunked"


@pytest.mark.parametrize("raw", [MANY, ONE], ids=["many", "one"])
@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_chunks_up_whatever_pieces_they_come_in(tmp_path: Path, raw: bytes, step: int) -> None:
    got: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        them = h11.Connection(h11.SERVER)
        while not got or not isinstance(got[-1], h11.EndOfMessage):
            event = them.next_event()
            if event is h11.NEED_DATA:
                them.receive_data(await reader.read(65536))
            else:
                got.append(event)
        writer.write(OK)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        data = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + raw
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await asyncio.sleep(0)
        assert (await read_answer(reader)).body == b"ok"
        writer.close()
        assert b"".join(event.data for event in got if isinstance(event, h11.Data)) == BODY


@pytest.mark.parametrize(
    "bad", [b"FFFFFFFFFFFFFFF\r\nabc", b"3\r\nabcd\r\n", b"3\r\nabc\r\n0x0\r\n\r\n", b"3\nabc\r\n"]
)
async def test_a_chunked_answer_that_goes_wrong_is_never_completed(tmp_path: Path, bad: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"1\r\nA\r\n" + bad)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for version in ("1.1", "1.0"):
            reader, writer = await w.connect()
            writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
            try:
                answer = await read_answer(reader)
            except (h11.RemoteProtocolError, ConnectionError):
                answer = Answer()
            writer.close()
            assert answer.status in {0, 502}, "either broken off, or an error if nothing had been sent yet"


# ---------------------------------------------------------------- trailers

TRAILERS = (
    b"Server-Timing: a\r\nX-Checksum:  b \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nHost: evil\r\n"
    b"Authorization: x\r\nCookie: x\r\nConnection: close\r\nWWW-Authenticate: x\r\nLocation: /\r\nContent-Type: x\r\nX-Hop: 1\r\n"
    b"Cache-Control: x\r\nSet_Cookie: x\r\nX-Forwarded-For: x\r\nTrailer: x\r\nKeep-Alive: x\r\nSec-Fetch-Site: x\r\n"
)
WITH_TRAILERS = (
    b"HTTP/1.1 200 OK\r\nTrailer: X-Checksum\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
    + TRAILERS
    + b"\r\n"
)
READS = ("TE: gzip;q=0.1, Trailers", "Connection: TE")


async def test_trailers_that_do_no_harm_reach_a_client_that_reads_them(tmp_path: Path) -> None:
    async with running(answering(WITH_TRAILERS)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for _ in range(2):
            answer = await ask(w, *READS)
            assert (answer.body, answer.rest) == (b"ok", b"")
            assert answer.trailers == [(b"server-timing", b"a"), (b"x-checksum", b"b")]
            assert answer.headers[b"trailer"] == b"X-Checksum"
        assert app.connections == 1
        assert (app.requests[0].header("te"), app.requests[0].header("connection")) == ("trailers", "TE")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_trailers_reach_no_other_client(tmp_path: Path, version: str) -> None:
    async with running(answering(WITH_TRAILERS)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await ask(w, *(READS if version == "1.0" else ("TE: gzip",)), version=version)
        assert (answer.body, answer.rest, answer.trailers) == (b"ok", b"", [])
        assert b"trailer" not in answer.headers
        assert app.requests[0].header("te") is None
        assert app.requests[0].header("connection") is None


async def test_trailers_beyond_the_bound_are_left_out(tmp_path: Path) -> None:
    many = CHUNKED + b"0\r\n" + (b"X-A: " + b"a" * 1000 + b"\r\n") * 9 + b"\r\n"
    async with running(answering(many)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await ask(w, *READS)
        assert (answer.status, answer.trailers, answer.rest) == (200, [], b"")


async def test_a_requests_trailers_go_nowhere(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await w.raw(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n0\r\nX-A: b\r\nAuthorization: token x\r\n\r\n"
        )
        assert parse(answer)[0] == 200
        request = app.requests[0]  # its reader asserts that there is no trailer
        assert (request.body, request.header("trailer")) == (b"ab", None)


# ---------------------------------------------------------------- answers without a body


@pytest.mark.parametrize(
    ("method", "answer", "headers", "reused"),
    [
        ("HEAD", b"200 OK\r\nContent-Length: 5", {b"content-length": b"5"}, True),
        ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked", {}, True),
        ("HEAD", b"200 OK", {}, True),
        ("HEAD", b"404 Not Found\r\nContent-Length: 0", {b"content-length": b"0"}, True),
        ("GET", b"304 Not Modified\r\nContent-Length: 5", {b"content-length": b"5"}, True),
        ("GET", b"304 Not Modified\r\nTransfer-Encoding: chunked", {}, True),
        ("GET", b"304 Not Modified", {}, True),
        ("GET", b"204 No Content", {}, True),
        ("GET", b"204 No Content\r\nContent-Length: 0", {}, True),
        ("GET", b"204 No Content\r\nContent-Length: 5", {}, False),
        ("GET", b"204 No Content\r\nTransfer-Encoding: chunked", {}, False),
        ("GET", b"200 OK\r\nContent-Length: 0", {b"content-length": b"0"}, True),
    ],
)
async def test_answers_without_a_body(
    tmp_path: Path, method: str, answer: bytes, headers: dict[bytes, bytes], reused: bool
) -> None:
    async with running(answering(b"HTTP/1.1 " + answer + b"\r\n\r\n")) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        for _ in range(2):
            writer.write(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = await read_answer(reader, method)
            assert (got.status, got.body, got.rest) == (int(answer[:3]), b"", b"")
            assert got.headers == headers
        writer.close()
        assert app.connections == (1 if reused else 2)


@pytest.mark.parametrize("head", [b"200 OK\r\nContent-Length: 3", b"204 No Content", b"200 OK\r\nContent-Length: 0"])
async def test_bytes_after_an_answer_are_not_taken_for_the_next_one(tmp_path: Path, head: bytes) -> None:
    method = "HEAD" if b"3" in head else "GET"
    more = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with running(answering(b"HTTP/1.1 " + head + b"\r\n\r\n" + more)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for _ in range(3):
            answer = await ask(w, method=method)
            assert (answer.status, answer.body, answer.rest) == (int(head[:3]), b"", b"")
        assert app.connections == 3


# ---------------------------------------------------------------- interim and early answers

EXPECTING = b"PUT / HTTP/%b\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


async def test_the_body_waits_for_the_applications_100(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_head(reader)
        assert request.header("expect") == "100-continue"
        writer.write(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSet-Cookie: batchhub-session=x\r\nConnection: X\r\nX: 1\r\n\r\n"
        )
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(EXPECTING % b"1.1")
        assert await reader.readuntil(b"\r\n\r\n") == (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSet-Cookie: batchhub-session=x\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc" + ASK)
        assert (await read_answer(reader)).body == b"abc"
        writer.close()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_interim_answers_have_an_end(tmp_path: Path, version: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        count = int(request.target[1:])
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + OK)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for count, status in ((100, 200), (101, 502)):
            answer = await w.raw(f"GET /{count} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert statuses(answer) == [103] * (100 if version == "1.1" else 0) + [status]


async def test_http_1_0_knows_no_interim_answers(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        assert request.header("expect") is None
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        assert await w.raw(EXPECTING % b"1.0" + b"abc") == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        )


@pytest.mark.parametrize("sends", [b"", b"a", b"abc", b"abc" + ASK])
async def test_a_refusal_instead_of_100_ends_the_connection(tmp_path: Path, sends: bytes) -> None:
    """The client may send the body or not (RFC 9110 section 10.1.1): what comes then belongs to no request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        app.requests.append(await read_head(reader))
        writer.write(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    app = App(serve=serve)
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(EXPECTING % b"1.1")
        answer = await read_answer(reader)
        assert (answer.status, answer.body, answer.headers[b"connection"]) == (417, b"no", b"close")
        writer.write(sends)
        assert answer.rest + await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert len(app.requests) == 1


async def test_an_early_answer_may_stream_while_the_body_is_still_sent(tmp_path: Path) -> None:
    """Each piece comes back before the next is written: nothing is held in either direction."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(CHUNKED)
        while size := int((await reader.readline()).strip(), 16):
            data = (await reader.readexactly(size + 2))[:-2]
            writer.write(b"%x\r\n%b\r\n" % (size, data.upper()))
        await reader.readline()
        writer.write(b"0\r\n\r\n")
        app.requests.append(await read_head(reader))

    app = App(serve=serve)
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        for piece in (b"one", b"two", b"three"):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            wanted = b"%x\r\n%b\r\n" % (len(piece), piece.upper())
            assert await asyncio.wait_for(reader.readexactly(len(wanted)), 5) == wanted
        writer.write(b"0\r\n\r\n" + ASK)
        assert await asyncio.wait_for(reader.read(), 5) == b"0\r\n\r\n"
        writer.close()
        assert app.requests == [], "the answer said that the connection ends, so the next request is not taken"


@pytest.mark.parametrize("framing", [b"Content-Length: 9999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_an_early_answer_arrives_though_its_application_resets_the_connection(
    tmp_path: Path, framing: bytes
) -> None:
    """It says too large and closes without having read: the system sends a reset, and our next write fails."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        writer.close()

    block = b"186a0\r\n" + bytes(100_000) + b"\r\n" if b"chunked" in framing else bytes(100_000)
    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for _ in range(10):
            reader, writer = await w.connect()
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + block)
            for _ in range(20):
                writer.write(block)
                await asyncio.sleep(0)
            answer = await read_answer(reader)
            assert (answer.status, answer.body) == (413, b"big")
            writer.close()


async def test_an_early_answer_whose_application_leaves_still_arrives_whole(tmp_path: Path) -> None:
    """The application says too large, reads what comes for a while, and closes."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read(1)
        gone.set()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.body, answer.headers[b"connection"]) == (413, b"big", b"close")
        writer.write(b"a" * 100_000)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
