"""What bench/polling.py measures: the hub's own poller, reconciler and database on fake clusters' executables, and on a real Slurm.

Ticks are driven one by one, with a clock that is moved by hand: what a tick costs does not depend on how long one waits between two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from batchhub.control.batches import batches
from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.reconciler import Cluster as Facts
from batchhub.control.reconciler import Reconciler, ReconcilerSettings
from batchhub.core.model import Endpoint, JobId, JobReport, Phase, Server, UserName, new_server_id
from batchhub.core.ports import Command, Completed, Dialect, RouteTarget, Transport
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm
from batchhub.store import schema, servers
from batchhub.store.models import ServerRow
from batchhub.store.people import ensure_user
from batchhub.store.store import Store
from batchhub.transport.local import LocalSettings, LocalTransport
from bench.machine import Unfit
from tests.control.memory import MemoryBuilder, MemoryRoutes
from tests.fakesched.engine import Cluster
from tests.lab.cluster import SlurmLab

NODES = {"n1": {"cores": 100_000}}
OWNER = "alice"
PBS_SERVER = "pbs01.cluster.example.org"


@dataclass(frozen=True, slots=True)
class Kind:
    """One dialect: how its fake cluster is made, who asks for states and who for ends."""

    family: str
    make: Callable[[str], Dialect]
    status: str
    config: dict[str, Any]
    accounting: str = ""
    suffix: str = ""


KINDS = {
    "slurm": Kind("slurm", lambda where: Slurm(bin_dir=where), "squeue", {"min_job_age": 0.0}, "sacct"),
    "pbs": Kind("pbs", lambda where: Pbs(bin_dir=where), "qstat", {"pbs_server": PBS_SERVER}, "qstat -x", f".{PBS_SERVER}"),
    "torque": Kind(
        "pbs",
        lambda where: Torque(bin_dir=where),
        "qstat",
        {"torque": True, "pbs_server": PBS_SERVER, "keep_completed": 0.0},
        suffix=f".{PBS_SERVER}",
    ),
    "lsf": Kind("lsf", lambda where: Lsf(bin_dir=where), "bjobs", {"clean_period": 0.0}, "bhist"),
    "openlava": Kind(
        "lsf",
        lambda where: Lsf(bin_dir=where, flavour="openlava"),
        "bjobs",
        {"lsf": "openlava", "clean_period": 0.0},
        "bhist",
    ),
}  # fmt: skip


class Clock:
    """Time that is moved by hand."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)  # noqa: TID251 - a program of its own

    def __call__(self) -> datetime:
        """Now."""
        return self.now


class Counted:
    """A transport that counts what it runs, by program; ``qstat -x`` is another one than ``qstat``."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.ran: dict[str, int] = {}
        self.seconds = 0.0

    async def run(self, command: Command, user: str | None = None) -> Completed:
        """Run and count."""
        name = Path(command.argv[0]).name
        name += " -x" if command.argv[1:3] == ("-x", "-f") else ""
        self.ran[name] = self.ran.get(name, 0) + 1
        begun = time.monotonic()
        done = await self._inner.run(command, user)
        self.seconds += time.monotonic() - begun
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# ---------------------------------------------------------------- a hub that watches


class Watch:
    """The poller and reconciler of one cluster, whose servers are in the database already."""

    def __init__(self, name: str, dialect: Dialect, store: Store, transport: Transport) -> None:
        self.clock = Clock()
        self.transport = Counted(transport)
        self.store = store
        self.consider = 0.0
        self.cluster = name
        routes, builder, self.broadcast = MemoryRoutes(), MemoryBuilder(), Broadcast()
        self.routes = routes
        self.poller = Poller(
            cluster=name,
            transport=self.transport,
            dialect=dialect,
            store=store,
            clock=self.clock,
            settings=PollerSettings(),
            observed=self._observed,
        )
        self.reconciler = Reconciler(
            clusters={name: Facts(self.poller, Launcher(self.transport, dialect, builder))},
            store=store,
            routes=routes,
            builder=builder,
            broadcast=self.broadcast,
            clock=self.clock,
            settings=ReconcilerSettings(),
        )

    async def open(self) -> int:
        """The routes are there, as in a hub that runs for a while; how many servers there are."""
        rows = await self.store.live_servers(self.cluster)
        for row in rows:
            self.routes.routes[row.path] = RouteTarget(row.path, Endpoint("n1", 1), row.user, row.id)
        await self.reconciler.verify_routes()
        return len(rows)

    def _observed(self, rows: Sequence[Server]) -> None:
        begun = time.thread_time()
        self.reconciler.consider(rows)
        self.broadcast.tell(*(row.id for row in rows))
        self.consider += time.thread_time() - begun

    async def tick(self) -> None:
        """The next one, when its time has come."""
        self.clock.now += timedelta(seconds=self.poller.pause())
        await self.poller.tick()

    async def ticks(self, count: int, expected: int) -> dict[str, float]:
        """What a tick without news costs: commands by program, and seconds. Raises Unfit when a server was not seen."""
        await self.tick()  # the first look is news
        self.transport.ran.clear()
        costs: list[dict[str, float]] = []
        for _ in range(count):
            self.consider = self.transport.seconds = 0.0
            cpu, loop, begun = time.process_time(), time.thread_time(), time.monotonic()
            async with _heartbeat() as late:
                await self.tick()
            costs.append(
                {
                    "cpu_s": time.process_time() - cpu,
                    "loop_cpu_s": time.thread_time() - loop,
                    "consider_cpu_s": self.consider,
                    "loop_held_up_s": max(late, default=0.0),
                    "commands_s": self.transport.seconds,
                    "tick_s": time.monotonic() - begun,
                }
            )
        rows = await self.store.live_servers(self.cluster)
        seen = sum((one := self.poller.newest(row.id)) is not None and one.report is not None for row in rows)
        if self.poller.silent_since is not None or seen != expected or len(rows) != expected:
            raise Unfit(f"{self.cluster}: of {expected} servers {seen} were seen. {self.poller.silent_word}")
        return {name: round(statistics.median(cost[name] for cost in costs), 4) for name in costs[0]}

    async def close(self) -> None:
        """Stop looking."""
        await self.reconciler.close()


@contextlib.asynccontextmanager
async def _heartbeat() -> Any:
    """How late a task is that wants to run every five milliseconds: for so long the loop served nobody (nor did a busy machine)."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - begun - 0.005)

    task = asyncio.ensure_future(beat())
    try:
        yield late
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def look(dialect: Dialect, transport: Transport, jobs: Sequence[JobId]) -> list[JobReport]:
    """What the scheduler says of the jobs."""
    found: dict[JobId, JobReport] = {}
    for part in batches(jobs):
        found.update(dialect.read_status(await transport.run(dialect.status(part)), part).jobs)
    return [found[job] for job in jobs]


def fill(path: Path, cluster: str, jobs: Sequence[JobReport]) -> None:
    """Servers with these jobs as a hub has them that saw them before, written in one transaction."""
    empty = path.parent / "empty.sqlite"
    if not empty.exists():
        schema.upgrade(f"sqlite:///{empty}")
    shutil.copy(empty, path)
    now = datetime.now(UTC)  # noqa: TID251 - a program of its own
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine, autoflush=False) as session, session.begin():
        ensure_user(session, OWNER, now)
        for number, job in enumerate(jobs):
            row = Server(
                new_server_id(),
                UserName(OWNER),
                f"s{number}",
                cluster,
                "lab",
                OWNER,
                now,
                now,
                phase=Phase.READY if job.host else Phase.QUEUED,
                directory="/nowhere",
                job_id=job.id,
                host=job.host,
                started=job.started,
                submit_tried=now,
                submit_count=1,
                answered=now if job.host else None,
                endpoint=Endpoint("n1", 4711),
                nonce="0" * 32,
            )
            made = ServerRow(user_name=OWNER)
            servers._write(made, row)  # noqa: SLF001 - one by one, as people do it, thousands take longer than what is measured
            session.add(made)
    engine.dispose()


@dataclass(frozen=True, slots=True)
class Place:
    """A directory for it all, and the dialect's cluster in it."""

    path: Path
    kind: Kind
    cluster: Cluster
    where: str
    jobs: list[JobId]

    @contextlib.asynccontextmanager
    async def watch(self, name: str, count: int) -> Any:
        """A hub with ``count`` of the jobs as servers."""
        database = self.path / f"{name}.sqlite"
        dialect, transport = self.kind.make(self.where), LocalTransport(LocalSettings())
        fill(database, name, await look(dialect, transport, self.jobs[:count]))
        async with watching(name, dialect, database, transport) as made:
            yield made


@contextlib.asynccontextmanager
async def watching(name: str, dialect: Dialect, database: Path, transport: Transport) -> Any:
    """A hub on a database that is filled."""
    store = Store(f"sqlite:///{database}", clock=lambda: datetime.now(UTC))  # noqa: TID251
    await store.open()
    made = Watch(name, dialect, store, transport)
    try:
        await made.open()
        yield made
    finally:
        await made.close()
        await store.close()


@contextlib.contextmanager
def place(path: Path, name: str, count: int) -> Iterator[Place]:
    """A fake cluster with that many running jobs, whose ids have seven digits."""
    kind = KINDS[name]
    cluster = Cluster(path / "cluster").create({"nodes": NODES, "first_id": 1_000_000, **kind.config})
    try:
        where = cluster.install(kind.family, path / "bin")
        jobs = [JobId(f"{seq}{kind.suffix}") for seq in cluster.fill(count, user=OWNER)]
        yield Place(path, kind, cluster, where, jobs)
    finally:
        cluster.shutdown()


# ---------------------------------------------------------------- what is asked of it


async def sizes(place_: Place, name: str, counts: Sequence[int], ticks: int) -> dict[str, dict[str, float]]:
    """Number of servers -> what one tick asks and costs."""
    found = {}
    for count in counts:
        async with place_.watch(f"{name}-{count}", count) as watch:
            cost = await watch.ticks(ticks, count)
            asked = watch.transport.ran
            found[str(count)] = {
                "status_commands": asked.get(place_.kind.status, 0) / ticks,
                "all_commands": sum(asked.values()) / ticks,
                **cost,
            }
    return found


async def ends(place_: Place, name: str, count: int) -> dict[str, float]:
    """Many jobs end between two ticks: what accounting is asked, then and afterwards."""
    async with place_.watch(f"{name}-ends", count) as watch:
        watch.reconciler.consider = list  # the ends stay unwritten: the worst case for asking again
        await watch.tick()
        watch.transport.ran.clear()
        place_.cluster.finish_all(place_.jobs[:count])
        for _ in range(6):
            await watch.tick()
        rows = await watch.store.live_servers(watch.cluster)
        known = sum((seen := watch.poller.newest(row.id)) is not None and seen.truth == "gone" for row in rows)
        if known != count:
            raise Unfit(f"{name}: of {count} ends {known} were noticed.")
        return {"jobs": count, "ticks": 6, "accounting_commands": watch.transport.ran.get(place_.kind.accounting, 0)}


async def for_real(place_: Place, name: str, count: int, seconds: float) -> dict[str, float]:
    """The poller's own loop, with somebody waiting, by the machine's clock: status commands a minute."""
    async with place_.watch(f"{name}-run", count) as watch:
        watch.poller.watch(+1)
        running = asyncio.ensure_future(watch.poller.run())
        begun = time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - begun
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        commands = watch.transport.ran.get(place_.kind.status, 0)
        # The first is at once; the pauses between them are what is measured.
        return {"servers": count, "seconds": round(took, 1), "per_minute": round((commands - 1) * 60 / took, 1)}


# ---------------------------------------------------------------- a real Slurm

_CALLS = re.compile(r"^\s*(REQUEST_\w+)\s*\(\s*\d+\)\s*count:(\d+)", re.MULTILINE)
_NOT_OURS = {"REQUEST_STATS_INFO", "REQUEST_PING"}


async def real_slurm(path: Path, counts: Sequence[int], ticks: int) -> dict[str, Any]:
    """The controller's own count of the requests it served (``sdiag``), for our ticks and for one squeue a job. Raises Unfit without a lab."""
    try:
        with SlurmLab() as lab:
            return await _on(lab, path, counts, ticks)
    except pytest.skip.Exception as error:
        raise Unfit(str(error)) from error


async def _on(lab: SlurmLab, path: Path, counts: Sequence[int], ticks: int) -> dict[str, Any]:
    most = max(counts)
    loop = f"for i in $(seq {most}); do sbatch --parsable --hold -t 10 -o /dev/null --wrap 'sleep 1' || exit 1; done"
    done = lab.run_as(OWNER, ["sh", "-c", loop], timeout=300)
    jobs = [JobId(word) for word in done.stdout.split()]
    if len(jobs) != most:
        raise Unfit(f"Of {most} jobs Slurm took {len(jobs)}: {done.stderr[-300:]}")
    found: dict[str, Any] = {"version": lab.admin("sinfo", "--version").strip(), "sizes": {}}
    os.environ["SLURM_CONF"] = str(lab.conf)
    try:
        for count in counts:
            database = path / f"real-{count}.sqlite"
            transport = LocalTransport(LocalSettings())
            fill(database, f"real-{count}", await look(Slurm(), transport, jobs[:count]))
            async with watching(f"real-{count}", Slurm(), database, transport) as watch:
                await watch.tick()
                watch.transport.ran.clear()
                before = _rpcs(lab)
                for _ in range(ticks):
                    await watch.tick()
                if watch.poller.silent_since is not None:
                    raise Unfit(watch.poller.silent_word)
                served = _difference(before, _rpcs(lab))
                found["sizes"][str(count)] = {
                    "status_commands": watch.transport.ran.get("squeue", 0) / ticks,
                    "rpcs_per_tick": sum(served.values()) / ticks,
                    "rpcs": served,
                }
        before = _rpcs(lab)
        for job in jobs[:10]:
            lab.run_as(OWNER, ["squeue", "-h", "-j", job, "-o", "%T %B"])
        found["one_squeue_for_one_job"] = {"rpcs": sum(_difference(before, _rpcs(lab)).values()) / len(jobs[:10])}
    finally:
        del os.environ["SLURM_CONF"]
        lab.admin("scancel", "-u", OWNER)
    return found


def _rpcs(lab: SlurmLab) -> dict[str, int]:
    text = lab.admin("sdiag").partition("by message type")[2].partition("by user")[0]
    return {name: int(count) for name, count in _CALLS.findall(text)}


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {
        name: count - before.get(name, 0)
        for name, count in after.items()
        if count != before.get(name, 0) and name not in _NOT_OURS
    }
