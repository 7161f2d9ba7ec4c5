"""The tunnel to shared nodes: SSH through the login node to the compute node's sshd, as the user, then loopback or a Unix socket.

The application need not be open to the cluster's network, nor to other users of its node. What the user may not do on the node, the
stream may not do either: sshd and its PAM (``pam_slurm_adopt``) let in whoever has a job there, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from batchhub.core.errors import HubError, TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import H
from batchhub.tunnel.endpoint import check_endpoint
from batchhub.tunnel.login import Pool

LOOPBACK = "127.0.0.1"


class NodePool(Pool, Protocol):
    """Connections to one compute node's sshd."""

    @property
    def busy(self) -> bool:
        """Something runs through it, or is about to."""

    def tidy(self) -> bool:
        """Whether nothing is open, and no failure worth remembering."""


class Nodes(Protocol):
    """Makes them."""

    def pool(self, host: str) -> NodePool:
        """A new pool for this node, which goes through the login node's connection."""

    def counters(self) -> Mapping[str, int]:
        """``connects``, ``failures``, ``losses`` of all their connections."""


@dataclass(frozen=True, slots=True)
class NodeTunnelSettings:
    """``connect_timeout``, in seconds, is what the application has to answer the node in. Connections are kept to ``max_nodes`` nodes."""

    connect_timeout: float = 10.0
    max_nodes: int = 2000


class NodeTunnel:
    """:class:`~batchhub.core.ports.Tunnel` by two SSH connections, one inside the other.

    ``login`` is the way there, ``nodes`` makes the pools that go through it. Both are closed with the tunnel.
    """

    kind = "node"

    def __init__(self, login: Pool, nodes: Nodes, settings: NodeTunnelSettings | None = None) -> None:
        self._login = login
        self._nodes = nodes
        self._settings = settings or NodeTunnelSettings()
        self._pools: dict[str, NodePool] = {}
        """By node; the one used last comes last."""
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        """Open a channel. Raises TunnelError that says which of the hops failed."""
        check_endpoint(endpoint)
        if not endpoint.host:
            raise TunnelError("The node that the application runs on is not known.")
        pool = self._pool(endpoint.host.lower().rstrip("."))
        wait = self._settings.connect_timeout
        try:
            if endpoint.socket:
                return await pool.open_unix(user, handler, endpoint.socket, wait)
            return await pool.open_stream(user, handler, LOOPBACK, endpoint.port, wait)
        except TunnelError:
            raise
        except HubError as error:
            raise TunnelError(f"No SSH connection to the node {endpoint.host}: {error}") from error

    def _pool(self, host: str) -> NodePool:
        pool = self._pools.pop(host, None)
        if pool is None:
            self._make_room()
            pool = self._nodes.pool(host)
        self._pools[host] = pool
        return pool

    def _make_room(self) -> None:
        """Forget nodes that nobody uses; at the limit, also close connections on which nothing runs."""
        for host in [host for host, pool in self._pools.items() if pool.tidy()]:
            del self._pools[host]
        if len(self._pools) < self._settings.max_nodes:
            return
        idle = next((host for host, pool in self._pools.items() if not pool.busy), None)
        if idle is None:
            raise TunnelError(
                f"There are connections to {len(self._pools)} nodes already, which is the limit (max_nodes)."
            )
        closing = asyncio.get_running_loop().create_task(self._close(self._pools.pop(idle)), name=f"ssh close {idle}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    @staticmethod
    async def _close(pool: NodePool) -> None:
        await pool.close()

    def state(self) -> Mapping[str, str]:
        """The connections to the login node and to nodes."""
        found = dict(self._login.state())
        for pool in self._pools.values():
            found.update(pool.state())
        return found

    def counters(self) -> Mapping[str, int]:
        """Connections to nodes that were made (``connects``), not made (``failures``) and lost (``losses``) since the start."""
        return self._nodes.counters()

    async def close(self) -> None:
        """Close the connections to nodes, then those to the login node."""
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*(pool.close() for pool in pools), *self._closing)
        await self._login.close()
