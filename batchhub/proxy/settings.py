"""What the proxy is told at start, frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from batchhub.core.errors import ConfigError
from batchhub.core.tickets import MIN_KEY


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
class ProxySettings:
    """The addresses to listen on, the secrets shared with the hub, and the limits.

    ``public_port`` and ``api_port`` 0 pick a free one; ``public_socket`` replaces the port. ``trusted_proxies`` are addresses or networks in front of us whose
    forwarded headers are believed. ``ticket_keys``: the first signs renewals, all are accepted. ``ticket_life`` is the longest time any
    ticket can live, over renewals: so long a revocation is remembered.
    """

    token: str = field(repr=False)
    ticket_keys: tuple[bytes, ...] = field(repr=False)
    state_file: Path
    default_target: str = ""
    public_host: str = "127.0.0.1"
    public_port: int = 8000
    public_socket: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    api_host: str = "127.0.0.1"
    api_port: int = 8001
    trusted_proxies: tuple[str, ...] = ()
    secure_cookies: bool = False
    hub_prefix: str = "/hub/"
    ticket_life: timedelta = timedelta(days=30)
    access_log: bool = True
    limits: Limits = Limits()

    def check(self) -> None:
        """Raises :class:`ConfigError` with a sentence about what is wrong."""
        if len(self.token.strip()) < 16:
            raise ConfigError(
                "The proxy's control API needs a token of at least 16 characters: without one, anybody on this machine could "
                "redirect every user's traffic."
            )
        if not self.ticket_keys or any(len(key) < MIN_KEY for key in self.ticket_keys):
            raise ConfigError(f"The proxy needs at least one ticket key, of at least {MIN_KEY} bytes.")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("TLS needs both a certificate and its key.")
