"""Programs to talk to through a tunnel, and a handler that shows what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from batchhub.core.ports import Stream
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from tests.sshd import Sshd

MIB = 1024 * 1024


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    server = Sshd()
    yield server
    server.close()


def pool_of(server: Sshd, **more: Any) -> SSHPool:
    values: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "known_hosts": server.known_hosts,
        "client_keys": (server.client_key,),
        **more,
    }
    return SSHPool(SSHSettings(**values), lambda: datetime(2026, 1, 2, tzinfo=UTC))


class Recorder:
    """A stream handler that collects what arrives, and can be slow."""

    def __init__(self, *, keep_open: bool = True) -> None:
        self.stream: Stream
        self.data = bytearray()
        self.eof = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.pauses = 0
        self.changed = asyncio.Event()
        self._keep_open = keep_open

    def connection_made(self, transport: Stream) -> None:
        self.stream = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def eof_received(self) -> bool:
        self.eof = True
        self.changed.set()
        return self._keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self.changed.set()

    def pause_writing(self) -> None:
        self.pauses += 1
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Waiting(Recorder):
    """Reads nothing until it is told to, and then counts what arrives instead of keeping it."""

    count = 0

    def connection_made(self, transport: Stream) -> None:
        super().connection_made(transport)
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        self.changed.set()


class Flood:
    """A server that sends so many blocks of ``MIB``, as fast as they are taken. ``sent`` is how many bytes it got rid of."""

    def __init__(self, blocks: int) -> None:
        self.sent = 0
        self._blocks = blocks

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(self._blocks):
            writer.write(bytes(MIB))
            await writer.drain()
            self.sent += MIB
        writer.write_eof()

    async def stuck(self) -> int:
        """What it has sent when it has come to a halt."""
        before, still = -1, 0
        async with asyncio.timeout(60):
            while still < 20:
                still = still + 1 if self.sent == before else 0
                before = self.sent
                await asyncio.sleep(0.01)
        return self.sent


@asynccontextmanager
async def serving(handler: Any, path: str = "", **more: Any) -> AsyncIterator[int]:
    """A server on loopback; its port. Or on a Unix socket."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    if path:
        server = await asyncio.start_unix_server(one, path, **more)
    else:
        server = await asyncio.start_server(one, "127.0.0.1", 0, **more)
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")
    writer.write_eof()
    await writer.drain()
