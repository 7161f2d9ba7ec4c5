"""The whole control plane in one process on the lab's real Slurm: by SSH, with real jobs, a clock and ticks that the test moves by hand."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.reach import make_transport
from batchhub.app.site import Site, make_dialect
from batchhub.app.state import utc_now
from batchhub.config.clusters import read_clusters
from batchhub.config.profiles import read_profiles
from batchhub.control.broadcast import Broadcast
from batchhub.control.launcher import Launcher
from batchhub.control.poller import Poller, PollerSettings
from batchhub.control.reconciler import Cluster, Reconciler, ReconcilerSettings
from batchhub.control.service import ClusterFacts, HubService, ServiceSettings
from batchhub.core.errors import TunnelError
from batchhub.core.model import Phase, Server, UserName
from batchhub.core.ports import Command, Completed, RouteTarget, Transport
from batchhub.job.applications import Application
from batchhub.store import schema
from batchhub.store.store import Store
from tests.control.memory import MemoryRoutes
from tests.lab.cluster import SlurmLab

KEY = b"k" * 32
ALICE = UserName("alice")
PROGRAM = """
import http.server, sys
port, token = int(sys.argv[1]), open(sys.argv[2]).read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.headers.get("Authorization") == "token " + token else 403)
        self.end_headers()
http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
"""
"""A notebook's skeleton: it opens to its own secret alone."""


class RealProbes(MemoryRoutes):
    """Routes in memory; what is probed is asked where it runs. The lab's bridge is this machine's, so no tunnel is needed."""

    async def probe(self, target: RouteTarget, path: str) -> int:
        self._check()
        return await asyncio.to_thread(ask, target, path)


def ask(target: RouteTarget, path: str = "/", authorization: str | None = None) -> int:
    """The status of one GET with the route's secret, or another one. Raises TunnelError."""
    link = http.client.HTTPConnection(target.endpoint.host, target.endpoint.port, timeout=10)
    try:
        header = target.authorization if authorization is None else authorization
        link.request("GET", path, headers={"Authorization": header})
        return link.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise TunnelError(str(error)) from error
    finally:
        link.close()


class Watched:
    """A transport that remembers which programs were run."""

    def __init__(self, real: Transport) -> None:
        self._real = real
        self.ran: list[str] = []

    async def run(self, command: Command, user: str | None = None) -> Completed:
        self.ran.append(command.argv[0])
        return await self._real.run(command, user)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Clock:
    """This machine's time, as Slurm tells it too, and what was added by hand."""

    def __init__(self) -> None:
        self.added = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.added

    def move(self, seconds: float) -> None:
        self.added += timedelta(seconds=seconds)


class Plane:
    """A hub without pages and proxy. Leaving and entering it again is a restart."""

    def __init__(self, lab: SlurmLab, directory: Path, ssh: Mapping[str, Any], *, sacct: bool = False) -> None:
        program = lab.root / "skeleton.py"
        program.write_text(PROGRAM)
        program.chmod(0o644)
        cluster = {"scheduler": "slurm", "transport": "ssh", "ssh": ssh, "scheduler_options": {"sacct": sacct}}
        argv = ("/usr/bin/python3", str(program), "{port}", "{token_file}")
        application = Application("skeleton", "Skeleton", argv, guard_path="{base_url}", scheme="token")
        clusters = read_clusters({"hpc": cluster})
        fields = {"partition": {}, "cores": {"max": 16}, "memory": {}, "walltime": {}}
        profiles: list[dict[str, Any]] = [
            {"name": "plain", "application": "skeleton", "fields": fields},
            {"name": "once", "application": "skeleton", "fields": fields, "directives": ["--no-requeue"]},
            {"name": "held", "application": "skeleton", "fields": fields, "directives": ["--hold"]},
        ]
        self.lab, self.directory, self.clock, self.routes = lab, directory, Clock(), RealProbes()
        self.database = f"sqlite:///{directory / f'hub-{sacct}.sqlite'}"
        schema.upgrade(self.database)
        read = read_profiles(profiles, ["hpc"], ["skeleton"])
        self.site = Site(clusters, read, {"skeleton": application}, ())
        self.ran: list[str] = []

    async def __aenter__(self) -> Self:
        settings = self.site.cluster("hpc")
        self.store = Store(self.database, clock=self.clock)
        await self.store.open()
        self.transport = Watched(make_transport(settings, self.clock))
        self.transport.ran = self.ran
        dialect = make_dialect(settings)
        builder = SiteJobBuilder(self.site, KEY)
        self.poller = Poller(
            cluster="hpc",
            transport=self.transport,
            dialect=dialect,
            store=self.store,
            clock=self.clock,
            settings=PollerSettings(),
            observed=self._observed,
        )
        self.reconciler = Reconciler(
            clusters={"hpc": Cluster(self.poller, Launcher(self.transport, dialect, builder))},
            store=self.store,
            routes=self.routes,
            builder=builder,
            broadcast=Broadcast(),
            clock=self.clock,
            settings=ReconcilerSettings(),
        )
        self.service = HubService(
            profiles=self.site.profiles,
            clusters={"hpc": ClusterFacts("HPC", self.poller, str)},
            store=self.store,
            reconciler=self.reconciler,
            builder=builder,
            broadcast=Broadcast(),
            clock=self.clock,
            checks={},
            settings=ServiceSettings(first_word=0.1),
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.reconciler.close()
        await self.transport.close()
        await self.store.close()

    def _observed(self, rows: Sequence[Server]) -> None:
        self.reconciler.consider(rows)

    # ------------------------------------------------ what tests do with it

    async def spawn(self, name: str = "", profile: str = "plain", **form: str) -> Server:
        asked = {"partition": "debug", "cores": "1", "memory": "200M", "walltime": "20m"} | form
        await self.service.spawn(ALICE, name, profile, {key: [value] for key, value in asked.items()})
        return await self.row(name)

    async def row(self, name: str = "") -> Server:
        row = await self.store.current_server(ALICE, name)
        assert row is not None
        return row

    async def tick(self) -> None:
        """Look once, and let everything that follows from it end."""
        await self.poller.tick()
        limit = time.monotonic() + 120
        while self.reconciler._busy or self.reconciler._again:
            assert time.monotonic() < limit, "the reconciler does not come to rest"
            await asyncio.sleep(0.02)

    async def until(self, true: Callable[[Server], bool], name: str = "", seconds: float = 120) -> Server:
        """Tick until the row is so."""
        limit = time.monotonic() + seconds
        while True:
            await self.tick()
            row = await self.row(name)
            if true(row):
                return row
            assert time.monotonic() < limit, f"{row}\n{self.poller.newest(row.id)}\n{self.lab.log_ends()}"
            await asyncio.sleep(0.3)

    async def ready(self, name: str = "", profile: str = "plain", **form: str) -> Server:
        await self.spawn(name, profile, **form)
        return await self.until(lambda row: row.phase is Phase.READY, name)

    def count(self, program: str) -> int:
        """How often it was run."""
        return self.ran.count(program)

    def jobs(self, row: Server) -> list[str]:
        """The numbers of all jobs of the row's name that Slurm knows, ended ones too."""
        return self.lab.admin("squeue", "-h", "-t", "all", "-n", row.job_name, "-o", "%A").split()

    def route(self, name: str = "") -> RouteTarget | None:
        """The route of a server, if it has one."""
        return self.routes.routes.get(f"/user/alice/{name}/" if name else "/user/alice/")
