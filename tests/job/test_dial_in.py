"""launch.py and the node's own ssh, against the proxy's server: dialled, lost, dialled again, ended."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from batchhub.core import handshake
from batchhub.core.errors import TunnelError
from batchhub.core.handshake import DialIn
from batchhub.core.model import Endpoint
from batchhub.job.files import job_files
from batchhub.transport.dialin import GateSettings
from batchhub.transport.reverse import ReverseGate
from batchhub.tunnel.reverse import ReverseTunnel
from tests.gate import HOST, job_key, listener, serving_gate, until
from tests.job.test_launch import TOKEN, Job
from tests.tunnel.conftest import Recorder

pytestmark = pytest.mark.sshd
OFFER = "abcdefghijkl"
PATIENT = replace(GateSettings(), patience=20.0)


@contextlib.asynccontextmanager
async def a_job(tmp_path: Path) -> AsyncIterator[Job]:
    """A job's directory; its processes are ended."""
    job = Job(tmp_path / "job")
    try:
        yield job
    finally:
        for process in job.processes:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(asyncio.TimeoutError):
                    await until(lambda process=process: process.poll() is not None)
                process.kill()
                process.wait()


def write(job: Job, port: int, *, change: Callable[[str], str] = str, socket: bool = False, **dial: object) -> None:
    way = replace(DialIn("127.0.0.1", port, OFFER, HOST.public), **dial)  # type: ignore[arg-type]
    document = job.app(socket=socket, dial_in=way)
    job.write(document, change=change)
    files = job_files("#!/bin/sh\n", document, handshake.secrets_document(1, TOKEN, job_key(OFFER).private))
    (job.directory / "secrets.json").write_bytes(files["secrets.json"])


async def ask(gate: ReverseGate) -> bytes:
    """GET / of the application through the tunnel."""
    made = await ReverseTunnel(gate).open(lambda: Recorder(keep_open=False), Endpoint("n", 1, offer=OFFER), "alice")
    made.stream.write(b"GET /user/x/api HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(60):
        await made.lost
    return bytes(made.data).partition(b"\r\n")[0]


def ssh_of(process) -> psutil.Process:
    (found,) = [child for child in psutil.Process(process.pid).children() if child.name() == "ssh"]
    return found


@pytest.mark.parametrize("socket", [False, True], ids=["port", "socket"])
async def test_it_dials_in_and_hangs_up_at_the_end(tmp_path: Path, socket: bool) -> None:
    async with serving_gate(tmp_path / "o", OFFER, settings=PATIENT) as (gate, port), a_job(tmp_path) as job:
        write(job, port, socket=socket)
        process = job.start()
        assert await ask(gate) == b"HTTP/1.0 200 OK"
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in job.directory.iterdir()}
        assert modes["offer_key"] == modes["known_hosts"] == 0o600
        ssh = ssh_of(process)
        words = " ".join(ssh.cmdline())
        assert OFFER in words
        for secret in (TOKEN, *job_key(OFFER).private.split("\n")[1:-2]):
            assert secret not in words
            assert secret not in job.log()
        process.terminate()
        await until(lambda: process.poll() is not None)
        await until(lambda: OFFER not in gate.state())
        assert not ssh.is_running()
        assert not (job.directory / "offer_key").exists()
        assert not (job.directory / "known_hosts").exists()
        assert job.log().count("is dialled in to") == 1


async def test_a_killed_ssh_is_started_again(tmp_path: Path) -> None:
    async with serving_gate(tmp_path / "o", OFFER, settings=PATIENT) as (gate, port), a_job(tmp_path) as job:
        write(job, port)
        process = job.start()
        assert await ask(gate) == b"HTTP/1.0 200 OK"
        first = ssh_of(process)
        first.kill()
        await until(lambda: OFFER not in gate.state())
        assert await ask(gate) == b"HTTP/1.0 200 OK"
        assert ssh_of(process).pid != first.pid
        await until(lambda: job.log().count("is dialled in to") == 2)


async def test_a_proxy_that_is_away_is_dialled_until_it_is_back(tmp_path: Path) -> None:
    """The log tells each change once, however many tries there are."""
    with listener() as shared:
        port = shared.getsockname()[1]
    async with a_job(tmp_path) as job:
        write(job, port, change=lambda text: text.replace("REDIAL = (1.0, 30.0)", "REDIAL = (0.05, 0.1)"))
        process = job.start()
        await until(lambda: "is not connected, this is tried again: " in job.log())
        tries = set()
        async with asyncio.timeout(60):
            while len(tries) < 4:
                tries |= {child.pid for child in psutil.Process(process.pid).children() if child.name() == "ssh"}
                await asyncio.sleep(0.005)
        for _ in range(2):
            with listener(port) as shared:
                async with serving_gate(tmp_path / "o", OFFER, sock=shared, settings=PATIENT) as (gate, _):
                    assert await ask(gate) == b"HTTP/1.0 200 OK"
        await until(lambda: "refused" in job.log().splitlines()[-1])
        said = [line for line in job.log().splitlines() if "the proxy at" in line]
        assert len(said) <= 8
        assert said.count(f"batchhub: the proxy at 127.0.0.1:{port} is dialled in to") == 2
        assert "Connection refused" in said[0]
        assert process.poll() is None


async def test_a_withdrawn_offer_and_a_wrong_host_key_are_told(tmp_path: Path) -> None:
    async with serving_gate(tmp_path / "o", OFFER, settings=PATIENT) as (gate, port), a_job(tmp_path) as job:
        write(job, port, change=lambda text: text.replace("REDIAL = (1.0, 30.0)", "REDIAL = (0.05, 0.1)"))
        process = job.start()
        assert await ask(gate) == b"HTTP/1.0 200 OK"
        gate.withdrawn(OFFER)
        await until(lambda: "its offer was withdrawn" in job.log())
        await until(lambda: "Permission denied (publickey)" in job.log())
        with pytest.raises(TunnelError, match="expects no job"):
            await ask(gate)
        process.terminate()
        await until(lambda: process.poll() is not None)
        write(job, port, host_key=job_key("another").public)
        gate.offered(OFFER, job_key(OFFER).public)
        job.start()
        await until(lambda: "Host key verification failed" in job.log())
        assert gate.state() == {}


async def test_without_ssh_and_another_way_nothing_is_started(tmp_path: Path) -> None:
    async with a_job(tmp_path) as job:
        write(job, 1, ssh="/no/such/ssh")
        process = job.start()
        await until(lambda: process.poll() is not None)
        record = job.exit(process)
        assert (record.code, record.word) == (
            1,
            "/no/such/ssh is not installed here, and there is no other way to the application",
        )


async def test_without_ssh_but_with_another_way_it_is_only_told(tmp_path: Path) -> None:
    async with a_job(tmp_path) as job:
        write(job, 1, ssh="/no/such/ssh", needed=False)
        process = job.start()
        await until((job.directory / "connection.json").exists)
        assert "/no/such/ssh: no such program here" in job.log()
        assert process.poll() is None


async def test_ssh_ends_with_a_launcher_that_was_killed(tmp_path: Path) -> None:
    async with serving_gate(tmp_path / "o", OFFER, settings=PATIENT) as (gate, port), a_job(tmp_path) as job:
        write(job, port)
        process = job.start()
        assert await ask(gate) == b"HTTP/1.0 200 OK"
        process.kill()
        process.wait()
        await until(lambda: OFFER not in gate.state())


def test_a_job_directory_with_an_odd_name_takes_its_socket_elsewhere(tmp_path: Path) -> None:
    """ssh would read ``%`` and ``:`` in a socket's path as its own."""
    from batchhub.job import launch

    for name in ("a%h", "a:b", "a b", "${HOME}"):
        odd = tmp_path / name
        odd.mkdir(0o700)
        path, made = launch.socket_path(str(odd))
        assert path.startswith("/tmp/bh-")
        os.rmdir(made)
    assert launch.socket_path(str(tmp_path)) == (str(tmp_path / "app.sock"), "")
