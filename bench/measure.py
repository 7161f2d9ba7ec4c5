"""Measuring: what one kind of load sees of one proxy, and what that cost the proxy's core."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.machine import PYTHON, Meter, Unfit, environment, memory, pin, program
from bench.peers import SECRET, Peer, Running, started

T = TypeVar("T")

CONNECTIONS = 32
PATH = "/user/bench"
SMALL = f"{PATH}/api/status"
NO_WRK = (
    "wrk is not installed (apt-get install wrk), so small requests were made by a loop in Python: good for about 40,000 a second, "
    "too few for nginx and HAProxy."
)

LUA = """\
local paths = {}
function init(args)
  for n = 0, tonumber(args[1]) - 1 do paths[n + 1] = wrk.format("GET", "/user/u" .. n .. "/api/status") end
end
function request() return paths[math.random(#paths)] end
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything: seconds of each load, MiB of each body, idle WebSockets, routes, seconds of warming up."""

    rounds: int
    seconds: int
    mib: int = 256
    idle: int = 5000
    routes: int = 10_000
    warm: int = 1
    bodies: int = 2
    """Transfers of each kind in each round: they take less than a second."""

    @property
    def size(self) -> int:
        """Bytes of a body."""
        return self.mib * 1024 * 1024


QUICK = Plan(rounds=2, seconds=2, idle=1000)
FULL = Plan(rounds=5, seconds=4)

Raw = dict[str, dict[str, dict[str, list[float]]]]
"""Section -> peer -> measure -> one value for each round."""


@dataclass(slots=True)
class Bench:
    """One run: the plan, who takes part, the cores, and what was measured so far."""

    plan: Plan
    peers: list[Peer]
    proxy_core: int
    load_core: int
    application: int
    directory: Path
    say: Callable[[str], None]
    raw: Raw = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    @contextlib.contextmanager
    def run(self, peer: Peer) -> Iterator[Running]:
        """A fresh process of this peer."""
        self._count += 1
        with started(peer, self.application, self.proxy_core, self.directory / f"{self._count}-{peer.name}") as found:
            yield found

    def turns(self, section: str, peers: Sequence[T]) -> Iterator[T]:
        """A B A B: in each round everybody once."""
        for number in range(self.plan.rounds):
            self.say(f"{section}: round {number + 1} of {self.plan.rounds}")
            yield from peers

    def keep(self, section: str, peer: str, seen: Mapping[str, float]) -> None:
        """Note what was seen."""
        for measure, value in seen.items():
            self.raw.setdefault(section, {}).setdefault(peer, {}).setdefault(measure, []).append(value)

    # ------------------------------------------------ loads

    def load(self, kind: str, *words: object, header: str = "") -> dict[str, float]:
        """One load of :mod:`bench.load`, on the load's core. Raises Unfit."""
        done = subprocess.run(
            [PYTHON, "-m", "bench.load", kind, *map(str, words)],
            env={**environment(SECRET), "BENCH_HEADER": header},
            preexec_fn=pin(self.load_core, patient=True),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unfit(done.stderr.strip()[-500:] or f"The load {kind!r} ended with {done.returncode}.")
        seen: dict[str, float] = json.loads(done.stdout)
        return seen

    def small(
        self, port: int, path: str = SMALL, *, seconds: int = 0, header: str = "", paths: int = 0
    ) -> dict[str, float]:
        """Small requests, one at a time on each of 32 connections; ``paths``: spread over so many users. Raises Unfit.

        By wrk, or where it is not installed by our own loop, which is the limit for proxies in C.
        """
        seconds, wrk = seconds or self.plan.seconds, program("wrk")
        if wrk is None:
            return self.load("requests", port, path, CONNECTIONS, seconds, paths, header=header)
        argv = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
        argv += ["-H", header] if header else []
        if paths:
            script = self.directory / "paths.lua"
            script.write_text(LUA)
            argv += ["-s", str(script)]
        argv += [f"http://127.0.0.1:{port}{path}", *(["--", str(paths)] if paths else [])]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, preexec_fn=pin(self.load_core, patient=True)
        )
        return read_wrk(done.stdout + done.stderr)

    def idle(self, port: int, count: int, pids: list[int]) -> float:
        """Bytes by which these processes grow for each WebSocket that is open and silent. Raises Unfit."""
        argv = [PYTHON, "-m", "bench.load", "idle", str(port), f"{PATH}/ws"]
        some = min(count, 100)
        self.held([*argv, str(some)], lambda: 0)  # what the first connections alone need is not counted for each
        before = sum(map(memory, pids))
        return (self.held([*argv, str(count)], lambda: sum(map(memory, pids))) - before) / count

    def held(self, argv: list[str], look: Callable[[], int]) -> int:
        """Look while the WebSockets are open."""
        with subprocess.Popen(
            argv,
            env=environment(),
            preexec_fn=pin(self.load_core, patient=True),  # noqa: PLW1509
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout is not None
            opened = holder.stdout.readline()
            seen = look() if opened else 0
            _, words = holder.communicate()
        if not opened or holder.returncode:
            raise Unfit(words.strip()[-500:] or "The idle WebSockets could not be opened.")
        return seen

    # ------------------------------------------------ load and cost together

    def costed(self, pids: list[int], work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What the load saw, and what it cost: processor time of these processes for each unit, their share of the core, and others' work."""
        with Meter(pids) as meter:
            seen = work()
        units, took = seen.pop("count"), seen.pop("took")
        return {
            **seen,
            "cpu_us": meter.cpu / units * 1e6,
            "core_used": min(1.0, meter.cpu / took),
            "other_work": meter.others,
        }

    def requests(self, pids: list[int], port: int, header: str = "") -> dict[str, float]:
        """Small requests, after a warm-up."""
        if self.plan.warm:
            self.small(port, seconds=self.plan.warm, header=header)
        return self.costed(pids, lambda: self.small(port, header=header))

    def messages(self, pids: list[int], port: int) -> dict[str, float]:
        """WebSocket messages there and back, after a warm-up."""
        words = (f"{PATH}/ws", CONNECTIONS)
        if self.plan.warm:
            self.load("echo", port, *words, self.plan.warm)
        return self.costed(pids, lambda: self.load("echo", port, *words, self.plan.seconds))

    def transfers(self, pids: list[int], port: int) -> Iterator[tuple[str, dict[str, float]]]:
        """Downloads, and uploads with and without a length."""
        size = self.plan.size
        for _ in range(self.plan.bodies):
            yield "download", self.costed(pids, lambda: self.load("download", port, PATH, size))
            yield "upload", self.costed(pids, lambda: self.load("upload", port, PATH, size, 0))
            yield "upload_chunked", self.costed(pids, lambda: self.load("upload", port, PATH, size, 1))


_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


def read_wrk(text: str) -> dict[str, float]:
    """Wrk's report as figures. Raises Unfit when a single request failed: such a rate means nothing."""
    if "Non-2xx" in text or "Socket errors" in text:
        raise Unfit(f"wrk saw errors:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", text)
    late = {share: (value, unit) for share, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s|m)\b", text)}
    if rate is None or total is None or not {"50", "99"} <= late.keys():
        raise Unfit(f"wrk said something else than expected:\n{text}")
    return {
        "rate": float(rate[1]),
        **{f"p{share}_ms": float(late[share][0]) * _UNITS[late[share][1]] for share in ("50", "99")},
        "count": int(total[1]),
        "took": float(total[2]) * _UNITS[total[3]] / 1000,
    }
