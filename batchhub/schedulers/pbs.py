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
class Pbs:
    """OpenPBS and PBS Professional, 19 and later.

    ``bin_dir``: the commands' absolute directory (``/opt/pbs/bin`` is not on every PATH). ``server``: set as ``PBS_SERVER`` and
    ``PBS_DEFAULT``; empty means the node's own configuration. ``history``: whether the site keeps finished jobs
    (``job_history_enable``); without it there is no accounting. Deadlines in seconds: the clients themselves wait for ever.
    """

    bin_dir: str = ""
    server: str = ""
    history: bool = True
    status_deadline: float = 45.0
    submit_deadline: float = 45.0

    @property
    def name(self) -> str:
        """``pbs``."""
        return "pbs"

    def submit(self, request: JobRequest) -> Command:
        """``qsub`` with the script on stdin.

        ``-f`` keeps it from leaving a helper behind that would hold the ssh channel open. PBS copies the output when the job has
        ended, so it gets a file of its own beside the log that the script writes.
        """
        argv = (_path(self.bin_dir, "qsub"), "-f", *_placed(request))
        return _command(argv, self.server, self.submit_deadline, stdin=request.script, plain=False)

    def read_submit(self, done: Completed) -> JobId:
        """The whole printed id, server name and all. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        return read_submitted(done)

    def find(self, name: str, user: str) -> Command:
        """``qselect`` by user and name."""
        past = ("-x",) if self.history else ()
        return _command(
            (_path(self.bin_dir, "qselect"), *past, "-u", user, "-N", name), self.server, self.status_deadline
        )

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """Reports that hold an id and the state UNKNOWN, as ``qselect`` prints no more: the next status question tells it."""
        return _found(done)

    def tagged(self, prefix: str) -> Command:
        """The short table of all jobs: ``qselect`` can choose by whole names only, and a full listing is ten times as long."""
        del prefix
        return _command((_path(self.bin_dir, "qstat"),), self.server, self.status_deadline)

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Without users, whose column is cut; the ids are numbers alone, as that column is cut too."""
        return read_table(done, prefix)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One ``qstat -f -F json``. Raises BadInput for no ids: that would be a question about everybody's jobs.

        Not with ``-E``, which asks for all ids at once: the server then leaves out the ids it does not know without a word.
        """
        ids = check_ids(jobs, _ID)
        argv = (_path(self.bin_dir, "qstat"), "-f", "-F", "json", *_subjobs(ids), *ids)
        return _command(argv, self.server, self.status_deadline)

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen. A job that *has finished* counts as gone: its record is asked of :meth:`accounting`."""
        said = require_qstat(done)
        return _listing(_json_jobs(done, said), said, jobs, torque=False)

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """``qstat -x``, which knows finished jobs for two weeks; ``None`` without history. Raises BadInput for no ids."""
        ids = check_ids(jobs, _ID)
        if not self.history:
            return None
        argv = (_path(self.bin_dir, "qstat"), "-x", "-f", "-F", "json", *_subjobs(ids), *ids)
        return _command(argv, self.server, self.status_deadline)

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The records. Raises Unreachable, with advice where the site keeps no history (``qstat`` ends with 0 then)."""
        said = require_qstat(done)
        return _listing(_json_jobs(done, said), said, jobs, torque=False).jobs

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """One ``qdel`` for each job: a list with an unknown id in it made the server of 23.06 dump core."""
        return _cancel(jobs, self.bin_dir, self.server, self.status_deadline)

    def read_cancel(self, done: Completed) -> None:
        """Unknown and finished jobs are cancelled well enough. Raises Unreachable, Denied."""
        read_cancelled(done)

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """``qalter``. A job's owner may only lower the time of one that runs; managers and operators may raise it too."""
        return _extend(job, walltime, self.bin_dir, self.server, self.status_deadline)

    def read_extend(self, done: Completed) -> None:
        """Silence is consent. Raises Denied, Conflict, Unreachable."""
        extension.read_extended(done, "qalter", extension.PBS)

    def inspect(self) -> Sequence[Command]:
        """Queues, nodes, and the server for its default queue and its own limits."""
        asked = (
            ("qstat", "-Q", "-f", "-F", "json"),
            ("pbsnodes", "-a", "-F", "json"),
            ("qstat", "-B", "-f", "-F", "json"),
        )
        return [
            _command((_path(self.bin_dir, argv[0]), *argv[1:]), self.server, self.status_deadline) for argv in asked
        ]

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """The queues; what only the nodes or the server know is left out if they cannot be read. Raises Unreachable."""
        return read_pbs_site(done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Torque:
    """Torque 4 to 6. Fields as in :class:`Pbs`. It keeps finished jobs for ``keep_completed`` seconds, and has no accounting."""

    bin_dir: str = ""
    server: str = ""
    status_deadline: float = 45.0
    submit_deadline: float = 45.0

    @property
    def name(self) -> str:
        """``torque``."""
        return "torque"

    def submit(self, request: JobRequest) -> Command:
        """``qsub`` with the script on stdin (its ``-f`` would mean something else)."""
        argv = (_path(self.bin_dir, "qsub"), *_placed(request))
        return _command(argv, self.server, self.submit_deadline, stdin=request.script, plain=False)

    def read_submit(self, done: Completed) -> JobId:
        """The whole printed id. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        return read_submitted(done)

    def find(self, name: str, user: str) -> Command:
        """``qselect`` by user and name."""
        argv = (_path(self.bin_dir, "qselect"), "-u", user, "-N", name)
        return _command(argv, self.server, self.status_deadline)

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """Reports that hold an id and the state UNKNOWN; the next status question tells it."""
        return _found(done)

    def tagged(self, prefix: str) -> Command:
        """The short table of all jobs: ``qselect`` can choose by whole names only, and a full listing is ten times as long."""
        del prefix
        return _command((_path(self.bin_dir, "qstat"),), self.server, self.status_deadline)

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Without users, whose column is cut; the ids are numbers alone, as that column is cut too."""
        return read_table(done, prefix)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One ``qstat -x``, which prints XML here. Raises BadInput for no ids."""
        ids = check_ids(jobs, _ID)
        argv = (_path(self.bin_dir, "qstat"), "-x", *_subjobs(ids), *ids)
        return _command(argv, self.server, self.status_deadline)

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

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """One ``qdel`` for each job."""
        return _cancel(jobs, self.bin_dir, self.server, self.status_deadline)

    def read_cancel(self, done: Completed) -> None:
        """Unknown and completed jobs are cancelled well enough. Raises Unreachable, Denied."""
        read_cancelled(done)

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """``qalter``. A job's owner may only lower the time of one that runs; managers and operators may raise it too."""
        return _extend(job, walltime, self.bin_dir, self.server, self.status_deadline)

    def read_extend(self, done: Completed) -> None:
        """Silence is consent. Raises Denied, Conflict, Unreachable."""
        extension.read_extended(done, "qalter", extension.PBS)

    def inspect(self) -> Sequence[Command]:
        """Queues, nodes, and the server for its default queue."""
        asked = (("qstat", "-Q", "-f"), ("pbsnodes", "-x"), ("qstat", "-B", "-f"))
        return [
            _command((_path(self.bin_dir, argv[0]), *argv[1:]), self.server, self.status_deadline) for argv in asked
        ]

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """The queues; what only the nodes or the server know is left out if they cannot be read. Raises Unreachable."""
        return read_torque_site(done)


# ---------------------------------------------------------------- what both share


def _path(bin_dir: str, program: str) -> str:
    return f"{bin_dir.rstrip('/')}/{program}" if bin_dir else program


def _placed(request: JobRequest) -> tuple[str, ...]:
    """The options that must hold whatever the script's directives say."""
    return ("-N", request.name, "-j", "oe", "-o", f"{request.directory}/scheduler.log")


def _command(argv: tuple[str, ...], server: str, deadline: float, *, stdin: str = "", plain: bool = True) -> Command:
    env = dict(PLAIN_ENV) if plain else {}
    if server:
        env |= {"PBS_SERVER": server, "PBS_DEFAULT": server}
    return Command(argv, stdin=stdin, env=env, unset=SCRUB_PBS, deadline=deadline)


def _subjobs(ids: Sequence[JobId]) -> tuple[str, ...]:
    return ("-t",) if any("[" in job for job in ids) else ()


def _cancel(jobs: Sequence[JobId], bin_dir: str, server: str, deadline: float) -> Sequence[Command]:
    return [_command((_path(bin_dir, "qdel"), job), server, deadline) for job in check_ids(jobs, _ID)]


def _extend(job: JobId, walltime: timedelta, bin_dir: str, server: str, deadline: float) -> Command:
    (number,) = check_ids([job], _ID)
    asked = f"walltime={extension.clock(walltime)}"
    return _command((_path(bin_dir, "qalter"), "-l", asked, number), server, deadline)


def _found(done: Completed) -> Sequence[JobReport]:
    return [JobReport(id=job, state=JobState.UNKNOWN) for job in read_selected(done)]


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
