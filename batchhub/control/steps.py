"""What an observation writes on a server's row. Pure: the reconciler runs :func:`step` inside the store's transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from batchhub.core.lifecycle import Decision, Limits, Sight, decide, moved, outcome_of, sight
from batchhub.core.model import JobReport, Observation, Phase, Server, Truth, Want

NO_RECORD = "The scheduler no longer knows the job and has no record of its end."
"""The words of an end that only the job itself may still explain."""

CLEANING_UP = timedelta(minutes=5)
"""How long a scheduler may clean up after a cancelled job, on a node that died for hours, before its owner may start anew."""


def adopt(row: Server, seen: Observation | None) -> Server:
    """Note the id of a job that was found by its name."""
    if row.job_id is None and row.submit_tried is not None and seen and seen.truth is Truth.SEEN and seen.report:
        return replace(row, job_id=seen.report.id)
    return row


def step(row: Server, seen: Observation | None, now: datetime, limits: Limits) -> tuple[Server, Decision]:
    """The row after this observation, and what to do then. The same row and observation give the same answer."""
    if seen and _before_its_submit_ended(row, seen):
        seen = None
    row = adopt(row, seen)
    saw = sight(row, seen, now, limits)
    if saw is Sight.ENDING and _cleans_up_for_ever(row, now):
        saw = Sight.FINISHED
    decision = _decide(row, saw)
    report = seen.report if seen else None
    after = _with_facts(row, saw, report)
    if decision.give_up:
        after = replace(
            after,
            want=Want.DOWN,
            outcome=outcome_of(row, saw, None),
            words=_overdue_words(limits, report),
            cancel_tried=None,
        )
    if decision.phase is not row.phase:
        after = _enter(after, row, decision.phase, now)
    if decision.phase is Phase.ENDED and row.phase is not Phase.ENDED:
        after = _end(after, saw, report, now)
    return after, decision


def _decide(row: Server, saw: Sight) -> Decision:
    if saw is Sight.ABSENT and row.phase is Phase.REQUESTED and row.job_id is not None:
        # The scheduler gave it an id, so it existed and ended before anybody looked: submitting it again would run it twice.
        return decide(replace(row, phase=Phase.QUEUED), saw)
    return decide(row, saw)


def _cleans_up_for_ever(row: Server, now: datetime) -> bool:
    return row.want is Want.DOWN and row.phase is Phase.STOPPING and now - row.since >= CLEANING_UP


def _before_its_submit_ended(row: Server, seen: Observation) -> bool:
    """Whether nobody knew the job at a time when its submit command still ran: that says nothing about it now."""
    absent = seen.truth is Truth.GONE and seen.report is None
    return absent and row.submit_tried is not None and seen.at < row.submit_tried


def _with_facts(row: Server, saw: Sight, report: JobReport | None) -> Server:
    if report is None or saw not in {Sight.RUNNING, Sight.ANSWERING, Sight.OVERDUE}:
        return row
    if moved(row, report):
        row = replace(row, answered=None, endpoint=None, nonce="")
    return replace(row, host=report.host or row.host, started=report.started or row.started)


def _enter(after: Server, before: Server, phase: Phase, now: datetime) -> Server:
    after = replace(after, phase=phase, since=now)
    if phase is Phase.QUEUED and before.phase not in {Phase.REQUESTED, Phase.QUEUED}:
        # The scheduler took it back: the next start has its own secrets, node and start time.
        return replace(
            after, generation=after.generation + 1, host="", started=None, answered=None, endpoint=None, nonce=""
        )
    if phase is Phase.STARTING and before.phase is Phase.READY:
        return replace(after, answered=None, endpoint=None, nonce="")
    return after


def _end(after: Server, saw: Sight, report: JobReport | None, now: datetime) -> Server:
    words = after.words
    if after.outcome is not None or after.want is Want.DOWN:
        pass  # The reason is known already: the person's, the hub's or the scheduler's refusal.
    elif saw is Sight.FINISHED and report is not None:
        words = _end_words(report)
    elif saw is Sight.ABSENT:
        words = NO_RECORD
    return replace(
        after,
        ended=(report.ended if report else None) or now,
        outcome=outcome_of(after, saw, report),
        exit_code=report.exit_code if report and report.exit_code is not None else after.exit_code,
        words=words,
        endpoint=None,
        nonce="",
    )


def _end_words(report: JobReport) -> str:
    """The scheduler's state and reason; a bare letter, such as PBS's F, tells nobody anything."""
    state = report.raw_state if len(report.raw_state) > 1 else ""
    reason = report.reason if report.reason.lower() not in {"none", "n/a"} else ""
    return f"{state} ({reason})" if state and reason else state or reason


def _overdue_words(limits: Limits, report: JobReport | None) -> str:
    seconds = int(limits.start_timeout.total_seconds())
    words = f"The application did not answer within {seconds} seconds after its job began; the job was cancelled."
    # Where it never came to a host, the scheduler knows why.
    return f"{words} What held it up: {report.reason}" if report and report.reason and not report.host else words
