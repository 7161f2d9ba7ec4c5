"""Thousands of notebooks left open over night: each costs little, and all of them still work in the morning."""

import asyncio
import resource
from pathlib import Path

import psutil
import pytest

from tests.proxy.harness import App, running
from tests.proxy.processes import Running, Socket, proxy, talk

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

MANY = 5000
EACH = 16 * 1024
"""Bytes of the proxy's own memory for one WebSocket; docs/performance.md has what it is, about 4 KiB."""


async def opened(w: Running, count: int) -> list[Socket]:
    """So many, a hundred at a time, each used once."""
    found: list[Socket] = []
    while len(found) < count:
        some = min(100, count - len(found))
        fresh = await asyncio.gather(*(w.socket("/user/alice/ws", w.ticket()) for _ in range(some)))
        await asyncio.gather(*(one.echo() for one in fresh))
        found += fresh
    return found


def held(w: Running) -> int:
    return sum(psutil.Process(pid).memory_full_info().uss for pid in w.workers())


async def test_five_thousand_idle_websockets(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(MANY, (hard - 500) // 2)  # here are both ends: the browsers' and the application's
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with running(App(serve=talk)) as app, proxy(tmp_path) as w:
            await w.route("/user/alice", app, owner="alice", authorization="token x")
            first = await opened(w, 200)  # what the first ones alone bring with them is not counted for each
            before = held(w)
            rest = await opened(w, many - len(first))
            assert (held(w) - before) / len(rest) < EACH
            for start in range(0, len(rest), 500):
                await asyncio.gather(*(one.echo() for one in rest[start : start + 500]))
            assert (await w.api("POST", "/api/revocations", {"session": "s1"}))[0] == 204
            async with asyncio.timeout(60):
                await asyncio.gather(*(one.cut() for one in [*first, *rest]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
