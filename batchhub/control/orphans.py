"""Jobs with our tag that no row knows, after a restored backup of the database, say: listed, and by the site's wish adopted or cancelled.

A rare sweep: one listing for each cluster that answers. Jobs whose id stands in the database are the reconciler's and are left alone. Of the
others each must show, by a file that this hub signed, that it is ours; only then :func:`judge` lets anything be done about it. The listing
is put before the database is read, and a row is saved before its job is submitted: so no submit under way is ever taken for an orphan.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from batchhub.control.ports import OrphanStore
from batchhub.control.tagged import TaggedJobs
from batchhub.core.errors import BadInput, Conflict, Denied, FileMissing, HubError, NotFound
from batchhub.core.model import JOB_NAME_PREFIX, JobId, JobReport, Phase, Server, ServerId
from batchhub.core.ports import Clock
from batchhub.core.proofs import Facts

log = logging.getLogger(__name__)


class Policy(StrEnum):
    """What a site wants done with jobs that are proven to be its own."""

    REPORT = "report"
    ADOPT = "adopt"
    CANCEL = "cancel"


class Deed(StrEnum):
    """What is done about one job now."""

    LIST = "listed"
    WAIT = "waiting"
    """Listed; the next sweep may know more."""
    ADOPT = "adopted"
    CANCEL = "cancelled"


@dataclass(frozen=True, slots=True)
class OrphanSettings:
    """Seconds, unless said otherwise.

    ``every`` is the pause between two sweeps, ``first`` the one before the first, in which the rows that the database had wrong come right.
    ``young``: so long a job must have been there before anything is done about it. ``proofs`` is the most proofs read in one sweep,
    ``proofs_of_one`` of one account's jobs, so that a person who submits a thousand such names holds up nobody else's; ``at_once``
    is how many are read at a time. ``shown`` is the most that is remembered of a cluster.
    """

    policy: Policy = Policy.REPORT
    every: float = 600.0
    first: float = 60.0
    young: timedelta = timedelta(minutes=3)
    proofs: int = 200
    proofs_of_one: int = 10
    at_once: int = 8
    shown: int = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one job that bears our tag and has no live row.

    ``since``: since when it is known to be there. ``ended``: this run's row, which has ended. ``facts``: what its signed file says; without
    them ``doubt`` says why. ``unfit``: why a run of these facts could not go on. ``namesake``: a live run has the person's server name.
    ``named``: the jobs of this name and owner by the scheduler's own word, once they were asked for.
    """

    job: JobReport
    since: datetime
    ended: bool = False
    facts: Facts | None = None
    doubt: str = ""
    unfit: str = ""
    namesake: bool = False
    named: tuple[JobId, ...] | None = None


@dataclass(frozen=True, slots=True)
class Orphan:
    """One job as admins see it. ``user`` is the person's name where it is proven."""

    cluster: str
    job: JobReport
    deed: Deed
    words: str
    user: str = ""


def judge(found: Finding, now: datetime, settings: OrphanSettings) -> tuple[Deed, str]:
    """What to do about a job, and why in a sentence. Nothing is done without a proof, nor without the scheduler's second word."""
    if found.ended:
        return Deed.LIST, "Its server has ended here, but its job is still there."
    if now - found.since < settings.young:
        return Deed.WAIT, f"As far as is known it is younger than {settings.young.total_seconds():.0f} seconds."
    facts = found.facts
    if facts is None or not _about(facts, found.job):
        return Deed.LIST, found.doubt or "The proof in its directory is about another job."
    if settings.policy is Policy.REPORT:
        return Deed.LIST, f"It is this hub's: {_what(facts)}."
    if found.named is None:
        return Deed.WAIT, "The scheduler has not confirmed it yet."
    if len(found.named) != 1 or not _same(found.named[0], found.job.id):
        return (
            Deed.LIST,
            f"The scheduler knows {len(found.named)} jobs of this name and owner; one, this one, was expected.",
        )
    if settings.policy is Policy.CANCEL:
        return Deed.CANCEL, f"It is this hub's, and no server's: {_what(facts)}."
    if found.unfit:
        return Deed.LIST, f"It is this hub's, but cannot go on here. {found.unfit}"
    if found.namesake:
        return Deed.WAIT, f"It is this hub's, but {_what(facts)} runs elsewhere already."
    return Deed.ADOPT, f"It is this hub's: {_what(facts)}."


def _about(facts: Facts, job: JobReport) -> bool:
    """Whether the facts are this job's, and not of a file that was copied to where it stands."""
    return facts.account == job.user and JOB_NAME_PREFIX + facts.id == job.name


def row_of(found: Finding, directory: str, now: datetime) -> Server:
    """The row of an adopted job, from which the reconciler goes on by the scheduler's word. It can never be submitted again."""
    facts, job = found.facts, found.named[0] if found.named else found.job.id
    assert facts is not None
    return Server(
        id=facts.id,
        user=facts.user,
        name=facts.name,
        cluster=facts.cluster,
        profile=facts.profile,
        account=facts.account,
        created=facts.created,
        since=now,
        options=facts.options,
        phase=Phase.QUEUED,
        directory=directory,
        job_id=job,
        submit_tried=now,
        submit_count=1,
        generation=facts.generation,
    )


def _what(facts: Facts) -> str:
    return f"server {facts.name!r} of {facts.user}" if facts.name else f"the server of {facts.user}"


def _same(one: JobId, other: JobId) -> bool:
    """A listing may print an id without its server's or cluster's name."""
    return one == other or one.partition(".")[0].partition(";")[0] == other.partition(".")[0].partition(";")[0]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a sweep needs of a cluster. ``answers``: whether it does at present; ``wake``: its jobs are to be looked at soon."""

    jobs: TaggedJobs
    answers: Callable[[], bool]
    wake: Callable[[], None]


class OrphanKeeper:
    """Sweeps now and then, and remembers what it found."""

    def __init__(
        self, *, clusters: Mapping[str, Grounds], store: OrphanStore, clock: Clock, settings: OrphanSettings
    ) -> None:
        self._clusters = clusters
        self._store = store
        self._clock = clock
        self._settings = settings
        self._since: dict[tuple[str, JobId], datetime] = {}
        self._looked: dict[tuple[str, JobId], int] = {}
        self._sweep = 0
        self._found: dict[str, tuple[Orphan, ...]] = {}
        self._again = False

    def found(self) -> Sequence[Orphan]:
        """What the last sweep of each cluster found, whatever was done about it."""
        return tuple(orphan for name in sorted(self._found) for orphan in self._found[name])

    async def keep(self) -> None:
        """Sweep until cancelled; sooner again while something is to be waited for."""
        settings = self._settings
        await asyncio.sleep(min(settings.first, settings.every))
        while True:
            await self.sweep()
            await asyncio.sleep(min(settings.every, settings.first) if self._again else settings.every)

    async def sweep(self) -> None:
        """Every cluster that answers, once."""
        self._sweep += 1
        self._again = False
        for name, grounds in self._clusters.items():
            if not grounds.answers():
                self._again = True
                continue
            try:
                self._found[name] = await self.survey(name, act=True)
            except HubError as error:
                self._again = True
                log.warning("cluster %s: jobs without a row could not be looked for: %s", name, error)
            except Exception:
                log.exception("cluster %s: looking for jobs without a row failed", name)

    async def survey(self, cluster: str, *, act: bool = False) -> tuple[Orphan, ...]:
        """The jobs of one cluster that bear our tag and have no live row. Raises Unreachable, StoreUnavailable.

        With ``act`` what the policy says is done; else it is only told what would be.
        """
        jobs = self._clusters[cluster].jobs
        listed = await jobs.listing()
        live = await self._store.live_servers()  # after the listing: whatever is in it has its row by now
        known = {row.id for row in live}
        strange = [job for server_id in listed.keys() - known for job in listed[server_id]]
        self._remember(cluster, strange)
        findings = [self._finding(cluster, job) for job in await jobs.with_users(self._those_in_turn(cluster, strange))]
        turns = asyncio.Semaphore(self._settings.at_once)
        names = {(str(row.user), row.name) for row in live}

        async def one(found: Finding) -> Orphan:
            async with turns:
                return await self._treat(cluster, found, names, act=act)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(found), name=f"orphan {found.job.id}") for found in findings]
        orphans = [task.result() for task in tasks]
        self._again |= len(strange) > len(findings) or any(orphan.deed is Deed.WAIT for orphan in orphans)
        if act:
            done = [orphan for orphan in orphans if orphan.deed in {Deed.ADOPT, Deed.CANCEL}]
            if done:
                self._clusters[cluster].wake()
        return tuple(orphans[: self._settings.shown])

    # ------------------------------------------------ whose turn it is

    def _remember(self, cluster: str, strange: Sequence[JobReport]) -> None:
        now, there = self._clock(), {(cluster, job.id) for job in strange}
        for key in there:
            self._since.setdefault(key, now)
        for memory in (self._since, self._looked):
            for key in [key for key in memory if key[0] == cluster and key not in there]:
                del memory[key]

    def _those_in_turn(self, cluster: str, strange: Sequence[JobReport]) -> list[JobReport]:
        """Those that were looked at longest ago; of one account's only a few at a time."""
        taken: Counter[str] = Counter()
        chosen: list[JobReport] = []
        for job in sorted(strange, key=lambda job: self._looked.get((cluster, job.id), 0)):
            # Whose it is some listings do not tell; those share.
            if len(chosen) < self._settings.proofs and (not job.user or taken[job.user] < self._settings.proofs_of_one):
                taken[job.user] += 1
                chosen.append(job)
                self._looked[cluster, job.id] = self._sweep
        return chosen

    def _finding(self, cluster: str, job: JobReport) -> Finding:
        seen = self._since.get((cluster, job.id), self._clock())
        return Finding(job, min(seen, job.submitted or seen))

    # ------------------------------------------------ one job

    async def _treat(self, cluster: str, found: Finding, names: set[tuple[str, str]], *, act: bool) -> Orphan:
        try:
            found, directory = await self._examine(cluster, found, names)
            deed, words = judge(found, self._clock(), self._settings)
            if act:
                deed, words = await self._do(cluster, deed, words, found, directory)
        except HubError as error:
            deed, words = Deed.WAIT, f"It could not be looked at: {error}"
        return Orphan(cluster, found.job, deed, words, found.facts.user if found.facts else "")

    async def _examine(self, cluster: str, found: Finding, names: set[tuple[str, str]]) -> tuple[Finding, str]:
        """Ask for what :func:`judge` needs to know, and no more than that. Raises Unreachable, StoreUnavailable."""
        jobs, server_id = self._clusters[cluster].jobs, ServerId(found.job.name.removeprefix(JOB_NAME_PREFIX))
        try:
            await self._store.server(server_id)
        except NotFound:
            pass
        else:
            return replace(found, ended=True), ""
        now = self._clock()
        if now - found.since < self._settings.young:
            return found, ""
        directory = ""
        try:
            directory = await jobs.directory(found.job.user, server_id)
            facts = await jobs.proof(directory, found.job.user)
        except (FileMissing, NotFound):
            return replace(found, doubt="Nothing in its owner's home proves that it is this hub's."), directory
        except (BadInput, Denied) as error:
            return replace(found, doubt=str(error)), directory
        unfit = jobs.unfit(facts) if facts.cluster == cluster else f"It belongs to cluster {facts.cluster!r}."
        found = replace(found, facts=facts, unfit=unfit, namesake=(facts.user, facts.name) in names)
        deed, _ = judge(found, now, self._settings)
        if deed is Deed.WAIT and not found.named:
            found = replace(found, named=tuple(await jobs.named(server_id, found.job.user)))
        return found, directory

    async def _do(self, cluster: str, deed: Deed, words: str, found: Finding, directory: str) -> tuple[Deed, str]:
        match deed:
            case Deed.LIST | Deed.WAIT:
                return deed, words
            case Deed.ADOPT:
                return await self._adopt(words, found, directory)
            case Deed.CANCEL:
                return await self._cancel(cluster, words, found)
            case _:
                assert_never(deed)

    async def _adopt(self, words: str, found: Finding, directory: str) -> tuple[Deed, str]:
        row = row_of(found, directory, self._clock())
        try:
            await self._store.add_server(row)
        except Conflict as error:  # the person was faster, or another hub on this database
            return Deed.WAIT, f"{words} {error}"
        await self._store.add_event(row.id, "adopted", f"job {row.job_id} was found without a row")
        log.warning("cluster %s: job %s was taken back as server %s of %s", row.cluster, row.job_id, row.id, row.user)
        return Deed.ADOPT, words

    async def _cancel(self, cluster: str, words: str, found: Finding) -> tuple[Deed, str]:
        assert found.named
        log.warning("cluster %s: cancelling job %s of %s: %s", cluster, found.named[0], found.job.user, words)
        try:
            await self._clusters[cluster].jobs.cancel(found.named[0], found.job.user)
        except HubError as error:
            return Deed.WAIT, f"{words} Cancelling it failed and will be tried again: {error}"
        return Deed.CANCEL, words
