"""Tunnels on the namespaced cluster: the proxy reaches an application on a node whatever way the site's network leaves open.

The way back out of a node, ``reverse``, has its own tests.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchhub.app.reach import make_tunnels
from batchhub.config.clusters import read_clusters
from batchhub.core.model import Endpoint
from tests.lab.cluster import SlurmLab
from tests.lab.network import blocked, way_out
from tests.tunnel.front import APPLICATION, Front, application, fronting

pytestmark = [pytest.mark.cluster, pytest.mark.sshd]

PORT, INNER = 28888, 28889
"""The application's doors on a node: one on its network, one on loopback alone."""


@pytest.fixture(scope="module")
def ssh(slurm_lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The settings of a cluster's way in."""
    return slurm_lab.way_in(tmp_path_factory.mktemp("ssh"), "alice", "bob")


@pytest.fixture(scope="module")
def node(slurm_lab: SlurmLab) -> Iterator[str]:
    """A node on which alice's application runs behind both doors, and behind a socket of her own."""
    name = slurm_lab.nodes[0]
    place = Path(slurm_lab.root / "app")
    place.mkdir(mode=0o755)
    program = shutil.copy(APPLICATION, place / "application.py")
    program.chmod(0o644)
    private = place / "private"
    private.mkdir(mode=0o700)
    shutil.chown(private, "alice", "alice")
    as_alice = slurm_lab.in_node(name, ["setpriv", "--reuid=alice", "--regid=alice", "--init-groups", "--"])
    with ExitStack() as running:
        for words in ((str(PORT), "0.0.0.0"), (str(INNER), "127.0.0.1"), (str(private / "socket"),)):
            running.enter_context(
                application(*words, prefix=as_alice, python="/usr/bin/python3", program=program, cwd="/")
            )
        yield name


@asynccontextmanager
async def proxy_to(
    lab: SlurmLab, ssh: Mapping[str, Any], node: str, directory: Path, *choices: object, **door: Any
) -> AsyncIterator[Front]:
    """A proxy with a route ``/KINDS/`` for each choice of tunnels."""
    tables = {f"c{number}": {"transport": "ssh", "ssh": ssh, "tunnel": choice} for number, choice in enumerate(choices)}
    clusters = read_clusters(tables)
    tunnels = make_tunnels(clusters, lambda: datetime(2026, 1, 2, tzinfo=UTC))
    async with fronting(directory, tunnels) as front:
        for cluster in clusters:
            where = (cluster.name, cluster.tunnel_kind, "alice")
            await front.route(f"/{cluster.tunnel_kind}/", where, Endpoint(node, **(door or {"port": PORT})))
        yield front


async def works(front: Front, kind: str) -> None:
    """Requests and a WebSocket."""
    assert await front.get(f"/{kind}/x") == (200, f"/{kind}/x alice")
    upgraded = await front.upgraded(f"/{kind}/ws")
    await upgraded.say(b"over the tunnel")


@contextmanager
def without_sshd(lab: SlurmLab, node: str) -> Iterator[None]:
    lab.stop_node_sshd(node)
    try:
        yield
    finally:
        lab.start_node_sshd(node)


async def test_where_all_is_open_both_kinds_work(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    async with proxy_to(slurm_lab, ssh, node, tmp_path, "login", "node", ["login", "node"]) as front:
        for kind in ("login", "node", "login,node"):
            await works(front, kind)


async def test_nothing_but_ssh_from_the_login_node(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    quick = {**ssh, "open_timeout": 2.0}
    with blocked(slurm_lab, node, open_ports=(22,)):
        async with proxy_to(slurm_lab, quick, node, tmp_path, "login", "node", ["login", "node"]) as front:
            status, page = await front.get("/login/x")
            assert status == 503
            assert f"{node} port {PORT} did not answer {slurm_lab.login_host} within 2 s." in page
            await works(front, "node")
            await works(front, "login,node")


async def test_nodes_without_sshd(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    with without_sshd(slurm_lab, node):
        async with proxy_to(slurm_lab, ssh, node, tmp_path, "login", "node", ["node", "login"]) as front:
            status, page = await front.get("/node/x")
            assert status == 503
            assert (
                f"No SSH connection to the node {node}: {node} refused port 22 when {slurm_lab.login_host} asked"
                in page
            )
            await works(front, "login")
            await works(front, "node,login")
    async with proxy_to(slurm_lab, ssh, node, tmp_path, "node") as front:
        await works(front, "node")


async def test_on_loopback_only_the_node_can(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    async with proxy_to(slurm_lab, ssh, node, tmp_path, "login", "node", ["login", "node"], port=INNER) as front:
        status, page = await front.get("/login/x")
        assert (status, f"{node} refused port {INNER} when {slurm_lab.login_host} asked" in page) == (503, True)
        await works(front, "node")
        await works(front, "login,node")


async def test_a_socket_of_alices(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    path = str(slurm_lab.root / "app/private/socket")
    async with proxy_to(slurm_lab, ssh, node, tmp_path, "node", ["login", "node"], socket=path) as front:
        await works(front, "node")
        await works(front, "login,node")
        await front.route("/bobs/", ("c0", "node", "bob"), Endpoint(node, socket=path))
        status, page = await front.get("/bobs/x")
        assert (status, f"{node} cannot reach the socket {path}" in page) == (503, True)
        await front.route("/stripped/", ("c0", "node", "alice"), Endpoint(node, socket=path), strip_prefix=True)
        assert await front.get("/stripped/lab/tree") == (200, "/lab/tree alice")


async def test_nothing_comes_in_at_all(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    """Each kind says why."""
    quick = {**ssh, "open_timeout": 0.5, "node": {"connect_timeout": 0.5}}
    with blocked(slurm_lab, node):
        async with proxy_to(slurm_lab, quick, node, tmp_path, ["login", "node"]) as front:
            status, page = await front.get("/login,node/x")
            assert status == 503
            assert f"By login: {node} port {PORT} did not answer {slurm_lab.login_host} within 0.5 s." in page
            assert f"By node: No SSH connection to the node {node}: {node}" in page


async def test_a_pulled_cable_ends_what_runs_over_it(slurm_lab: SlurmLab, ssh: Any, node: str, tmp_path: Path) -> None:
    """The node's: found out by the keep-alives of the connection to it. Those of the login node go on."""
    quick = {**ssh, "node": {"keepalive_interval": 0.5, "keepalive_count": 2, "connect_timeout": 3.0}}
    other = slurm_lab.nodes[1]
    async with proxy_to(slurm_lab, quick, node, tmp_path, "node") as front:
        upgraded = await front.upgraded("/node/ws")
        slurm_lab.set_node_link(node, up=False)
        try:
            assert await upgraded.end() == b""
            status, page = await front.get("/node/x")
            assert (status, f"No SSH connection to the node {node}" in page) == (503, True)
            await front.route("/other/", ("c0", "node", "alice"), Endpoint(other, 1))
            assert f"127.0.0.1 refused port 1 when {other} asked" in (await front.get("/other/x"))[1]
        finally:
            slurm_lab.set_node_link(node, up=True)
        await front.until("/node/x", 200)


def test_a_way_out_of_a_node_is_one_way(slurm_lab: SlurmLab, node: str) -> None:
    """What the tests of ``reverse`` stand on."""
    with way_out(slurm_lab, node) as hub, blocked(slurm_lab, node):
        inner = hub[: hub.rindex(".") + 1] + str(int(hub.rpartition(".")[2]) - 1)
        serve = "import socket; s = socket.create_server(('0.0.0.0', 7777)); print(flush=True); s.accept()"
        dial = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
        server = subprocess.Popen(slurm_lab.in_hub_namespace(["/usr/bin/python3", "-c", serve]), stdout=subprocess.PIPE)
        assert server.stdout is not None
        try:
            server.stdout.readline()
            out = ["/usr/bin/python3", "-c", dial, hub, "7777"]
            assert subprocess.run(slurm_lab.in_node(node, out), check=False).returncode == 0
            back = ["/usr/bin/python3", "-c", dial, inner, str(PORT)]
            done = subprocess.run(slurm_lab.in_hub_namespace(back), check=False, capture_output=True, text=True)
            assert "timed out" in done.stderr
        finally:
            server.kill()
            server.wait(10)
            server.stdout.close()
