"""Ends servers that nobody uses, and those that have lived for as long as they may.

A round costs one question to the database and one to the proxy. Only a server for which these two know of no use within its limit has its
application asked, a few at a time. What was seen is saved on the row now and then, so that a hub that starts anew knows it too; and what a
hub does not know yet ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from batchhub.control.ports import JobBuilder, ServerStore
from batchhub.core.errors import HubError
from batchhub.core.idleness import (
    EndLimits,
    idle_words,
    is_due,
    jupyter_use,
    last_use,
    outlived,
    outlived_words,
)
from batchhub.core.model import Phase, Server, ServerId, Want
from batchhub.core.ports import Clock, Routes, Use

log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Applications that are asked at a time."""
_PATIENCE = 25.0
"""Seconds for all that one of them is asked."""
_SAVE = timedelta(minutes=30)
"""What is saved of a server's use is behind by so much at most, or by a quarter of its limit."""


@dataclass(frozen=True, slots=True)
class CullSettings:
    """``every``: seconds between two rounds."""

    every: float = 60.0


class Culler:
    """See the module. ``limits`` gives those of a profile by its name, ``look`` is the reconciler's."""

    def __init__(
        self,
        *,
        store: ServerStore,
        routes: Routes,
        builder: JobBuilder,
        limits: Callable[[str], EndLimits],
        look: Callable[[Iterable[ServerId]], None],
        clock: Clock,
        settings: CullSettings,
    ) -> None:
        self._store = store
        self._routes = routes
        self._builder = builder
        self._limits = limits
        self._look = look
        self._clock = clock
        self._settings = settings
        self._found: dict[ServerId, datetime] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """A round now and then, until cancelled."""
        while True:
            try:
                await self.round()
            except HubError as error:
                log.warning("which servers are in use could not be found out, nothing is ended for it: %s", error)
            except Exception:
                log.exception("looking for servers that nobody uses failed")
            await asyncio.sleep(self._settings.every)

    async def round(self) -> None:
        """Look at all once. Raises Unreachable and StoreUnavailable; who had lived long enough is ended even if the proxy is away."""
        rows = await self._store.live_servers()
        self._found = {row.id: self._found[row.id] for row in rows if row.id in self._found}
        ready = []
        for row in rows:
            limits = self._limits(row.profile)
            if outlived(row, limits, self._clock()):
                await self._end(row, outlived_words(limits))
            elif row.phase is Phase.READY and row.want is Want.UP:
                ready.append(row)
        if ready:
            await self._look_at(ready, await self._routes.activity())

    async def _look_at(self, rows: Sequence[Server], uses: Mapping[str, Use]) -> None:
        due = []
        for row in rows:
            use = uses.get(row.path)
            if use is None or use.server_id != row.id:
                continue  # its route is being published, or the proxy is a new one: nobody can say
            jupyter = bool(self._builder.jupyter_path(row))
            # An open page asks Jupyter for its kernels for as long as it is visible: that is no use. Of others nothing else is known.
            last = last_use(row, self._found.get(row.id), use.acted if jupyter else use.at)
            if is_due(row, self._limits(row.profile), last, self._clock()):
                due.append(self._judge(row, last, jupyter=jupyter))
            else:
                await self._save(row, last)
        for outcome in await asyncio.gather(*due, return_exceptions=True):
            if isinstance(outcome, HubError):
                log.warning("a server could not be looked at: %s", outcome)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def _judge(self, row: Server, last: datetime, *, jupyter: bool) -> None:
        limits = self._limits(row.profile)
        if jupyter:
            async with self._places:
                found = await self._ask(row)
            if found is None:
                return
            last = max(last, found)
        now = self._clock()
        if is_due(row, limits, last, now):
            await self._end(row, idle_words(last, limits, now), last)
        else:
            self._found[row.id] = last
            await self._save(row, last)

    async def _ask(self, row: Server) -> datetime | None:
        """What its kernels and terminals say; ``None`` if that is not known."""
        try:
            target, path = self._builder.route(row), self._builder.jupyter_path(row)
            async with asyncio.timeout(_PATIENCE):
                # Else the question itself would be use, by which Jupyter's own limit goes.
                kernels = await self._routes.ask(target, f"{path}kernels?no_track_activity=1")
                terminals = await self._routes.ask(target, f"{path}terminals?no_track_activity=1")
        except (HubError, TimeoutError) as error:
            log.info("server %s: what its kernels do is not known, it stays: %s", row.id, error)
            return None
        found = jupyter_use(kernels, terminals, self._clock())
        if found is None:
            log.info("server %s: what it says of its kernels cannot be read, it stays", row.id)
        return found

    async def _save(self, row: Server, last: datetime) -> None:
        idle = self._limits(row.profile).idle
        behind = min(_SAVE, idle / 4) if idle else _SAVE
        if row.active is None or last - row.active >= behind:
            await self._store.update(row.id, lambda current: replace(current, active=last))

    async def _end(self, row: Server, words: str, last: datetime | None = None) -> None:
        def down(current: Server) -> Server | None:
            same = (current.want, current.phase, current.started) == (row.want, row.phase, row.started)
            if not same:
                return None  # it took a step meanwhile: the next round sees what it is then
            return replace(current, want=Want.DOWN, words=words, cancel_tried=None, active=last or current.active)

        after = await self._store.update(row.id, down, kind="cull", by="hub")
        if after.want is Want.DOWN:
            log.info("server %s of %s is ended: %s", row.id, row.user, words)
            self._look((row.id,))
