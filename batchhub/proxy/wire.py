"""Message heads: where one ends, what it says, and the refusal of every head that two readers could read differently.

Each head is read twice: a strict pattern admits only header lines of RFC 9112's grammar (no bare CR or LF, no folding, no space before
the colon, no control characters), then llhttp, through httptools, takes it apart. Both must agree to it. Bodies are none of this
module's business; it only says how they are framed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import httptools

from batchhub.core.errors import HubError

END = b"\r\n\r\n"

_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[\t ]|\x00")
_HOST = re.compile(rb"[A-Za-z0-9.\-_~%]+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(.*)", re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,18}")

_DECISIVE = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"})

Header = tuple[bytes, bytes, bytes]
"""Lower-case name, name as it came, value."""

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
    """A request's first part. ``length`` is the body's, or :data:`CHUNKED`.

    ``path`` is as it came, without ``query`` (which holds its ``?``). ``upgrade`` is the protocol asked for, lower-case, or empty.
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

    def get(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        return next((value for lower, _, value in self.headers if lower == name), None)

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


class _Collector:
    """What httptools calls while it reads a head."""

    __slots__ = ("headers", "reason", "target")

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.target = b""
        self.reason = b""

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_status(self, part: bytes) -> None:
        self.reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), name, value))


def suspicious(part: bytes, start: int) -> bool:
    """Whether an unfinished head holds, from ``start`` on, what no head may hold: then there is no use in waiting for its end."""
    return _BARE.search(part, start) is not None


def parse_request(head: bytes) -> RequestHead:
    """Read a whole request head, its empty line included. Raises :class:`Refused`."""
    _strict(head)
    seen = _Collector()
    parser = httptools.HttpRequestParser(seen)
    try:
        with suppress(httptools.HttpParserUpgrade):
            parser.feed_data(head)
    except httptools.HttpParserError as error:
        raise Refused(400, f"The request cannot be read: {error}.") from error
    method, version = parser.get_method(), parser.get_http_version()
    if version not in {"1.1", "1.0"}:
        raise Refused(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if method in {b"CONNECT", b"TRACE"}:
        raise Refused(405, "CONNECT and TRACE are not offered here.")
    minor = int(version[2])
    found = _decisive(seen.headers)
    connection = _connection(found)
    host, path, query = _target(seen.target, _host(found, minor))
    length = _request_length(found, minor)
    upgrade = _upgrade(found) if b"upgrade" in connection and minor and not length else b""
    return RequestHead(
        method, path, query, minor, host, seen.headers, length, not minor or b"close" in connection, upgrade, connection
    )


def parse_response(head: bytes, method: bytes) -> ResponseHead:
    """Read a whole response head to a request of this method. Raises :class:`Refused` (502)."""
    try:
        _strict(head)
        seen = _Collector()
        parser = httptools.HttpResponseParser(seen)
        with suppress(httptools.HttpParserUpgrade):
            parser.feed_data(head)
        version, status = parser.get_http_version(), parser.get_status_code()
        if version not in {"1.1", "1.0"} or not 100 <= status <= 599:
            raise Refused(502, f"it speaks HTTP/{version} with status {status}.")
        found = _decisive(seen.headers)
        connection = _connection(found)
        length = _response_length(found, status, method)
    except httptools.HttpParserError as error:
        raise Refused(502, f"The application's answer cannot be read: {error}.") from error
    except Refused as error:
        raise Refused(502, f"The application's answer cannot be read: {error}") from error
    close = b"close" in connection or (version == "1.0" and b"keep-alive" not in connection) or length == UNTIL_CLOSE
    return ResponseHead(status, seen.reason, seen.headers, length, close, connection)


def _strict(head: bytes) -> None:
    start = head.find(b"\r\n") + 2
    if b"\n" in head[: start - 2] or _FIELDS.fullmatch(head, start, len(head) - 2) is None:
        raise Refused(
            400, "A header line is malformed (bare CR or LF, folding, control character or space before the colon)."
        )


def _decisive(headers: list[Header]) -> dict[bytes, list[bytes]]:
    """The values of the headers that decide about framing and routing."""
    found: dict[bytes, list[bytes]] = {}
    for name, _, value in headers:
        if name in _DECISIVE:
            found.setdefault(name, []).append(value)
    return found


def _connection(found: Mapping[bytes, list[bytes]]) -> frozenset[bytes]:
    lines = found.get(b"connection")
    if not lines:
        return frozenset()
    return frozenset(word.strip().lower() for word in b",".join(lines).split(b","))


def _upgrade(found: Mapping[bytes, list[bytes]]) -> bytes:
    offered = b",".join(found.get(b"upgrade", ())).strip().lower()
    # HTTP/2 by upgrade would carry requests past every check made here.
    return b"" if offered.startswith((b"h2", b"http", b"tls")) or b"," in offered else offered


def _host(found: Mapping[bytes, list[bytes]], minor: int) -> bytes:
    hosts = found.get(b"host", [])
    if len(hosts) > 1:
        raise Refused(400, "The request has more than one Host header.")
    if not hosts:
        if minor:
            raise Refused(400, "The request has no Host header.")
        return b""
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


def _request_length(found: Mapping[bytes, list[bytes]], minor: int) -> int:
    lengths, codings = found.get(b"content-length", ()), found.get(b"transfer-encoding", ())
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


def _response_length(found: Mapping[bytes, list[bytes]], status: int, method: bytes) -> int:
    lengths, codings = found.get(b"content-length", ()), found.get(b"transfer-encoding", ())
    if codings and (lengths or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise Refused(502, "its Transfer-Encoding is not exactly 'chunked', or Content-Length is there as well.")
    if len(lengths) > 1 or (lengths and _LENGTH.fullmatch(lengths[0]) is None):
        raise Refused(502, "its Content-Length is not one number.")
    if method == b"HEAD" or status < 200 or status in {204, 304}:
        return 0
    if codings:
        return CHUNKED
    return int(lengths[0]) if lengths else UNTIL_CLOSE
