"""The proxy lost its routes, all or some: they come back one after the other, never a thousand at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.reconciler import Cluster, Reconciler, ReconcilerSettings
from batchhub.core.model import (
    Endpoint,
    JobId,
    JobReport,
    JobState,
    Phase,
    Server,
    ServerId,
    UserName,
)
from batchhub.core.ports import RouteTarget
from batchhub.store.store import Store
from tests.control.memory import T0, Clock, Job, MemoryBuilder, MemoryCluster, MemoryRoutes, MemoryTransport

SERVERS, WORKERS = 1000, 16


@dataclass
class CountingRoutes(MemoryRoutes):
    """A proxy that answers each request a moment later, and counts how many wait for it."""

    now: int = 0
    most: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    probes: int = 0

    async def publish(self, target: RouteTarget) -> None:
        async with asyncio.timeout(60):
            self.now += 1
            self.most = max(self.most, self.now)
            self.asked[target.path] += 1
            for _ in range(3):
                await asyncio.sleep(0)
            self.now -= 1
        await super().publish(target)

    async def offer(self, server_id: str, key: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        await super().offer(server_id, key)

    async def probe(self, target: RouteTarget, path: str) -> int:
        self.probes += 1
        return await super().probe(target, path)


class House:
    """A thousand servers that run, and the proxy before them."""

    def __init__(self, store: Store, clock: Clock, *, dials_in: bool) -> None:
        self.store = store
        self.routes = CountingRoutes()
        cluster, builder = MemoryCluster(clock), MemoryBuilder(dials_in=dials_in)
        self.cluster, self.builder = cluster, builder
        transport = MemoryTransport(cluster)
        self.poller = Poller(
            cluster="hpc",
            transport=transport,
            dialect=cluster,
            store=store,
            clock=clock,
            settings=PollerSettings(),
            observed=self._observed,
        )
        self.reconciler = Reconciler(
            clusters={"hpc": Cluster(self.poller, Launcher(transport, cluster, builder))},
            store=store,
            routes=self.routes,
            builder=builder,
            broadcast=Broadcast(),
            clock=clock,
            settings=ReconcilerSettings(workers=WORKERS),
        )

    def _observed(self, rows: Sequence[Server]) -> None:
        self.reconciler.consider(rows)

    async def fill(self) -> None:
        for number in range(SERVERS):
            name = "".join("abcdefghij"[int(digit)] for digit in f"{number:012d}")
            row = Server(ServerId(name), UserName(f"u{number}"), "", "hpc", "lab", f"u{number}", T0, T0)
            ready = replace(
                row,
                phase=Phase.READY,
                job_id=JobId(str(number + 1)),
                submit_tried=T0,
                host="n1",
                started=T0,
                answered=T0,
                endpoint=Endpoint("n1", 1024 + number),
            )
            await self.store.add_server(ready)
            report = JobReport(JobId(str(number + 1)), JobState.RUNNING, user=row.account, host="n1", started=T0)
            self.cluster.jobs[report.id] = Job(report, row.job_name, row.account)
        await self.poller.tick()
        await self.rest()
        self.cluster.calls.clear()

    async def verify(self) -> None:
        await self.reconciler.verify_routes()
        await self.rest()

    async def rest(self) -> None:
        for _ in range(200_000):
            if not self.reconciler._busy:
                return
            await asyncio.sleep(0.001)
        pytest.fail("it does not come to rest")


@pytest.fixture(params=[False, True], ids=["dialled", "dialling in"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    clock = Clock()
    store = Store("sqlite://", clock=clock)
    await store.open()
    made = House(store, clock, dials_in=request.param)
    await made.fill()
    yield made
    await made.reconciler.close()
    await store.close()


async def test_a_proxy_that_lost_all_gets_each_route_once_and_a_few_at_a_time(house: House) -> None:
    await house.verify()
    assert len(house.routes.routes) == SERVERS
    # It is killed, and its journal is gone.
    house.routes.routes.clear()
    house.routes.keys.clear()
    house.routes.asked.clear()
    house.routes.most = 0
    await house.verify()
    assert len(house.routes.routes) == SERVERS
    assert set(house.routes.asked.values()) == {1}, "each once"
    assert list(house.routes.asked) == [row.path for row in await house.store.live_servers()], "the oldest first"
    assert 1 < house.routes.most <= WORKERS
    assert len(house.routes.keys) == (SERVERS if house.builder.dials_in else 0)
    assert house.routes.probes == 0, "no tunnel is opened for it"
    assert house.cluster.calls == [], "the scheduler is asked nothing"


async def test_a_proxy_that_kept_its_journal_is_told_nothing(house: House) -> None:
    await house.verify()
    house.routes.asked.clear()
    await house.verify()
    assert house.routes.asked == Counter()
    # One is missing, one is somebody's of long ago.
    lost = house.routes.routes.pop("/user/u7/")
    house.routes.routes["/user/gone/"] = replace(lost, path="/user/gone/", server_id="zzzzzzzzzzzz")
    await house.verify()
    assert house.routes.asked == Counter({"/user/u7/": 1})
    assert len(house.routes.routes) == SERVERS
