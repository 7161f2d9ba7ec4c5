"""What a cluster offers: asked once for all who want to know, and kept for a while."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from batchhub.control.tasks import Tasks
from batchhub.core.errors import Unreachable
from batchhub.core.model import QueueInfo
from batchhub.core.ports import Clock, Dialect, Transport

_TRY_AGAIN = timedelta(seconds=30)
"""How soon a scheduler that did not answer is asked again."""


class Inspection:
    """The partitions of one cluster. ``every``: how long, in seconds, an answer serves everybody."""

    def __init__(
        self, *, cluster: str, transport: Transport, dialect: Dialect, clock: Clock, tasks: Tasks, every: float
    ) -> None:
        self.queues: tuple[QueueInfo, ...] = ()
        self.at: datetime | None = None
        self._cluster = cluster
        self._transport = transport
        self._dialect = dialect
        self._clock = clock
        self._tasks = tasks
        self._every = timedelta(seconds=every)
        self._failed: datetime | None = None
        self._asking: asyncio.Task[str] | None = None

    async def ask(self, *, fresh: bool = False) -> tuple[QueueInfo, ...]:
        """Partitions and limits; an old answer is better than none. Raises Unreachable if there never was one."""
        now = self._clock()
        if not fresh and self.at is not None and now - self.at < self._every:
            return self.queues
        if not fresh and self._failed is not None and now - self._failed < _TRY_AGAIN:
            return self._old("the scheduler did not answer a moment ago")
        if self._asking is None:
            self._asking = self._tasks.start(self._ask(now), "inspect")
        # One question for all who wait; it goes on when one of them waits no longer.
        word = await asyncio.shield(self._asking)
        return self._old(word) if word else self.queues

    async def _ask(self, now: datetime) -> str:
        """Why it could not be asked, if so."""
        try:
            done = [await self._transport.run(command) for command in self._dialect.inspect()]
            self.queues = tuple(self._dialect.read_inspect(done))
        except Unreachable as error:
            self._failed = self._clock()
            return str(error)
        finally:
            self._asking = None
        self._failed = None
        self.at = now
        return ""

    def _old(self, word: str) -> tuple[QueueInfo, ...]:
        if self.at is None:
            raise Unreachable(f"The partitions of {self._cluster} cannot be read now: {word}")
        return self.queues
