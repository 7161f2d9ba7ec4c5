"""A worker process: carries traffic, and does what its supervisor says over the link it was started with.

It holds no file but its sockets. When the supervisor is gone it ends: nobody could tell it any more whose session is over.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from batchhub.core.errors import BadInput
from batchhub.core.ports import Clock
from batchhub.proxy.book import Activity, Seen, read_change, write_change
from batchhub.proxy.link import Link
from batchhub.proxy.listeners import TRAFFIC, inherited
from batchhub.proxy.plane import DataPlane, Parts
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.spawn import SIGNALS
from batchhub.proxy.tasks import Crew

log = logging.getLogger(__name__)

_TELL = 1.0  # seconds between two reports of which routes were used


class Worker:
    """One worker, from its start to its end."""

    def __init__(self, settings: ProxySettings, parts: Parts, clock: Clock) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._parts = parts
        self._clock = clock
        self._link = Link(self._handle, self._alone)
        self._plane: DataPlane | None = None
        self._crew = Crew()
        self._activity: Activity | None = None
        self.ended = asyncio.Event()

    async def run(self, end: socket.socket) -> None:
        """Until the supervisor is gone, says so, or nothing is left after a drain."""
        await self._link.open(end)
        self._link.tell("here")
        try:
            await self.ended.wait()
        finally:
            await self._crew.close()
            if self._plane is not None:
                await self._plane.close()
            await self._link.end()

    def _alone(self) -> None:
        self.ended.set()

    def _handle(self, name: str, content: Mapping[str, Any]) -> Any:  # noqa: C901 - one line a message
        if name == "settle":
            return self._settle(content)
        plane = self._plane
        if plane is None:
            raise BadInput(f"{name!r} before 'settle'.")
        match name:
            case "change":
                self._change(plane, content["changes"])
            case "serve":
                return self._serve(plane, content)
            case "report":
                report = plane.report()
                return {"counts": report.counts, "levels": report.levels, "seen": self._seen() or {}}
            case "seen":
                return self._seen() or {}
            case "probe":
                return plane.probe(content["fields"], content["path"])
            case "ask":
                return self._ask(plane, content)
            case "tunnels":
                return plane.tunnels()
            case "certificate":
                return plane.reload_certificate()
            case "drain":
                plane.drain(timedelta(seconds=content["seconds"]))
                self._crew.spawn(self._leave(plane), "leave when drained")
            case "pause":
                asyncio.get_running_loop().call_soon(self._link.hold)  # after the answer to this
            case "resume":
                self._link.release()
            case "end":
                self.ended.set()
            case _:
                log.debug("The supervisor says %r, which this worker does not know.", name)
        return None

    async def _ask(self, plane: DataPlane, content: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await plane.ask(content["path"], content["fields"], content["question"])
        return {"status": answer.status, "body": b64encode(answer.body).decode("ascii")}

    def _settle(self, content: Mapping[str, Any]) -> None:
        """The first word. Raises ConfigError."""
        self._plane = DataPlane(self._settings, self._parts, self._clock, clients=content["clients"])
        self._activity = Activity(self._plane.book)

    def _change(self, plane: DataPlane, changes: list[Mapping[str, Any]]) -> None:
        for each in changes:
            change = read_change(each, self._clock())
            if change is not None:
                plane.apply(change)

    async def _serve(self, plane: DataPlane, content: Mapping[str, Any]) -> None:
        self._seen()  # what came with the routes is known already
        await plane.start(*(inherited(content[purpose]) for purpose in TRAFFIC))
        self._crew.spawn(self._tell(), "tell what was used")

    def _seen(self) -> Mapping[str, Any] | None:
        """What was used since this was asked last; ``None`` if nothing was."""
        news = self._activity.news() if self._activity is not None else Seen({})
        return write_change(news) if news.at else None

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TELL)
            seen = self._seen()
            if seen:
                self._link.tell("seen", seen=seen)

    async def _leave(self, plane: DataPlane) -> None:
        await plane.drained.wait()
        report = plane.report()
        self._link.tell("bye", counts=report.counts, seen=self._seen() or {})
        self.ended.set()


async def serve(settings: ProxySettings, parts: Parts, clock: Clock, end: socket.socket) -> None:
    """The worker process' work. The terminal's signals are the supervisor's business; SIGTERM ends this one alone."""
    worker = Worker(settings, parts, clock)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, worker.ended.set if number == signal.SIGTERM else _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    await worker.run(end)


def _nothing() -> None:
    """Whoever is told is the supervisor."""
