"""Poller, reconciler and service together on a real database, a cluster in memory and time that is moved by hand."""

import asyncio
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher, not_customised
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.ports import Customiser
from batchhub.control.reconciler import Cluster, Reconciler, ReconcilerSettings
from batchhub.control.service import ClusterFacts, HubService, ServiceSettings
from batchhub.core.errors import (
    BadInput,
    ConfigError,
    Conflict,
    Denied,
    InvalidForm,
    NotFound,
    SignInAgain,
    StoreUnavailable,
    SubmitRejected,
    TooMany,
    Unreachable,
)
from batchhub.core.forms import Field, FieldKind, Profile
from batchhub.core.model import JobId, JobState, Outcome, Phase, Server, ServerId, UserName, Want
from batchhub.core.ports import Command, Completed, RouteTarget
from batchhub.core.quota import Quota
from batchhub.store import schema
from batchhub.store.store import Store
from tests.control.memory import T0, Clock, MemoryBuilder, MemoryCluster, MemoryRoutes, MemoryTransport

ALICE = UserName("alice")
PROFILE = Profile(
    name="lab",
    cluster="hpc",
    fields=(
        Field("partition", FieldKind.CHOICE, "Partition"),
        Field("cores", FieldKind.NUMBER, "Cores", default=1, minimum=1, required=True),
    ),
)
FORM = {"partition": ["debug"], "cores": ["2"]}


@dataclass
class World:
    """A whole control plane; :meth:`restart` throws its memory away, as a SIGKILL would."""

    path: str
    clock: Clock
    cluster: MemoryCluster
    routes: MemoryRoutes
    dials_in: bool = False
    jupyter: bool = False
    customise: Customiser = not_customised
    barred: set[str] = field(default_factory=set)
    over: list[Server] = field(default_factory=list)

    async def open(self) -> None:
        self.store = Store(f"sqlite:///{self.path}", clock=self.clock)
        await self.store.open()
        self.broadcast = Broadcast()
        transport = MemoryTransport(self.cluster)
        builder = self.builder = MemoryBuilder(dials_in=self.dials_in, jupyter=self.jupyter)
        self.poller = Poller(
            cluster="hpc",
            transport=transport,
            dialect=self.cluster,
            store=self.store,
            clock=self.clock,
            settings=PollerSettings(absent_after=40.0),
            observed=self._observed,
        )
        self.reconciler = Reconciler(
            clusters={"hpc": Cluster(self.poller, Launcher(transport, self.cluster, builder, self.customise))},
            store=self.store,
            routes=self.routes,
            builder=builder,
            broadcast=self.broadcast,
            clock=self.clock,
            settings=ReconcilerSettings(),
            ended=self.over.append,
        )
        self.service = HubService(
            profiles=[PROFILE],
            clusters={"hpc": ClusterFacts("HPC", self.poller, str)},
            store=self.store,
            reconciler=self.reconciler,
            builder=builder,
            broadcast=self.broadcast,
            clock=self.clock,
            checks={"database": self._ok},
            settings=ServiceSettings(first_word=20.0),
            before_start=self._before_start,
        )

    async def _before_start(self, user) -> None:
        if user in self.barred:
            raise SignInAgain("Please sign in again.")

    def _observed(self, rows) -> None:
        self.reconciler.consider(rows)

    async def _ok(self) -> str:
        await self.store.ping()
        return "ok"

    def be_brief(self) -> None:
        """A start waits for no first word that will not come."""
        self.service._settings = replace(self.service._settings, first_word=0.05)

    async def close(self) -> None:
        await self.reconciler.close()
        await self.store.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def settle(self) -> None:
        """Let every look that is under way end."""
        for _ in range(4000):
            if not self.reconciler._busy and not self.reconciler._again:
                return
            await asyncio.sleep(0.005)
        pytest.fail("the reconciler does not come to rest")

    async def tick(self, seconds: float = 2.0) -> Server:
        self.clock.move(seconds)
        await self.poller.tick()
        await self.settle()
        return await self.row()

    async def tick_all(self) -> None:
        self.clock.move(2)
        await self.poller.tick()
        await self.settle()

    async def row(self) -> Server:
        row = await self.store.current_server(ALICE, "")
        assert row is not None
        return row

    async def spawn(self) -> Server:
        await self.service.spawn(ALICE, "", "lab", FORM)
        await self.settle()
        return await self.row()

    async def ready(self) -> Server:
        await self.spawn()
        self.cluster.run()
        row = await self.tick()
        self.cluster.listen(row)
        self.reconciler.look([row.id])
        await self.settle()
        row = await self.row()
        assert row.phase is Phase.READY
        return row


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: making the tables takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "hub.sqlite"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def world(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "hub.sqlite")
    clock = Clock()
    made = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), MemoryRoutes())
    await made.open()
    yield made
    await made.close()


async def test_the_whole_way_up_and_down(world: World) -> None:
    row = await world.spawn()
    assert (row.phase, row.job_id, row.options["cores"]) == (Phase.REQUESTED, "101", 2)
    row = await world.tick()
    assert row.phase is Phase.QUEUED
    view = await world.service.server(ALICE, "")
    assert "higher priority" in view.status.sentence
    assert view.status.detail == "Priority"
    world.cluster.run()
    row = await world.tick()
    assert (row.phase, row.host) == (Phase.STARTING, "n1")
    world.cluster.listen(row)
    world.reconciler.look([row.id])
    await world.settle()
    row = await world.row()
    assert row.phase is Phase.READY
    route = world.routes.routes["/user/alice/"]
    assert (route.owner, route.endpoint.host, route.endpoint.port) == ("alice", "n1", 4711)
    assert "secret" not in repr(route)
    await world.service.stop(ALICE, "", ALICE)
    await world.settle()
    assert world.routes.routes == {}
    await world.tick()
    row = await world.tick()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.STOPPED)
    assert [(one.id, one.outcome) for one in world.over] == [(row.id, Outcome.STOPPED)], "the end is told once"
    assert world.cluster.count("submit") == world.cluster.count("cancel") == 1


async def test_who_may_not_any_more_starts_nothing(world: World) -> None:
    world.barred.add(ALICE)
    with pytest.raises(SignInAgain):
        await world.service.spawn(ALICE, "", "lab", FORM)
    assert await world.store.current_server(ALICE) is None
    assert not world.cluster.jobs


async def test_one_question_a_tick_whatever_the_number(world: World) -> None:
    for name in ("a", "b", "c", "d"):
        await world.service.spawn(ALICE, name, "lab", FORM)
    await world.settle()
    before = world.cluster.count("status")
    world.clock.move(2)
    await world.poller.tick()
    assert world.cluster.count("status") == before + 1


async def test_a_tick_without_news_asks_the_database_once(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.service.spawn(ALICE, name, "lab", FORM)
    await world.settle()
    await world.tick_all()
    asked: list[str] = []
    world.store.update = lambda *_, **__: asked.append("update")
    world.store.server = lambda *_, **__: asked.append("server")
    await world.poller.tick()
    assert asked == []


async def test_no_jobs_no_questions(world: World) -> None:
    await world.poller.tick()
    assert world.cluster.calls == []


async def test_a_silent_scheduler_changes_nothing_and_pages_say_since_when(world: World) -> None:
    row = await world.ready()
    world.cluster.down = True
    world.clock.move(100)
    since = world.clock()
    for _ in range(60):
        row = await world.tick(10)
    assert (row.phase, row.want, row.outcome) == (Phase.READY, Want.UP, None)
    assert "/user/alice/" in world.routes.routes
    view = await world.service.server(ALICE, "")
    assert view.status.silent_since is not None
    assert view.status.silent_since >= since
    assert "does not answer" in view.status.sentence
    assert (await world.service.health())["cluster hpc"].startswith("silent since")
    world.cluster.down = False
    row = await world.tick()
    assert row.phase is Phase.READY
    assert (await world.service.server(ALICE, "")).status.silent_since is None
    assert world.cluster.count("cancel") == 0


async def test_a_job_missing_from_one_list_is_not_gone(world: World) -> None:
    row = await world.ready()
    world.cluster.hide = 1
    row = await world.tick()
    assert row.phase is Phase.READY
    assert world.cluster.count("accounting") == 0
    row = await world.tick()
    assert row.phase is Phase.READY


async def test_the_end_is_read_from_accounting_with_log_and_exit_code(world: World) -> None:
    row = await world.ready()
    world.cluster.files[f"{row.directory}/job.log"] = b"line\n" * 3 + b"MemoryError\x1b[0m\n"
    world.cluster.end(JobState.FAILED, exit_code=137)
    await world.tick()
    row = await world.tick()
    assert (row.phase, row.outcome, row.exit_code) == (Phase.ENDED, Outcome.FAILED, 137)
    assert row.log_tail.endswith("MemoryError\N{REPLACEMENT CHARACTER}[0m")
    assert world.routes.routes == {}


@pytest.mark.parametrize(
    ("state", "outcome"), [(JobState.TIMEOUT, Outcome.TIMED_OUT), (JobState.CANCELLED, Outcome.CANCELLED)]
)
async def test_outcomes_are_the_schedulers_own(world: World, state: JobState, outcome: Outcome) -> None:
    await world.ready()
    world.cluster.end(state)
    await world.tick()
    assert (await world.tick()).outcome is outcome


async def test_without_accounting_the_jobs_own_record_tells_the_end(world: World) -> None:
    row = await world.ready()
    world.cluster.has_accounting = False
    record = b'{"version":1,"code":3,"signal":null,"word":"the application ended with 3","time":1.0}'
    world.cluster.files[f"{row.directory}/exit.json"] = record
    world.cluster.end()
    await world.tick()
    row = await world.tick()
    assert (row.outcome, row.exit_code) == (Outcome.FAILED, 3)
    assert row.words == "the application ended with 3"


async def test_accounting_that_is_down_is_waited_for_but_not_for_ever(world: World) -> None:
    await world.ready()
    world.cluster.accounting_down = True
    world.cluster.end()
    await world.tick()
    row = await world.tick()
    assert row.phase is Phase.READY
    for _ in range(5):
        row = await world.tick(15)
    assert row.phase is Phase.ENDED


async def test_a_refusal_is_raised_with_the_schedulers_words(world: World) -> None:
    world.cluster.refuse = "Invalid account or account/partition combination specified"
    with pytest.raises(SubmitRejected, match="Invalid account"):
        await world.spawn()
    await world.settle()
    row = await world.row()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.REFUSED)
    world.cluster.refuse = ""
    assert (await world.spawn()).phase is Phase.REQUESTED


async def test_a_submit_without_an_answer_is_found_by_name_and_never_repeated(world: World) -> None:
    world.cluster.lose_answer = True
    row = await world.spawn()
    assert (row.phase, row.job_id) == (Phase.REQUESTED, None)
    assert len(world.cluster.jobs) == 1
    row = await world.tick(15)
    assert (row.phase, row.job_id) == (Phase.QUEUED, "101")
    assert world.cluster.count("submit") == 1


async def test_a_submit_that_never_arrived_is_repeated_after_two_looks(world: World) -> None:
    world.cluster.down = True
    await world.spawn()
    world.cluster.down = False
    # The directory could not be written: nothing was submitted, so nothing needs to be looked for.
    row = await world.row()
    assert row.submit_tried is None
    row = await world.tick(6)
    assert (row.submit_count, len(world.cluster.jobs)) == (1, 1)


async def test_an_absent_job_is_submitted_again_only_after_a_while(world: World) -> None:
    world.cluster.lose_answer = True
    await world.spawn()
    world.cluster.jobs.clear()
    world.cluster.lose_answer = False
    await world.tick(15)
    await world.tick(15)
    assert world.cluster.count("submit") == 1
    row = await world.tick(15)
    assert world.cluster.count("submit") == 2
    assert row.submit_count == 2
    assert row.job_id is not None


@pytest.mark.parametrize("answered", [True, False])
async def test_a_submit_slower_than_all_patience_is_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    """sbatch waits two minutes for a busy controller; meanwhile nobody knows the job's name, which proves nothing."""
    begun, go, run = asyncio.Event(), asyncio.Event(), MemoryTransport.run

    async def slow(self: MemoryTransport, command: Command, user: str | None = None) -> Completed:
        if command.argv[0] == "submit" and not begun.is_set():
            begun.set()
            await go.wait()
        return await run(self, command, user)

    monkeypatch.setattr(MemoryTransport, "run", slow)
    world.cluster.lose_answer = not answered
    world.be_brief()
    await world.service.spawn(ALICE, "", "lab", FORM)
    await begun.wait()
    for _ in range(12):
        world.clock.move(10)
        await world.poller.tick()
    assert world.poller.newest((await world.row()).id) is None
    world.clock.move(1)
    go.set()
    await world.settle()
    assert len(world.cluster.jobs) == 1
    row = await world.tick(15)
    assert (row.phase, row.job_id, row.submit_count) == (Phase.QUEUED, "101", 1)
    assert len(world.cluster.jobs) == 1


async def test_a_restart_follows_pending_and_running_without_submitting_or_cancelling(world: World) -> None:
    row = await world.ready()
    calls = world.cluster.count("submit")
    await world.restart()
    await world.reconciler.verify_routes()
    row = await world.tick()
    assert row.phase is Phase.READY
    assert (world.cluster.count("submit"), world.cluster.count("cancel")) == (calls, 0)
    assert world.routes.published_count == 1


async def test_a_crash_between_save_and_submit_is_not_a_second_job(world: World) -> None:
    row = await world.spawn()
    # As if the hub had died after the submit and before its answer was saved.
    await world.store.update(row.id, lambda current: replace(current, job_id=None))
    await world.restart()
    row = await world.tick(15)
    assert row.job_id == "101"
    assert world.cluster.count("submit") == 1


async def test_requeue_and_start_elsewhere_with_fresh_secrets(world: World) -> None:
    row = await world.ready()
    first = world.routes.routes["/user/alice/"].authorization
    world.cluster.set(JobState.PENDING)
    row = await world.tick()
    assert (row.phase, row.generation) == (Phase.QUEUED, 2)
    assert world.routes.routes == {}
    assert "put back" in (await world.service.server(ALICE, "")).status.sentence
    del world.cluster.files[f"{row.directory}/connection.json"]
    world.cluster.run("n2")
    row = await world.tick()
    assert (row.phase, row.host) == (Phase.STARTING, "n2")
    world.cluster.listen(row, port=4712)
    world.reconciler.look([row.id])
    await world.settle()
    route = world.routes.routes["/user/alice/"]
    assert (route.endpoint.host, route.endpoint.port) == ("n2", 4712)
    assert route.authorization != first


async def test_a_restart_between_two_looks_is_reached_with_the_new_starts_secret(world: World) -> None:
    row = await world.ready()
    world.clock.move(60)
    world.cluster.run("n1")
    world.cluster.listen(row, port=4713, nonce="f" * 32)
    row = await world.tick()
    row = await world.tick()
    assert (row.phase, row.nonce, row.generation) == (Phase.READY, "f" * 32, 1)
    assert world.routes.routes["/user/alice/"].endpoint.port == 4713


async def test_a_node_that_cannot_be_reached_is_said_and_not_called_ready(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    world.routes.blocked = True
    row = await world.tick()
    world.cluster.listen(row)
    row = await world.tick()
    assert row.phase is Phase.STARTING
    assert "cannot be reached yet: login1 cannot reach n1:4711" in row.words
    for _ in range(6):
        row = await world.tick(60)
    assert row.want is Want.DOWN
    await world.tick()
    row = await world.tick()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.FAILED)
    assert world.cluster.jobs == {}


async def test_an_application_that_does_not_take_its_secret_is_not_called_ready(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    world.routes.status = 403
    row = await world.tick()
    world.cluster.listen(row)
    row = await world.tick()
    assert row.phase is Phase.STARTING
    assert "HTTP 403" in row.words


async def test_stop_while_the_scheduler_is_silent_is_done_when_it_answers(world: World) -> None:
    await world.ready()
    world.cluster.down = True
    await world.tick()
    await world.service.stop(ALICE, "", ALICE)
    row = await world.tick()
    assert (row.want, row.phase, len(world.cluster.jobs)) == (Want.DOWN, Phase.READY, 1)
    world.cluster.down = False
    await world.tick()
    await world.tick()
    assert world.cluster.jobs == {}


async def test_a_stop_before_the_submit_was_answered_cancels_the_job_that_turns_up(world: World) -> None:
    world.cluster.lose_answer = True
    await world.spawn()
    await world.service.stop(ALICE, "", ALICE)
    await world.settle()
    assert len(world.cluster.jobs) == 1
    await world.tick(15)
    assert world.cluster.jobs == {}


async def test_a_proxy_that_lost_its_routes_gets_them_back(world: World) -> None:
    await world.ready()
    world.routes.routes.clear()
    await world.reconciler.verify_routes()
    await world.settle()
    assert "/user/alice/" in world.routes.routes


async def test_a_route_that_no_server_wants_is_removed(world: World) -> None:
    row = await world.ready()
    world.routes.routes["/user/bob/"] = replace(
        world.routes.routes["/user/alice/"], path="/user/bob/", server_id="x" * 12
    )
    await world.reconciler.verify_routes()
    assert set(world.routes.routes) == {row.path}


async def test_forms_are_checked_against_the_cluster(world: World) -> None:
    form = await world.service.form(ALICE, "lab")
    partition = next(field for field in form.profile.fields if field.name == "partition")
    assert [choice.value for choice in partition.choices] == ["debug"]
    with pytest.raises(InvalidForm) as caught:
        await world.service.spawn(ALICE, "", "lab", {"partition": ["nope"], "cores": ["x"]})
    assert set(caught.value.fields) == {"partition", "cores"}
    with pytest.raises(InvalidForm, match="at most 16 cores"):
        await world.service.spawn(ALICE, "", "lab", {"partition": ["debug"], "cores": ["17"]})
    with pytest.raises(NotFound):
        await world.service.spawn(ALICE, "", "labb", FORM)
    assert world.cluster.count("submit") == 0


async def test_a_form_works_while_the_scheduler_is_silent(world: World) -> None:
    world.cluster.down = True
    form = await world.service.form(ALICE, "lab")
    assert "checked when the job is submitted" in form.trouble


async def test_a_second_server_of_the_same_name_is_refused(world: World) -> None:
    await world.spawn()
    with pytest.raises(Conflict):
        await world.spawn()
    assert world.cluster.count("submit") == 1


async def test_a_callback_is_believed_only_with_the_servers_own_token(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    row = await world.tick()
    world.cluster.listen(row)
    body = world.cluster.files.pop(f"{row.directory}/connection.json")
    with pytest.raises(Denied):
        await world.service.connected(row.id, "wrong", body)
    with pytest.raises(Denied):
        await world.service.connected(row.id, "", body)
    await world.service.connected(row.id, f"secret-of-{row.id}-1", body)
    await world.settle()
    assert (await world.row()).phase is Phase.READY


async def test_a_stale_connection_file_of_another_start_is_not_believed(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    row = await world.tick()
    world.cluster.listen(row, generation=7)
    row = await world.tick()
    assert (row.phase, row.answered) == (Phase.STARTING, None)


async def test_watching_ends_when_it_is_ready(world: World) -> None:
    await world.spawn()
    phases: list[Phase] = []

    async def watch() -> None:
        phases.extend([view.server.phase async for view in world.service.watch(ALICE, "")])

    task = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    world.cluster.run()
    row = await world.tick()
    world.cluster.listen(row)
    world.reconciler.look([row.id])
    await asyncio.wait_for(task, 60)
    assert phases[-1] is Phase.READY


async def test_another_persons_recycled_job_id_is_not_ours(world: World) -> None:
    await world.ready()
    world.cluster.set(JobState.RUNNING, "n9", user="mallory")
    row = await world.tick()
    assert (row.phase, row.host) == (Phase.READY, "n1")


async def test_stopping_what_never_was_raises(world: World) -> None:
    with pytest.raises(NotFound):
        await world.service.stop(UserName("bob"), "", ALICE)


async def test_inspect_is_cached_and_an_old_answer_is_better_than_none(world: World) -> None:
    await world.service.form(ALICE, "lab")
    await world.service.form(ALICE, "lab")
    assert world.cluster.count("inspect") == 1
    world.cluster.down = True
    world.clock.move(3600)
    assert (await world.poller.inspect())[0].name == "debug"
    world.poller.inspection.at = None
    with pytest.raises(Unreachable):
        await world.poller.inspect()


def test_time_starts_where_the_tests_think() -> None:
    assert Clock()() == T0
    assert JobId("1") == "1"


# ------------------------------------------------ races, restarts, what cannot be asked


async def test_a_hub_that_was_away_asks_the_application_before_it_gives_it_up(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    row = await world.tick()
    assert row.phase is Phase.STARTING
    world.clock.move(1200)
    world.cluster.listen(row)
    await world.restart()
    row = await world.tick()
    assert (row.phase, world.cluster.count("cancel")) == (Phase.READY, 0)


async def test_nobody_is_given_up_while_the_proxy_is_down_but_then_at_once(world: World) -> None:
    await world.spawn()
    world.cluster.run()
    row = await world.tick()
    world.cluster.listen(row)
    world.routes.down = True
    for _ in range(20):
        row = await world.tick(60)
    assert (row.phase, row.want, world.cluster.count("cancel")) == (Phase.STARTING, Want.UP, 0)
    world.routes.down, world.routes.blocked = False, True
    await world.tick()
    assert (await world.tick()).want is Want.DOWN


async def test_a_callback_that_was_overtaken_by_a_new_start_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spawn()
    world.cluster.run()
    row = await world.tick()
    world.cluster.listen(row)
    body = world.cluster.files.pop(f"{row.directory}/connection.json")
    asked, go, probe = asyncio.Event(), asyncio.Event(), MemoryRoutes.probe

    async def slow(self: MemoryRoutes, target: RouteTarget, path: str) -> int:
        asked.set()
        await go.wait()
        return await probe(self, target, path)

    monkeypatch.setattr(MemoryRoutes, "probe", slow)
    calling = asyncio.ensure_future(world.service.connected(row.id, f"secret-of-{row.id}-1", body))
    await asyncio.wait_for(asked.wait(), 60)
    world.clock.move(60)
    world.cluster.run("n1")
    await world.tick()
    go.set()
    await asyncio.wait_for(calling, 60)
    await world.settle()
    row = await world.row()
    assert (row.phase, row.answered) == (Phase.STARTING, None)


async def test_a_route_that_is_published_while_routes_are_compared_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list was read before, and still shows the run before this one."""
    first = await world.ready()
    await world.service.stop(ALICE, "", ALICE)
    await world.settle()
    await world.tick()
    await world.tick()
    old, published = {first.path: first.id}, MemoryRoutes.published

    async def slow(self: MemoryRoutes) -> dict[str, str]:
        await world.ready()
        return old

    monkeypatch.setattr(MemoryRoutes, "published", slow)
    await world.reconciler.verify_routes()
    monkeypatch.setattr(MemoryRoutes, "published", published)
    row = await world.row()
    assert row.id != first.id
    assert world.routes.routes[row.path].server_id == row.id


async def test_a_route_that_could_not_be_withdrawn_is_not_taken_for_the_new_starts(world: World) -> None:
    await world.ready()
    world.cluster.set(JobState.PENDING)
    world.routes.down = True
    row = await world.tick()
    assert row.phase is Phase.QUEUED
    world.routes.down = False
    del world.cluster.files[f"{row.directory}/connection.json"]
    world.cluster.run("n2")
    row = await world.tick()
    publish, world.routes.publish = world.routes.publish, None
    world.cluster.listen(row, port=4712)
    world.reconciler.look([row.id])
    await world.settle()
    world.routes.publish = publish
    await world.reconciler.verify_routes()
    await world.settle()
    assert world.routes.routes[row.path].endpoint.host == "n2"


async def test_a_job_that_ended_before_anybody_looked_is_not_submitted_again(world: World) -> None:
    world.cluster.has_accounting = False
    row = await world.spawn()
    record = b'{"version":1,"code":127,"signal":null,"word":"jupyter: command not found","time":1.0}'
    world.cluster.files[f"{row.directory}/exit.json"] = record
    world.cluster.jobs.clear()
    await world.tick()
    row = await world.tick()
    assert (row.phase, row.exit_code, row.words) == (Phase.ENDED, 127, "jupyter: command not found")
    assert world.cluster.count("submit") == 1


async def test_a_node_that_is_cleaned_up_for_ever_keeps_nobody_from_starting_anew(world: World) -> None:
    await world.ready()
    await world.tick()
    world.cluster.set(JobState.COMPLETING, "n1")
    for _ in range(8):
        row = await world.tick(60)
    assert (row.want, row.phase) == (Want.UP, Phase.STOPPING)  # it may yet be put back in the queue
    await world.service.stop(ALICE, "", ALICE)
    row = await world.tick()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.STOPPED)


async def test_a_submit_that_outlives_its_hub_is_waited_for(world: World) -> None:
    """The command runs on at the login node, to its deadline (30 s here), though nobody waits for it any more."""
    world.cluster.lose_answer = True
    await world.spawn()
    late = dict(world.cluster.jobs)
    world.cluster.jobs.clear()
    world.cluster.lose_answer = False
    world.clock.move(1)
    await world.restart()
    for _ in range(4):
        row = await world.tick(15)
    assert (row.job_id, world.cluster.count("submit")) == (None, 1)
    world.cluster.jobs.update(late)
    row = await world.tick(5)
    assert (row.job_id, world.cluster.count("submit")) == ("101", 1)


async def test_a_database_that_fails_after_the_submit_does_not_lose_or_double_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Store.update

    async def failing(self: Store, *words, kind: str = "", **more) -> Server:
        if kind == "submitted":
            raise StoreUnavailable("The database does not answer.")
        return await update(self, *words, kind=kind, **more)

    monkeypatch.setattr(Store, "update", failing)
    world.be_brief()
    await world.spawn()
    monkeypatch.setattr(Store, "update", update)
    row = await world.tick(15)
    assert (row.job_id, world.cluster.count("submit"), len(world.cluster.jobs)) == ("101", 1, 1)


async def test_secrets_that_could_not_be_renewed_twice_still_open_the_application(world: World) -> None:
    row = await world.ready()
    secrets = world.cluster.files[f"{row.directory}/secrets.json"]
    for _ in range(2):
        world.cluster.set(JobState.PENDING)
        await world.tick()
        world.cluster.files[f"{row.directory}/secrets.json"] = secrets
        world.cluster.files.pop(f"{row.directory}/connection.json", None)
        world.cluster.run("n2")
        row = await world.tick()
    assert row.generation == 3
    world.cluster.listen(row)
    assert (await world.tick()).phase is Phase.READY


async def test_an_empty_list_against_living_records_ends_nobody(world: World) -> None:
    await world.ready()
    world.cluster.records = {job_id: job.report for job_id, job in world.cluster.jobs.items()}
    world.cluster.hide = 40
    for _ in range(40):
        row = await world.tick(10)
    assert row.phase is Phase.READY
    assert (await world.tick()).phase is Phase.READY


async def test_only_a_few_are_looked_for_by_name_in_one_tick_and_each_has_its_turn(world: World) -> None:
    world.cluster.lose_answer = True
    for number in range(45):
        await world.service.spawn(ALICE, f"s{number}", "lab", FORM)
    await world.settle()
    world.clock.move(15)
    await world.poller.tick()
    assert world.cluster.count("find") == 20
    for _ in range(2):
        await world.poller.tick()
        await world.settle()
    assert all(row.job_id for row in await world.store.live_servers())


async def test_one_question_serves_all_forms_and_is_not_cut_short_by_one_that_waits_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, run = asyncio.Event(), MemoryTransport.run

    async def slow(self: MemoryTransport, command: Command, user: str | None = None) -> Completed:
        await go.wait()
        return await run(self, command, user)

    monkeypatch.setattr(MemoryTransport, "run", slow)
    forms = [asyncio.ensure_future(world.poller.inspect()) for _ in range(20)]
    await asyncio.sleep(0)
    forms.pop(0).cancel()
    await asyncio.sleep(0)
    go.set()
    found = await asyncio.wait_for(asyncio.gather(*forms), 60)
    assert {queues[0].name for queues in found} == {"debug"}
    assert world.cluster.count("inspect") == 1


async def test_a_profile_that_was_taken_away_is_a_sentence_not_a_traceback(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ready()
    world.routes.routes.clear()

    def gone(_self: MemoryBuilder, _row: Server) -> RouteTarget:
        raise ConfigError("There is no profile 'lab'.")

    monkeypatch.setattr(MemoryBuilder, "route", gone)
    await world.reconciler.verify_routes()
    await world.settle()
    row = await world.row()
    assert "no route: There is no profile 'lab'." in row.words
    assert not any(record.exc_info for record in caplog.records)


async def test_a_cluster_that_hangs_holds_up_no_other(world: World) -> None:
    hung = MemoryTransport(MemoryCluster(world.clock))
    hung.home = lambda _user: asyncio.Event().wait()
    poller = world.reconciler._clusters["hpc"].poller
    reconciler = Reconciler(
        clusters={
            "hpc": world.reconciler._clusters["hpc"],
            "hung": Cluster(poller, Launcher(hung, world.cluster, MemoryBuilder())),
        },
        store=world.store,
        routes=world.routes,
        builder=MemoryBuilder(),
        broadcast=world.broadcast,
        clock=world.clock,
        settings=ReconcilerSettings(workers=2),
    )
    for number in range(5):
        row = Server(ServerId(f"hung{number}".ljust(12, "a")), ALICE, f"h{number}", "hung", "lab", "alice", T0, T0)
        await world.store.add_server(row)
        reconciler.look([row.id])
    row = await world.store.add_server(Server(ServerId("b" * 12), ALICE, "", "hpc", "lab", "alice", T0, T0))
    reconciler.look([row.id])
    for _ in range(2000):
        if (await world.row()).job_id:
            break
        await asyncio.sleep(0.001)
    assert (await world.row()).job_id == "101"
    await reconciler.close()
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_nothing_is_begun_while_it_ends(world: World) -> None:
    row = await world.spawn()
    world.reconciler.look([row.id])
    world.reconciler.look([row.id])
    await world.reconciler.close()
    world.reconciler.look([row.id])
    world.reconciler.later(row.id, 0.0)
    await asyncio.sleep(0)
    assert not any("look at" in task.get_name() for task in asyncio.all_tasks())
    assert not world.reconciler._timers


async def test_an_id_of_another_scheduler_does_not_keep_the_others_from_being_followed(world: World) -> None:
    row = await world.spawn()
    await world.service.spawn(ALICE, "odd", "lab", FORM)
    await world.settle()
    odd = await world.store.current_server(ALICE, "odd")
    assert odd is not None
    await world.store.update(odd.id, lambda current: replace(current, job_id=JobId("7.head")))
    plain = world.cluster.status

    def strict(jobs):
        if any("." in job for job in jobs):
            raise BadInput("'7.head' is not a job id of this scheduler")
        return plain(jobs)

    world.cluster.status = strict
    row = await world.tick()
    assert row.phase is Phase.QUEUED
    odd = await world.store.current_server(ALICE, "odd")
    assert odd is not None
    assert (odd.phase, odd.outcome) == (Phase.REQUESTED, None)


async def test_a_server_of_a_cluster_that_is_gone_from_the_configuration_can_be_let_go(world: World) -> None:
    row = await world.ready()
    await world.store.update(row.id, lambda current: replace(current, cluster="gone"))
    view = await world.service.stop(ALICE, "", ALICE)
    assert (view.server.phase, view.server.outcome) == (Phase.ENDED, Outcome.FAILED)
    assert "'gone' is not configured any more; its job 101 may still be there" in view.server.words
    assert (await world.spawn()).phase is Phase.REQUESTED


async def test_what_is_over_the_limit_is_refused_in_words_and_costs_the_scheduler_nothing(world: World) -> None:
    world.service._settings = replace(world.service._settings, quota=Quota(servers_each=1, starts_each=2))
    await world.spawn()
    with pytest.raises(TooMany, match="You have 1 server, which is the limit here"):
        await world.service.spawn(ALICE, "second", "lab", FORM)
    assert world.cluster.count("submit") == 1
    await world.service.stop(ALICE, "", ALICE)
    for _ in range(3):
        await world.tick()
    await world.spawn()
    await world.service.stop(ALICE, "", ALICE)
    for _ in range(3):
        await world.tick()
    with pytest.raises(TooMany, match="You have started 2 servers within 10 minutes"):
        await world.service.spawn(ALICE, "", "lab", FORM)
    world.clock.move(600)
    await world.spawn()
