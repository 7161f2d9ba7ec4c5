"""What a browser carries while it signs in elsewhere."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.auth.departures import LIFE, LIMIT, Departures, Journey
from tests.store.conftest import Ticking

KEY = bytes(range(32))
JOURNEY = Journey("github", "s" * 32, "/hub/home", "https://hub.example.org/hub/oauth_callback", {"verifier": "v" * 64})


def test_there_and_back() -> None:
    departures = Departures(KEY, Ticking())
    sealed = departures.seal(JOURNEY)
    assert departures.open(sealed, JOURNEY.state) == JOURNEY
    assert "github" not in sealed
    assert "v" * 64 not in sealed


def test_only_with_its_own_state_and_key_and_in_time() -> None:
    clock = Ticking()
    departures = Departures(KEY, clock)
    sealed = departures.seal(JOURNEY)
    assert departures.open(sealed, "t" * 32) is None
    assert departures.open(sealed, "") is None
    assert Departures(bytes(32), clock).open(sealed, JOURNEY.state) is None
    clock.now += timedelta(seconds=LIFE - 1)
    assert departures.open(sealed, JOURNEY.state) == JOURNEY
    clock.now += timedelta(seconds=2)
    assert departures.open(sealed, JOURNEY.state) is None


@given(st.text(max_size=200))
def test_what_is_not_ours_is_nothing(text: str) -> None:
    assert Departures(KEY, Ticking()).open(text, "s") is None


def test_bounded() -> None:
    departures = Departures(KEY, Ticking())
    assert departures.open("g" * (LIMIT + 1), "s") is None
    with pytest.raises(ValueError, match="more than a cookie holds"):
        departures.seal(Journey("w", "s", "/" * 4000, "c", {}))
