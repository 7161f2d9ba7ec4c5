"""One-time links."""

from datetime import timedelta

import pytest

from batchhub.auth import link
from batchhub.auth.base import Identity
from batchhub.auth.link import LinkAuthenticator
from batchhub.auth.rules import problems, sign_in
from batchhub.core.errors import TooMany


async def test_once(clock) -> None:
    made = LinkAuthenticator(clock=clock)
    token = made.issue("ann", clock.now)
    assert len(token) == 43
    assert token not in repr(made._open)
    assert await sign_in(made, None, {"token": token}) == Identity("ann")
    assert await sign_in(made, None, {"token": token}) is None
    assert problems(made) == ()


def test_in_time(clock) -> None:
    made = LinkAuthenticator(clock=clock)
    life = timedelta(minutes=1)
    token = made.issue("ann", clock.now, life)
    assert made.redeem(token, clock.now + life) is None
    assert made.redeem(token, clock.now) is None, "too late uses it up"


def test_nonsense(clock) -> None:
    made = LinkAuthenticator(clock=clock)
    made.issue("ann", clock.now)
    for token in ("", "x", "x" * 1000, "\ud800"):
        assert made.redeem(token, clock.now) is None


async def test_blocked(clock) -> None:
    made = LinkAuthenticator(clock=clock, blocked_users={"ann"})
    assert await sign_in(made, None, {"token": made.issue("ann", clock.now)}) is None


def test_bounded(clock, monkeypatch) -> None:
    monkeypatch.setattr(link, "OPEN_LINKS", 2)
    made = LinkAuthenticator(clock=clock)
    made.issue("ann", clock.now)
    made.issue("ann", clock.now)
    with pytest.raises(TooMany):
        made.issue("ann", clock.now)
    made.issue("ann", clock.later(hours=1))


def test_a_clock_of_its_own() -> None:
    assert LinkAuthenticator()._clock().tzinfo is not None


async def test_whoever_started_the_hub_is_told_when_a_link_was_used(clock) -> None:
    told: list[str] = []
    made = LinkAuthenticator(clock=clock, used=told.append)
    token = made.issue("ann", clock.now)
    assert [await made.authenticate(None, {"token": each}) for each in ("x", token, token)] == [None, "ann", None]
    assert told == ["ann"]
