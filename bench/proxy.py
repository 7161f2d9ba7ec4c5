"""Our proxy against configurable-http-proxy (CHP): ``python bench/proxy.py [--quick] [--json]``.

Both stand in front of the same small application and are measured in turn, A B A B, each alone on core 0; the application and the
load are on core 1. Small requests are made by ``wrk`` over 32 connections; a WebSocket message is sent and waited for over each of 32
connections. Neither writes an access log. What counts are the ratios: figures of one machine mean little.

CHP is installed by npm into ``bench/node_modules`` the first time; without npm or wrk the benchmark says so and ends with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from batchhub.core.tickets import Ticket, sign  # noqa: E402 - the package beside us, installed or not
from batchhub.proxy.server import Proxy  # noqa: E402
from batchhub.proxy.settings import ProxySettings  # noqa: E402

TOKEN = "benchmark-token-0123456789abcdef"
KEY = b"benchmark-key-0123456789abcdef-!"
CONNECTIONS = 32
BODY = b'{"started": "2026-01-01T00:00:00Z", "connections": 1, "kernels": 2}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
ASK = b"GET /user/bench/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
MESSAGE = b"\x82\xe4" + b"mask" + b"x" * 100  # one masked frame of 100 bytes; the application sends it back as it is


# ---------------------------------------------------------------- processes


class Application(asyncio.Protocol):
    """Answers every request with the same few bytes, and echoes after an upgrade."""

    def __init__(self) -> None:
        self.raw = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self.raw:
            self.transport.write(data)  # type: ignore[attr-defined]
        elif b"upgrade: websocket" in data.lower():
            self.raw = True
            self.transport.write(SWITCH)  # type: ignore[attr-defined]
        else:
            self.transport.write(ANSWER * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


async def serve_application(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Application, "127.0.0.1", port)
    await server.serve_forever()


async def serve_ours(port: int, api: int, state: str) -> None:
    async def nobody(_token: str, _path: str) -> None:
        return None

    settings = ProxySettings(
        token=TOKEN, ticket_keys=(KEY,), state_file=Path(state), public_port=port, api_port=api, access_log=False
    )
    proxy = Proxy(settings, tunnels={}, token_checker=nobody, clock=lambda: datetime.now(UTC))  # noqa: TID251 - a composition root
    await proxy.start()
    await proxy.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def process(core: int, *argv: str, port: int) -> Iterator[int]:
    """A pinned process that listens on this port; its id."""
    environment = {**os.environ, "CONFIGPROXY_AUTH_TOKEN": TOKEN}
    running = subprocess.Popen(["taskset", "-c", str(core), *argv], env=environment, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if running.poll() is not None:
                raise SystemExit(f"{argv[0]} ended with {running.returncode}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield running.pid
    finally:
        running.terminate()
        running.wait()


def cpu(pid: int) -> float:
    """Seconds of processor time used so far; steadier than rates where the load itself, or other work, takes the machine's time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def add_route(api: int, path: str, target: int, **fields: str) -> None:
    content = json.dumps({"target": f"http://127.0.0.1:{target}", **fields}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{api}/api/routes{path}", content, {"Authorization": f"token {TOKEN}"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()


# ---------------------------------------------------------------- measuring


def requests(port: int, seconds: float, path: str, header: str = "X-None: x") -> tuple[float, float]:
    """Requests a second, and the 99th percentile in milliseconds."""
    url = f"http://127.0.0.1:{port}{path}"
    argv = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--latency", "-H", header, url]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"wrk saw errors:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    assert rate
    assert late
    return float(rate[1]), float(late[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[late[2]]


class Sender(asyncio.Protocol):
    """Sends a message, waits for it, sends it again."""

    def __init__(self) -> None:
        self.count = -1
        self.size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = transport
        transport.write(ASK)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self.size += len(data)
        if self.count < 0:
            if not data.startswith(b"HTTP/1.1 101"):
                self.transport.abort()  # type: ignore[attr-defined]
                return
            self.size = len(MESSAGE)
        if self.size >= len(MESSAGE):
            self.size -= len(MESSAGE)
            self.count += 1
            self.transport.write(MESSAGE)  # type: ignore[attr-defined]


async def echo(port: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Sender, "127.0.0.1", port) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.3)
    before, begun = sum(sender.count for _, sender in made), loop.time()
    await asyncio.sleep(seconds)
    if any(sender.count < 0 for _, sender in made):
        raise SystemExit("An upgrade was not answered with 101.")
    rate = (sum(sender.count for _, sender in made) - before) / (loop.time() - begun)
    for transport, _ in made:
        transport.abort()
    return rate


def chp() -> str | None:
    program = HERE / "node_modules" / ".bin" / "configurable-http-proxy"
    if not program.exists() and shutil.which("npm"):
        argv = ["npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", str(HERE)]
        subprocess.run(
            [*argv, "configurable-http-proxy"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    return str(program) if program.exists() else None


def measure(*, rounds: int, seconds: float, theirs: str) -> dict[str, float]:
    """A B A B …; the median of each."""
    app, own = free_port(), str(HERE / "proxy.py")
    ports = {name: (free_port(), free_port()) for name in ("ours", "chp")}
    got: dict[str, list[float]] = {}
    now = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251
    day = timedelta(days=1)
    ticket = Ticket("bench", "s", "/user/bench/", now, now + day, now + day)
    cookie = f"Cookie: batchhub-access={sign(KEY, replace(ticket))}"
    with tempfile.TemporaryDirectory() as state, process(1, sys.executable, own, "--application", str(app), port=app):
        for number in range(rounds):
            for name, (port, api) in ports.items():
                argv = (
                    [sys.executable, own, "--ours", str(port), str(api), f"{state}/{number}.json"]
                    if name == "ours"
                    else ["node", theirs, "--ip=127.0.0.1", f"--port={port}", f"--api-port={api}", "--log-level=error"]
                )
                with process(0, *argv, port=api) as pid:
                    add_route(api, "/user/bench", app)
                    requests(port, 1, "/user/bench/api/status")
                    used = cpu(pid)
                    rate, late = requests(port, seconds, "/user/bench/api/status")
                    got.setdefault(f"{name}_request_cpu_us", []).append((cpu(pid) - used) / (rate * seconds) * 1e6)
                    got.setdefault(f"{name}_requests", []).append(rate)
                    got.setdefault(f"{name}_p99_ms", []).append(late)
                    used = cpu(pid)
                    rate = uvloop.run(pinned(lambda port=port: echo(port, seconds)))
                    got.setdefault(f"{name}_websocket", []).append(rate)
                    got.setdefault(f"{name}_message_cpu_us", []).append(
                        (cpu(pid) - used) / (rate * (seconds + 0.3)) * 1e6
                    )
                    if name == "ours":
                        add_route(api, "/user/bench", app, owner="bench", authorization="token of-the-server")
                        rate, _ = requests(port, seconds, "/user/bench/api/status", cookie)
                        got.setdefault("ours_requests_checked", []).append(rate)
    return {name: statistics.median(values) for name, values in got.items()}


async def pinned(work: Callable[[], asyncio.Future[float]]) -> float:
    os.sched_setaffinity(0, {1})
    return await work()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--application", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.application:
        uvloop.run(serve_application(asked.application))
    elif asked.ours:
        uvloop.run(serve_ours(int(asked.ours[0]), int(asked.ours[1]), asked.ours[2]))
    else:
        report(quick=asked.quick, as_json=asked.json)


def report(*, quick: bool, as_json: bool) -> None:
    theirs = chp()
    missing = [name for name in ("wrk", "taskset", "node") if shutil.which(name) is None]
    if missing or theirs is None or len(os.sched_getaffinity(0)) < 2:
        why = (
            f"missing: {', '.join(missing)}" if missing else "configurable-http-proxy (npm) or a second core is missing"
        )
        print(json.dumps({"skipped": why}) if as_json else f"Skipped; {why}.")
        return
    figures = measure(rounds=2 if quick else 5, seconds=3 if quick else 10, theirs=theirs)
    ratios = {
        "requests_vs_chp": figures["ours_requests"] / figures["chp_requests"],
        "requests_checked_vs_chp": figures["ours_requests_checked"] / figures["chp_requests"],
        "p99_vs_chp": figures["ours_p99_ms"] / figures["chp_p99_ms"],
        "websocket_vs_chp": figures["ours_websocket"] / figures["chp_websocket"],
        "request_cpu_vs_chp": figures["ours_request_cpu_us"] / figures["chp_request_cpu_us"],
        "message_cpu_vs_chp": figures["ours_message_cpu_us"] / figures["chp_message_cpu_us"],
    }
    whole = {name: round(value, 2) for name, value in (ratios | figures).items()}
    print(
        json.dumps(whole, indent=2)
        if as_json
        else "\n".join(f"{name:26} {value:>12.2f}" for name, value in whole.items())
    )


if __name__ == "__main__":
    main()
