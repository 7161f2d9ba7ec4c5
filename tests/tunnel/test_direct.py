import asyncio
import os
import pwd
import socket
from pathlib import Path

import pytest

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import Tunnel
from batchhub.tunnel.direct import DirectSettings, DirectTunnel
from tests.tunnel.conftest import Recorder, echo, serving


async def test_a_port() -> None:
    tunnel: Tunnel = DirectTunnel()
    async with serving(echo) as port:
        made = await tunnel.open(Recorder, Endpoint("127.0.0.1", port), "alice")
        made.stream.write(b"hello")
        made.stream.write_eof()
        await made.until(lambda: made.eof)
        assert made.data == b"hellobye"
        made.stream.close()
        assert await made.lost is None
    assert (tunnel.kind, tunnel.state()) == ("direct", {})
    await tunnel.close()


async def test_a_socket(tmp_path: Path) -> None:
    path, me = str(tmp_path / "s"), pwd.getpwuid(os.geteuid()).pw_name
    tunnel = DirectTunnel()
    async with serving(echo, path):
        made = await tunnel.open(Recorder, Endpoint("", socket=path), me)
        made.stream.write(b"hello")
        made.stream.write_eof()
        await made.until(lambda: made.eof)
        assert made.data == b"hellobye"
        made.stream.close()
        await made.lost
        assert tunnel.counters() == {"connects": 1, "failures": 0}


async def test_a_socket_that_is_not_the_users(tmp_path: Path) -> None:
    """Such as one of root's, which a hub that runs as root could open and the job's owner could not."""
    path = str(tmp_path / "s")
    tunnel = DirectTunnel()
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read())

    async with serving(listen, path):
        for user in ("nobody", "bht-no-such-account"):
            with pytest.raises(TunnelError, match=rf"^What listens on the socket {path} is no process of {user}\.$"):
                await tunnel.open(Recorder, Endpoint("", socket=path), user)
            assert await heard.get() == b""
    assert tunnel.counters() == {"connects": 0, "failures": 2}


async def test_what_went_wrong_in_words(tmp_path: Path) -> None:
    tunnel = DirectTunnel()
    with pytest.raises(TunnelError, match=r"^127\.0\.0\.1 port 1 refused the connection: nothing listens there\.$"):
        await tunnel.open(Recorder, Endpoint("127.0.0.1", 1), "alice")
    with pytest.raises(TunnelError, match=r"^The name c1\.invalid cannot be resolved"):
        await tunnel.open(Recorder, Endpoint("c1.invalid", 1), "alice")
    with pytest.raises(TunnelError, match=r"cannot be reached: No such file"):
        await tunnel.open(Recorder, Endpoint("", socket=str(tmp_path / "none")), "alice")
    with pytest.raises(TunnelError, match="is not a port"):
        await tunnel.open(Recorder, Endpoint("127.0.0.1", 0), "alice")


async def test_a_host_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        try:
            with pytest.raises(TunnelError, match=r"did not answer within 0\.2 s"):
                await DirectTunnel(DirectSettings(connect_timeout=0.2)).open(Recorder, Endpoint("127.0.0.1", port), "a")
        finally:
            for filler in fillers:
                filler.close()
