"""Sentences for people about a server: what is happening, why it waits, how it ended. Pure; the pages only print them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from batchhub.core.limits import format_walltime
from batchhub.core.model import JobReport, JobState, Observation, Outcome, Phase, Server, Truth, Want
from batchhub.core.walltime import end_of, limit_of, shown_warning

_NEVER = "No node can ever fulfil what it asks for: it will never run as it is."

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "Priority": "Jobs with a higher priority are ahead of yours.",
        "Resources": "Your job is next, but not enough cores, memory or GPUs are free yet.",
        "Dependency": "It waits for another job to end.",
        "DependencyNeverSatisfied": "It waits for a job that can never end as demanded: it will never run.",
        "BeginTime": "Its earliest start time has not come yet.",
        "PartitionTimeLimit": "It asks for more time than the partition allows: it will never run as it is.",
        "PartitionNodeLimit": "It asks for more nodes than the partition allows: it will never run as it is.",
        "PartitionDown": "The partition is closed for new starts at the moment.",
        "PartitionInactive": "The partition is closed at the moment.",
        "ReqNodeNotAvail": "The nodes it could run on are not available (often: reserved for maintenance).",
        "Reservation": "It waits for its reservation to begin.",
        "ReservationDeleted": "Its reservation is gone: it will never run as it is.",
        "Licenses": "It waits for a licence.",
        "BadConstraints": _NEVER,
        "JobHeldUser": "It was put on hold by its owner.",
        "JobHeldAdmin": "It was put on hold by an administrator.",
        "JobHoldMaxRequeue": "It was put back too often and is on hold now.",
        "JobArrayTaskLimit": "As many tasks of its array run as may run at once.",
        "InvalidAccount": "The account is not valid for this partition.",
        "InvalidQOS": "The quality of service (QOS) is not valid.",
        "QOSNotAllowed": "The quality of service (QOS) is not allowed here.",
        "QOSUsageThreshold": "The usage that its quality of service (QOS) allows is used up.",
        "MaxMemPerLimit": "It asks for more memory than a limit allows: it will never run as it is.",
        "NodeDown": "A node it needs is down.",
        "Prolog": "The node is being prepared for it.",
        "Cleaning": "Its previous start is still being cleaned up.",
        "None": "The scheduler has not looked at it yet.",
    }
)
"""Slurm's reason codes (job_reason_codes.shtml) in words. A comma or a colon and details may follow a code."""

_REASON_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(form, re.IGNORECASE), text)
    for form, text in (
        # Slurm: the codes of limits are made of parts, and there are a hundred of them.
        (r"QOSMax\w*PerJob", "It asks for more than its QOS allows for one job: it will never run as it is."),
        (r"AssocMax\w*PerJob", "It asks for more than your account allows for one job: it will never run as it is."),
        (r"QOSMin", "It asks for less than its QOS demands: it will never run as it is."),
        (r"QOSGrp", "A limit of the QOS for all its users together is reached."),
        (r"QOS(?:Max|JobLimit|ResourceLimit|TimeLimit)", "A limit of the QOS for one user is reached."),
        (r"Assoc(?:iation)?Grp", "A limit of your account for all its users together is reached."),
        (r"Assoc(?:iation)?(?:Max|JobLimit|ResourceLimit|TimeLimit)", "A limit of your account is reached."),
        (r"launch failed requeued held", "It could not be started on a node and was put on hold."),
        # PBS: the job's comment. Seen in the recordings, the rest by the scheduler's own table of messages.
        (r"Can Never Run", _NEVER),
        (r"Not Running: Queue not started", "The queue is not started: its administrators hold it back."),
        (r"Not Running: .*\blimit\b", "A limit on running jobs is reached."),
        (r"Not Running: Insufficient amount of \w*\s?resource: ncpus", "Not enough cores are free yet."),
        (r"Not Running: Insufficient amount of \w*\s?resource: v?mem", "Not enough memory is free yet."),
        (r"Not Running: Insufficient amount of \w*\s?resource: ngpus", "Not enough GPUs are free yet."),
        (r"Not Running: (?:Insufficient amount|Not enough|No available)", "What it asks for is not free yet."),
        (r"Not Running: .*(?:conflict with reservation|top job|starving)", "Other jobs or a reservation are ahead."),
        (r"Not Running: .*(?:dedicated|prime)\s?time", "It would run into a time that is kept for other jobs."),
        # Kubernetes: the condition's reason, and a sentence that counts the nodes.
        (r"Unschedulable: .*Insufficient cpu", "Not enough cores are free yet."),
        (r"Unschedulable: .*Insufficient memory", "Not enough memory is free yet."),
        (r"Unschedulable: .*Insufficient \S*gpu", "Not enough GPUs are free yet."),
        (r"Unschedulable", "No node that it may run on has room for it yet, if there is one at all."),
        # LSF: sentences, several of them joined; those that say most come first.
        (r".*never satisfied", "It waits for a job that can never end as demanded: it will never run."),
        (r".*dependency condition not satisfied", "It waits for another job to end."),
        (r".*queue (?:is|has been) inactivated", "The queue is closed at the moment."),
        (r".*suspended by", "It was put on hold."),
        (r".*specified start time", "Its earliest start time has not come yet."),
        (r".*has reached .*(?:job slot )?limit", "A limit on running jobs is reached."),
        (r".*limit .*has been reached", "A limit is reached."),
        (r".*(?:requirements? for res|resource requirements? ).*not satisfied", "What it asks for is not free yet."),
        (r".*(?:job slot limit reached|not enough (?:job )?(?:slots?|hosts|processors))", "Not enough cores are free."),
        (r".*new job is waiting for scheduling", "The scheduler has not looked at it yet."),
        (r".*just started a job recently", "A node takes its next job in a moment."),
        (r".*closed by \w+ administrator", "Nodes it could run on are closed by their administrators."),
    )
)
"""Reasons that are not one word of a list, by how they begin; the first that fits says it."""

_CODE = re.compile(r"\(?([A-Za-z]+)\)?(?=$|[,:(])")

OUTCOMES: dict[Outcome, str] = {
    Outcome.STOPPED: "Stopped as asked.",
    Outcome.COMPLETED: "The application ended by itself, without an error.",
    Outcome.FAILED: "It ended with an error.",
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
    ``walltime`` is all the time that a running job has. ``ends`` is set while its owner is warned that the time will be up then.
    """

    title: str
    sentence: str
    detail: str = ""
    progress: int = 0
    silent_since: datetime | None = None
    estimated_start: datetime | None = None
    time_left: timedelta | None = None
    walltime: timedelta | None = None
    ends: datetime | None = None


def explain_reason(reason: str) -> str:
    """A scheduler's reason in words; empty if we have none, so that the page shows the scheduler's own alone."""
    reason = reason.strip()
    code = _CODE.match(reason)
    if code and code[1] in REASONS:
        return REASONS[code[1]]
    return next((text for form, text in _REASON_FORMS if form.match(reason)), "")


def describe(
    row: Server,
    seen: Observation | None,
    silent_since: datetime | None,
    now: datetime,
    *,
    unknown_since: datetime | None = None,
) -> Status:
    """The status of a server for its page.

    ``seen`` is the newest observation that said something; ``silent_since`` is since when questions about it fail, ``None`` if the newest
    one was answered; ``unknown_since`` is since when the answers leave this one job out, or say that its node cannot be asked.
    """
    job = seen.report if seen and seen.truth is Truth.SEEN else None
    suspended = job is not None and job.state is JobState.SUSPENDED and row.alive and row.want is Want.UP
    title, sentence, progress = _suspended_words(row) if suspended else _phase_words(row, job)
    if silent_since is not None and row.alive:
        sentence += " The scheduler does not answer at the moment; nothing changes until it does."
    elif unknown_since is not None and row.alive:
        sentence += " The scheduler says nothing certain about the job at the moment; nothing changes until it does."
    detail = _detail(row, job)
    if detail.casefold() == title.casefold():
        detail = ""
    return Status(
        title=title,
        sentence=sentence.strip(),
        detail=detail,
        progress=progress,
        silent_since=silent_since or unknown_since if row.alive else None,
        estimated_start=job.estimated_start if job and row.phase is Phase.QUEUED else None,
        time_left=_time_left(job, seen, now) if row.phase in {Phase.STARTING, Phase.READY} else None,
        walltime=limit_of(job) if row.phase in {Phase.STARTING, Phase.READY} else None,
        ends=shown_warning(row, end_of(seen)),
    )


def _detail(row: Server, job: JobReport | None) -> str:
    if row.phase is Phase.QUEUED and job is not None:
        return job.reason
    # On a node, and not yet to be reached there: what holds it up (an image that cannot be pulled) only the scheduler can say.
    if row.phase is Phase.STARTING and not row.words and job is not None and not job.host:
        return job.reason
    return row.words


def _submit_words(row: Server) -> tuple[str, str, int]:
    if row.job_id is not None:
        return "Submitted", "The scheduler has taken the job; it is not in its list yet.", 10
    if row.submit_tried is not None:
        return "Submitting", "The scheduler was given the job; its answer is awaited.", 5
    return "Requested", "The job is about to be submitted.", 0


def _phase_words(row: Server, job: JobReport | None) -> tuple[str, str, int]:
    if row.phase is Phase.ENDED:
        outcome = row.outcome or Outcome.FAILED
        text = "Stopped." if outcome is Outcome.STOPPED and row.words else OUTCOMES[outcome]
        if outcome in {Outcome.FAILED, Outcome.COMPLETED} and row.exit_code:
            text += f" Exit code {row.exit_code}."
        return outcome.value.capitalize(), text, 100
    if row.want is Want.DOWN:
        if row.told is not None and row.cancel_tried is None:
            words = "The application was asked to end, so that its kernels can close what they hold; if it does not, its job is cancelled."
            return "Stopping", words, 50
        return "Stopping", "The job is being cancelled.", 50
    match row.phase:
        case Phase.REQUESTED:
            return _submit_words(row)
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


def _suspended_words(row: Server) -> tuple[str, str, int]:
    where = f" on {row.host}" if row.host else ""
    progress = 100 if row.phase is Phase.READY else 60
    return "Suspended", f"The scheduler has suspended it{where}; it goes on when it is resumed.", progress


def _queued(row: Server, job: JobReport | None) -> str:
    text = "The job waits in the queue."
    if row.generation > 1:
        text += " It ran before and was put back by the scheduler; it will start again by itself."
    why = explain_reason(job.reason) if job else ""
    return f"{text} {why}".strip()


def _time_left(job: JobReport | None, seen: Observation | None, now: datetime) -> timedelta | None:
    if job is None or seen is None:
        return None
    if job.time_left is not None:
        return max(timedelta(0), job.time_left - (now - seen.at))
    if job.time_limit is not None and job.started is not None:
        return max(timedelta(0), job.time_limit - (now - job.started))
    return None


def spell_time_left(left: timedelta | None) -> str:
    """``1h 20m left``; empty if unknown."""
    return f"{format_walltime(left)} left" if left is not None else ""
