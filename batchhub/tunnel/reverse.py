"""The tunnel that the job digs: it dials in at the proxy, and its connection carries the streams. For nodes that nobody can reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import H


class Gate(Protocol):
    """Where jobs dial in, shared by all clusters."""

    def open(self, handler: Callable[[], H], offer: str) -> Awaitable[H]:
        """A stream to the job that made this offer. Raises TunnelError when it has not dialled in."""


class ReverseTunnel:
    """:class:`~batchhub.core.ports.Tunnel` by forwarded-tcpip (RFC 4254, 7.2).

    Where the application listens is the job's own business: of the endpoint only ``offer`` counts. The gate is closed by whoever made it.
    """

    kind = "reverse"

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        """Open a channel in the job's connection. Raises TunnelError."""
        del user
        if not endpoint.offer:
            raise TunnelError("This route names no offer, so no job's connection can be told from others.")
        return await self._gate.open(handler, endpoint.offer)

    def state(self) -> Mapping[str, str]:
        """Nothing of its own: the connections are the gate's, whichever cluster the jobs are on, and are shown with the gate."""
        return {}

    async def close(self) -> None:
        """The gate is not ours."""
