"""Warnings, what a job is told of its end, and more time: on a real database, a cluster in memory and time that is moved by hand."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.control.broadcast import Broadcast
from batchhub.control.extension import Extendable, Extender
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.walltime import EndKeeper, Notices, Watched
from batchhub.core.errors import BadInput, Conflict, Denied, StoreUnavailable, Unreachable
from batchhub.core.forms import Field, FieldKind, Profile
from batchhub.core.model import JobId, JobReport, JobState, Phase, Server, ServerId, UserName, Want
from batchhub.core.walltime import TimeUp
from batchhub.store import schema
from batchhub.store.store import Store
from tests.control.memory import T0, Clock, Job, MemoryCluster, MemoryTransport

ID, JOB = ServerId("abcdefghijkl"), JobId("101")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ROW = Server(
    ID,
    UserName("ann"),
    "",
    "hpc",
    "lab",
    "ann-hpc",
    T0,
    T0,
    {"walltime": 7200},
    phase=Phase.READY,
    directory="/home/ann-hpc/.batchhub/jobs/abcdefghijkl",
    job_id=JOB,
    submit_tried=T0,
    started=T0,
    host="n1",
)
FORM = Profile("lab", "hpc", fields=(Field("walltime", FieldKind.WALLTIME, maximum=6 * 3600),))
END = f"{ROW.directory}/end.json"


@dataclass
class World:
    clock: Clock
    cluster: MemoryCluster
    store: Store
    profile: Profile = FORM
    asked_by: str = "user"
    most: timedelta | None = None

    def open(self) -> None:
        self.broadcast = Broadcast()
        transport = MemoryTransport(self.cluster)
        self.poller = Poller(
            cluster="hpc",
            transport=transport,
            dialect=self.cluster,
            store=self.store,
            clock=self.clock,
            settings=PollerSettings(),
            observed=self._observed,
        )
        self.ends = EndKeeper(
            clusters={"hpc": Watched(self.poller, transport)},
            store=self.store,
            broadcast=self.broadcast,
            clock=self.clock,
            notices=lambda _: Notices(15 * MINUTE, 2 * MINUTE),
        )
        self.extender = Extender(
            clusters={"hpc": Extendable(transport, self.cluster, self.poller, self.asked_by, self.most)},  # type: ignore[arg-type]
            profiles={"lab": self.profile},
            store=self.store,
            ends=self.ends,
            broadcast=self.broadcast,
            clock=self.clock,
        )

    def _observed(self, rows: Sequence[Server]) -> None:
        self.ends.consider(rows)

    async def tick(self, span: timedelta = timedelta(seconds=20)) -> Server:
        self.clock.move(span.total_seconds())
        await self.poller.tick()
        for _ in range(4000):
            if not self.ends._busy:
                break
            await asyncio.sleep(0.005)
        return await self.store.server(ID)

    async def kinds(self) -> list[str]:
        return [event.kind for event in await self.store.events_of(ID)][1:]

    def told(self) -> float | None:
        """Seconds from the job's start to the end that it was told."""
        data = self.cluster.files.get(END)
        return None if data is None else json.loads(data)["end"] - T0.timestamp()


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
    cluster = MemoryCluster(clock)
    report = JobReport(JOB, JobState.RUNNING, "RUNNING", started=T0, time_limit=2 * HOUR, host="n1", partition="debug")
    cluster.jobs[JOB] = Job(report, ROW.job_name, "ann-hpc")
    made = World(clock, cluster, Store(f"sqlite:///{path}", clock=clock))
    await made.store.open()
    await made.store.add_server(ROW)
    made.open()
    yield made
    await made.ends.close()
    await made.store.close()


# ---------------------------------------------------------------- warnings


async def test_one_warning_for_one_end_and_open_pages_hear_of_it(world: World) -> None:
    assert (await world.tick(HOUR)).warned is None
    with world.broadcast.listen("ann") as news:
        row = await world.tick(46 * MINUTE)
        assert news.is_set()
    assert row.warned == T0 + 2 * HOUR
    for _ in range(3):
        await world.tick()
    events = [event for event in await world.store.events_of(ID) if event.kind == "warning"]
    assert [event.words for event in events] == ["The job's time is up at 2026-11-23 10:00 UTC, in 14m."]


async def test_a_silent_scheduler_s_last_word_is_a_warning_that_says_so(world: World) -> None:
    await world.tick(HOUR)
    world.cluster.down = True
    await world.tick(45 * MINUTE)
    events = [event for event in await world.store.events_of(ID) if event.kind == "warning"]
    assert [event.words for event in events] == [
        "The job's time is up at 2026-11-23 10:00 UTC, in 15m. The scheduler said so at 09:00 UTC and does not answer now."
    ]


async def test_a_hub_that_never_heard_the_end_warns_of_none(world: World) -> None:
    world.cluster.down = True
    assert (await world.tick(119 * MINUTE)).warned is None


async def test_a_job_missing_from_one_answer_is_not_warned_of(world: World) -> None:
    await world.tick(HOUR)
    world.cluster.hide = 1
    assert (await world.tick(46 * MINUTE)).warned is None
    assert (await world.tick()).warned is not None


async def test_a_warning_that_could_not_be_saved_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = world.store.update, [1, 1]

    async def update(*args: object, **more: object) -> Server:
        if failures:
            failures.pop()
            raise StoreUnavailable("The database is away.")
        return await real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.store, "update", update)
    assert (await world.tick(106 * MINUTE)).warned is None
    await world.tick()
    assert (await world.tick()).warned == T0 + 2 * HOUR


async def test_a_stopped_server_is_not_warned_of(world: World) -> None:
    await world.store.update(ID, lambda row: replace(row, want=Want.DOWN))
    assert (await world.tick(110 * MINUTE)).warned is None


# ---------------------------------------------------------------- what the job is told


async def test_a_job_whose_end_is_as_asked_is_told_nothing(world: World) -> None:
    for _ in range(3):
        await world.tick(35 * MINUTE)
    assert world.told() is None


async def test_an_end_that_an_operator_moved_is_told_when_it_matters(world: World) -> None:
    world.cluster.set(JobState.RUNNING, "n1", time_limit=4 * HOUR)
    await world.tick(HOUR)
    assert world.told() is None
    await world.tick(45 * MINUTE)
    assert world.told() == 4 * 3600


async def test_a_lowered_limit_is_told_in_time(world: World) -> None:
    world.cluster.set(JobState.RUNNING, "n1", time_limit=HOUR)
    await world.tick(41 * MINUTE)
    assert world.told() == 3600


async def test_a_file_that_cannot_be_written_is_tried_again_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def put(self: MemoryTransport, path: str, data: bytes, user: str, mode: int = 0o600) -> None:
        tries.append((path, user, mode))
        if len(tries) == 1:
            raise Denied("no space left")
        self.cluster.files[path] = data

    monkeypatch.setattr(MemoryTransport, "put", put)
    world.cluster.set(JobState.RUNNING, "n1", time_limit=HOUR)
    await world.tick(45 * MINUTE)
    await world.tick()
    assert tries == [(END, "ann-hpc", 0o600)]
    await world.tick(3 * MINUTE)
    await world.tick()
    assert len(tries) == 2
    assert world.told() == 3600


# ---------------------------------------------------------------- more time


async def test_more_time_as_the_person(world: World) -> None:
    row = await world.tick(110 * MINUTE)
    assert row.warned is not None
    assert world.extender.offers(row)[0] == 2.5 * HOUR
    after = await world.extender.extend(row, 4 * HOUR, "ann")
    assert after.words == "Its time was extended to 4h."
    assert world.cluster.asked_as["extend"] == "ann-hpc"
    assert world.told() == 4 * 3600
    # The old observation must not warn, offer or lower anything now.
    assert min(world.extender.offers(after)) > 4 * HOUR
    with pytest.raises(Conflict, match="4h in all already"):
        await world.extender.extend(after, 3 * HOUR, "ann")
    row = await world.tick()
    assert row.warned is None
    row = await world.tick(120 * MINUTE)
    assert row.warned == T0 + 4 * HOUR
    assert await world.kinds() == ["warning", "extended", "walltime", "warning"]


async def test_more_time_as_the_service(world: World) -> None:
    world.asked_by, world.most = "service", 8 * HOUR
    world.open()
    row = await world.tick(HOUR)
    await world.extender.extend(row, 8 * HOUR, "root")
    assert world.cluster.asked_as["extend"] is None
    assert (await world.store.events_of(ID))[-1].by == "root"


@pytest.mark.parametrize(
    ("profile", "most", "walltime", "bound"),
    [
        (FORM, None, 7 * HOUR, "6h"),  # the form's own limit
        (FORM, 12 * HOUR, 9 * HOUR, "8h"),  # the partition's
        (replace(FORM, time_up=TimeUp(extend_at_most="3h")), 12 * HOUR, 4 * HOUR, "3h"),  # the profile's
        (FORM, 5 * HOUR, 6 * HOUR, "5h"),  # the cluster's
        (replace(FORM, fields=(), fixed={"walltime": 7200}), None, 3 * HOUR, "2h"),
    ],
)
async def test_bounds(world: World, profile: Profile, most: timedelta | None, walltime: timedelta, bound: str) -> None:
    world.profile, world.most = profile, most
    world.open()
    row = await world.tick(HOUR)
    with pytest.raises(BadInput, match=f"a job may have {bound} in all"):
        await world.extender.extend(row, walltime, "ann")
    assert "extend" not in world.cluster.calls
    assert all(offer < walltime for offer in world.extender.offers(row))


async def test_a_refusal_is_the_scheduler_s_own(world: World) -> None:
    row = await world.tick(HOUR)
    world.cluster.refuse = "Access/permission denied for job 101"
    with pytest.raises(Denied, match="Access/permission denied for job 101"):
        await world.extender.extend(row, 3 * HOUR, "ann")
    assert await world.kinds() == []
    assert world.told() is None


async def test_where_the_site_permits_none(world: World) -> None:
    world.asked_by = "no"
    world.open()
    row = await world.tick(HOUR)
    assert world.extender.offers(row) == ()
    with pytest.raises(Denied, match="cannot be had on this cluster"):
        await world.extender.extend(row, 3 * HOUR, "ann")


async def test_what_does_not_run_and_a_silent_scheduler(world: World) -> None:
    row = await world.tick(HOUR)
    for other in (replace(row, phase=Phase.QUEUED), replace(row, want=Want.DOWN), replace(row, phase=Phase.ENDED)):
        assert world.extender.offers(other) == ()
        with pytest.raises(Conflict, match="does not run"):
            await world.extender.extend(other, 3 * HOUR, "ann")
    world.cluster.down = True
    await world.tick()
    assert world.extender.offers(row) == ()
    with pytest.raises(Unreachable, match="does not answer"):
        await world.extender.extend(row, 3 * HOUR, "ann")


async def test_no_limit_is_nothing_to_extend(world: World) -> None:
    world.cluster.set(JobState.RUNNING, "n1", time_limit=None)
    row = await world.tick(HOUR)
    assert world.extender.offers(row) == ()
    with pytest.raises(Conflict, match="no time limit"):
        await world.extender.extend(row, 3 * HOUR, "ann")


async def test_two_requests_at_once_are_one(world: World) -> None:
    row = await world.tick(HOUR)
    await world.poller.inspect()
    asked = [world.extender.extend(row, span, "ann") for span in (5 * HOUR, 3 * HOUR)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Server, Conflict]
    assert world.cluster.jobs[JOB].report.time_limit == 5 * HOUR
