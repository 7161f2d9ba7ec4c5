"""More time for a job that runs, where the site and the scheduler permit it.

What is asked for is the whole time and not what is added, so a request that arrives twice gives nothing twice. The hub's own bounds are
checked first, as the account that runs the command may be bound by none.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from batchhub.control.broadcast import Broadcast
from batchhub.control.poller import Poller
from batchhub.control.walltime import EndKeeper
from batchhub.core.errors import BadInput, Conflict, Denied, HubError, Unreachable
from batchhub.core.forms import Profile
from batchhub.core.limits import format_walltime
from batchhub.core.model import JobReport, QueueInfo, Server, ServerId, Truth
from batchhub.core.ports import Clock, Dialect, Transport
from batchhub.core.walltime import end_of, limit_of, more_time, runs, smallest

log = logging.getLogger(__name__)


class Rows(Protocol):
    """The store, as far as it is needed here."""

    def update(
        self, server_id: ServerId, change: Callable[[Server], Server | None], *, kind: str = "", by: str = ""
    ) -> Awaitable[Server]:
        """Load, change, save in one transaction, and record the event if anything changed."""


@dataclass(frozen=True, slots=True)
class Extendable:
    """A cluster and how it gives more time: as whom the scheduler is asked, and the most time a job may have there (``None``: the scheduler's own)."""

    transport: Transport
    dialect: Dialect
    poller: Poller
    asked_by: Literal["no", "user", "service"] = "no"
    most: timedelta | None = None


class Extender:
    """Offers more time, and gets it."""

    def __init__(
        self,
        *,
        clusters: Mapping[str, Extendable],
        profiles: Mapping[str, Profile],
        store: Rows,
        ends: EndKeeper,
        broadcast: Broadcast,
        clock: Clock,
    ) -> None:
        self._clusters = clusters
        self._profiles = profiles
        self._store = store
        self._ends = ends
        self._broadcast = broadcast
        self._clock = clock
        self._busy: set[ServerId] = set()
        self._given: dict[ServerId, tuple[timedelta, datetime]] = {}

    def offers(self, row: Server) -> tuple[timedelta, ...]:
        """The whole times that the page offers; empty where there is nothing to ask for."""
        cluster = self._clusters.get(row.cluster)
        if cluster is None or cluster.asked_by == "no" or not runs(row) or cluster.poller.silent_since is not None:
            return ()
        report = _report(cluster, row)
        return more_time(self._limit(cluster, row, report), self._most(cluster, row, report, cluster.poller.queues))

    async def extend(self, row: Server, walltime: timedelta, by: str) -> Server:
        """Have the scheduler give it ``walltime`` in all. Every refusal is a sentence.

        Raises Denied (by the site or in the scheduler's words), BadInput (more than may be), Conflict (it does not run, or has that much),
        Unreachable (nobody knows whether it has it; asking again is safe).
        """
        cluster = self._clusters.get(row.cluster)
        if cluster is None or cluster.asked_by == "no":
            raise Denied("More time for a running job cannot be had on this cluster.")
        if not runs(row) or row.job_id is None:
            raise Conflict("It does not run at the moment; more time can be asked for while it does.")
        if cluster.poller.silent_since is not None:
            raise Unreachable("The scheduler does not answer at the moment; please try again later.")
        with self._alone(row):
            report = _report(cluster, row)
            limit = self._limit(cluster, row, report)
            if report is None or limit is None:
                raise Conflict("The scheduler names no time limit of this job, so there is nothing to extend.")
            if walltime <= limit:
                raise Conflict(f"It has {format_walltime(limit)} in all already.")
            queues = await _queues(cluster)
            most = self._most(cluster, row, report, queues)
            if most is not None and walltime > most:
                raise BadInput(
                    f"walltime: {format_walltime(walltime)} is too long; a job may have {format_walltime(most)} in all here."
                )
            command = cluster.dialect.extend(row.job_id, walltime)
            if command is None:
                raise Denied("This cluster's scheduler cannot give a running job more time.")
            account = row.account if cluster.asked_by == "user" else None
            cluster.dialect.read_extend(await cluster.transport.run(command, command.runs_as(account)))
            self._remember(row, walltime)
        log.info("server %s of %s: job %s was given %s in all by %s", row.id, row.user, row.job_id, walltime, by)
        words = f"Its time was extended to {format_walltime(walltime)}."
        after = await self._store.update(row.id, lambda current: replace(current, words=words), kind="extended", by=by)
        cluster.poller.wake()
        self._broadcast.tell(row.id, row.user)
        await self._tell_job(cluster, row, walltime - limit)
        return after

    async def _tell_job(self, cluster: Extendable, row: Server, more: timedelta) -> None:
        """At once, as the job's own end may be near. If it fails, the next look at its end does it."""
        end = end_of(cluster.poller.last_good(row.id))
        try:
            if end is not None and row.directory:
                await self._ends.tell_job(row, end.at + more)
        except HubError as error:
            log.warning("server %s: its job could not be told of its new end: %s", row.id, error)

    def _limit(self, cluster: Extendable, row: Server, report: JobReport | None) -> timedelta | None:
        """The time it has: what the scheduler said, or what was given since it was asked."""
        seen, limit = cluster.poller.last_good(row.id), limit_of(report)
        walltime, at = self._given.get(row.id, (None, None))
        if limit is None or seen is None or walltime is None or at is None or seen.at > at:
            return limit
        return max(limit, walltime)

    def _most(
        self, cluster: Extendable, row: Server, report: JobReport | None, queues: tuple[QueueInfo, ...]
    ) -> timedelta | None:
        """The most time it may have: what the site says of extensions, else the form's own limit; and the partition's."""
        profile = self._profiles.get(row.profile)
        said = smallest((cluster.most, profile.time_up.most if profile else None))
        if said is None and profile is not None:
            said = _longest(profile)
        name = (report.partition if report else "") or str(row.options.get("partition", ""))
        here = [queue.max_walltime for queue in queues if queue.name == name or (not name and queue.default)]
        return smallest((said, *here))

    @contextmanager
    def _alone(self, row: Server) -> Iterator[None]:
        """Two requests at once for one job could end with the smaller."""
        if row.id in self._busy:
            raise Conflict("More time is being asked for already.")
        self._busy.add(row.id)
        try:
            yield
        finally:
            self._busy.discard(row.id)

    def _remember(self, row: Server, walltime: timedelta) -> None:
        now = self._clock()
        fresh = {name: given for name, given in self._given.items() if now - given[1] < timedelta(hours=1)}
        self._given = {**fresh, row.id: (walltime, now)}


async def _queues(cluster: Extendable) -> tuple[QueueInfo, ...]:
    """The partitions, as far as they are known: the scheduler judges too, or, where it does not, there is a bound of the site's."""
    try:
        return await cluster.poller.inspect()
    except Unreachable:
        return cluster.poller.queues


def _report(cluster: Extendable, row: Server) -> JobReport | None:
    seen = cluster.poller.newest(row.id)
    return seen.report if seen is not None and seen.truth is Truth.SEEN else None


def _longest(profile: Profile) -> timedelta | None:
    """The most time that the profile's form lets people ask for."""
    asked = next((field for field in profile.fields if field.name == "walltime"), None)
    if asked is None:
        fixed = profile.fixed.get("walltime")
        return timedelta(seconds=float(fixed)) if fixed is not None else None
    if asked.choices:
        return timedelta(seconds=max(float(choice.value) for choice in asked.choices))
    return None if asked.maximum is None else timedelta(seconds=asked.maximum)
