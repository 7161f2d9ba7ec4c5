"""Where a route leads: an address to dial, directly or through a tunnel, read from what the control API was sent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from batchhub.core.errors import BadInput
from batchhub.core.model import Endpoint

_HOST = re.compile(r"[A-Za-z0-9.\-_:]{1,255}")
_OFFER = re.compile(r"[A-Za-z0-9_-]{0,64}")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]+)*")
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """``prefix`` is put before a request's path (empty for almost all). ``cluster`` and ``kind`` choose a tunnel; both empty: dial it."""

    endpoint: Endpoint
    prefix: str = ""
    tls: bool = False
    cluster: str = ""
    kind: str = ""
    account: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hash once: the pool looks a target up twice for each request."""
        fields = (self.endpoint, self.prefix, self.tls, self.cluster, self.kind, self.account)
        object.__setattr__(self, "_hash", hash(fields))

    def __hash__(self) -> int:
        """By all fields, as equality is."""
        return self._hash

    @property
    def authority(self) -> str:
        """Host and port for a Host header and for people."""
        where = self.endpoint
        if where.socket:
            return where.host or "localhost"
        return f"[{where.host}]:{where.port}" if ":" in where.host else f"{where.host}:{where.port}"


def read_target(url: str, tunnel: object = None, endpoint: object = None) -> Target:
    """Read a route's ``target``, ``tunnel`` and ``endpoint`` fields. An endpoint wins over the URL. Raises :class:`BadInput`."""
    cluster, kind, account = _tunnel(tunnel)
    if endpoint is not None:
        return Target(_endpoint(endpoint), _url(url).prefix if url else "", False, cluster, kind, account)
    read = _url(url)
    return Target(read.endpoint, read.prefix, read.tls, cluster, kind, account)


def _url(url: str) -> Target:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadInput(f"target {url[:100]!r}: {error}.") from error
    prefix = parts.path.rstrip("/")
    if not _PREFIX.fullmatch(prefix) or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadInput(f"target {url[:100]!r}: only a scheme, a host, a port and a plain path are understood.")
    if parts.scheme in {"http+unix", "unix+http"}:
        return Target(_endpoint({"host": "", "socket": unquote(parts.netloc)}), prefix)
    if parts.scheme not in _PORTS:
        raise BadInput(f"target {url[:100]!r}: http://HOST:PORT, https://HOST:PORT or http+unix://%2Fpath is expected.")
    if port == 0:
        raise BadInput(f"target {url[:100]!r}: the port is 0.")
    return Target(
        _endpoint({"host": host, "port": port or _PORTS[parts.scheme]}), prefix, parts.scheme in {"https", "wss"}
    )


def _tunnel(value: object) -> tuple[str, str, str]:
    if value is None:
        return "", "", ""
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), str) for name in ("cluster", "kind", "account")
    ):
        raise BadInput("tunnel: an object with the texts cluster, kind and account is expected.")
    return value["cluster"], value["kind"], value["account"]


def _endpoint(value: object) -> Endpoint:
    if not isinstance(value, dict):
        raise BadInput("endpoint: an object with host and port, or host and socket, is expected.")
    host, port, socket = value.get("host", ""), value.get("port", 0) or 0, value.get("socket", "") or ""
    if not isinstance(host, str) or (host and not _HOST.fullmatch(host)):
        raise BadInput("endpoint: host must be a host name or an address.")
    offer = value.get("offer", "") or ""
    if not isinstance(offer, str) or not _OFFER.fullmatch(offer):
        raise BadInput("endpoint: offer must be at most 64 letters, digits, '-' and '_'.")
    if not isinstance(port, int) or isinstance(port, bool) or not isinstance(socket, str):
        raise BadInput("endpoint: port must be a number and socket a path.")
    if socket:
        if not socket.startswith("/") or "\0" in socket or len(socket) > 255:
            raise BadInput("endpoint: socket must be an absolute path.")
        return Endpoint(host, 0, socket, offer)
    if not host or not 0 < port < 65536:
        raise BadInput("endpoint: a host and a port from 1 to 65535 are needed.")
    return Endpoint(host, port, offer=offer)
