"""How a job of ours is ended: its application is told, given a while, and only then the job is cancelled.

Both steps are saved before they are done, and look at the row alone: a hub that was killed between them goes on where they were, and doing
one twice does no harm. An application that cannot be told loses nothing but the while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller
from batchhub.control.ports import JobBuilder, ServerStore
from batchhub.control.troubles import Troubles, worth_a_line
from batchhub.core.errors import HubError
from batchhub.core.lifecycle import Action
from batchhub.core.model import Server, ServerId
from batchhub.core.ports import Clock, Routes

log = logging.getLogger(__name__)

_REFUSAL = 2.0
"""Seconds in which an application that will not be told says so. Jupyter's own answer may come only when its kernels have ended."""
_WAY = 6.0
"""Seconds for all of it. A way to the node that takes longer is as good as none: somebody waits."""
_CANCELS = "cancels"
"""Cancels that were tried, whatever came of them, among the counted attempts."""
_LOOK = 2.0
"""Seconds between two looks at a job whose application was told."""


@dataclass(frozen=True, slots=True)
class StopSettings:
    """Seconds. ``grace``: between telling and cancelling (0: nothing is told). ``again``: the least pause between two cancels of one job."""

    grace: float = 10.0
    again: float = 15.0


class Stopper:
    """The reconciler's actions TELL and CANCEL. ``later`` looks at a server again, ``say`` saves a sentence for its owner."""

    def __init__(
        self,
        *,
        store: ServerStore,
        routes: Routes,
        builder: JobBuilder,
        broadcast: Broadcast,
        clock: Clock,
        later: Callable[[ServerId, float], None],
        say: Callable[[Server, str], Awaitable[Server]],
        settings: StopSettings,
        troubles: Troubles,
    ) -> None:
        self._store = store
        self._routes = routes
        self._builder = builder
        self._broadcast = broadcast
        self._clock = clock
        self._later = later
        self._say = say
        self._settings = settings
        self._troubles = troubles

    # ------------------------------------------------ the application

    def may_tell(self, row: Server) -> bool:
        """Whether its application knows a way to end, and was neither told nor taken for deaf: a job that is cancelled is told no more."""
        known = row.endpoint is not None and row.told is None and row.cancel_tried is None
        return known and self._settings.grace > 0 and bool(self._builder.shutdown_path(row))

    async def tell(self, row: Server) -> Server:
        """Ask it to end by itself. What cannot be told is cancelled at once."""
        if not self.may_tell(row):
            return row
        now = self._clock()
        row = await self._store.update(row.id, lambda current: replace(current, told=now), kind="tell")
        self._broadcast.tell(row.id, row.user)
        if await self._told(row):
            return row
        return await self._store.update(row.id, lambda current: replace(current, told=None))

    async def _told(self, row: Server) -> bool:
        try:
            async with asyncio.timeout(_WAY):
                target, path = self._builder.route(row), self._builder.shutdown_path(row)
                answer = await self._routes.ask(target, path, method="POST", deadline=_REFUSAL)
        except (HubError, TimeoutError) as error:
            log.info("server %s: its application cannot be asked to end, its job is cancelled: %s", row.id, error)
            await self._troubles.failed(row, Action.TELL, str(error) or "It did not answer in time.")
            return False
        if answer.status >= 300:
            log.info("server %s: its application refuses to end (HTTP %d), its job is cancelled", row.id, answer.status)
            await self._troubles.failed(row, Action.TELL, f"It refuses (HTTP {answer.status}).")
        return answer.status < 300  # 0: it is about it

    # ------------------------------------------------ the job

    def may_cancel(self, row: Server, now: datetime) -> bool:
        """Whether the application's time is over, and the last cancel was long ago."""
        return self._time_left(row, now) <= 0 and self._not_lately(row, now)

    def _time_left(self, row: Server, now: datetime) -> float:
        if row.told is None:
            return 0.0
        passed = (now - row.told).total_seconds()
        return self._settings.grace - passed if passed >= 0 else 0.0  # a clock that was put back gives no further time

    def _not_lately(self, row: Server, now: datetime) -> bool:
        return row.cancel_tried is None or now - row.cancel_tried >= timedelta(seconds=self._settings.again)

    async def cancel(self, row: Server, launcher: Launcher, poller: Poller) -> Server:
        """Cancel the job, if it is time to; until then, look whether it has ended by itself."""
        now = self._clock()
        left = self._time_left(row, now)
        if left > 0:
            # The look at the end of its time must not be at what the scheduler said before.
            poller.wake()
            self._later(row.id, min(_LOOK, left + 0.1))
            return row
        if not self._not_lately(row, now):
            return row
        kind = "cancel" if worth_a_line(self._troubles.again(row, _CANCELS)) else ""
        row = await self._store.update(row.id, lambda current: replace(current, cancel_tried=now), kind=kind)
        try:
            await launcher.cancel(row)
        except HubError as error:
            log.warning("server %s: cancelling job %s failed: %s", row.id, row.job_id, error)
            await self._troubles.failed(row, Action.CANCEL, str(error))
            return await self._say(row, f"Cancelling failed and will be tried again: {error}")
        await self._troubles.over(row, Action.CANCEL)
        poller.wake()
        return row
