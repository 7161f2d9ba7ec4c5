"""Heads: everything two readers could read differently is refused."""

import asyncio
from pathlib import Path

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchhub.proxy.settings import Limits
from batchhub.proxy.wire import CHUNKED, MAX_FIELDS, UNTIL_CLOSE, Refused, parse_request, parse_response
from tests.proxy.harness import App, running, world

HOST = b"Host: x\r\n"
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def lines(*extra: bytes, first: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"Host: x", *extra)) + b"\r\n\r\n"


LENGTHS = {
    "two lengths": lines(b"Content-Length: 1", b"Content-Length: 2"),
    "two lengths in other letters": lines(b"Content-Length: 5", b"CONTENT-LENGTH: 6"),
    "the same length twice": lines(b"Content-Length: 1", b"Content-Length: 1"),
    "a list of lengths": lines(b"Content-Length: 1, 1"),
    "a list without spaces": lines(b"Content-Length: 5,5"),
    "two numbers": lines(b"Content-Length: 5 5"),
    "a signed length": lines(b"Content-Length: +1"),
    "a negative length": lines(b"Content-Length: -1"),
    "minus nothing": lines(b"Content-Length: -0"),
    "a hexadecimal length": lines(b"Content-Length: 0x1"),
    "a length with a fraction": lines(b"Content-Length: 5.0"),
    "an exponent": lines(b"Content-Length: 5e0"),
    "a Python number": lines(b"Content-Length: 1_0"),
    "other digits": lines("Content-Length: ٥".encode()),
    "a length and more": lines(b"Content-Length: 5;x"),
    "an empty length": lines(b"Content-Length: "),
    "two spaces before a length": lines(b"Content-Length:  5"),
    "a space after a length": lines(b"Content-Length: 5 "),
    "a tab before a length": lines(b"Content-Length:\t5"),
    "a huge length": lines(b"Content-Length: 99999999999999999999"),
    "a length with an underscore": lines(b"Content_Length: 5"),
}
CODINGS = {
    "length and coding": lines(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
    "coding and length": lines(b"Transfer-Encoding: chunked", b"Content-Length: 1"),
    "two codings": lines(b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": lines(b"Transfer-Encoding: chunked, chunked"),
    "two coding lines": lines(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "two coding lines that differ": lines(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "identity": lines(b"Transfer-Encoding: identity"),
    "chunked, identity": lines(b"Transfer-Encoding: chunked, identity"),
    "nothing and chunked": lines(b"Transfer-Encoding: , chunked"),
    "xchunked": lines(b"Transfer-Encoding: xchunked"),
    "chunkedx": lines(b"Transfer-Encoding: chunkedx"),
    "chunked;x": lines(b"Transfer-Encoding: chunked;x"),
    "quoted": lines(b'Transfer-Encoding: "chunked"'),
    "an empty coding": lines(b"Transfer-Encoding:"),
    "a space after chunked": lines(b"Transfer-Encoding: Chunked "),
    "two spaces before chunked": lines(b"Transfer-Encoding:  chunked"),
    "a tab before chunked": lines(b"Transfer-Encoding:\tchunked"),
    "a tab after chunked": lines(b"Transfer-Encoding: chunked\t"),
    "a vertical tab before chunked": lines(b"Transfer-Encoding: \x0bchunked"),
    "a coding with an underscore": lines(b"Transfer_Encoding: chunked"),
    "chunked in 1.0": lines(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"),
    "chunked in 1.0 that is kept": lines(
        b"Connection: keep-alive", b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"
    ),
}
GRAMMAR = {
    "space before colon": lines(b"Transfer-Encoding : chunked"),
    "tab before colon": lines(b"Content-Length\t: 5"),
    "folded line": lines(b"A: b", b" c"),
    "folded with a tab": lines(b"A: b", b"\tTransfer-Encoding: chunked"),
    "folded value": lines(b"Transfer-Encoding:", b" chunked"),
    "folded first line": b"GET / HTTP/1.1\r\n Host: x\r\nHost: y\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare LF after the first line": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "bare LF in a header": lines(b"A: b\nTransfer-Encoding: chunked"),
    "bare CR in a header": lines(b"A: b\rTransfer-Encoding: chunked"),
    "bare CR at a line's end": lines(b"A: b\r"),
    "bare CR in the first line": lines(first=b"GET /\rHTTP/1.1"),
    "NUL": lines(b"A: b\x00c"),
    "NUL in a name": lines(b"A\x00: b"),
    "NUL in the first line": lines(first=b"GET /\x00 HTTP/1.1"),
    "control character": lines(b"A: b\x01c"),
    "DEL": lines(b"A: b\x7f"),
    "no colon": lines(b"A"),
    "empty name": lines(b": b"),
    "a name with a space": lines(b"A b: c"),
    "a name beyond ASCII": lines("Ä: b".encode()),
    "no empty line": b"GET / HTTP/1.1\r\n\r\n",
    "two empty lines before": b"\r\n\r\n" + lines(first=b"GET / HTTP/1.1"),
}
FIRST_LINES = {
    "no version": (505, b"GET /"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2"),
    "a long version": (400, b"GET / HTTP/1.10"),
    "a small version": (400, b"GET / http/1.1"),
    "two spaces": (400, b"GET  / HTTP/1.1"),
    "a tab": (400, b"GET\t/ HTTP/1.1"),
    "a space before": (400, b" GET / HTTP/1.1"),
    "a space after": (400, b"GET / HTTP/1.1 "),
    "a space within": (400, b"GET /a b HTTP/1.1"),
    "no target": (400, b"GET  HTTP/1.1"),
    "small method": (400, b"get / HTTP/1.1"),
    "a method with a sign": (400, b"G=T / HTTP/1.1"),
    "a long method": (400, b"G" * 25 + b" / HTTP/1.1"),
    "CONNECT": (405, b"CONNECT x:80 HTTP/1.1"),
    "TRACE": (405, b"TRACE / HTTP/1.1"),
    "asterisk": (400, b"OPTIONS * HTTP/1.1"),
    "an authority": (400, b"GET x:80 HTTP/1.1"),
    "another scheme": (400, b"GET ftp://x/ HTTP/1.1"),
    "userinfo": (400, b"GET http://user:word@x/ HTTP/1.1"),
    "userinfo with a trick": (400, b"GET http://x@evil.test/ HTTP/1.1"),
    "no authority": (400, b"GET http:///x HTTP/1.1"),
    "a fragment": (400, b"GET /a#b HTTP/1.1"),
    "a fragment in the query": (400, b"GET /a?b#c HTTP/1.1"),
    "raw UTF-8 target": (400, "GET /é HTTP/1.1".encode()),
    "a backslash": (400, b"GET /user\\bob HTTP/1.1"),
    "encoded control": (400, b"GET /a%0d%0aB:%20c HTTP/1.1"),
    "encoded NUL": (400, b"GET /a%00 HTTP/1.1"),
    "hidden dots": (400, b"GET /user/alice/..%2f..%2fuser/bob/ HTTP/1.1"),
}
HOSTS = {
    "no host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "two hosts": lines(b"Host: x"),
    "two hosts that differ": lines(b"Host: y"),
    "absolute target and two hosts": lines(b"Host: x", first=b"GET http://x/ HTTP/1.1"),
    "absolute target and no host": b"GET http://x/ HTTP/1.1\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a host with a user": b"GET / HTTP/1.1\r\nHost: x@y\r\n\r\n",
    "a host with a space": b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a list of hosts": b"GET / HTTP/1.1\r\nHost: x, y\r\n\r\n",
    "an empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "a long host": b"GET / HTTP/1.1\r\nHost: " + b"x" * 301 + b"\r\n\r\n",
}
CHUNKS = {
    "no hexadecimal digit": b"xyz\r\n",
    "0x": b"0x1\r\na\r\n",
    "a sign": b"+1\r\na\r\n",
    "minus": b"-1\r\na\r\n",
    "a space before": b" 1\r\na\r\n",
    "a space after": b"1 \r\na\r\n",
    "no size": b"\r\na\r\n",
    "an extension alone": b";x\r\n",
    "an underscore": b"1_0\r\n",
    "17 digits": b"10000000000000001\r\na\r\n",
    "leading zeros to overflow": b"0" * 16 + b"1\r\na\r\n",
    "LF after the size": b"1\na\r\n",
    "CR after the size": b"1\ra\r\n",
    "LF in an extension": b"1;a\nb\r\na\r\n",
    "CR in an extension": b"1;a\rb\r\na\r\n",
    "NUL in an extension": b"1;\x00\r\na\r\n",
    "LF after the content": b"1\r\na\n",
    "nothing after the content": b"1\r\na0\r\n",
    "more content": b"1\r\nab\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n",
    "no trailer": b"0\r\nGET /smuggled HTTP/1.1\r\n",
    "LF at the end": b"0\r\n\n",
    "LF in a trailer": b"0\r\nA: b\nC: d\r\n",
}
OTHERS = {
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "large head": (431, lines(b"A: " + b"a" * 5000)),
    "large unfinished head": (431, lines(b"A: " + b"a" * 9000)[:-4]),
    "long first line": (431, lines(first=b"GET /" + b"a" * 5000 + b" HTTP/1.1")),
    "many lines": (431, lines(*[b"A: b"] * 200)),
}
REFUSED: dict[str, tuple[int, bytes]] = {
    **{name: (400, data) for table in (LENGTHS, CODINGS, GRAMMAR, HOSTS) for name, data in table.items()},
    **{f"first line: {name}": (code, lines(first=first)) for name, (code, first) in FIRST_LINES.items()},
    **{f"chunk: {name}": (400, CHUNKED_POST + data + b"0\r\n\r\n") for name, data in CHUNKS.items()},
    **OTHERS,
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_with_the_right_status_and_nothing_reaches_the_application(tmp_path: Path, name: str) -> None:
    code, data = REFUSED[name]
    reached = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(9999):
            reached.extend(some)

    small = Limits(head_bytes=4096, linger=0.02, tick=0.01)
    async with running(App(serve=serve)) as app, world(tmp_path, limits=small) as w:
        w.route("/", app.port)
        follower = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await w.raw(data if "unfinished" in name else data + follower)
        assert answer.startswith(f"HTTP/1.1 {code} ".encode()), answer[:200]
        assert answer.count(b"HTTP/1.1 ") - answer.count(b"<p>Only HTTP/1.1") == 1 or b"in HTTP/1.1." in answer
        assert b"\r\nConnection: close\r\n" in answer
        assert b"smuggled" not in reached
        assert not reached or name.startswith("chunk: "), "of a body the good part may have gone on before"


async def test_the_connection_ends_with_a_bad_request(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, limits=Limits(linger=0.02, tick=0.01)) as w:
        w.route("/", app.port)
        answer = await w.raw(
            b"GET /good HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /late HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
        assert [request.target for request in app.requests] == ["/good"]


def test_what_is_plain_is_taken() -> None:
    for extra in (b"content-length:5", b"CONTENT-LENGTH: 5", b"Content-Length: 005"):
        assert parse_request(lines(extra)).length == 5
    for extra in (b"Transfer-Encoding: Chunked", b"transfer-encoding:chunked"):
        assert parse_request(lines(extra)).length == CHUNKED
    assert parse_request(lines(b"A:\t b \t", b"B:", b"C: \xe9")).headers[1:] == [
        (b"a", b"A", b"b"),
        (b"b", b"B", b""),
        (b"c", b"C", b"\xe9"),
    ]
    assert parse_request(lines(first=b"VERSION-CONTROL / HTTP/1.1")).method == b"VERSION-CONTROL"
    assert len(parse_request(lines(*[b"A: b"] * (MAX_FIELDS - 1))).headers) == MAX_FIELDS


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
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 0, False),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", 0, True),
        (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 0, True),
        (b"GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED, True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, False),
        (b"GET", b"HTTP/1.1 100 Continue\r\n\r\n", 0, False),
    ],
)
def test_response_framing(method: bytes, head: bytes, length: int, close: bool) -> None:
    read = parse_response(head, method)
    assert (read.length, read.close) == (length, close)


# ---------------------------------------------------------------- against h11

HEADERS = st.lists(
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
@given(HEADERS, ENDS, st.sampled_from([b"1.1", b"1.1", b"1.0", b"2.0", b"0.9"]))
def test_no_head_is_read_otherwise_than_h11_reads_it(fields: list[bytes], end: bytes, version: bytes) -> None:
    """What we take, h11 takes too and frames alike. We may be stricter."""
    raw = b"POST /x HTTP/" + version + b"\r\n" + end.join(fields) + (b"\r\n" if fields else b"") + b"\r\n"
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
