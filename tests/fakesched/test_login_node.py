"""The login node speaks with asyncssh and with OpenSSH's client."""

import asyncio
import subprocess
from pathlib import Path
from types import SimpleNamespace

import asyncssh
import pytest
from paramiko.message import Message

from tests.fakesched.engine import Cluster
from tests.fakesched.login_node import LoginNode, _Transport
from tests.needs import need_program

NODES = {"nodes": {"n1": {"cores": 2}, "n2": {"cores": 2}}, "users": ["alice", "bob"]}


@pytest.fixture(scope="module")
def key():
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path / "cluster").create(NODES)
    yield made
    made.shutdown()


@pytest.fixture
def node(cluster, key):
    public = key.export_public_key().decode()
    with LoginNode(
        keys={"nosuch-alice": [public], "nosuch-bob": [public]}, passwords={"nosuch-carol": "pw"}, cluster=cluster
    ) as served:
        yield served


def connect(node, key, user="nosuch-alice", **more):
    known = asyncssh.import_known_hosts(node.known_hosts)
    options = {"client_keys": [key], "agent_path": None, "config": None} | more
    return asyncssh.connect(node.host, node.port, username=user, known_hosts=known, **options)


async def test_streams_and_exit_status(node, key):
    async with connect(node, key) as ssh:
        done = await ssh.run("cat; echo err >&2; exit 7", input="a\n" * 200_000)
        assert (done.exit_status, done.stderr) == (7, "err\n")
        assert done.stdout == "a\n" * 200_000
        done = await ssh.run("kill -TERM $$")
        assert done.exit_signal[0] == "TERM"
    assert node.counts["connections"] == 1
    assert node.counts["sessions"] == 2
    assert node.commands[1] == ("nosuch-alice", "kill -TERM $$")


async def test_two_users_have_homes_and_names_of_their_own(node, key):
    async with connect(node, key) as alice, connect(node, key, "nosuch-bob") as bob:
        homes = [(await ssh.run("echo $HOME $USER; pwd")).stdout.split() for ssh in (alice, bob)]
        assert homes[0][1] == "nosuch-alice"
        assert homes[0][0] == homes[0][2] != homes[1][0]
        await alice.run("sbatch --parsable", input="#!/bin/sh\nsleep 30\n", check=True)
        listed = await bob.run("squeue -h -o '%u %T'")
        assert listed.stdout == "nosuch-alice RUNNING\n"


async def test_signal_request_reaches_the_command(node, key):
    async with connect(node, key) as ssh:
        process = await ssh.create_process("echo ready; exec sleep 60")
        assert await process.stdout.readline() == "ready\n"
        process.send_signal("KILL")
        await process.wait()
        assert process.exit_signal[0] == "KILL"


async def test_login_shells_and_noise(cluster, key):
    public = key.export_public_key().decode()
    need_program("tcsh", "tcsh")
    with LoginNode(keys={"*": [public]}, cluster=cluster, shells={"nosuch-t": "/bin/tcsh"}, noise="Welcome!\n") as node:
        async with connect(node, key, "nosuch-t") as ssh:
            done = await ssh.run("echo $version")
            assert done.stdout.startswith("Welcome!\ntcsh ")


async def test_forwarding_goes_to_the_fake_node_only(node, cluster, key):
    async def echo(reader, writer):
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, cluster.address("n2"), 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connect(node, key) as ssh:
        for name in ("n2", "n2.cluster.test", cluster.address("n2")):
            reader, writer = await ssh.open_connection(name, port)
            writer.write(b"abc" * 100_000)
            writer.write_eof()
            assert await reader.read() == b"ABC" * 100_000
        for name, why in (
            ("n1", asyncssh.OPEN_CONNECT_FAILED),
            ("elsewhere", asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED),
        ):
            with pytest.raises(asyncssh.ChannelOpenError) as refused:
                await ssh.open_connection(name, port)
            assert refused.value.code == why
        node.blocked.add("n2")
        with pytest.raises(asyncssh.ChannelOpenError):
            await ssh.open_connection("n2", port)
    assert (node.counts["forwards"], node.counts["failed_forwards"], node.counts["refused_forwards"]) == (3, 1, 2)


async def test_passwords_and_refusals(node, key):
    async with connect(node, None, "nosuch-carol", password="pw", client_keys=None) as ssh:
        assert (await ssh.run("true")).exit_status == 0
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(node, key, "mallory")
    node.refuse_auth = True
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(node, key)
    assert node.counts["auth_failures"] >= 2


async def test_drop_cuts_at_once_and_the_port_is_the_same_afterwards(node, key):
    ssh = await connect(node, key)
    process = await ssh.create_process("sleep 60")
    port = node.port
    node.close_listener()
    node.drop()
    await asyncio.wait_for(ssh.wait_closed(), 60)
    assert process.is_closing()
    with pytest.raises(OSError):
        await connect(node, key)
    node.open_listener()
    assert node.port == port
    async with connect(node, key) as again:
        assert (await again.run("echo back")).stdout == "back\n"


async def test_a_stalled_node_keeps_silent_and_recovers(node, key):
    async with connect(node, key) as ssh:
        node.stall()
        question = asyncio.ensure_future(ssh.run("echo late"))
        done, _ = await asyncio.wait([question], timeout=0.5)
        assert not done
        node.stall(False)
        assert (await asyncio.wait_for(question, 60)).stdout == "late\n"


async def test_a_changed_host_key_is_noticed(node, key):
    known = asyncssh.import_known_hosts(node.known_hosts)
    node.change_host_key()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await asyncssh.connect(
            node.host, node.port, username="nosuch-alice", client_keys=[key], known_hosts=known, config=None
        )
    async with connect(node, key) as ssh:
        assert (await ssh.run("true")).exit_status == 0


def test_openssh_client(node, key, tmp_path):
    ssh = need_program("ssh", "openssh-client")
    identity = tmp_path / "id"
    identity.write_bytes(key.export_private_key())
    identity.chmod(0o600)
    (tmp_path / "known").write_text(node.known_hosts)
    options = (
        "UserKnownHostsFile=" + str(tmp_path / "known"),
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "LogLevel=ERROR",
    )
    argv = [ssh, "-F", "none", *(part for option in options for part in ("-o", option))]
    argv += ["-i", str(identity), "-p", str(node.port), "nosuch-alice@127.0.0.1"]
    done = subprocess.run(
        [*argv, "sbatch --parsable"],
        input="#!/bin/sh\nhostname\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    done = subprocess.run([*argv, "squeue -h -j 99"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "slurm_load_jobs error: Invalid job id specified\n")
    assert Path(node.home("nosuch-alice"), "slurm-1.out").parent.is_dir()


def test_nothing_is_said_of_a_channel_after_its_close() -> None:
    """Whatever order paramiko's threads come in: a client has to end the connection of everybody otherwise."""
    sent = []

    class Quiet(_Transport):
        def __init__(self):
            self._shut = set()
            self.packetizer = SimpleNamespace(send_message=lambda message: sent.append(message.asbytes()[0]))

    def message(kind, channel):
        made = Message()
        made.add_byte(bytes([kind]))
        made.add_int(channel)
        return made

    transport = Quiet()
    for kind, channel in ((94, 7), (97, 7), (94, 7), (93, 7), (99, 7), (94, 8), (91, 7), (94, 7)):
        transport._send_message(message(kind, channel))
    assert sent == [94, 97, 94, 91, 94]
