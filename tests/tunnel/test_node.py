"""Through two of OpenSSH's sshd: a login node's and a compute node's."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.transport.nodepools import NodePools
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import NodeSettings, SSHSettings
from batchhub.tunnel.login import LoginSettings, LoginTunnel
from batchhub.tunnel.node import NodeTunnel, NodeTunnelSettings
from tests.sshd import Sshd, accounts
from tests.tunnel.conftest import Recorder, echo, pool_of, serving

ANN, BEN = "bht-ann", "bht-ben"

pytestmark = pytest.mark.sshd


@pytest.fixture(scope="module", autouse=True)
def people() -> Iterator[None]:
    with accounts({ANN: "/bin/sh", BEN: "/bin/sh"}):
        yield


@pytest.fixture
def login() -> Iterator[Sshd]:
    server = Sshd()
    yield server
    server.close()


@pytest.fixture
def node() -> Iterator[Sshd]:
    server = Sshd((ANN, BEN))
    yield server
    server.close()


def settings_of(login: Sshd, node: Sshd, **more: Any) -> SSHSettings:
    base = NodeSettings(port=node.port, known_hosts=node.known_hosts, client_keys=(node.client_key,))
    values: dict[str, Any] = {
        "host": login.host,
        "port": login.port,
        "known_hosts": login.known_hosts,
        "client_keys": (login.client_key,),
        **more,
    }
    changes = values.pop("on_node", {})
    return SSHSettings(**values, node=replace(base, **changes))


@asynccontextmanager
async def tunnel_of(
    login: Sshd, node: Sshd, settings: NodeTunnelSettings | None = None, **more: Any
) -> AsyncIterator[NodeTunnel]:
    def clock() -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    ssh = settings_of(login, node, **more)
    pool = SSHPool(ssh, clock, lambda: 0.0)
    made = NodeTunnel(pool, NodePools(ssh, clock, pool), settings)
    try:
        yield made
    finally:
        await made.close()


def here(port: int) -> Endpoint:
    return Endpoint("127.0.0.1", port)


def signed_in(server: Sshd, user: str) -> int:
    return sum(f"Accepted publickey for {user} " in row for row in server.log)


async def talk(made: Recorder, text: bytes = b"hello") -> None:
    made.data.clear()
    made.stream.write(text)
    await made.until(lambda: made.data == text)


async def lost(made: Recorder) -> str:
    async with asyncio.timeout(60):
        error = await made.lost
    assert isinstance(error, TunnelError)
    return str(error)


async def test_each_user_as_themselves_over_one_connection_to_the_login_node(login: Sshd, node: Sshd) -> None:
    async with serving(echo) as port, tunnel_of(login, node) as tunnel:
        streams = [await tunnel.open(Recorder, here(port), user) for user in (ANN, ANN, BEN)]
        for number, made in enumerate(streams):
            await talk(made, b"%d" % number)
        assert (signed_in(login, login.me), signed_in(node, ANN), signed_in(node, BEN)) == (1, 1, 1)
        assert tunnel.state() == {
            f"(service)@127.0.0.1:{login.port}": "up since 2026-01-02T00:00:00Z, 2 channels",
            f"{ANN}@127.0.0.1:{node.port}": "up since 2026-01-02T00:00:00Z, 2 channels",
            f"{BEN}@127.0.0.1:{node.port}": "up since 2026-01-02T00:00:00Z, 1 channels",
        }
        assert tunnel.counters() == {"connects": 2, "failures": 0, "losses": 0}
        streams[0].stream.write_eof()
        await streams[0].until(lambda: streams[0].eof)
        assert streams[0].data == b"0bye"
        streams[0].stream.close()
        assert await streams[0].lost is None
        await talk(streams[1])
    assert tunnel.kind == "node"


async def test_a_socket_in_a_private_directory_is_its_owners(login: Sshd, node: Sshd) -> None:
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    path = str(directory / "s")
    try:
        async with serving(echo, path), tunnel_of(login, node) as tunnel:
            os.chmod(path, 0o666)  # the directory alone keeps others out
            shutil.chown(directory, ANN)
            made = await tunnel.open(Recorder, Endpoint("127.0.0.1", socket=path), ANN)
            await talk(made)
            with pytest.raises(TunnelError, match=r"^127\.0\.0\.1 cannot reach the socket /tmp/\S+: "):
                await tunnel.open(Recorder, Endpoint("127.0.0.1", socket=path), BEN)
    finally:
        shutil.rmtree(directory)


async def test_a_socket_on_the_login_node_is_its_owners_too(node: Sshd) -> None:
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    path = str(directory / "s")
    tunnel = LoginTunnel(pool_of(node), LoginSettings(as_user=True))
    try:
        async with serving(echo, path):
            os.chmod(path, 0o666)
            shutil.chown(directory, ANN)
            await talk(await tunnel.open(Recorder, Endpoint("", socket=path), ANN))
            with pytest.raises(TunnelError, match=r"^127\.0\.0\.1 cannot reach the socket /tmp/\S+: "):
                await tunnel.open(Recorder, Endpoint("", socket=path), BEN)
    finally:
        await tunnel.close()
        shutil.rmtree(directory)


async def test_what_went_wrong_in_words(login: Sshd, node: Sshd) -> None:
    async with tunnel_of(login, node) as tunnel:
        with pytest.raises(TunnelError, match=r"^127\.0\.0\.1 refused port 1 when 127\.0\.0\.1 asked: Conn"):
            await tunnel.open(Recorder, here(1), ANN)
        with pytest.raises(
            TunnelError,
            match=r"^No SSH connection to the node c1\.invalid: 127\.0\.0\.1 cannot reach c1\.invalid port ",
        ):
            await tunnel.open(Recorder, Endpoint("c1.invalid", 80), ANN)
        for host, words in (("", "not a host"), ("-oProxyCommand=x", "is not a host"), ("a b", "is not a host")):
            with pytest.raises(TunnelError, match=words):
                await tunnel.open(Recorder, Endpoint(host, 80), ANN)
        with pytest.raises(TunnelError, match="that the application runs on is not known"):
            await tunnel.open(Recorder, Endpoint("", socket="/s"), ANN)
        with pytest.raises(TunnelError, match="refused the key of user bht-stranger"):
            await tunnel.open(Recorder, here(80), "bht-stranger")
        with pytest.raises(TunnelError, match="not run as root"):
            await tunnel.open(Recorder, here(80), "root")
        assert tunnel.counters()["failures"] == 2


async def test_a_node_without_sshd_and_one_with_another_key(login: Sshd, node: Sshd) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    wrong = {"known_hosts": f"[127.0.0.1]:{node.port} {stranger}"}
    async with tunnel_of(login, node, on_node=wrong) as tunnel:
        with pytest.raises(
            TunnelError, match=r"the node 127\.0\.0\.1: Host key of 127\.0\.0\.1 is not the known one: it "
        ):
            await tunnel.open(Recorder, here(80), ANN)
    node.stop()
    async with tunnel_of(login, node) as tunnel:
        with pytest.raises(
            TunnelError, match=rf"node 127\.0\.0\.1: 127\.0\.0\.1 refused port {node.port} when 127\.0\.0\.1 asked"
        ):
            await tunnel.open(Recorder, here(80), ANN)
        with pytest.raises(TunnelError, match=r"Connection refused\. So since 00:00:00 UTC; next try in 1 s"):
            await tunnel.open(Recorder, here(80), ANN)


async def test_either_hop_may_forbid_it(login: Sshd, node: Sshd) -> None:
    strict_login, strict_node = Sshd(extra=["AllowTcpForwarding no"]), Sshd((ANN,), ["AllowTcpForwarding no"])
    try:
        async with tunnel_of(login, strict_node) as tunnel:
            with pytest.raises(TunnelError, match=r"^127\.0\.0\.1 forbids connections to 127\.0\.0\.1 port 80 "):
                await tunnel.open(Recorder, here(80), ANN)
        async with tunnel_of(strict_login, node) as tunnel:
            with pytest.raises(
                TunnelError, match=rf"127\.0\.0\.1 forbids connections to 127\.0\.0\.1 port {node.port} "
            ):
                await tunnel.open(Recorder, here(80), ANN)
    finally:
        strict_login.close()
        strict_node.close()


async def test_nodes_may_be_known_by_their_authority(login: Sshd, node: Sshd) -> None:
    authority = asyncssh.generate_private_key("ssh-ed25519")
    key = asyncssh.read_private_key(node.directory / "host_key")
    key_of_host = authority.generate_host_certificate(key, "node", principals=["127.0.0.1"])
    node._write("host_key-cert.pub", key_of_host.export_certificate().decode(), 0o644)
    with (node.directory / "config").open("a") as config:
        config.write(f"HostCertificate {node.directory}/host_key-cert.pub\n")
    node.stop()
    node.restart()
    line = f"@cert-authority [127.0.0.*]:{node.port},c* {authority.export_public_key().decode()}"
    async with serving(echo) as port, tunnel_of(login, node, on_node={"known_hosts": line}) as tunnel:
        await talk(await tunnel.open(Recorder, here(port), ANN))


async def test_the_login_nodes_settings_are_the_nodes_unless_said(login: Sshd, node: Sshd) -> None:
    known = Path(node.directory / "known")
    known.write_text(login.known_hosts + node.known_hosts)
    everywhere = (node.client_key, login.client_key)
    own = {"known_hosts": "", "client_keys": ()}
    login.allow(ANN)
    async with (
        serving(echo) as port,
        tunnel_of(
            login, node, known_hosts=str(known), client_keys=everywhere, tunnel_as_user=True, on_node=own
        ) as tunnel,
    ):
        await talk(await tunnel.open(Recorder, here(port), ANN))
        assert (signed_in(login, login.me), signed_in(login, ANN), signed_in(node, ANN)) == (0, 1, 1)


async def test_when_the_first_hop_dies_all_behind_it_end_and_are_made_again(login: Sshd, node: Sshd) -> None:
    async with serving(echo) as port, tunnel_of(login, node) as tunnel:
        streams = [await tunnel.open(Recorder, here(port), user) for user in (ANN, BEN)]
        login.cut()
        for made, user in zip(streams, (ANN, BEN), strict=True):
            assert await lost(made) == (
                f"The SSH connection {user}@127.0.0.1 was lost: The SSH connection (service)@127.0.0.1 was lost: Connection lost."
            )
        again = [await tunnel.open(Recorder, here(port), user) for user in (ANN, BEN)]
        for made in again:
            await talk(made)
        assert tunnel.counters() == {"connects": 4, "failures": 0, "losses": 2}


async def test_a_login_node_that_is_away_is_no_fault_of_the_node(login: Sshd, node: Sshd) -> None:
    """Its own pause is not added to the login node's."""
    async with serving(echo) as port, tunnel_of(login, node) as tunnel:
        login.stop()
        for _ in range(3):
            with pytest.raises(TunnelError, match=r"the node 127\.0\.0\.1: 127\.0\.0\.1:\d+: Connection refused"):
                await tunnel.open(Recorder, here(port), ANN)
        assert tunnel.counters()["failures"] == 0
        login.restart()
        async with asyncio.timeout(60):
            made = None
            while made is None:
                with suppress(TunnelError):
                    made = await tunnel.open(Recorder, here(port), ANN)
                await asyncio.sleep(0.02)
        await talk(made)


async def test_a_node_that_freezes_is_found_out_and_others_go_on(login: Sshd, node: Sshd) -> None:
    other = Sshd((BEN,))
    watchful = {"keepalive_interval": 0.1, "keepalive_count": 2}
    frozen: list[psutil.Process] = []
    try:
        # Two nodes of one address and different ports: two tunnels.
        async with (
            serving(echo) as port,
            tunnel_of(login, node, on_node=watchful) as one,
            tunnel_of(login, other) as two,
        ):
            made = await one.open(Recorder, here(port), ANN)
            spared = await two.open(Recorder, here(port), BEN)
            frozen = [each for child in node.sessions() for each in (child, *child.children())]
            for process in frozen:
                process.send_signal(signal.SIGSTOP)
            assert "not responding to keepalive" in await lost(made)
            await talk(spared)
            await talk(await one.open(Recorder, here(port), ANN))
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)
        other.close()


async def test_nodes_that_nobody_uses_are_forgotten(login: Sshd, node: Sshd) -> None:
    limit = NodeTunnelSettings(max_nodes=1)
    own = {"known_hosts": "", "insecure": True}
    async with serving(echo) as port, tunnel_of(login, node, limit, on_node=own) as tunnel:
        names = [Endpoint(name, port) for name in ("127.0.0.1", "127.0.0.2", "LOCALHOST.")]
        made = await tunnel.open(Recorder, names[0], ANN)
        with pytest.raises(TunnelError, match=r"connections to 1 nodes already, which is the limit \(max_nodes\)"):
            await tunnel.open(Recorder, names[2], ANN)
        made.stream.close()
        await made.lost
        with pytest.raises(TunnelError, match=r"127\.0\.0\.2 refused port"):  # its sshd listens on 127.0.0.1 alone
            await tunnel.open(Recorder, names[1], ANN)
        again = await tunnel.open(Recorder, names[2], ANN)
        await talk(again)
        assert [name for name in tunnel.state() if ANN in name] == [f"{ANN}@localhost:{node.port}"]
