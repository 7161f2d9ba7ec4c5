"""IBM Spectrum LSF 10.1 and openlava: their command lines. Reading is in ``lsf_words``, ``lsf_read``, ``lsf_long``, ``lsf_site``.

openlava, the older dialect, was recorded (``tests/recordings/openlava``); what LSF adds comes from its manual.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from batchhub.core.errors import Unreachable
from batchhub.core.model import JobId, JobReport, JobState, Listing, QueueInfo
from batchhub.core.ports import NO_ENVIRONMENT, Command, Completed, JobRequest
from batchhub.schedulers import extension
from batchhub.schedulers.base import MAX_BAD_ROWS, PLAIN_ENV, SCRUB_LSF, check_ids, named_in
from batchhub.schedulers.lsf_long import read_long
from batchhub.schedulers.lsf_read import FORMAT, read_rows, under_asked
from batchhub.schedulers.lsf_site import read_site
from batchhub.schedulers.lsf_words import read_killed, read_submitted, require_bhist, require_bjobs

# Never 0, which is "all jobs" to bkill and bjobs.
_ID = re.compile(r"[1-9]\d{0,11}(?:\[[1-9]\d{0,8}\])?")
_HEADS = re.compile(r'(?:^|"JOBID"\s*:\s*")(\d{1,12}(?:\[\d{1,9}\])?)(?!\w)', re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lsf:
    """LSF 10.1 (``flavour`` ``lsf``: ``bjobs -o``) and openlava (its wide table).

    ``bin_dir``: the commands' absolute directory. ``environment``: what ``profile.lsf`` would have set (``LSF_ENVDIR``,
    ``LSF_SERVERDIR`` …), which a non-interactive ssh has not read. ``unit_for_limits``: the site's ``LSF_UNIT_FOR_LIMITS``, for memory
    limits that are printed without a unit. Deadlines in seconds: the clients themselves wait for ever.
    """

    bin_dir: str = ""
    flavour: Literal["lsf", "openlava"] = "lsf"
    environment: Mapping[str, str] = field(default_factory=lambda: NO_ENVIRONMENT)
    unit_for_limits: str = "KB"
    status_deadline: float = 45.0
    submit_deadline: float = 45.0

    @property
    def name(self) -> str:
        """``lsf``, for both flavours: they take the same job scripts."""
        return "lsf"

    def submit(self, request: JobRequest) -> Command:
        """``bsub`` with the script on stdin; as an argument it would run without its ``#BSUB`` lines being read.

        ``-o`` keeps LSF's report from being mailed. openlava has no ``-cwd`` (and would take it for another option): the script
        changes its directory itself. Neither language nor time zone is set, as LSF hands the environment on to the job.
        """
        where = ("-cwd", request.directory) if self.flavour == "lsf" else ()
        argv = (self._path("bsub"), "-J", request.name, *where, "-o", f"{request.directory}/scheduler.log")
        return Command(
            argv, stdin=request.script, env=dict(self.environment), unset=SCRUB_LSF, deadline=self.submit_deadline
        )

    def read_submit(self, done: Completed) -> JobId:
        """The number in ``Job <123> is submitted``. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        return read_submitted(done)

    def find(self, name: str, user: str) -> Command:
        """``bjobs -a -J``: finished jobs too, for as long as LSF remembers them (an hour)."""
        return self._ask("bjobs", "-u", user, "-a", *self._form(), "-J", name)

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """The jobs found, newest first. Raises Unreachable, also for a row that cannot be read: it could be the job.

        Text that begins with no digit is a login banner; beside an answer it is no obstacle.
        """
        said = require_bjobs(done)
        rows = read_rows(done.out)
        answered = bool(rows.found or rows.gone or said.empty)
        if not answered or any(row[:1].isdigit() for row in rows.bad):
            raise Unreachable("bjobs printed a row that cannot be read, or nothing at all.")
        return sorted(rows.found.values(), key=lambda report: int(report.id.partition("[")[0]), reverse=True)

    def tagged(self, prefix: str) -> Command:
        """The wide table of everybody's unfinished jobs, which both flavours have; openlava cannot choose names by their beginning."""
        chosen = ("-J", f"{prefix}*") if self.flavour == "lsf" else ()
        return self._ask("bjobs", "-u", "all", "-w", "-noheader", *chosen)

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Rows that are no jobs of ours may be as odd as they like."""
        require_bjobs(done)
        found = read_rows(done.out).found.values()
        live = [job for job in found if job.name.startswith(prefix) and not job.state.terminal]
        return sorted(live, key=lambda job: int(job.id.partition("[")[0]))

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One ``bjobs``. Raises BadInput for no ids: that would be a question about somebody's every job."""
        return self._ask("bjobs", "-u", "all", "-a", *self._form(), *check_ids(jobs, _ID))

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen. ``Job <ID> is not found`` makes an id gone, and exit status 255 is no obstacle to the rest.

        openlava's table says EXIT of a failure, of a time limit and of a ``bkill`` alike: such a job counts as gone, so that
        :meth:`accounting` is asked how it ended.
        """
        said = require_bjobs(done)
        rows = read_rows(done.out)
        rows.gone |= said.gone
        if not jobs:
            return Listing(rows.found, frozenset(rows.gone), tuple(rows.bad[:MAX_BAD_ROWS]))
        seen, gone = under_asked(rows, jobs)
        if not (rows.found or rows.gone or said.empty):
            raise Unreachable("bjobs named none of the jobs it was asked about, or nothing that can be read.")
        if self.flavour == "openlava":
            gone |= {job for job, report in seen.items() if report.state is JobState.FAILED}
            seen = {job: report for job, report in seen.items() if job not in gone}
        unread = named_in(_HEADS, done.out, jobs) - seen.keys() - gone
        return Listing(seen, gone, tuple(rows.bad[:MAX_BAD_ROWS]), unread)

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """``bhist -l``, which reads files: slow, and only for jobs that ``bjobs`` has forgotten. Raises BadInput for no ids."""
        return self._ask("bhist", "-l", *check_ids(jobs, _ID))

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The jobs' stories as far as they have ended. Raises Unreachable."""
        require_bhist(done)
        found = read_long(done.out)
        return {job: found[job] for job in jobs if job in found}

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """One ``bkill`` for all; it does what it can whatever it says of the others."""
        return [self._ask("bkill", *check_ids(jobs, _ID))]

    def read_cancel(self, done: Completed) -> None:
        """Unknown and finished jobs are cancelled well enough. Raises Unreachable, Denied."""
        read_killed(done)

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """``bmod -W`` in minutes. Of a job that runs only where the site has set ``LSB_MOD_ALL_JOBS`` (lsf.conf), then up to the queue's limit."""
        return self._ask("bmod", "-W", str(extension.minutes(walltime)), *check_ids([job], _ID))

    def read_extend(self, done: Completed) -> None:
        """Raises Denied, Conflict, Unreachable."""
        extension.read_extended(done, self._path("bmod"), extension.LSF)

    def inspect(self) -> Sequence[Command]:
        """Queues in short and in full, hosts, and the default queue."""
        return [
            self._ask("bqueues", "-w"),
            self._ask("bqueues", "-l"),
            self._ask("bhosts", "-w"),
            self._ask("bparams", "-l"),
        ]

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """The queues; limits, hosts and default are left out where they cannot be read. Raises Unreachable."""
        return read_site(done, self.unit_for_limits)

    def _form(self) -> tuple[str, ...]:
        return ("-noheader", "-o", FORMAT) if self.flavour == "lsf" else ("-w", "-noheader")

    def _ask(self, program: str, *arguments: str) -> Command:
        env = {**PLAIN_ENV, "LSB_DISPLAY_YEAR": "Y", **self.environment}
        return Command((self._path(program), *arguments), env=env, unset=SCRUB_LSF, deadline=self.status_deadline)

    def _path(self, program: str) -> str:
        return f"{self.bin_dir.rstrip('/')}/{program}" if self.bin_dir else program
