"""The book of jobs that left the queue: when their records are asked for, and when no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from batchhub.control.absences import Absences
from batchhub.core.model import JobId, JobReport, JobState, Observation, Server, ServerId, Truth, UserName
from tests.control.memory import T0

ROW = Server(ServerId("abcdefghijkl"), UserName("alice"), "", "hpc", "lab", "alice", T0, T0, job_id=JobId("7"))
OTHER = replace(ROW, id=ServerId("abcdefghijkm"), job_id=JobId("8"))


def end(state: JobState = JobState.COMPLETED) -> Observation:
    return Observation(Truth.GONE, T0, JobReport(JobId("7"), state))


def test_a_record_that_is_not_there_is_asked_for_after_growing_pauses() -> None:
    absences = Absences(15.0)
    absences.noted(ROW.id, T0)
    asked = []
    for second in range(120):
        now = T0 + timedelta(seconds=second)
        if absences.due([ROW], now):
            asked.append(second)
            absences.asked(ROW.id, now)
    assert asked == [0, 2, 6, 14, 29, 44, 59, 74, 89, 104, 119]


def test_a_job_that_has_just_left_takes_the_others_along() -> None:
    absences = Absences(15.0)
    absences.noted(ROW.id, T0)
    absences.asked(ROW.id, T0)
    assert not absences.due([ROW], T0)
    absences.noted(OTHER.id, T0)
    assert absences.due([ROW, OTHER], T0)


def test_an_end_is_remembered_for_its_job_alone() -> None:
    absences = Absences(15.0)
    absences.noted(ROW.id, T0)
    absences.ended(ROW, end())
    assert not absences
    assert absences.end_of(ROW) == end()
    assert absences.end_of(replace(ROW, job_id=JobId("9"))) is None
    absences.back(ROW.id)
    assert absences.end_of(ROW) is None


def test_an_end_after_which_the_job_may_come_back_is_asked_for_again() -> None:
    absences = Absences(15.0)
    absences.ended(ROW, end(JobState.PREEMPTED))
    assert absences.end_of(ROW) is None


def test_servers_that_are_over_are_forgotten() -> None:
    absences = Absences(15.0)
    absences.noted(OTHER.id, T0)
    absences.ended(ROW, end())
    absences.keep(set())
    assert not absences
    assert absences.end_of(ROW) is None
