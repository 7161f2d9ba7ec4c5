"""What all connections of one proxy share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from batchhub.core.ports import Clock
from batchhub.proxy.access import Tickets
from batchhub.proxy.accesslog import AccessLog
from batchhub.proxy.book import Book
from batchhub.proxy.errorpages import ErrorSource
from batchhub.proxy.grants import Grants
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tasks import Crew
from batchhub.proxy.tokens import TokenCache
from batchhub.proxy.upstream import Opener, Pool

if TYPE_CHECKING:
    from batchhub.proxy.downstream import Downstream


class Observer(Protocol):
    """Counts. All methods are called on the hot path and must be cheap."""

    def request(self, method: bytes, status: int, seconds: float, sent: int, received: int) -> None:
        """A request was answered (101: its raw stream ended); ``sent`` to and ``received`` from the client are the body's bytes."""

    def decided(self, kind: type[object]) -> None:
        """The access check said this, a :data:`~batchhub.proxy.access.Decision`, or the entry to a host did."""

    def turned_away(self) -> None:
        """A client came while there was no place for it."""


@dataclass(slots=True)
class Context:
    """The collaborators of every connection, and the sets of what is open. ``draining``: every answer ends its connection."""

    settings: ProxySettings
    loop: asyncio.AbstractEventLoop
    clock: Clock
    book: Book
    pool: Pool
    opener: Opener
    tickets: Tickets
    tokens: TokenCache
    trusted: TrustedProxies
    crew: Crew
    observer: Observer
    error_pages: ErrorSource
    access_log: AccessLog | None = None
    clients: set[Downstream] = field(default_factory=set)
    grants: Grants = field(default_factory=Grants)
    draining: bool = False
    now: datetime = field(init=False)

    def __post_init__(self) -> None:
        """``now`` is the time of the last tick: good enough for a route's last activity, and at no cost for each message."""
        self.now = self.clock()

    def review(self) -> None:
        """Close what has outlived its right, and ask the hub again about tokens by which something is open; once each tick."""
        self.now = self.clock()
        for right in self.grants.review(self.now):
            self.crew.spawn(self.grants.ask_again(right, self._ask_again), "ask again about a token")

    async def _ask_again(self, token: str, path: str) -> str | None:
        return await self.tokens.user(token, path, self.clock())
