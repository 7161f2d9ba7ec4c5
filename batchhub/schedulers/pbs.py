"""OpenPBS / PBS Professional and Torque: their command lines. Reading is in ``pbs_words``, ``pbs_read``, ``pbs_jobs``, ``pbs_site``.

Facts come from the man pages of both, from PBS's sources and from recorded runs of OpenPBS 23.06 (``tests/recordings/openpbs``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from batchhub.core.errors import BadInput, Unreachable
from batchhub.core.model import JobId, JobReport, JobState, Listing, QueueInfo
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.schedulers import extension
from batchhub.schedulers.base import MAX_BAD_ROWS, PLAIN_ENV, SCRUB_PBS, check_ids, named_in, note_bad_row, shorten
from batchhub.schedulers.pbs_jobs import read_job
from batchhub.schedulers.pbs_read import Records, read_json, read_xml
from batchhub.schedulers.pbs_site import read_pbs_site, read_torque_site
from batchhub.schedulers.pbs_words import (
    Complaints,
    read_cancelled,
    read_selected,
    read_submitted,
    read_table,
    require_qstat,
    same_job,
)

_ID = re.compile(r"\d{1,18}(?:\[\d{0,9}\])?(?:\.[A-Za-z0-9][A-Za-z0-9._-]{0,254})?")
_ABOUT = re.compile(r"\s(\d+(?:\[\d*\])?)\.[A-Za-z0-9._-]+$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Commands:
    """What both share: qsub, qselect, qdel, qalter, and how they are called."""

    bin_dir: str = ""
    server: str = ""
    status_deadline: float = 45.0
    submit_deadline: float = 45.0

    def read_submit(self, done: Completed) -> JobId:
        """The whole printed id, server name and all. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        return read_submitted(done)

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """Reports that hold an id and the state UNKNOWN, as ``qselect`` prints no more: the next status question tells it."""
        return [JobReport(id=job, state=JobState.UNKNOWN) for job in read_selected(done)]

    def tagged(self, prefix: str) -> Command:
        """The short table of all jobs: ``qselect`` can choose by whole names only, and a full listing is ten times as long."""
        del prefix
        return self._ask("qstat")

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Without users, whose column is cut; the ids are numbers alone, as that column is cut too."""
        return read_table(done, prefix)

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """One ``qdel`` for each job: a list with an unknown id in it made the server of 23.06 dump core."""
        return [self._ask("qdel", job) for job in check_ids(jobs, _ID)]

    def read_cancel(self, done: Completed) -> None:
        """Unknown and finished jobs are cancelled well enough. Raises Unreachable, Denied."""
        read_cancelled(done)

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """``qalter``. A job's owner may only lower the time of one that runs; managers and operators may raise it too."""
        (number,) = check_ids([job], _ID)
        return self._ask("qalter", "-l", f"walltime={extension.clock(walltime)}", number)

    def read_extend(self, done: Completed) -> None:
        """Silence is consent. Raises Denied, Conflict, Unreachable."""
        extension.read_extended(done, "qalter", extension.PBS)

    def _submit(self, request: JobRequest, *options: str) -> Command:
        """Name and output are set here: they must hold whatever the script's directives say."""
        placed = ("-N", request.name, "-j", "oe", "-o", f"{request.directory}/scheduler.log")
        argv = (self._path("qsub"), *options, *placed)
        return Command(argv, stdin=request.script, env=self._server(), unset=SCRUB_PBS, deadline=self.submit_deadline)

    def _ask(self, program: str, *arguments: str) -> Command:
        env = {**PLAIN_ENV, **self._server()}
        return Command((self._path(program), *arguments), env=env, unset=SCRUB_PBS, deadline=self.status_deadline)

    def _path(self, program: str) -> str:
        return f"{self.bin_dir.rstrip('/')}/{program}" if self.bin_dir else program

    def _server(self) -> dict[str, str]:
        return {"PBS_SERVER": self.server, "PBS_DEFAULT": self.server} if self.server else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbs(_Commands):
    """OpenPBS and PBS Professional, 19 and later.

    ``bin_dir``: the commands' absolute directory (``/opt/pbs/bin`` is not on every PATH). ``server``: set as ``PBS_SERVER`` and
    ``PBS_DEFAULT``; empty means the node's own configuration. ``history``: whether the site keeps finished jobs
    (``job_history_enable``); without it there is no accounting. Deadlines in seconds: the clients themselves wait for ever.
    """

    history: bool = True

    @property
    def name(self) -> str:
        """``pbs``."""
        return "pbs"

    def submit(self, request: JobRequest) -> Command:
        """``qsub`` with the script on stdin.

        ``-f`` keeps it from leaving a helper behind that would hold the ssh channel open. PBS copies the output when the job has
        ended, so it gets a file of its own beside the log that the script writes.
        """
        return self._submit(request, "-f")

    def find(self, name: str, user: str) -> Command:
        """``qselect`` by user and name."""
        past = ("-x",) if self.history else ()
        return self._ask("qselect", *past, "-u", user, "-N", name)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One ``qstat -f -F json``. Raises BadInput for no ids: that would be a question about everybody's jobs.

        Not with ``-E``, which asks for all ids at once: the server then leaves out the ids it does not know without a word.
        """
        ids = check_ids(jobs, _ID)
        return self._ask("qstat", "-f", "-F", "json", *_subjobs(ids), *ids)

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen. A job that *has finished* counts as gone: its record is asked of :meth:`accounting`."""
        said = require_qstat(done)
        return _listing(_json_jobs(done, said), said, jobs, torque=False)

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """``qstat -x``, which knows finished jobs for two weeks; ``None`` without history. Raises BadInput for no ids."""
        ids = check_ids(jobs, _ID)
        return self._ask("qstat", "-x", "-f", "-F", "json", *_subjobs(ids), *ids) if self.history else None

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The records. Raises Unreachable, with advice where the site keeps no history (``qstat`` ends with 0 then)."""
        said = require_qstat(done)
        return _listing(_json_jobs(done, said), said, jobs, torque=False).jobs

    def inspect(self) -> Sequence[Command]:
        """Queues, nodes, and the server for its default queue and its own limits."""
        return [
            self._ask("qstat", "-Q", "-f", "-F", "json"),
            self._ask("pbsnodes", "-a", "-F", "json"),
            self._ask("qstat", "-B", "-f", "-F", "json"),
        ]

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """The queues; what only the nodes or the server know is left out if they cannot be read. Raises Unreachable."""
        return read_pbs_site(done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Torque(_Commands):
    """Torque 4 to 6. Fields as in :class:`Pbs`. It keeps finished jobs for ``keep_completed`` seconds, and has no accounting."""

    @property
    def name(self) -> str:
        """``torque``."""
        return "torque"

    def submit(self, request: JobRequest) -> Command:
        """``qsub`` with the script on stdin (its ``-f`` would mean something else)."""
        return self._submit(request)

    def find(self, name: str, user: str) -> Command:
        """``qselect`` by user and name."""
        return self._ask("qselect", "-u", user, "-N", name)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One ``qstat -x``, which prints XML here. Raises BadInput for no ids."""
        ids = check_ids(jobs, _ID)
        return self._ask("qstat", "-x", *_subjobs(ids), *ids)

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen; a completed job stays visible for a while, with its exit status."""
        said = require_qstat(done)
        records = read_xml(done.out)
        return _listing(records, said, jobs, torque=True)

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """``None``: only the server's administrator can read its records. Raises BadInput for no ids."""
        check_ids(jobs, _ID)
        return None

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """Nothing was asked, so nothing is known."""
        del done, jobs
        return {}

    def inspect(self) -> Sequence[Command]:
        """Queues, nodes, and the server for its default queue."""
        return [self._ask("qstat", "-Q", "-f"), self._ask("pbsnodes", "-x"), self._ask("qstat", "-B", "-f")]

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """The queues; what only the nodes or the server know is left out if they cannot be read. Raises Unreachable."""
        return read_torque_site(done)


def _subjobs(ids: Sequence[JobId]) -> tuple[str, ...]:
    return ("-t",) if any("[" in job for job in ids) else ()


def _json_jobs(done: Completed, said: Complaints) -> Records:
    """The jobs of an answer; an answer that only names ids it does not know may have no document."""
    if not done.out.strip() and (said.unknown or said.finished):
        return Records({}, present=False)
    return read_json(done.out, "Jobs")


def _listing(records: Records, said: Complaints, jobs: Sequence[JobId], *, torque: bool) -> Listing:
    """Put records and complaints together, under the ids that were asked (all that were printed, if none is named).

    Raises Unreachable for an answer that says nothing about any job: with the server down the document looks just so.
    """
    printed = (*records.found, *said.unknown, *said.finished)
    ids = same_job(jobs, printed) if jobs else {name: JobId(name) for name in printed}
    # A number without its server's name may have been cut short, and then be another job's.
    gone = frozenset(ids[name] for name in (*said.unknown, *said.finished) if name in ids and "." in name)
    seen: dict[JobId, JobReport] = {}
    unread = named_in(_ABOUT, "\n".join(said.about), jobs) | frozenset(same_job(jobs, records.unread).values())
    bad = [*records.bad]
    for line in said.about:
        note_bad_row(bad, line)
    for name, record in records.found.items():
        job = ids.get(name)
        if job is None or job in gone:
            continue
        try:
            seen[job] = read_job(job, record, torque=torque)
        except BadInput as error:
            note_bad_row(bad, f"{shorten(name, 60)}: {error}")
            unread |= {job}
    if jobs and not (printed or bad):
        raise Unreachable("The scheduler named none of the jobs it was asked about, and no reason.")
    return Listing(seen, gone, tuple(bad[:MAX_BAD_ROWS]), unread - gone - seen.keys())
