"""The short way of a raw stream: what went through is counted, what a client sends is activity, and a closed side harms nobody."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.proxy.access import Decision
from batchhub.proxy.relay import Pipe
from tests.proxy.harness import NOW, App, read_head, running, world

ASK = b"GET /s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def request(self, method: bytes, status: int, seconds: float, sent: int, received: int) -> None:
        self.seen.append((status, sent, received))

    def decided(self, kind: type[Decision]) -> None:
        pass

    def turned_away(self) -> None:
        pass


@pytest.mark.parametrize("through", [{}, {"cluster": "c1", "kind": "login", "account": "alice"}])
async def test_bytes_are_counted_and_activity_is_the_clients(tmp_path: Path, through: dict[str, str]) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(SWITCH + b"early")
        assert await reader.readexactly(3) == b"one"
        writer.write(b"first")
        await go.wait()
        writer.write(b"unasked")
        assert await reader.read() == b"four"
        writer.write(b"last")
        writer.close()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        observer = w.proxy.context.observer = Observer()
        more = {"tunnel": through, "endpoint": {"host": "127.0.0.1", "port": app.port}} if through else {}
        w.route("/s", app.port, **more)
        route = w.proxy.context.book.routes.get("/s")
        assert route is not None
        reader, writer = await w.connect()
        writer.write(ASK)
        await reader.readuntil(b"\r\n\r\nearly")
        w.clock.now = later = NOW + timedelta(minutes=5)
        while w.proxy.context.now != later:
            await asyncio.sleep(0.005)
        assert route.last_activity == NOW
        writer.write(b"one")
        assert await reader.readexactly(5) == b"first"
        assert route.last_activity == later
        w.clock.now = NOW + timedelta(minutes=9)
        while w.proxy.context.now == later:
            await asyncio.sleep(0.005)
        go.set()
        assert await reader.readexactly(7) == b"unasked"
        assert route.last_activity == later, "what a server sends is no activity"
        writer.write(b"four")
        writer.write_eof()
        assert await reader.read() == b"last", "and the other direction goes on after the end of one"
        assert route.last_activity == w.clock.now
        writer.close()
        while w.proxy.context.clients:
            await asyncio.sleep(0.005)
        assert observer.seen == [(101, len(b"earlyfirstunaskedlast"), len(b"onefour"))]


def test_a_side_that_was_closed_a_moment_ago_harms_nobody() -> None:
    class Gone:
        stream = None

        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    def write(data: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    pipe = Pipe(Gone(), write)  # type: ignore[arg-type]
    pipe.data_received(b"abc")
    assert pipe.size == 3
