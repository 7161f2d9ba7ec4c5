"""What a look says of itself in the trail of events."""

from dataclasses import replace
from datetime import timedelta

import pytest

from batchhub.control.steps import step
from batchhub.control.trail import by_whom, seen_words, trace_of
from batchhub.core.lifecycle import TABLE, Action, Decision, Limits, Sight, decide
from batchhub.core.model import (
    JobId,
    JobReport,
    JobState,
    Observation,
    Phase,
    Server,
    ServerId,
    Trace,
    Truth,
    UserName,
    Want,
)
from tests.control.memory import T0

ROW = Server(ServerId("abcdefghijkl"), UserName("ann"), "", "hpc", "lab", "ann", T0, T0, submit_tried=T0)


def seen(state: JobState, word: str, **facts) -> Observation:
    return Observation(Truth.SEEN, T0, JobReport(JobId("7"), state, word, **facts))


def traced(row: Server, observation: Observation | None, limits: Limits | None = None) -> Trace:
    now = T0 + timedelta(minutes=1)
    after, decision = step(row, observation, now, limits or Limits())
    return trace_of(row, after, decision, observation)


@pytest.mark.parametrize(
    ("row", "observation", "expected"),
    [
        (
            ROW,
            seen(JobState.PENDING, "PENDING", reason="Priority"),
            Trace("phase", "scheduler", "waiting: PENDING (Priority)", ""),
        ),
        (
            replace(ROW, phase=Phase.QUEUED, job_id=JobId("7")),
            seen(JobState.RUNNING, "RUNNING", host="n1", reason="None"),
            Trace("phase", "scheduler", "running: RUNNING on n1", "reach"),
        ),
        (
            replace(ROW, phase=Phase.READY, job_id=JobId("7")),
            Observation(Truth.GONE, T0, JobReport(JobId("7"), JobState.FAILED, "FAILED", exit_code=137, signal=9)),
            Trace("phase", "scheduler", "finished: FAILED, exit code 137, signal 9", "withdraw, collect"),
        ),
        (
            replace(ROW, phase=Phase.READY, job_id=JobId("7"), want=Want.DOWN),
            seen(JobState.RUNNING, "R", host="n1"),
            Trace("phase", "hub", "running: R on n1", "withdraw, cancel"),
        ),
        (
            replace(ROW, phase=Phase.STARTING, job_id=JobId("7")),
            replace(seen(JobState.RUNNING, "R", host="n1")),
            Trace("seen", "scheduler", "running: R on n1", "reach"),
        ),
        (
            replace(ROW, phase=Phase.QUEUED),
            Observation(Truth.GONE, T0),
            Trace("phase", "scheduler", "absent", "collect"),
        ),
    ],
)
def test_what_was_seen_what_was_decided_and_by_whom(row, observation, expected) -> None:
    assert traced(row, observation) == expected


def test_a_job_found_by_its_name_is_a_line() -> None:
    row = replace(ROW, phase=Phase.STOPPING, want=Want.DOWN)
    told = traced(row, seen(JobState.COMPLETING, "CG"))
    assert (told.kind, told.seen) == ("found", "ending: CG")


def test_giving_up_is_the_hubs() -> None:
    row = replace(ROW, phase=Phase.STARTING, job_id=JobId("7"), host="n1", started=T0)
    told = traced(row, seen(JobState.RUNNING, "R", host="n1", started=T0), Limits(start_timeout=timedelta(seconds=30)))
    assert told == Trace("phase", "hub", "overdue: R on n1", "gave up; collect, cancel")


def test_every_step_of_the_table_says_what_it_saw() -> None:
    for want, phase, saw in TABLE:
        decision = decide(replace(ROW, want=want, phase=phase), saw)
        assert decision.saw is saw
        if Action.CANCEL in decision.actions:
            assert by_whom(decision) == "hub"


def test_a_schedulers_long_words_are_cut() -> None:
    words = seen_words(Sight.WAITING, seen(JobState.PENDING, "PD", reason="x" * 5000))
    assert len(words) == 300
    assert seen_words(Sight.UNKNOWN, Observation(Truth.UNKNOWN, T0, word="no answer")) == "unknown: no answer"
    assert seen_words(Sight.NEW, None) == "new"
    assert seen_words(Sight.REFUSED, seen(JobState.PENDING, "PD")) == "refused"


def test_a_decision_without_a_step_says_so_too() -> None:
    assert decide(ROW, Sight.UNKNOWN) == Decision(Phase.REQUESTED, (), saw=Sight.UNKNOWN)
