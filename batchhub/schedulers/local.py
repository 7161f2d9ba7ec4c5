"""The queue that BatchHub brings along (:mod:`batchhub.localqueue`): one machine, JSON answers.

A job the queue calls ``lost`` has lost its supervisor, as a job loses its node elsewhere: NODE_FAIL. An id of another spool
(``foreign``) is no word about the job: a spool that was moved or not mounted must not end anybody's server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from batchhub.core.errors import CommandNotFound, Conflict, Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobReport, JobState, Listing, QueueInfo
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.schedulers import base, extension

_ID = re.compile(r"[a-z]{4}-[0-9]{1,15}")
_REFUSED = 1
_HUBS_OWN = ("BATCHHUB_*", "CONFIGPROXY_*", "JUPYTERHUB_*", "JPY_*")
_STATES = {
    "pending": JobState.PENDING,
    "running": JobState.RUNNING,
    "completed": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "timeout": JobState.TIMEOUT,
    "cancelled": JobState.CANCELLED,
    "lost": JobState.NODE_FAIL,
}
_PROGRAM = "localqueue"


@dataclass(frozen=True, slots=True)
class Local:
    """The local queue's dialect.

    ``python`` is an interpreter that can import batchhub, where jobs are submitted. ``spool`` is the queue's directory; empty leaves the
    choice to the queue. ``slots`` is how many the machine has; 0 means its processors. ``deadline`` is in seconds, for each command.
    """

    python: str = "python3"
    spool: str = ""
    slots: int = 0
    deadline: float = 15.0

    @property
    def name(self) -> str:
        """``local``."""
        return "local"

    def _command(self, *words: str, stdin: str = "") -> Command:
        spool = (f"--spool={self.spool}",) if self.spool else ()
        argv = (self.python, "-m", "batchhub.localqueue", *spool, *words)
        return Command(argv, stdin=stdin, deadline=self.deadline, output_limit=8 * 1024 * 1024)

    def _slots(self) -> tuple[str, ...]:
        return (f"--slots={self.slots}",) if self.slots else ()

    def submit(self, request: JobRequest) -> Command:
        """Submit the script, named and placed as the request says; its output goes to ``job.log`` there."""
        flags = (f"--name={request.name}", f"--chdir={request.directory}", "--output=job.log")
        command = self._command("submit", *flags, *self._slots(), stdin=request.script)
        return replace(command, unset=_HUBS_OWN)  # the job gets the submitter's environment, as with sbatch

    def read_submit(self, done: Completed) -> JobId:
        """The new job's id. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        base.require_command(done, self.python)
        if done.code == 1 and "No module named" in done.err:
            raise CommandNotFound(
                f"{self.python} does not have the module batchhub.localqueue; scheduler_options.python must name a Python that BatchHub is "
                "installed in, and that everybody may run."
            )
        if done.code == _REFUSED and f"{_PROGRAM}: refused: " in done.err:
            raise SubmitRejected(base.shorten(done.err.partition(f"{_PROGRAM}: refused: ")[2]))
        if done.code == 0 and not done.truncated:
            rows, _ = _rows(done.out)
            if len(rows) == 1 and _ID.fullmatch(str(rows[0].get("id"))):
                return JobId(str(rows[0]["id"]))
        raise SubmitAmbiguous(f"The local queue did not say whether it took the job: {_words(done)}")

    def find(self, name: str, user: str) -> Command:
        """Look for jobs of exactly this name and user, ended ones too."""
        return self._command("find", f"--name={name}", f"--user={user}")

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """The jobs found, newest first. Raises Unreachable."""
        rows, bad = self._answer(done)
        reports = [_report(row) for row in rows]
        if bad or None in reports:
            raise Unreachable("The local queue's answer cannot be read.")
        return tuple(report for report in reports if report is not None)

    def tagged(self, prefix: str) -> Command:
        """Everybody's live jobs of such a name, as far as the spool is shared."""
        return self._command("live", f"--prefix={prefix}")

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Newest first. Raises Unreachable."""
        rows, _ = self._answer(done)
        reports = [report for row in rows if (report := _report(row)) is not None]
        return tuple(report for report in reports if report.name.startswith(prefix) and not report.state.terminal)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One question for all the jobs."""
        return self._command("status", *base.check_ids(jobs, _ID))

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen, row by row. Raises Unreachable."""
        rows, bad = self._answer(done)
        asked, seen, gone, foreign = set(jobs), {}, set(), set()
        for row in rows:
            job = row.get("id")
            if job not in asked:
                continue
            report = _report(row)
            if report is not None:
                seen[report.id] = report
            elif row.get("state") == "unknown":
                gone.add(JobId(str(job)))
            elif row.get("state") == "foreign":
                foreign.add(JobId(str(job)))
            else:
                base.note_bad_row(bad, json.dumps(row))
        return Listing(seen, frozenset(gone), tuple(bad), frozenset(foreign))

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """There are no records apart: ``status`` knows ended jobs for a week."""
        base.check_ids(jobs, _ID)
        return None

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The same rows as in a status answer. Raises Unreachable."""
        return self.read_status(done, jobs).jobs

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """Cancel the jobs, a few hundred in one command."""
        return tuple(self._command("cancel", *some) for some in base.chunks(base.check_ids(jobs, _ID), 500))

    def read_cancel(self, done: Completed) -> None:
        """Return if the jobs are, or will be, gone. Raises Unreachable or Denied."""
        rows, bad = self._answer(done)
        words = [row.get("done") for row in rows]
        if "denied" in words:
            raise Denied("The local queue lets only a job's owner cancel it.")
        if bad or not rows or not all(word in {"cancelled", "over", "unknown"} for word in words):
            raise Unreachable(f"The local queue did not cancel the job: {_words(done)}")

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """The queue's own verb; its owner may, as nobody else waits for the machine's slots by the clock."""
        return self._command("extend", f"--walltime={extension.seconds(walltime)}", *base.check_ids([job], _ID))

    def read_extend(self, done: Completed) -> None:
        """Raises Denied, Conflict, Unreachable."""
        rows, bad = self._answer(done)
        word = rows[0].get("done") if len(rows) == 1 and not bad else None
        if word == "extended":
            return
        if word in {"over", "unknown"}:
            raise Conflict("The local queue knows the job as ended.")
        if word == "denied":
            raise Denied("The local queue lets only a job's owner give it more time.")
        if word in {"less", "unlimited"}:
            raise Denied("The local queue says that the job has that much time already.")
        raise Unreachable(f"The local queue did not give the job more time: {_words(done)}")

    def inspect(self) -> Sequence[Command]:
        """Ask for slots and load."""
        return (self._command("info", *self._slots()),)

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """One queue, named ``local``. Raises Unreachable."""
        if len(done) != 1:
            raise Unreachable("The local queue was asked one question.")
        rows, _ = self._answer(done[0])
        slots, free = (rows[0].get("slots"), rows[0].get("free")) if len(rows) == 1 else (None, None)
        if type(slots) is not int or type(free) is not int or slots < 1:
            raise Unreachable("The local queue's answer cannot be read.")
        return (QueueInfo("local", default=True, open=True, max_cores=slots, nodes=1, free_cores=max(0, free)),)

    def _answer(self, done: Completed) -> tuple[list[dict[str, object]], list[str]]:
        base.require_answer(done, self.python)
        if done.code != 0:
            raise Unreachable(f"The local queue did not answer: {_words(done)}")
        return _rows(done.out)


def _words(done: Completed) -> str:
    return base.words_of(done.err, _PROGRAM) or ("no answer in time" if done.timed_out else f"exit status {done.code}")


def _rows(out: str) -> tuple[list[dict[str, object]], list[str]]:
    """The JSON lines, and the lines that are none."""
    rows: list[dict[str, object]] = []
    bad: list[str] = []
    for line in out.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            base.note_bad_row(bad, line)
    return rows, bad


def _report(row: Mapping[str, object]) -> JobReport | None:
    """A row as a report, or ``None`` for one that is none (an unknown id, a state we do not know)."""
    job, word = row.get("id"), row.get("state")
    if not isinstance(job, str) or not _ID.fullmatch(job) or not isinstance(word, str) or word not in _STATES:
        return None
    host = _line(row.get("host"))
    began = _time(row.get("started"))
    limit = _number(row.get("walltime"))
    return JobReport(
        id=JobId(job),
        state=_STATES[word],
        raw_state=word,
        reason=_line(row.get("reason")),
        user=_line(row.get("user")),
        name=_line(row.get("name")),
        partition="local",
        nodes=(host,) if host and began else (),
        host=host if began else "",
        submitted=_time(row.get("submitted")),
        started=began,
        ended=_time(row.get("ended")),
        time_limit=None if limit is None else timedelta(seconds=limit),
        exit_code=_whole(row.get("code"), 0, 255),
        signal=_whole(row.get("signal"), 1, 64),
    )


def _line(value: object) -> str:
    return base.shorten(value, 200) if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return (
        value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 32_503_680_000
        else None
    )


def _whole(value: object, low: int, high: int) -> int | None:
    return value if type(value) is int and low <= value <= high else None


def _time(value: object) -> datetime | None:
    seconds = _number(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
