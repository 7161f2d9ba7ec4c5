"""The same transport and tunnel against an SSH server that is neither asyncssh nor OpenSSH: paramiko's."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from batchhub.core.errors import FileMissing, TunnelError, Unreachable
from batchhub.core.model import Endpoint
from batchhub.core.ports import Command, Completed
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from batchhub.transport.ssh import SSHTransport
from batchhub.tunnel.login import LoginTunnel
from tests.fakesched.login_node import LoginNode
from tests.transport.conftest import NOW, until
from tests.transport.test_local import alive
from tests.transport.test_shell import HARD
from tests.tunnel.conftest import Recorder, echo, serving

USER = "nosuch-alice"


@pytest.fixture
def key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def node(key: asyncssh.SSHKey) -> Iterator[Any]:
    public = key.export_public_key().decode()
    with LoginNode(keys={USER: [public], "nosuch-hub": [public]}, forward="any") as served:
        yield served


@pytest.fixture
async def pool(node: Any, key: asyncssh.SSHKey, tmp_path: Path) -> AsyncIterator[SSHPool]:
    path = tmp_path / "key"
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
    settings = SSHSettings(
        node.host,
        port=node.port,
        known_hosts=node.known_hosts,
        client_keys=(str(path),),
        service_username="nosuch-hub",
        open_timeout=1.0,
    )
    made = SSHPool(settings, lambda: NOW, lambda: 0.0)
    made.settings = settings  # type: ignore[attr-defined]
    yield made
    await made.close()


@pytest.fixture
def transport(pool: Any) -> SSHTransport:
    return SSHTransport(pool.settings, pool)


async def test_commands(transport: SSHTransport, node: Any) -> None:
    done = await transport._execute(Command(("/usr/bin/printf", "%s\\0", *HARD)), b"", USER)
    assert done.out.split(b"\0")[:-1] == [os.fsencode(part) for part in HARD]
    done_text = await transport.run(Command(("sh", "-c", "cat; echo bad >&2; exit 7"), stdin="größe"), USER)
    assert done_text == Completed(7, "größe", "bad\n")
    assert (await transport.run(Command(("sh", "-c", "kill -TERM $$")), USER)).code is None
    assert node.counts["connections"] == 1


async def test_many_commands_at_once_share_one_connection(transport: SSHTransport, node: Any) -> None:
    commands = [transport.run(Command(("echo", str(number))), USER) for number in range(24)]
    assert [done.out for done in await asyncio.gather(*commands)] == [f"{number}\n" for number in range(24)]
    assert node.counts["connections"] == 1


async def test_files(transport: SSHTransport) -> None:
    home = await transport.home(USER)
    directory = f"{home}/it's/a b"
    await transport.make_directory(directory, USER)
    data = bytes(range(256)) * 1000
    await transport.put(f"{directory}/x", data, USER)
    assert await transport.get(f"{directory}/x", USER, len(data)) == data
    assert await transport.tail(f"{directory}/x", USER, 3) == data[-3:]
    with pytest.raises(FileMissing):
        await transport.get(f"{directory}/y", USER)


async def test_the_deadline(transport: SSHTransport) -> None:
    tag = f"batchhub-{os.getpid()}-paramiko"
    done = await transport.run(Command(("sh", "-c", "echo begun; sleep 300; :", tag), deadline=0.5), USER)
    assert (done.code, done.out, done.timed_out) == (None, "begun\n", True)
    assert not alive(tag)


async def test_commands_one_after_another_share_a_connection(transport: SSHTransport, node: Any) -> None:
    for number in range(10):
        assert (await transport.run(Command(("echo", str(number))), USER)).out == f"{number}\n"
    assert node.counts["connections"] == 1


async def test_after_a_drop_the_next_command_works(transport: SSHTransport, node: Any) -> None:
    assert (await transport.run(Command(("true",)), USER)).code == 0
    node.drop()
    assert (await transport.run(Command(("true",)), USER)).code == 0
    assert node.counts["connections"] == 2


async def test_a_node_that_hangs(transport: SSHTransport, node: Any) -> None:
    assert (await transport.run(Command(("true",)), USER)).code == 0
    node.stall()
    with pytest.raises(Unreachable):
        await transport.run(Command(("true",), deadline=1.5), USER)
    node.stall(False)


async def test_refusals(transport: SSHTransport, node: Any) -> None:
    with pytest.raises(Unreachable, match="refused the key of user nosuch-bob"):
        await transport.run(Command(("true",)), "nosuch-bob")
    node.change_host_key()
    with pytest.raises(Unreachable, match=r"Host key of .* is not the known one"):
        await transport.run(Command(("true",)), USER)


async def test_the_tunnel(pool: SSHPool, node: Any) -> None:
    tunnel = LoginTunnel(pool)
    async with serving(echo) as port:
        made = await tunnel.open(Recorder, Endpoint("127.0.0.1", port), USER)
        sent = bytes(range(256)) * 4096
        made.stream.write(sent)
        made.stream.write_eof()
        await made.until(lambda: made.eof)
        assert made.data == sent + b"bye"
        made.stream.close()
        assert await made.lost is None
        with pytest.raises(TunnelError):
            await tunnel.open(Recorder, Endpoint("127.0.0.1", 1), USER)
        left = await tunnel.open(Recorder, Endpoint("127.0.0.1", port), USER)
        node.drop()
        async with asyncio.timeout(60):
            assert isinstance(await left.lost, TunnelError)
    await until(lambda: pool.connections()[0].state == "down")
