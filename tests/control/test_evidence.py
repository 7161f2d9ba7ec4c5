"""The trail of a server's life, as the control plane leaves it in a real database, and what of it is handed to pages."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchhub.control import evidence
from batchhub.core.errors import BadInput, Denied, NotFound, Unreachable
from batchhub.core.model import JobState, Phase, ServerId, UserName
from batchhub.store import schema
from tests.control.memory import Clock, MemoryCluster, MemoryRoutes
from tests.control.test_reconciler import ALICE, World

Line = tuple[str, str, str, str]


@pytest.fixture(scope="module")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evidence") / "hub.sqlite"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def world(tmp_path: Path, made_database: Path) -> AsyncIterator[World]:
    shutil.copy(made_database, tmp_path / "hub.sqlite")
    clock = Clock()
    made = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), MemoryRoutes())
    await made.open()
    yield made
    await made.close()


async def trail(world: World) -> list[Line]:
    row = await world.row()
    return [(event.kind, event.by, event.seen, event.done) for event in await world.store.events_of(row.id, 5000)]


async def test_every_step_of_a_life_is_a_line(world: World) -> None:
    await world.ready()
    world.cluster.end(JobState.TIMEOUT, exit_code=0, signal=15)
    await world.tick()
    assert (await world.tick()).phase is Phase.ENDED
    assert await trail(world) == [
        ("requested", "alice", "", ""),
        ("submit", "hub", "new", "submit"),
        ("submitted", "scheduler", "accepted", ""),
        ("phase", "scheduler", "running: PENDING (Priority) on n1", "reach"),
        ("answered", "hub", "answers with HTTP 200 on n1", "reach"),
        ("phase", "hub", "answering: PENDING (Priority) on n1", "publish"),
        ("phase", "scheduler", "finished: TIMEOUT (Priority) on n1, exit code 0, signal 15", "withdraw, collect"),
    ]


async def test_a_stop_says_by_whom(world: World) -> None:
    await world.ready()
    await world.service.stop(ALICE, "", UserName("root"))
    await world.settle()
    await world.tick()
    await world.tick()
    lines = await trail(world)
    assert [line[:2] for line in lines[6:9]] == [("stop", "root"), ("phase", "hub"), ("cancel", "hub")]
    assert lines[7][3] == "withdraw, tell, cancel"
    assert lines[-1][0:2] == ("phase", "scheduler")


async def test_a_refusal_is_the_schedulers(world: World) -> None:
    world.cluster.refuse = "sbatch: error: Invalid account"
    with pytest.raises(Exception, match="Invalid account"):
        await world.spawn()
    await world.settle()
    assert (await trail(world))[2:] == [("refused", "scheduler", "refused", ""), ("phase", "hub", "refused", "")]


async def test_a_cancel_refused_for_a_day_is_a_handful_of_lines(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_done: object) -> None:
        raise Denied("scancel: error: Kill job error on job id 101: Access denied")

    await world.ready()
    monkeypatch.setattr(world.cluster, "read_cancel", denied)
    monkeypatch.setattr(world.cluster, "end", lambda _state: None)
    await world.service.stop(ALICE, "", ALICE)
    await world.settle()
    for _ in range(300):
        await world.tick(288)
    lines = await trail(world)
    assert world.cluster.count("cancel") >= 300
    assert [kind for kind, *_ in lines[7:]] == ["phase", *["cancel", "cancel failed"] * 3]
    monkeypatch.undo()
    await world.tick(288)
    await world.tick()
    await world.tick()
    assert [kind for kind, *_ in await trail(world)][14:] == ["cancel worked", "phase"]


async def test_a_proxy_that_is_away_for_an_hour(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    world.cluster.listen(await world.tick())
    world.routes.down = True
    for _ in range(150):
        world.reconciler.look([(await world.row()).id])
        await world.settle()
        world.clock.move(24)
    world.routes.down = False
    world.reconciler.look([(await world.row()).id])
    await world.settle()
    assert (await world.row()).phase is Phase.READY
    kinds = [kind for kind, *_ in await trail(world)][4:]
    assert kinds == ["reach failed"] * 3 + ["answered", "reach worked", "phase"]


async def test_a_job_directory_that_cannot_be_made(world: World) -> None:
    world.cluster.down = True
    world.be_brief()
    row = await world.spawn()
    world.cluster.down = False
    world.reconciler.look([row.id])
    await world.settle()
    assert [line[0] for line in await trail(world)] == [
        "requested",
        "prepare failed",
        "prepare worked",
        "submit",
        "submitted",
    ]


@pytest.mark.parametrize("tries", [5, 40])
async def test_a_log_that_cannot_be_read_leaves_nothing_behind(world: World, tries: int) -> None:
    row = await world.ready()
    world.cluster.end(JobState.FAILED)
    launcher = world.reconciler._clusters["hpc"].launcher
    read, count = launcher._transport.get, 0

    async def away(path: str, user: str, limit: int = 65536) -> bytes:
        nonlocal count
        count += 1
        if count < tries:
            raise Unreachable("The login node does not answer.")
        return await read(path, user, limit)

    launcher._transport.get = away  # type: ignore[method-assign]
    await world.tick()
    await world.tick()
    for _ in range(60):
        world.clock.move(300)
        world.reconciler.look([row.id])
        await world.settle()
    kinds = [kind for kind, *_ in await trail(world)]
    assert kinds.count("collect failed") == (1 if tries == 5 else 3), kinds
    assert kinds.count("collect worked") == (tries == 5)
    assert not world.reconciler._troubles._open


async def test_what_is_shown_of_a_run_and_of_the_ones_before(world: World) -> None:
    first = await world.ready()
    world.cluster.end(JobState.COMPLETED)
    await world.tick()
    first = await world.tick()
    world.clock.move(60)
    second = await world.spawn()
    shown = await world.service.history(ALICE, "")
    view, found = shown.view, shown.evidence
    assert [run.server.id for run in shown.runs] == [second.id, first.id]
    assert (view.server.id, found.newest, [run.id for run in found.runs]) == (second.id, True, [second.id, first.id])
    assert [what for what, _ in found.steps] == ["Requested", "Submitted"]
    assert not found.cut
    shown = await world.service.history(ALICE, "", first.id)
    view, found = shown.view, shown.evidence
    assert (view.server.id, found.newest) == (first.id, False)
    assert [what for what, _ in found.steps] == ["Requested", "Submitted", "Started", "Answered", "Ended"]
    assert sorted(at for _, at in found.steps) == [at for _, at in found.steps]


async def test_a_run_is_shown_under_its_own_server_alone(world: World) -> None:
    row = await world.spawn()
    for user, name in (("bob", ""), ("alice", "other")):
        with pytest.raises(NotFound):
            await world.service.history(UserName(user), name)
    await world.store.add_server(
        type(row)(ServerId("bbbbbbbbbbbb"), UserName("bob"), "", "hpc", "lab", "bob", row.created, row.created)
    )
    with pytest.raises(NotFound):
        await world.service.history(UserName("bob"), "", row.id)
    with pytest.raises(BadInput):
        await world.service.history(ALICE, "", "../../etc")


async def test_a_very_long_trail_is_cut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_EVENTS", 3)
    row = await world.spawn()
    await world.store.add_event(row.id, "note", "the fourth")
    found = (await world.service.history(ALICE, "")).evidence
    assert found.cut
    assert [event.kind for event in found.events] == ["submit", "submitted", "note"]
