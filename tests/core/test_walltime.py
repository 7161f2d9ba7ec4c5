"""Ends, warnings and what more time may be asked for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.config.tables import read
from batchhub.core.errors import ConfigError
from batchhub.core.model import JobId, JobReport, JobState, Observation, Phase, Server, ServerId, Truth, UserName, Want
from batchhub.core.walltime import (
    SAME,
    End,
    TimeUp,
    end_of,
    more_time,
    notice,
    same,
    shown_warning,
    smallest,
    warned_of,
    warning_words,
)
from batchhub.core.words import describe

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
ROW = Server(ServerId("abcdefghijkl"), UserName("ann"), "", "hpc", "lab", "ann", NOW, NOW, phase=Phase.READY, host="n1")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
BEFORE = 15 * MINUTE
spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30))
moments = st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2027, 1, 1), timezones=st.just(UTC))


def seen(state: JobState = JobState.RUNNING, at: datetime = NOW, **facts: object) -> Observation:
    return Observation(Truth.SEEN, at, JobReport(JobId("1"), state, **facts))  # type: ignore[arg-type]


def test_the_end_is_the_start_and_the_limit() -> None:
    told = seen(started=NOW - HOUR, time_limit=2 * HOUR)
    assert end_of(told) == End(NOW + HOUR, NOW, 2 * HOUR)


def test_the_end_by_what_is_left_where_no_start_is_told() -> None:
    assert end_of(seen(time_left=HOUR)) == End(NOW + HOUR, NOW, None)
    assert end_of(seen(time_left=HOUR, started=NOW - HOUR)) == End(NOW + HOUR, NOW, 2 * HOUR)


def test_after_a_suspension_there_is_more_left_than_start_and_limit_say() -> None:
    told = seen(started=NOW - 3 * HOUR, time_limit=2 * HOUR, time_left=HOUR)
    assert end_of(told) == End(NOW + HOUR, NOW, 2 * HOUR)


@pytest.mark.parametrize(
    "told",
    [
        None,
        Observation(Truth.UNKNOWN, NOW, word="silent"),
        Observation(Truth.GONE, NOW),
        seen(JobState.PENDING, time_left=HOUR),
        seen(JobState.SUSPENDED, started=NOW, time_limit=HOUR),
        seen(),
        seen(time_limit=HOUR),
    ],
)
def test_no_end_is_invented(told: Observation | None) -> None:
    assert end_of(told) is None


@pytest.mark.parametrize(("walltime", "due"), [(8 * HOUR, BEFORE), (HOUR, 12 * MINUTE), (None, BEFORE)])
def test_a_short_job_s_notice_is_shorter(walltime: timedelta | None, due: timedelta) -> None:
    assert notice(BEFORE, walltime) == due


@given(moments, moments, spans, st.one_of(st.none(), spans), st.one_of(st.none(), moments))
def test_a_warning_is_given_once_for_each_end(
    now: datetime, at: datetime, before: timedelta, walltime: timedelta | None, warned: datetime | None
) -> None:
    end = End(at, now, walltime)
    first = warned_of(replace(ROW, warned=warned), end, now, before)
    assert warned_of(replace(ROW, warned=first), end, now, before) == first
    if first is None or first == warned:
        return
    assert first == at
    assert now < at <= now + before
    # What schedulers round, or say a little later, is no other end.
    assert warned_of(replace(ROW, warned=first), End(at + SAME, now, walltime), now, before) == first


@given(moments, spans, st.one_of(st.none(), moments))
def test_what_is_not_known_changes_nothing(now: datetime, before: timedelta, warned: datetime | None) -> None:
    row = replace(ROW, warned=warned)
    assert warned_of(row, None, now, before) == warned
    for other in (replace(row, want=Want.DOWN), replace(row, phase=Phase.QUEUED), replace(row, phase=Phase.ENDED)):
        assert warned_of(other, End(now + MINUTE, now), now, before) == warned


def test_an_extension_takes_the_warning_back_and_the_new_end_is_warned_of() -> None:
    row = replace(ROW, warned=NOW + 10 * MINUTE)
    later = End(NOW + 70 * MINUTE, NOW, 3 * HOUR)
    assert warned_of(row, later, NOW, BEFORE) is None
    assert warned_of(replace(row, warned=None), later, NOW + HOUR, BEFORE) == later.at
    sooner = End(NOW + 5 * MINUTE, NOW, 3 * HOUR)
    assert warned_of(row, sooner, NOW, BEFORE) == sooner.at


def test_a_time_that_is_over_or_a_setting_of_never_is_no_warning() -> None:
    assert warned_of(ROW, End(NOW, NOW), NOW, BEFORE) is None
    assert warned_of(ROW, End(NOW + MINUTE, NOW), NOW, timedelta(0)) is None


def test_a_warning_by_an_old_word_says_so() -> None:
    end = End(NOW + 10 * MINUTE, NOW - HOUR)
    assert warning_words(end, NOW, None) == "The job's time is up at 2026-11-28 12:10 UTC, in 10m."
    assert warning_words(end, NOW, NOW - 50 * MINUTE).endswith(
        "The scheduler said so at 11:00 UTC and does not answer now."
    )


def test_what_pages_show() -> None:
    at = NOW + 10 * MINUTE
    row = replace(ROW, warned=at)
    assert shown_warning(row, None) == at
    assert shown_warning(row, End(at + MINUTE, NOW)) == at
    assert shown_warning(row, End(at + HOUR, NOW)) is None
    assert shown_warning(ROW, End(at, NOW)) is None
    assert shown_warning(replace(row, phase=Phase.ENDED), None) is None
    status = describe(row, seen(started=at - 2 * HOUR, time_limit=2 * HOUR), None, NOW)
    assert (status.ends, status.walltime, status.time_left) == (at, 2 * HOUR, 10 * MINUTE)


@given(st.one_of(st.none(), spans), st.one_of(st.none(), spans))
def test_what_is_offered_is_more_and_never_too_much(limit: timedelta | None, most: timedelta | None) -> None:
    offers = more_time(limit, most)
    assert list(offers) == sorted(set(offers))
    assert all(limit is not None and limit < offer and (most is None or offer <= most) for offer in offers)
    assert bool(offers) == (limit is not None and (most is None or most > limit))


def test_what_is_left_up_to_the_bound_is_offered_too() -> None:
    assert more_time(2 * HOUR, 4 * HOUR) == (2.5 * HOUR, 3 * HOUR, 4 * HOUR)
    assert more_time(2 * HOUR, 2 * HOUR + 10 * MINUTE) == (2 * HOUR + 10 * MINUTE,)


def test_the_smallest_bound_there_is() -> None:
    assert smallest((None, HOUR, MINUTE)) == MINUTE
    assert smallest((None,)) is None
    assert same(NOW, NOW + SAME)
    assert not same(NOW, NOW + SAME + timedelta(seconds=1))


def test_a_profile_s_table() -> None:
    assert read(TimeUp, {"signal": "USR1", "extend_at_most": "24h"}, "x").most == timedelta(days=1)
    assert TimeUp().most is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"warn_before": -1}, "x: warn_before: -1 seconds are not between 0"),
        ({"save_before": 1e9}, "a week"),
        ({"command": "a\nb"}, "one line"),
        ({"signal": "KILL"}, "not one of"),
        ({"extend_at_most": "90"}, "x: extend_at_most: '90' is not a time"),
        ({"extend": "user"}, "unknown setting"),
    ],
)
def test_a_table_that_is_wrong(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(TimeUp, table, "x")
