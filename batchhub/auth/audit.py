"""The audit trail: each deed is a line of JSON in the log at once, and a row in the database soon after.

Nobody waits for it. A sign-in needs the database itself, so it fails where that is away; a database that is merely slow delays no page for the
trail's sake. Rows wait in memory, a bounded number of them, and are written in batches. What a hub that dies, or a full memory, loses is in
the log, which is the record to keep elsewhere (syslog, a SIEM).

Rows are thinned where strangers, or people about themselves, could make them without end: of many refused sign-ins a few are kept, and one
row a minute says how many more there were. The log has every one. What admins do to others and what the hub does is never thinned.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Protocol

from batchhub.auth.throttle import Buckets, Rate
from batchhub.core.deeds import Deed, DeedKind, as_json, deed
from batchhub.core.errors import HubError
from batchhub.core.ports import Clock

lines = logging.getLogger("batchhub.audit")
log = logging.getLogger(__name__)

BATCH = 200
REFUSED = Rate(100, 10.0)
OWN = Rate(60, 30.0)


class DeedStore(Protocol):
    """What is needed of the database."""

    def add(self, deeds: Sequence[Deed]) -> Awaitable[None]:
        """All of them, or none. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """``refused``: rows of refused sign-ins, of everybody together; ``own``: of one person's deeds about themselves.

    ``waiting`` bounds the rows in memory. ``every``: seconds between two summaries; ``again``: until a database that did not answer is tried
    anew; ``patience``: that the end of the hub waits for the last rows.
    """

    refused: Rate = REFUSED
    own: Rate = OWN
    waiting: int = 5000
    every: float = 60.0
    again: float = 5.0
    patience: float = 5.0


_MOST_DIFFERENT = 1000


@dataclass(slots=True)
class _Rest:
    """Deeds of one kind without a row of their own."""

    since: datetime
    count: int = 0
    users: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)

    def add(self, done: Deed) -> None:
        self.count += 1
        for held, text in ((self.users, done.user), (self.addresses, done.address)):
            if len(held) < _MOST_DIFFERENT:
                held.add(text)

    def words(self) -> str:
        return (
            f"and {self.count} more since {self.since:%H:%M:%S} UTC, of {_many(self.users, 'name')}, "
            f"from {_many(self.addresses, 'address', 'es')}; each is in the log"
        )


class Thinning:
    """Which deeds get a row. Pure; a deed's own time counts."""

    def __init__(self, settings: AuditSettings) -> None:
        self._refused = Buckets(settings.refused, 1)
        self._own = Buckets(settings.own, 10_000)
        self._rest: dict[str, _Rest] = {}

    def admit(self, done: Deed) -> bool:
        """Whether it gets one; if not it is counted."""
        if done.kind == DeedKind.REFUSED:
            buckets, key = self._refused, b""
        elif done.by and done.by == done.user:
            buckets, key = self._own, blake2b(done.user.encode("utf-8", "replace"), digest_size=16).digest()
        else:
            return True
        if buckets.wait(key, done.at) > 0:
            self._rest.setdefault(done.kind, _Rest(done.at)).add(done)
            return False
        buckets.take(key, done.at)
        return True

    def summaries(self, now: datetime) -> list[Deed]:
        """One for each kind of which some got no row since last time."""
        rest, self._rest = self._rest, {}
        return [Deed(now, kind, by="hub", words=one.words()) for kind, one in rest.items()]


class AuditTrail:
    """See the module. :meth:`keep` is to be run as a task, and :meth:`close` awaited before that is cancelled."""

    def __init__(self, store: DeedStore, clock: Clock, settings: AuditSettings | None = None) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings or AuditSettings()
        self._thinning = Thinning(self._settings)
        self._waiting: list[Deed] = []
        self._lost = 0
        self._wake = asyncio.Event()
        self._over = asyncio.Event()
        self._over.set()
        self._closing = False

    def note(
        self, kind: DeedKind, user: str = "", *, by: str | None = None, address: str = "", words: str = ""
    ) -> None:
        """It was done: ``by`` whom (``None``: by ``user``), to ``user``, asked from ``address``. Texts are bounded and escaped here."""
        done = deed(self._clock(), kind, user, by=by, address=address, words=words)
        write_line(done)
        if self._thinning.admit(done):
            self._put(done)

    async def keep(self) -> None:
        """Write the rows, until cancelled or closed."""
        self._over.clear()
        summed = self._clock()
        try:
            while True:
                if self._closing or (self._clock() - summed).total_seconds() >= self._settings.every:
                    self._summarise()
                    summed = self._clock()
                await self._write_all()
                if self._closing:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.every):
                        await self._wake.wait()
        finally:
            self._over.set()

    async def close(self) -> None:
        """Have the last rows written, if the database takes them."""
        self._closing = True
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.patience):
                await self._over.wait()

    def _put(self, done: Deed) -> None:
        if len(self._waiting) >= self._settings.waiting:
            self._lost += 1
            return
        self._waiting.append(done)
        self._wake.set()

    def _summarise(self) -> None:
        for summary in self._thinning.summaries(self._clock()):
            self._put(summary)
        if self._lost and len(self._waiting) < self._settings.waiting:
            words = f"{self._lost} deeds are in the log alone: the database did not take them in time"
            self._lost = 0
            self._put(deed(self._clock(), DeedKind.LEFT_OUT, by="hub", words=words))

    async def _write_all(self) -> None:
        while self._waiting:
            batch = self._waiting[:BATCH]
            try:
                await self._store.add(batch)
            except HubError as error:
                log.warning("The audit trail's rows wait for the database: %s", error)
                if self._closing:
                    return
                await asyncio.sleep(self._settings.again)
                continue
            del self._waiting[: len(batch)]
        self._wake.clear()


def write_line(done: Deed) -> None:
    """The log's line: one JSON object, ASCII."""
    lines.info("%s", json.dumps(as_json(done)))


def _many(held: set[str], one: str, more: str = "s") -> str:
    count = len(held)
    return f"{count}{' or more' if count >= _MOST_DIFFERENT else ''} {one}{'' if count == 1 else more}"
