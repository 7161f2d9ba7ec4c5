"""What hubs on one database hear of each other, over a real database that both have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from batchhub.control.company import Company, Notes
from batchhub.control.knowledge import Knowledge
from batchhub.control.poller import Poller, PollerSettings
from batchhub.core.model import JobState, Server, ServerId, UserName, new_server_id
from batchhub.store.store import Store
from batchhub.store.values import News
from tests.control.memory import Clock, MemoryCluster, MemoryTransport


@dataclass
class Hub:
    """The parts of a hub that this is about."""

    store: Store
    cluster: MemoryCluster
    clock: Clock
    leads: bool
    told: list[str] = field(default_factory=list)
    heeded: set[ServerId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pollers: dict[str, Poller] = {}
        self.notes = Notes(self.store, self.pollers, self.clock)
        self.poller = Poller(
            cluster="hpc",
            transport=MemoryTransport(self.cluster),
            dialect=self.cluster,
            store=self.store,
            clock=self.clock,
            settings=PollerSettings(),
            observed=self.notes.note,
        )
        self.pollers["hpc"] = self.poller
        self.knowledge = Knowledge(self.pollers, self.store)
        self.company = Company(
            store=self.store,
            pollers=self.pollers,
            leads=lambda: self.leads,
            tell=lambda *keys: self.told.extend(keys),
            heed=self.heeded.update,
            clock=self.clock,
        )


@dataclass
class Scene:
    leader: Hub
    follower: Hub
    cluster: MemoryCluster
    clock: Clock
    store: Store

    async def running(self) -> Server:
        now = self.clock()
        row = Server(new_server_id(), UserName("ann"), "", "hpc", "lab", "ann", now, now)
        await self.store.add_server(row)
        await MemoryTransport(self.cluster).run(self.cluster.submit(_Request(row.job_name, "ann")))
        (job,) = self.cluster.jobs
        return await self.store.update(row.id, lambda it: replace(it, job_id=job, submit_tried=now), kind="submitted")


@dataclass
class _Request:
    name: str
    user: str
    script: str = ""
    directory: str = ""


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock = Clock()
    store = Store(f"sqlite:///{tmp_path}/hub.sqlite", clock=clock)
    await store.open()
    cluster = MemoryCluster(clock)
    yield Scene(Hub(store, cluster, clock, True), Hub(store, cluster, clock, False), cluster, clock, store)
    await store.close()


async def test_the_followers_pages_know_what_the_leader_sees(scene: Scene) -> None:
    row = await scene.running()
    leader, follower = scene.leader, scene.follower
    await leader.poller.tick()
    await leader.notes.write()
    (known,) = await follower.knowledge.of([row])
    assert known.seen == leader.poller.last_good(row.id)
    assert known.silent_since is None

    scene.cluster.down = True
    scene.clock.move(20)
    await leader.poller.tick()
    await leader.notes.write()
    (silent,) = await follower.knowledge.of([row])
    assert (silent.seen, silent.silent_since) == (known.seen, scene.clock())
    assert "silent since" in (await follower.knowledge.silences())["hpc"]
    # The leader after a restart knows as much, before it has looked.
    again = Hub(scene.store, scene.cluster, scene.clock, True)
    assert await again.knowledge.of([row]) == [silent]


async def test_only_what_changed_for_people_is_written(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.running()
    written: list[int] = []
    save = scene.store.save_sightings

    async def counted(seen: dict) -> None:
        written.append(len(seen))
        await save(seen)

    monkeypatch.setattr(scene.store, "save_sightings", counted)
    for _ in range(5):
        scene.clock.move(20)
        await scene.leader.poller.tick()
        await scene.leader.notes.write()
    assert written == [1]
    scene.cluster.set(JobState.PENDING, reason="Resources")
    await scene.leader.poller.tick()
    await scene.leader.notes.write()
    assert written == [1, 1]


async def test_wishes_reach_the_leader_and_steps_reach_the_pages(scene: Scene) -> None:
    leader, follower = scene.leader, scene.follower
    for hub in (leader, follower):
        await hub.company.listen()
    row = await scene.running()
    for hub in (leader, follower):
        await hub.company.listen()
        assert set(hub.told) == {row.id, "ann"}
        hub.told.clear()
        await hub.company.listen()
        assert hub.told == [], "each word once"
    assert leader.heeded == {row.id}
    assert follower.heeded == set()
    leader.heeded.clear()
    await scene.store.update(row.id, lambda it: replace(it, host="n1"), kind="phase")
    await leader.company.listen()
    assert leader.heeded == set(), "its own steps are no wishes"


async def test_an_event_whose_transaction_ended_late_is_heard(scene: Scene) -> None:
    events = [News(5, ServerId("a" * 12), UserName("ann"), "ann")]

    class Late:
        async def newest_event(self) -> int:
            return 4

        async def news(self, after: int, limit: int = 500) -> list[News]:
            return sorted((item for item in events if item.id > after), key=lambda item: item.id)[:limit]

    hub = scene.leader
    hub.company._store = Late()
    await hub.company.listen()
    await hub.company.listen()
    events += [News(8, ServerId("c" * 12), UserName("cat"), "cat")]
    await hub.company.listen()
    events += [News(7, ServerId("b" * 12), UserName("bob"), "bob")]
    await hub.company.listen()
    assert hub.heeded == {"a" * 12, "b" * 12, "c" * 12}
    assert hub.told.count("bob") == 1


async def test_the_leader_asks_often_while_somebody_waits_before_another_hubs_page(scene: Scene) -> None:
    leader, follower = scene.leader, scene.follower
    await leader.company.attend()
    assert not leader.poller.watched
    follower.poller.watch(+1)
    await follower.company.attend()
    await leader.company.attend()
    assert leader.poller.watched
    follower.poller.watch(-1)
    scene.clock.move(10)
    await follower.company.attend()
    await leader.company.attend()
    assert not leader.poller.watched
