"""What the dialects' commands for more time answer. Each has a few words for a refusal; what has none is no answer at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from batchhub.core.errors import BadInput, Conflict, Denied, Unreachable
from batchhub.core.ports import Completed
from batchhub.schedulers.base import complaints, require_answer, words_of

LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Words:
    """How one scheduler refuses. ``over`` is about a job that has ended or is unknown."""

    scheduler: str
    over: re.Pattern[str]
    refused: re.Pattern[str]


SLURM = Words(
    "Slurm",
    re.compile(r"Invalid job id specified|Job has already finished|already completing or completed"),
    re.compile(
        r"Access/permission denied|Invalid user id|Requested time limit is invalid|Time limit .*exceed|Requested operation is presently disabled"
        r"|Job violates accounting|Job is no longer pending|Operation not permitted"
    ),
)
"""slurm_errno.c; the first two were recorded from 22.05 to 26.05."""

PBS = Words(
    "PBS",
    re.compile(r"Unknown Job Id|Job has finished|state COMPLETE"),
    re.compile(
        r"Unauthorized Request|Cannot modify attribute while job running|violates queue and/or server resource limits|Illegal attribute or resource value"
        r"|exceeds? (?:queue|available) resource|Permission denied|Job exceeds queue resource limits"
    ),
)
"""OpenPBS and Torque: pbs_messages.c and qalter(1B)."""

LSF = Words(
    "LSF",
    re.compile(r"No matching job found|Job has already finished|Job is already finished"),
    re.compile(
        r"Job parameters cannot be changed now|ermission denied|Cannot exceed queue's hard limit|Bad RUNLIMIT|RUNLIMIT",
        re.IGNORECASE,
    ),
)
"""lsb.err.c, as openlava 4.0 prints it."""


def minutes(walltime: timedelta) -> int:
    """The time in whole minutes, rounded up. Raises BadInput."""
    return -(-seconds(walltime) // 60)


def seconds(walltime: timedelta) -> int:
    """The time in whole seconds, rounded up. Raises BadInput for one that no job can have."""
    if not timedelta(0) < walltime <= LONGEST:
        raise BadInput(f"{walltime} is not a time that a job can have; at most {LONGEST.days} days are possible.")
    return -int(-walltime.total_seconds() // 1)


def clock(walltime: timedelta) -> str:
    """``HH:MM:SS``, whose hours may be more than 24. Raises BadInput."""
    whole = seconds(walltime)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def read_extended(done: Completed, program: str, words: Words) -> None:
    """Return if the job has the time now. Raises Denied, Conflict, Unreachable."""
    require_answer(done, program)
    lines = complaints(done.err)
    said = words_of(done.err, program) or f"{program} exited with status {done.code} and said nothing."
    if done.code == 0:
        return
    if any(words.over.search(line) for line in lines):
        raise Conflict(f"{words.scheduler} knows the job as ended: {said}")
    if any(words.refused.search(line) for line in lines):
        raise Denied(f"{words.scheduler} does not permit it: {said}")
    raise Unreachable(f"{program} could not be believed: {said}")
