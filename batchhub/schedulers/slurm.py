"""Slurm (21.08 to 26.05): command lines and the judgement of what came back.

Exit status, stdout and stderr are judged together, because each alone misleads: squeue exits 0 for an unknown user and 1 for a
single purged job; scancel exits 0 for a job that never existed; sbatch exits 1 for a job that the controller took nevertheless.
How the text itself is read, and why it is text and not JSON, is in :mod:`batchhub.schedulers.slurm_text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from batchhub.core.errors import BadInput, ConfigError, Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobReport, JobState, Listing, QueueInfo
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.schedulers import extension
from batchhub.schedulers.base import (
    KEEP_SLURM,
    PLAIN_ENV,
    SCRUB_SLURM,
    check_ids,
    chunks,
    complaints,
    named_in,
    require_answer,
    require_command,
    shorten,
    words_of,
)
from batchhub.schedulers.slurm_text import SEPARATOR, SINFO_COLUMNS, read_partitions, read_rows, read_show_job, rows

_SQUEUE_COLUMNS = {
    "id": "%i",
    "word": "%T",
    "raw": "%A",
    "user": "%u",
    "partition": "%P",
    "nodes": "%N",
    "host": "%B",
    "start": "%S",
    "end": "%e",
    "submit": "%V",
    "left": "%L",
    "limit": "%l",
    "priority": "%Q",
    "reason": "%r",  # the only free text goes last
}
_TAGGED_COLUMNS = {"id": "%i", "word": "%T", "user": "%u", "submit": "%V", "name": "%j"}
_SACCT_COLUMNS = {
    "id": "JobID",
    "word": "State",
    "raw": "JobIDRaw",
    "exit": "ExitCode",
    "user": "User",
    "partition": "Partition",
    "submit": "Submit",
    "start": "Start",
    "end": "End",
    "limit": "Timelimit",
    "nodes": "NodeList",
    "reason": "Reason",
}
_ASK_ENV = MappingProxyType({**PLAIN_ENV, "SLURM_TIME_FORMAT": "%s"})
_JOB_ID = re.compile(r"\d{1,18}(?:[_+]\d{1,18})?(?:;[A-Za-z0-9._-]{1,64})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._+-]{1,128}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}\$?")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")
_HEADS = re.compile(r"^[ \t]*(\d{1,18}(?:[_+]\d{1,18})?)(?!\w)", re.ASCII | re.MULTILINE)
_SUBMITTED = re.compile(r"^(\d{1,18})(?:;(\S{1,64}))?$", re.ASCII)
_SUBMITTED_LONG = re.compile(r"^Submitted batch job (\d{1,18})(?: on cluster (\S{1,64}))?$", re.ASCII)
# Only these lines are verdicts, if there is one: "'x' can't be reached now" follows the second, and means nothing then.
_FAILED = re.compile(r"Batch job submission failed: *.|No cluster '.*' known by database")
_SAYS_NO = re.compile(r"^(?:\S*/)?sbatch: (?:error: |fatal: |unrecognized option|invalid option|option |ambiguous )")
_UNKNOWN_JOB = re.compile(r"Invalid job id specified")
_NOT_ALLOWED = re.compile(r"Access/permission denied|Invalid user id")
_JOB_IS_OVER = re.compile(r"Invalid job id specified|Job/step already completing or completed|Job has already finished")

# The request, or its answer, may be lost; nobody has judged the job. Sentences of slurm_errno.c and of the libraries below it.
_NOT_JUDGED = re.compile(
    r"Unable to contact slurm controller|Unable to contact slurmdbd|Socket timed out|Zero Bytes were transmitted"
    r"|Unexpected missing socket|Insane message length|Protocol authentication error|Munge (?:decode|encode)|munged?\b.*socket"
    r"|Invalid authentication credential|authentication credential|standby mode|Rate limit exceeded|temporarily unable"
    r"|sleeping and retrying|temporarily disabled|Resource temporarily unavailable|Connection (?:refused|reset|timed out)"
    r"|Broken pipe|Interrupted system call|Communication connection failure|Message (?:send|receive) failure"
    r"|Header lengths are longer|Could not establish a configuration source|resolve_ctls_from_dns_srv"
    r"|Incompatible versions of client and server|No route to host|Transport endpoint|Problem talking to the database"
    r"|failed to open persistent connection|can't be reached now|I/O error writing script|Slurmctld could not be reached",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """The dialect. See :class:`batchhub.core.ports.Dialect` for what each method promises.

    ``bin_dir``: absolute directory of Slurm's commands; empty = the account's PATH. ``cluster``: passed as ``--clusters``, which
    needs slurmdbd to be up; empty = the login node's own. ``status_deadline``, seconds: squeue itself gives up on a silent
    controller after 10 to 20. ``submit_deadline``, seconds: sbatch sleeps and retries for 120 when the controller is busy.
    ``sacct``: whether the site keeps accounting; without it, see :meth:`accounting`. Raises ConfigError.
    """

    bin_dir: str = ""
    cluster: str = ""
    status_deadline: float = 30.0
    submit_deadline: float = 150.0
    sacct: bool = True

    def __post_init__(self) -> None:
        if self.bin_dir and (not self.bin_dir.startswith("/") or _UNPRINTABLE.search(self.bin_dir)):
            raise ConfigError(f"Slurm's bin_dir must be an absolute directory, not {shorten(self.bin_dir, 80)!r}.")
        if self.cluster and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", self.cluster):
            raise ConfigError(f"Slurm's cluster must be one cluster's name, not {shorten(self.cluster, 80)!r}.")
        if min(self.status_deadline, self.submit_deadline) <= 0:
            raise ConfigError("Slurm's deadlines are seconds and must be above 0.")

    @property
    def name(self) -> str:
        """``slurm``."""
        return "slurm"

    # ------------------------------------------------------------ submit

    def submit(self, request: JobRequest) -> Command:
        """``sbatch`` with the script on stdin; options on the command line win over the script's ``#SBATCH`` lines.

        No variable is set here, only removed: sbatch hands its environment on to the job, where ``LC_ALL=C`` would harm every
        notebook that prints an umlaut. Raises BadInput for a name or directory that sbatch would read differently.
        """
        directory = request.directory.rstrip("/")
        if not directory.startswith("/") or _UNPRINTABLE.search(directory):
            raise BadInput(
                f"The job directory {shorten(directory, 120)!r} must be absolute, without \\ or control characters."
            )
        if not _NAME.fullmatch(request.name):
            raise BadInput(
                f"{shorten(request.name, 60)!r} is not a job name: letters, digits and . _ + - are expected."
            )
        log = directory.replace("%", "%%") + "/job.log"  # sbatch(1), "filename pattern"
        options = (
            "--parsable",
            f"--job-name={request.name}",
            f"--chdir={directory}",
            f"--output={log}",
            "--open-mode=append",
        )
        return Command(
            argv=self._argv("sbatch", *options),
            stdin=request.script,
            unset=SCRUB_SLURM,
            keep=KEEP_SLURM,
            deadline=self.submit_deadline,
            output_limit=1024 * 1024,
        )

    def read_submit(self, done: Completed) -> JobId:
        """The id, if one was printed at all: sbatch prints it only once the controller has said it."""
        job = _printed_id(done)
        if job is not None:
            return job
        if done.timed_out or done.code is None:
            raise SubmitAmbiguous("sbatch did not answer in time; the job may have been created.")
        require_command(done, self._program("sbatch"))
        if done.code == 0:
            said = f"sbatch reported success without a job id. {words_of(done.err, 'sbatch')}"
            raise SubmitAmbiguous(said.rstrip())
        lines = complaints(done.err)
        words = words_of(done.err, "sbatch") or f"sbatch exited with status {done.code} and said nothing."
        verdicts = [line for line in lines if _FAILED.search(line)]
        # 128 and above is a shell's word for a signal, except 255, which is sbatch's own for a bad option.
        killed = 128 <= done.code < 255
        judged = not killed and any(verdicts or [line for line in lines if _SAYS_NO.match(line)])
        if judged and not any(_NOT_JUDGED.search(line) for line in verdicts or lines):
            raise SubmitRejected(words)
        raise SubmitAmbiguous(words)

    def find(self, name: str, user: str) -> Command:
        """Jobs of exactly this name and user that the controller holds: live ones, and ended ones for MinJobAge (300 s).

        One command can ask only one place. A lost submit is looked for within seconds, so that place is squeue, which also knows
        jobs that accounting has not heard of yet. The user matters: anybody may give a job our name.
        """
        if not _NAME.fullmatch(name) or not _USER.fullmatch(user):
            raise BadInput(f"{shorten(name, 60)!r} of {shorten(user, 60)!r} cannot be looked for.")
        return self._ask("squeue", *_squeue_options(), f"--name={name}", f"--user={user}")

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """Newest first. Left out are FAILED/BadConstraints records, which Slurm keeps of some refused submits."""
        self._require_clean(done, "squeue")
        bad: list[str] = []
        found = [job for _, job in read_rows(rows(done.out, tuple(_SQUEUE_COLUMNS), bad), bad)]
        if bad:
            raise Unreachable(f"squeue's answer cannot be read: {bad[0]}")
        suffix = f";{self.cluster}" if self.cluster else ""
        kept = [replace(job, id=JobId(job.id + suffix)) for job in found if not _left_by_refusal(job)]
        return sorted(kept, key=lambda job: (job.submitted or _LONG_AGO, _number(job.id)), reverse=True)

    def tagged(self, prefix: str) -> Command:
        """Everybody's live jobs, which is squeue's default: it can choose by whole names only. The name, free text, goes last."""
        del prefix
        columns = SEPARATOR.join(_TAGGED_COLUMNS.values())
        return self._ask("squeue", "--noheader", f"--format={columns}")

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Oldest first."""
        self._require_clean(done, "squeue")
        suffix = f";{self.cluster}" if self.cluster else ""
        found: dict[JobId, JobReport] = {}
        for row in rows(done.out, tuple(_TAGGED_COLUMNS), []):
            if not row["name"].startswith(prefix):
                continue
            for _, job in read_rows([row], []):
                if not job.state.terminal:
                    name = shorten(row["name"], 64)
                    found[job.id] = replace(job, id=JobId(job.id + suffix), name=name)
        return sorted(found.values(), key=lambda job: _number(job.id))

    # ------------------------------------------------------------ status

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One squeue for all the jobs, in every state: by default it hides those that ended."""
        return self._ask("squeue", *_squeue_options(), "--array", f"--jobs={self._id_list(jobs)}", at=self._home(jobs))

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What squeue's three answers mean.

        A *single* unknown id is refused in words: that id is gone. Of *several*, the unknown ones are left out silently: those
        are merely missing. Anything on stderr that is not the usual noise of a login makes missing jobs mean nothing, so the
        whole answer is Unreachable, unless every job was seen. So is one that holds text but no job, and silence about a single id.
        """
        require_answer(done, self._program("squeue"))
        wanted = self._by_number(jobs)
        bad: list[str] = []
        seen = _match(read_rows(rows(done.out, tuple(_SQUEUE_COLUMNS), bad), bad), wanted, prefer_alive=True)
        lines = complaints(done.err)
        if not seen and done.code == 0 and not lines and (bad or _alone(wanted)):
            raise Unreachable(
                f"squeue said nothing about the jobs it was asked for: {bad[0] if bad else 'no word at all'}"
            )
        if done.code == 0 and (not lines or len(seen) == len(wanted)):
            unread = named_in(_HEADS, done.out, wanted.values()) - seen.keys()
            return Listing(seen, bad_rows=tuple(bad), unread=unread)
        if len(wanted) == 1 and not seen and lines and all(_UNKNOWN_JOB.search(line) for line in lines):
            return Listing({}, gone=frozenset(wanted.values()), bad_rows=tuple(bad))
        raise _unreachable(done, "squeue")

    # ------------------------------------------------------------ accounting

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """``sacct``, one line for each job without its steps, and only its newest run (no ``--duplicates``).

        Without accounting a single job can still be asked for by ``scontrol show job``, which holds its exit code for MinJobAge;
        several cannot: only the list of all jobs would do, in which a user's job name could pose as another's record.
        """
        if self.sacct:
            columns = ",".join(_SACCT_COLUMNS.values())
            options = ("--allocations", "--parsable2", "--noheader", f"--delimiter={SEPARATOR}", f"--format={columns}")
            return self._ask("sacct", *options, f"--jobs={self._id_list(jobs)}", at=self._home(jobs))
        ids = self._id_list(jobs)
        return None if "," in ids else self._ask("scontrol", "show", "job", ids, at=self._home(jobs))

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The newest record of each job; one that accounting does not know is absent, which is its own word.

        A RUNNING row can be stale for ever (slurmdbd missed the end): the queue's word goes before it.
        """
        program = "sacct" if self.sacct else "scontrol"
        require_answer(done, self._program(program))
        wanted = self._by_number(jobs)
        lines = complaints(done.err)
        bad: list[str] = []
        if not self.sacct:
            if done.code != 0 and lines and all(_UNKNOWN_JOB.search(line) for line in lines):
                return {}
            shown = read_show_job(done.out)[:1] if done.code == 0 else []
            found = _match((({"raw": str(_number(job.id))}, job) for job in shown), wanted, prefer_alive=False)
        else:
            read = list(read_rows(rows(done.out, tuple(_SACCT_COLUMNS), bad), bad))
            read.reverse()  # of two runs of one job that were submitted together, the later line is the newer
            read.sort(key=lambda pair: pair[1].submitted or _LONG_AGO, reverse=True)
            found = _match(read, wanted, prefer_alive=False)
        if bad and not found and done.code == 0 and not lines:
            raise Unreachable(f"{program}'s answer cannot be read: {bad[0]}")
        if done.code == 0 and (not lines or len(found) == len(wanted)):
            return found
        raise _unreachable(done, program)

    # ------------------------------------------------------------ cancel

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """``scancel`` with up to 200 ids: it sends one request for each, and must end before its deadline."""
        ids = check_ids(jobs, _JOB_ID)
        homes = dict.fromkeys(self._home((job,)) for job in ids)
        parted = [(home, [job for job in ids if self._home((job,)) == home]) for home in homes]
        groups = [(home, group) for home, part in parted for group in chunks(part, 200)]
        return [self._ask("scancel", *(_bare(job) for job in group), at=home) for home, group in groups]

    def read_cancel(self, done: Completed) -> None:
        """Scancel says nothing and exits 0 for jobs that ended or never were; some releases say so and exit otherwise."""
        require_answer(done, self._program("scancel"))
        lines = complaints(done.err)
        if done.code == 0 or (lines and all(_JOB_IS_OVER.search(line) for line in lines)):
            return
        if done.code == 210 or any(_NOT_ALLOWED.search(line) for line in lines):
            raise Denied(words_of(done.err, "scancel") or "Slurm does not permit this account to cancel the job.")
        raise _unreachable(done, "scancel")

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """``scontrol update``. A job's owner may only lower the limit of one that runs; operators may raise it too."""
        (number,) = check_ids([job], _JOB_ID)
        return self._ask(
            "scontrol",
            "update",
            f"JobId={_bare(number)}",
            f"TimeLimit={extension.minutes(walltime)}",
            at=self._home((number,)),
        )

    def read_extend(self, done: Completed) -> None:
        """Silence is consent. Raises Denied, Conflict, Unreachable."""
        extension.read_extended(done, self._program("scontrol"), extension.SLURM)

    # ------------------------------------------------------------ inspect

    def inspect(self) -> Sequence[Command]:
        """The partitions' limits (``scontrol``), and their nodes grouped by state and size (``sinfo``)."""
        columns = SEPARATOR.join(SINFO_COLUMNS.values())
        return (
            self._ask("scontrol", "--oneliner", "--all", "show", "partition"),
            self._ask("sinfo", "--all", "--exact", "--noheader", f"--format={columns}"),
        )

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """Cores, memory and GPUs are the largest node's; idle cores are the controller's count of this moment."""
        if len(done) != 2:
            raise BadInput("Two answers are expected, one for each command of inspect().")
        for answer, program in zip(done, ("scontrol", "sinfo"), strict=True):
            self._require_clean(answer, program)
        return read_partitions(done[0].out, done[1].out)

    # ------------------------------------------------------------ parts

    def _program(self, program: str) -> str:
        return f"{self.bin_dir.rstrip('/')}/{program}" if self.bin_dir else program

    def _argv(self, program: str, *options: str, at: str | None = None) -> tuple[str, ...]:
        name = self.cluster if at is None else at
        cluster = (f"--clusters={name}",) if name else ()
        return (self._program(program), *cluster, *options)

    def _ask(self, program: str, *options: str, at: str | None = None) -> Command:
        return Command(
            argv=self._argv(program, *options, at=at),
            env=_ASK_ENV,
            unset=SCRUB_SLURM,
            keep=KEEP_SLURM,
            deadline=self.status_deadline,
        )

    def _home(self, jobs: Iterable[JobId]) -> str:
        """The cluster to be asked about these ids; its own is none (empty). Raises BadInput for ids of several clusters.

        ``123;east`` was given to another cluster, whose number 123 is another job than ours: by a script's ``--clusters``, say. Only a
        federation's numbers mean the same job everywhere; they hold the cluster where it was submitted in the bits from the 27th on.
        """
        homes = {self._home_of(job) for job in jobs}
        if len(homes) != 1:
            raise BadInput("Jobs of several Slurm clusters cannot be asked for at once.")
        return homes.pop()

    def _home_of(self, job: JobId) -> str:
        name = job.partition(";")[2]
        return name if name and _number(job) < _FEDERATED else self.cluster

    def _id_list(self, jobs: Sequence[JobId]) -> str:
        return ",".join(dict.fromkeys(_bare(job) for job in check_ids(jobs, _JOB_ID)))

    def _by_number(self, jobs: Sequence[JobId]) -> dict[str, JobId]:
        return {_bare(job): job for job in check_ids(jobs, _JOB_ID)}

    def _require_clean(self, done: Completed, program: str) -> None:
        require_answer(done, self._program(program))
        if done.code != 0 or complaints(done.err):
            raise _unreachable(done, program)


_FEDERATED = 1 << 26
_LONG_AGO = datetime.fromtimestamp(0, UTC)


def _squeue_options() -> tuple[str, ...]:
    return ("--noheader", "--states=all", f"--format={SEPARATOR.join(_SQUEUE_COLUMNS.values())}")


def _alone(wanted: Mapping[str, JobId]) -> bool:
    """Whether one whole job is asked for: squeue answers that with a row or a refusal. An array's element may be left out."""
    return len(wanted) == 1 and all(number.isdigit() for number in wanted)


def _bare(job: JobId) -> str:
    """The id without the ``;cluster`` that ``sbatch --parsable`` adds in a federation."""
    return job.partition(";")[0]


def _number(job: JobId) -> int:
    found = re.match(r"\d{1,18}", job)
    return int(found[0]) if found else 0


def _printed_id(done: Completed) -> JobId | None:
    """The id on the last line of stdout. A line that a kill may have cut short is not one."""
    complete = done.out if done.code is not None else done.out[: done.out.rfind("\n") + 1]
    last = next((line.strip() for line in reversed(complete.split("\n")) if line.strip()), "")
    found = _SUBMITTED.match(last) or _SUBMITTED_LONG.match(last)
    if found is None or int(found[1]) == 0:
        return None
    job = f"{found[1]};{found[2]}" if found[2] else found[1]
    return JobId(job) if _JOB_ID.fullmatch(job) else None


def _left_by_refusal(job: JobReport) -> bool:
    return job.state is JobState.FAILED and job.reason == "BadConstraints" and not job.nodes


def _match(
    read: Iterable[tuple[Mapping[str, str], JobReport]], wanted: Mapping[str, JobId], *, prefer_alive: bool
) -> dict[JobId, JobReport]:
    """The report for each id asked for, under the id as we keep it.

    A row is known by the id people see (``13_1``) or else by its own number (``27``); that is how the first part of an array or
    of a heterogeneous job (``123+0``, number 123) is found. Of several equals the first stands, or the one that lives.
    """
    found: dict[JobId, JobReport] = {}
    ranks: dict[JobId, tuple[bool, bool]] = {}
    for row, job in read:
        wanted_as = wanted.get(job.id) or wanted.get(row["raw"].strip())
        if wanted_as is None:
            continue
        rank = (job.id not in wanted, prefer_alive and job.state.terminal)
        if wanted_as not in ranks or rank < ranks[wanted_as]:
            ranks[wanted_as] = rank
            found[wanted_as] = replace(job, id=wanted_as)
    return found


def _unreachable(done: Completed, program: str) -> Unreachable:
    said = words_of(done.err, program) or f"exit status {done.code} without a word"
    return Unreachable(f"{program} could not be believed: {said}")
