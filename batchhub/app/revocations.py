"""The hub's word to the proxy about what has ended: sessions and API tokens.

The proxy is told at once. If it does not answer, it is told of everything that could matter until it has heard: that is read from the
database, where an ended session stays until its tickets are dead by themselves, so a hub that was restarted meanwhile knows it too.
A hub tells all of it once at its start, and every hour, for a proxy that lost its memory. Of an ended token only the hub that ended it
knows; a proxy that missed the word finds it out by its own questions, within seconds for requests and minutes for open connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from batchhub.core.errors import HubError, Unreachable
from batchhub.core.ports import Clock, Routes

log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds between two tries to tell a proxy that does not answer."""
HOURLY = 3600.0


class EndedSessions(Protocol):
    """What is needed of the store."""

    def ended_sessions(self, now: datetime) -> Awaitable[Mapping[str, datetime]]:
        """The revoked sessions whose latest end is still to come: id -> that end. Raises StoreUnavailable."""


class Revocations:
    """See the module. :meth:`keep` is to be run as a task."""

    def __init__(
        self, store: EndedSessions, routes: Routes, clock: Clock, *, again: float = AGAIN, hourly: float = HOURLY
    ) -> None:
        self._store = store
        self._routes = routes
        self._clock = clock
        self._again = again
        self._hourly = hourly
        self._tokens: set[str] = set()
        self._behind = asyncio.Event()

    async def sessions_ended(self, ids: Sequence[str]) -> None:
        """Tell the proxy. The database knows already."""
        try:
            for session in ids:
                await self._routes.revoke(session)
        except Unreachable as error:
            log.warning("The proxy is told of ended sessions later: %s", error)
            self._behind.set()

    async def tokens_ended(self, digests: Sequence[str]) -> None:
        """The same for tokens, by their hashes."""
        self._tokens.update(digests)
        try:
            await self._tell_tokens()
        except Unreachable as error:
            log.warning("The proxy is told of ended tokens later: %s", error)
            self._behind.set()

    async def keep(self) -> None:
        """Tell the proxy what it may not have heard, until cancelled."""
        while True:
            self._behind.clear()
            try:
                await self._routes.revoke_all(await self._store.ended_sessions(self._clock()))
                await self._tell_tokens()
            except HubError as error:
                log.info("The proxy could not be told yet what has ended: %s", error)
                await asyncio.sleep(self._again)
                continue
            try:
                async with asyncio.timeout(self._hourly):
                    await self._behind.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(self._again)

    async def _tell_tokens(self) -> None:
        for digest in list(self._tokens):
            await self._routes.revoke_token(digest)
            self._tokens.discard(digest)
