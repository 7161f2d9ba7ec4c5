"""What is written into the heads that are sent on: hop-by-hop headers out, forwarded headers anew, no hub credential to an application."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import product
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from batchhub.core.errors import ConfigError
from batchhub.core.tickets import COOKIE_NAME
from batchhub.proxy.wire import CHUNKED, RequestHead, ResponseHead

ACCESS_COOKIE = COOKIE_NAME.encode()
HUB_COOKIES = b"batchhub-"
"""Every cookie of the hub has this in its name."""

_TOKEN = re.compile(rb"bh_[0-9A-Za-z_-]{43}")  # a hub's API token, as batchhub.auth.tokens makes them

_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",  # written anew with the framing
    }
)
FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
)
IDENTITY = frozenset(
    {b"x-real-ip", b"x-scheme", b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-forwarded-prefix", b"x-forwarded-server"}
)
_ABOUT_OTHERS = FORWARDED | IDENTITY
# An application that reads headers through CGI variables would take these for the ones above; "proxy" becomes HTTP_PROXY.
_LOOKALIKES = frozenset(
    b"".join(spelling)
    for name in _ABOUT_OTHERS
    for spelling in product(*((b"-", b"_") if letter == ord("-") else (bytes((letter,)),) for letter in name))
) | {b"proxy"}
_OWNED_DROP = _HOP | {b"service-worker-allowed", b"clear-site-data"}
"""What an application may not send: it shares its origin with the hub, and these would let it read or wipe the hub's pages."""
_REQUEST_DROP = _HOP | _ABOUT_OTHERS | _LOOKALIKES | {b"host"}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a client connection, and how it reached us. ``trusted``: a proxy whose word is believed."""

    address: str
    scheme: str
    trusted: bool = False


class Forwarded(NamedTuple):
    """The request as the outermost client made it, as far as is known."""

    client: bytes
    scheme: bytes
    host: bytes
    port: bytes


class TrustedProxies:
    """The networks whose forwarded headers are believed. Raises :class:`ConfigError` for what is no network."""

    __slots__ = ("_networks",)

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
                ip_network(text, strict=False) for text in texts
            )
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}.") from error

    def __contains__(self, address: str) -> bool:
        """Whether this address is one of theirs."""
        if not self._networks:
            return False
        try:
            number: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = number.ipv4_mapped if isinstance(number, IPv6Address) else None
        return any((mapped or number) in network for network in self._networks)


def hearsay(head: RequestHead, peer: Peer) -> bool:
    """Whether a trusted proxy says something about its client here. Looked at first: most requests that come from this machine say nothing."""
    return peer.trusted and any(lower in _ABOUT_OTHERS for lower, _, _ in head.headers)


def forwarded(head: RequestHead, peer: Peer) -> Forwarded:
    """What is said in the ``X-Forwarded-`` headers: our own knowledge, or a trusted proxy's, to whose list of addresses it is added."""
    scheme = peer.scheme.encode()
    fresh = Forwarded(peer.address.encode(), scheme, head.host, _port(head.host, scheme))
    if not hearsay(head, peer):
        return fresh
    chain = [line for line in head.all(b"x-forwarded-for") if line.strip()]
    scheme = head.get(b"x-forwarded-proto") or fresh.scheme
    host = head.get(b"x-forwarded-host") or fresh.host
    return Forwarded(
        b", ".join([*chain, fresh.client]), scheme, host, head.get(b"x-forwarded-port") or _port(host, scheme)
    )


def asker(head: RequestHead, peer: Peer, trusted: TrustedProxies) -> str:
    """The address of whoever asks: the last one in a trusted proxy's list that is no trusted proxy itself. What stands before it, anybody can write.

    Where the list cannot be read, no more is known than who told us.
    """
    nearest = peer.address
    if peer.trusted:
        for text in reversed(b",".join(head.all(b"x-forwarded-for")).decode("latin-1").split(",")):
            address = _address(text.strip())
            if not address:
                break
            nearest = address
            if address not in trusted:
                break
    return nearest


_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")  # as some balancers write them


def _address(text: str) -> str:
    """In one spelling; empty for what is none."""
    found = _WITH_PORT.fullmatch(text)
    try:
        return str(ip_address((found[1] or found[2]) if found else text))
    except ValueError:
        return ""


def _port(host: bytes, scheme: bytes) -> bytes:
    _, colon, port = host.rpartition(b":")
    if colon and port.isdigit():
        return port
    return b"443" if scheme.lower() == b"https" else b"80"


def request_lines(
    head: RequestHead,
    target: bytes,
    client: Forwarded,
    host: bytes,
    *,
    secrets: bytes,
    authorization: bytes | None,
    owned: bool = False,
    taken: frozenset[bytes] = frozenset(),
) -> bytes:
    """The head as it goes to the application.

    Cookies with ``secrets``, if any, in their name are left out. ``authorization`` ``None`` leaves the client's ``Authorization`` in; anything
    else replaces it (empty: by nothing). Out of what goes to somebody's server (``owned``) every text that looks like a hub's token is
    taken, whatever header it stands in: a ``Referer`` repeats addresses. Headers in ``taken`` are left out, with ``_`` for ``-`` too. The target is the caller's, see :func:`without_tokens`.
    """
    lines = [b"Host: %b\r\n" % host]
    drop = _REQUEST_DROP if head.connection <= _ORDINARY else _REQUEST_DROP | (head.connection - _KEPT)
    for lower, name, value in head.headers:
        if lower in drop or (lower == b"expect" and not head.minor) or lower.replace(b"_", b"-") in taken:
            continue
        if lower == b"cookie" and secrets:
            cookies = without_cookies(value, secrets)
            if cookies:
                lines.append(b"%b: %b\r\n" % (name, cookies))
        elif lower != b"authorization" or authorization is None:
            lines.append(b"%b: %b\r\n" % (name, value))
    own = b"Authorization: %b\r\n" % authorization if authorization else b""
    theirs = b"".join(lines)
    if owned and b"bh_" in theirs:
        theirs = _TOKEN.sub(b"", theirs)
    return (
        b"%b %b HTTP/1.1\r\n%b%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n%b"
        % (
            head.method,
            target,
            theirs,
            own,
            *client,
            _request_framing(head),
        )
    )


_ORDINARY = frozenset({b"keep-alive", b"close", b"upgrade", b"te", b""})
# A client may not have these taken out by naming them in Connection: they decide who it is and where it goes.
_KEPT = frozenset({b"cookie", b"authorization", b"origin", b"host", b"sec-fetch-site", b"sec-fetch-mode"})


def _request_framing(head: RequestHead) -> bytes:
    if head.upgrade:
        return b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head.get(b"upgrade") or head.upgrade)
    end = b"Connection: TE\r\nTE: trailers\r\n\r\n" if head.trailers else b"\r\n"
    if head.length == CHUNKED:
        return b"Transfer-Encoding: chunked\r\n" + end
    return b"Content-Length: %d\r\n%b" % (head.length, end) if head.sized else end


def without_cookies(value: bytes, secrets: bytes) -> bytes:
    """A Cookie header's value without the cookies that have ``secrets`` in their name, in capitals too; the others as they came."""
    if secrets not in value.lower():
        return value
    return b";".join(pair for pair in value.split(b";") if secrets not in _cookie_name(pair)).strip(b"; ")


def _cookie_name(pair: bytes) -> bytes:
    """In lower case. ``=NAME=VALUE`` and ``NAME`` are cookies without a name: a browser sends them as if they had this one."""
    return pair.strip(b' \t="').partition(b"=")[0].lower()


def without_tokens(query: bytes) -> bytes:
    """A query string without the parameters that hold a hub's token: an address is no place for one, and it is not the application's."""
    if b"bh_" not in query and b"%" not in query:
        return query
    kept = [part for part in query[1:].split(b"&") if _TOKEN.search(unquote_to_bytes(part)) is None]
    return b"?" + b"&".join(kept) if kept else b""


def cookies(lines: Sequence[bytes], name: bytes, most: int = 4) -> list[str]:
    """The values of the cookie of this name: several paths may have set one each."""
    found = []
    for line in lines:
        if name in line:
            for pair in line.split(b";"):
                key, _, value = pair.partition(b"=")
                if key.strip() == name:
                    found.append(value.strip().decode("latin-1"))
    return found[:most]


def response_lines(
    head: ResponseHead, *, framing: bytes, owned: bool, extra: bytes = b"", trailers: bool = False
) -> bytes:
    """The head as it goes to the client. An application (``owned``) cannot set the hub's cookies, nor act beyond its own path.

    ``trailers``: they will be passed on (:func:`last_chunk`), and so may be announced.
    """
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    drop = _OWNED_DROP if owned else _HOP
    if not head.connection <= _ORDINARY:
        drop |= head.connection - {b"set-cookie"}
    for lower, name, value in head.headers:
        if lower not in drop:
            if not (owned and lower == b"set-cookie" and HUB_COOKIES in _cookie_name(value.partition(b";")[0])):
                lines.append(b"%b: %b\r\n" % (name, value))
        elif trailers and lower == b"trailer" and lower not in head.connection:
            lines.append(b"Trailer: %b\r\n" % value)
    lines.append(extra)
    lines.append(framing)
    return b"".join(lines)


def connection_line(head: ResponseHead, *, close: bool) -> bytes:
    """The end of a final answer's head: whether the connection ends, and with 426 to what the client has to upgrade (RFC 9110 section 15.5.22)."""
    if head.status == 426:
        offers = b", ".join(value for name, _, value in head.headers if name == b"upgrade")
        if offers:
            return b"Connection: %bUpgrade\r\nUpgrade: %b\r\n\r\n" % (b"close, " if close else b"", offers)
    return b"Connection: close\r\n\r\n" if close else b"\r\n"


def last_chunk(trailers: Sequence[bytes], head: ResponseHead) -> bytes:
    """The end of a chunked body, with those trailers that can do no harm to one who takes them for headers (RFC 9110 section 6.5.1).

    ``trailers`` are lines that keep to the grammar, ``head`` is their answer's.
    """
    kept = []
    for line in trailers:
        name = line.partition(b":")[0].lower()
        if name not in head.connection and _NO_TRAILER.fullmatch(name) is None:
            kept.append(line + b"\r\n")
    return b"0\r\n%b\r\n" % b"".join(kept)


# Framing, routing, credentials, request modifiers, response controls and what describes the content; with a safe margin.
_NO_TRAILER = re.compile(
    rb"(?:content|access-control|proxy|sec|x-forwarded|x-frame|cross-origin|if|www)-.*|.*(?:cookie|authorization|authenticat).*|.*_.*"
    rb"|accept.*|age|allow|alt-svc|cache-control|clear-site-data|connection|date|expect|expires|forwarded|host|keep-alive|location|max-forwards"
    rb"|origin.*|pragma|range|refer+er.*|refresh|retry-after|service-worker.*|set-.*|strict-transport-security|te|trailer|transfer-encoding"
    rb"|upgrade.*|vary|via|warning"
)
