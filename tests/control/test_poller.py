"""The poller on a fake cluster's real executables and a real database: how often it asks, for how many, and about what again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.control.pace import Pace
from batchhub.control.poller import Poller, PollerSettings
from batchhub.core.errors import StoreUnavailable, Unreachable
from batchhub.core.model import JobId, JobState, Phase, Server, Truth, UserName, new_server_id
from batchhub.core.ports import Command, Completed, Dialect
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm
from batchhub.store import schema
from batchhub.store.store import Store
from batchhub.transport.local import LocalSettings, LocalTransport
from tests.control.memory import Clock
from tests.fakesched.engine import Cluster

QUESTIONS = {"slurm": "squeue", "pbs": "qstat", "torque": "qstat", "lsf": "bjobs", "openlava": "bjobs"}
CONFIG = {"torque": {"torque": True}, "openlava": {"lsf": "openlava"}}


class Breaking(LocalTransport):
    """After ``answers`` more commands the login node is away; never, if that is ``None``."""

    answers: int | None = None

    async def run(self, command: Command, user: str | None = None) -> Completed:
        if self.answers is not None:
            self.answers -= 1
            if self.answers < 0:
                raise Unreachable("The login node does not answer.")
        return await super().run(command, user)


@dataclass
class Watched:
    """A fake cluster, its servers in a database, and the poller, whose time is moved by hand."""

    kind: str
    cluster: Cluster
    store: Store
    clock: Clock
    poller: Poller
    transport: Breaking
    where: str

    async def add(self, count: int, phase: Phase = Phase.READY) -> list[Server]:
        """Servers whose jobs run."""
        rows = []
        for seq in self.cluster.fill(count):
            row = Server(
                new_server_id(),
                UserName("alice"),
                f"s{seq}",
                "hpc",
                "lab",
                "alice",
                self.clock(),
                self.clock(),
                phase=phase,
                job_id=self.job(seq),
                submit_tried=self.clock(),
                submit_count=1,
            )
            rows.append(await self.store.add_server(row))
        return rows

    def job(self, seq: int) -> JobId:
        return JobId(f"{seq}.head" if self.kind in {"pbs", "torque"} else str(seq))

    async def tick(self, seconds: float = 2.0) -> None:
        self.clock.move(seconds)
        await self.poller.tick()

    def truths(self, rows: Sequence[Server]) -> set[Truth | None]:
        seen = [self.poller.newest(row.id) for row in rows]
        return {one.truth if one else None for one in seen}

    def count(self, command: str) -> int:
        return self.cluster.count(command)


def dialect(kind: str, where: str) -> Dialect:
    makers = {"slurm": Slurm, "pbs": Pbs, "torque": Torque, "lsf": Lsf}
    return Lsf(bin_dir=where, flavour="openlava") if kind == "openlava" else makers[kind](bin_dir=where)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "hub.sqlite"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def watch(tmp_path: Path, empty_database: Path) -> AsyncIterator[object]:
    opened: list[Watched] = []

    async def make(kind: str = "slurm", settings: PollerSettings | None = None, **config: object) -> Watched:
        cluster = Cluster(tmp_path / "cluster").create({**CONFIG.get(kind, {}), **config})
        family = {"torque": "pbs", "openlava": "lsf"}.get(kind, kind)
        where = cluster.install(family, tmp_path / "bin")
        shutil.copy(empty_database, tmp_path / "hub.sqlite")
        clock = Clock()
        store = Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", clock=clock)
        await store.open()
        transport = Breaking(LocalSettings())
        poller = Poller(
            cluster="hpc",
            transport=transport,
            dialect=dialect(kind, where),
            store=store,
            clock=clock,
            settings=settings or PollerSettings(),
            observed=lambda rows: None,
        )
        opened.append(Watched(kind, cluster, store, clock, poller, transport, where))
        return opened[-1]

    yield make
    for one in opened:
        await one.store.close()
        one.cluster.shutdown()


# ---------------------------------------------------------------- one question


@pytest.mark.parametrize("kind", QUESTIONS)
async def test_one_command_for_all(watch, kind: str) -> None:
    world = await watch(kind)
    rows = await world.add(30)
    for _ in range(3):
        await world.tick()
    assert world.truths(rows) == {Truth.SEEN}
    assert world.count(QUESTIONS[kind]) == 3


async def test_what_does_not_fit_one_command_is_split(watch) -> None:
    world = await watch("pbs", PollerSettings(line_bytes=60, batch=7))
    rows = await world.add(20)
    await world.tick()
    assert world.truths(rows) == {Truth.SEEN}
    asked = [call.argv[3:] for call in world.cluster.calls("qstat")]
    assert [job for part in asked for job in part] == [row.job_id for row in rows]
    assert len(asked) == 3


async def test_a_part_that_was_not_answered_leaves_the_others_known(watch) -> None:
    world = await watch("slurm", PollerSettings(batch=4))
    rows = await world.add(12)
    await world.tick()
    world.transport.answers = 2
    await world.tick()
    assert [world.truths(rows[at : at + 4]) for at in (0, 4, 8)] == [{Truth.SEEN}, {Truth.SEEN}, {Truth.UNKNOWN}]
    assert world.poller.silent_since is not None
    assert world.poller.pause() > Pace().fast
    world.transport.answers = None
    await world.tick()
    assert world.truths(rows) == {Truth.SEEN}
    assert world.poller.silent_since is None


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("kind", "config", "command", "option"),
    [
        ("slurm", {"min_job_age": 0.0}, "sacct", ""),
        ("pbs", {}, "qstat", "-x"),
        ("lsf", {"clean_period": 0.0}, "bhist", ""),
        ("openlava", {"clean_period": 0.0}, "bhist", ""),
    ],
)
async def test_many_ends_in_one_tick_cost_one_question_to_accounting(
    watch, kind: str, config: dict[str, float], command: str, option: str
) -> None:
    world = await watch(kind, **config)
    rows, others = await world.add(25), await world.add(5)

    def asked() -> int:
        return sum(not option or option in call.argv for call in world.cluster.calls(command))

    await world.tick()
    world.cluster.finish_all(row.job_id for row in rows)
    for _ in range(2):
        await world.tick()
    assert world.truths(rows) == {Truth.GONE}
    assert {world.poller.newest(row.id).report.state for row in rows} == {JobState.COMPLETED}
    assert asked() == 1
    # Nobody has written it on the rows yet (a database that is away, a reconciler that is busy): that is no reason to ask again.
    for _ in range(5):
        await world.tick()
    assert world.truths(rows) == {Truth.GONE}
    assert world.truths(others) == {Truth.SEEN}
    assert asked() == 1


async def test_accounting_that_lags_is_asked_less_and_less(watch) -> None:
    world = await watch("slurm", min_job_age=0.0, accounting_delay=3600.0)
    rows = await world.add(3)
    await world.tick()
    world.cluster.finish_all(row.job_id for row in rows)
    for _ in range(20):
        await world.tick()
    assert world.truths(rows) == {Truth.UNKNOWN}
    assert world.count("sacct") == 5  # 0, 2, 6, 14 and 29 seconds after the second answer without them
    world.cluster.configure(accounting_delay=0.0)
    for _ in range(8):
        await world.tick()
    assert world.truths(rows) == {Truth.GONE}
    assert world.count("sacct") == 6


async def test_records_that_can_only_be_asked_for_one_by_one_are_all_asked_for(watch) -> None:
    world = await watch("slurm", PollerSettings(single_records=2), accounting=False, min_job_age=0.0)
    for asker in (world.poller, world.poller._questions, world.poller._endings):
        asker._dialect = Slurm(bin_dir=world.where, sacct=False)
    rows = await world.add(5)
    await world.tick()
    world.cluster.finish_all(row.job_id for row in rows)
    await world.tick()
    for _ in range(3):
        before = world.count("scontrol")
        await world.tick()
        assert world.count("scontrol") - before <= 2
    asked = {call.argv[-1] for call in world.cluster.calls("scontrol")}
    assert asked == {row.job_id for row in rows}


# ---------------------------------------------------------------- the pace


async def test_an_end_that_nobody_waits_for_is_noticed_within_the_ceiling(watch) -> None:
    """The worst case: the job ends just after a look, in the quietest hour."""
    pace = Pace(fast=2.0, slow=20.0, ceiling=60.0)
    world = await watch("slurm", PollerSettings(pace=pace), min_job_age=0.0)
    rows = await world.add(1)
    for _ in range(40):
        await world.tick(world.poller.pause())
    assert world.poller.pause() == pace.ceiling
    world.cluster.finish_all([rows[0].job_id])
    ended = world.clock()
    while world.truths(rows) != {Truth.GONE}:
        await world.tick(world.poller.pause())
        assert world.clock() - ended <= timedelta(seconds=pace.ceiling + pace.fast)


async def test_it_is_quick_while_somebody_waits_or_something_moves(watch) -> None:
    world = await watch("slurm")
    await world.add(1)
    await world.tick()
    await world.tick()
    assert world.poller.pause() == 4.0
    world.poller.watch(+1)
    assert world.poller.pause() == 2.0
    world.poller.watch(-1)
    starting = await world.add(1, Phase.STARTING)
    for _ in range(4):
        await world.tick()
    assert world.poller.pause() == 2.0
    await world.store.update(starting[0].id, lambda row: replace(row, phase=Phase.READY))
    await world.tick()
    assert world.poller.pause() == 20.0


async def test_failures_slow_it_down_and_one_answer_speeds_it_up(watch) -> None:
    world = await watch("slurm")
    await world.add(1)
    await world.tick()
    world.poller.watch(+1)
    world.cluster.fault("down", command="squeue")
    pauses = []
    for _ in range(6):
        await world.tick()
        pauses.append(world.poller.pause())
    assert pauses == [4, 8, 16, 32, 60, 60]
    world.cluster.clear_faults()
    await world.tick()
    assert world.poller.pause() == 2.0


async def test_a_cluster_with_nothing_to_ask_does_not_go_on_failing(watch) -> None:
    """Else the first person to come after a failure of the database would wait out a pause of a minute."""
    world = await watch("slurm")
    live = world.store.live_servers

    async def fail(cluster: str | None = None) -> Sequence[Server]:
        raise StoreUnavailable("The database is away.")

    world.store.live_servers = fail
    running = asyncio.ensure_future(world.poller.run())
    for _ in range(6000):
        if world.poller.pause() > 2.0:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.poller.pause() == 4.0
    world.store.live_servers = live
    await world.tick()
    assert world.poller.pause() == 4.0  # the second quiet tick, no failure
    assert world.poller._failures == 0


# ---------------------------------------------------------------- what a cluster offers


async def test_a_hundred_forms_ask_once_what_the_cluster_offers(watch) -> None:
    world = await watch("slurm")
    found = await asyncio.gather(*(world.poller.inspect() for _ in range(100)))
    assert {queues[0].name for queues in found} == {"cpu"}
    assert (world.count("scontrol"), world.count("sinfo")) == (1, 1)
    world.clock.move(299)
    await world.poller.inspect()
    assert world.count("sinfo") == 1
    world.clock.move(2)
    await asyncio.gather(*(world.poller.inspect() for _ in range(100)))
    assert (world.count("scontrol"), world.count("sinfo")) == (2, 2)
