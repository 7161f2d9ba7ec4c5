"""A proxy with real tunnels, its routes set through its control API, and a browser's side of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from batchhub.core.model import Endpoint
from batchhub.core.ports import Tunnel
from batchhub.proxy.server import Proxy
from tests.proxy.harness import TOKEN, parse, settings

APPLICATION = Path(__file__).with_name("application.py")
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
PATIENCE = 60.0


@contextmanager
def application(
    *words: str, prefix: Sequence[str] = (), python: str = sys.executable, program: Path = APPLICATION, cwd: str = "."
) -> Iterator[None]:
    """The small application, from when it listens."""
    argv = [*prefix, python, str(program), *words]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=cwd)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


class Duplex:
    """An upgraded connection, or an answer that is still coming."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, text: bytes) -> None:
        """Hear the echo of it."""
        self.writer.write(text)
        assert await asyncio.wait_for(self.reader.readexactly(len(text)), PATIENCE) == text

    async def end(self) -> bytes:
        """What else comes until it is cut."""
        rest = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while data := await self.reader.read(65536):
                    rest += data
        except ConnectionError:
            pass
        return rest


class Front:
    """What a test does with the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._open: list[asyncio.StreamWriter] = []

    async def route(self, path: str, tunnel: tuple[str, str, str], endpoint: Endpoint, **more: object) -> None:
        """``tunnel``: cluster, kind and account."""
        cluster, kind, account = tunnel
        where = {"host": endpoint.host, "port": endpoint.port, "socket": endpoint.socket, "offer": endpoint.offer}
        body = {
            "target": "",
            "tunnel": {"cluster": cluster, "kind": kind, "account": account},
            "endpoint": where,
            **more,
        }
        data = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.api_port)
        with closing(writer):
            head = (
                f"POST /api/routes{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: token {TOKEN}\r\n"
            )
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 201 "), answer

    async def connect(self) -> Duplex:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.public_port, limit=2**16)
        self._open.append(writer)
        return Duplex(reader, writer)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        made = await self.connect()
        made.writer.write(f"GET {path} HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n\r\n".encode())
        status, _, body = parse(await asyncio.wait_for(made.reader.read(), PATIENCE))
        return status, body.decode()

    async def begin(self, path: str, extra: str = "") -> Duplex:
        """Ask, and read nothing."""
        made = await self.connect()
        made.writer.write(f"GET {path} HTTP/1.1\r\nHost: hub.test\r\n{extra}\r\n".encode())
        return made

    async def upgraded(self, path: str) -> Duplex:
        """A WebSocket's bytes, which the application sends back."""
        made = await self.begin(path, UPGRADE)
        head = await asyncio.wait_for(made.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 101 "), head
        await made.say(b"hello")
        return made

    async def dripping(self, path: str) -> Duplex:
        """An answer that has begun and goes on."""
        made = await self.begin(f"{path}drip")
        async with asyncio.timeout(PATIENCE):
            assert (await made.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await made.reader.readuntil(b"first\r\n") == b"5\r\nfirst\r\n"
        return made

    async def until(self, path: str, status: int) -> str:
        """Ask until it is answered so; the body."""
        async with asyncio.timeout(PATIENCE):
            while True:
                got, body = await self.get(path)
                if got == status:
                    return body
                await asyncio.sleep(0.05)

    def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()


@asynccontextmanager
async def fronting(directory: Path, tunnels: Mapping[tuple[str, str], Tunnel]) -> AsyncIterator[Front]:
    """The proxy in this process; the tunnels are closed with it."""

    async def nobody(token: str, path: str) -> None:
        return None

    proxy = Proxy(
        settings(directory, public_port=0, api_port=0),
        tunnels=tunnels,
        token_checker=nobody,
        clock=lambda: datetime(2026, 5, 4, tzinfo=UTC),
    )
    await proxy.start()
    front = Front(proxy)
    try:
        yield front
    finally:
        front.close()
        await proxy.close()
        for tunnel in tunnels.values():
            await tunnel.close()
