"""Looks at one cluster for everybody: one question a tick for all its jobs, accounting only for jobs that left the queue.

What cannot be asked is UNKNOWN and says since when. A job that is merely missing from a good answer is not gone: it must be missing
twice, or the tool must say so itself, and then accounting is asked for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from batchhub.control.ports import ServerStore
from batchhub.control.tasks import Tasks
from batchhub.core.errors import BadInput, HubError, Unreachable
from batchhub.core.model import JobId, JobReport, Observation, Phase, QueueInfo, Server, ServerId, Truth, Want
from batchhub.core.ports import Clock, Command, Dialect, JobRequest, Transport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PollerSettings:
    """How often a cluster is asked; seconds unless said otherwise.

    ``fast`` while somebody waits in front of a page, or a server starts or stops; else ``slow``; failures double the pause up to ``ceiling``.
    ``confirmations`` good answers must lack a job before accounting is asked. ``accounting_patience`` is how long a job that left
    the queue may lack a final record; ten times as long if the record says that it lives. ``find_after`` is how long after a submit without an answer the job is first looked for by
    name, ``absent_after`` when it may be called absent. ``batch`` is the most ids in one command, ``single_records``
    the most jobs a tick whose records are asked for one by one, where accounting cannot be asked for several, ``finds`` the most jobs
    a tick that are looked for by name. ``spacing`` is the least pause between two ticks, however much happens.
    """

    fast: float = 2.0
    slow: float = 20.0
    ceiling: float = 60.0
    confirmations: int = 2
    accounting_patience: float = 60.0
    find_after: float = 12.0
    absent_after: float = 180.0
    batch: int = 4000
    single_records: int = 20
    finds: int = 20
    spacing: float = 1.0
    inspect_every: float = 300.0


@dataclass(slots=True)
class _Missing:
    """What is remembered of a job that good answers no longer hold."""

    since: datetime
    answers: int = 0


_MOVING = frozenset({Phase.REQUESTED, Phase.STARTING, Phase.STOPPING})
"""Phases that end soon, whoever looks; waiting in the queue may take days."""


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
    ) -> None:
        self.cluster = cluster
        self.silent_since: datetime | None = None
        self.silent_word = ""
        self.answered_at: datetime | None = None
        self.queues: tuple[QueueInfo, ...] = ()
        self.inspected_at: datetime | None = None
        self._transport = transport
        self._dialect = dialect
        self._store = store
        self._clock = clock
        self._settings = settings
        self._observed = observed
        self._seen: dict[ServerId, Observation] = {}
        self._last_good: dict[ServerId, Observation] = {}
        self._missing: dict[ServerId, _Missing] = {}
        self._failures = 0
        self._wake = asyncio.Event()
        self._watchers = 0
        self._moving = False
        self._inspect_failed: datetime | None = None
        self._inspecting: asyncio.Task[str] | None = None
        self._tasks = Tasks(f"poller of {cluster}")
        self._began = clock()
        self._submitting: set[ServerId] = set()
        self._submit_ended: dict[ServerId, datetime] = {}
        self._turns: dict[ServerId, int] = {}
        self._look_turn = 0

    # ------------------------------------------------ what others read

    def newest(self, server_id: ServerId) -> Observation | None:
        """The newest observation, whatever it says."""
        return self._seen.get(server_id)

    def last_good(self, server_id: ServerId) -> Observation | None:
        """The newest observation that said something."""
        return self._last_good.get(server_id)

    def wake(self) -> None:
        """Ask soon: something was just submitted, cancelled or is being looked at."""
        self._wake.set()

    @contextlib.contextmanager
    def submitting(self, server_id: ServerId) -> Iterator[None]:
        """While its submit command runs, that nobody knows the job's name proves nothing, and nobody looks for it."""
        self._submitting.add(server_id)
        try:
            yield
        finally:
            self._submitting.discard(server_id)
            self._submit_ended[server_id] = self._clock()
            self._missing.pop(server_id, None)

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
                except Exception:
                    log.exception("looking at cluster %s failed", self.cluster)
                    self._failures += 1
                await self._pause(begun)
        finally:
            await self._tasks.close()

    async def _pause(self, begun: float) -> None:
        settings = self._settings
        base = settings.fast if self._watchers or self._unsettled else settings.slow
        if self._failures:
            base = min(settings.ceiling, max(base, settings.fast) * 2 ** min(self._failures, 6))
        pause = base * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        if self._failures:
            await asyncio.sleep(pause)
            return
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        # Several servers may change within one breath: one question serves them all. And a page that is loaded again and again
        # does not make the scheduler work.
        rest = begun + min(settings.spacing, settings.fast) - asyncio.get_running_loop().time()
        await asyncio.sleep(max(rest, min(0.2, settings.fast / 4)))

    @property
    def _unsettled(self) -> bool:
        return self._moving or bool(self._missing)

    async def tick(self) -> None:
        """Ask once for all live jobs of the cluster and tell who was observed."""
        rows = await self._store.live_servers(self.cluster)
        self._forget({row.id for row in rows})
        self._moving = any(row.phase in _MOVING or row.want is Want.DOWN for row in rows)
        known = [row for row in rows if row.job_id is not None]
        observed: set[ServerId] = set()
        if known:
            observed |= await self._look_at(known)
        lost = [row for row in rows if row.job_id is None and row.submit_tried is not None]
        observed |= await self._look_for(lost)
        # A row that was never submitted needs no eyes, but its turn may have been lost in a crash.
        observed |= {row.id for row in rows if row.submit_tried is None}
        if observed:
            self._observed([row for row in rows if row.id in observed])

    async def _look_at(self, rows: Sequence[Server]) -> set[ServerId]:
        asked_at = self._clock()
        rows = self._askable(rows, asked_at)
        if not rows:
            return set()
        found: dict[JobId, JobReport] = {}
        gone: set[JobId] = set()
        unread: set[JobId] = set()
        jobs = [row.job_id for row in rows if row.job_id is not None]
        try:
            for start in range(0, len(jobs), self._settings.batch):
                part = jobs[start : start + self._settings.batch]
                listing = self._dialect.read_status(await self._transport.run(self._dialect.status(part)), part)
                found.update(listing.jobs)
                gone |= listing.gone
                unread |= listing.unread
                for row_text in listing.bad_rows:
                    log.warning("cluster %s: a status row could not be read: %s", self.cluster, row_text)
        except Unreachable as error:
            self._silence(asked_at, error)
            self._note(rows, Observation(Truth.UNKNOWN, asked_at, word=str(error)))
            return {row.id for row in rows}
        self._answer(asked_at)
        left: list[Server] = []
        for row in rows:
            assert row.job_id is not None
            report = found.get(row.job_id)
            if report is not None and (not report.user or report.user == row.account):
                self._missing.pop(row.id, None)
                self._put(row.id, Observation(Truth.SEEN, asked_at, report))
                continue
            if row.job_id in unread:
                self._missing.pop(row.id, None)
                self._put(
                    row.id, Observation(Truth.UNKNOWN, asked_at, word="the scheduler's row about it is unreadable")
                )
                continue
            missing = self._missing.setdefault(row.id, _Missing(asked_at))
            missing.answers += 1
            if row.job_id in gone or missing.answers >= self._settings.confirmations:
                left.append(row)
            else:
                self._put(row.id, Observation(Truth.UNKNOWN, asked_at, word="missing from the scheduler's list once"))
        if left:
            await self._ask_accounting(left, gone)
        return {row.id for row in rows}

    def _askable(self, rows: Sequence[Server], now: datetime) -> Sequence[Server]:
        """Those whose job id this scheduler could have given; one that it could not must not keep the others from being asked about.

        That happens when a cluster's scheduler is changed in the configuration while its servers live.
        """
        jobs = [row.job_id for row in rows if row.job_id is not None]
        try:
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
            if self._seen.get(row.id) is None:
                log.warning("cluster %s: server %s cannot be followed: %s", self.cluster, row.id, error)
            self._put(row.id, Observation(Truth.UNKNOWN, now, word=str(error)))
            return False
        return True

    async def _ask_accounting(self, rows: Sequence[Server], gone: set[JobId]) -> None:
        """The jobs are not in the queue any more; ask how they ended. Of those in ``gone`` the scheduler itself said so."""
        asked_at = self._clock()
        jobs = [row.job_id for row in rows if row.job_id is not None]
        questions = self._accounting_questions(jobs)
        records: dict[JobId, JobReport] = {}
        word = ""
        for command, asked in questions:
            try:
                records.update(self._dialect.read_accounting(await self._transport.run(command), asked))
            except Unreachable as error:
                word = str(error)
                log.warning("cluster %s: accounting does not answer: %s", self.cluster, error)
                break
        for row in rows:
            assert row.job_id is not None
            record = records.get(row.job_id)
            if record is not None and record.state.terminal:
                self._missing.pop(row.id, None)
                self._put(row.id, Observation(Truth.GONE, asked_at, record))
            elif not questions or self._waited(
                row.id, asked_at, doubtful=record is not None and row.job_id not in gone
            ):
                self._missing.pop(row.id, None)
                self._put(row.id, Observation(Truth.GONE, asked_at))
            else:
                self._put(row.id, Observation(Truth.UNKNOWN, asked_at, word=word or "its end is not recorded yet"))

    def _accounting_questions(self, jobs: Sequence[JobId]) -> list[tuple[Command, Sequence[JobId]]]:
        """One for all, or, where the dialect's records can only be asked so, one for each of a few; none where it has no records."""
        for_all = self._dialect.accounting(jobs)
        if for_all is not None:
            return [(for_all, jobs)]
        single = [(self._dialect.accounting([job]), [job]) for job in jobs[: self._settings.single_records]]
        return [(command, asked) for command, asked in single if command is not None]

    def _waited(self, server_id: ServerId, now: datetime, *, doubtful: bool) -> bool:
        """``doubtful``: the records say that it lives. A queue may have been listed empty; a record may never have been closed."""
        missing = self._missing.get(server_id)
        patience = timedelta(seconds=self._settings.accounting_patience * (10 if doubtful else 1))
        return missing is not None and now - missing.since >= patience

    async def _look_for(self, rows: Sequence[Server]) -> set[ServerId]:
        """Jobs whose submit command never answered: look for them by their unique name."""
        settings = self._settings
        observed: set[ServerId] = set()
        for row in self._those_to_find(rows):
            asked_at = self._clock()
            missing = self._missing.setdefault(row.id, _Missing(asked_at))
            try:
                done = await self._transport.run(self._dialect.find(row.job_name, row.account))
                found = self._dialect.read_find(done)
            except Unreachable as error:
                self._silence(asked_at, error)
                self._put(row.id, Observation(Truth.UNKNOWN, asked_at, word=str(error)))
                observed.add(row.id)
                break
            self._answer(asked_at)
            observed.add(row.id)
            if found:
                self._missing.pop(row.id, None)
                self._put(row.id, Observation(Truth.SEEN, asked_at, found[0]))
                continue
            missing.answers += 1
            if missing.answers >= settings.confirmations and self._age(row, asked_at) >= self._absent_after(row):
                self._missing.pop(row.id, None)
                self._put(row.id, Observation(Truth.GONE, asked_at))
        return observed

    def _those_to_find(self, rows: Sequence[Server]) -> list[Server]:
        """A few, whose turn it is: after an outage there may be hundreds, and each is a command of its own."""
        now, find_after = self._clock(), timedelta(seconds=self._settings.find_after)
        due = [row for row in rows if row.id not in self._submitting and self._age(row, now) >= find_after]
        self._look_turn += 1
        for row in due:
            self._turns.setdefault(row.id, 0)
        chosen = sorted(due, key=lambda row: self._turns[row.id])[: self._settings.finds]
        for row in chosen:
            self._turns[row.id] = self._look_turn
        return chosen

    def _age(self, row: Server, now: datetime) -> timedelta:
        """Since when its submit command runs no more, as far as is known."""
        tried = row.submit_tried or now
        return now - max(tried, self._submit_ended.get(row.id, tried))

    def _absent_after(self, row: Server) -> timedelta:
        seconds = self._settings.absent_after
        if row.submit_tried is not None and row.submit_tried < self._began:
            # A hub before this one began to submit. The command may run on where nobody waits for it any more, to its deadline.
            request = JobRequest(row.job_name, row.directory, "", row.account)
            seconds += self._dialect.submit(request).deadline
        return timedelta(seconds=seconds)

    # ------------------------------------------------ what the cluster offers

    async def inspect(self, *, fresh: bool = False) -> tuple[QueueInfo, ...]:
        """Partitions and limits, cached for all; an old answer is better than none. Raises Unreachable if there never was one."""
        now = self._clock()
        every = timedelta(seconds=self._settings.inspect_every)
        if not fresh and self.inspected_at is not None and now - self.inspected_at < every:
            return self.queues
        if not fresh and self._inspect_failed is not None and now - self._inspect_failed < timedelta(seconds=30):
            return self._old_queues("the scheduler did not answer a moment ago")
        if self._inspecting is None:
            self._inspecting = self._tasks.start(self._inspect(now), "inspect")
        # One question for all who wait; it goes on when one of them waits no longer.
        word = await asyncio.shield(self._inspecting)
        return self._old_queues(word) if word else self.queues

    async def _inspect(self, now: datetime) -> str:
        """Why it could not be asked, if so."""
        try:
            done = [await self._transport.run(command) for command in self._dialect.inspect()]
            self.queues = tuple(self._dialect.read_inspect(done))
        except Unreachable as error:
            self._inspect_failed = self._clock()
            return str(error)
        finally:
            self._inspecting = None
        self._inspect_failed = None
        self.inspected_at = now
        return ""

    def _old_queues(self, word: str) -> tuple[QueueInfo, ...]:
        if self.inspected_at is None:
            raise Unreachable(f"The partitions of {self.cluster} cannot be read now: {word}")
        return self.queues

    # ------------------------------------------------ bookkeeping

    def _note(self, rows: Iterable[Server], observation: Observation) -> None:
        for row in rows:
            self._put(row.id, observation)

    def _put(self, server_id: ServerId, observation: Observation) -> None:
        self._seen[server_id] = observation
        if observation.truth is not Truth.UNKNOWN:
            self._last_good[server_id] = observation

    def _silence(self, at: datetime, error: HubError) -> None:
        self._failures += 1
        if self.silent_since is None:
            self.silent_since = at
            log.warning("cluster %s does not answer: %s", self.cluster, error)
        self.silent_word = str(error)

    def _answer(self, at: datetime) -> None:
        if self.silent_since is not None:
            log.info("cluster %s answers again, after %s", self.cluster, at - self.silent_since)
        self._failures = 0
        self.silent_since = None
        self.silent_word = ""
        self.answered_at = at

    def _forget(self, live: set[ServerId]) -> None:
        for memory in (self._seen, self._last_good, self._missing, self._submit_ended, self._turns):
            for server_id in [known for known in memory if known not in live]:
                del memory[server_id]
