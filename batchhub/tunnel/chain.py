"""Several kinds of tunnel to one cluster, in order of preference, as one.

Which of them leads to a node is found out by trying, and remembered for each account and node, so that a firewall in front of the
preferred kind costs the first stream some seconds and those after it none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import H, Tunnel


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """``seconds`` is for all kinds together, and less than the proxy waits; ``remember``, in seconds, is how long an unused memory holds.

    ``memories`` bounds the pairs of account and node that are remembered.
    """

    seconds: float = 18.0
    remember: float = 600.0
    memories: int = 10_000


@dataclass(frozen=True, slots=True)
class Memory:
    """What worked, and until when (the loop's time) that counts."""

    kind: str
    until: float


class ChainTunnel:
    """:class:`~batchhub.core.ports.Tunnel` that tries others, given by kind and in order, which are closed with it."""

    def __init__(self, tunnels: Mapping[str, Tunnel], settings: ChainSettings | None = None) -> None:
        self._tunnels = dict(tunnels)
        self._settings = settings or ChainSettings()
        self._worked: dict[tuple[str, str], Memory] = {}
        """The one used last comes last."""

    @property
    def kind(self) -> str:
        """All of them: ``login,node``."""
        return ",".join(self._tunnels)

    async def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        """Try each until one works, each for its share of the time that is left. Raises TunnelError with every kind's cause."""
        now = asyncio.get_running_loop().time
        place = (user, endpoint.host or endpoint.offer)
        order = self._order(place, now())
        ends = now() + self._settings.seconds
        causes: dict[str, list[str]] = {}
        for position, kind in enumerate(order):
            share = max(0.0, ends - now()) / (len(order) - position)
            try:
                made = await _open_within(share, self._tunnels[kind], handler, endpoint, user)
            except TunnelError as error:
                causes.setdefault(str(error), []).append(kind)
            else:
                self._remember(place, kind, now())
                return made
        self._worked.pop(place, None)
        raise TunnelError(" ".join(f"By {' and '.join(kinds)}: {words}" for words, kinds in causes.items()))

    def _order(self, place: tuple[str, str], now: float) -> list[str]:
        memory = self._worked.get(place)
        if memory is None or now >= memory.until:
            return list(self._tunnels)
        return [memory.kind, *(kind for kind in self._tunnels if kind != memory.kind)]

    def _remember(self, place: tuple[str, str], kind: str, now: float) -> None:
        self._worked.pop(place, None)
        self._worked[place] = Memory(kind, now + self._settings.remember)
        while len(self._worked) > self._settings.memories:
            del self._worked[next(iter(self._worked))]

    def state(self) -> Mapping[str, str]:
        """The connections of all of them; those of one name are the same connection."""
        found: dict[str, str] = {}
        for tunnel in self._tunnels.values():
            found.update(tunnel.state())
        return found

    def counters(self) -> Mapping[str, int]:
        """The counters of each that has any, as ``login/connects``."""
        return {
            f"{kind}/{name}": value
            for kind, tunnel in self._tunnels.items()
            for name, value in getattr(tunnel, "counters", dict)().items()
        }

    async def close(self) -> None:
        """Close all of them."""
        for tunnel in self._tunnels.values():
            await tunnel.close()


async def _open_within(seconds: float, tunnel: Tunnel, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
    try:
        async with asyncio.timeout(seconds):
            return await tunnel.open(handler, endpoint, user)
    except TimeoutError as error:
        raise TunnelError(f"{endpoint.host or 'The way there'} did not answer within {seconds:.0f} s.") from error
