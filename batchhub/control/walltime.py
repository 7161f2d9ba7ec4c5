"""The end of a job's time: warns its owner once for each end, and tells the job of an end that it cannot know of.

Called with the poller's rows after every question to the scheduler, level-triggered: what was not saved or not written is tried again at the
next. What a job itself does before its end is ``launch.py``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.control.broadcast import Broadcast
from batchhub.control.poller import Poller
from batchhub.control.tasks import Tasks
from batchhub.core.errors import HubError, NotFound
from batchhub.core.handshake import END, end_document
from batchhub.core.model import Server, ServerId, Truth
from batchhub.core.ports import Clock, Transport
from batchhub.core.walltime import End, end_of, runs, same, warned_of, warning_words

log = logging.getLogger(__name__)

LEAD = timedelta(minutes=20)
"""How long before either end, the job's own and the scheduler's, a job is told. It looks every ten minutes (``launch.py``)."""
AT_A_TIME = 200
"""Warnings and files begun after one answer of the scheduler; the rest follows with the next."""
AGAIN = timedelta(minutes=2)
"""Until a file that could not be written is tried again."""
REMEMBERED = 20_000
"""Jobs of which it is remembered what they were told; beyond, all is forgotten, and told once more."""


class Rows(Protocol):
    """The store, as far as it is needed here."""

    def update(
        self, server_id: ServerId, change: Callable[[Server], Server | None], *, kind: str = "", words: str = ""
    ) -> Awaitable[Server]:
        """Load, change, save in one transaction, and record the event if anything changed."""


@dataclass(frozen=True, slots=True)
class Notices:
    """How long before the end of a profile's jobs their owner is warned and the job is to save; zero: never."""

    warn_before: timedelta
    save_before: timedelta


DEFAULT_NOTICES = Notices(timedelta(minutes=15), timedelta(minutes=2))


@dataclass(frozen=True, slots=True)
class Watched:
    """What is needed of a cluster."""

    poller: Poller
    transport: Transport


class EndKeeper:
    """Looks at the ends of everybody's time. ``notices`` finds a server's profile's."""

    def __init__(
        self,
        *,
        clusters: Mapping[str, Watched],
        store: Rows,
        broadcast: Broadcast,
        clock: Clock,
        notices: Callable[[Server], Notices],
    ) -> None:
        self._clusters = clusters
        self._store = store
        self._broadcast = broadcast
        self._clock = clock
        self._notices = notices
        self._tasks = Tasks("walltime")
        self._busy: set[ServerId] = set()
        self._told: dict[ServerId, tuple[datetime | None, datetime]] = {}
        self._failed: dict[ServerId, datetime] = {}

    def consider(self, rows: Iterable[Server]) -> None:
        """Look at rows as the database had them a moment ago. Costs no query where nothing is due."""
        now, begun = self._clock(), 0
        for row in rows:
            if not runs(row) or row.id in self._busy or begun >= AT_A_TIME:
                continue
            end = self._end(row)
            if end is None:
                continue
            warn = self._warned(row, end, now) != row.warned
            tell = self._must_tell(row, end, now)
            if warn or tell:
                begun += 1
                self._busy.add(row.id)
                self._tasks.start(self._work(row, end, warn=warn, tell=tell), f"end of {row.id}")

    def halt(self) -> None:
        """Do nothing of it any more, at once and without waiting for what is cancelled."""
        self._tasks.halt()

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close()
        self._busy.clear()

    async def tell_job(self, row: Server, at: datetime) -> None:
        """Write the new end where the job looks for it, readable by its owner alone. Raises Unreachable, Denied."""
        await self._clusters[row.cluster].transport.put(f"{row.directory}/{END}", end_document(at), row.account)
        if len(self._told) + len(self._failed) > REMEMBERED:
            self._told.clear()
            self._failed.clear()
        self._told[row.id] = (row.started, at)

    def _end(self, row: Server) -> End | None:
        """The end by the scheduler's last word about the job. While it is silent that word stands, and warnings say so.

        A job that only this answer lacked, and one that nobody has seen since this process began, have no known end.
        """
        cluster = self._clusters.get(row.cluster)
        newest = cluster.poller.newest(row.id) if cluster else None
        if cluster is None or newest is None or (newest.truth is Truth.UNKNOWN and cluster.poller.silent_since is None):
            return None
        return end_of(cluster.poller.last_good(row.id))

    def _warned(self, row: Server, end: End, now: datetime) -> datetime | None:
        return warned_of(row, end, now, self._notices(row).warn_before)

    def _must_tell(self, row: Server, end: End, now: datetime) -> bool:
        """Whether the job takes another moment for its end, and one of both is near."""
        if not row.directory or self._notices(row).save_before <= timedelta(0):
            return False
        failed = self._failed.get(row.id)
        if failed is not None and now - failed < AGAIN:
            return False
        believed = self._believed(row)
        if believed is None:
            return end.at - now <= LEAD
        return not same(believed, end.at) and min(believed, end.at) - now <= LEAD

    def _believed(self, row: Server) -> datetime | None:
        """The end that the job knows: what it was told in this start of it, else its start and what was asked for."""
        started, told = self._told.get(row.id, (None, None))
        if told is not None and started == row.started:
            return told
        asked = row.options.get("walltime")
        if row.started is None or isinstance(asked, (str, bool)) or not asked:
            return None
        return row.started + timedelta(seconds=asked)

    async def _work(self, row: Server, end: End, *, warn: bool, tell: bool) -> None:
        try:
            if warn:
                await self._warn(row, end)
            if tell:
                await self._tell(row, end)
        except NotFound:
            pass
        except HubError as error:
            log.warning("server %s: its owner could not be warned of its end, this is tried again: %s", row.id, error)
        finally:
            self._busy.discard(row.id)

    async def _warn(self, row: Server, end: End) -> None:
        now = self._clock()

        def change(current: Server) -> Server | None:
            warned = self._warned(current, end, now)
            return replace(current, warned=warned) if warned != current.warned else None

        far = self._warned(row, end, now) is None
        words = (
            f"The job's time is up at {end.at:%Y-%m-%d %H:%M} UTC only."
            if far
            else warning_words(end, now, self._clusters[row.cluster].poller.silent_since)
        )
        after = await self._store.update(row.id, change, kind="walltime" if far else "warning", words=words)
        if after.warned != row.warned:
            log.info("server %s of %s: %s", row.id, row.user, words)
            self._broadcast.tell(row.id, row.user)

    async def _tell(self, row: Server, end: End) -> None:
        """A file that cannot be written costs the job its notice, and nobody anything else."""
        try:
            await self.tell_job(row, end.at)
            self._failed.pop(row.id, None)
        except HubError as error:
            self._failed[row.id] = self._clock()
            log.warning("server %s: its job could not be told that its time is up at %s: %s", row.id, end.at, error)
