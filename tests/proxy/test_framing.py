"""Bodies end where an independent reader says they end, in whatever pieces they come."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.proxy.framing import LAST_CHUNK, Body, chunk
from batchhub.proxy.wire import CHUNKED, UNTIL_CLOSE, Refused

AFTER = b"GET /next HTTP/1.1\r\n"


def feed(length: int, data: bytes, cuts: list[int]) -> tuple[bytes, bytes, bool]:
    body, out, rest, at = Body(length), b"", b"", 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        piece, at = data[at:cut], cut
        if body.done:
            rest += piece
            continue
        part, over = body.feed(piece)
        out += part
        rest += over
    return out, rest, body.done


PIECES = st.lists(st.binary(min_size=1, max_size=50), max_size=8)
CUTS = st.lists(st.integers(0, 600), max_size=30)


@given(PIECES, CUTS, st.sampled_from([b"", b";a=b", b' ; x="y"']), st.sampled_from([b"", b"T: 1\r\n"]))
def test_chunked_in_any_pieces(pieces: list[bytes], cuts: list[int], extension: bytes, trailer: bytes) -> None:
    raw = (
        b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"
    )
    assert feed(CHUNKED, raw + AFTER, cuts) == (b"".join(pieces), AFTER, True)


@given(PIECES)
def test_what_we_write_h11_reads(pieces: list[bytes]) -> None:
    them = h11.Connection(h11.SERVER)
    them.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    them.receive_data(b"".join(map(chunk, pieces)) + LAST_CHUNK)
    assert isinstance(them.next_event(), h11.Request)
    seen = b""
    while isinstance(event := them.next_event(), h11.Data):
        seen += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert seen == b"".join(pieces)


ALPHABET = st.lists(
    st.sampled_from([b"0", b"1", b"2", b"a", b"\r\n", b"\r", b"\n", b";", b" ", b"x", b"X: y"]), max_size=14
)


@given(ALPHABET, CUTS)
def test_any_bytes_never_end_earlier_or_later_than_h11_says(parts: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(parts)
    try:
        body, rest, done = feed(CHUNKED, raw, cuts)
    except Refused:
        return
    if not done:
        return
    them = h11.Connection(h11.SERVER)
    them.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    them.next_event()
    seen = b""
    while isinstance(event := them.next_event(), h11.Data):
        seen += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (seen, them.trailing_data[0]) == (body, rest)


@given(st.binary(max_size=40), CUTS)
def test_length(data: bytes, cuts: list[int]) -> None:
    if data:
        assert feed(len(data), data + AFTER, cuts) == (data, AFTER, True)


def test_until_close() -> None:
    body = Body(UNTIL_CLOSE)
    assert body.feed(b"abc") == (b"abc", b"")
    assert not body.done
    assert body.close()
    assert not Body(3).close()
    assert not Body(CHUNKED).close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"g\r\n",
        b"1\n",
        b"1\r\nabc",
        b"1\r\na\n0\r\n",
        b"1" * 17 + b"\r\n",
        b"0\r\n bad\r\n\r\n",
        b"0\r\nx\r\n\r\n",
        b"1;" + b"x" * 5000,
        b"0\r\n" + b"A: b\r\n" * 65,
        b"1;\x00\r\n",
    ],
)
def test_bad_chunks(raw: bytes) -> None:
    with pytest.raises(Refused):
        Body(CHUNKED).feed(raw)
