"""Message heads: where one ends, what it says, and the refusal of every head that two readers could read differently.

One pattern, RFC 9112's grammar with nothing optional left in, admits a head whole or not at all: no bare CR or LF, no folding, no space before
the colon, no control characters, single spaces in the first line. What is admitted is taken apart by the same characters, so there is
nothing in between to disagree about; the tests hold it against two independent readers, h11 and llhttp. Bodies are none of this module's
business; it only says how they are framed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from batchhub.core.errors import HubError

END = b"\r\n\r\n"

_FIELDS = rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
_REQUEST = re.compile(rb"([A-Z][A-Z\-]{0,23}+) ([!\"$-~]++) HTTP/1\.([01])\r\n" + _FIELDS)
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n" + _FIELDS)
_FOLLOW_UP = re.compile(rb"([A-Z][A-Z\-]{0,23}+) (/[!\"$-~]*+) HTTP/1\.([01])")
_FIRST_LINE = re.compile(rb"[!-~]++ [!-~]++(?: HTTP/(?!1\.[01]\r)[0-9]\.[0-9])?\r\n")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[\t ]|\x00")
_HOST = re.compile(rb"[A-Za-z0-9.\-_~%]+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)((?:[/?].*)?)", re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_FIELDS_ALONE = re.compile(_FIELDS)
# Blanks around these two values are legal, and no client writes them but to find out who reads them differently.
_PLAINLY = re.compile(rb"(?:\A|\n)(?:content-length: ?[^\s]++|transfer-encoding: ?[^\s]++)\r\n", re.IGNORECASE)
_NOT_OFFERED = frozenset({b"CONNECT", b"TRACE"})

MAX_FIELDS = 200
"""Header lines in one head."""

_DECISIVE = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"te"}) | {
    b"content_length",  # an application that reads headers through CGI variables takes these two for the real ones
    b"transfer_encoding",
}
_COMMON = {word: frozenset({word.lower()}) for word in (b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"upgrade")}
_NONE: frozenset[bytes] = frozenset()

Header = tuple[bytes, bytes, bytes]
"""Lower-case name, name as it came, value without the blanks around it."""

CHUNKED = -1
"""``length`` of a message whose body comes in chunks."""
UNTIL_CLOSE = -2
"""``length`` of a response whose body ends with the connection."""


class Refused(HubError):
    """A message that is answered with an error and the end of the connection. ``code`` is the HTTP status."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class RequestHead(NamedTuple):
    """A request's first part. ``length`` is the body's, or :data:`CHUNKED`; ``sized``: it was given, be it 0.

    ``path`` is as it came, without ``query`` (which holds its ``?``). ``upgrade`` is the protocol asked for, lower-case, or empty.
    ``trailers``: the client reads trailers after a chunked answer.
    """

    method: bytes
    path: bytes
    query: bytes
    minor: int
    host: bytes
    headers: list[Header]
    length: int
    close: bool
    upgrade: bytes
    connection: frozenset[bytes]
    sized: bool
    trailers: bool

    def get(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        for lower, _, value in self.headers:
            if lower == name:
                return value
        return None

    def all(self, name: bytes) -> list[bytes]:
        """Every header of this lower-case name."""
        return [value for lower, _, value in self.headers if lower == name]


class ResponseHead(NamedTuple):
    """A response's first part. ``length`` is the body's, or :data:`CHUNKED` or :data:`UNTIL_CLOSE`."""

    status: int
    reason: bytes
    headers: list[Header]
    length: int
    close: bool
    connection: frozenset[bytes]


def suspicious(part: bytes, start: int) -> bool:
    """Whether an unfinished head holds, from ``start`` on, what no head may hold: then there is no use in waiting for its end."""
    return _BARE.search(part, start) is not None


def parse_request(head: bytes) -> RequestHead:
    """Read a whole request head, its empty line included. Raises :class:`Refused`."""
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise _unreadable(head)
    method, target, version, lines = match.groups()
    if method in _NOT_OFFERED:
        raise Refused(405, "CONNECT and TRACE are not offered here.")
    headers, found = _fields(lines)
    minor = 1 if version == b"1" else 0
    connection = _connection(found.get(b"connection"))
    host, path, query = _target(target, _host(found.get(b"host"), minor))
    lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
    length = _request_length(lengths, codings, minor, lines) if lengths or codings else 0
    upgrade = _upgrade(found) if b"upgrade" in connection and minor and not length else b""
    trailers = b"te" in found and minor == 1 and _takes_trailers(found[b"te"])
    close = not minor or b"close" in connection
    return RequestHead(
        method, path, query, minor, host, headers, length, close, upgrade, connection, lengths is not None, trailers
    )


def follow_up(line: bytes, before: RequestHead) -> RequestHead | None:
    """The head that has this first line above the very header lines of ``before``; ``None`` if they have to be read again.

    ``before`` had a path for its target, not an address.
    """
    match = _FOLLOW_UP.fullmatch(line)
    if match is None or match[1] != before.method or (match[3] == b"1") != bool(before.minor):
        return None
    path, mark, query = match[2].partition(b"?")
    return RequestHead(before.method, path, mark + query, *before[3:])


def parse_response(head: bytes, method: bytes) -> ResponseHead:
    """Read a whole response head to a request of this method. Raises :class:`Refused` (502)."""
    match = _RESPONSE.fullmatch(head)
    try:
        if match is None:
            raise _unreadable(head, answer=True)
        version, code, reason, lines = match.groups()
        status = int(code)
        headers, found = _fields(lines)
        lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
        length = _response_length(lengths, codings, status, method)
    except Refused as error:
        raise Refused(502, f"The application's answer cannot be read: {error}") from error
    connection = _connection(found.get(b"connection"))
    # Framing that contradicts the status or the version is not trusted to end where it says (RFC 9112 section 6.1).
    odd = (codings is not None and version == b"0") or (
        (status < 200 or status == 204) and (codings is not None or lengths not in {None, (b"0",)})
    )
    old = version == b"0" and b"keep-alive" not in connection
    close = odd or old or length == UNTIL_CLOSE or b"close" in connection
    return ResponseHead(status, reason or b"", headers, length, close, connection)


def _unreadable(head: bytes, *, answer: bool = False) -> Refused:
    """Why the pattern does not admit this head."""
    if not answer and _FIRST_LINE.match(head):
        return Refused(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    lines = head.partition(b"\r\n")[2]
    if _FIELDS_ALONE.fullmatch(lines) is not None:
        return Refused(400, f"Its first line is not {'an answer' if answer else 'a request'} in HTTP/1.1.")
    return Refused(
        400, "A header line is malformed (bare CR or LF, folding, control character or space before the colon)."
    )


def _fields(lines: bytes) -> tuple[list[Header], dict[bytes, tuple[bytes, ...]]]:
    """The header lines taken apart, and the values of those that decide about framing and routing."""
    headers: list[Header] = []
    found: dict[bytes, tuple[bytes, ...]] = {}
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:  # the piece after the last line is empty
            lower, value = name.lower(), value.strip()
            headers.append((lower, name, value))
            if lower in _DECISIVE:
                if b"_" in lower:
                    raise Refused(400, "A header's name is Content-Length or Transfer-Encoding with an underscore.")
                found[lower] = (*found.get(lower, ()), value)
    if len(headers) > MAX_FIELDS:
        raise Refused(431, f"The head has more than {MAX_FIELDS} header lines.")
    return headers, found


def _connection(lines: tuple[bytes, ...] | None) -> frozenset[bytes]:
    if lines is None:
        return _NONE
    known = _COMMON.get(lines[0]) if len(lines) == 1 else None
    return known or frozenset(word.strip().lower() for word in b",".join(lines).split(b","))


def _upgrade(found: Mapping[bytes, tuple[bytes, ...]]) -> bytes:
    offered = b",".join(found.get(b"upgrade", ())).strip().lower()
    # HTTP/2 by upgrade would carry requests past every check made here.
    return b"" if offered.startswith((b"h2", b"http", b"tls")) or b"," in offered else offered


def _takes_trailers(lines: tuple[bytes, ...]) -> bool:
    return any(word.strip().lower() == b"trailers" for word in b",".join(lines).split(b","))


def _host(hosts: tuple[bytes, ...] | None, minor: int) -> bytes:
    if hosts is None:
        if minor:
            raise Refused(400, "The request has no Host header.")
        return b""
    if len(hosts) > 1:
        raise Refused(400, "The request has more than one Host header.")
    if _HOST.fullmatch(hosts[0]) is None or len(hosts[0]) > 300:
        raise Refused(400, "The Host header is not a host name.")
    return hosts[0]


def _target(target: bytes, host: bytes) -> tuple[bytes, bytes, bytes]:
    """Host, path and query. An absolute target's authority replaces the Host header (RFC 9112 section 3.2.2)."""
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or _HOST.fullmatch(absolute[1]) is None:
            raise Refused(400, "The request's target must be a path or an http address.")
        host, target = absolute[1], absolute[2]
        target = target if target.startswith(b"/") else b"/" + target
    path, mark, query = target.partition(b"?")
    return host, path, mark + query


def _request_length(
    lengths: tuple[bytes, ...] | None, codings: tuple[bytes, ...] | None, minor: int, lines: bytes
) -> int:
    if _PLAINLY.search(lines) is None:
        raise Refused(400, "Content-Length or Transfer-Encoding is not written plainly: one space, then the value.")
    if codings:
        if lengths or not minor or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise Refused(
                400, "Transfer-Encoding must be exactly 'chunked', once, without Content-Length, in HTTP/1.1."
            )
        return CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise Refused(400, "Content-Length must be given once, as a number.")
    return int(lengths[0])


def _response_length(
    lengths: tuple[bytes, ...] | None, codings: tuple[bytes, ...] | None, status: int, method: bytes
) -> int:
    if codings and (lengths or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise Refused(502, "its Transfer-Encoding is not exactly 'chunked', or Content-Length is there as well.")
    if lengths and (len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None):
        raise Refused(502, "its Content-Length is not one number.")
    if method == b"HEAD" or status < 200 or status in {204, 304}:
        return 0
    if codings:
        return CHUNKED
    return int(lengths[0]) if lengths else UNTIL_CLOSE
