"""``reverse`` on the namespaced cluster: nothing comes in to the node, not even from the login node, and the job's own ssh goes out.

Real Slurm jobs run launch.py as alice; the proxy is told of offers and routes through its control API, as the hub does it.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchhub.app.reach import make_tunnels
from batchhub.config.clusters import read_clusters
from batchhub.core import handshake
from batchhub.core.handshake import Connection, DialIn, read_connection
from batchhub.core.model import Endpoint
from batchhub.core.ports import RouteTarget
from batchhub.job.files import job_files
from batchhub.job.offers import offer_key
from batchhub.proxy.client import ProxyClient
from batchhub.proxy.server import Proxy
from batchhub.transport.dialin import GateSettings
from batchhub.transport.reverse import ReverseGate
from batchhub.tunnel.reverse import ReverseTunnel
from tests.gate import HOST
from tests.lab.cluster import SlurmLab
from tests.lab.network import blocked
from tests.proxy.harness import TOKEN, settings
from tests.tunnel.front import APPLICATION, Front

pytestmark = [pytest.mark.cluster, pytest.mark.sshd]

KEY = b"k" * 32
NOW = datetime(2026, 5, 4, tzinfo=UTC)
SECRET = handshake.server_token(KEY, "abcdefghijkl", 1)


@pytest.fixture(scope="module")
def ssh(slurm_lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The settings of the cluster's way in."""
    way_in = slurm_lab.way_in(tmp_path_factory.mktemp("ssh"), "alice")
    return {**way_in, "open_timeout": 1.0, "node": {"connect_timeout": 1.0}}


@dataclass
class Site:
    """A proxy on the login node's machine, to which nodes may connect."""

    lab: SlurmLab
    front: Front
    client: ProxyClient
    gate: ReverseGate
    port: int

    async def offer(self, job: Job, generation: int = 1) -> None:
        await self.client.offer(job.offer, offer_key(KEY, job.offer, generation).public)

    async def publish(self, job: Job, connection: Connection, cluster: str, kind: str) -> str:
        """Routes to the job by this kind of tunnel; the path."""
        path = f"/{kind}/"
        where = Endpoint(job.node, connection.port, connection.socket, job.offer)
        await self.client.publish(RouteTarget(path, where, "", job.offer, cluster=cluster, kind=kind, account="alice"))
        return path


@asynccontextmanager
async def site(
    lab: SlurmLab, ssh: Mapping[str, Any], directory: Path, *choices: object, **more: Any
) -> AsyncIterator[Site]:
    clusters = read_clusters(
        {f"c{number}": {"transport": "ssh", "ssh": ssh, "tunnel": choice} for number, choice in enumerate(choices)}
    )

    async def nobody(token: str, path: str) -> None:
        return None

    gate = ReverseGate(HOST.private, directory / "offers", lambda: NOW, replace(GateSettings(), patience=0.5, **more))
    tunnels = make_tunnels(clusters, lambda: NOW, {"reverse": ReverseTunnel(gate)})
    proxy = Proxy(
        settings(directory, dial_in=(lab.controller_host, 0)),
        tunnels=tunnels,
        token_checker=nobody,
        clock=lambda: NOW,
        offers=gate,
    )
    await proxy.start()
    client, front = ProxyClient(f"http://127.0.0.1:{proxy.api_port}", TOKEN), Front(proxy)
    try:
        yield Site(lab, front, client, gate, proxy.listeners.port("dial_in"))
    finally:
        front.close()
        await client.close()
        await proxy.close()
        await gate.close()
        for tunnel in tunnels.values():
            await tunnel.close()


class Job:
    """A Slurm job of alice's that runs launch.py with the small application."""

    def __init__(self, lab: SlurmLab, node: str) -> None:
        self.lab, self.node = lab, node
        self.offer = uuid.uuid4().hex[:12]
        self.directory = Path(pwd.getpwnam("alice").pw_dir, ".batchhub-lab", self.offer)
        self.number = ""

    def submit(self, port: int, *, generation: int = 1, socket: bool = False) -> None:
        program = self.lab.root / "application.py"
        shutil.copy(APPLICATION, program)
        program.chmod(0o644)
        document = handshake.launch_document(
            argv=("/usr/bin/python3", str(program), "{socket}" if socket else "{port}"),
            env={},
            base_url="/",
            ready_path="/",
            socket=socket,
            dial_in=DialIn(self.lab.controller_host, port, self.offer, HOST.public),
        )
        private = offer_key(KEY, self.offer, generation).private
        script = f"#!/bin/sh\n#SBATCH --requeue\ncd {self.directory}\nexec /usr/bin/python3 -I launch.py\n"
        files = job_files(script, document, handshake.secrets_document(generation, SECRET, private))
        entry = pwd.getpwnam("alice")
        self.directory.mkdir(mode=0o700, parents=True)
        for name, data in files.items():
            (self.directory / name).touch(0o600)
            (self.directory / name).write_bytes(data)
        for path in (self.directory.parent, self.directory, *self.directory.iterdir()):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        log = str(self.directory / "job.log")
        argv = ["sbatch", "--parsable", "-w", self.node, "-n", "1", "-t", "10", "-o", log, "--open-mode=append"]
        done = self.lab.run_as("alice", [*argv, str(self.directory / "job.sh")])
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.strip()

    async def connection(self, after: str = "") -> Connection:
        """What it says about itself, when its nonce is not ``after``."""
        async with asyncio.timeout(60):
            while True:
                try:
                    found = read_connection((self.directory / "connection.json").read_bytes())
                except FileNotFoundError:
                    pass
                else:
                    if found.nonce != after:
                        return found
                await asyncio.sleep(0.05)

    def log(self) -> str:
        return (self.directory / "job.log").read_text()

    def renew(self, generation: int) -> None:
        """As the hub does for the next start."""
        secret = handshake.server_token(KEY, self.offer, generation)
        private = offer_key(KEY, self.offer, generation).private
        (self.directory / "secrets.json").write_bytes(handshake.secrets_document(generation, secret, private))

    def stop(self) -> None:
        if self.number:
            self.lab.admin("scancel", self.number)
            self.lab.wait_until(lambda: not self.lab.admin("squeue", "-h", "-o", "%i"), 30, "the job to end")
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def job(slurm_lab: SlurmLab):
    made = Job(slurm_lab, slurm_lab.nodes[0])
    yield made
    made.stop()


async def works(front: Front, path: str) -> None:
    assert await front.get(f"{path}x") == (200, f"{path}x alice")
    upgraded = await front.upgraded(f"{path}ws")
    await upgraded.say(b"out of the node")


@pytest.mark.parametrize("socket", [False, True], ids=["port", "socket"])
async def test_a_node_that_nobody_can_reach(
    slurm_lab: SlurmLab, ssh: Any, job: Job, tmp_path: Path, socket: bool
) -> None:
    choices = ("login", "node", "reverse", ["login", "node", "reverse"])
    with blocked(slurm_lab, job.node):
        async with site(slurm_lab, ssh, tmp_path, *choices) as made:
            await made.offer(job)
            job.submit(made.port, socket=socket)
            found = await job.connection()
            assert bool(found.socket) is socket
            paths = [
                await made.publish(job, found, f"c{number}", kind if isinstance(kind, str) else ",".join(kind))
                for number, kind in enumerate(choices)
            ]
            for path in paths[:2]:
                status, page = await made.front.get(f"{path}x")
                assert (status, job.node in page or "login" in page) == (503, True), page
            for path in paths[2:]:
                await made.front.until(f"{path}x", 200)
                await works(made.front, path)
            words = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
            assert f"-l {job.offer}" in words
            for line in offer_key(KEY, job.offer, 1).private.split("\n")[1:-2]:
                assert line not in words
                assert line not in job.log()


async def test_its_ssh_its_next_start_and_its_end(slurm_lab: SlurmLab, ssh: Any, job: Job, tmp_path: Path) -> None:
    """A killed ssh comes back; a requeued job comes with a new key, the old one is cut; a withdrawn offer is cut and its key is dead."""
    with blocked(slurm_lab, job.node):
        async with site(slurm_lab, ssh, tmp_path, "reverse") as made:
            await made.offer(job)
            job.submit(made.port)
            found = await job.connection()
            path = await made.publish(job, found, "c0", "reverse")
            await made.front.until(f"{path}x", 200)

            open_stream = await made.front.upgraded(f"{path}ws")
            (pid,) = [line.split()[0] for line in processes() if f"-l {job.offer} " in line]
            os.kill(int(pid), 9)
            assert await open_stream.end() == b""
            await made.front.until(f"{path}x", 200)

            open_stream = await made.front.upgraded(f"{path}ws")
            await made.client.offer(job.offer, offer_key(KEY, job.offer, 2).public)
            assert await open_stream.end() == b""
            assert (await made.front.get(f"{path}x"))[0] == 503
            job.renew(2)
            slurm_lab.requeue(job.number)
            again = await job.connection(after=found.nonce)
            assert again.generation == 2
            await made.publish(job, again, "c0", "reverse")
            await made.front.until(f"{path}x", 200)

            await made.client.withdraw_offer(job.offer)
            status, page = await made.front.get(f"{path}x")
            assert (status, "expects no job of this name" in page) == (503, True)
            async with asyncio.timeout(60):
                while "Permission denied (publickey)" not in job.log():
                    await asyncio.sleep(0.05)
            assert await made.client.offers() == {}


async def test_a_pulled_cable(slurm_lab: SlurmLab, ssh: Any, job: Job, tmp_path: Path) -> None:
    """The proxy finds out by its keep-alives, and the job is back when the cable is."""
    quick = {"keepalive_interval": 0.5, "keepalive_count": 2}
    async with site(slurm_lab, ssh, tmp_path, "reverse", **quick) as made:
        await made.offer(job)
        job.submit(made.port)
        path = await made.publish(job, await job.connection(), "c0", "reverse")
        await made.front.until(f"{path}x", 200)
        open_stream = await made.front.upgraded(f"{path}ws")
        slurm_lab.set_node_link(job.node, up=False)
        try:
            assert await open_stream.end() == b""
            status, page = await made.front.get(f"{path}x")
            assert (status, "was lost at 00:00:00 UTC" in page) == (503, True)
        finally:
            slurm_lab.set_node_link(job.node, up=True)
        await made.front.until(f"{path}x", 200)


def processes() -> list[str]:
    out = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [
        line.strip() for line in out.splitlines() if line.strip().partition(" ")[2].lstrip().startswith("/usr/bin/ssh ")
    ]
