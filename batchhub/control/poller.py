"""Looks at one cluster for everybody: one question a tick for all its jobs, accounting only for jobs that left the queue.

What cannot be asked is UNKNOWN and says since when. A job that is merely missing from a good answer is not gone: it must be missing
twice, or the tool must say so itself, and then accounting is asked for its end. Where no record tells of that, the job is asked for alone
before it is called gone: to such a question every scheduler says in words that there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from batchhub.control.absences import Absences
from batchhub.control.batches import LINE_BYTES, MOST, by_cluster
from batchhub.control.endings import Endings
from batchhub.control.inspection import Inspection
from batchhub.control.pace import Pace, drawn, pause
from batchhub.control.ports import NO_METERS, Meters, ServerStore
from batchhub.control.questions import Questions, is_ours
from batchhub.control.sightings import Sightings
from batchhub.control.tasks import Tasks
from batchhub.control.unanswered import Unanswered
from batchhub.core.errors import BadInput, HubError, Unreachable
from batchhub.core.model import (
    JobId,
    JobReport,
    Observation,
    Phase,
    QueueInfo,
    Server,
    ServerId,
    Truth,
    Want,
)
from batchhub.core.ports import Clock, Dialect, Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PollerSettings:
    """How often a cluster is asked; seconds unless said otherwise.

    ``pace``: the pauses between two ticks. ``spacing`` is the least pause, however much happens.
    ``confirmations`` good answers must lack a job before accounting is asked. ``accounting_patience`` is how long a job that left
    the queue may lack a final record; ten times as long if the record says that it lives; ``ask_again`` is the longest pause between two
    questions about one job's record. ``find_after`` is how long after a submit without an answer the job is first looked for by
    name, ``absent_after`` when it may be called absent. ``line_bytes`` and ``batch`` are the most bytes and ids in one command, ``single_records``
    the most jobs a tick whose records are asked for one by one, where accounting cannot be asked for several, ``finds`` the most jobs
    a tick that are looked for by name. ``inspect_every`` is how long what a cluster offers is remembered.
    """

    pace: Pace = field(default_factory=Pace)
    spacing: float = 1.0
    confirmations: int = 2
    accounting_patience: float = 60.0
    ask_again: float = 15.0
    find_after: float = 12.0
    absent_after: float = 180.0
    line_bytes: int = LINE_BYTES
    batch: int = MOST
    single_records: int = 20
    finds: int = 20
    inspect_every: float = 300.0


_MOVING = frozenset({Phase.REQUESTED, Phase.STARTING, Phase.STOPPING})
"""Phases that end soon, whoever looks; waiting in the queue may take days."""

UNREADABLE = "the scheduler's row about it is unreadable"


class Poller:
    """The eyes on one cluster."""

    def __init__(
        self,
        *,
        cluster: str,
        transport: Transport,
        dialect: Dialect,
        store: ServerStore,
        clock: Clock,
        settings: PollerSettings,
        observed: Callable[[Sequence[Server]], None],
        meters: Meters = NO_METERS,
    ) -> None:
        self.cluster = cluster
        self._transport = transport
        self._dialect = dialect
        self._store = store
        self._clock = clock
        self._settings = settings
        self._observed = observed
        self._meters = meters
        self._questions = Questions(
            cluster=cluster,
            transport=transport,
            dialect=dialect,
            meters=meters,
            room=settings.line_bytes,
            most=settings.batch,
        )
        self._wake = asyncio.Event()
        self._watchers = 0
        self._tasks = Tasks(f"poller of {cluster}")
        self.inspection = Inspection(
            cluster=cluster,
            transport=transport,
            dialect=dialect,
            clock=clock,
            tasks=self._tasks,
            every=settings.inspect_every,
        )
        self.reset()

    # ------------------------------------------------ what others read

    @property
    def queues(self) -> tuple[QueueInfo, ...]:
        """What the cluster offers, as it last said."""
        return self.inspection.queues

    @property
    def inspected_at(self) -> datetime | None:
        """When it said so."""
        return self.inspection.at

    async def inspect(self, *, fresh: bool = False) -> tuple[QueueInfo, ...]:
        """See :meth:`Inspection.ask`."""
        return await self.inspection.ask(fresh=fresh)

    def newest(self, server_id: ServerId) -> Observation | None:
        """The newest observation, whatever it says."""
        return self._sightings.newest(server_id)

    def last_good(self, server_id: ServerId) -> Observation | None:
        """The newest observation that said something."""
        return self._sightings.last_good(server_id)

    def silent_about(self, row: Server) -> datetime | None:
        """Since when the scheduler, though it answers, says nothing of the row's job; ``None`` while it does, or left it out but once."""
        answers = self._absences.answers(row.id)
        if row.job_id is None or (answers is not None and answers < self._settings.confirmations):
            return None
        return self._sightings.unknown_since(row.id)

    @property
    def watched(self) -> bool:
        """Whether somebody waits in front of a page of this hub for news from the cluster."""
        return self._watchers > 0

    def reset(self) -> None:
        """Forget what was seen: a time of looking begins or ends, and another hub looks in between."""
        settings = self._settings
        self.silent_since: datetime | None = None
        self.silent_word = ""
        self.answered_at: datetime | None = None
        self._sightings = Sightings()
        self._absences = Absences(settings.ask_again)
        self._endings = Endings(
            questions=self._questions,
            dialect=self._dialect,
            clock=self._clock,
            absences=self._absences,
            sightings=self._sightings,
            patience=settings.accounting_patience,
            single=settings.single_records,
        )
        self._unanswered = Unanswered(
            clock=self._clock,
            find_after=settings.find_after,
            absent_after=settings.absent_after,
            finds=settings.finds,
            submit=self._dialect.submit,
        )
        self._failures = 0
        self._unchanged = 0
        self._silent_tick = False
        self._moving = False

    def wake(self) -> None:
        """Ask soon: something was just submitted, cancelled or is being looked at."""
        self._wake.set()

    @contextlib.contextmanager
    def submitting(self, server_id: ServerId) -> Iterator[None]:
        """While its submit command runs, that nobody knows the job's name proves nothing, and nobody looks for it."""
        try:
            with self._unanswered.submitting(server_id):
                yield
        finally:
            self._absences.over(server_id)

    def watch(self, change: int) -> None:
        """One more (+1) or one less (-1) person waits for a change on this cluster."""
        self._watchers += change
        if change > 0:
            self.wake()

    # ------------------------------------------------ the loop

    async def run(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                begun = loop.time()
                try:
                    await self.tick()
                except HubError as error:
                    log.warning("cluster %s could not be looked at: %s", self.cluster, error)
                    self._failures += 1
                    self._meters.poll_failed(self.cluster)
                except Exception:
                    log.exception("looking at cluster %s failed", self.cluster)
                    self._failures += 1
                    self._meters.poll_failed(self.cluster)
                self._meters.polled(self.cluster, loop.time() - begun)
                await self._rest(begun)
        finally:
            await self._tasks.close()

    def pause(self) -> float:
        """Seconds until the next tick, if nothing wakes the poller and before chance."""
        return pause(
            self._settings.pace,
            watched=self._watchers > 0,
            moving=self._moving or bool(self._absences),
            unchanged=self._unchanged,
            failures=self._failures,
        )

    async def _rest(self, begun: float) -> None:
        seconds = drawn(self.pause(), random.random())  # noqa: S311 - jitter, not a secret
        if self._failures:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        # Several servers may change within one breath: one question serves them all. And a page that is loaded again and again
        # does not make the scheduler work.
        fast = self._settings.pace.fast
        rest = begun + min(self._settings.spacing, fast) - asyncio.get_running_loop().time()
        await asyncio.sleep(max(rest, min(0.2, fast / 4)))

    async def tick(self) -> None:
        """Ask once for all live jobs of the cluster and tell who was observed."""
        self._silent_tick = self._sightings.news = False
        rows = await self._store.live_servers(self.cluster)
        self._forget({row.id for row in rows})
        self._meters.alive(self.cluster, Counter(row.phase for row in rows))
        self._moving = any(row.phase in _MOVING or row.want is Want.DOWN for row in rows)
        known = [row for row in rows if row.job_id is not None]
        observed: set[ServerId] = set()
        if known:
            observed |= await self._look_at(known)
        lost = [row for row in rows if row.job_id is None and row.submit_tried is not None]
        observed |= await self._look_for(lost)
        self._failures = self._failures + 1 if self._silent_tick else 0
        self._unchanged = 0 if self._sightings.news else self._unchanged + 1
        newest = [self._sightings.newest(row.id) for row in rows]
        self._meters.seen(self.cluster, Counter(Truth.UNKNOWN if seen is None else seen.truth for seen in newest))
        # A row that was never submitted needs no eyes, but its turn may have been lost in a crash.
        observed |= {row.id for row in rows if row.submit_tried is None}
        if observed:
            self._observed([row for row in rows if row.id in observed])

    # ------------------------------------------------ jobs whose id is known

    async def _look_at(self, rows: Sequence[Server]) -> set[ServerId]:
        asked_at = self._clock()
        rows = self._askable(rows, asked_at)
        if not rows:
            return set()
        found: dict[JobId, JobReport] = {}
        gone: set[JobId] = set()
        answered: set[JobId] = set()
        unread: set[JobId] = set()
        try:
            for part in self._questions.batches(rows):
                listing = await self._questions.status(part)
                found.update(listing.jobs)
                gone |= listing.gone
                unread |= listing.unread
                answered.update(part)
        except Unreachable as error:
            self._silence(asked_at, error)
            unknown = Observation(Truth.UNKNOWN, asked_at, word=str(error))
            self._sightings.note((row for row in rows if row.job_id not in answered), unknown)
        else:
            self._answer(asked_at)
        answered -= unread
        for row in (row for row in rows if row.job_id in unread):
            self._absences.over(row.id)
            self._sightings.put(row.id, Observation(Truth.UNKNOWN, asked_at, word=UNREADABLE))
        left = [row for row in rows if row.job_id in answered and self._has_left(row, found, gone, asked_at)]
        if left:
            await self._endings.find(left, gone)
        return {row.id for row in rows}

    def _has_left(self, row: Server, found: dict[JobId, JobReport], gone: set[JobId], asked_at: datetime) -> bool:
        """Note what a good answer says of a job; whether that is that it left the queue."""
        assert row.job_id is not None
        report = found.get(row.job_id)
        if report is not None and is_ours(report, row):
            self._absences.back(row.id)
            self._sightings.put(row.id, Observation(Truth.SEEN, asked_at, report))
            return False
        end = self._absences.end_of(row)
        if end is not None:
            self._sightings.put(row.id, end)
            return False
        answers = self._absences.noted(row.id, asked_at)
        if row.job_id in gone or answers >= self._settings.confirmations:
            return True
        self._sightings.put(row.id, Observation(Truth.UNKNOWN, asked_at, word="missing from the scheduler's list once"))
        return False

    def _askable(self, rows: Sequence[Server], now: datetime) -> Sequence[Server]:
        """Those whose job id this scheduler could have given; one that it could not must not keep the others from being asked about.

        That happens when a cluster's scheduler is changed in the configuration while its servers live.
        """
        try:
            for jobs in by_cluster(row.job_id for row in rows if row.job_id is not None):
                self._dialect.status(jobs)
        except BadInput:
            good = [row for row in rows if self._fits(row, now)]
        else:
            good = list(rows)
        return good

    def _fits(self, row: Server, now: datetime) -> bool:
        assert row.job_id is not None
        try:
            self._dialect.status([row.job_id])
        except BadInput as error:
            if self._sightings.newest(row.id) is None:
                log.warning("cluster %s: server %s cannot be followed: %s", self.cluster, row.id, error)
            self._sightings.put(row.id, Observation(Truth.UNKNOWN, now, word=str(error)))
            return False
        return True

    # ------------------------------------------------ jobs whose submit did not answer

    async def _look_for(self, rows: Sequence[Server]) -> set[ServerId]:
        """Look for them by their unique name."""
        observed: set[ServerId] = set()
        for row in self._unanswered.those_to_find(rows):
            asked_at = self._clock()
            self._absences.begun(row.id, asked_at)
            try:
                done = await self._transport.run(self._dialect.find(row.job_name, row.account))
                found = self._dialect.read_find(done)
            except Unreachable as error:
                self._silence(asked_at, error)
                self._sightings.put(row.id, Observation(Truth.UNKNOWN, asked_at, word=str(error)))
                observed.add(row.id)
                break
            self._answer(asked_at)
            observed.add(row.id)
            if found:
                self._absences.over(row.id)
                self._sightings.put(row.id, Observation(Truth.SEEN, asked_at, found[0]))
                continue
            answers = self._absences.noted(row.id, asked_at)
            if answers >= self._settings.confirmations and self._unanswered.may_be_absent(row, asked_at):
                self._absences.over(row.id)
                self._sightings.put(row.id, Observation(Truth.GONE, asked_at))
        return observed

    # ------------------------------------------------ bookkeeping

    def _silence(self, at: datetime, error: HubError) -> None:
        self._silent_tick = True
        self._meters.poll_failed(self.cluster)
        if self.silent_since is None:
            self.silent_since = at
            log.warning("cluster %s does not answer: %s", self.cluster, error)
        self.silent_word = str(error)

    def _answer(self, at: datetime) -> None:
        if self.silent_since is not None:
            log.info("cluster %s answers again, after %s", self.cluster, at - self.silent_since)
        self.silent_since = None
        self.silent_word = ""
        self.answered_at = at

    def _forget(self, live: set[ServerId]) -> None:
        for memory in (self._sightings, self._absences, self._unanswered):
            memory.keep(live)
