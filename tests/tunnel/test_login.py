"""Through OpenSSH's sshd."""

import asyncio
import tracemalloc

import pytest

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import Stream, Tunnel
from batchhub.tunnel.login import LoginSettings, LoginTunnel
from tests.sshd import Sshd
from tests.tunnel.conftest import MIB, Flood, Recorder, Waiting, echo, pool_of, serving


def here(port: int) -> Endpoint:
    return Endpoint("127.0.0.1", port)


async def test_there_and_back_and_half_closed(sshd: Sshd) -> None:
    tunnel: Tunnel = LoginTunnel(pool_of(sshd))
    async with serving(echo) as port:
        made = await tunnel.open(Recorder, here(port), "alice")
        made.stream.write(b"hello")
        made.stream.write_eof()
        assert made.stream.is_closing()
        await made.until(lambda: made.eof)
        assert made.data == b"hellobye"
        made.stream.close()
        assert await made.lost is None
        made.stream.write(b"too late")
        made.stream.write_eof()
    assert tunnel.kind == "login"
    assert "idle since" in tunnel.state()[f"(service)@127.0.0.1:{sshd.port}"]
    await tunnel.close()


async def test_the_other_side_half_closes_first(sshd: Sshd) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")
        writer.write_eof()
        received.set_result(await reader.read())

    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    tunnel = LoginTunnel(pool_of(sshd))
    async with serving(server) as port:
        made = await tunnel.open(Recorder, here(port), "alice")
        await made.until(lambda: made.eof)
        assert not made.stream.is_closing()
        made.stream.write(b"second")
        made.stream.write_eof()
        assert await received == b"second"
        assert await made.lost is None
    await tunnel.close()


async def test_without_wish_to_stay_open_the_end_is_the_end(sshd: Sshd) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all")

    tunnel = LoginTunnel(pool_of(sshd))
    async with serving(server) as port:
        made = await tunnel.open(lambda: Recorder(keep_open=False), here(port), "alice")
        assert await made.lost is None
        assert made.data == b"all"
    await tunnel.close()


async def test_a_slow_reader_holds_the_sender_back(sshd: Sshd) -> None:
    """50 MiB towards a reader that has paused: no more than the window is held here, and all of it arrives in the end."""

    class Counter(Waiting):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.count % 7 == 0:
                self.stream.pause_reading()
                asyncio.get_running_loop().call_soon(self.stream.resume_reading)

    tunnel = LoginTunnel(pool_of(sshd))
    flood = Flood(50)
    async with serving(flood, limit=65536) as port:
        tracemalloc.start()
        made = await tunnel.open(Counter, here(port), "alice")
        assert await flood.stuck() < 50 * MIB
        assert made.count == 0
        made.stream.resume_reading()
        await made.until(lambda: made.eof)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert made.count == 50 * MIB
        assert peak < 20 * MIB
        made.stream.close()
    await tunnel.close()


async def test_a_slow_server_holds_us_back(sshd: Sshd) -> None:
    """50 MiB to a server that does not read at first: writing is paused, then resumed, and the buffer stays small."""
    go = asyncio.Event()
    got = 0

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await go.wait()
        while data := await reader.read(MIB):
            got += len(data)
        writer.write(b"done")

    tunnel = LoginTunnel(pool_of(sshd))
    async with serving(server) as port:
        made = await tunnel.open(Recorder, here(port), "alice")
        highest = 0
        for _ in range(50 * 16):
            if not made.writable.is_set():
                go.set()
                await made.writable.wait()
            made.stream.write(bytes(MIB // 16))
            highest = max(highest, made.stream.get_write_buffer_size())
        assert made.pauses > 0
        assert highest <= MIB
        made.stream.write_eof()
        await made.until(lambda: made.data == b"done")
        assert got == 50 * MIB
        made.stream.close()
    await tunnel.close()


async def test_what_went_wrong_in_words(sshd: Sshd) -> None:
    tunnel = LoginTunnel(pool_of(sshd))
    with pytest.raises(
        TunnelError, match=r"^127\.0\.0\.1 refused port 1 when 127\.0\.0\.1 asked: Connection refused\.$"
    ):
        await tunnel.open(Recorder, here(1), "alice")
    with pytest.raises(TunnelError, match=r"^127\.0\.0\.1 cannot reach c1\.invalid port 80: "):
        await tunnel.open(Recorder, Endpoint("c1.invalid", 80), "alice")
    with pytest.raises(TunnelError, match="is not a host"):
        await tunnel.open(Recorder, Endpoint("-x", 80), "alice")
    with pytest.raises(TunnelError, match="A Unix socket on c1 cannot be reached"):
        await tunnel.open(Recorder, Endpoint("c1", socket="/x"), "alice")
    with pytest.raises(TunnelError, match="is reached as its owner alone"):
        await tunnel.open(Recorder, Endpoint("127.0.0.1", socket="/x"), "alice")
    assert len(sshd.sessions()) == 1
    await tunnel.close()


async def test_the_login_node_forbids_it() -> None:
    server = Sshd(extra=["AllowTcpForwarding no"])
    tunnel = LoginTunnel(pool_of(server))
    try:
        with pytest.raises(
            TunnelError, match=r"^127\.0\.0\.1 forbids connections to 127\.0\.0\.1 port 80 .*AllowTcpForw"
        ):
            await tunnel.open(Recorder, here(80), "alice")
    finally:
        await tunnel.close()
        server.close()


async def test_the_login_node_is_away(sshd: Sshd) -> None:
    sshd.stop()
    tunnel = LoginTunnel(pool_of(sshd))
    with pytest.raises(TunnelError, match=r"^No SSH connection to the login node 127\.0\.0\.1: .*Connection refused"):
        await tunnel.open(Recorder, here(80), "alice")
    await tunnel.close()


async def test_as_the_user(sshd: Sshd) -> None:
    tunnel = LoginTunnel(pool_of(sshd), LoginSettings(as_user=True))
    with pytest.raises(TunnelError, match="refused the key of user bht-stranger"):
        await tunnel.open(Recorder, here(80), "bht-stranger")
    await tunnel.close()


async def test_a_lost_connection_ends_its_streams_and_no_others(sshd: Sshd) -> None:
    other_sshd = Sshd()
    one, other = LoginTunnel(pool_of(sshd)), LoginTunnel(pool_of(other_sshd))
    try:
        async with serving(echo) as port:
            made = [await one.open(Recorder, here(port), "alice") for _ in range(3)]
            made[1].stream.pause_reading()
            spared = await other.open(Recorder, here(port), "alice")
            sshd.cut()
            for each in made:
                async with asyncio.timeout(60):
                    lost = await each.lost
                assert isinstance(lost, TunnelError)
                assert "was lost: Connection lost" in str(lost)
            spared.stream.write(b"alive")
            await spared.until(lambda: spared.data == b"alive")
            again = await one.open(Recorder, here(port), "alice")
            again.stream.write(b"again")
            await again.until(lambda: again.data == b"again")
    finally:
        await one.close()
        await other.close()
        other_sshd.close()


async def test_a_handler_that_fails_ends_only_its_own_stream(sshd: Sshd, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    tunnel = LoginTunnel(pool_of(sshd))
    async with serving(echo) as port:
        good = await tunnel.open(Recorder, here(port), "alice")
        bad = await tunnel.open(Broken, here(port), "alice")
        bad.stream.write(b"x")
        assert await bad.lost is None
        good.stream.write(b"fine")
        await good.until(lambda: good.data == b"fine")
        assert "a bug" in caplog.text
    await tunnel.close()


async def test_who_gives_up_waiting_leaves_no_channel(sshd: Sshd) -> None:
    """A node that is slow to answer: the stream that opens at last is closed, the connection goes on."""
    pool = pool_of(sshd)
    tunnel = LoginTunnel(pool, LoginSettings(connect_timeout=0.2))
    async with serving(echo) as port:
        made = await tunnel.open(Recorder, here(port), "alice")
        with (
            sshd.stalled(),
            pytest.raises(TunnelError, match=r"port \d+ did not answer 127\.0\.0\.1 within 0\.2 s"),
        ):
            await tunnel.open(Recorder, here(port), "alice")
        made.stream.write(b"still here")
        await made.until(lambda: made.data == b"still here")
        async with asyncio.timeout(60):
            while pool.connections()[0].channels != 1:
                await asyncio.sleep(0.005)
    await tunnel.close()


async def test_abort_and_many_streams(sshd: Sshd) -> None:
    tunnel = LoginTunnel(pool_of(sshd))
    async with serving(echo) as port:
        made = await asyncio.gather(*(tunnel.open(Recorder, here(port), "alice") for _ in range(100)))
        for number, each in enumerate(made):
            each.stream.write(str(number).encode())
        for number, each in enumerate(made):
            await each.until(lambda each=each, number=number: each.data == str(number).encode())
            stream: Stream = each.stream
            stream.abort()
            assert stream.is_closing()
            assert await each.lost is None
        assert len(sshd.sessions()) == 1
    await tunnel.close()


async def test_a_connection_from_which_nothing_comes_is_not_waited_for_twice(sshd: Sshd) -> None:
    """Not even its keep-alives are answered: what was to go through it goes through another, what runs on it may go on."""
    pool = pool_of(sshd, keepalive_interval=0.2, keepalive_count=1000)
    tunnel = LoginTunnel(pool, LoginSettings(connect_timeout=0.5))
    async with serving(echo) as port:
        made = await tunnel.open(Recorder, here(port), "alice")
        with sshd.stalled():
            other = await tunnel.open(Recorder, here(port), "alice")
            other.stream.write(b"at once")
            await other.until(lambda: other.data == b"at once")
        made.stream.write(b"still here")
        await made.until(lambda: made.data == b"still here")
        assert len(sshd.sessions()) == 2
        assert tunnel.counters() == {"connects": 2, "failures": 0, "losses": 0}
    await tunnel.close()
