"""Figures of a server's steps."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from batchhub.control.measuring import measure, queue_wait, start_up
from batchhub.control.ports import NoMeters
from batchhub.core.model import JobId, Outcome, Phase, Server, ServerId, UserName
from tests.control.memory import T0

ROW = Server(ServerId("abcdefghijkl"), UserName("ann"), "", "hpc", "lab", "ann", T0, T0, job_id=JobId("7"))


def at(seconds: float):
    return T0 + timedelta(seconds=seconds)


class Noting(NoMeters):
    def __init__(self) -> None:
        self.said: list[tuple] = []

    def waited(self, *words) -> None:
        self.said.append(("waited", *words))

    def started(self, *words) -> None:
        self.said.append(("started", *words))

    def ended(self, *words) -> None:
        self.said.append(("ended", *words))


def steps(*rows: Server) -> list[tuple]:
    meters = Noting()
    for before, after in pairwise(rows):
        measure(meters, before, after, at(1000))
    return meters.said


def test_a_life() -> None:
    queued = replace(ROW, phase=Phase.QUEUED, submit_tried=at(2), since=at(4))
    starting = replace(queued, phase=Phase.STARTING, since=at(70), started=at(62))
    ready = replace(starting, phase=Phase.READY, answered=at(75), since=at(76))
    ended = replace(ready, phase=Phase.ENDED, outcome=Outcome.TIMED_OUT, answered=None)
    assert steps(ROW, queued, queued, starting, starting, ready, ready, ended, ended) == [
        ("waited", "hpc", "lab", 60.0),
        ("started", "hpc", "lab", 13.0),
        ("ended", "hpc", "lab", Outcome.TIMED_OUT),
    ]


def test_a_job_that_was_requeued_waits_anew() -> None:
    queued = replace(ROW, phase=Phase.QUEUED, submit_tried=at(0), since=at(500), generation=2)
    assert queue_wait(queued, replace(queued, phase=Phase.STARTING, started=at(530)), at(540)) == 30


@pytest.mark.parametrize("started", [None, at(-3600), at(3600)])
def test_a_cluster_whose_clock_is_wrong_makes_no_nonsense(started) -> None:
    queued = replace(ROW, phase=Phase.QUEUED, submit_tried=at(0))
    starting = replace(queued, phase=Phase.STARTING, started=started, since=at(60))
    assert queue_wait(queued, starting, at(60)) == 60
    late = replace(starting, started=at(3600), answered=at(70), phase=Phase.READY)
    assert start_up(starting, late) == 10


def test_who_never_said_when_it_began_is_not_measured() -> None:
    queued = replace(ROW, phase=Phase.QUEUED)
    assert start_up(queued, replace(ROW, phase=Phase.READY, answered=at(9))) is None
    assert start_up(queued, replace(ROW, phase=Phase.READY)) is None


def test_a_job_that_began_anew_elsewhere_did_not_wait() -> None:
    ready = replace(ROW, phase=Phase.READY, submit_tried=at(0))
    assert steps(ready, replace(ready, phase=Phase.STARTING)) == []
