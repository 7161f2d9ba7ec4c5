"""Giving a server's job to the scheduler: prepare its directory, note that the submit begins, submit, note what came of it.

A submit without an answer is ambiguous: the job is looked for by its name before anything is submitted again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.offering import OfferKeeper
from batchhub.control.poller import Poller
from batchhub.control.ports import ServerStore
from batchhub.control.recovery import Recovery
from batchhub.control.trail import HUB, SCHEDULER
from batchhub.control.troubles import Troubles
from batchhub.core.errors import (
    BadInput,
    CommandNotFound,
    Denied,
    HubError,
    NotFound,
    StoreUnavailable,
    SubmitAmbiguous,
    SubmitRejected,
    Unreachable,
)
from batchhub.core.model import Outcome, Phase, Server, ServerId, Trace
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

PREPARE = "prepare"
"""Writing the job's directory, in the trail of events."""


@dataclass(frozen=True, slots=True)
class Again:
    """How the reconciler is asked for another look: ``look`` at once, ``later`` in so many seconds. ``say`` puts a sentence on the row."""

    look: Callable[[Iterable[ServerId]], None]
    later: Callable[[ServerId, float], None]
    say: Callable[[Server, str], Awaitable[Server]]


class Submitter:
    """``at_most``: submits of one run. ``pause``: seconds after a submit that could not be begun."""

    def __init__(
        self,
        *,
        store: ServerStore,
        recovery: Recovery,
        offers: OfferKeeper,
        broadcast: Broadcast,
        troubles: Troubles,
        clock: Clock,
        again: Again,
        at_most: int,
        pause: float,
    ) -> None:
        self._store = store
        self._recovery = recovery
        self._offers = offers
        self._broadcast = broadcast
        self._troubles = troubles
        self._clock = clock
        self._again = again
        self._at_most = at_most
        self._pause = pause

    async def submit(self, row: Server, launcher: Launcher, poller: Poller) -> Server:
        """The row afterwards: with the job's id, refused, or without an answer."""
        return await self._known(row, launcher, poller) or await self._submit(row, launcher, poller)

    async def _known(self, row: Server, launcher: Launcher, poller: Poller) -> Server | None:
        """Follow a job that the row did not know; ``None`` if there is none, and it is to be submitted."""
        try:
            job_id = await self._recovery.submitted_before(row, launcher)
            if job_id is None:
                return None
            directory, now = await launcher.place(row), self._clock()
        except Unreachable as error:
            self._again.later(row.id, self._pause)
            return await self._again.say(row, str(error))

        def found(current: Server) -> Server | None:
            if current.job_id is not None or current.phase is not Phase.REQUESTED:
                return None
            return replace(current, directory=directory, job_id=job_id, submit_tried=now, submit_count=1, words="")

        row = await self._store.update(row.id, found, kind="found")
        log.warning("server %s of %s is job %s, which its row did not know", row.id, row.user, job_id)
        poller.wake()
        return row

    async def _submit(self, row: Server, launcher: Launcher, poller: Poller) -> Server:
        if row.submit_count >= self._at_most:
            words = "The job was given to the scheduler several times, but it never knew of it afterwards."
            return await self._refuse(row, words)
        now = self._clock()
        try:
            directory, script = await launcher.prepare(row)
            await self._offers.offer(row)
        except (Unreachable, StoreUnavailable) as error:
            self._again.later(row.id, self._pause)
            await self._troubles.failed(row, PREPARE, str(error))
            return await self._again.say(row, str(error))
        except HubError as error:
            return await self._refuse(row, str(error))
        await self._troubles.over(row, PREPARE)
        row = await self._begin(row, directory, now)
        if row.submit_tried != now:
            self._again.look((row.id,))
            return row
        try:
            with poller.submitting(row.id):
                job_id = await launcher.submit(row, script)
        except (SubmitRejected, Denied, NotFound, BadInput) as error:
            return await self._refuse(row, str(error), by=SCHEDULER if isinstance(error, SubmitRejected) else HUB)
        except CommandNotFound as error:
            return await self._refuse(row, f"{error} Please tell the hub's administrator.")
        except (SubmitAmbiguous, Unreachable) as error:
            log.warning(
                "server %s: the submit may or may not have worked, the job will be looked for: %s", row.id, error
            )
            poller.wake()
            words, ended = str(error), self._clock()
            row = await self._store.update(
                row.id, lambda current: replace(current, submit_tried=ended, words=words), kind="unanswered"
            )
            self._broadcast.tell(row.id, row.user)
            return row
        # The command may have taken minutes: what was seen before its end, such as no job of this name, counts no more.
        ended = self._clock()
        row = await self._store.update(
            row.id,
            lambda current: replace(current, job_id=job_id, submit_tried=ended, words=""),
            trace=lambda: Trace("submitted", SCHEDULER, seen="accepted"),
        )
        log.info("server %s of %s is job %s on %s", row.id, row.user, job_id, row.cluster)
        poller.wake()
        self._broadcast.tell(row.id, row.user)
        return row

    async def _begin(self, row: Server, directory: str, now: datetime) -> Server:
        def begin(current: Server) -> Server | None:
            if current.want is not row.want or current.phase is not Phase.REQUESTED:
                return None
            return replace(current, directory=directory, submit_tried=now, submit_count=current.submit_count + 1)

        seen = "absent" if row.submit_count else "new"
        return await self._store.update(row.id, begin, trace=lambda: Trace("submit", HUB, seen, done="submit"))

    async def _refuse(self, row: Server, words: str, by: str = HUB) -> Server:
        row = await self._store.update(
            row.id,
            lambda current: replace(current, outcome=Outcome.REFUSED, words=words),
            trace=lambda: Trace("refused", by, seen="refused" if by == SCHEDULER else ""),
        )
        self._again.look((row.id,))
        return row
