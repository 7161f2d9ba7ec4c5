"""What fails again and again is evidence of bounded size."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchhub.control.troubles import Troubles, worth_a_line
from batchhub.core.errors import StoreUnavailable
from batchhub.core.model import Server, ServerId, UserName
from batchhub.store.store import Store
from tests.control.memory import T0, Clock

ROW = Server(ServerId("abcdefghijkl"), UserName("ann"), "", "hpc", "lab", "ann", T0, T0)


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", clock=clock)
    await store.open()
    await store.add_server(ROW)
    yield store
    await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def told(store: Store) -> list[tuple[str, str]]:
    return [(event.kind, event.words) for event in await store.events_of(ROW.id)][1:]


async def test_a_day_of_failures_is_a_handful_of_lines(store, clock) -> None:
    troubles = Troubles(store, clock)
    for number in range(43200):  # every two seconds, and each time in other words
        await troubles.failed(ROW, "publish", f"no answer, request {number}")
        clock.move(2)
    lines = await told(store)
    assert len(lines) == 5
    assert lines[0] == ("publish failed", "no answer, request 0")
    assert lines[4] == ("publish failed", "no answer, request 9999 (attempt 10000 since 2026-11-23 08:00:00 UTC)")
    await troubles.over(ROW, "publish")
    assert (await told(store))[5:] == [("publish worked", "It worked after 43200 failed attempts in 1 day, 0:00:00.")]


async def test_what_never_failed_is_no_line(store, clock) -> None:
    troubles = Troubles(store, clock)
    await troubles.over(ROW, "publish")
    assert await told(store) == []
    await troubles.failed(ROW, "cancel", "denied")
    await troubles.over(ROW, "cancel")
    await troubles.over(ROW, "cancel")
    assert await told(store) == [("cancel failed", "denied"), ("cancel worked", "It worked after 1 failed attempt.")]


async def test_the_end_of_a_run_ends_its_troubles(store, clock) -> None:
    troubles = Troubles(store, clock)
    for _ in range(3):
        await troubles.failed(ROW, "reach", "connection refused")
        troubles.again(ROW, "cancels")
    await troubles.close(ROW)
    await troubles.close(ROW)
    assert [words for _, words in await told(store)] == [
        "connection refused",
        "connection refused (the last of 3 failed attempts in 0:00:00)",
    ]
    assert troubles.again(ROW, "cancels") == 1


async def test_evidence_that_cannot_be_written_stops_nothing(store, clock) -> None:
    class Away:
        async def add_event(self, *_words: str) -> None:
            raise StoreUnavailable("away")

    troubles = Troubles(Away(), clock)  # type: ignore[arg-type]
    await troubles.failed(ROW, "publish", "no answer")
    await troubles.over(ROW, "publish")


def test_powers_of_ten() -> None:
    assert [number for number in range(2000) if worth_a_line(number)] == [1, 10, 100, 1000]
