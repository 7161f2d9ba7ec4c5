"""Message bodies: where one ends, whatever pieces it arrives in.

``Body`` is fed what the socket gives and returns the part that belongs to the message, unchunked, and what follows it. Chunked bodies
are read strictly and written anew, so that a chunk extension never passes through (RFC 9112 section 7.1.1 allows it), because readers
disagree about them. Trailers are kept aside, up to a bound; :func:`batchhub.proxy.headers.last_chunk` says which go on.
"""

from __future__ import annotations

import re

from batchhub.proxy.wire import CHUNKED, UNTIL_CLOSE, Refused

LAST_CHUNK = b"0\r\n\r\n"

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_MAX_LINE = 4096
_MAX_TRAILERS = 64
_MAX_KEPT = 8192  # bytes of trailers kept; beyond it all are dropped


class Body:
    """Finds a body's end. ``done`` turns true when all of it was seen."""

    __slots__ = ("_chunks", "_left", "done")

    def __init__(self, length: int) -> None:
        self.done = length == 0
        self._left = length
        self._chunks = _Chunks() if length == CHUNKED else None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The body's bytes in ``data``, and the rest, which is not the body's. Raises :class:`Refused`."""
        if self._chunks is not None:
            body, rest = self._chunks.feed(data)
            self.done = self._chunks.done
            return body, rest
        if self._left == UNTIL_CLOSE:
            return data, b""
        if len(data) < self._left:
            self._left -= len(data)
            return data, b""
        body, rest = data[: self._left], data[self._left :]
        self._left, self.done = 0, True
        return body, rest

    @property
    def trailers(self) -> list[bytes]:
        """The trailer lines of a chunked body that is done, in the grammar's form; none if they were too long."""
        return [] if self._chunks is None else self._chunks.kept

    def close(self) -> bool:
        """The connection ended: whether the body is whole."""
        self.done = self.done or self._left == UNTIL_CLOSE
        return self.done


class _Chunks:
    """A chunked body's reader."""

    __slots__ = ("_buffer", "_left", "_room", "_trailers", "done", "kept")

    def __init__(self) -> None:
        self.done = False
        self.kept: list[bytes] = []
        self._room = _MAX_KEPT
        self._buffer = b""
        self._left = 0  # of the current chunk, its CRLF included; 0: a size line is next
        self._trailers = -1  # lines of trailer seen; -1: the last chunk was not seen yet

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        data = self._buffer + data
        at, pieces = 0, []
        while not self.done:
            if self._left:
                piece, at = self._content(data, at)
                pieces.append(piece)
                if self._left:
                    break
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._line(data[at:end])
            at = end + 2
        self._buffer = b"" if self.done else data[at:]
        if len(self._buffer) > _MAX_LINE:
            raise Refused(400, "A chunk's size line is too long.")
        if not self._left and b"\n" in self._buffer:
            raise Refused(400, "A chunk's size line is malformed.")
        return b"".join(pieces), data[at:] if self.done else b""

    def _content(self, data: bytes, at: int) -> tuple[bytes, int]:
        """What is there of the current chunk; its CRLF is taken only whole."""
        content = self._left - 2
        piece = data[at : at + content]
        at += len(piece)
        self._left -= len(piece)
        if self._left == 2 and len(data) - at >= 2:
            if data[at : at + 2] != b"\r\n":
                raise Refused(400, "A chunk is longer than its size says.")
            self._left = 0
            at += 2
        return piece, at

    def _line(self, line: bytes) -> None:
        if self._trailers >= 0:
            self._trailer(line)
            return
        size = _SIZE.fullmatch(line)
        if size is None or len(line) > _MAX_LINE:
            raise Refused(400, "A chunk's size line is malformed.")
        number = int(size[1], 16)
        if number:
            self._left = number + 2
        else:
            self._trailers = 0

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailers += 1
        if self._trailers > _MAX_TRAILERS or len(line) > _MAX_LINE or _TRAILER.fullmatch(line) is None:
            raise Refused(400, "A trailer line is malformed.")
        self._room -= len(line)
        if self._room >= 0:
            self.kept.append(line)
        else:
            self.kept.clear()


def chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
