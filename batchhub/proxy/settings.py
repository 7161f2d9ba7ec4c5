"""What the proxy is told at start, frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from batchhub.core.errors import ConfigError
from batchhub.core.hosts import Origin
from batchhub.core.tickets import MIN_KEY
from batchhub.proxy.forward import Forwarding
from batchhub.proxy.identity import IDENTITY_HEADER, NEVER_IDENTITY
from batchhub.proxy.tls import ClientTLS, ServerTLS

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one client or application may cost. Sizes in bytes, times in seconds; 0 turns a time limit off."""

    head_bytes: int = 64 * 1024
    head_time: float = 30.0
    """From a request's first byte (or the connection's begin) to its head's end: slow-loris."""
    keep_alive: float = 75.0
    """An idle client connection lives this long."""
    body_idle: float = 120.0
    """A request body may stop for so long, while we are ready for it."""
    connect_time: float = 20.0
    response_time: float = 0.0
    """From the request's end to the response's head. Off as in configurable-http-proxy: a notebook may think for long."""
    half_closed: float = 30.0
    """A client that closed its sending side is given up after this long without a byte to send to it."""
    linger: float = 3.0
    """After an early answer, how long the rest of an upload is read and thrown away, so that the answer arrives."""
    pool_idle: float = 15.0
    pool_size: int = 64
    """Idle connections kept for each target."""
    connections: int = 20000
    """Client connections at once; more are closed at once."""
    tick: float = 1.0
    """How often time limits are looked at."""


@dataclass(frozen=True, slots=True)
class ErrorPages:
    """Where pages about errors come from: an address that is asked for ``/CODE?url=…``, or a directory; neither: our own."""

    target: str = ""
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """A port on which plain HTTP is sent on to https, and the port named in the new address (443: none)."""

    port: int
    to: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where Prometheus asks, without a token: a Unix socket, or a host (empty: every address) and a port (0 picks a free one)."""

    host: str = "127.0.0.1"
    port: int = 0
    socket: Path | None = None


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The addresses to listen on, the secrets shared with the hub, and the limits.

    ``public_port`` and ``api_port`` 0 pick a free one; ``public_socket`` and ``api_socket`` replace the port. ``standalone``: no hub of ours
    stands behind; every route is open and nothing of a request is kept from an application (docs/proxy.md). ``trusted_proxies`` are addresses
    or networks in front of us whose forwarded headers are believed. ``ticket_keys``: the first signs renewals, all are accepted. ``ticket_life`` is the longest time any
    ticket can live, over renewals: so long a revocation is remembered. ``state_file`` None: routes live in memory alone.

    ``dial_in`` is the one address, and the port, at which the jobs of ``reverse`` tunnels dial in.
    ``workers`` processes share the public sockets. After a reload, what is open in the old ones may last for ``drain`` (0: for ever).
    """

    token: str = field(repr=False)
    ticket_keys: tuple[bytes, ...] = field(repr=False)
    state_file: Path | None
    default_target: str = ""
    public_host: str = "127.0.0.1"
    public_port: int = 8000
    public_socket: Path | None = None
    tls: ServerTLS | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 8001
    api_socket: Path | None = None
    api_tls: ServerTLS | None = None
    client_tls: ClientTLS = field(default_factory=ClientTLS)
    trusted_proxies: tuple[str, ...] = ()
    identity_headers: tuple[str, ...] = ()
    """Headers in which ``trusted_proxies`` say who asks: told to the hub under our seal, and taken out of every request."""
    secure_cookies: bool = False
    hub_prefix: str = "/hub/"
    ticket_life: timedelta = timedelta(days=30)
    access_log: bool = True
    standalone: bool = False
    origin: Origin | None = None
    """The hub's own, when every server is served under a host of its own below it."""
    forwarding: Forwarding = field(default_factory=Forwarding)
    error_pages: ErrorPages = ErrorPages()
    redirect: Redirect | None = None
    metrics: Metrics | None = None
    dial_in: tuple[str, int] | None = None
    workers: int = 1
    drain: timedelta = timedelta(hours=24)
    limits: Limits = Limits()

    @property
    def hub_address(self) -> str:
        """Where the hub is, for a browser at any of the hosts."""
        return self.hub_prefix if self.origin is None else self.origin.text + self.hub_prefix

    def check(self) -> None:
        """Raises :class:`ConfigError` with a sentence about what is wrong."""
        if len(self.token.strip()) < 16:
            raise ConfigError(
                "The proxy's control API needs a token of at least 16 characters: without one, anybody on this machine could "
                "redirect every user's traffic."
            )
        if not self.ticket_keys or any(len(key) < MIN_KEY for key in self.ticket_keys):
            raise ConfigError(f"The proxy needs at least one ticket key, of at least {MIN_KEY} bytes.")
        for name in self.identity_headers:
            if not IDENTITY_HEADER.fullmatch(name) or name.lower() in NEVER_IDENTITY:
                raise ConfigError(
                    f"identity_headers: {name!r} is not the name of a header that could say who asks; 'Remote-User' is."
                )
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ConfigError(f"The proxy has 1 to {MAX_WORKERS} workers, not {self.workers}.")
        if self.drain < timedelta():
            raise ConfigError(
                "The time that open connections are given after a reload cannot be negative; 0 is without end."
            )
        if self.redirect is not None and self.tls is None:
            raise ConfigError("A port that redirects to https needs a certificate and its key.")
