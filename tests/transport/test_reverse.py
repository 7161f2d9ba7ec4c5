"""The server that jobs dial, attacked: with OpenSSH's client, with paramiko, and with bytes."""

import asyncio
import contextlib
import io
import logging
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
from asyncssh.constants import MSG_GLOBAL_REQUEST
from asyncssh.packet import Boolean, String

from batchhub.core.errors import BadInput, ConfigError, TunnelError
from batchhub.transport.admission import AdmissionSettings
from batchhub.transport.dialin import GateSettings
from batchhub.transport.reverse import ReverseGate
from tests.gate import BRISK, HOST, T0, DialledJob, dialled, job_key, listener, serving_gate, until
from tests.tunnel.conftest import Recorder, echo, serving

pytestmark = pytest.mark.sshd
JOB, OTHER = "abcdefghijkl", "mnopqrstuvwx"


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[tuple[ReverseGate, int]]:
    async with serving_gate(tmp_path / "o", JOB, OTHER) as made:
        yield made


async def ssh(port: int, offer: str, *more: str, key: Any = None, target: str = "127.0.0.1:9") -> str:
    """What OpenSSH's client says when it has ended."""
    job = DialledJob(port, offer, target, key=key)
    try:
        await job.start(*more)
        return await job.ended()
    finally:
        await job.stop()


# ---------------------------------------------------------------- who comes in


async def test_a_wrong_key(gate) -> None:
    made, port = gate
    assert "Permission denied (publickey)" in await ssh(port, JOB, key=job_key("stranger"))
    assert made.state() == {}


async def test_the_right_key_for_anothers_name(gate) -> None:
    made, port = gate
    assert "Permission denied (publickey)" in await ssh(port, OTHER, key=job_key(JOB))
    assert "Permission denied (publickey)" in await ssh(port, "nobody", key=job_key(JOB))
    assert "Permission denied (publickey)" in await ssh(port, "root", key=job_key(JOB))
    assert made.state() == {}


async def test_an_older_starts_key(gate) -> None:
    made, port = gate
    made.offered(JOB, job_key(JOB, 2).public)
    assert "Permission denied (publickey)" in await ssh(port, JOB)


def transport(port: int) -> paramiko.Transport:
    made = paramiko.Transport(socket.create_connection(("127.0.0.1", port), timeout=10))
    made.start_client(timeout=10)
    return made


def paramiko_key(offer: str = JOB) -> paramiko.Ed25519Key:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(job_key(offer).private))


async def test_no_password_no_dialogue_and_not_nothing(gate) -> None:
    made, port = gate

    def attack() -> None:
        asks: tuple[Callable[[paramiko.Transport], Any], ...] = (
            lambda client: client.auth_none(JOB),
            lambda client: client.auth_password(JOB, "secret", fallback=False),
            lambda client: client.auth_interactive(JOB, lambda *_: ["secret"]),
        )
        for ask in asks:
            with closing(transport(port)) as client:
                with pytest.raises(paramiko.BadAuthenticationType) as caught:
                    ask(client)
                assert caught.value.allowed_types == ["publickey"]
                assert not client.is_authenticated()

    await asyncio.to_thread(attack)
    assert made.state() == {}


async def test_another_kind_of_key_and_too_many_of_them(gate) -> None:
    _, port = gate

    def attack() -> None:
        with closing(transport(port)) as client:
            with pytest.raises((paramiko.SSHException, EOFError)):
                client.auth_publickey(JOB, paramiko.ECDSAKey.generate())
            tries = 0
            while client.is_active() and tries < 20:
                tries += 1
                with pytest.raises((paramiko.SSHException, EOFError)):
                    client.auth_publickey(JOB, paramiko_key(OTHER))
            assert tries < 20
            assert not client.is_authenticated()

    await asyncio.to_thread(attack)


async def test_the_name_cannot_be_changed_between_key_and_signature(gate) -> None:
    """Signing in as one's own offer opens no other: the connection is for the name that was proved."""
    made, port = gate

    def attack() -> None:
        with closing(transport(port)) as client:
            client.auth_publickey(JOB, paramiko_key())
            client.request_port_forward("batchhub", 1, handler=lambda *_: None)
            assert set(made.state()) == {JOB}

    await asyncio.to_thread(attack)
    await until(lambda: made.state() == {})


async def test_only_strong_algorithms_are_offered(gate) -> None:
    _, port = gate
    for words, missing in (
        (("-o", "Ciphers=aes128-cbc"), "no matching cipher"),
        (("-o", "KexAlgorithms=diffie-hellman-group14-sha1"), "no matching key exchange"),
        (
            ("-o", "KexAlgorithms=diffie-hellman-group16-sha512"),
            "no matching key exchange",
        ),  # twice our time for a stranger
        (("-o", "Ciphers=aes256-ctr", "-o", "MACs=hmac-sha1"), "no matching MAC"),
    ):
        assert missing in await ssh(port, JOB, *words, "-N", "-R", "batchhub:1:127.0.0.1:9")


# ---------------------------------------------------------------- what it may ask


@pytest.mark.parametrize(
    "forwards",
    [
        ("-R", "batchhub:2:127.0.0.1:9"),
        ("-R", "0:127.0.0.1:9"),
        ("-R", "0.0.0.0:8080:127.0.0.1:9"),
        ("-R", "localhost:1:127.0.0.1:9"),
        ("-R", "/tmp/bh-no-such.sock:127.0.0.1:9"),
        ("-R", "1080"),
        ("-R", "batchhub:1:127.0.0.1:9", "-R", "batchhub:2:127.0.0.1:9"),
    ],
    ids=" ".join,
)
async def test_no_forwarding_but_the_one(gate, forwards: tuple[str, ...]) -> None:
    made, port = gate
    before = open_sockets()
    said = await ssh(port, JOB, "-N", *forwards)
    assert "orwarding failed" in said
    assert open_sockets() <= before
    assert not os.path.exists("/tmp/bh-no-such.sock")
    await until(lambda: made.state() == {})


def open_sockets() -> int:
    """TCP sockets of this process that listen."""
    rows = Path("/proc/self/net/tcp").read_text().splitlines() + Path("/proc/self/net/tcp6").read_text().splitlines()
    mine = {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
    return sum(1 for row in rows if row.split()[3] == "0A" and f"socket:[{row.split()[9]}]" in mine)


async def test_no_second_forwarding_of_the_same_and_no_real_port(gate) -> None:
    made, port = gate

    def attack() -> None:
        with closing(transport(port)) as client:
            client.auth_publickey(JOB, paramiko_key())
            client.request_port_forward("batchhub", 1, handler=lambda *_: None)
            with pytest.raises(paramiko.SSHException, match="denied"):
                client.request_port_forward("batchhub", 1, handler=lambda *_: None)
            assert client.is_active()
            assert JOB in made.state()

    before = open_sockets()
    await asyncio.to_thread(attack)
    assert open_sockets() == before


@pytest.mark.parametrize(
    ("more", "command"),
    [
        (("-T",), ("true",)),
        (("-tt",), ("sh",)),
        (("-s",), ("sftp",)),
        (("-X",), ("true",)),
        (("-A",), ("true",)),
        (("-W", "127.0.0.1:22"), ()),
    ],
    ids=["command", "shell", "sftp", "x11", "agent", "direct"],
)
async def test_no_session_of_any_kind(gate, more: tuple[str, ...], command: tuple[str, ...]) -> None:
    _, port = gate
    job = await DialledJob(port, JOB, "127.0.0.1:9").start(*more, command=command)
    try:
        said = await job.ended()
        assert job.process.returncode == 255
        assert "Authenticated to" in said
        assert "open failed" in said or "forwarding failed" in said
    finally:
        await job.stop()


def try_all(client: paramiko.Transport) -> list[str]:
    """Ask for every kind of channel; what was granted."""
    granted = []
    asked: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("session", client.open_session),
        ("direct-tcpip", lambda: client.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1))),
        ("x11", lambda: client.open_x11_channel(("127.0.0.1", 1))),
        ("agent", client.open_forward_agent_channel),
        ("forwarded-tcpip", lambda: client.open_forwarded_tcpip_channel(("127.0.0.1", 1), ("batchhub", 1))),
    )
    for name, ask in asked:
        try:
            ask()
        except (paramiko.SSHException, EOFError, OSError):
            continue
        granted.append(name)
    return granted


async def test_no_channel_is_opened_by_a_job_and_one_that_insists_is_cut(
    gate, caplog: pytest.LogCaptureFixture
) -> None:
    made, port = gate
    caplog.set_level(logging.INFO)

    def attack() -> None:
        with closing(transport(port)) as client:
            client.auth_publickey(JOB, paramiko_key())
            client.request_port_forward("batchhub", 1, handler=lambda *_: None)
            assert try_all(client) == []
            assert JOB in made.state()
            for _ in range(5):
                with pytest.raises((paramiko.SSHException, EOFError, OSError)):
                    client.open_session(timeout=10)
            client.join(10)
            assert not client.is_active()

    await asyncio.to_thread(attack)
    await until(lambda: made.state() == {})
    assert f"of the job's offer {JOB} asked for a connection to '127.0.0.1' port 22, which is refused" in caplog.text
    assert "it asks for what is not given" in caplog.text
    assert "PRIVATE" not in caplog.text


# ---------------------------------------------------------------- a job that plays by other rules


@contextlib.asynccontextmanager
async def hostile(port: int, **channels: int) -> AsyncIterator[Any]:
    """asyncssh as the job, dialled in; ``channels`` is what it says of its channels."""
    key = asyncssh.import_private_key(job_key(JOB).private)
    client = await asyncssh.connect(
        "127.0.0.1", port, username=JOB, known_hosts=None, config=None, client_keys=[key], agent_path=None
    )
    try:
        await client.create_server(lambda *_: asyncssh.SSHTCPSession(), "batchhub", 1, **channels)
        yield client
    finally:
        client.abort()
        await client.wait_closed()


async def test_a_job_that_takes_a_byte_in_each_packet_gets_no_stream(gate) -> None:
    """256 KiB in packets of one byte would hold up everybody's worker for 4 seconds."""
    made, port = gate
    async with hostile(port, max_pktsize=1, window=1 << 31):
        with pytest.raises(TunnelError, match="takes too little in one packet"):
            await made.open(Recorder, JOB)
        await until(lambda: made._jobs[JOB].streams == 0)


async def test_a_job_that_allows_much_and_reads_nothing_is_cut(tmp_path: Path) -> None:
    async with (
        serving_gate(tmp_path / "o", JOB, settings=replace(BRISK, unread=1 << 20)) as (made, port),
        hostile(port, window=(1 << 32) - 1) as job,
    ):
        stream = await made.open(Recorder, JOB)
        job._transport.pause_reading()
        written = 0
        while made.state() and written < 64 << 20:
            stream.stream.write(bytes(65536))
            written += 65536
            await asyncio.sleep(0)
        assert made.state() == {}
        assert written < 32 << 20  # sockets' buffers, and what was allowed to wait
        await stream.until(stream.lost.done)


async def test_a_job_that_asks_much_and_reads_no_answer_is_cut(tmp_path: Path) -> None:
    async with (
        serving_gate(tmp_path / "o", JOB, settings=replace(BRISK, unread=1 << 14)) as (made, port),
        hostile(port) as job,
    ):
        made._jobs[JOB]._ssh.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        job._transport.pause_reading()
        asked = 0
        while made.state() and job._transport is not None and asked < 1_000_000:
            job.send_packet(MSG_GLOBAL_REQUEST, String("no@such"), Boolean(True))
            asked += 1
            if not asked % 200:
                await asyncio.sleep(0)
        assert made.state() == {}


# ---------------------------------------------------------------- floods


async def test_garbage_harms_nobody(gate, caplog: pytest.LogCaptureFixture) -> None:
    made, port = gate
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-\xff\xfe\r\n" + os.urandom(2000),
        b"SSH-2.0-x\r\n" + b"\xff" * 5000,
        b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x04\x14" + os.urandom(500),
        b"A" * 100_000,
        b"",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        with pytest.MonkeyPatch.context(), _peer_may_go():
            writer.write_eof()
        async with asyncio.timeout(60):
            with _peer_may_go():
                await reader.read()
        writer.close()
    async with serving(echo) as app, dialled(made, port, JOB, f"127.0.0.1:{app}"):
        assert made._admission.unknown == 0
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR and record.name.startswith("batchhub")
    ]


def _peer_may_go():
    return contextlib.suppress(ConnectionError, OSError)


async def test_who_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    settings = replace(BRISK, handshake=0.3)
    async with serving_gate(tmp_path / "o", JOB, settings=settings) as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(b"SSH-2.0-")
        writer.close()

        def idle() -> None:
            """Signs in, and offers nothing."""
            with closing(transport(port)) as client:
                client.auth_publickey(JOB, paramiko_key())
                client.join(20)
                assert not client.is_active()

        await asyncio.to_thread(idle)
        assert (made._admission.unknown, made.state(), made._all) == (0, {}, set())


async def test_a_flood_of_handshakes_is_bounded_and_a_job_in_place_does_not_notice(tmp_path: Path) -> None:
    settings = replace(BRISK, admission=AdmissionSettings(unknown=10, burst=1000, rate=1000.0))
    async with serving_gate(tmp_path / "o", JOB, settings=settings) as (made, port), serving(echo) as app:
        async with dialled(made, port, JOB, f"127.0.0.1:{app}"):
            streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
            greeted = await asyncio.gather(*(one.readline() for one, _ in streams), return_exceptions=True)
            assert sum(1 for line in greeted if isinstance(line, bytes) and line.startswith(b"SSH-2.0")) == 10
            assert "turned away" in made.state()
            talked = await made.open(Recorder, JOB)
            talked.stream.write(b"alive")
            await talked.until(lambda: talked.data == b"alive")
            for _, writer in streams:
                writer.close()
            await until(lambda: (made._admission.unknown, len(made._all)) == (0, 1))
            talked.stream.close()
        async with dialled(made, port, JOB, f"127.0.0.1:{app}"):
            pass


async def test_an_address_that_comes_too_often_waits(tmp_path: Path) -> None:
    settings = replace(BRISK, admission=AdmissionSettings(unknown=100, burst=2, rate=0.0))
    async with serving_gate(tmp_path / "o", JOB, settings=settings) as (_, port):
        for number in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with _peer_may_go():
                assert bool(await reader.readline()) is (number < 2)
            writer.close()


# ---------------------------------------------------------------- many of one offer, and its end


async def test_the_newest_connection_of_an_offer_stands(gate) -> None:
    made, port = gate
    async with serving(echo) as app:
        jobs: list[DialledJob] = []

        def the_newest_stands() -> bool:
            return [job.process.returncode is None for job in jobs].count(True) == 1 and JOB in made.state()

        for _ in range(4):
            jobs.append(await DialledJob(port, JOB, f"127.0.0.1:{app}").start())
            await until(the_newest_stands)
        assert [job.process.returncode for job in jobs] == [255, 255, 255, None]
        assert "the job has dialled in anew" in await jobs[0].ended()
        assert len(made._all) == 1
        talked = await made.open(Recorder, JOB)
        talked.stream.write(b"alive")
        await talked.until(lambda: talked.data == b"alive")
        talked.stream.close()
        for job in jobs:
            await job.stop()


async def test_who_signs_in_again_and_again_keeps_one_connection(gate) -> None:
    made, port = gate

    def attack() -> None:
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(5):
                clients.append(stack.enter_context(closing(transport(port))))
                clients[-1].auth_publickey(JOB, paramiko_key())
            for client in clients[:-1]:
                client.join(10)
            assert [client.is_active() for client in clients] == [False] * 4 + [True]

    await asyncio.to_thread(attack)
    await until(lambda: not made._all)


async def test_a_job_that_dials_a_sibling_leaves_its_former_connection(tmp_path: Path) -> None:
    async with (
        serving_gate(tmp_path / "o", JOB) as (one, port),
        serving_gate(tmp_path / "o", JOB) as (other, second),
        serving(echo) as app,
        dialled(one, port, JOB, f"127.0.0.1:{app}") as first,
        dialled(other, second, JOB, f"127.0.0.1:{app}"),
    ):
        talked = await one.open(Recorder, JOB)
        talked.stream.write(b"alive")
        await talked.until(lambda: talked.data == b"alive")
        talked.stream.close()
        assert one.state() == {}
        assert "dialled in anew" in await first.ended()
        assert (tmp_path / "o" / f"{JOB}.sock").exists()


async def test_a_withdrawn_offer_is_cut_at_once_and_its_key_is_dead(gate) -> None:
    made, port = gate
    async with serving(echo) as app, dialled(made, port, OTHER, f"127.0.0.1:{app}"):
        async with dialled(made, port, JOB, f"127.0.0.1:{app}") as job:
            streams = [await made.open(Recorder, JOB) for _ in range(3)]
            made.withdrawn(JOB)
            assert set(made.state()) == {OTHER}
            async with asyncio.timeout(60):
                for stream in streams:
                    await stream.lost
            assert "its offer was withdrawn" in await job.ended()
        assert "Permission denied (publickey)" in await ssh(port, JOB)
        with pytest.raises(TunnelError, match="expects no job"):
            await made.open(Recorder, JOB)
        assert set(made.state()) == {OTHER}


async def test_withdrawn_between_signing_in_and_offering(gate) -> None:
    made, port = gate

    def attack() -> None:
        with closing(transport(port)) as client:
            client.auth_publickey(JOB, paramiko_key())
            loop.call_soon_threadsafe(made.withdrawn, JOB)
            with pytest.raises((paramiko.SSHException, EOFError, OSError)):
                client.request_port_forward("batchhub", 1, handler=lambda *_: None)

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(attack)
    assert made.state() == {}


async def test_a_dead_peer_is_found(tmp_path: Path) -> None:
    """A node that froze, or a network that is gone: no FIN comes."""
    settings = replace(BRISK, keepalive_interval=0.1, keepalive_count=2, open=0.2)
    async with (
        serving_gate(tmp_path / "o", JOB, settings=settings) as (made, port),
        serving(echo) as app,
        dialled(made, port, JOB, f"127.0.0.1:{app}") as job,
    ):
        stream = await made.open(Recorder, JOB)
        job.process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(60):
            assert isinstance(await stream.lost, TunnelError)
        assert made.state() == {}


async def test_so_many_streams_and_no_more(tmp_path: Path) -> None:
    async with (
        serving_gate(tmp_path / "o", JOB, settings=replace(BRISK, streams=3)) as (made, port),
        serving(echo) as app,
        dialled(made, port, JOB, f"127.0.0.1:{app}"),
    ):
        found = await asyncio.gather(*(made.open(Recorder, JOB) for _ in range(5)), return_exceptions=True)
        assert [str(error) for error in found if isinstance(error, TunnelError)] == [
            "The job has 3 streams open already."
        ] * 2
        for stream in found:
            if isinstance(stream, Recorder):
                stream.stream.abort()
        await until(lambda: "0 streams" in made.state()[JOB])
        (await made.open(Recorder, JOB)).stream.close()


# ---------------------------------------------------------------- a process that is replaced


async def test_draining_sends_jobs_to_the_next_process(tmp_path: Path) -> None:
    with listener() as shared:
        async with (
            serving(echo) as app,
            serving_gate(tmp_path / "o", JOB, OTHER, sock=shared) as (old, port),
            dialled(old, port, JOB, f"127.0.0.1:{app}") as first,
            dialled(old, port, OTHER, f"127.0.0.1:{app}") as idle,
        ):
            kept = await old.open(Recorder, JOB)
            async with serving_gate(tmp_path / "o", JOB, OTHER, sock=shared) as (new, _):
                old.drain()
                assert "being replaced" in await idle.ended()
                assert old.busy
                async with dialled(new, port, OTHER, f"127.0.0.1:{app}"):
                    relayed = await new.open(Recorder, JOB)  # its job is still with the old one
                    for stream in (kept, relayed):
                        stream.stream.write(b"alive")
                        await stream.until(lambda stream=stream: stream.data == b"alive")
                        stream.stream.close()
                    assert "being replaced" in await first.ended()
                    assert not old.busy


async def test_doors_of_killed_processes_are_swept(tmp_path: Path) -> None:
    directory = tmp_path / "o"
    directory.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "deaddeaddead.sock"))
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(directory / "alivealivea2.sock"))
        alive.listen()
        async with serving_gate(directory, JOB):
            assert [path.name for path in directory.iterdir()] == ["alivealivea2.sock"]


async def test_a_look_at_a_door_bothers_no_job(tmp_path: Path) -> None:
    """A process that starts looks behind each door; that opens no stream."""
    calls = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await echo(reader, writer)

    async with (
        serving(count) as app,
        serving_gate(tmp_path / "o", JOB) as (made, port),
        dialled(made, port, JOB, f"127.0.0.1:{app}"),
        serving_gate(tmp_path / "o", JOB) as (sibling, _),
    ):
        talked = await sibling.open(Recorder, JOB)
        talked.stream.write(b"alive")
        await talked.until(lambda: talked.data == b"alive")
        talked.stream.close()
        assert calls == 1


@pytest.mark.parametrize("mode", [0o750, 0o705])
async def test_a_directory_that_others_enter_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "o"
    directory.mkdir()
    directory.chmod(mode)
    with listener() as sock, pytest.raises(ConfigError, match="nobody else can enter"):
        await ReverseGate(HOST.private, directory, lambda: T0).start(sock)
    assert stat.S_IMODE(directory.stat().st_mode) == mode


async def test_what_cannot_be_served_is_told_at_start(tmp_path: Path) -> None:
    with listener() as sock:
        with pytest.raises(ConfigError, match="too long a path"):
            await ReverseGate(HOST.private, tmp_path / ("x" * 100), lambda: T0).start(sock)
        with pytest.raises(ConfigError, match="host key"):
            await ReverseGate("no key", tmp_path / "o", lambda: T0, GateSettings()).start(sock)


@pytest.mark.parametrize(
    ("offer", "key"),
    [
        ("a b", job_key("x").public),
        ("../x", job_key("x").public),
        ("x", "ssh-rsa AAAA"),
        ("x", "ssh-ed25519 AAAA"),
        ("x", ""),
    ],
)
def test_an_offer_that_is_none(tmp_path: Path, offer: str, key: str) -> None:
    with pytest.raises(BadInput):
        ReverseGate(HOST.private, tmp_path, lambda: T0).offered(offer, key)
