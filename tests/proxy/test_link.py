"""Questions, answers and news between two ends of a socket pair."""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from batchhub.core.errors import HubError, TunnelError, Unreachable
from batchhub.proxy import members
from batchhub.proxy.link import Link
from batchhub.proxy.members import Member, Stage
from batchhub.proxy.spawn import Child, Launcher


@asynccontextmanager
async def pair(handle: Any) -> AsyncIterator[tuple[Link, Link, asyncio.Event]]:
    gone = asyncio.Event()
    one, other = Link(lambda *_: None, gone.set), Link(handle, lambda: None)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    await one.open(ours)
    await other.open(theirs)
    try:
        yield one, other, gone
    finally:
        await one.end()
        await other.end()
        await asyncio.sleep(0)


async def test_answers_errors_and_order() -> None:
    heard: list[str] = []
    release = asyncio.Event()

    async def later() -> str:
        await release.wait()
        return "later"

    def handle(name: str, content: Mapping[str, Any]) -> Any:
        heard.append(f"{name}{content.get('n', '')}")
        match name:
            case "tunnel":
                raise TunnelError("No way.")
            case "bug":
                raise ZeroDivisionError
            case "later":
                return later()
            case "large":
                return "x" * content["n"]
        return None

    async with pair(handle) as (one, other, gone):
        numbers = [one.put("n", n=n) for n in range(3)]
        one.tell("news")
        slow = asyncio.ensure_future(one.ask("later", 5))
        assert await one.ask("large", 5, n=3_000_000) == "x" * 3_000_000
        assert [await one.answer(number, "n", 5) for number in numbers] == [None] * 3
        assert heard == ["n0", "n1", "n2", "news", "large3000000", "later"]
        with pytest.raises(TunnelError, match=r"No way\."):
            await one.ask("tunnel", 5)
        with pytest.raises(HubError):
            await one.ask("bug", 5)
        with pytest.raises(Unreachable, match="no answer to 'later' within"):
            await one.ask("later", 0.01)
        assert not slow.done()
        release.set()
        assert await slow == "later"
        # What is held is said afterwards, in order.
        other.hold()
        held = asyncio.ensure_future(one.ask("n", 5))
        with pytest.raises(Unreachable):
            await one.ask("n", 0.05)
        other.release()
        assert await held is None
        # An end that is gone answers nothing and hears nothing.
        release.clear()
        waiting = asyncio.ensure_future(one.ask("later", 5))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(Unreachable, match="gone"):
            await waiting
        await gone.wait()
        one.tell("news")
        with pytest.raises(Unreachable, match="gone"):
            await one.ask("n", 5)


async def test_a_worker_that_does_not_answer_is_told_of_and_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("_HEAR", 0.05), ("_PAUSE", 0.01), ("_GIVE_UP", 0.5)):
        monkeypatch.setattr(members, name, seconds)
    child, end = Launcher(("sleep", "100")).start([])
    member = Member(3, 1, child, lambda _: None)
    try:
        await member.adopt(end, Stage.SERVING)
        with caplog.at_level(logging.INFO):
            await asyncio.wait_for(member.watch(), 20)
            await asyncio.wait_for(member.gone.wait(), 20)
        assert await member.bury() == -9
        assert f"worker 3 (pid {child.pid}) has not answered for 0 seconds." in caplog.messages
        assert f"worker 3 (pid {child.pid}) is killed: it has not answered for 1 seconds." in caplog.messages
        assert len(caplog.messages) == 2
    finally:
        child.kill()


@pytest.mark.parametrize(
    "report",
    [
        None,
        [],
        {"counts": {}, "levels": {}},
        {"counts": {"requests": "many"}, "levels": {}, "seen": {}},
        {"counts": {"requests": float("nan")}, "levels": {}, "seen": {}},
        {"counts": {}, "levels": {"routes": None}, "seen": {}},
        {"counts": {str(number): 1 for number in range(20_000)}, "levels": {}, "seen": {}},
    ],
    ids=lambda report: str(report)[:40],
)
async def test_a_worker_that_reports_nonsense_is_as_one_that_does_not_answer(report: Any) -> None:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    noted: list[Any] = []
    member = Member(1, 1, Child(os.getpid()), noted.append)
    worker = Link(lambda name, _: report if name == "report" else None, lambda: None)
    await worker.open(theirs)
    await member.adopt(ours, Stage.SERVING)
    try:
        with pytest.raises(Unreachable, match="cannot be read"):
            await member.hear(5)
        assert (dict(member.report.counts), noted) == ({}, [])
    finally:
        await worker.end()
        await member.link.end()
        await asyncio.sleep(0)


@pytest.mark.parametrize("data", [b"{", b"3", b"[]", b'{"re":[]}', b"[" * 100_000, b"\xff"], ids=lambda data: data[:9])
async def test_nonsense_ends_a_link(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    gone = asyncio.Event()
    link = Link(lambda *_: None, gone.set)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    await link.open(ours)
    with theirs, caplog.at_level(logging.CRITICAL, "asyncio"):
        theirs.sendall(struct.pack(">I", len(data)) + data)
        await asyncio.wait_for(gone.wait(), 60)
    assert not link.alive
