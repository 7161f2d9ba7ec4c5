"""Limits: each alone, all together, and that 0 is none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import TooMany
from batchhub.core.forms import Profile
from batchhub.core.quota import Quota, Standing, admit

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
LAB = Profile("lab", "hpc", title="Lab")
COUNTS = st.integers(0, 6)


@pytest.mark.parametrize(
    ("quota", "profile", "standing", "words"),
    [
        (Quota(servers_each=1), LAB, Standing(own=1), "You have 1 server, which is the limit here; stop one first."),
        (Quota(), replace(LAB, at_most_each=2), Standing(own_of_profile=2), "You have 2 servers of 'Lab', which"),
        (Quota(), replace(LAB, at_most=3), Standing(of_profile=3), "All 3 places for 'Lab' are taken by now"),
        (Quota(concurrent_starts=4), LAB, Standing(starting=4), "4 servers are being started at this moment"),
        (
            Quota(starts_each=5, starts_window=timedelta(minutes=10)),
            LAB,
            Standing(recent=5, first_recent=NOW - timedelta(minutes=7, seconds=30)),
            "You have started 5 servers within 10 minutes, which is the limit; the next one may be started in 3 minutes.",
        ),
    ],
)
def test_a_limit_that_is_reached_says_so(quota: Quota, profile: Profile, standing: Standing, words: str) -> None:
    with pytest.raises(TooMany) as error:
        admit(quota, profile, standing, NOW)
    assert str(error.value).startswith(words)
    assert (error.value.retry, error.value.status) == (True, 429)


def test_a_profile_without_a_title_is_called_by_its_name() -> None:
    with pytest.raises(TooMany, match="'lab'"):
        admit(Quota(), Profile("lab", "hpc", at_most=1), Standing(of_profile=1), NOW)


@given(limits=st.tuples(*[COUNTS] * 5), counts=st.tuples(*[COUNTS] * 5))
def test_it_is_refused_exactly_when_a_limit_is_reached(limits: tuple[int, ...], counts: tuple[int, ...]) -> None:
    quota = Quota(servers_each=limits[0], concurrent_starts=limits[1], starts_each=limits[2])
    profile = replace(LAB, at_most=limits[3], at_most_each=limits[4])
    standing = Standing(
        own=counts[0], starting=counts[1], recent=counts[2], of_profile=counts[3], own_of_profile=counts[4]
    )
    reached = any(limit and count >= limit for limit, count in zip(limits, counts, strict=True))
    if not reached:
        admit(quota, profile, standing, NOW)
        return
    with pytest.raises(TooMany):
        admit(quota, profile, standing, NOW)
