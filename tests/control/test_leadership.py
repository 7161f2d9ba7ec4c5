"""Who leads, with a lock that gives and takes as it is told, and time that stands still."""

from __future__ import annotations

import asyncio

import pytest

from batchhub.control.guarded import GuardedTransport
from batchhub.control.leadership import Leadership, LeadSettings
from batchhub.core.errors import NotLeading, StoreUnavailable
from batchhub.core.ports import Command
from tests.control.memory import Clock, MemoryCluster, MemoryTransport

QUICK = LeadSettings(every=0.01, trust=8.0)


class Lock:
    """Free until somebody takes it."""

    def __init__(self) -> None:
        self.free = True
        self.broken = False
        self.epoch = 0
        self.released = 0
        self.confirmed = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def acquire(self) -> int | None:
        if self.broken:
            raise StoreUnavailable("The database does not answer.")
        if not self.free:
            return None
        self.epoch += 1
        return self.epoch

    async def confirm(self) -> None:
        await self.answers.wait()
        if self.broken:
            raise StoreUnavailable("The connection is gone.")
        self.confirmed.set()

    async def release(self) -> None:
        self.released += 1


class Duties:
    """What was begun and halted."""

    def __init__(self) -> None:
        self.trail: list[str] = []
        self.begun, self.halted = asyncio.Event(), asyncio.Event()
        self.fails = False

    async def begin(self) -> None:
        if self.fails:
            raise StoreUnavailable("The database does not answer.")
        self.trail.append("begin")
        self.begun.set()

    def halt(self) -> None:
        if self.trail[-1:] == ["begin"]:
            self.trail.append("halt")
        self.halted.set()

    async def end(self) -> None:
        pass


class Scene:
    def __init__(self) -> None:
        self.lock, self.duties, self.now = Lock(), Duties(), 100.0
        self.leadership = Leadership(self.lock, self.duties, QUICK, lambda: self.now)
        self.task = asyncio.ensure_future(self.leadership.run())


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await event.wait()


@pytest.fixture
async def scene():
    made = Scene()
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_it_leads_while_the_lock_is_its_own(scene: Scene) -> None:
    await soon(scene.duties.begun)
    assert scene.leadership.epoch == 1
    scene.lock.broken = True
    await soon(scene.duties.halted)
    assert scene.leadership.epoch is None
    scene.duties.begun.clear()
    scene.lock.broken = False
    await soon(scene.duties.begun)
    assert scene.leadership.epoch == 2
    assert scene.duties.trail == ["begin", "halt", "begin"]


async def test_a_confirmation_is_good_for_a_while_only(scene: Scene) -> None:
    """The database says nothing, neither yes nor no; or this process stood still."""
    await soon(scene.duties.begun)
    scene.lock.answers.clear()
    scene.now += 7.9
    scene.leadership.must_lead()
    scene.now += 0.2
    with pytest.raises(NotLeading):
        scene.leadership.must_lead()


async def test_what_cannot_begin_lets_others_try(scene: Scene) -> None:
    scene.duties.fails = True
    scene.lock.broken = True  # what it may have begun already ends
    await soon(scene.duties.halted)
    scene.lock.broken = False
    async with asyncio.timeout(60):
        while scene.lock.released < 2:
            await asyncio.sleep(0)
    assert scene.leadership.epoch is None


async def test_it_lets_go_at_its_end(scene: Scene) -> None:
    await soon(scene.duties.begun)
    scene.task.cancel()
    await asyncio.gather(scene.task, return_exceptions=True)
    assert scene.lock.released == 1
    assert scene.duties.trail == ["begin", "halt"]


async def test_alone() -> None:
    duties = Duties()
    leadership = Leadership(None, duties)
    with pytest.raises(NotLeading):
        leadership.must_lead()
    await leadership.alone()
    leadership.must_lead()


async def test_nothing_is_changed_outside_by_one_that_does_not_lead() -> None:
    leads = True

    def must_lead() -> None:
        if not leads:
            raise NotLeading("Another hub leads by now.")

    cluster = MemoryCluster(Clock())
    guarded = GuardedTransport(MemoryTransport(cluster), must_lead)
    await guarded.put("/f", b"x", "ann")
    await guarded.run(Command(("submit", "bh-x", "ann")))
    leads = False
    for work in (
        guarded.run(Command(("cancel", "101"))),
        guarded.put("/f", b"y", "ann"),
        guarded.make_directory("/d", "ann"),
    ):
        with pytest.raises(NotLeading):
            await work
    assert (await guarded.get("/f", "ann"), cluster.calls) == (b"x", ["submit"])
