"""Our proxy beside configurable-http-proxy (CHP), nginx and HAProxy: ``python bench/proxy.py [--quick] [--json]``.

Each stands alone on one core, in turn (A B A B), in front of the same application; application and load are on another core. What is
measured, why, and what the figures do not say is in docs/performance.md. Whoever is not installed is skipped with a sentence.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package beside us, installed or not

from batchhub.core.tickets import Ticket, sign
from bench import options, report
from bench.machine import PYTHON, conditions, memory, program, raise_file_limit, running, said, two_cores
from bench.measure import CONNECTIONS, NO_WRK, PATH, SMALL, Bench
from bench.options import Asked
from bench.peers import Running, add_route, find_peers, ours_checked, ticket_key
from tests.ports import free_port


def requests(bench: Bench) -> None:
    """Small requests; ours also with the access check, and nobody at all: the ceiling."""
    for peer in bench.turns("requests", [bench.peers[0], ours_checked(), *bench.peers[1:]]):
        with bench.run(peer) as up:
            header = checked(bench, up) if peer.name == "ours_checked" else ""
            bench.keep("requests", peer.name, bench.requests([up.pid], up.place.port, header))
    for _ in range(bench.plan.rounds):
        seen = bench.small(bench.application)
        bench.keep("requests", "direct", {name: seen[name] for name in ("rate", "p50_ms", "p99_ms")})


def checked(bench: Bench, up: Running) -> str:
    """Make the server somebody's; the cookie with the signed ticket that opens it, and is verified with each request."""
    now = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251 - a program of its own
    day = timedelta(days=1)
    ticket = Ticket("bench", "session", f"{PATH}/", now, now + day, now + day)
    add_route(up.place.api, PATH, bench.application, owner="bench", authorization="token of-the-server")
    return f"Cookie: batchhub-access={sign(ticket_key(up.place), ticket)}"


def websocket(bench: Bench) -> None:
    """Messages there and back."""
    for peer in bench.turns("websocket", bench.peers):
        with bench.run(peer) as up:
            bench.keep("websocket", peer.name, bench.messages([up.pid], up.place.port))
    for _ in range(bench.plan.rounds):
        seen = bench.load("echo", bench.application, f"{PATH}/ws", CONNECTIONS, bench.plan.seconds)
        bench.keep("websocket", "direct", {name: seen[name] for name in ("rate", "p50_ms", "p99_ms")})


def transfer(bench: Bench) -> None:
    """Large bodies, down and up."""
    for peer in bench.turns("transfer", bench.peers):
        with bench.run(peer) as up:
            for section, seen in bench.transfers([up.pid], up.place.port):
                bench.keep(section, peer.name, seen)
    for _ in range(bench.plan.rounds):
        for section, seen in bench.transfers([], bench.application):
            bench.keep(section, "direct", {"rate": seen["rate"]})


def idle(bench: Bench) -> None:
    """Memory for each WebSocket that is open and silent."""
    possible = (raise_file_limit() - 1000) // 2
    count = min(bench.plan.idle, possible)
    if count < bench.plan.idle:
        bench.notes.append(
            f"idle: only {count} WebSockets were opened; the limit of open files is too low (ulimit -Hn)."
        )
    for peer in bench.turns("idle", bench.peers):
        with bench.run(peer) as up:
            bench.small(up.place.port, seconds=1)
            bench.keep("idle", peer.name, {"kib": bench.idle(up.place.port, count, [up.pid]) / 1024})


def routes(bench: Bench) -> None:
    """Many routes: how fast they come in, what they weigh, and whether requests notice."""
    plan = bench.plan
    for peer in bench.turns("routes", [peer for peer in bench.peers if peer.api]):
        with bench.run(peer) as up:
            port, api = up.place.port, up.place.api
            add_route(api, "/user/u0", bench.application)
            if plan.warm:
                bench.small(port, "/", seconds=plan.warm, paths=1)
            one = bench.small(port, "/", paths=1)
            before = memory(up.pid)
            adding = bench.costed(
                [up.pid], lambda api=api: bench.load("routes", api, plan.routes, bench.application, 10)
            )
            adding["kib"] = (memory(up.pid) - before) / plan.routes / 1024
            bench.keep("route_adds", peer.name, adding)
            many = bench.small(port, "/", paths=plan.routes)
            bench.keep("lookups", peer.name, {"rate_1": one["rate"], "rate_10000": many["rate"]})


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "requests": requests,
    "websocket": websocket,
    "transfer": transfer,
    "idle": idle,
    "routes": routes,
}


def measure(asked: Asked) -> dict[str, object]:
    """Run what is asked for. Raises Unfit when anything failed, for then no figure is worth reporting."""
    plan, names = asked.plan, asked.sections
    peers, skipped = find_peers(asked.peers)
    cores = two_cores()
    if cores is None:
        return report.result({}, conditions(), [*skipped, "Two cores are needed: one for the proxy, one for the load."])
    notes = [NO_WRK] if program("wrk") is None else []
    raise_file_limit()
    where = conditions()
    port = free_port()
    argv = [PYTHON, "-m", "bench.application", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="batchhub-bench-") as directory,
        running(argv, cores[1], [port], patient=True),
    ):
        bench = Bench(plan, peers, cores[0], cores[1], port, Path(directory), asked.say, notes=notes)
        for name in names:
            SECTIONS[name](bench)
    versions = {peer.name: peer.version for peer in peers} | {"wrk": said(["wrk", "-v"], r"wrk (\S+)")}
    where["versions"] = {**where["versions"], **versions}  # type: ignore[dict-item]
    where.update(rounds=plan.rounds, seconds=plan.seconds, connections=CONNECTIONS, path=SMALL)
    return report.result(bench.raw, where, skipped, bench.notes)


if __name__ == "__main__":
    options.main(__doc__ or "", list(SECTIONS), measure)
