"""The control plane in one process, on a cluster of fakesched's real executables, with time that tests move.

Real are the database (SQLite), poller, reconciler, launcher, service, dialect, the local transport and every command and file that it
runs and writes, and the jobs: small shell scripts that do what ``launch.py`` does for the hub (``connection.json``, ``job.log``,
``exit.json``). In memory is the proxy: :class:`Doors` lets a probe through only to the start that the job's own file tells of, on the
node where the cluster runs it.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchhub.app.state import utc_now
from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.ports import JobFiles
from batchhub.control.reconciler import Cluster, Reconciler, ReconcilerSettings
from batchhub.control.service import ClusterFacts, HubService, ServerView, ServiceSettings
from batchhub.core.customising import NOT_CUSTOMISED, Customisation
from batchhub.core.errors import TunnelError
from batchhub.core.forms import Profile
from batchhub.core.model import JobId, Phase, Server, UserName
from batchhub.core.ports import Command, Completed, RouteTarget
from batchhub.store.store import Store
from batchhub.transport.local import LocalSettings, LocalTransport
from tests.control.memory import MemoryBuilder, MemoryRoutes
from tests.fakesched.engine import Cluster as Fake
from tests.faults.sites import Site

ALICE, BOB = UserName("alice"), UserName("bob")
ACCOUNT = getpass.getuser()
PROFILE = Profile(name="lab", cluster="hpc")

PATIENCE = 120.0
"""Seconds of the machine's own time that a test waits for what must come."""

# The job waits in `read` on a FIFO, so that a test may end it by itself with an exit code of its choice.
SCRIPT = """#!/bin/sh
{directives}
cd {directory} || exit 9
exec >>job.log 2>&1
generation=$(sed 's/[^0-9]//g' secrets.json)
nonce=$(printf '%032x' $$)
[ -p bell ] || mkfifo bell
echo "start $generation on $HOSTNAME"
printf '{{"version": 1, "host": "%s", "addresses": [], "port": 4711, "socket": "", "pid": %d, "nonce": "%s", "generation": %d, "time": 1.0}}' \\
    "$HOSTNAME" $$ "$nonce" "$generation" >connection.part && mv connection.part connection.json
read -r code <bell
printf '{{"version": 1, "code": %d, "signal": null, "word": "The application ended with %d.", "time": 1.0}}' "$code" "$code" >exit.json
exit "$code"
"""


class Clock:
    """The machine's time, and as much further as a test moved it: jobs' own times are the machine's."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def move(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


class Transport(LocalTransport):
    """The hub's own machine. ``most``: the seconds that any command gets, if that is less than its deadline."""

    most: float | None = None

    async def run(self, command: Command, user: str | None = None) -> Completed:
        if self.most is not None:
            command = replace(command, deadline=min(command.deadline, self.most))
        return await super().run(command, user)


class Builder(MemoryBuilder):
    """Jobs of the script above. ``directives`` are its second line."""

    def __init__(self, directives: str) -> None:
        super().__init__()
        self.directives = directives

    def build(self, server: Server, home: str, added: Customisation = NOT_CUSTOMISED) -> JobFiles:
        directory = f"{home.rstrip('/')}/.batchhub/jobs/{server.id}"
        script = SCRIPT.format(directory=shlex.quote(directory), directives=self.directives)
        return JobFiles(script, {"secrets.json": self.secrets(server, added)})


@dataclass
class Doors(MemoryRoutes):
    """A proxy that reaches what is there: the newest start of the server's job, on its own node, with its own secret."""

    world: World = field(kw_only=True)

    async def probe(self, target: RouteTarget, path: str) -> int:
        del path
        said = json.loads((self.world.home / f".batchhub/jobs/{target.server_id}/connection.json").read_text())
        job = await self.world.job_of(target.server_id)
        secret = f"secret-of-{target.server_id}-{said['generation']}-{said['nonce']}"
        if job is None or job.state != "RUNNING" or job.host != target.endpoint.host or job.host != said["host"]:
            raise TunnelError(f"{target.endpoint.host}:{target.endpoint.port}: Connection refused")
        return 200 if target.authorization == f"token {secret}" else 403


@dataclass
class World:
    """One hub and one cluster. ``site`` says which scheduler."""

    path: Path
    site: Site
    clock: Clock = field(default_factory=Clock)
    options: dict[str, Any] = field(default_factory=dict)
    directives: str = ""

    def __post_init__(self) -> None:
        self.home = self.path / "home"
        self.home.mkdir()
        self.fake = self.new_fake("cluster")
        self.fakes = [self.fake]
        self.bin_dir = self.fake.install(self.site.bin, self.path / "bin")
        self.doors = Doors(world=self)

    def new_fake(self, name: str) -> Fake:
        config = {
            "name": name,
            "nodes": {"n1": {"cores": 2}, "n2": {"cores": 2}},
            "kill_wait": 0.5,
            "requeue_delay": 0.0,
            "admins": ["nosuch-admin"],
            "node_path": os.environ["PATH"],
        }
        return Fake(self.path / name).create({**config, **self.site.fake})

    def beside(self, name: str) -> Fake:
        """Another cluster that the same Slurm database knows."""
        made = self.new_fake(name)
        self.fake.configure(clusters={name: str(made.path)})
        self.fakes.append(made)
        return made

    async def open(self) -> None:
        self.store = Store(f"sqlite:///{self.path}/hub.sqlite", clock=self.clock)
        await self.store.open()
        broadcast, builder = Broadcast(), Builder(self.directives)
        self.builder = builder
        self.transport = Transport(LocalSettings())
        self.dialect = self.site.make(self.bin_dir, **self.options)
        self.poller = Poller(
            cluster="hpc",
            transport=self.transport,
            dialect=self.dialect,
            store=self.store,
            clock=self.clock,
            settings=PollerSettings(),
            observed=self._observed,
        )
        self.launcher = Launcher(self.transport, self.dialect, builder)
        self.reconciler = Reconciler(
            clusters={"hpc": Cluster(self.poller, self.launcher)},
            store=self.store,
            routes=self.doors,
            builder=builder,
            broadcast=broadcast,
            clock=self.clock,
            settings=ReconcilerSettings(),
        )
        self.service = HubService(
            profiles=[PROFILE],
            clusters={"hpc": ClusterFacts("HPC", self.poller, lambda _: ACCOUNT)},
            store=self.store,
            reconciler=self.reconciler,
            builder=builder,
            broadcast=broadcast,
            clock=self.clock,
            checks={},
            settings=ServiceSettings(first_word=0.05),
        )

    def _observed(self, rows: Sequence[Server]) -> None:
        self.reconciler.consider(rows)

    async def close(self) -> None:
        await self.reconciler.close()
        await self.store.close()
        await self.transport.close()
        for fake in self.fakes:
            fake.shutdown()

    def impatient(self, seconds: float = 0.4) -> None:
        """Commands get no longer than this from now on."""
        self.transport.most = seconds

    def patient(self) -> None:
        self.transport.most = None

    # ------------------------------------------------ time

    async def settle(self) -> None:
        """Let every look that is under way end."""
        for _ in range(24_000):
            if not self.reconciler._busy and not self.reconciler._again:
                return
            await asyncio.sleep(0.005)
        pytest.fail("the reconciler does not come to rest")

    async def tick(self, seconds: float = 2.0) -> None:
        self.clock.move(seconds)
        await self.poller.tick()
        await self.settle()

    async def until(self, condition: Callable[[Server], bool], user: UserName = ALICE, seconds: float = 0.0) -> Server:
        """Tick until the row is so; the clock moves by ``seconds`` each time, and as the machine's does."""
        row = await self.row(user)
        end = asyncio.get_running_loop().time() + PATIENCE
        while not condition(row):
            if asyncio.get_running_loop().time() > end:
                pytest.fail(f"never came: {row}\n{self.poller.newest(row.id)}\n{self.fake.jobs()}")
            await self.tick(seconds)
            row = await self.row(user)
            await asyncio.sleep(0.02)
        return row

    async def until_phase(self, phase: Phase, user: UserName = ALICE, seconds: float = 0.0) -> Server:
        return await self.until(lambda row: row.phase is phase, user, seconds)

    # ------------------------------------------------ people

    async def row(self, user: UserName = ALICE) -> Server:
        row = await self.store.current_server(user, "")
        assert row is not None
        return row

    async def view(self, user: UserName = ALICE) -> ServerView:
        return await self.service.server(user, "")

    async def start(self, user: UserName = ALICE) -> Server:
        """Ask for a server, and wait for what the submit command said."""
        await self.service.spawn(user, "", "lab", {})
        await self.settle()
        return await self.row(user)

    async def stop(self, user: UserName = ALICE) -> None:
        await self.service.stop(user, "", user)
        await self.settle()

    async def ready(self, user: UserName = ALICE) -> Server:
        """A server that is ready, with its route."""
        await self.start(user)
        row = await self.until_phase(Phase.READY, user)
        assert self.routed(user)
        return row

    async def queued(self, user: UserName = ALICE) -> Server:
        """A server whose job waits: its partition is closed until :meth:`open_partition`."""
        self.fake.set_partition("cpu", state="DOWN")
        await self.start(user)
        return await self.until_phase(Phase.QUEUED, user)

    def open_partition(self) -> None:
        self.fake.set_partition("cpu", state="UP")

    def routed(self, user: UserName = ALICE) -> bool:
        return f"/user/{user}/" in self.doors.routes

    # ------------------------------------------------ the cluster

    async def job_of(self, server_id: str) -> SimpleNamespace | None:
        jobs = [job for fake in self.fakes for job in fake.jobs() if server_id in job.name]
        assert len(jobs) <= 1, f"{len(jobs)} jobs of one server"
        return jobs[0] if jobs else None

    def orders(self) -> tuple[int, int]:
        """How often something was submitted or cancelled."""
        return self.fake.count(self.site.submit), self.fake.count(self.site.cancel)

    def ring(self, row: Server, code: int) -> None:
        """The application ends by itself."""
        with Path(row.directory, "bell").open("w") as bell:
            bell.write(f"{code}\n")

    async def over(self, job_id: JobId | None) -> None:
        """Wait, without the hub, until the cluster has ended the job."""
        assert job_id is not None
        await asyncio.to_thread(self.fake.wait, job_id, timeout=120)


def new_database(path: Path, empty: Path) -> None:
    """Made once: making the tables takes longer than most tests."""
    shutil.copy(empty, path / "hub.sqlite")
