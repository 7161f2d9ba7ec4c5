"""The few words with which a look goes into a server's trail of events: what was seen, what was decided, by whom it came. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from batchhub.core.lifecycle import Action, Decision, Sight
from batchhub.core.model import JobReport, Observation, Server, Trace

HUB = "hub"
SCHEDULER = "scheduler"

_LONGEST = 300
"""Characters of what a scheduler says that are kept with an event."""

_ITS_OWN = frozenset({Sight.WAITING, Sight.RUNNING, Sight.ENDING, Sight.FINISHED, Sight.ABSENT})
"""What the scheduler brings about, unless the hub is doing away with the job."""

_REPORTED = _ITS_OWN | {Sight.ANSWERING, Sight.OVERDUE, Sight.UNKNOWN}
"""Where the scheduler's own words say more."""


def trace_of(before: Server, after: Server, decision: Decision, seen: Observation | None) -> Trace:
    """The trace of a step."""
    kind = "phase"
    if after.phase is before.phase:
        kind = "found" if before.job_id is None and after.job_id is not None else "seen"
    done = done_words(decision.actions)
    return Trace(
        kind, by_whom(decision), seen_words(decision.saw, seen), f"gave up; {done}" if decision.give_up else done
    )


def seen_words(saw: Sight, seen: Observation | None) -> str:
    """``running: RUNNING on n1``, ``waiting: PENDING (Priority)``: our word, then the scheduler's own."""
    if seen is None or saw not in _REPORTED:
        return str(saw)
    own = _report_words(seen.report) if seen.report is not None else seen.word
    return f"{saw}: {own}"[:_LONGEST] if own else str(saw)


def _report_words(job: JobReport) -> str:
    words = job.raw_state or str(job.state)
    if job.reason and job.reason.lower() not in {"none", "n/a"}:
        words += f" ({job.reason})"
    if job.host:
        words += f" on {job.host}"
    if job.exit_code is not None:
        words += f", exit code {job.exit_code}"
    if job.signal:
        words += f", signal {job.signal}"
    return words


def done_words(actions: Iterable[Action]) -> str:
    """The actions, but for telling open pages, which leaves no trace in the world."""
    return ", ".join(action for action in actions if action is not Action.NOTIFY)


def by_whom(decision: Decision) -> str:
    """The scheduler where it moved the job; the hub where it acts on what it found, or was told to. The person's wish has a line of its own."""
    away = {Action.CANCEL, Action.TELL} & set(decision.actions)
    moved = decision.saw in _ITS_OWN and not decision.give_up and not away
    return SCHEDULER if moved else HUB
