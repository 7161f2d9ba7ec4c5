"""Connections to compute nodes' sshd, each through the one to the login node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict

from batchhub.core.ports import Clock, H
from batchhub.transport.certificates import Sign
from batchhub.transport.pool import Shared, SSHPool
from batchhub.transport.settings import SSHSettings


class NodePools:
    """Pools of connections to compute nodes' sshd, through the login node's. Implements ``tunnel.node.Nodes``.

    Raises ConfigError for settings that cannot be.
    """

    def __init__(self, settings: SSHSettings, clock: Clock, login: SSHPool, sign: Sign | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._login = login
        self._sign = sign
        self._shared = Shared(asyncio.Semaphore(settings.for_node("node").max_handshakes))

    def pool(self, host: str) -> SSHPool:
        """A new pool for this node."""
        return SSHPool(self._settings.for_node(host), self._clock, via=self._dial, shared=self._shared, sign=self._sign)

    def counters(self) -> Mapping[str, int]:
        """``connects``, ``failures`` and ``losses`` of all nodes since the start."""
        return asdict(self._shared.counts)

    async def _dial(self, account: str, handler: Callable[[], H], host: str, port: int, seconds: float) -> H:
        identity = account if self._settings.tunnel_as_user else None
        return await self._login.open_stream(identity, handler, host, port, seconds)
