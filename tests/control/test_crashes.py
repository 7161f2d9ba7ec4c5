"""The control plane is killed after every effect it has on the world, and started again: one job or none, as wanted, and the right route.

An effect is done and then its caller dies before it learns of it, as by SIGKILL; to die before an effect is to die after the one before.
What is kept is the database, the cluster and the proxy. The person tries again what the crash took from their hands.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.reconciler import Cluster, Reconciler, ReconcilerSettings
from batchhub.control.service import ClusterFacts, HubService, ServiceSettings
from batchhub.core.errors import TunnelError
from batchhub.core.forms import Field, FieldKind, Profile
from batchhub.core.model import JobState, Outcome, Phase, Server, UserName, Want
from batchhub.core.ports import RouteTarget
from batchhub.store.store import Store
from tests.control.memory import Clock, MemoryBuilder, MemoryCluster, MemoryRoutes, MemoryTransport

PROFILE = Profile(name="lab", cluster="hpc", fields=(Field("cores", FieldKind.NUMBER, "Cores", default=1),))
QUESTIONS = ("status", "accounting", "inspect", "find")


class Killed(BaseException):
    """The process is gone; nothing in it catches this."""


@dataclass
class Fuse:
    """Counts effects, and blows after the ``at``-th."""

    at: int = 0
    count: int = 0
    blown: bool = False
    names: list[str] = field(default_factory=list)

    def wire(self, inner: Any, *effects: str) -> Any:
        return Wired(inner, self, effects)

    async def guard(self, name: str, effect: Callable[..., Awaitable[Any]], *words: Any, **more: Any) -> Any:
        if self.blown:
            raise Killed
        answer = await effect(*words, **more)
        if name == "run" and words[0].argv[0] in QUESTIONS:
            return answer
        self.count += 1
        self.names.append(words[0].argv[0] if name == "run" else name)
        if self.count == self.at:
            self.blown = True
        if self.blown:
            raise Killed
        return answer


class Wired:
    """An object some of whose methods count."""

    def __init__(self, inner: Any, fuse: Fuse, effects: tuple[str, ...]) -> None:
        self._inner, self._fuse, self._effects = inner, fuse, effects

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._effects:
            return found
        return lambda *words, **more: self._fuse.guard(name, found, *words, **more)


@dataclass
class StrictRoutes(MemoryRoutes):
    """A proxy that reaches only the application that listens now, and only with that start's own secret."""

    listening: tuple[str, int, str] = ("", 0, "")

    async def probe(self, target: RouteTarget, path: str) -> int:
        host, port, nonce = self.listening
        if (target.endpoint.host, target.endpoint.port) != (host, port):
            raise TunnelError("Connection refused")
        return 200 if target.authorization.endswith(nonce) else 403


class Plane:
    """One life of the control plane."""

    def __init__(self, scene: "Scene", fuse: Fuse) -> None:
        transport = fuse.wire(MemoryTransport(scene.cluster), "run", "put", "make_directory")
        store = fuse.wire(scene.store, "update", "add_server")
        routes = fuse.wire(scene.routes, "publish", "withdraw", "probe")
        builder, broadcast = MemoryBuilder(), Broadcast()
        self.poller = Poller(
            cluster="hpc",
            transport=transport,
            dialect=scene.cluster,
            store=store,
            clock=scene.clock,
            settings=PollerSettings(),
            observed=self._observed,
        )
        self.reconciler = Reconciler(
            clusters={"hpc": Cluster(self.poller, Launcher(transport, scene.cluster, builder))},
            store=store,
            routes=routes,
            builder=builder,
            broadcast=broadcast,
            clock=scene.clock,
            settings=ReconcilerSettings(),
        )
        self.service = HubService(
            profiles=[PROFILE],
            clusters={"hpc": ClusterFacts("HPC", self.poller, str)},
            store=store,
            reconciler=self.reconciler,
            builder=builder,
            broadcast=broadcast,
            clock=scene.clock,
            checks={},
            settings=ServiceSettings(first_word=0.001),
        )

    def _observed(self, rows: Sequence[Server]) -> None:
        self.reconciler.consider(rows)

    async def settle(self) -> None:
        for _ in range(4000):
            if not self.reconciler._busy and not self.reconciler._again:
                return
            await asyncio.sleep(0.001)
        pytest.fail("the reconciler does not come to rest")


@dataclass
class Scene:
    """The world around it, and a person in it."""

    store: Store
    clock: Clock
    user: UserName
    fuse: Fuse
    cluster: MemoryCluster = field(init=False)
    routes: StrictRoutes = field(default_factory=StrictRoutes)
    crashes: int = 0

    async def open(self) -> None:
        self.cluster = MemoryCluster(self.clock)
        self.plane = Plane(self, self.fuse)

    async def row(self) -> Server | None:
        return await self.store.current_server(self.user, "")

    async def step(self, wish: Callable[[], Awaitable[Any]]) -> Server | None:
        """A moment in which the person does what they wish, the cluster is asked and the proxy's routes are compared."""
        self.clock.move(15)
        try:
            if self.fuse.blown and self.crashes == 0:
                raise Killed
            await wish()
            await self.plane.settle()
            await self.plane.poller.tick()
            await self.plane.settle()
            await self.plane.reconciler.verify_routes()
            await self.plane.settle()
        except Killed:
            await self.plane.reconciler.close()
            self.crashes += 1
            self.plane = Plane(self, Fuse())
            await self.plane.reconciler.verify_routes()
            self.plane.reconciler.consider(await self.store.live_servers())
            await self.plane.settle()
        return await self.row()

    async def until(self, done: Callable[[Server | None], bool], wish: Callable[[], Awaitable[Any]]) -> Server:
        for _ in range(20):
            row = await self.step(wish)
            assert len(self.cluster.jobs) <= 1
            if done(row):
                assert row is not None
                return row
        pytest.fail(f"not reached: {row}, {self.cluster.jobs}, {self.routes.routes}")

    # what the person and the cluster do, whatever the hub knows

    async def start(self) -> None:
        row = await self.row()
        if row is None:
            await self.plane.service.spawn(self.user, "", "lab", {"cores": ["1"]})
        self.go_on("n1", 4711, "a" * 32)

    async def elsewhere(self) -> None:
        self.go_on("n2", 4712, "b" * 32)

    async def stop(self) -> None:
        row = await self.row()
        if row is not None and row.want is Want.UP:
            await self.plane.service.stop(self.user, "", self.user)

    def go_on(self, host: str, port: int, nonce: str) -> None:
        """A waiting job gets its node; one that has it listens there."""
        for job in self.cluster.jobs.values():
            directory = f"/home/{self.user}/.batchhub/jobs/{job.name.removeprefix('bh-')}"
            if job.report.state is JobState.PENDING:
                self.cluster.run(host)
            elif f"{directory}/secrets.json" in self.cluster.files:
                self.cluster.listen(_in(directory), port, nonce=nonce)
                self.routes.listening = (host, port, nonce)

    def has_the_right_route(self, row: Server | None, port: int) -> bool:
        ready = row is not None and row.phase is Phase.READY and row.endpoint is not None and row.endpoint.port == port
        return ready and self.routes.routes == {row.path: MemoryBuilder().route(row)}


@dataclass
class _in:  # noqa: N801 - stands in for a row, of which only this is asked
    directory: str


async def the_whole_life(scene: Scene) -> None:
    """Start, be put back in the queue, start elsewhere, stop."""
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    assert row.nonce == "a" * 32
    scene.cluster.set(JobState.PENDING)
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    assert (row.nonce, row.host) == ("b" * 32, "n2")
    assert scene.cluster.count("cancel") == 0
    row = await scene.until(lambda row: row is not None and row.phase is Phase.ENDED, scene.stop)
    await scene.plane.reconciler.verify_routes()
    assert (scene.cluster.jobs, scene.routes.routes) == ({}, {})
    assert row.outcome is Outcome.STOPPED
    assert scene.cluster.next_id == 101  # one job was ever made


async def a_stop_at_once(scene: Scene) -> None:
    """Asked for, and not wanted any more before anything came of it."""

    async def wish() -> None:
        if await scene.row() is None:
            await scene.plane.service.spawn(scene.user, "", "lab", {"cores": ["1"]})
            await scene.plane.settle()
        await scene.stop()

    await scene.until(lambda row: row is not None and row.phase is Phase.ENDED, wish)
    for _ in range(4):
        await scene.step(scene.stop)
    assert (scene.cluster.jobs, scene.routes.routes) == ({}, {})
    assert scene.cluster.next_id <= 101


async def a_restart_of_the_job_that_nobody_saw(scene: Scene) -> None:
    """The job runs anew, on another node, between two looks."""
    await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.clock.move(60)
    scene.cluster.run("n2")
    await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    assert scene.cluster.count("cancel") == 0
    await scene.until(lambda row: row is not None and row.phase is Phase.ENDED, scene.stop)
    assert scene.cluster.next_id == 101


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[tuple[Store, Clock]]:
    clock = Clock()
    made = Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", clock=clock)
    await made.open()
    yield made, clock
    await made.close()


@pytest.mark.parametrize("life", [the_whole_life, a_stop_at_once, a_restart_of_the_job_that_nobody_saw])
async def test_killed_after_every_effect(store: tuple[Store, Clock], life: Callable[[Scene], Awaitable[None]]) -> None:
    kept, clock = store
    names: list[str] = []
    at = 0
    while True:
        fuse = Fuse(at)
        scene = Scene(kept, clock, UserName(f"u{at}"), fuse)
        await scene.open()
        try:
            await life(scene)
        except BaseException as error:
            error.add_note(f"killed after effect {at}: {fuse.names}")
            raise
        finally:
            await scene.plane.reconciler.close()
        if at and not fuse.blown:
            break
        names = names or fuse.names
        at += 1
    assert {"add_server", "update", "submit", "cancel"} <= set(names)
    assert at > len(set(names))


async def test_twice_in_a_row(store: tuple[Store, Clock]) -> None:
    """The second crash comes while the first one's remains are cleared away."""
    kept, clock = store
    for at in range(1, 30, 4):
        scene = Scene(kept, clock, UserName(f"v{at}"), Fuse(at))
        await scene.open()
        await scene.until(lambda row, scene=scene: scene.has_the_right_route(row, 4711), scene.start)
        await scene.plane.reconciler.close()
        scene.cluster.set(JobState.PENDING)
        for second in range(1, 8, 2):
            scene.fuse, scene.crashes = Fuse(second), 0
            scene.plane = Plane(scene, scene.fuse)
            await scene.until(
                lambda row, scene=scene: scene.has_the_right_route(row, 4712) and not scene.cluster.count("cancel"),
                scene.elsewhere,
            )
            await scene.plane.reconciler.close()
        row = await scene.row()
        assert row is not None
        await kept.update(row.id, lambda current: replace(current, phase=Phase.ENDED))
