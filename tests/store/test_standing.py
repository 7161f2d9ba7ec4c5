"""What the store counts for the limits, and that two at once cannot both have the last place."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from batchhub.core.errors import Conflict, TooMany
from batchhub.core.model import Phase
from batchhub.core.quota import Standing
from batchhub.store import Store

NO_LIMIT = timedelta(hours=1)


async def test_what_is_counted(store, make, clock) -> None:
    """Ended ones count as recent only, queued ones not as being started, and the new one not at all."""
    seen: list[Standing] = []

    async def add(user: str, name: str, phase: Phase, profile: str = "lab", minutes: float = 0) -> None:
        at = clock() - timedelta(minutes=minutes)
        made = make(user, name, phase=phase, profile=profile, created=at, since=at)
        await store.add_server(made)

    await add("ann", "a", Phase.READY)
    await add("ann", "b", Phase.QUEUED, "rstudio")
    await add("ann", "c", Phase.ENDED, minutes=5)
    await add("ann", "d", Phase.ENDED, minutes=90)
    await add("bob", "", Phase.STARTING)
    await add("cat", "", Phase.REQUESTED, "rstudio")
    await store.add_server(make("ann", "new"), admit=seen.append, window=NO_LIMIT)
    assert seen == [
        Standing(
            own=2,
            own_of_profile=1,
            of_profile=2,
            starting=2,
            recent=3,
            first_recent=clock() - timedelta(minutes=5),
        )
    ]


async def test_nothing_is_kept_of_what_was_not_admitted(store, make) -> None:
    def never(standing: Standing) -> None:
        raise TooMany("No.")

    with pytest.raises(TooMany):
        await store.add_server(make("ann", "x"), admit=never)
    assert await store.current_server("ann", "x") is None
    assert await store.live_servers() == ()


async def test_a_server_that_is_there_already_is_told_before_any_limit(store, make) -> None:
    def never(standing: Standing) -> None:
        raise TooMany("No.")

    await store.add_server(make())
    with pytest.raises(Conflict):
        await store.add_server(make(), admit=never)


async def test_two_at_once_do_not_both_have_the_last_place(store, url, make, clock) -> None:
    """Of forty starts through two stores on one database, as of two hubs, three are let in."""
    other = Store(url, clock=clock)
    await other.open()

    def three(standing: Standing) -> None:
        if standing.own >= 3:
            raise TooMany("No.")

    made = [make("ann", f"s{number}") for number in range(40)]
    answers = await asyncio.gather(
        *((store, other)[number % 2].add_server(row, admit=three) for number, row in enumerate(made)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, TooMany)]
    assert len(answers) - len(refused) == 3
    assert len(refused) == 37
    live = await store.live_servers()
    assert len(live) == 3
    assert all(replace(row, phase=Phase.REQUESTED) == row for row in live)
    await other.close()
