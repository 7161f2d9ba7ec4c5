"""Old job directories go, a bounded number at a time; what cannot go is left alone for a while."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchhub.control.retention import Retention, RetentionSettings
from batchhub.control.walltime import Watched
from batchhub.core.errors import Denied, Unreachable
from batchhub.core.model import Phase, Server, UserName, new_server_id
from batchhub.store import schema
from batchhub.store.store import Store
from tests.control.memory import T0, Clock, MemoryCluster, MemoryTransport

DAY = timedelta(days=1)


class World:
    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.cluster = MemoryCluster(clock)
        self.poller = SimpleNamespace(silent_since=None)

    def keeper(self, **settings: object) -> Retention:
        watched = {"hpc": Watched(self.poller, MemoryTransport(self.cluster))}  # type: ignore[arg-type]
        return Retention(watched, self.store, self.clock, RetentionSettings(**settings))  # type: ignore[arg-type]

    async def ended(self, user: str, days_ago: float, **more: object) -> Server:
        at = self.clock() - days_ago * DAY
        row = Server(new_server_id(), UserName(user), "", "hpc", "lab", f"{user}-hpc", at, at)
        row = replace(row, directory=f"/home/{user}/.batchhub/jobs/{row.id}")
        row = replace(row, phase=Phase.ENDED, ended=at, log_tail="the log", **more)  # type: ignore[arg-type]
        return await self.store.add_server(row)

    def gone(self) -> set[str]:
        return {path for path, _ in self.cluster.removed}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("db") / "empty.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def world(empty: Path, tmp_path: Path):
    path = tmp_path / "hub.db"
    shutil.copy(empty, path)
    clock = Clock()
    clock.now = T0 + 400 * DAY
    store = Store(f"sqlite:///{path}", clock=clock)
    await store.open()
    yield World(store, clock)
    await store.close()


async def test_the_newest_of_each_person_stay(world: World) -> None:
    ann = [await world.ended("ann", days) for days in (5, 4, 3, 2, 1)]
    bob = [await world.ended("bob", days) for days in (9, 8)]
    assert await world.keeper(newest=3).round("hpc") == 2
    assert world.gone() == {row.directory for row in ann[:2]}
    assert all(user == "ann-hpc" for _, user in world.cluster.removed)
    after = await world.store.server(ann[0].id)
    assert (after.directory, after.log_tail) == ("", "the log")
    assert (await world.store.server(bob[0].id)).directory
    assert await world.keeper(newest=3).round("hpc") == 0


async def test_old_ones_go_however_few_they_are(world: World) -> None:
    old, new = await world.ended("ann", 31), await world.ended("ann", 29)
    assert await world.keeper().round("hpc") == 1
    assert world.gone() == {old.directory}
    assert (await world.store.server(new.id)).directory


async def test_what_lives_or_ended_a_moment_ago_stays(world: World) -> None:
    await world.ended("ann", 0)
    live = await world.ended("bob", 50)
    await world.store.update(live.id, lambda row: replace(row, phase=Phase.READY))
    elsewhere = await world.ended("cat", 50)
    await world.store.update(elsewhere.id, lambda row: replace(row, cluster="other"))
    assert await world.keeper(newest=1, age=timedelta(seconds=1)).round("hpc") == 0
    assert world.cluster.removed == []


async def test_no_limit_keeps_all(world: World) -> None:
    for days in (300, 200):
        await world.ended("ann", days)
    assert await world.keeper(newest=0, age=timedelta(0)).round("hpc") == 0


async def test_a_silent_cluster_is_left_alone(world: World) -> None:
    await world.ended("ann", 50)
    world.poller.silent_since = world.clock()
    assert await world.keeper().round("hpc") == 0
    assert world.cluster.calls == []


async def test_one_that_cannot_go_holds_up_no_other_and_is_left_alone_longer_each_time(world: World) -> None:
    stuck, fine = await world.ended("ann", 50), await world.ended("bob", 50)
    world.cluster.stuck[stuck.id] = Denied("It cannot be removed.")
    keeper = world.keeper()
    assert await keeper.round("hpc") == 1
    assert world.gone() == {fine.directory}
    tried = []
    for _ in range(24 * 6):
        world.clock.move(600)
        before = world.cluster.count("remove")
        await keeper.round("hpc")
        tried.append(world.cluster.count("remove") - before)
    assert 4 <= sum(tried) <= 7  # 20 minutes, 40, 80 …: in a day
    world.cluster.stuck.clear()
    world.clock.move(2 * 86400)
    assert await keeper.round("hpc") == 1


async def test_a_node_that_is_away_is_asked_once_a_round(world: World) -> None:
    for user in ("ann", "bob", "cat", "dan"):
        row = await world.ended(user, 50)
        world.cluster.stuck[row.id] = Unreachable("The login node does not answer.")
    assert await world.keeper(together=1).round("hpc") == 0
    assert world.cluster.count("remove") == 1


async def test_a_round_is_bounded(world: World) -> None:
    for number in range(7):
        await world.ended(f"u{number}", 50)
    keeper = world.keeper(at_most=3)
    assert [await keeper.round("hpc") for _ in range(4)] == [3, 3, 1, 0]
