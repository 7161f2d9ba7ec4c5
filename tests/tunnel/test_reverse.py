"""Streams to a job that dialled in with OpenSSH's client, in this process and from its siblings."""

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import Tunnel
from batchhub.tunnel.reverse import ReverseTunnel
from tests.gate import dialled, job_key, listener, serving_gate, until
from tests.tunnel.conftest import MIB, Flood, Recorder, Waiting, echo, serving

pytestmark = pytest.mark.sshd
JOB = "abcdefghijkl"


def to(offer: str = JOB) -> Endpoint:
    return Endpoint("node7", 40000, offer=offer)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine], None]:
    """The proxy runs on uvloop; both must do."""

    def runner(work: Coroutine) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as loop:
            loop.run(work)

    return runner


async def talk(tunnel: Tunnel) -> None:
    made = await tunnel.open(Recorder, to(), "alice")
    made.stream.write(b"hello")
    made.stream.write_eof()
    await made.until(lambda: made.eof)
    assert made.data == b"hellobye"
    made.stream.close()
    assert await made.lost is None


def test_there_and_back_and_half_closed(tmp_path: Path, run) -> None:
    async def scenario() -> None:
        async with serving_gate(tmp_path / "o", JOB) as (gate, port), serving(echo) as app:
            tunnel = ReverseTunnel(gate)
            async with dialled(gate, port, JOB, f"127.0.0.1:{app}"):
                await talk(tunnel)
                assert gate.state() == {JOB: "since 2026-03-04 05:06:07 UTC, 0 streams"}
                assert tunnel.state() == {}, "several clusters may share the gate; it is shown once, by itself"
            await tunnel.close()

    run(scenario())


def test_to_a_unix_socket(tmp_path: Path, run) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "app.sock")
        async with (
            serving_gate(tmp_path / "o", JOB) as (gate, port),
            serving(echo, path),
            dialled(gate, port, JOB, path),
        ):
            await talk(ReverseTunnel(gate))

    run(scenario())


def test_a_sibling_process_reaches_it_through_the_door(tmp_path: Path, run) -> None:
    """Two gates on one listening socket, as two workers have; each reaches the job, wherever it landed."""

    async def scenario() -> None:
        with listener() as shared:
            async with (
                serving_gate(tmp_path / "o", JOB) as (one, port),
                serving_gate(tmp_path / "o", JOB, sock=shared) as (other, _),
                serving(echo) as app,
            ):
                assert oct((tmp_path / "o").stat().st_mode)[-3:] == "700"
                async with dialled(one, port, JOB, f"127.0.0.1:{app}"):
                    assert oct((tmp_path / "o" / f"{JOB}.sock").stat().st_mode)[-3:] == "600"
                    assert other.state() == {}
                    for tunnel in (ReverseTunnel(one), ReverseTunnel(other)):
                        await talk(tunnel)
                    await asyncio.gather(*(talk(ReverseTunnel(other)) for _ in range(20)))
                    await until(lambda: "0 streams" in one.state()[JOB])
                with pytest.raises(TunnelError, match="did not dial in yet, or lost its connection"):
                    await ReverseTunnel(other).open(Recorder, to(), "alice")
                assert not list((tmp_path / "o").iterdir())

    run(scenario())


def test_an_application_that_refuses_is_told_to_both(tmp_path: Path, run) -> None:
    async def scenario() -> None:
        async with serving(echo) as closed:
            pass
        async with (
            serving_gate(tmp_path / "o", JOB) as (one, port),
            serving_gate(tmp_path / "o", JOB) as (other, _),
            dialled(one, port, JOB, f"127.0.0.1:{closed}"),
        ):
            for gate in (one, other):
                with pytest.raises(TunnelError, match=r"does not take the job's connection: .*onnect"):
                    await ReverseTunnel(gate).open(Recorder, to(), "alice")

    run(scenario())


@pytest.mark.parametrize("sibling", [False, True], ids=["own", "sibling"])
def test_a_slow_reader_holds_the_job_back(tmp_path: Path, run, sibling: bool) -> None:
    """60 MiB towards a reader that has paused: little is held here, and all of it arrives in the end."""
    flood = Flood(60)

    async def scenario() -> None:
        async with (
            serving_gate(tmp_path / "o", JOB) as (one, port),
            serving_gate(tmp_path / "o", JOB) as (other, _),
            serving(flood, limit=65536) as app,
            dialled(one, port, JOB, f"127.0.0.1:{app}"),
        ):
            tracemalloc.start()
            made = await ReverseTunnel(other if sibling else one).open(Waiting, to(), "alice")
            sent = await flood.stuck()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert sent < 40 * MIB
            assert held < 12 * MIB
            made.stream.resume_reading()
            await made.until(lambda: made.eof)
            assert made.count == 60 * MIB
            made.stream.close()

    run(scenario())


@pytest.mark.parametrize("sibling", [False, True], ids=["own", "sibling"])
def test_a_slow_application_holds_the_sender_back(tmp_path: Path, run, sibling: bool) -> None:
    go = asyncio.Event()
    got = 0

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await go.wait()
        while data := await reader.read(65536):
            got += len(data)
        writer.write(b"all")
        await writer.drain()

    async def scenario() -> None:
        async with (
            serving_gate(tmp_path / "o", JOB) as (one, port),
            serving_gate(tmp_path / "o", JOB) as (other, _),
            serving(server, limit=65536) as app,
            dialled(one, port, JOB, f"127.0.0.1:{app}"),
        ):
            made = await ReverseTunnel(other if sibling else one).open(Recorder, to(), "alice")
            written = 0
            while made.writable.is_set():
                made.stream.write(bytes(65536))
                written += 65536
                assert written < 64 * MIB
                await asyncio.sleep(0)
            go.set()
            async with asyncio.timeout(60):
                await made.writable.wait()
            made.stream.write_eof()
            await made.until(lambda: made.data == b"all")
            assert got == written
            made.stream.close()

    run(scenario())


def test_a_job_that_dies_ends_its_streams_and_no_others(tmp_path: Path, run) -> None:
    async def scenario() -> None:
        async with (
            serving_gate(tmp_path / "o", JOB, "other") as (one, port),
            serving_gate(tmp_path / "o", JOB, "other") as (sibling, _),
            serving(echo) as app,
            dialled(one, port, "other", f"127.0.0.1:{app}"),
        ):
            spared = await ReverseTunnel(one).open(Recorder, to("other"), "bob")
            async with dialled(one, port, JOB, f"127.0.0.1:{app}") as job:
                made = await ReverseTunnel(one).open(Recorder, to(), "alice")
                relayed = await ReverseTunnel(sibling).open(Recorder, to(), "alice")
                job.process.kill()
                async with asyncio.timeout(60):
                    both = [await made.lost, await relayed.lost]
                assert all(isinstance(lost, TunnelError) and JOB in str(lost) for lost in both), both
            with pytest.raises(TunnelError, match="lost at 05:06:07 UTC, and it has not dialled in again"):
                await ReverseTunnel(one).open(Recorder, to(), "alice")
            async with dialled(one, port, JOB, f"127.0.0.1:{app}"):
                await talk(ReverseTunnel(sibling))
            spared.stream.write(b"alive")
            await spared.until(lambda: spared.data == b"alive")
            spared.stream.close()

    run(scenario())


async def test_a_stream_waits_a_moment_for_a_job_that_is_about_to_dial_in(tmp_path: Path) -> None:
    from batchhub.transport.dialin import GateSettings

    patient = GateSettings(patience=20.0)
    async with serving_gate(tmp_path / "o", JOB, settings=patient) as (gate, port), serving(echo) as app:
        waiting = asyncio.ensure_future(talk(ReverseTunnel(gate)))
        async with dialled(gate, port, JOB, f"127.0.0.1:{app}"):
            await waiting


async def test_what_cannot_be_reached_says_why(tmp_path: Path) -> None:
    async with serving_gate(tmp_path / "o", JOB) as (gate, _):
        tunnel: Tunnel = ReverseTunnel(gate)
        assert tunnel.kind == "reverse"
        with pytest.raises(TunnelError, match=r"^This route names no offer"):
            await tunnel.open(Recorder, Endpoint("node7", 40000), "alice")
        with pytest.raises(TunnelError, match=r"^This proxy expects no job of this name"):
            await tunnel.open(Recorder, to("unknown"), "alice")
        with pytest.raises(
            TunnelError, match=r"^The job has no connection to this proxy: it did not dial in yet, or lost"
        ):
            await tunnel.open(Recorder, to(), "alice")


async def test_a_renewed_key_cuts_the_former_start(tmp_path: Path) -> None:
    async with serving_gate(tmp_path / "o", JOB) as (gate, port), serving(echo) as app:
        async with dialled(gate, port, JOB, f"127.0.0.1:{app}") as first:
            made = await ReverseTunnel(gate).open(Recorder, to(), "alice")
            gate.offered(JOB, job_key(JOB).public)  # the same again changes nothing
            assert JOB in gate.state()
            gate.offered(JOB, job_key(JOB, 2).public)
            async with asyncio.timeout(60):
                await made.lost
            assert "its key was replaced" in await first.ended()
        async with dialled(gate, port, JOB, f"127.0.0.1:{app}", key=job_key(JOB, 2)):
            await talk(ReverseTunnel(gate))
