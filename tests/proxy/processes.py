"""The proxy as it is run: a supervisor and its workers, real processes with a configuration file."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from batchhub.core.tickets import Ticket, sign
from tests.ports import free_ports
from tests.proxy.harness import App, parse, read_head

ROOT = Path(__file__).parents[2]
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket"


async def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait for something that another process does."""
    for _ in range(int(seconds / 0.02)):
        found = condition()
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(what)


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application: small answers, and an echo after an upgrade."""
    while True:
        head = await read_head(reader)
        if head.header("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()


class Socket:
    """A WebSocket through the proxy, as far as a proxy sees one: bytes that come back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echo(self) -> None:
        self.writer.write(b"hello")
        assert await asyncio.wait_for(self.reader.readexactly(5), 60) == b"hello"

    async def cut(self) -> None:
        """Until the proxy has closed it."""
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(self.reader.read(), 60) == b""
        self.writer.close()


class Running:
    """A proxy that runs, and what a test does with it."""

    def __init__(self, home: Path, port: int, api_port: int) -> None:
        self.home, self.port, self.api_port = home, port, api_port
        self.metrics_port = 0
        self.process: subprocess.Popen[bytes]
        self.limit = 0

    @property
    def token(self) -> str:
        return (self.home / "state" / "proxy_api.key").read_text().strip()

    def log(self) -> str:
        return (self.home / "log").read_text()

    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def ready(self) -> int:
        assert self.process.poll() is None, self.log()
        return self.log().count("The proxy is ready")

    def config(self, more: str = "", **settings: Any) -> None:
        lines = [
            "c = get_config()",
            f"c.BatchHub.state_dir = {str(self.home / 'state')!r}",
            'c.BatchHub.clusters = {"here": {"scheduler": "local"}}',
            'c.Proxy.ip = "127.0.0.1"',
            f"c.Proxy.port = {self.port}",
            f"c.Proxy.api_port = {self.api_port}",
            f"c.Proxy.metrics_port = {self.metrics_port}",
            *(f"c.Proxy.{name} = {value!r}" for name, value in settings.items()),
            more,
        ]
        (self.home / "batchhub_config.py").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        command = [sys.executable, "-m", "batchhub", "proxy", "--config=batchhub_config.py"]
        if self.limit:
            command = ["prlimit", f"--nofile={self.limit}:{self.limit}", *command]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("CONFIGPROXY_AUTH_TOKEN", None)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.home, env=environment, stdout=log, stderr=log)

    async def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        await until(lambda: self.process.poll() is not None, "the proxy ends")

    async def reload(self) -> None:
        """SIGUSR2, until the new workers serve."""
        before = set(self.workers())
        self.process.send_signal(signal.SIGUSR2)
        await until(lambda: "takes nothing new" in self.log() or self.process.poll() is not None, "reloaded")
        assert self.process.poll() is None, self.log()
        assert set(self.workers()) - before

    # ------------------------------------------------------------ requests

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)

    async def get(self, path: str, *lines: str, port: int = 0) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port, limit=2**26)
        extra = "".join(f"{line}\r\n" for line in lines)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n{extra}\r\n".encode())
        status, _, body = parse(await asyncio.wait_for(reader.read(), 20))
        writer.close()
        return status, body

    async def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.api_port, limit=2**26)
        status, answer = await self.ask(reader, writer, method, path, body, last=True)
        writer.close()
        return status, answer

    async def ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        body: Any = None,
        *,
        last: bool = False,
    ) -> tuple[int, Any]:
        """A call of the control API over a connection that is open."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: token {self.token}\r\nContent-Length: {len(data)}\r\n"
        writer.write((head + ("Connection: close\r\n" if last else "") + "\r\n").encode() + data)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        status, headers, _ = parse(answer)
        text = await reader.readexactly(int(headers.get("content-length", 0)))
        return status, json.loads(text) if text[:1] == b"{" else text

    async def route(self, path: str, app: App, **fields: Any) -> None:
        assert (await self.api("POST", f"/api/routes{path}", {"target": f"http://127.0.0.1:{app.port}", **fields}))[
            0
        ] == 201

    def ticket(self, **changes: Any) -> str:
        now = datetime.now(UTC)  # noqa: TID251 - the processes' clock is the real one
        hour = timedelta(hours=1)
        ticket = Ticket("alice", "s1", "/user/alice/", now, now + hour, now + 12 * hour)
        key = bytes.fromhex((self.home / "state" / "tickets.key").read_text().strip())
        return f"Cookie: batchhub-access={sign(key, replace(ticket, **changes))}"

    async def socket(self, path: str, *lines: str) -> Socket:
        reader, writer = await self.connect()
        extra = "".join(f"{line}\r\n" for line in lines)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: hub.test\r\n{UPGRADE}\r\n{extra}\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return Socket(reader, writer)

    async def sockets_in_both(self, path: str, *lines: str) -> dict[int, Socket]:
        """A WebSocket in each of two workers: while one is stopped, the other takes it."""
        found = {}
        first, second = self.workers()
        for stopped, chosen in ((first, second), (second, first)):
            os.kill(stopped, signal.SIGSTOP)
            try:
                found[chosen] = await self.socket(path, *lines)
                await found[chosen].echo()
            finally:
                os.kill(stopped, signal.SIGCONT)
        return found


@asynccontextmanager
async def proxy(home: Path, *, limit: int = 0, metrics: bool = False, **settings: Any) -> AsyncIterator[Running]:
    port, api_port, metrics_port = free_ports(3)
    running = Running(home, port, api_port)
    running.limit = limit
    running.metrics_port = metrics_port if metrics else 0
    running.config(**settings)
    running.start()
    try:
        await until(running.ready, "the proxy is ready")
        yield running
    finally:
        workers = running.workers() if running.process.poll() is None else []
        await running.stop()
        await until(lambda: not any(map(psutil.pid_exists, workers)), "no worker is left")
