"""What hubs on one database tell each other through it, about once a second.

A hub hears of every step from the trail of events, and wakes the pages that wait for it. The leader hears so of what people asked another hub
for, and looks at those servers; and from the table of clusters that somebody waits in front of another hub's page. The leader notes what it
sees, where it has changed, for the pages of the others and for its own after a restart. All of it may be lost without harm: pages read again by
themselves, and the leader's next tick finds every wish.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.control.poller import Poller
from batchhub.core.errors import HubError
from batchhub.core.model import Observation, Server, ServerId
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks into the database."""

_LATE = 64
"""So many ids back an event is still looked for: the transaction that wrote it may have ended after those that took later ids."""

_ATTENTION = timedelta(seconds=6)
"""So long one word counts that somebody waits; it is said again while that is so."""


class News(Protocol):
    """An event of any hub."""

    @property
    def id(self) -> int:
        """Greater for later ones."""

    @property
    def server_id(self) -> ServerId:
        """About this server."""

    @property
    def user(self) -> str:
        """Its owner."""

    @property
    def by(self) -> str:
        """Who caused it: a person, or ``hub``."""


class SharedStore(Protocol):
    """What is needed of the store. Every method raises StoreUnavailable."""

    def news(self, after: int, limit: int = 500) -> Awaitable[Sequence[News]]:
        """Events with greater ids, oldest first."""

    def newest_event(self) -> Awaitable[int]:
        """The greatest id."""

    def watch_clusters(self, clusters: Collection[str], until: datetime) -> Awaitable[None]:
        """Somebody waits for news from these clusters."""

    def watched_clusters(self, now: datetime) -> Awaitable[Collection[str]]:
        """For whose news somebody waits."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What was noted of a cluster."""

    silent_since: datetime | None
    silent_word: str
    answered_at: datetime | None


class NoteBook(Protocol):
    """Where the leader notes what it sees. Every method raises StoreUnavailable."""

    def save_sightings(self, seen: Mapping[ServerId, Observation]) -> Awaitable[None]:
        """The last good observations of these servers."""

    def note_cluster(self, name: str, since: datetime | None, word: str, answered: datetime | None) -> Awaitable[None]:
        """What is known of this cluster."""


class Company:
    """:meth:`keep` is to be run as a task, by hubs that may have company. ``tell`` wakes pages, ``heed`` has servers looked at, if this hub leads."""

    def __init__(
        self,
        *,
        store: SharedStore,
        pollers: Mapping[str, Poller],
        leads: Callable[[], bool],
        tell: Callable[..., None],
        heed: Callable[[Iterable[ServerId]], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._pollers = pollers
        self._leads = leads
        self._tell = tell
        self._heed = heed
        self._clock = clock
        self._newest: int | None = None
        self._heard: set[int] = set()
        self._attended: set[str] = set()
        self._said: datetime | None = None

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.listen()
                await self.attend()
            except HubError as error:
                log.debug("other hubs cannot be heard: %s", error)
            except Exception:
                log.exception("hearing of other hubs failed")
            await asyncio.sleep(EVERY)

    async def listen(self) -> None:
        """Read what is new in the trail of events."""
        if self._newest is None:
            self._newest = await self._store.newest_event()
            return
        low = self._newest - _LATE
        fresh = [item for item in await self._store.news(low) if item.id not in self._heard]
        self._newest = max((self._newest, *(item.id for item in fresh)))
        self._heard = {number for number in self._heard | {item.id for item in fresh} if number > self._newest - _LATE}
        self._tell(*{str(item.server_id) for item in fresh}, *{item.user for item in fresh})
        if self._leads():
            self._heed({item.server_id for item in fresh if item.by != "hub"})

    async def attend(self) -> None:
        """Say, or hear, in front of which clusters' pages somebody waits."""
        now = self._clock()
        if not self._leads():
            self._adjust(set())
            mine = [name for name, poller in self._pollers.items() if poller.watched]
            if mine and (self._said is None or now - self._said >= _ATTENTION / 3):
                self._said = now
                await self._store.watch_clusters(mine, now + _ATTENTION)
            return
        self._adjust(set(await self._store.watched_clusters(now)) & set(self._pollers))

    def _adjust(self, attended: set[str]) -> None:
        for name in attended - self._attended:
            self._pollers[name].watch(+1)
        for name in self._attended - attended:
            self._pollers[name].watch(-1)
        self._attended = attended


class Notes:
    """The leader's notes. :meth:`note` after each look at a cluster, :meth:`keep` as a task while this hub leads."""

    _STALE = timedelta(seconds=30)
    """How old the note of a cluster's last answer may be."""

    def __init__(self, book: NoteBook, pollers: Mapping[str, Poller], clock: Clock) -> None:
        self._book = book
        self._pollers = pollers
        self._clock = clock
        self._noted: dict[ServerId, object] = {}
        self._pending: dict[ServerId, Observation] = {}
        self._clusters: dict[str, _Word] = {}
        self._most = 1000

    def reset(self) -> None:
        """Another hub may have written since."""
        self._noted.clear()
        self._pending.clear()
        self._clusters.clear()

    def note(self, rows: Iterable[Server]) -> None:
        """These were looked at: what is new for people is written down, all of a moment at once."""
        for row in rows:
            poller = self._pollers.get(row.cluster)
            seen = poller.last_good(row.id) if poller is not None else None
            if seen is not None and self._noted.get(row.id) != _meaning(seen):
                self._pending[row.id] = seen

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.write()
            except HubError as error:
                log.debug("what was seen cannot be noted now: %s", error)
            except Exception:
                log.exception("noting what was seen failed")
            await asyncio.sleep(EVERY)

    async def write(self) -> None:
        """What has changed, in one transaction, and what is known of the clusters."""
        if self._pending:
            pending = dict(self._pending)
            await self._book.save_sightings(pending)
            self._noted.update((server_id, _meaning(seen)) for server_id, seen in pending.items())
            for server_id, seen in pending.items():
                if self._pending.get(server_id) is seen:
                    del self._pending[server_id]
        for name, poller in self._pollers.items():
            word = _Word(poller.silent_since, poller.silent_word, poller.answered_at)
            if self._worth(word, self._clusters.get(name)):
                await self._book.note_cluster(name, word.silent_since, word.silent_word, word.answered_at)
                self._clusters[name] = word
        if len(self._noted) > self._most:
            pollers = self._pollers.values()
            self._noted = {
                server_id: meaning
                for server_id, meaning in self._noted.items()
                if any(poller.last_good(server_id) for poller in pollers)
            }
            self._most = 2 * len(self._noted) + 1000

    def _worth(self, word: _Word, noted: _Word | None) -> bool:
        if word.silent_since is None and word.answered_at is None:
            return False  # it was not asked yet
        if noted is None or (word.silent_since, word.silent_word) != (noted.silent_since, noted.silent_word):
            return True
        before = noted.answered_at
        return word.answered_at is not None and (before is None or word.answered_at - before >= self._STALE)


def _meaning(seen: Observation) -> object:
    """What of an observation is news for people: not the moment, nor the time left, which runs by itself."""
    report = seen.report
    if report is None:
        return seen.truth
    return (
        seen.truth, report.id, report.state, report.raw_state, report.reason, report.host, report.started, report.estimated_start,
        report.time_limit,
    )  # fmt: skip
