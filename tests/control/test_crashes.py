"""The control plane is killed after every effect it has on the world, and started again: one job or none, as wanted, and the right route.

Every flow is lived through once for each of its effects, in three ways. *done*: the effect is done and its caller dies before it learns of
it, as by SIGKILL; to die before an effect is to die after the one before. *late*: the caller dies while the effect is on its way, and it is
done two moments after the restart, as by a command on the login node that nobody waits for any more. *twice*: done, and the process
that recovers from it is killed as well. What is kept is the database, the cluster and the proxy. The person tries again what the crash
took from their hands.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.reconciler import Cluster, Reconciler, ReconcilerSettings
from batchhub.control.service import ClusterFacts, HubService, ServiceSettings
from batchhub.core.errors import SubmitRejected, TunnelError
from batchhub.core.forms import Field, FieldKind, Profile
from batchhub.core.lifecycle import Limits
from batchhub.core.model import JobState, Outcome, Phase, Server, UserName, Want
from batchhub.core.ports import Answer, RouteTarget
from batchhub.store.store import Store
from tests.control.memory import Clock, MemoryBuilder, MemoryCluster, MemoryRoutes, MemoryTransport

PROFILE = Profile(name="lab", cluster="hpc", fields=(Field("cores", FieldKind.NUMBER, "Cores", default=1),))
QUESTIONS = ("status", "accounting", "inspect", "find")


class Killed(BaseException):
    """The process is gone; nothing in it catches this."""


LATE = frozenset({"submit", "cancel", "put", "publish", "withdraw", "offer", "withdraw_offer", "ask"})
"""What another machine or process may still do after the hub has died. A transaction of the database is not of them."""


@dataclass
class Fuse:
    """Counts effects, and blows at the ``at``-th: after it, or before it if it is to come ``late``."""

    at: int = 0
    late: bool = False
    count: int = 0
    blown: bool = False
    names: list[str] = field(default_factory=list)
    on_its_way: Callable[[], Awaitable[Any]] | None = None

    def wire(self, inner: Any, *effects: str) -> Any:
        return Wired(inner, self, effects)

    async def guard(self, name: str, effect: Callable[..., Awaitable[Any]], *words: Any, **more: Any) -> Any:
        if self.blown:
            raise Killed
        what = words[0].argv[0] if name == "run" else name
        if what in QUESTIONS:
            return await effect(*words, **more)
        self.count += 1
        self.names.append(what)
        self.blown = self.count == self.at
        if self.blown and self.late and what in LATE:
            self.on_its_way = lambda: effect(*words, **more)
            raise Killed
        answer = await effect(*words, **more)
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
        routes = fuse.wire(scene.routes, "publish", "withdraw", "probe", "offer", "withdraw_offer", "ask")
        builder, broadcast = scene.builder, Broadcast()
        self._scene = scene
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
            settings=ReconcilerSettings(limits=Limits(start_timeout=scene.patience)),
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

    async def start(self) -> None:
        """As a hub that starts does."""
        await self.reconciler.verify_routes()
        self.reconciler.consider(await self._scene.store.live_servers())
        await self.reconciler.collect_again()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20_000):
            if not self.reconciler._busy and not self.reconciler._again:
                return
            await asyncio.sleep(0.0005)
        pytest.fail("the reconciler does not come to rest")

    def pass_time(self) -> None:
        """What was to be looked at later is looked at now."""
        for server_id in list(self.reconciler._timers):
            self.reconciler._timers[server_id].cancel()
            self.reconciler._due(server_id)


@dataclass
class Scene:
    """The world around it, and a person in it. ``fuses`` are those of the first process and of the ones after it."""

    store: Store
    clock: Clock
    user: UserName
    fuses: list[Fuse]
    builder: MemoryBuilder = field(default_factory=MemoryBuilder)
    patience: timedelta = timedelta(minutes=5)
    cluster: MemoryCluster = field(init=False)
    routes: StrictRoutes = field(default_factory=StrictRoutes)
    late: list[tuple[int, Callable[[], Awaitable[Any]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = MemoryCluster(self.clock)
        self._live()

    def _live(self) -> None:
        self.fuse = self.fuses.pop(0) if self.fuses else Fuse()
        self.plane = Plane(self, self.fuse)

    async def row(self) -> Server | None:
        return await self.store.current_server(self.user, "")

    async def step(self, wish: Callable[[], Awaitable[Any]]) -> Server | None:
        """A moment in which the person does what they wish, the cluster is asked and the proxy's routes are compared."""
        self.clock.move(15)
        await self._arrive()
        with contextlib.suppress(Killed):
            await wish()
            await self.plane.settle()
            self.plane.pass_time()
            await self.plane.settle()
            await self.plane.poller.tick()
            await self.plane.settle()
            await self.plane.reconciler.verify_routes()
            await self.plane.settle()
        while self.fuse.blown:
            await self.restart()
        return await self.row()

    async def restart(self) -> None:
        await self.plane.reconciler.close()
        if self.fuse.on_its_way is not None:
            self.late.append((2, self.fuse.on_its_way))
        self._live()
        with contextlib.suppress(Killed):
            await self.plane.start()

    async def _arrive(self) -> None:
        due = [effect for moments, effect in self.late if moments <= 1]
        self.late = [(moments - 1, effect) for moments, effect in self.late if moments > 1]
        for effect in due:
            await effect()

    async def until(self, done: Callable[[Server | None], bool], wish: Callable[[], Awaitable[Any]]) -> Server:
        for _ in range(60):
            row = await self.step(wish)
            assert len(self.cluster.jobs) <= 1
            if done(row):
                assert row is not None
                return row
        pytest.fail(f"not reached: {row}, {self.cluster.jobs}, {self.routes.routes}")

    # what the person and the cluster do, whatever the hub knows

    async def ask(self) -> None:
        """Start it, unless it was started."""
        if await self.row() is None:
            with contextlib.suppress(SubmitRejected):
                await self.plane.service.spawn(self.user, "", "lab", {"cores": ["1"]})

    async def start(self) -> None:
        await self.ask()
        self.go_on("n1", 4711, "a" * 32)

    async def elsewhere(self) -> None:
        self.go_on("n2", 4712, "b" * 32)

    async def run_silently(self) -> None:
        await self.ask()
        if any(job.report.state is JobState.PENDING for job in self.cluster.jobs.values()):
            self.cluster.run("n1")

    async def requeued(self) -> None:
        """The scheduler takes the job back, and the hub sees it wait."""
        before = await self.row()
        assert before is not None
        self.cluster.set(JobState.PENDING)
        row = await self.until(lambda row: row is not None and row.phase is Phase.QUEUED, self.nothing)
        assert row.generation == before.generation + 1
        assert self.routes.routes == {}

    async def stop(self) -> None:
        row = await self.row()
        if row is not None and row.want is Want.UP:
            await self.plane.service.stop(self.user, "", self.user)

    async def nothing(self) -> None:
        """Only time passes."""

    def directory(self, job_name: str) -> str:
        return f"/home/{self.user}/.batchhub/jobs/{job_name.removeprefix('bh-')}"

    def go_on(self, host: str, port: int, nonce: str) -> None:
        """A waiting job gets its node; one that has it listens there."""
        for job in self.cluster.jobs.values():
            directory = self.directory(job.name)
            if job.report.state is JobState.PENDING:
                self.cluster.run(host)
            elif f"{directory}/secrets.json" in self.cluster.files:
                self.cluster.listen(_in(directory), port, nonce=nonce)
                self.routes.listening = (host, port, nonce)

    def has_the_right_route(self, row: Server | None, port: int) -> bool:
        """The route, with the secrets that the job has, and where it dials in the key of the same."""
        ready = row is not None and row.phase is Phase.READY and row.endpoint is not None and row.endpoint.port == port
        if not ready:
            return False
        assert row is not None
        secrets = json.loads(self.cluster.files[f"{row.directory}/secrets.json"])
        proof = self.builder.prove(self.cluster.files[f"{row.directory}/server.json"])
        offers = {row.id: self.builder.offer_key(row)} if self.builder.dials_in else {}
        return (
            self.routes.routes == {row.path: self.builder.route(row)}
            and self.routes.keys == offers
            and secrets["generation"] == row.generation <= proof.generation
        )

    async def ends(self, outcome: Outcome, wish: Callable[[], Awaitable[Any]], *, made: int = 1) -> Server:
        """It ends so, and leaves no job, no route, no offer."""
        row = await self.until(lambda row: row is not None and row.phase is Phase.ENDED, wish)
        for _ in range(4):
            await self.step(self.nothing)
        assert (self.cluster.jobs, self.routes.routes, self.routes.keys) == ({}, {}, {})
        assert (await self.row()) is not None
        row = await self.store.server(row.id)
        assert (row.phase, row.outcome) == (Phase.ENDED, outcome)
        assert self.cluster.next_id == 100 + made, "so many jobs were ever made"
        return row


@dataclass
class _in:  # noqa: N801 - stands in for a row, of which only this is asked
    directory: str


# ---------------------------------------------------------------- the flows


async def the_whole_life(scene: Scene) -> None:
    """Start, be put back in the queue, start elsewhere, stop."""
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    assert row.nonce == "a" * 32
    await scene.requeued()
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    assert (row.nonce, row.host) == ("b" * 32, "n2")
    assert scene.cluster.count("cancel") == 0
    await scene.ends(Outcome.STOPPED, scene.stop)


async def the_whole_life_of_a_job_that_dials_in(scene: Scene) -> None:
    scene.builder.dials_in = True
    await the_whole_life(scene)


async def preempted_while_ready(scene: Scene) -> None:
    """The scheduler says so, and puts it back a while later."""
    await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.cluster.set(JobState.PREEMPTED, "n1", ended=scene.clock())
    await scene.until(lambda row: row is not None and row.phase is Phase.STOPPING, scene.nothing)
    assert scene.routes.routes == {}
    await scene.requeued()
    await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    assert scene.cluster.count("cancel") == 0
    await scene.ends(Outcome.STOPPED, scene.stop)


async def a_restart_of_the_job_that_nobody_saw(scene: Scene) -> None:
    """The job runs anew, on another node, between two looks."""
    await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.clock.move(60)
    scene.cluster.run("n2")
    await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    assert scene.cluster.count("cancel") == 0
    await scene.ends(Outcome.STOPPED, scene.stop)


async def a_submit_that_worked_without_an_answer(scene: Scene) -> None:
    """It is found by its name."""
    scene.cluster.lose_answer = True
    await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    assert scene.cluster.count("submit") == 1
    await scene.ends(Outcome.STOPPED, scene.stop)


async def a_submit_that_was_lost(scene: Scene) -> None:
    """It is looked for, and then submitted again."""
    scene.cluster.lose_submits = 1
    await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    assert scene.cluster.count("submit") == 2
    await scene.ends(Outcome.STOPPED, scene.stop)


async def a_refusal(scene: Scene) -> None:
    scene.cluster.refuse = "sbatch: error: Invalid account"
    row = await scene.ends(Outcome.REFUSED, scene.ask, made=0)
    assert "Invalid account" in row.words


async def a_stop_at_once(scene: Scene) -> None:
    """Asked for, and not wanted any more before anything came of it."""

    async def wish() -> None:
        await scene.ask()
        await scene.plane.settle()
        await scene.stop()

    await scene.until(lambda row: row is not None and row.phase is Phase.ENDED, wish)
    for _ in range(4):
        await scene.step(scene.stop)
    assert (scene.cluster.jobs, scene.routes.routes) == ({}, {})
    assert scene.cluster.next_id <= 101


async def stopped_while_it_waits(scene: Scene) -> None:
    await scene.until(lambda row: row is not None and row.phase is Phase.QUEUED, scene.ask)
    await scene.ends(Outcome.STOPPED, scene.stop)


async def stopped_while_it_starts(scene: Scene) -> None:
    await scene.until(lambda row: row is not None and row.phase is Phase.STARTING, scene.run_silently)
    await scene.ends(Outcome.STOPPED, scene.stop)


async def told_to_end_before_it_is_cancelled(scene: Scene) -> None:
    """Its application is asked first, and takes no notice."""
    scene.builder.jupyter = True
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.routes.answers[scene.builder.shutdown_path(row)] = Answer(200)
    await scene.ends(Outcome.STOPPED, scene.stop)


async def a_cancel_that_fails_twice(scene: Scene) -> None:
    await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.cluster.fail_cancels = 2
    await scene.ends(Outcome.STOPPED, scene.stop)
    assert scene.cluster.count("cancel") >= 3


async def it_finishes_by_itself(scene: Scene, state: JobState = JobState.COMPLETED) -> None:
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.cluster.files[f"{row.directory}/job.log"] = b"the last words\n"
    scene.cluster.end(state)
    outcome = Outcome.COMPLETED if state is JobState.COMPLETED else Outcome.TIMED_OUT
    row = await scene.ends(outcome, scene.nothing)
    assert row.log_tail == "the last words"
    assert scene.cluster.count("cancel") == 0


async def its_time_is_up(scene: Scene) -> None:
    await it_finishes_by_itself(scene, JobState.TIMEOUT)


async def what_it_left_cannot_be_read_at_first(scene: Scene) -> None:
    """No record, and the homes are away for the first looks: its own word and log are fetched later."""
    scene.cluster.has_accounting = False
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    scene.cluster.files[f"{row.directory}/job.log"] = b"the last words\n"
    left = {"version": 1, "code": 3, "signal": None, "word": "it ended with code 3", "time": 1.0}
    scene.cluster.files[f"{row.directory}/exit.json"] = json.dumps(left).encode()
    scene.cluster.files_away = True
    scene.cluster.end(JobState.FAILED)
    await scene.until(lambda row: row is not None and row.phase is Phase.ENDED, scene.nothing)
    for _ in range(3):
        await scene.step(scene.nothing)
    scene.cluster.files_away = False
    row = await scene.ends(Outcome.FAILED, scene.nothing)
    assert (row.log_tail, row.exit_code, row.words) == ("the last words", 3, "it ended with code 3")


async def it_never_answers(scene: Scene) -> None:
    """The hub gives it up, fetches its log and cancels it."""
    scene.patience = timedelta(seconds=40)
    scene.plane.reconciler._settings = replace(
        scene.plane.reconciler._settings, limits=Limits(start_timeout=scene.patience)
    )
    row = await scene.until(lambda row: row is not None and row.phase is Phase.STARTING, scene.run_silently)
    scene.cluster.files[f"{row.directory}/job.log"] = b"the last words\n"
    row = await scene.ends(Outcome.FAILED, scene.nothing)
    assert "did not answer within 40 seconds" in row.words
    assert row.log_tail == "the last words"


async def a_backup_from_before_the_requeue(scene: Scene) -> None:
    """The database is set back to when it ran elsewhere, with the secrets of then."""
    old = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    await scene.requeued()
    new = await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    await scene.store.update(old.id, lambda _: old)
    await scene.restart()
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4712), scene.elsewhere)
    assert row.generation == new.generation
    assert (scene.cluster.count("submit"), scene.cluster.count("cancel")) == (1, 0)
    await scene.ends(Outcome.STOPPED, scene.stop)


async def a_backup_from_before_the_submit(scene: Scene) -> None:
    """The row says that nothing was ever submitted."""
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    await scene.store.update(row.id, new_again)
    await scene.restart()
    row = await scene.until(lambda row: scene.has_the_right_route(row, 4711), scene.start)
    assert scene.cluster.count("submit") == 1
    await scene.ends(Outcome.STOPPED, scene.stop)


def new_again(row: Server) -> Server:
    return Server(row.id, row.user, row.name, row.cluster, row.profile, row.account, row.created, row.created)


FLOWS = [
    the_whole_life,
    the_whole_life_of_a_job_that_dials_in,
    preempted_while_ready,
    a_restart_of_the_job_that_nobody_saw,
    a_submit_that_worked_without_an_answer,
    a_submit_that_was_lost,
    a_refusal,
    a_stop_at_once,
    stopped_while_it_waits,
    stopped_while_it_starts,
    told_to_end_before_it_is_cancelled,
    a_cancel_that_fails_twice,
    it_finishes_by_itself,
    its_time_is_up,
    what_it_left_cannot_be_read_at_first,
    it_never_answers,
    a_backup_from_before_the_requeue,
    a_backup_from_before_the_submit,
]


@pytest.fixture
async def store() -> AsyncIterator[tuple[Store, Clock]]:
    clock = Clock()
    made = Store("sqlite://", clock=clock)
    await made.open()
    yield made, clock
    await made.close()


Flow = Callable[[Scene], Awaitable[None]]


async def live_through(store: tuple[Store, Clock], flow: Flow, name: str, fuses: list[Fuse]) -> None:
    scene = Scene(*store, UserName(name), list(fuses))
    try:
        await flow(scene)
    except BaseException as error:
        error.add_note(f"killed at {[(fuse.at, fuse.late, fuse.names[fuse.at - 1 :]) for fuse in fuses]}")
        raise
    finally:
        await scene.plane.reconciler.close()
    row = await scene.row()
    assert row is not None
    assert row.phase is Phase.ENDED, "nothing is left for the next"


@pytest.mark.parametrize("way", ["done", "late", "twice"])
@pytest.mark.parametrize("flow", FLOWS)
async def test_killed_at_every_effect(store: tuple[Store, Clock], flow: Flow, way: str) -> None:
    whole = Fuse()
    await live_through(store, flow, "u0", [whole])
    assert "add_server" in whole.names
    assert whole.count > len(set(whole.names)) >= 4
    # Two deaths are many pairs: every third first one, each with another second.
    at, step, fuse = 0, 3 if way == "twice" else 1, Fuse()
    while at == 0 or fuse.blown:
        at += step
        fuse = Fuse(at, late=way == "late")
        second = [Fuse(1 + at // step % 6)] if way == "twice" else []
        if way == "late" and at <= whole.count and whole.names[at - 1] not in LATE:
            fuse.blown = True
            continue
        await live_through(store, flow, f"u{at}", [fuse, *second])
    assert at > whole.count / 2, "every effect had its turn"
