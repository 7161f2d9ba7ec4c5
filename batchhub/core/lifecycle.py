"""The life of a server: one table, and the pure ``decide`` that reads it.

Level-triggered: what happens next depends on the row and the newest observation alone, so any event may be lost and any action
repeated. :func:`sight` condenses a row and an observation into one word, :data:`TABLE` says what that word means in each phase.
UNKNOWN is not in the table: not knowing changes nothing and does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from batchhub.core.model import JobReport, JobState, Observation, Outcome, Phase, Server, Truth, Want


class Sight(StrEnum):
    """What is seen of a server's job, in one word."""

    NEW = "new"
    """The scheduler was never asked for this job."""
    UNKNOWN = "unknown"
    """Nobody could say."""
    ABSENT = "absent"
    """The scheduler says there is no such job, and has no record of its end."""
    WAITING = "waiting"
    """In the queue."""
    RUNNING = "running"
    """On a node; its application does not answer yet, or not since it began there."""
    ANSWERING = "answering"
    """On a node, and its application answers."""
    OVERDUE = "overdue"
    """On a node for longer than ``start_timeout`` without an answer."""
    ENDING = "ending"
    """The scheduler is cleaning up, or may yet put it back in the queue."""
    FINISHED = "finished"
    """Ended, with a record."""
    REFUSED = "refused"
    """The scheduler would not take it."""


class Action(StrEnum):
    """What the reconciler does after it has saved the new phase. Each may be done twice without harm."""

    SUBMIT = "submit"
    RENEW = "renew"
    """Write fresh secrets for the next start of the same job."""
    REACH = "reach"
    """Read the job's connection file and try the application through the tunnel."""
    PUBLISH = "publish"
    WITHDRAW = "withdraw"
    TELL = "tell"
    """Ask the application to end by itself, once; where that cannot be, nothing is told."""
    CANCEL = "cancel"
    """Cancel the job; held back for a while where its application was told."""
    COLLECT = "collect"
    """Fetch the exit record and the log's last lines."""
    NOTIFY = "notify"
    """Tell the pages that are open."""


@dataclass(frozen=True, slots=True)
class Step:
    """One cell of the table. ``give_up`` turns the want to DOWN as well: the hub itself ends this run."""

    phase: Phase
    actions: tuple[Action, ...] = ()
    give_up: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations that :func:`sight` needs.

    ``start_timeout``: from the job's start to the application's first answer; waiting in the queue has no limit.
    ``requeue_grace``: how long a job that was preempted or lost its node is given to show up in the queue again.
    """

    start_timeout: timedelta = timedelta(minutes=5)
    requeue_grace: timedelta = timedelta(seconds=60)


_UP, _DOWN = Want.UP, Want.DOWN
_REQUESTED, _QUEUED, _STARTING = Phase.REQUESTED, Phase.QUEUED, Phase.STARTING
_READY, _STOPPING, _ENDED = Phase.READY, Phase.STOPPING, Phase.ENDED
_S, _A = Sight, Action

_ALIVE = (_S.WAITING, _S.RUNNING, _S.ANSWERING, _S.OVERDUE)


def _build() -> dict[tuple[Want, Phase, Sight], Step]:
    table: dict[tuple[Want, Phase, Sight], Step] = {}

    # Wanted up: follow the job.
    up: dict[Phase, dict[Sight, Step]] = {
        _REQUESTED: {
            _S.NEW: Step(_REQUESTED, (_A.SUBMIT,)),
            _S.ABSENT: Step(_REQUESTED, (_A.SUBMIT,)),
            _S.REFUSED: Step(_ENDED, (_A.NOTIFY,)),
            _S.WAITING: Step(_QUEUED, (_A.NOTIFY,)),
            _S.RUNNING: Step(_STARTING, (_A.REACH, _A.NOTIFY)),
            _S.ANSWERING: Step(_READY, (_A.PUBLISH, _A.NOTIFY)),
        },
        _QUEUED: {
            _S.WAITING: Step(_QUEUED),
            _S.RUNNING: Step(_STARTING, (_A.REACH, _A.NOTIFY)),
            _S.ANSWERING: Step(_READY, (_A.PUBLISH, _A.NOTIFY)),
        },
        _STARTING: {
            _S.WAITING: Step(_QUEUED, (_A.RENEW, _A.NOTIFY)),
            _S.RUNNING: Step(_STARTING, (_A.REACH,)),
            _S.ANSWERING: Step(_READY, (_A.PUBLISH, _A.NOTIFY)),
        },
        _READY: {
            _S.WAITING: Step(_QUEUED, (_A.WITHDRAW, _A.RENEW, _A.NOTIFY)),
            _S.RUNNING: Step(_STARTING, (_A.WITHDRAW, _A.REACH, _A.NOTIFY)),
            _S.ANSWERING: Step(_READY, (_A.PUBLISH,)),
        },
        _STOPPING: {
            _S.WAITING: Step(_QUEUED, (_A.RENEW, _A.NOTIFY)),
            _S.RUNNING: Step(_STARTING, (_A.REACH, _A.NOTIFY)),
            _S.ANSWERING: Step(_READY, (_A.PUBLISH, _A.NOTIFY)),
        },
    }
    for phase, cells in up.items():
        withdraw = (_A.WITHDRAW,) if phase is _READY else ()
        cells.setdefault(_S.OVERDUE, Step(_STOPPING, (*withdraw, _A.COLLECT, _A.CANCEL, _A.NOTIFY), give_up=True))
        ending = Step(_STOPPING) if phase is _STOPPING else Step(_STOPPING, (*withdraw, _A.NOTIFY))
        cells.setdefault(_S.ENDING, ending)
        cells.setdefault(_S.FINISHED, Step(_ENDED, (*withdraw, _A.COLLECT, _A.NOTIFY)))
        cells.setdefault(_S.ABSENT, Step(_ENDED, (*withdraw, _A.COLLECT, _A.NOTIFY)))
        table.update({(_UP, phase, seen): step for seen, step in cells.items()})

    # Wanted down: tell what answers, cancel what lives, note what ended.
    for phase in (_REQUESTED, _QUEUED, _STARTING, _READY, _STOPPING):
        withdraw = (_A.WITHDRAW,) if phase is _READY else ()
        notify = () if phase is _STOPPING else (_A.NOTIFY,)
        for seen in _ALIVE:
            # Only what people have used is told: the rest has nothing to save yet.
            tell = (_A.TELL,) if seen is _S.ANSWERING and phase in {_READY, _STOPPING} else ()
            table[_DOWN, phase, seen] = Step(_STOPPING, (*withdraw, *tell, _A.CANCEL, *notify))
        table[_DOWN, phase, _S.ENDING] = Step(_STOPPING, (*withdraw, *notify))
        for seen in (_S.FINISHED, _S.ABSENT):
            table[_DOWN, phase, seen] = Step(_ENDED, (*withdraw, _A.COLLECT, _A.NOTIFY))
    table[_DOWN, _REQUESTED, _S.NEW] = Step(_ENDED, (_A.NOTIFY,))
    table[_DOWN, _REQUESTED, _S.ABSENT] = Step(_ENDED, (_A.NOTIFY,))
    table[_DOWN, _REQUESTED, _S.REFUSED] = Step(_ENDED, (_A.NOTIFY,))

    # Ended is final: a job of ours that lives on, or comes back, is not wanted.
    for want in Want:
        for seen in _ALIVE:
            table[want, _ENDED, seen] = Step(_ENDED, (_A.CANCEL,))
    return table


TABLE = _build()
"""Every step there is. A pair that is missing means: stay, do nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What :func:`decide` says: the phase to save, whether the hub gives the run up, what to do then, and what was seen to say so."""

    phase: Phase
    actions: tuple[Action, ...]
    give_up: bool = False
    saw: Sight = Sight.UNKNOWN


def sight(row: Server, seen: Observation | None, now: datetime, limits: Limits) -> Sight:
    """Condense a row and the newest observation of its job into one word.

    ``None`` is "nobody has looked yet". A row that never tried to submit is NEW whatever was seen; a refusal is on the row.
    """
    if row.outcome is Outcome.REFUSED:
        return Sight.REFUSED
    if row.submit_tried is None:
        return Sight.NEW
    if seen is None or seen.truth is Truth.UNKNOWN:
        return Sight.UNKNOWN
    if seen.report is None:
        return Sight.ABSENT if seen.truth is Truth.GONE else Sight.UNKNOWN
    return _sight_of_report(row, seen.report, seen.truth, now, limits)


def _sight_of_report(row: Server, job: JobReport, truth: Truth, now: datetime, limits: Limits) -> Sight:
    if job.state is JobState.UNKNOWN:
        return Sight.UNKNOWN
    if job.state.terminal:
        comes_back = job.state in {JobState.PREEMPTED, JobState.NODE_FAIL}
        # Not every scheduler says when: it is then since the first look that saw it.
        ended = job.ended or (row.since if row.phase is Phase.STOPPING else now)
        if comes_back and truth is Truth.SEEN and now - ended < limits.requeue_grace:
            return Sight.ENDING
        return Sight.FINISHED
    if job.state is JobState.COMPLETING:
        return Sight.ENDING
    if job.state.waiting:
        return Sight.WAITING
    if job.state is JobState.STARTING:
        return Sight.RUNNING if not moved(row, job) and row.answered is None else Sight.WAITING
    if row.answered is not None and not moved(row, job):
        return Sight.ANSWERING
    began = job.started or row.since
    # A job that moved has begun anew: its clock starts at the newer of both.
    return (
        Sight.OVERDUE
        if row.phase is Phase.STARTING and now - max(began, row.since) > limits.start_timeout
        else Sight.RUNNING
    )


def moved(row: Server, job: JobReport) -> bool:
    """Whether the job was started anew, or elsewhere, since the row was last written (requeue, preemption)."""
    if row.started is not None and job.started is not None and job.started > row.started + timedelta(seconds=1):
        return True
    return bool(row.host and job.host and row.host != job.host)


def decide(row: Server, saw: Sight) -> Decision:
    """What to do about a server now. UNKNOWN, like every pair that is not in the table, changes and does nothing."""
    step = TABLE.get((row.want, row.phase, saw))
    if step is None:
        return Decision(row.phase, (), saw=saw)
    return Decision(step.phase, step.actions, step.give_up, saw)


def outcome_of(row: Server, saw: Sight, report: JobReport | None) -> Outcome:
    """The outcome of a run that ends now. What the person or the hub decided earlier stands."""
    if row.outcome is not None:
        return row.outcome
    if row.want is Want.DOWN:
        return Outcome.STOPPED
    if saw is Sight.REFUSED:
        return Outcome.REFUSED
    if report is None:
        return Outcome.FAILED
    return _OUTCOMES.get(report.state, Outcome.FAILED)


_OUTCOMES = {
    JobState.COMPLETED: Outcome.COMPLETED,
    JobState.FAILED: Outcome.FAILED,
    JobState.TIMEOUT: Outcome.TIMED_OUT,
    JobState.OUT_OF_MEMORY: Outcome.OUT_OF_MEMORY,
    JobState.PREEMPTED: Outcome.PREEMPTED,
    JobState.NODE_FAIL: Outcome.NODE_FAILURE,
    JobState.CANCELLED: Outcome.CANCELLED,
}


def print_table() -> str:
    """The whole table as text, one line for each step; ``docs/architecture.md`` and a test hold it."""
    lines = [f"{'want':5}{'phase':10} {'seen':10} -> {'phase':10} actions"]
    for (want, phase, seen), step in TABLE.items():
        doing = " ".join(step.actions) or "-"
        tail = "  (give up)" if step.give_up else ""
        lines.append(f"{want:5}{phase:10} {seen:10} -> {step.phase:10} {doing}{tail}")
    return "\n".join(lines) + "\n"
