"""Sentences for people about a server: what is happening, why it waits, how it ended. Pure; the pages only print them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from batchhub.core.limits import format_walltime
from batchhub.core.model import JobReport, Observation, Outcome, Phase, Server, Truth, Want

REASONS: dict[str, str] = {
    "priority": "Jobs with a higher priority are ahead of yours.",
    "resources": "Your job is next, but not enough cores, memory or GPUs are free yet.",
    "dependency": "It waits for another job to end.",
    "dependencyneversatisfied": "It waits for a job that can never end as demanded: it will never run.",
    "begintime": "Its earliest start time has not come yet.",
    "partitiontimelimit": "It asks for more time than the partition allows: it will never run as it is.",
    "partitionnodelimit": "It asks for more nodes than the partition allows: it will never run as it is.",
    "partitiondown": "The partition is closed for new starts at the moment.",
    "partitioninactive": "The partition is closed at the moment.",
    "reqnodenotavail": "The nodes it could run on are not available (often: reserved for maintenance).",
    "reservation": "It waits for its reservation to begin.",
    "licenses": "It waits for a licence.",
    "badconstraints": "No node can ever fulfil what it asks for.",
    "jobhelduser": "It was put on hold by its owner.",
    "jobheldadmin": "It was put on hold by an administrator.",
    "invalidaccount": "The account is not valid for this partition.",
    "invalidqos": "The quality of service (QOS) is not valid.",
    "nodedown": "A node it needs is down.",
    "cleaning": "Its previous start is still being cleaned up.",
}
"""Slurm's reason codes (job_reason_codes.shtml), lower case, in words; limits are matched by prefix below."""

_PREFIXES = (
    ("qosgrp", "A limit of the QOS for all its users together is reached."),
    ("qosmax", "A limit of the QOS for one user is reached."),
    ("assocgrp", "A limit of your account for all its users together is reached."),
    ("assocmax", "A limit of your account is reached."),
    ("maxmemperlimit", "It asks for more memory than a limit allows."),
)

OUTCOMES: dict[Outcome, str] = {
    Outcome.STOPPED: "Stopped as asked.",
    Outcome.COMPLETED: "The application ended by itself, without an error.",
    Outcome.FAILED: "It failed.",
    Outcome.TIMED_OUT: "It reached its time limit and was ended by the scheduler.",
    Outcome.OUT_OF_MEMORY: "It used more memory than it asked for and was ended.",
    Outcome.PREEMPTED: "A job with a higher priority took its place.",
    Outcome.NODE_FAILURE: "The node it ran on failed.",
    Outcome.REFUSED: "The scheduler refused it.",
    Outcome.CANCELLED: "Its job was cancelled from outside the hub.",
}


@dataclass(frozen=True, slots=True)
class Status:
    """What to tell about a server. ``title`` is a word or three, ``sentence`` explains, ``detail`` is the scheduler's own words.

    ``progress`` is 0-100 for a bar. ``asked_at`` is when the newest question about it was put; ``silent_since`` is set while nobody can say.
    """

    title: str
    sentence: str
    detail: str = ""
    progress: int = 0
    silent_since: datetime | None = None
    estimated_start: datetime | None = None
    time_left: timedelta | None = None


def explain_reason(reason: str) -> str:
    """A scheduler's reason in words; empty if we have none, so that the page shows the scheduler's own alone."""
    key = "".join(letter for letter in reason.lower() if letter.isalnum())
    if key in REASONS:
        return REASONS[key]
    for prefix, text in (*_PREFIXES, *((known, text) for known, text in REASONS.items() if len(known) > 8)):
        if key.startswith(prefix):
            return text
    if reason.startswith("Can Never Run"):
        return "No node can ever fulfil what it asks for."
    return ""


def describe(row: Server, seen: Observation | None, silent_since: datetime | None, now: datetime) -> Status:
    """The status of a server for its page.

    ``seen`` is the newest observation that said something; ``silent_since`` is since when questions about it fail, ``None`` if the newest
    one was answered.
    """
    job = seen.report if seen and seen.truth is Truth.SEEN else None
    title, sentence, progress = _phase_words(row, job)
    if silent_since is not None and row.alive:
        since = silent_since.strftime("%H:%M:%S UTC")
        sentence += f" The scheduler has not answered since {since}; nothing is changed until it does."
    detail = _detail(row, job)
    return Status(
        title=title,
        sentence=sentence.strip(),
        detail=detail,
        progress=progress,
        silent_since=silent_since if row.alive else None,
        estimated_start=job.estimated_start if job and row.phase is Phase.QUEUED else None,
        time_left=_time_left(job, seen, now) if row.phase in {Phase.STARTING, Phase.READY} else None,
    )


def _detail(row: Server, job: JobReport | None) -> str:
    if row.phase is Phase.QUEUED and job is not None:
        return job.reason
    return row.words


def _phase_words(row: Server, job: JobReport | None) -> tuple[str, str, int]:
    if row.phase is Phase.ENDED:
        outcome = row.outcome or Outcome.FAILED
        text = OUTCOMES[outcome]
        if outcome in {Outcome.FAILED, Outcome.COMPLETED} and row.exit_code:
            text += f" Exit code {row.exit_code}."
        return outcome.value.capitalize(), text, 100
    if row.want is Want.DOWN:
        return "Stopping", "The job is being cancelled.", 50
    match row.phase:
        case Phase.REQUESTED:
            if row.submit_tried is not None:
                return "Submitting", "The scheduler was given the job; its answer is awaited.", 5
            return "Requested", "The job is about to be submitted.", 0
        case Phase.QUEUED:
            return "Queued", _queued(row, job), 20
        case Phase.STARTING:
            where = f" on {row.host}" if row.host else ""
            return "Starting", f"The job runs{where}; the application is starting.", 60
        case Phase.READY:
            where = f" on {row.host}" if row.host else ""
            return "Ready", f"It runs{where}.", 100
        case _:
            return "Ending", "The scheduler is ending the job.", 50


def _queued(row: Server, job: JobReport | None) -> str:
    text = f"Job {row.job_id} waits in the queue." if row.job_id else "The job waits in the queue."
    if row.generation > 1:
        text += " It ran before and was put back by the scheduler; it will start again by itself."
    why = explain_reason(job.reason) if job else ""
    return f"{text} {why}".strip()


def _time_left(job: JobReport | None, seen: Observation | None, now: datetime) -> timedelta | None:
    if job is None or seen is None or job.time_left is None:
        return None
    return max(timedelta(0), job.time_left - (now - seen.at))


def spell_time_left(left: timedelta | None) -> str:
    """``1h 20m left``; empty if unknown."""
    return f"{format_walltime(left)} left" if left is not None else ""
