"""What LSF says in words. Every one of its tools ends with 255 for every error, as ssh does, so the words decide.

The texts are those of the library that LSF and openlava share (``lsb.err.c``), recorded from openlava.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchhub.core.errors import Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId
from batchhub.core.ports import Completed
from batchhub.schedulers.base import complaints, require_answer, require_command, shorten

_SUBMITTED = re.compile(r"Job <(\d{1,12})> is submitted")
_NOT_FOUND = re.compile(r"Job <(\d+(?:\[\d+\])?)> is not found\.?")
_NONE = re.compile(
    r"No (?:unfinished |DONE/EXIT |matching |pending |running |suspended )?job found\.?(?: in .*)?|Job <[^<>]*> is not found\.?"
)
_WAITING = re.compile(r"not responding.*still trying|Please wait|LIM is down; try later|Retrying in \d+ seconds")
_NOT_SUBMITTED = re.compile(r"[Jj]ob not submitted|Request aborted by esub")
# Said with "Job not submitted" too, but by a client that does not know what mbatchd made of its request.
_TROUBLE = re.compile(
    r"Failed in an LSF library call|System call failed|Communication timeout|Timeout on connect|Connection refused"
    r"|Connection reset|Connection timed out|Broken pipe|Batch service not registered|cannot fork|XDR (?:encode|decode)"
    r"|Slave LIM|LIM is down|not responding|still trying|Please wait|lsb_init|lsf\.conf|ls_getclustername"
    r"|Failed in sending/receiving|Bad file descriptor|Authentication failed|External authentication failed|daemon is not running",
    re.IGNORECASE,
)
_KILLED = re.compile(r"Job <[^<>]+> is being (?:terminated|signaled)")
_KILLED_ALREADY = re.compile(
    r"Job <[^<>]+> ?: (?:No matching job found|Job has already finished|Job is already finished)\.?"
    r"|No (?:matching |unfinished )?job found\.?|Job <[^<>]+> is not found\.?"
)
_FORBIDDEN = re.compile(r"User permission denied|Operation permission denied|Permission denied", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Complaints:
    """What stderr said about the ids that were asked."""

    gone: frozenset[JobId]
    empty: bool = False
    """It was said in so many words that there is no such job."""


def require_bjobs(done: Completed, program: str = "bjobs") -> Complaints:
    """The complaints of an answer that can be believed: exit status 0, or 255 with nothing but *not found*. Raises Unreachable."""
    require_answer(done, program)
    gone, empty, rest = set[JobId](), False, list[str]()
    for line in complaints(done.err):
        lost = _NOT_FOUND.fullmatch(line)
        if lost is not None:
            gone.add(JobId(lost[1]))
        elif not _NONE.fullmatch(line):
            rest.append(line)
        empty = empty or bool(_NONE.fullmatch(line))
    # A client that waited and then answered says both; with status 0 the answer is whole.
    serious = [line for line in rest if not (done.code == 0 and _WAITING.search(line))]
    if (serious and done.code != 0) or any(_TROUBLE.search(line) for line in serious):
        raise Unreachable(f"{program}: {shorten(' '.join(serious), 600)}")
    if done.code != 0 and not empty:
        raise Unreachable(f"{program} ended with status {done.code} and said nothing.")
    return Complaints(frozenset(gone), empty)


def read_submitted(done: Completed, program: str = "bsub") -> JobId:
    """The id in ``Job <123> is submitted …``, wherever sites put their own words. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
    require_command(done, program)
    words = shorten(" ".join(complaints(done.err)), 600)
    if done.timed_out or done.code is None:
        raise SubmitAmbiguous("bsub did not answer in time; the job may have been created.")
    ids = set(_SUBMITTED.findall(done.out))
    if done.code == 0 and len(ids) == 1 and not done.truncated:
        return JobId(ids.pop())
    if ids or done.code == 0 or done.truncated:
        raise SubmitAmbiguous(f"bsub printed no job id; the job may have been created. {words}".rstrip())
    if _NOT_SUBMITTED.search(done.err) and not _TROUBLE.search(done.err):
        raise SubmitRejected(words)
    raise SubmitAmbiguous(f"bsub: {words or f'exit status {done.code}, no words'}")


def read_killed(done: Completed, program: str = "bkill") -> None:
    """Return if every job is, or will be, gone. Raises Denied for somebody else's job, Unreachable for the rest."""
    require_answer(done, program)
    lines = [line for line in complaints(done.err) if not _KILLED_ALREADY.fullmatch(line) and not _KILLED.search(line)]
    serious = [line for line in lines if not (done.code == 0 and _WAITING.search(line))]
    if any(_FORBIDDEN.search(line) for line in serious):
        raise Denied(f"LSF does not allow this job to be killed: {shorten(' '.join(serious))}")
    known = _KILLED_ALREADY.search(done.err) or _KILLED.search(done.out)
    if serious or (done.code != 0 and not known):
        raise Unreachable(f"bkill: {shorten(' '.join(serious)) or f'exit status {done.code}, no words'}")


def require_bhist(done: Completed, program: str = "bhist") -> None:
    """Return if ``bhist`` read its files; *No matching job found* is an answer. Raises Unreachable."""
    require_answer(done, program)
    lines = complaints(done.err)
    serious = [line for line in lines if not re.search(r"No matching job found|is not found", line)]
    if (done.code != 0 and (serious or not lines)) or any(_TROUBLE.search(line) for line in serious):
        raise Unreachable(f"bhist: {shorten(' '.join(serious)) or f'exit status {done.code}, no words'}")
