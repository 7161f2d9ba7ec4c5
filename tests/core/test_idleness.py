"""When a server is idle: what Jupyter's answers mean, and that nothing unknown ends anybody's work."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.forms import Profile
from batchhub.core.idleness import (
    NEVER,
    EndLimits,
    idle_words,
    is_due,
    jupyter_use,
    last_use,
    limits_of,
    outlived,
    outlived_words,
)
from batchhub.core.model import Phase, Want
from batchhub.core.ports import NO_ANSWER, Answer
from tests.core.test_lifecycle import T0, server

HOUR = timedelta(hours=1)
LIMITS = EndLimits(idle=2 * HOUR, lifetime=12 * HOUR)
NONE = Answer(200, b"[]")
TIMES = st.datetimes(T0.replace(tzinfo=None) - 100 * HOUR, T0.replace(tzinfo=None) + 100 * HOUR).map(
    lambda moment: moment.replace(tzinfo=T0.tzinfo)
)


def answer(*entries: object) -> Answer:
    return Answer(200, json.dumps(entries).encode())


def kernel(minutes: float, state: str = "idle") -> dict[str, str]:
    return {"execution_state": state, "last_activity": (T0 - timedelta(minutes=minutes)).isoformat()}


def test_a_kernel_that_computes_in_silence_is_in_use() -> None:
    assert jupyter_use(answer(kernel(600), kernel(900, "busy")), NONE, T0) == T0
    assert jupyter_use(answer(kernel(600), kernel(90), kernel(5, "dead")), NONE, T0) == T0 - timedelta(minutes=5)
    assert jupyter_use(NONE, answer({"name": "1", "last_activity": "2026-11-23T07:30:00.000000Z"}), T0) == T0 - HOUR / 2
    assert jupyter_use(NONE, NONE, T0) == NEVER
    assert jupyter_use(NONE, Answer(404), T0) == NEVER, "a site without terminals"
    assert jupyter_use(answer(kernel(-600)), NONE, T0) == T0, "a clock that goes wrong, or wants to be believed"


@pytest.mark.parametrize(
    "wrong",
    [
        NO_ANSWER,
        Answer(403, b"[]"),
        Answer(404, b"[]"),
        Answer(200, b""),
        Answer(200, b"{}"),
        Answer(200, b"[1]"),
        Answer(200, b'[{"execution_state": "idle"}]'),
        Answer(200, b'[{"last_activity": 5}]'),
        Answer(200, b'[{"last_activity": "yesterday"}]'),
        Answer(200, json.dumps([kernel(1)] * 900).encode()[: 64 * 1024]),
        Answer(200, b"[" * 60_000),
    ],
)
def test_what_cannot_be_read_is_not_known(wrong: Answer) -> None:
    assert jupyter_use(wrong, NONE, T0) is None
    if wrong.status != 404:
        assert jupyter_use(NONE, wrong, T0) is None


@given(st.binary(max_size=300), st.sampled_from([200, 200, 404, 0]))
def test_no_answer_is_too_strange(body: bytes, status: int) -> None:
    found = jupyter_use(Answer(status, body), NONE, T0)
    assert found is None or NEVER <= found <= T0


@given(
    st.lists(st.one_of(st.none(), TIMES), max_size=4), st.one_of(st.none(), TIMES), st.one_of(st.none(), TIMES), TIMES
)
def test_the_newest_use_counts_and_nothing_newer_is_ended(seen, active, answered, now) -> None:
    row = server(phase=Phase.READY, active=active, answered=answered, created=T0 - 200 * HOUR)
    last = last_use(row, *seen)
    assert all(moment <= last for moment in (*seen, active, answered) if moment is not None)
    assert is_due(row, LIMITS, last, now) == (now - last >= LIMITS.idle)
    assert not is_due(row, EndLimits(lifetime=HOUR), last, now)


@given(st.sampled_from(Phase), st.sampled_from(Want), TIMES, st.one_of(st.none(), TIMES))
def test_only_what_runs_and_is_wanted_is_ended(phase: Phase, want: Want, now, started) -> None:
    row = server(phase=phase, want=want, started=started)
    if is_due(row, LIMITS, NEVER, now):
        assert (phase, want) == (Phase.READY, Want.UP)
    if outlived(row, LIMITS, now):
        assert phase in {Phase.STARTING, Phase.READY}
        assert want is Want.UP
        assert started is not None
        assert now - started >= LIMITS.lifetime
    assert not outlived(row, EndLimits(idle=HOUR), now)


def test_the_time_in_the_queue_is_no_part_of_its_life() -> None:
    row = server(phase=Phase.READY, created=T0 - 100 * HOUR, started=T0 - 11 * HOUR)
    assert not outlived(row, LIMITS, T0)
    assert outlived(row, LIMITS, T0 + HOUR)
    assert not outlived(server(phase=Phase.STARTING, created=T0 - 100 * HOUR), LIMITS, T0), "nobody said when it began"


def test_the_words() -> None:
    assert limits_of(None) == limits_of(Profile("x", "c")) == EndLimits()
    assert EndLimits().sentence == ""
    limits = limits_of(Profile("x", "c", idle_timeout=7200.0, max_lifetime=43200.0))
    assert limits == LIMITS
    assert limits.sentence == "The hub ends it after 2h without use, and 12h after its job began, whatever it does."
    words = "Not used for 3h; servers of this kind are ended after 2h without use."
    assert idle_words(T0 - 3 * HOUR, limits, T0) == words
    assert outlived_words(limits).startswith("Its job began 12h ago")
