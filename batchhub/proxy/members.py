"""The supervisor's view of one worker: what it was told, when it was last heard, how it is."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from math import isfinite
from typing import Any

from batchhub.core.errors import Unreachable
from batchhub.proxy.book import Book, Change, write_change
from batchhub.proxy.counters import Report
from batchhub.proxy.link import Link
from batchhub.proxy.listeners import TRAFFIC, Listeners
from batchhub.proxy.spawn import Child

log = logging.getLogger(__name__)

_BATCH = 500  # changes in one message
_START = 60.0  # seconds a worker may take to come up
_HEAR = 10.0  # seconds without an answer, after which that is said
_GIVE_UP = 60.0  # seconds without an answer, after which a worker is killed: nobody is served by it either
_PAUSE = 5.0  # seconds between two questions how it is
_MOST_NUMBERS = 10_000  # in one report


class Stage(StrEnum):
    """How far a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"


class Member:
    """One worker. ``number`` is its place among its siblings, ``generation`` counts reloads, ``note`` is told which routes were used."""

    def __init__(self, number: int, generation: int, child: Child, note: Callable[[Mapping[str, Any]], None]) -> None:
        self.number = number
        self.generation = generation
        self.child = child
        self.stage = Stage.STARTING
        self.report = Report()
        self.informed = False
        """It has the book, and is told of every change from then on."""
        self.failure = ""
        self.served_since = 0.0
        self.gone = asyncio.Event()
        self.link = Link(self._news, self.gone.set)
        self._note = note

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.child.pid})"

    async def start(self, end: socket.socket, book: Book, listeners: Listeners, clients: int) -> None:
        """Give it all it needs; on return it serves. Raises HubError with what it says is wrong, Unreachable if it is gone."""
        await self.link.open(end)
        await self.link.ask("settle", _START, clients=clients)
        # In one go, so that nothing can change between the book and the changes that follow it.
        changes = list(book.changes())
        numbers = [self._put(changes[first : first + _BATCH]) for first in range(0, len(changes), _BATCH)]
        self.informed = True
        for number in numbers:
            await self.link.answer(number, "change", _START)
        await self.link.ask("serve", _START, **{purpose: listeners.files(purpose) for purpose in TRAFFIC})
        self.served_since = asyncio.get_running_loop().time()
        self.stage = Stage.SERVING

    async def adopt(self, end: socket.socket, stage: Stage) -> None:
        """Go on with a worker that a former program of this process started."""
        await self.link.open(end)
        self.informed = True
        self.served_since = asyncio.get_running_loop().time()
        self.stage = stage
        self.link.tell("resume")

    def _put(self, changes: Sequence[Change]) -> int:
        return self.link.put("change", changes=[write_change(change) for change in changes])

    def tell(self, change: Change) -> int | None:
        """Send it a change; the number under which :meth:`Link.answer` waits for its word."""
        return self._put([change]) if self.informed and self.link.alive else None

    def drain(self, seconds: float) -> None:
        """Let it finish."""
        self.stage = Stage.DRAINING
        self.link.tell("drain", seconds=seconds)

    def _news(self, name: str, content: Mapping[str, Any]) -> None:
        if name == "bye":
            self.report = Report(_numbers(content["counts"]))
        if name in {"seen", "bye"}:
            self._note(content["seen"] if "seen" in content else content["at"])  # as one of the version before says it

    async def hear(self, seconds: float) -> None:
        """Ask how it is, which is kept in ``report``. Raises Unreachable, also for an answer that is none."""
        answer = await self.link.ask("report", seconds)
        try:
            self.report = Report(_numbers(answer["counts"]), _numbers(answer["levels"]))
            seen = answer["seen"]
        except (KeyError, TypeError) as error:
            raise Unreachable("Its report cannot be read.") from error
        self._note(seen)

    async def watch(self) -> None:
        """Ask it again and again, until it is gone. One that does not answer is told of, and killed in the end."""
        loop = asyncio.get_running_loop()
        heard, told = loop.time(), False
        while not self.gone.is_set():
            try:
                await self.hear(_HEAR)
                heard, silent = loop.time(), 0.0
            except Unreachable:
                silent = loop.time() - heard
            if told and not silent:
                log.warning("%s answers again.", self)
            elif silent and not told and not self.gone.is_set():
                log.error("%s has not answered for %.0f seconds.", self, silent)
            told = bool(silent)
            if silent >= _GIVE_UP:
                log.error("%s is killed: it has not answered for %.0f seconds.", self, silent)
                self.child.kill()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await self.gone.wait()

    async def bury(self) -> int:
        """Wait for the process' end, which is at hand once its link is lost; its status."""
        self.stage = Stage.GONE
        await self.link.end()
        for _ in range(100):
            code = self.child.ended()
            if code is not None:
                return code
            await asyncio.sleep(0.05)
        self.child.kill()
        return await asyncio.to_thread(self.child.wait)

    def write(self) -> dict[str, Any]:
        """As JSON, for a program that takes this process over."""
        return {
            "number": self.number,
            "generation": self.generation,
            "pid": self.child.pid,
            "file": self.link.file,
            "stage": self.stage.value,
        }


def _numbers(found: Any) -> Mapping[str, float]:
    """What is added up for years to come must be numbers. Raises TypeError."""
    if not isinstance(found, dict) or len(found) > _MOST_NUMBERS:
        raise TypeError("a worker's report")
    if not all(type(number) in {int, float} and isfinite(number) for number in found.values()):
        raise TypeError("a number in a worker's report")
    return found
