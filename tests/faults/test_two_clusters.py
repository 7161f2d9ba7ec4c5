"""Two clusters of different schedulers in one real hub: one hangs in every command, the other is none the slower for it.

Time is not measured: the dead cluster's deadlines are longer than the test may last, so whatever waited for it would not come in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchhub.app import hub as module
from batchhub.app.hub import Hub, running_hub
from batchhub.app.plan import plan_hub
from batchhub.app.site import read_site
from batchhub.app.state import StateDirectory
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.config import traits
from batchhub.core.model import Outcome, Phase, UserName
from batchhub.core.ports import RouteTarget
from tests.control.memory import MemoryRoutes
from tests.fakesched.engine import Cluster as Fake
from tests.faults.sites import LSF, PBS, SLURM, Site
from tests.faults.world import ACCOUNT, PATIENCE
from tests.ports import free_port

ME = UserName(ACCOUNT)
APPLICATION = """
import http.server, sys
token = open(sys.argv[2]).read().strip()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.headers["Authorization"] == f"token {token}" or not self.path.endswith("api") else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Doors(MemoryRoutes):
    """A proxy in memory that really asks the applications."""

    async def probe(self, target: RouteTarget, path: str) -> int:
        reader, writer = await asyncio.open_connection(target.endpoint.host, target.endpoint.port)
        request = f"GET {path} HTTP/1.0\r\nAuthorization: {target.authorization}\r\n\r\n"
        writer.write(request.encode())
        status = await reader.readline()
        writer.close()
        return int(status.split()[1])

    async def revoke_all(self, sessions: object) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Both:
    """The hub, and the two clusters."""

    hub: Hub
    doors: Doors
    dead: Fake
    alive: Fake

    async def until(self, condition: Callable[[Any], bool], name: str) -> Any:
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            view = await self.hub.service.server(ME, name)
            if condition(view.server):
                return view
            assert asyncio.get_running_loop().time() < end, view
            await asyncio.sleep(0.05)


@pytest.fixture
async def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "application.py").write_text(APPLICATION)
    doors = Doors()
    monkeypatch.setattr(module, "ProxyClient", lambda *_: doors)
    fakes: dict[str, Fake] = {}
    clusters: dict[str, Any] = {}
    for name, site in zip(("dead", "alive"), request.param, strict=True):
        config = {"nodes": {"n1": {"cores": 16}}, "kill_wait": 1.0, "node_path": os.environ["PATH"], **site.fake}
        fakes[name] = Fake(tmp_path / name).create(config)
        clusters[name] = {
            "scheduler": site.name,
            "scheduler_options": {
                "bin_dir": fakes[name].install(site.bin, tmp_path / f"{name}-bin"),
                "status_deadline": 10 * PATIENCE,
                "submit_deadline": 10 * PATIENCE,
            },
            "node_address": "127.0.0.1",
            "bind": "127.0.0.1",
            "python": sys.executable,
        }
    application = {
        "title": "Application",
        "argv": [sys.executable, str(tmp_path / "application.py"), "{port}", "{token_file}"],
        "guard_path": "{base_url}api",
    }
    own = {
        traits.BatchHub: {
            "clusters": clusters,
            "applications": {"own": application},
            "profiles": [{"name": name, "cluster": name, "application": "own", "fields": {}} for name in fakes],
        },
        traits.Watching: {"fast": 0.2, "slow": 0.2, "ceiling": 1.0},
        traits.Hub: {"port": free_port()},
    }

    def trait(kind: type[Any]) -> Any:
        return kind(**own.get(kind, {}))

    state = StateDirectory.open(str(tmp_path / "state"))
    plan = plan_hub(trait, read_site(trait(traits.BatchHub)), state, {"dictionary": DictionaryAuthenticator(users={})})
    try:
        async with running_hub(plan) as hub:
            yield Both(hub, doors, fakes["dead"], fakes["alive"])
    finally:
        for fake in fakes.values():
            fake.shutdown()


@pytest.mark.parametrize("both", [(SLURM, LSF), (LSF, PBS), (PBS, SLURM)], ids=["slurm", "lsf", "pbs"], indirect=True)
async def test_a_dead_cluster_makes_nobody_wait_on_another(both: Both, request: pytest.FixtureRequest) -> None:
    site: Site = request.node.callspec.params["both"][0]
    service = both.hub.service
    here = ("a", "b", "c")
    for name in here:
        await service.spawn(ME, name, "dead", {})
    for name in here:
        await both.until(lambda row: row.phase is Phase.READY, name)

    both.dead.fault("hang")
    for name in here:  # their cancels hang as well, and hold what there is to hold
        await service.stop(ME, name, ME)
    await both.until(lambda row: row.cancel_tried is not None, "c")

    view = await service.spawn(ME, "well", "alive", {})
    assert view.server.job_id is not None
    view = await both.until(lambda row: row.phase is Phase.READY, "well")
    assert view.status.silent_since is None
    assert view.server.path in both.doors.routes
    await service.stop(ME, "well", ME)
    view = await both.until(lambda row: row.phase is Phase.ENDED, "well")
    assert view.server.outcome is Outcome.STOPPED

    hanging = [call for call in both.dead.calls() if call.rc is None]
    assert {site.status, site.cancel} <= {call.command for call in hanging}
    for name in here:
        assert (await service.server(ME, name)).server.alive
    assert [job.state for job in both.dead.jobs()] == ["RUNNING"] * 3
