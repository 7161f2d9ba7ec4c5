"""What all connections of one proxy share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from batchhub.core.ports import Clock
from batchhub.proxy.access import Tickets
from batchhub.proxy.book import Book
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tasks import Crew
from batchhub.proxy.tokens import TokenCache
from batchhub.proxy.upstream import Opener, Pool

if TYPE_CHECKING:
    from batchhub.proxy.downstream import Downstream
    from batchhub.proxy.exchange import Exchange


class Observer(Protocol):
    """Counts. All methods are called on the hot path and must be cheap."""

    def request(self, status: int, seconds: float, size: int) -> None:
        """A request was answered; ``size`` is the body's bytes sent to the client."""

    def websockets(self, change: int) -> None:
        """One more or one fewer upgraded connection is open."""


class NullObserver:
    """Counts nothing."""

    def request(self, status: int, seconds: float, size: int) -> None:
        """Nothing."""

    def websockets(self, change: int) -> None:
        """Nothing."""


@dataclass(slots=True)
class Context:
    """The collaborators of every connection, and the sets of what is open."""

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
    clients: set[Downstream] = field(default_factory=set)
    sessions: dict[str, set[Exchange]] = field(default_factory=dict)

    def join(self, session: str, exchange: Exchange) -> None:
        """An exchange passed by this session's ticket."""
        self.sessions.setdefault(session, set()).add(exchange)

    def leave(self, session: str, exchange: Exchange) -> None:
        """It is over."""
        members = self.sessions.get(session)
        if members is not None:
            members.discard(exchange)
            if not members:
                del self.sessions[session]

    def cut(self, session: str) -> None:
        """Close every connection this session's ticket opened."""
        for exchange in list(self.sessions.get(session, ())):
            exchange.cut()
