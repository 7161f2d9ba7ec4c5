"""A proxy on loopback, small applications behind it, and raw sockets in front."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.tickets import Ticket, sign
from batchhub.proxy.book import read_route
from batchhub.proxy.server import Proxy
from batchhub.proxy.settings import Limits, ProxySettings

TOKEN = "t" * 32
KEY = b"k" * 32
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICKET = Ticket("alice", "s1", "/user/alice/", NOW, NOW + HOUR, NOW + 12 * HOUR)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class PlainTunnel:
    """A stand-in tunnel: a TCP connect, which can be made to fail."""

    kind = "login"

    def __init__(self) -> None:
        self.opened: list[tuple[Endpoint, str]] = []
        self.fault = self.bug = ""

    async def open(self, handler: Callable[[], Any], endpoint: Endpoint, user: str) -> Any:
        if self.fault:
            raise TunnelError(self.fault)
        self.opened.append((endpoint, user))
        if self.bug:
            raise RuntimeError(self.bug)
        try:
            _, made = await asyncio.get_running_loop().create_connection(handler, endpoint.host, endpoint.port)
        except OSError as error:
            raise TunnelError(str(error)) from error
        return made

    def state(self) -> Mapping[str, str]:
        return {"host": "login1", "state": "open"}

    async def close(self) -> None:
        pass


@dataclass
class Request:
    """What an application got."""

    line: str
    headers: dict[str, list[str]]
    body: bytes = b""
    raw: bytes = b""

    @property
    def target(self) -> str:
        return self.line.split()[1]

    def header(self, name: str) -> str | None:
        values = self.headers.get(name.lower(), [])
        assert len(values) < 2, values
        return values[0] if values else None


async def read_head(reader: asyncio.StreamReader) -> Request:
    raw = await reader.readuntil(b"\r\n\r\n")
    line, *lines = raw.decode("latin-1").split("\r\n")
    headers: dict[str, list[str]] = {}
    for text in lines:
        if text:
            name, _, value = text.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
    return Request(line, headers, b"", raw)


async def read_request(reader: asyncio.StreamReader) -> Request:
    request = await read_head(reader)
    if request.header("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).strip(), 16):
            request.body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
    else:
        request.body = await reader.readexactly(int(request.header("content-length") or 0))
    return request


@dataclass
class App:
    """An application: answers each request with ``answer``, remembers all."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    serve: Serve | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.serve is not None:
                await self.serve(reader, writer)
                return
            while True:
                request = await read_request(reader)
                self.requests.append(request)
                writer.write(self.answer)
                await writer.drain()
                if b"\r\nConnection: close" in self.answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(app: App) -> AsyncIterator[App]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):  # ours, below; asyncio 3.11 logs a task that ends so as an error
            await app(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    app.port = server.sockets[0].getsockname()[1]
    try:
        yield app
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class World:
    """A running proxy and what a test does with it."""

    def __init__(self, proxy: Proxy, clock: Clock, tunnel: PlainTunnel, asked: list[tuple[str, str]]) -> None:
        self.proxy = proxy
        self.clock = clock
        self.tunnel = tunnel
        self.asked = asked

    def route(self, path: str, port: int, **fields: Any) -> None:
        data = {"target": f"http://127.0.0.1:{port}", **fields}
        self.proxy.context.book.add(read_route(path, data, self.clock()))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.proxy.public_port, limit=2**20)

    async def raw(self, data: bytes) -> bytes:
        """Everything the proxy answers until it closes; the client closes its side first if the proxy would not."""
        reader, writer = await self.connect()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    async def get(
        self, path: str, *lines: str, method: str = "GET", body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        extra = "".join(f"{line}\r\n" for line in lines)
        if body:
            extra += f"Content-Length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n{extra}\r\n"
        return parse(await self.raw(head.encode("latin-1") + body))


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
    return int(line.split()[1]), headers, body


def statuses(answer: bytes) -> list[int]:
    """Of several answers in a row."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def until(what: Callable[[], bool]) -> None:
    """Until something that nobody tells of has happened."""
    for _ in range(1000):
        if what():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


def settings(tmp_path: Path, **changes: Any) -> ProxySettings:
    base = ProxySettings(token=TOKEN, ticket_keys=(KEY,), state_file=tmp_path / "state.json", public_port=0, api_port=0)
    return replace(base, **changes)


@asynccontextmanager
async def world(tmp_path: Path, *, limits: Limits | None = None, **changes: Any) -> AsyncIterator[World]:
    clock, tunnel, asked = Clock(), PlainTunnel(), []

    async def checker(token: str, path: str) -> str | None:
        asked.append((token, path))
        await asyncio.sleep(0)
        return {"alices": "alice", "bobs": "bob"}.get(token)

    # Deadlines are looked at often, so that tests of them are short.
    chosen = settings(tmp_path, limits=limits or Limits(tick=0.02), **changes)
    proxy = Proxy(chosen, tunnels={("c1", "login"): tunnel}, token_checker=checker, clock=clock)
    await proxy.start()
    try:
        yield World(proxy, clock, tunnel, asked)
    finally:
        await proxy.close()


def ticket_cookie(**changes: Any) -> str:
    return f"Cookie: batchhub-access={sign(KEY, replace(TICKET, **changes))}"
