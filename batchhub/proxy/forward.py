"""How a request is changed on its way in stand-alone mode: configurable-http-proxy's options, for those who put this proxy in its place.

Pure functions over heads. A proxy of BatchHub's own calls none of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchhub.core.routes import stripped
from batchhub.proxy.headers import FORWARDED, IDENTITY, Forwarded, Peer, forwarded, hearsay, request_lines
from batchhub.proxy.target import Target
from batchhub.proxy.wire import RequestHead, ResponseHead

_ADDRESS = re.compile(rb"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_MOVED = frozenset({201, 301, 302, 307, 308})
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}
_NOTHING: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Forwarding:
    """configurable-http-proxy's forwarding options, with its defaults.

    ``x_forward``: say in ``X-Forwarded-`` headers who asked. ``prepend_path``: put the target's own path before a request's.
    ``include_prefix``: keep the route's path in a request's. ``auto_rewrite`` and ``protocol_rewrite``: make a redirect to the target lead to
    the proxy instead, or to this protocol. ``change_origin``: send the target's own name as Host. ``custom_headers`` replace a request's.
    ``host_routing``: a route's first segment is the host's name, without its port.
    """

    x_forward: bool = True
    prepend_path: bool = True
    include_prefix: bool = True
    auto_rewrite: bool = False
    protocol_rewrite: str = ""
    change_origin: bool = False
    custom_headers: tuple[tuple[str, str], ...] = ()
    host_routing: bool = False


def host_segment(host: bytes) -> str:
    """The first segment that host routing puts before a path: a Host header without its port."""
    name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
    return name.decode("latin-1").lower()


def request_head(head: RequestHead, path: str, *, route: str, target: Target, peer: Peer, options: Forwarding) -> bytes:
    """The whole head as it goes to the target. ``path`` is canonical, ``route`` the key of the route it belongs to."""
    if not options.include_prefix and route != "/":
        path = stripped(path, route.count("/") - options.host_routing)
    prefix = target.prefix if options.prepend_path else ""
    host = _own_name(target) if options.change_origin else head.host or target.authority.encode()
    told = hearsay(head, peer)
    lines = request_lines(
        head,
        f"{prefix}{path}".encode("ascii") + head.query,
        _as_told(head, peer) if told else forwarded(head, peer),
        host,
        secrets=b"",
        authorization=None,
    )
    replaced = _NOTHING if options.x_forward else FORWARDED
    ours = {name.lower().encode("latin-1") for name, _ in options.custom_headers}
    said = _said(head, (IDENTITY | replaced) - ours) if told else []
    custom = [f"{name}: {value}".encode("latin-1") for name, value in options.custom_headers]
    replaced |= ours
    return _edited(lines, replaced, [*said, *custom]) if replaced or said else lines


def redirected(head: ResponseHead, host: bytes, target: Target, options: Forwarding) -> ResponseHead:
    """The answer with a ``Location`` at the target turned into one at this proxy, which the client knows as ``host``."""
    if head.status not in _MOVED or not (options.auto_rewrite or options.protocol_rewrite):
        return head
    headers = [
        (lower, name, _rewritten(value, host, target, options) if lower == b"location" else value)
        for lower, name, value in head.headers
    ]
    return head._replace(headers=headers)


def _rewritten(location: bytes, host: bytes, target: Target, options: Forwarding) -> bytes:
    address = _ADDRESS.fullmatch(location)
    if address is None:
        return location
    scheme, authority, rest = address.groups()
    if authority.lower().removesuffix(_DEFAULT_PORT[scheme.lower()]) != _own_name(target).lower():
        return location
    if options.auto_rewrite and host:
        authority = host
    return b"%b://%b%b" % (options.protocol_rewrite.encode("ascii") or scheme, authority, rest)


def _own_name(target: Target) -> bytes:
    """What a target would expect as Host: without the port that its scheme implies."""
    return target.authority.encode("ascii").removesuffix(_DEFAULT_PORT[b"https" if target.tls else b"http"])


def _said(head: RequestHead, names: frozenset[bytes]) -> list[bytes]:
    return [b"%b: %b" % (name, value) for lower, name, value in head.headers if lower in names]


def _edited(lines: bytes, replaced: frozenset[bytes], more: list[bytes]) -> bytes:
    """A head without the lines of these names, and with these lines."""
    first, *fields = lines.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in fields if line.partition(b":")[0].lower() not in replaced]
    return b"\r\n".join([first, *kept, *more, b"", b""])


def _as_told(head: RequestHead, peer: Peer) -> Forwarded:
    """As always; but JupyterHub's documentation has an nginx in front that says ``X-Scheme`` alone."""
    known = forwarded(head, peer)
    if head.get(b"x-forwarded-proto"):
        return known
    return known._replace(scheme=head.get(b"x-scheme") or known.scheme)
