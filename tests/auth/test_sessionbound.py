"""Passwords that are held while people are signed in: for how long, for whom, and that nothing is left of them."""

from datetime import timedelta

import pytest

from batchhub.auth.sessionbound import SessionBound
from batchhub.core.errors import StoreUnavailable
from batchhub.core.model import UserName
from tests.web.fakes import Clock

ANN, EVE = UserName("ann"), UserName("eve")
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def held(clock: Clock, ended: list[str]) -> SessionBound:
    return SessionBound(clock, 12 * HOUR, ended.append, most=3)


async def yes(session: str) -> bool:
    return True


async def no(session: str) -> bool:
    return False


async def test_ones_own_and_nobody_elses(held: SessionBound) -> None:
    held.keep(ANN, "s1", "sesame é")
    assert await held.of(ANN, yes, HOUR) == "sesame é"
    assert await held.of(EVE, yes, HOUR) is None
    assert "sesame" not in repr(held) + repr(vars(held))


async def test_until_the_last_session_has_ended(held: SessionBound, ended: list[str]) -> None:
    held.keep(ANN, "s1", "old")
    held.keep(ANN, "s2", "new")
    held.sessions_ended(["s1", "other"])
    assert await held.of(ANN, yes, HOUR) == "new"
    held.sessions_ended(["s2"])
    assert await held.of(ANN, yes, HOUR) is None
    assert ended == ["ann"]
    assert len(held) == 0


async def test_a_session_that_ended_elsewhere(held: SessionBound, ended: list[str]) -> None:
    """By another hub, or because it was idle: nobody told us."""
    held.keep(ANN, "s1", "sesame")
    assert await held.of(ANN, no, HOUR) is None
    assert ended == ["ann"]
    assert await held.of(ANN, yes, HOUR) is None, "it is not there any more"
    held.keep(EVE, "s2", "sesame")
    await held.sweep(no)
    assert ended == ["ann", "eve"]


async def test_not_for_ever(held: SessionBound, clock: Clock, ended: list[str]) -> None:
    held.keep(ANN, "s1", "sesame")
    clock.now += HOUR
    assert await held.of(ANN, yes, HOUR) is None, "too old for this cluster"
    assert await held.of(ANN, yes, 2 * HOUR) == "sesame"
    clock.now += 11 * HOUR
    await held.sweep(yes)
    assert ended == ["ann"]


async def test_a_database_that_is_away_gives_nothing_away(held: SessionBound) -> None:
    async def away(session: str) -> bool:
        raise StoreUnavailable("away")

    held.keep(ANN, "s1", "sesame")
    with pytest.raises(StoreUnavailable):
        await held.of(ANN, away, HOUR)
    assert await held.of(ANN, yes, HOUR) == "sesame"


async def test_let_go_while_we_ask(held: SessionBound) -> None:
    async def drop(session: str) -> bool:
        held.drop(ANN)
        return True

    held.keep(ANN, "s1", "sesame")
    assert await held.of(ANN, drop, HOUR) is None


async def test_bounded(held: SessionBound, ended: list[str]) -> None:
    for name in "abcd":
        held.keep(UserName(name), f"s{name}", "x")
    assert len(held) == 3
    assert ended == ["a"]
    held.close()
    assert len(held) == 0


def test_what_is_let_go_is_overwritten(held: SessionBound) -> None:
    held.keep(ANN, "s1", "a very special secret")
    text = held._held[ANN].text
    held.drop(ANN)
    assert bytes(text) == bytes(len("a very special secret"))
    held.keep(ANN, "s1", "first")
    text = held._held[ANN].text
    held.keep(ANN, "s1", "second")
    assert bytes(text) == bytes(5)


async def test_what_ends_by_itself(clock: Clock) -> None:
    """Tickets: each that is held no more is told, once, whatever the reason."""
    wiped: list[str] = []
    held = SessionBound(clock, 12 * HOUR, lambda user: None, wiped=wiped.append)
    held.keep(ANN, "s1", "first", clock() + HOUR)
    held.keep(ANN, "s1", "second", clock() + HOUR)
    held.keep(EVE, "s2", "eve's", clock() + 2 * HOUR)
    assert wiped == ["first"]
    clock.now += HOUR
    assert await held.of(ANN, yes, 12 * HOUR) is None
    assert wiped == ["first", "second"]
    await held.sweep(yes)
    assert await held.of(EVE, yes, 12 * HOUR) == "eve's"
    clock.now += HOUR
    await held.sweep(yes)
    held.close()
    assert wiped == ["first", "second", "eve's"]
