"""Heads: everything two readers could read differently is refused."""

import asyncio
from pathlib import Path

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchhub.proxy.settings import Limits
from batchhub.proxy.wire import CHUNKED, UNTIL_CLOSE, Refused, parse_request, parse_response
from tests.proxy.harness import App, running, world

REFUSED = {
    "two lengths": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "the same length twice": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
    "a list of lengths": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n"),
    "a signed length": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n"),
    "a negative length": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
    "a hexadecimal length": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\n"),
    "an empty length": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n"),
    "a huge length": (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    "length and coding": (
        400,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "coding and length": (
        400,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    ),
    "two codings": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    "chunked twice": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    "two coding lines": (
        400,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "identity": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n"),
    "xchunked": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    "chunked with a tab": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
    "chunked in 1.0": (400, b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "space before colon": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n"),
    "folded line": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
    "folded first line": (400, b"GET / HTTP/1.1\r\n Host: x\r\nHost: y\r\n\r\n"),
    "bare LF": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "bare LF in a header": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nB: c\r\n\r\n"),
    "bare CR in a header": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rB: c\r\n\r\n"),
    "NUL": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n"),
    "control character": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x01c\r\n\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n"),
    "empty name": (400, b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
    "a host with a path": (400, b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    "a host with a user": (400, b"GET / HTTP/1.1\r\nHost: x@y\r\n\r\n"),
    "an empty host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "CONNECT": (405, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "asterisk": (400, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
    "another scheme": (400, b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (400, b"GET / HTTP/1.2\r\nHost: x\r\n\r\n"),
    "unknown method": (400, b"XYZZY / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "raw UTF-8 target": (400, "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode()),
    "encoded control": (400, b"GET /a%0d%0aB:%20c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "hidden dots": (400, b"GET /user/alice/..%2f..%2fuser/bob/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "large head": (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000 + b"\r\n\r\n"),
    "large unfinished head": (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000),
    "bad chunk size": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n"),
    "chunk size with LF": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n"),
    "chunk too long": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"),
    "chunk size 0x": (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_with_the_right_status_and_nothing_reaches_the_application(tmp_path: Path, name: str) -> None:
    code, data = REFUSED[name]
    small = Limits(head_bytes=4096, linger=0.02, tick=0.01)
    async with running(App()) as app, world(tmp_path, limits=small) as w:
        w.route("/", app.port)
        follower = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await w.raw(data if "unfinished" in name else data + follower)
        assert answer.startswith(f"HTTP/1.1 {code} ".encode()), answer[:200]
        assert answer.count(b"HTTP/1.1 505") + answer.count(b"HTTP/1.1 4") == 1
        assert b"HTTP/1.1 2" not in answer
        assert [request.target for request in app.requests] == []


async def test_the_connection_ends_with_a_bad_request(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, limits=Limits(linger=0.02, tick=0.01)) as w:
        w.route("/", app.port)
        answer = await w.raw(
            b"GET /good HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /late HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
        assert [request.target for request in app.requests] == ["/good"]


async def test_a_head_in_single_bytes_and_leading_empty_line(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        for byte in b"\r\nGET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")
        writer.close()


def test_absolute_target_replaces_the_host() -> None:
    head = parse_request(b"GET http://other:81/a/b?c=d HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (head.host, head.path, head.query) == (b"other:81", b"/a/b", b"?c=d")
    assert parse_request(b"GET http://other HTTP/1.1\r\nHost: x\r\n\r\n").path == b"/"


def test_upgrade() -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n")
    assert head.upgrade == b"websocket"
    for lines in (
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
    ):
        assert parse_request(b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n").upgrade == b""


@pytest.mark.parametrize(
    ("method", "head", "length", "close"),
    [
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 3, False),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", CHUNKED, False),
        (b"GET", b"HTTP/1.1 200 OK\r\n\r\n", UNTIL_CLOSE, True),
        (b"GET", b"HTTP/1.1 200\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", 3, True),
        (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", 3, True),
        (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", 3, False),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 0, False),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", 0, False),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 0, False),
        (b"GET", b"HTTP/1.1 100 Continue\r\n\r\n", 0, False),
    ],
)
def test_response_framing(method: bytes, head: bytes, length: int, close: bool) -> None:
    read = parse_response(head, method)
    assert (read.length, read.close) == (length, close)


# ---------------------------------------------------------------- against h11

LINES = st.lists(
    st.sampled_from(
        [
            b"Host: x",
            b"Content-Length: 5",
            b"Content-Length: 5, 5",
            b"Content-Length: 0",
            b"content-length:5",
            b"Content-Length: 05",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding:  chunked ",
            b"Transfer-Encoding: CHUNKED",
            b"Transfer-Encoding: gzip",
            b"Transfer-Encoding : chunked",
            b"X: a\tb",
            b"X: \xe9",
            b" folded",
            b"\tfolded",
            b"X",
            b"Connection: close",
            b"Connection: upgrade",
            b"Upgrade: websocket",
            b"X\x00: a",
            b"X: a\x0b",
            b"",
        ]
    ),
    max_size=5,
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@example([b"Host: x", b"Content-Length: 5"], b"\r\n", b"1.1")
@given(LINES, ENDS, st.sampled_from([b"1.1", b"1.1", b"1.0", b"2.0", b"0.9"]))
def test_no_head_is_read_otherwise_than_h11_reads_it(lines: list[bytes], end: bytes, version: bytes) -> None:
    """What we take, h11 takes too and frames alike. We may be stricter."""
    raw = b"POST /x HTTP/" + version + b"\r\n" + end.join(lines) + (b"\r\n" if lines else b"") + b"\r\n"
    head = raw[: raw.find(b"\r\n\r\n") + 4]
    try:
        ours = parse_request(head)
    except Refused:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(head)
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert [(lower, value) for lower, _, value in ours.headers] == [(name, value) for name, value in event.headers]
    body = b"5\r\nhello\r\n0\r\n\r\n" if ours.length == CHUNKED else b"hello"[: ours.length]
    theirs.receive_data(body)
    seen = b""
    while isinstance(event := theirs.next_event(), h11.Data):
        seen += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert seen == (b"hello" if ours.length else b"")
