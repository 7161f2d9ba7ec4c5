"""How long the poller waits: a pure function of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.control.pace import JITTER, QUIET, RESTLESS, Pace, drawn, pause
from batchhub.core.errors import ConfigError

PACE = Pace()
COUNTS = st.integers(0, 10_000)
PACES = st.lists(st.floats(0.2, 3600), min_size=3, max_size=3).map(lambda found: Pace(*sorted(found)))


def asked(
    watched: bool = False, moving: bool = False, unchanged: int = 0, failures: int = 0, pace: Pace = PACE
) -> float:
    return pause(pace, watched=watched, moving=moving, unchanged=unchanged, failures=failures)


@given(PACES, st.booleans(), st.booleans(), COUNTS, COUNTS)
def test_a_pause_is_never_below_fast_nor_above_the_ceiling(
    pace: Pace, watched: bool, moving: bool, unchanged: int, failures: int
) -> None:
    assert pace.fast <= asked(watched, moving, unchanged, failures, pace) <= pace.ceiling


@given(PACES, st.booleans(), st.booleans(), st.tuples(COUNTS, COUNTS), st.tuples(COUNTS, COUNTS))
def test_more_quiet_or_more_failures_never_mean_more_questions(
    pace: Pace, watched: bool, moving: bool, quiet: tuple[int, int], failures: tuple[int, int]
) -> None:
    less, more = (asked(watched, moving, of(quiet), of(failures), pace) for of in (min, max))
    assert less <= more


@given(PACES, st.booleans(), COUNTS)
def test_nobody_who_waits_is_served_less_often_than_nobody(pace: Pace, moving: bool, unchanged: int) -> None:
    assert asked(True, moving, unchanged, 0, pace) == pace.fast
    assert asked(False, True, unchanged, 0, pace) <= asked(False, False, unchanged, 0, pace)


@given(PACES, st.booleans(), st.booleans())
def test_it_slows_down_to_the_ceiling_in_the_end(pace: Pace, watched: bool, moving: bool) -> None:
    assert asked(False, moving, 100_000, 0, pace) == pace.ceiling
    assert asked(watched, moving, 0, 100_000, pace) == pace.ceiling


def test_the_steps_as_the_settings_come() -> None:
    quiet = [asked(unchanged=count) for count in range(QUIET + 4)]
    assert quiet[:6] == [2, 4, 8, 16, 20, 20]
    assert set(quiet[4 : QUIET + 1]) == {20}
    assert quiet[QUIET + 1 :] == [40, 60, 60]
    assert [asked(True, failures=count) for count in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    assert [asked(unchanged=10, failures=count) for count in range(3)] == [20, 40, 60]


def test_what_moves_for_ever_is_not_looked_at_for_ever() -> None:
    assert {asked(moving=True, unchanged=count) for count in range(RESTLESS + 1)} == {2}
    assert asked(moving=True, unchanged=RESTLESS + 4) == 20


@given(st.floats(0.2, 3600), st.floats(0, 1))
def test_chance_only_shortens(seconds: float, chance: float) -> None:
    assert seconds * (1 - JITTER) - 1e-9 <= drawn(seconds, chance) <= seconds


@pytest.mark.parametrize("odd", [(0.0, 20.0, 60.0), (5.0, 2.0, 60.0), (2.0, 90.0, 60.0), (float("nan"), 20.0, 60.0)])
def test_settings_that_contradict_each_other(odd: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="each at least the one before"):
        Pace(*odd)
