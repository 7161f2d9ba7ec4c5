"""Who may dial in at the proxy, over a server's life: with the control plane on a real database and a proxy in memory."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchhub.core.errors import SubmitRejected, Unreachable
from batchhub.core.model import JobState, Phase
from tests.control.memory import Clock, MemoryCluster, MemoryRoutes
from tests.control.test_reconciler import ALICE, FORM, World, empty_database

__all__ = ["empty_database"]


@pytest.fixture
async def world(tmp_path: Path, empty_database: Path) -> AsyncIterator[World]:
    shutil.copy(empty_database, tmp_path / "hub.sqlite")
    clock = Clock()
    made = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), MemoryRoutes(), dials_in=True)
    await made.open()
    yield made
    await made.close()


def key(row, generation: int = 1) -> dict[str, str]:
    return {row.id: f"key-of-{row.id}-{generation}"}


async def test_announced_before_the_job_can_run_and_taken_back_at_its_end(world: World) -> None:
    announced: list[int] = []
    offer = world.routes.offer

    async def watched(server_id: str, public: str) -> None:
        announced.append(world.cluster.count("submit"))
        await offer(server_id, public)

    world.routes.offer = watched  # type: ignore[method-assign]
    row = await world.ready()
    assert announced == [0]
    assert world.routes.keys == key(row)
    await world.service.stop(ALICE, "", ALICE)
    await world.settle()
    assert world.routes.keys == key(row)
    await world.tick()
    assert (await world.tick()).phase is Phase.ENDED
    assert world.routes.keys == {}


async def test_without_the_proxy_nothing_is_submitted_yet(world: World) -> None:
    world.be_brief()
    world.routes.down = True
    await world.service.spawn(ALICE, "", "lab", FORM)
    await world.settle()
    assert world.cluster.count("submit") == 0
    assert (await world.row()).words == "The proxy does not answer."
    world.routes.down = False
    row = await world.tick(30)
    assert world.cluster.count("submit") == 1
    assert world.routes.keys == key(row)


@pytest.mark.parametrize("end", ["refused", "completed", "stopped while it waits"])
async def test_every_end_takes_it_back(world: World, end: str) -> None:
    if end == "refused":
        world.cluster.refuse = "sbatch: error: Invalid account"
        with pytest.raises(SubmitRejected):
            await world.service.spawn(ALICE, "", "lab", FORM)
        await world.settle()
    else:
        await world.spawn()
        await world.tick()
        if end == "completed":
            world.cluster.end()
        else:
            await world.service.stop(ALICE, "", ALICE)
        for _ in range(3):
            await world.tick()
    assert (await world.row()).phase is Phase.ENDED
    assert world.routes.keys == {}


async def test_a_requeued_job_gets_a_new_key_and_the_old_one_ends(world: World) -> None:
    await world.ready()
    world.cluster.set(JobState.PENDING)
    row = await world.tick()
    assert row.generation == 2
    assert world.routes.keys == key(row, 2)


async def test_a_start_that_read_its_former_secrets_is_let_in(world: World) -> None:
    """The job was back on a node before its secrets could be renewed: it says which it read, and its key is good again."""
    await world.ready()
    world.cluster.set(JobState.PENDING)
    row = await world.tick()
    world.cluster.run("n2")
    world.routes.blocked = True
    row = await world.tick()
    assert world.routes.keys == key(row, 2), "the file of its former start brings that one's key back"
    world.cluster.listen(row, generation=1)
    row = await world.tick(31)
    assert world.routes.keys == key(row, 1)
    world.routes.blocked = False
    row = await world.tick()
    assert (row.phase, row.generation) == (Phase.READY, 1)
    await world.reconciler.verify_routes()
    assert world.routes.keys == key(row, 1)


async def test_what_the_proxy_lost_is_announced_again_and_what_nobody_wants_is_taken_back(world: World) -> None:
    row = await world.ready()
    world.routes.keys = {"deadserver22": "some key"}
    await world.reconciler.verify_routes()
    assert world.routes.keys == key(row)
    await world.restart()
    world.routes.keys = {row.id: "a wrong key"}
    await world.reconciler.verify_routes()
    assert world.routes.keys == key(row)


async def test_an_end_that_the_proxy_did_not_hear_of_is_made_good(world: World) -> None:
    row = await world.ready()
    world.cluster.end()
    world.routes.down = True
    for _ in range(3):
        await world.tick()
    assert (await world.row()).phase is Phase.ENDED
    assert world.routes.keys == key(row)
    with pytest.raises(Unreachable):
        await world.reconciler.verify_routes()
    world.routes.down = False
    await world.reconciler.verify_routes()
    assert world.routes.keys == {}


async def test_where_no_jobs_dial_in_the_proxy_is_asked_nothing(tmp_path: Path, empty_database: Path) -> None:
    """It may be one that knows nothing of offers."""

    class Plain(MemoryRoutes):
        async def offer(self, server_id: str, key: str) -> None:
            raise AssertionError

        withdraw_offer = offer  # type: ignore[assignment]

        async def offers(self) -> dict[str, str]:
            raise AssertionError

    shutil.copy(empty_database, tmp_path / "hub.sqlite")
    clock = Clock()
    world = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), Plain())
    await world.open()
    await world.ready()
    await world.reconciler.verify_routes()
    world.cluster.end()
    for _ in range(3):
        await world.tick()
    assert (await world.row()).phase is Phase.ENDED
    await world.close()
