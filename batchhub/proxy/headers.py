"""What is written into the heads that are sent on: hop-by-hop headers out, forwarded headers anew, no hub credential to an application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from batchhub.core.errors import ConfigError
from batchhub.core.tickets import COOKIE_NAME
from batchhub.proxy.wire import CHUNKED, RequestHead, ResponseHead

SESSION_COOKIES = frozenset({b"batchhub-session", b"batchhub-xsrf"})
ACCESS_COOKIE = COOKIE_NAME.encode()

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
_FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
)
_IDENTITY = frozenset(
    {b"x-real-ip", b"x-scheme", b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-forwarded-prefix", b"x-forwarded-server"}
)
# An application that reads headers through CGI variables would take these for the ones above; "proxy" becomes HTTP_PROXY.
_LOOKALIKES = frozenset(
    name.replace(b"-", b"_") for name in _FORWARDED | _IDENTITY | {b"transfer-encoding", b"content-length"}
) | {b"proxy"}
_OWNED_DROP = _HOP | {b"service-worker-allowed", b"clear-site-data"}
"""What an application may not send: it shares its origin with the hub, and these would let it read or wipe the hub's pages."""
_REQUEST_DROP = _HOP | _FORWARDED | _IDENTITY | _LOOKALIKES | {b"host"}


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


def forwarded(head: RequestHead, peer: Peer) -> Forwarded:
    """What is said in the ``X-Forwarded-`` headers: our own knowledge, or a trusted proxy's, to whose list of addresses it is added."""
    port = _port(head.host, peer.scheme.encode())
    fresh = Forwarded(peer.address.encode(), peer.scheme.encode(), head.host, port)
    if not peer.trusted:
        return fresh
    chain = [line for line in head.all(b"x-forwarded-for") if line.strip()]
    scheme = head.get(b"x-forwarded-proto") or fresh.scheme
    host = head.get(b"x-forwarded-host") or fresh.host
    return Forwarded(
        b", ".join([*chain, fresh.client]), scheme, host, head.get(b"x-forwarded-port") or _port(host, scheme)
    )


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
    secrets: frozenset[bytes],
    authorization: bytes | None,
) -> bytes:
    """The head as it goes to the application.

    ``secrets`` names the cookies that are left out. ``authorization`` ``None`` leaves the client's ``Authorization`` in; anything
    else replaces it (empty: by nothing).
    """
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target, host)]
    drop = _REQUEST_DROP if head.connection <= _ORDINARY else _REQUEST_DROP | (head.connection - _KEPT)
    for lower, name, value in head.headers:
        if lower in drop or (lower == b"expect" and not head.minor):
            continue
        if lower == b"cookie":
            cookies = without_cookies(value, secrets)
            if cookies:
                lines.append(b"%b: %b\r\n" % (name, cookies))
        elif lower != b"authorization" or authorization is None:
            lines.append(b"%b: %b\r\n" % (name, value))
    if authorization:
        lines.append(b"Authorization: %b\r\n" % authorization)
    lines.append(
        b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n"
        % (client.client, client.scheme, client.host, client.port)
    )
    lines.append(_request_framing(head))
    return b"".join(lines)


_ORDINARY = frozenset({b"keep-alive", b"close", b"upgrade", b""})
# A client may not have these taken out by naming them in Connection: they decide who it is and where it goes.
_KEPT = frozenset({b"cookie", b"authorization", b"origin", b"host", b"sec-fetch-site", b"sec-fetch-mode"})


def _request_framing(head: RequestHead) -> bytes:
    if head.upgrade:
        return b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head.get(b"upgrade") or head.upgrade)
    if head.length == CHUNKED:
        return b"Transfer-Encoding: chunked\r\n\r\n"
    if head.length or head.get(b"content-length") is not None:
        return b"Content-Length: %d\r\n\r\n" % head.length
    return b"\r\n"


def without_cookies(value: bytes, names: frozenset[bytes]) -> bytes:
    """A Cookie header's value without the named cookies; the others as they came."""
    if b"batchhub-" not in value:
        return value
    return b";".join(pair for pair in value.split(b";") if pair.partition(b"=")[0].strip() not in names).strip(b"; ")


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


def response_lines(head: ResponseHead, *, framing: bytes, owned: bool, extra: bytes = b"") -> bytes:
    """The head as it goes to the client. An application (``owned``) cannot set the hub's cookies, nor act beyond its own path."""
    reason = head.reason or b"OK"
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, reason)]
    drop = _OWNED_DROP if owned else _HOP
    if not head.connection <= _ORDINARY:
        drop |= head.connection - {b"set-cookie"}
    for lower, name, value in head.headers:
        if lower in drop or (owned and lower == b"set-cookie" and value.lstrip().startswith(b"batchhub-")):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(extra)
    lines.append(framing)
    return b"".join(lines)
