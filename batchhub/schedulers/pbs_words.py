"""What PBS and Torque say in words: which lines of stderr are an answer about a job, and which mean that nobody answered.

The exit status alone decides nothing: ``qstat`` ends with the code of the last id it did not like, and with 0 where history is
switched off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from batchhub.core.errors import Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobReport, JobState
from batchhub.core.ports import Completed
from batchhub.schedulers.base import complaints, first_line, require_answer, require_command, shorten, words_of

NO_HISTORY = "PBS is not configured to maintain job history"
_UNKNOWN = re.compile(r"(?:\S*/)?\w+: Unknown Job Id\b(?: Error)?\s+(?:MSG=cannot locate job\s+)?(\d\S*)")
_FINISHED = re.compile(
    r"(?:\S*/)?\w+: (?:(\S+) Job has finished\b.*|Job has finished (\S+).*"
    r"|Request invalid for state of job MSG=invalid state for job - COMPLETE (\S+))"
)
_ABOUT_ONE = re.compile(r"(?:\S*/)?\w+: .*\s\d+(?:\[\d*\])?\.[A-Za-z0-9][A-Za-z0-9._-]*")
_SUBMITTED = re.compile(r"\d+(?:\[\])?\.[A-Za-z0-9][A-Za-z0-9._-]*")
# Whole: a number cut short is another job's.
_LINE_OF_IDS = re.compile(r"\d+(?:\[\d*\])?\.[A-Za-z0-9][A-Za-z0-9._-]*")

# Nobody answered, or the answer was lost on its way (B.7 of the notes on dialects, the clients' own sources).
_TROUBLE = re.compile(
    r"Connection refused|Connection reset|Connection timed out|No route to host|Broken pipe"
    r"|cannot connect to server|[Cc]ouldn't connect|could not connect|Unknown Host"
    r"|errno=|error=15\d\d\d|pbs_iff|pbsconf error|No Permission|[Ii]nvalid [Cc]redential|[Bb]ad credential"
    r"|Server shutting down|connection table full|No free connections|End of File|Premature end of message"
    r"|Communication failure|Unable to communicate|Error communicating|trqauthd|protocol error|Protocol \(ASN"
    r"|Server busy|Internal server error|munge",
    re.IGNORECASE,
)
# 15007 read as a code is "not allowed", and 15008… the network's; these exit codes mean trouble whatever was printed.
_TROUBLE_CODES = frozenset({160, 162, 171, 183, 185, 212})
_HOOK_REFUSED = 32
# ``Job id  Name  User  Time Use  S  Queue``, the ids cut to their column.
_TABLE_ROW = re.compile(
    r"(?P<number>\d{1,18})(?:\.\S*)?\s+(?P<name>\S{1,64})\s+\S+\s+\S+\s+(?P<state>[A-Z])\s+\S+", re.ASCII
)
_OVER = frozenset("CFX")


@dataclass(frozen=True, slots=True)
class Complaints:
    """The lines of a ``qstat``: ids it does not know, ids that have finished, and the lines that are neither."""

    unknown: frozenset[str]
    finished: frozenset[str]
    about: tuple[str, ...]
    """Complaints that name one id and say neither: nothing is known about that job, and they spoil no other."""
    other: tuple[str, ...]


def read_complaints(done: Completed) -> Complaints:
    """Sort stderr's lines."""
    unknown, finished, about, other = set[str](), set[str](), list[str](), list[str]()
    for line in complaints(done.err):
        gone, ended = _UNKNOWN.fullmatch(line), _FINISHED.fullmatch(line)
        if gone is not None:
            unknown.add(gone[1])
        elif ended is not None:
            finished.add(ended[1] or ended[2] or ended[3])
        elif _ABOUT_ONE.fullmatch(line) and NO_HISTORY not in line and not _TROUBLE.search(line):
            about.append(line)
        else:
            other.append(line)
    return Complaints(frozenset(unknown), frozenset(finished), tuple(about), tuple(other))


def require_qstat(done: Completed, program: str = "qstat") -> Complaints:
    """The complaints of an answer that can be believed; raises Unreachable for every other one.

    With exit status 0 an unknown remark on stderr is no obstacle to what stdout says, unless it tells of trouble.
    """
    require_answer(done, program)
    said = read_complaints(done)
    if any(NO_HISTORY in line for line in said.other):
        raise Unreachable(
            f"{NO_HISTORY}: ask its administrator for job_history_enable, or set history to False for this cluster."
        )
    if (said.other and done.code != 0) or any(_TROUBLE.search(line) for line in said.other):
        raise Unreachable(f"{program}: {words_of(' / '.join(said.other), program)}")
    if done.code != 0 and not (said.unknown or said.finished or said.about):
        raise Unreachable(f"{program} ended with status {done.code} and said nothing.")
    return said


def read_submitted(done: Completed, program: str = "qsub") -> JobId:
    """The id that ``qsub`` printed. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound.

    Only words that PBS uses to refuse are a refusal. No connection, a kill, a broken one or silence may each have created the job.
    """
    require_command(done, program)
    ids = [line.strip() for line in done.out.splitlines() if _SUBMITTED.fullmatch(line.strip())]
    if done.code == 0 and len(ids) == 1 and not done.truncated:
        return JobId(ids[0])
    words = words_of(done.err, program)
    if done.timed_out or done.code is None:
        raise SubmitAmbiguous("qsub did not answer in time; the job may have been created.")
    if done.code == 0 or done.truncated or ids:
        raise SubmitAmbiguous(f"qsub printed no job id; the job may have been created. {words}".rstrip())
    if not words or not _refused(done, program):
        raise SubmitAmbiguous(f"qsub: {words or f'exit status {done.code}, no words'}")
    raise SubmitRejected(_without_usage(done.err, program))


def _refused(done: Completed, program: str) -> bool:
    """Whether this is qsub's own refusal: not trouble on the way, nor a shell's or sudo's words. A hook may say anything."""
    if done.code == _HOOK_REFUSED:
        return True
    lines = complaints(done.err)
    if done.code in _TROUBLE_CODES or any(_TROUBLE.search(line) for line in lines):
        return False
    return any(re.match(rf"(?:\S*/)?{program}: ", line) for line in lines)


def _without_usage(err: str, program: str) -> str:
    """The tool's words without the page of usage that follows some of them."""
    return words_of(re.split(r"^usage:", err, maxsplit=1, flags=re.MULTILINE | re.IGNORECASE)[0], program)


def read_cancelled(done: Completed, program: str = "qdel") -> None:
    """Return if the job is, or will be, gone. Raises Denied for somebody else's job, Unreachable for the rest."""
    require_answer(done, program)
    said = read_complaints(done)
    if any(_TROUBLE.search(line) for line in said.other):
        raise Unreachable(f"qdel: {words_of(done.err, program)}")
    rest = (*said.about, *said.other)
    if any("Unauthorized Request" in line or "Permission denied" in line for line in rest):
        raise Denied(f"PBS does not allow this job to be deleted: {words_of(done.err, program)}")
    spoke = any(re.match(rf"(?:\S*/)?{program}: ", line) for line in rest)
    if (done.code == 0 and not spoke) or (not rest and (said.unknown or said.finished)):
        return
    raise Unreachable(f"qdel: {words_of(done.err, program) or f'exit status {done.code}, no words'}")


def read_selected(done: Completed, program: str = "qselect") -> tuple[JobId, ...]:
    """The ids that ``qselect`` printed, newest first. Raises Unreachable.

    A line beside them that begins with no digit is a login banner. Where nothing but such lines was printed, nobody knows whether
    ``qselect`` spoke at all, and a job that is not found would be submitted again.
    """
    require_qstat(done, program)
    lines = {line.strip() for line in done.out.splitlines() if line.strip()}
    found = {line for line in lines if _LINE_OF_IDS.fullmatch(line)}
    odd = sorted(line for line in lines - found if not found or line[0].isdigit())
    if odd:
        raise Unreachable(f"qselect printed a line that is no job id: {shorten(odd[0], 80)}")
    if not found and complaints(done.err):
        raise Unreachable(f"qselect: {first_line(done.err)}")
    return tuple(JobId(line) for line in sorted(found, key=sequence, reverse=True))


def read_table(done: Completed, prefix: str) -> tuple[JobReport, ...]:
    """The live jobs of ``qstat``'s short table whose name begins so; of each its number, name and nothing more. Raises Unreachable.

    The name's column holds fifteen characters, as many as ours have. An empty table is an empty answer: nothing at all is printed then.
    """
    require_qstat(done)
    found: dict[JobId, JobReport] = {}
    for line in done.out.splitlines():
        row = _TABLE_ROW.fullmatch(line.rstrip())
        if row is not None and row["name"].startswith(prefix) and row["state"] not in _OVER:
            job = JobId(row["number"])
            found[job] = JobReport(job, JobState.UNKNOWN, raw_state=row["state"], name=row["name"])
    return tuple(found[job] for job in sorted(found, key=sequence))


def sequence(job: str) -> int:
    """The number at the head of an id."""
    head = re.match(r"\d{1,18}", job, re.ASCII)
    return int(head[0]) if head else 0


def same_job(asked: Iterable[JobId], printed: Iterable[str]) -> dict[str, JobId]:
    """Printed -> asked: equal ids, else equal numbers, as a server may print its name in another length than it was given."""
    by_number: dict[str, list[JobId]] = {}
    exact = set[str]()
    for job in asked:
        exact.add(job)
        by_number.setdefault(job.partition(".")[0], []).append(job)
    pairs: dict[str, JobId] = {}
    for name in printed:
        candidates = by_number.get(name.partition(".")[0], [])
        if name in exact:
            pairs[name] = JobId(name)
        elif len(candidates) == 1:
            pairs[name] = candidates[0]
    return pairs
