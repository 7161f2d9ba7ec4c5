"""Removes the directories of jobs that ended long ago, as the people whom they belong to. What is worth keeping is in the database.

Nothing is removed while a cluster is silent, nor of a job that ended a moment ago: its epilogue may still write. That an end is followed by a
removal at once is not needed, as what goes is never the newest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.control.walltime import Watched
from batchhub.core.errors import HubError, NotFound, Unreachable
from batchhub.core.model import Server, ServerId
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)


class Rows(Protocol):
    """The store, as far as it is needed here."""

    def with_old_directories(
        self, cluster: str, *, newest: int, since: datetime | None, settled: datetime, limit: int
    ) -> Awaitable[Sequence[Server]]:
        """Ended runs whose directory is to go, the oldest first."""

    def update(self, server_id: ServerId, change: Callable[[Server], Server | None]) -> Awaitable[Server]:
        """Load, change, save in one transaction."""


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """``newest`` ended jobs' directories are kept for each person and cluster, for ``age`` at most; zero: no limit.

    ``settled``: how long after its end a job is left alone. ``every``: between two rounds. ``at_most``: removals in one round on one cluster, of
    which ``together`` run at a time. A directory that could not be removed is left alone for ``again``, twice as long each time, up to ``patience``.
    """

    newest: int = 10
    age: timedelta = timedelta(days=30)
    settled: timedelta = timedelta(minutes=10)
    every: timedelta = timedelta(minutes=10)
    at_most: int = 100
    together: int = 4
    again: timedelta = timedelta(minutes=20)
    patience: timedelta = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A directory that could not be removed: when it may be tried again, and how long it is then left alone."""

    until: datetime
    pause: timedelta


class Retention:
    """Works through one cluster after another."""

    def __init__(
        self, clusters: Mapping[str, Watched], store: Rows, clock: Clock, settings: RetentionSettings | None = None
    ) -> None:
        self._clusters = clusters
        self._store = store
        self._clock = clock
        self._settings = settings or RetentionSettings()
        self._trouble: dict[ServerId, _Trouble] = {}

    async def keep(self) -> None:
        """A round now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.every.total_seconds())
            for cluster in self._clusters:
                try:
                    await self.round(cluster)
                except HubError as error:
                    log.warning("cluster %s: old job directories stay for now: %s", cluster, error)
                except Exception:
                    log.exception("cluster %s: removing old job directories failed", cluster)

    async def round(self, cluster: str) -> int:
        """Remove what is to go, a bounded number of directories; how many went. Raises StoreUnavailable."""
        settings, now = self._settings, self._clock()
        if self._clusters[cluster].poller.silent_since is not None:
            return 0
        found = await self._store.with_old_directories(
            cluster,
            newest=settings.newest,
            since=now - settings.age if settings.age else None,
            settled=now - settings.settled,
            limit=settings.at_most + len(self._trouble),
        )
        due = [row for row in found if (trouble := self._trouble.get(row.id)) is None or trouble.until <= now]
        waiting, gone = iter(due[: settings.at_most]), 0
        unreachable = False

        async def work() -> None:
            nonlocal gone, unreachable
            for row in waiting:
                if unreachable:
                    return
                try:
                    went = await self._remove(row)
                    gone += went
                except Unreachable as error:
                    unreachable = True
                    log.warning("cluster %s: old job directories stay for now: %s", cluster, error)

        async with asyncio.TaskGroup() as group:
            for _ in range(settings.together):
                group.create_task(work(), name=f"retention of {cluster}")
        return gone

    async def _remove(self, row: Server) -> int:
        """Whether it went. Raises Unreachable: then the others are not tried either."""
        transport = self._clusters[row.cluster].transport
        try:
            await transport.remove_directory(row.directory, row.account)
            await self._store.update(row.id, lambda current: replace(current, directory=""))
        except Unreachable:
            self._put_off(row)
            raise
        except NotFound:
            return 0
        except HubError as error:
            self._put_off(row)
            log.warning("server %s of %s: %s", row.id, row.user, error)
            return 0
        self._trouble.pop(row.id, None)
        return 1

    def _put_off(self, row: Server) -> None:
        settings, before = self._settings, self._trouble.get(row.id)
        pause = min(before.pause * 2, settings.patience) if before else settings.again
        if len(self._trouble) > 10 * settings.at_most:
            self._trouble.clear()
        self._trouble[row.id] = _Trouble(self._clock() + pause, pause)
