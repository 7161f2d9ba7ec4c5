"""The usual tunnel: inside the pooled SSH connection to the login node, a channel from there to the compute node.

No port is opened on the login node. The node itself needs no sshd, but its port must be open to the login node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from batchhub.core.errors import HubError, TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import H
from batchhub.tunnel.endpoint import check_endpoint


class Pool(Protocol):
    """Connections to a login node, by account; ``None`` is the service's."""

    @property
    def host(self) -> str:
        """The login node's name."""

    def open_stream(
        self, user: str | None, handler: Callable[[], H], host: str, port: int, seconds: float
    ) -> Awaitable[H]:
        """A TCP stream from the login node. Raises TunnelError if that fails, Unreachable if the login node does."""

    def open_unix(self, user: str | None, handler: Callable[[], H], path: str, seconds: float) -> Awaitable[H]:
        """A stream to a Unix socket on the login node. Raises the same."""

    def state(self) -> Mapping[str, str]:
        """Its connections; no secret."""

    def counters(self) -> Mapping[str, int]:
        """``connects``, ``failures``, ``losses`` of its connections."""

    def close(self) -> Awaitable[None]:
        """Close them."""


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """Whose SSH connection carries the channels, and how long a node may take.

    ``as_user``: the user's own, not the service's. ``connect_timeout``, in seconds, is what the compute node has to answer in.
    """

    as_user: bool = False
    connect_timeout: float = 10.0


class LoginTunnel:
    """:class:`~batchhub.core.ports.Tunnel` by direct-tcpip (RFC 4254, 7.2)."""

    kind = "login"

    def __init__(self, pool: Pool, settings: LoginSettings | None = None) -> None:
        self._pool = pool
        self._settings = settings or LoginSettings()

    async def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        """Open a channel. Raises TunnelError that says which of the two hops failed."""
        check_endpoint(endpoint)
        login = self._pool.host
        if endpoint.socket and endpoint.host not in {"", "localhost", login}:
            raise TunnelError(f"A Unix socket on {endpoint.host} cannot be reached from {login}; a port can.")
        if endpoint.socket and not self._settings.as_user:
            # Its path is the job's word, and the service's account may open others than its owner's.
            raise TunnelError(f"A Unix socket on {login} is reached as its owner alone, with tunnel_as_user.")
        identity = user if self._settings.as_user else None
        wait = self._settings.connect_timeout
        try:
            if endpoint.socket:
                return await self._pool.open_unix(identity, handler, endpoint.socket, wait)
            return await self._pool.open_stream(identity, handler, endpoint.host, endpoint.port, wait)
        except TunnelError:
            raise
        except HubError as error:
            raise TunnelError(f"No SSH connection to the login node {login}: {error}") from error

    def state(self) -> Mapping[str, str]:
        """The pool's connections."""
        return self._pool.state()

    def counters(self) -> Mapping[str, int]:
        """SSH connections made (``connects``), not made (``failures``) and lost (``losses``) since the start."""
        return self._pool.counters()

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()
