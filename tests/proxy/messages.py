"""Random and broken messages for the fuzz tests, and those who read them: our own readers, h11, and llhttp through httptools."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import h11
import httptools
from hypothesis import strategies as st

from batchhub.proxy.framing import LAST_CHUNK, Body, chunk
from batchhub.proxy.headers import Forwarded, request_lines
from batchhub.proxy.target import read_target
from batchhub.proxy.upstream import Pool, Upstream
from batchhub.proxy.wire import CHUNKED, END, Refused, RequestHead, ResponseHead, parse_request

# ---------------------------------------------------------------- what is generated

KNOWN = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "PROPFIND"]
METHODS = st.sampled_from(KNOWN)
TARGETS = st.text("abcXYZ019-._~!$&'()*+,;=:@%/?", max_size=30).map(lambda text: "/" + text)
NAMES = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12).map(lambda text: "x" + text)
VALUES = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte > 31 and byte != 127).strip())
HEADERS = st.lists(st.tuples(NAMES.map(str.encode), VALUES), max_size=6)
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
CUTS = st.lists(st.integers(0, 2000), max_size=12)
FRAMINGS = st.sampled_from(["length", "chunked", "none"])


@dataclass
class Message:
    """A request or an answer as its writer meant it."""

    raw: bytes
    body: bytes
    method: str = "GET"
    target: str = "/"
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


@st.composite
def requests(draw: st.DrawFn) -> Message:
    """A valid request, written by h11."""
    method, target, extra, pieces = draw(METHODS), draw(TARGETS), draw(HEADERS), draw(BODIES)
    framing = draw(FRAMINGS)
    body = b"".join(pieces) if framing != "none" else b""
    lines = [(b"Host", b"x.test:81"), *extra, *_framing(framing, body)]
    writer = h11.Connection(h11.CLIENT)
    raw = writer.send(h11.Request(method=method, target=target, headers=lines)) or b""
    return Message(raw + _written(writer, pieces if body else []), body, method, target, 0, lines)


@st.composite
def answers(draw: st.DrawFn) -> Message:
    """A valid answer to a request of some method, written by h11; ``none`` ends with the connection."""
    method, extra, pieces, framing = (
        draw(st.sampled_from(["GET", "GET", "HEAD"])),
        draw(HEADERS),
        draw(BODIES),
        draw(FRAMINGS),
    )
    status = draw(st.sampled_from([200, 200, 201, 204, 206, 304, 404, 500]))
    bodiless = method == "HEAD" or status in {204, 304}
    body = b"" if bodiless else b"".join(pieces)
    lines = [*extra, *(_framing(framing, body) if status != 204 else [])]
    if framing == "none":
        lines.append((b"Connection", b"close"))
    writer = h11.Connection(h11.SERVER)
    # h11 ends a body with the connection only for a client of HTTP/1.0.
    writer.receive_data(f"{method} / HTTP/1.{int(framing != 'none')}\r\nHost: x\r\n\r\n".encode())
    writer.next_event()
    writer.next_event()
    raw = writer.send(h11.Response(status_code=status, reason="As it is", headers=lines)) or b""
    return Message(raw + _written(writer, pieces if body else []), body, method, "/", status, lines)


def _framing(kind: str, body: bytes) -> list[tuple[bytes, bytes]]:
    if kind == "none":
        return []
    return [(b"Content-Length", b"%d" % len(body)) if kind == "length" else (b"Transfer-Encoding", b"chunked")]


def _written(writer: h11.Connection, pieces: list[bytes]) -> bytes:
    parts = [writer.send(h11.Data(data=piece)) or b"" for piece in pieces]
    return b"".join(parts) + (writer.send(h11.EndOfMessage()) or b"")


BYTES = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\x00",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b":",
    b";",
    b",",
    b"#",
    b"?",
    b"/",
    b"\\",
    b'"',
]
DIGITS = [b"0", b"1", b"5", b"f", b"-", b"+", b"_", b"0x", b"0\r\n\r\n", b"3\r\nabc\r\n"]
LINES = [
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Host: y",
    b"Connection: close",
]
WORDS = [b"\r\n\r\n", b"\r\n ", b"\n\n", b"chunked", b"HTTP/1.0", b"\r\nX: y\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
NASTY = st.sampled_from([*BYTES, *DIGITS, *WORDS, *(b"\r\n" + line for line in LINES)])


@st.composite
def broken(draw: st.DrawFn, source: st.SearchStrategy[Message]) -> tuple[Message, bytes]:
    """A valid message, and its bytes with a few of them put in, taken out, doubled or exchanged."""
    message = draw(source)
    raw = message.raw
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        what = draw(st.sampled_from(["put in", "take out", "double", "replace"]))
        if what == "put in":
            raw = raw[:at] + draw(NASTY) + raw[at:]
        elif what == "take out":
            raw = raw[:at] + raw[at + draw(st.integers(1, 4)) :]
        elif what == "double":
            raw = raw[:at] + raw[at : at + 20] + raw[at:]
        else:
            raw = raw[:at] + draw(NASTY) + raw[at + 1 :]
    return message, raw


# ---------------------------------------------------------------- who reads


def pieces_of(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)}):
        if cut > at:
            yield raw[at:cut]
            at = cut


@dataclass
class Read:
    """One request as a reader understood it. ``whole``: its end was seen."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = False


def ours(raw: bytes, cuts: list[int] = []) -> tuple[list[tuple[RequestHead, Read]], bytes, bool]:  # noqa: B006
    """All requests, what is left over, and whether the last was refused: as a connection reads them, in these pieces."""
    found: list[tuple[RequestHead, Read]] = []
    buffer, body = b"", None
    try:
        for piece in pieces_of(raw, cuts):
            buffer += piece
            while buffer:
                if body is None:
                    end = buffer.find(END)
                    if end < 0:
                        break
                    skip = 2 if buffer.startswith(b"\r\n") else 0  # one empty line before a request is ignored
                    head = parse_request(buffer[skip : end + 4])
                    lines = [(lower, value) for lower, _, value in head.headers]
                    found.append((head, Read(head.method, head.path + head.query, lines)))
                    buffer, body = buffer[end + 4 :], Body(head.length)
                if not body.done:
                    part, buffer = body.feed(buffer)
                    found[-1][1].body += part
                if body.done:
                    found[-1][1].whole, body = True, None
    except Refused:
        return found, b"", True
    return found, buffer, False


def by_h11(raw: bytes) -> tuple[list[Read], bytes]:
    """All whole requests, and the rest. Raises h11.RemoteProtocolError."""
    found: list[Read] = []
    while raw:
        them = h11.Connection(h11.SERVER)
        them.receive_data(raw)
        event = them.next_event()
        if not isinstance(event, h11.Request):
            break
        one = Read(event.method, event.target, list(event.headers))
        while isinstance(event := them.next_event(), h11.Data):
            one.body += bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            break
        one.whole = True
        found.append(one)
        raw = them.trailing_data[0]
    return found, raw


class _Llhttp:
    """What httptools calls."""

    def __init__(self) -> None:
        self.found: list[Read] = []

    def on_message_begin(self) -> None:
        self.found.append(Read(b"", b"", []))

    def on_url(self, part: bytes) -> None:
        self.found[-1].target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found[-1].headers.append((name.lower(), value))

    def on_body(self, part: bytes) -> None:
        self.found[-1].body += part

    def on_message_complete(self) -> None:
        self.found[-1].whole = True


def by_llhttp(raw: bytes) -> list[Read]:
    """All requests. Raises httptools.HttpParserError."""
    seen = _Llhttp()
    parser = httptools.HttpRequestParser(seen)
    with suppress(httptools.HttpParserUpgrade):
        parser.feed_data(raw)
    if seen.found:
        seen.found[-1].method = parser.get_method()
    return seen.found


def forwarded(head: RequestHead, body: bytes) -> bytes:
    """The request as we would send it on."""
    client = Forwarded(b"127.0.0.1", b"http", head.host, b"80")
    target = head.path + head.query
    lines = request_lines(head, target, client, head.host or b"x", secrets=b"batchhub-", authorization=None)
    return lines + (chunk(body) + LAST_CHUNK if head.length == CHUNKED else body)


def check_forwarded(head: RequestHead, read: Read) -> None:
    """Two independent readers read in what we send on what we read in what came."""
    sent = forwarded(head, read.body)
    (theirs,), rest = by_h11(sent)
    assert rest == b""
    # llhttp takes a fixed list of methods; others are the application's business.
    for other in [theirs, *(by_llhttp(sent) if read.method.decode() in KNOWN else [])]:
        assert (other.method, other.target, other.body, other.whole) == (read.method, read.target, read.body, True)
    kept = [
        (name, value) for name, value in read.headers if name.startswith(b"x") and not name.startswith(b"x-forwarded")
    ]
    kept = [(name, value) for name, value in kept if name not in head.connection]
    got = [
        (name, value) for name, value in theirs.headers if name.startswith(b"x") and not name.startswith(b"x-forwarded")
    ]
    assert got == [(name, value) for name, value in kept if name in {one for one, _ in got}]
    assert sum(name in {b"content-length", b"transfer-encoding"} for name, _ in theirs.headers) <= 1
    assert sum(name == b"host" for name, _ in theirs.headers) == 1


class _Stream:
    """A stream that goes nowhere, for an upstream connection that is only read."""

    def __init__(self) -> None:
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Requests are of no interest here."""

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class _Reader:
    """Who asked."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.end = ""

    def answered(self, head: ResponseHead) -> None:
        self.heads.append(head)

    def answer_data(self, data: bytes) -> None:
        self.body += data

    def answer_end(self) -> None:
        self.end = "whole"

    def answer_flush(self) -> None:
        """Nothing is held."""

    def answer_eof(self) -> None:
        raise AssertionError("nothing was switched")

    def broken(self, error: Refused) -> None:
        assert error.code == 502
        self.end = "broken"


def read_answer(raw: bytes, method: str, cuts: list[int]) -> tuple[_Reader, Upstream]:
    """An answer as a connection to an application reads it, up to the end of the connection."""
    loop = asyncio.new_event_loop()
    try:
        up = Upstream(read_target("http://127.0.0.1:1"), Pool(1, loop), 65536)
        reader, stream = _Reader(), _Stream()
        up.connection_made(stream)  # type: ignore[arg-type]
        up.begin(reader, method.encode(), b"")  # type: ignore[arg-type]
        for piece in pieces_of(raw, cuts):
            if not reader.end:
                up.data_received(piece)
        if not stream.aborted:
            up.connection_lost(None)
        return reader, up
    finally:
        loop.close()


def answer_by_h11(raw: bytes, method: str) -> tuple[int, bytes, bytes]:
    """Status, body and what comes after. Raises h11.RemoteProtocolError, also for an answer that is not whole."""
    them = h11.Connection(h11.CLIENT)
    them.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    them.send(h11.EndOfMessage())
    them.receive_data(raw)
    them.receive_data(b"")
    status, body = 0, b""
    while True:
        event = them.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, body, them.trailing_data[0]
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("not whole")
