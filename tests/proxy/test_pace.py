"""Nothing is buffered whole: the slower side sets the pace, and memory is bounded."""

import asyncio
import hashlib
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchhub.core.model import Endpoint
from tests.proxy.harness import App, World, read_head, running, until, world

BLOCK = bytes(range(256)) * 256  # 64 KiB
BLOCKS = 1600  # 100 MiB
BOUND = 2 * 2**20


def buffered(w: World) -> int:
    """What the proxy holds in its write buffers, on both sides."""
    total = 0
    for client in w.proxy.context.clients:
        total += client._transport.get_write_buffer_size() + len(client._buffer)
        exchange = client._exchange
        if exchange is not None and exchange._up is not None:
            total += exchange._up._transport.get_write_buffer_size() + len(exchange._up._buffer)
            total += sum(map(len, exchange._pending))
    return total


async def test_100_mib_down(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(BLOCK) * BLOCKS))
        for _ in range(BLOCKS):
            writer.write(BLOCK)
            await writer.drain()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        seen, size, most = hashlib.sha256(), 0, 0
        while data := await reader.read(2**18):
            seen.update(data)
            size += len(data)
            most = max(most, buffered(w))
        writer.close()
        assert size == len(BLOCK) * BLOCKS
        assert seen.digest() == hashlib.sha256(BLOCK * BLOCKS).digest()
        assert most < BOUND


async def test_100_mib_up(tmp_path: Path) -> None:
    most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        await read_head(reader)
        size = 0
        while size < len(BLOCK) * BLOCKS:
            size += len(await reader.read(2**18))
            most = max(most, buffered(w))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(BLOCK) * BLOCKS))
        for _ in range(BLOCKS):
            writer.write(BLOCK)
            await writer.drain()
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        assert most < BOUND


async def settle(w: World) -> int:
    """The buffered size once it stopped to grow."""
    before = -1
    while (now := buffered(w)) != before or not now:
        before = now
        for _ in range(20):
            await asyncio.sleep(0.005)
    return now


async def test_a_reader_that_stops_stops_the_application(tmp_path: Path) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + BLOCK + b"\r\n")
            await writer.drain()
            sent += len(BLOCK)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.transport.pause_reading()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert 0 < await settle(w) < BOUND
        stopped = sent
        writer.transport.resume_reading()
        await reader.readexactly(stopped + 20 * 2**20)
        assert sent > stopped, "and goes on when it reads again"
        writer.transport.abort()


async def test_an_application_that_stops_stops_the_client(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await reader.readexactly(len(BLOCK) * BLOCKS)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(BLOCK) * BLOCKS))

        async def send() -> None:
            for _ in range(BLOCKS):
                writer.write(BLOCK)
                await writer.drain()

        sending = asyncio.get_running_loop().create_task(send())
        assert 0 < await settle(w) < BOUND
        assert not sending.done()
        go.set()
        await sending
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_an_upload_that_began_before_its_connection_was_open_is_held_back_too(tmp_path: Path) -> None:
    """What came meanwhile is already more than the application takes."""
    asked, opened = asyncio.Event(), asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        plain = w.tunnel.open

        async def narrow(handler: Callable[[], Any], endpoint: Endpoint, user: str) -> Any:
            asked.set()
            await opened.wait()
            up = await plain(handler, endpoint, user)
            up._transport.set_write_buffer_limits(high=1024)
            up._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            return up

        w.tunnel.open = narrow  # type: ignore[method-assign]
        where = {"host": "127.0.0.1", "port": app.port}
        w.route("/", 1, endpoint=where, tunnel={"cluster": "c1", "kind": "login", "account": "al"})
        _, writer = await w.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(BLOCK) * BLOCKS))
        await asked.wait()

        async def send() -> None:
            for _ in range(BLOCKS):
                writer.write(BLOCK)
                await writer.drain()

        sending = asyncio.get_running_loop().create_task(send())
        (client,) = w.proxy.context.clients
        await until(lambda: bool(client._held))
        opened.set()
        assert 0 < await settle(w) < BOUND
        assert not sending.done()
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        writer.transport.abort()


async def test_pipelined_requests_of_a_client_that_does_not_read_are_not_piled_up(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        reader, writer = await w.connect()
        writer.transport.pause_reading()
        request = b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"

        async def send() -> None:
            for _ in range(400):
                writer.write(request * 100)
                await writer.drain()

        sending = asyncio.get_running_loop().create_task(send())
        assert 0 < await settle(w) < BOUND
        writer.transport.resume_reading()
        count = 0
        while count < 40000:
            count += (await reader.readuntil(b"</html>\n")).count(b"HTTP/1.1 404")
        await sending
        writer.close()
