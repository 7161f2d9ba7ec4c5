"""How servers end: the application is told first, those that nobody uses are ended, and what is not known ends nothing."""

import asyncio
import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.control.culling import Culler, CullSettings
from batchhub.core.errors import Unreachable
from batchhub.core.idleness import EndLimits
from batchhub.core.model import JobState, Outcome, Phase, Want
from batchhub.core.ports import NO_ANSWER, Answer, Use
from tests.control.memory import T0, Clock, MemoryCluster, MemoryRoutes
from tests.control.test_reconciler import ALICE, World
from tests.control.test_reconciler import empty_database as empty_database  # noqa: PLC0414 - a fixture

SHUTDOWN = "/user/alice/api/shutdown"
KERNELS, TERMINALS = "/user/alice/api/kernels", "/user/alice/api/terminals"
HOUR = timedelta(hours=1)


@pytest.fixture
async def world(tmp_path: Path, empty_database: Path):
    shutil.copy(empty_database, tmp_path / "hub.sqlite")
    clock = Clock()
    made = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), MemoryRoutes(), jupyter=True)
    await made.open()
    yield made
    await made.close()


async def stop(world: World):
    await world.service.stop(ALICE, "", ALICE)
    await world.settle()
    return await world.row()


# ---------------------------------------------------------------- the order of a stop


@pytest.mark.parametrize("said", [Answer(200), NO_ANSWER])
async def test_an_application_that_ends_when_told_needs_no_cancel(world: World, said: Answer) -> None:
    await world.ready()
    world.routes.answers[SHUTDOWN] = said
    row = await stop(world)
    assert (row.phase, row.told, row.cancel_tried) == (Phase.STOPPING, world.clock(), None)
    assert world.routes.asked == [f"POST {SHUTDOWN}"]
    assert world.routes.routes == {}
    assert "asked to end" in (await world.service.server(ALICE, "")).status.sentence
    assert (await world.tick()).phase is Phase.STOPPING
    world.cluster.end(JobState.COMPLETED, exit_code=0)
    await world.tick()
    row = await world.tick()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.STOPPED)
    assert world.cluster.count("cancel") == 0
    assert len(world.routes.asked) == 1, "it is told once"


async def test_one_that_does_not_end_is_cancelled_when_its_time_is_over(world: World) -> None:
    await world.ready()
    world.routes.answers[SHUTDOWN] = Answer(200)
    await stop(world)
    for _ in range(4):
        row = await world.tick(2.0)
        assert world.cluster.count("cancel") == 0
    row = await world.tick(2.0)
    assert world.cluster.count("cancel") == 1
    await world.tick()
    row = await world.tick()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.STOPPED)
    assert len(world.routes.asked) == 1


@pytest.mark.parametrize("fault", ["refused", "elsewhere", "blocked", "proxy down"])
async def test_one_that_cannot_be_told_is_cancelled_at_once(world: World, fault: str) -> None:
    await world.ready()
    world.routes.answers[SHUTDOWN] = Answer(302 if fault == "elsewhere" else 403)
    world.routes.blocked = fault == "blocked"
    world.routes.down = fault == "proxy down"
    row = await stop(world)
    assert row.told is None
    assert world.cluster.count("cancel") == 1
    await world.tick()
    assert (await world.tick()).outcome is Outcome.STOPPED


async def test_an_application_without_a_way_to_end_is_not_asked(world: World) -> None:
    await world.ready()
    world.builder.jupyter = False
    await stop(world)
    assert (world.routes.asked, world.cluster.count("cancel")) == ([], 1)


async def test_one_that_never_answered_is_cancelled_at_once(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    await world.tick()
    await stop(world)
    assert (world.routes.asked, world.cluster.count("cancel")) == ([], 1)


async def test_a_hub_that_dies_in_between_goes_on_where_it_was(world: World) -> None:
    await world.ready()
    world.routes.answers[SHUTDOWN] = Answer(200)
    await stop(world)
    await world.restart()
    await world.tick()
    assert (len(world.routes.asked), world.cluster.count("cancel")) == (1, 0)
    for _ in range(5):
        await world.tick()
    assert (len(world.routes.asked), world.cluster.count("cancel")) == (1, 1)


async def test_a_hub_that_dies_before_it_told_tells_after_all(world: World) -> None:
    row = await world.ready()
    world.routes.answers[SHUTDOWN] = Answer(200)
    await world.store.update(row.id, lambda row: replace(row, want=Want.DOWN, phase=Phase.STOPPING))
    await world.restart()
    await world.tick()
    assert (len(world.routes.asked), world.cluster.count("cancel")) == (1, 0)


async def test_the_hub_looks_again_by_itself_while_it_waits(world: World) -> None:
    """Without a tick of the slow clock in between, and at what the scheduler says then."""
    await world.ready()
    world.routes.answers[SHUTDOWN] = Answer(200)
    await stop(world)
    assert (await world.row()).id in world.reconciler._timers
    world.clock.move(11)
    async with asyncio.timeout(60):
        while not world.cluster.count("cancel"):
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------- culling


class Culling:
    """A culler over the world's parts; ``limits`` are every profile's."""

    def __init__(self, world: World, limits: EndLimits) -> None:
        self.world = world
        self.limits = limits

    async def round(self):
        world = self.world
        culler = Culler(
            store=world.store,
            routes=world.routes,
            builder=world.builder,
            limits=lambda _name: self.limits,
            look=world.reconciler.look,
            clock=world.clock,
            settings=CullSettings(),
        )
        await culler.round()
        await world.settle()
        return await world.row()


def kernels(world: World, *states: tuple[str, float]) -> None:
    """Jupyter's answers: kernels by state and hours since their last message; no terminals."""
    entries = [
        {"execution_state": state, "last_activity": (world.clock() - timedelta(hours=hours)).isoformat()}
        for state, hours in states
    ]
    world.routes.answers[KERNELS] = Answer(200, json.dumps(entries).encode())
    world.routes.answers[TERMINALS] = Answer(200, b"[]")


async def idle_for(world: World, hours: float) -> Culling:
    row = await world.ready()
    world.routes.uses["/user/alice/"] = Use(T0, T0, row.id)
    world.clock.move(hours * 3600)
    return Culling(world, EndLimits(idle=2 * HOUR))


async def test_an_idle_server_is_ended_with_the_reason(world: World) -> None:
    culling = await idle_for(world, 3)
    kernels(world, ("idle", 3.0))
    world.routes.uses["/user/alice/"] = Use(world.clock(), T0, (await world.row()).id)  # a page that is merely open
    row = await culling.round()
    assert row.want is Want.DOWN
    assert row.words == "Not used for 3h; servers of this kind are ended after 2h without use."
    events = await world.store.events_of(row.id)
    assert [(event.kind, event.by) for event in events if event.kind == "cull"] == [("cull", "hub")]
    assert f"POST {SHUTDOWN}" in world.routes.asked, "it is ended as any other"
    assert f"GET {KERNELS}?no_track_activity=1" in world.routes.asked
    for _ in range(3):
        row = await world.tick()
    view = await world.service.server(ALICE, "")
    assert (row.phase, view.status.sentence, view.status.detail) == (Phase.ENDED, "Stopped.", row.words)


async def test_a_silent_computation_is_not_idle(world: World) -> None:
    culling = await idle_for(world, 30)
    kernels(world, ("busy", 29.0), ("idle", 29.5))
    row = await culling.round()
    assert (row.want, row.active) == (Want.UP, world.clock())


@pytest.mark.parametrize("fault", ["proxy", "tunnel", "silence", "nonsense", "refusal", "no route", "another run's"])
async def test_what_cannot_be_asked_is_not_idle(world: World, fault: str) -> None:
    culling = await idle_for(world, 30)
    kernels(world, ("idle", 29.0))
    match fault:
        case "proxy":
            world.routes.down = True
        case "tunnel":
            world.routes.blocked = True
        case "silence":
            world.routes.answers[TERMINALS] = NO_ANSWER
        case "nonsense":
            world.routes.answers[KERNELS] = Answer(200, b"<html>")
        case "refusal":
            world.routes.answers[KERNELS] = Answer(403, b"[]")
        case "no route":
            world.routes.uses.clear()
        case _:
            world.routes.uses["/user/alice/"] = Use(T0, T0, "another")
    if fault == "proxy":
        with pytest.raises(Unreachable):
            await culling.round()
    else:
        assert (await culling.round()).want is Want.UP
    assert (await world.row()).active is None, "nor is it in use"


async def test_one_far_from_its_limit_is_not_asked(world: World) -> None:
    culling = await idle_for(world, 1.9)
    row = await culling.round()
    assert (row.want, world.routes.asked) == (Want.UP, [])
    row = await world.row()
    world.clock.move(3600)
    world.routes.uses["/user/alice/"] = Use(world.clock(), world.clock(), row.id)  # somebody saves a file
    assert (await culling.round()).active == world.clock()
    assert world.routes.asked == []


async def test_without_a_limit_nobody_is_asked_or_ended(world: World) -> None:
    culling = await idle_for(world, 1000)
    culling.limits = EndLimits()
    assert (await culling.round()).want is Want.UP
    assert world.routes.asked == []


async def test_of_other_applications_what_passes_the_proxy_counts(world: World) -> None:
    culling = await idle_for(world, 30)
    world.builder.jupyter = False
    world.routes.uses["/user/alice/"] = Use(world.clock(), T0, (await world.row()).id)
    assert (await culling.round()).want is Want.UP
    world.clock.move(7201)
    assert (await culling.round()).want is Want.DOWN
    assert world.routes.asked == []


async def test_after_a_restart_nothing_looks_idle_or_fresh(world: World) -> None:
    culling = await idle_for(world, 30)
    kernels(world, ("busy", 29.0))
    seen = (await culling.round()).active
    await world.restart()
    world.clock.move(3600)
    world.routes.uses["/user/alice/"] = Use(
        T0, T0, (await world.row()).id
    )  # the proxy was restarted, too, and knows less
    world.routes.asked.clear()
    assert (await culling.round()).active == seen
    assert world.routes.asked == [], "the row says enough"
    world.clock.move(3600)
    kernels(world, ("idle", 2.5))
    assert (await culling.round()).want is Want.DOWN, "the restart gave it no further time"


async def test_the_row_is_written_seldom(world: World) -> None:
    culling = await idle_for(world, 0.1)
    row_id, writes = (await world.row()).id, []
    update = world.store.update

    async def counted(*args, **more):
        writes.append(args)
        return await update(*args, **more)

    world.store.update = counted  # type: ignore[method-assign]
    for _ in range(120):
        world.clock.move(60)
        world.routes.uses["/user/alice/"] = Use(world.clock(), world.clock(), row_id)
        await culling.round()
    assert 4 <= len(writes) <= 5, "two hours of use, saved every half hour"


async def test_who_has_lived_long_enough_is_ended_even_if_the_proxy_is_away(world: World) -> None:
    culling = await idle_for(world, 11.9)
    culling.limits = EndLimits(lifetime=12 * HOUR)
    assert (await culling.round()).want is Want.UP
    world.clock.move(3600)
    world.routes.answers.clear()
    world.routes.down = True
    row = await culling.round()
    assert row.want is Want.DOWN
    assert row.words.startswith("Its job began 12h ago")


async def test_a_person_who_stops_it_meanwhile_is_not_overruled(world: World) -> None:
    culling = await idle_for(world, 30)
    kernels(world, ("idle", 29.0))
    ask = world.routes.ask

    async def slow(*args, **more):
        if more.get("method") != "POST":
            await world.service.stop(ALICE, "", ALICE)
        return await ask(*args, **more)

    world.routes.ask = slow  # type: ignore[method-assign]
    row = await culling.round()
    assert (row.want, row.words) == (Want.DOWN, "")
