"""A cluster's transport in the leader's hands: what changes something outside is begun by a hub that surely leads, or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from batchhub.core.ports import Command, Completed, Transport


class GuardedTransport:
    """Implements :class:`batchhub.core.ports.Transport`; ``must_lead`` raises NotLeading."""

    def __init__(self, inner: Transport, must_lead: Callable[[], None]) -> None:
        self._inner = inner
        self._must_lead = must_lead

    async def run(self, command: Command, user: str | None = None) -> Completed:
        """See Transport."""
        self._must_lead()
        return await self._inner.run(command, user)

    async def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> None:
        """See Transport."""
        self._must_lead()
        await self._inner.put(path, data, user, mode)

    async def make_directory(self, path: str, user: str) -> None:
        """See Transport."""
        self._must_lead()
        await self._inner.make_directory(path, user)

    async def remove_directory(self, path: str, user: str) -> None:
        """See Transport."""
        self._must_lead()
        await self._inner.remove_directory(path, user)

    async def discard(self, path: str, names: Sequence[str], user: str) -> None:
        """See Transport."""
        self._must_lead()
        await self._inner.discard(path, names, user)

    def home(self, user: str) -> Awaitable[str]:
        """See Transport."""
        return self._inner.home(user)

    def get(self, path: str, user: str, limit: int = 65536) -> Awaitable[bytes]:
        """See Transport."""
        return self._inner.get(path, user, limit)

    def tail(self, path: str, user: str, limit: int = 8192) -> Awaitable[bytes]:
        """See Transport."""
        return self._inner.tail(path, user, limit)

    def close(self) -> Awaitable[None]:
        """See Transport."""
        return self._inner.close()
