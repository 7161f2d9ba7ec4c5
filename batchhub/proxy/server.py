"""A proxy in one process: traffic and control API on one loop.

Tests and programs of one's own use it; ``batchhub proxy`` has worker processes instead (:mod:`batchhub.proxy.supervisor`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from batchhub.core.errors import ConfigError
from batchhub.core.ports import Answer, Clock
from batchhub.proxy.api import ApiServer
from batchhub.proxy.book import Book, Change
from batchhub.proxy.context import Context, Observer
from batchhub.proxy.control import Calls, default_route, lasting
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.journal import Journal
from batchhub.proxy.listeners import TRAFFIC, Listeners, addresses
from batchhub.proxy.metrics import exposition, own_report
from batchhub.proxy.plane import DataPlane, Offers, Parts
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tokens import TokenChecker
from batchhub.proxy.upstream import Tunnels

log = logging.getLogger(__name__)


class Proxy:
    """Implements :class:`~batchhub.proxy.control.Control`.

    ``tunnels``, ``token_checker`` and ``offers`` are the caller's, who closes them after :meth:`close`.
    """

    def __init__(
        self,
        settings: ProxySettings,
        *,
        tunnels: Tunnels,
        token_checker: TokenChecker,
        clock: Clock,
        offers: Offers | None = None,
        observer: Observer | None = None,
    ) -> None:
        settings.check()
        TrustedProxies(settings.trusted_proxies)
        self.settings = settings
        self.clock = clock
        self.calls = Calls()
        self._parts = Parts(tunnels, token_checker, offers)
        self._observer = observer
        self._listeners = Listeners()
        self._plane: DataPlane | None = None
        self._journal: Journal | None = None
        self._api: ApiServer | None = None
        self._ended = asyncio.Event()
        self.public_port = settings.public_port
        self.api_port = settings.api_port

    async def start(self) -> None:
        """Read the saved routes, then listen. Raises ConfigError when a socket or certificate cannot be used."""
        try:
            await self._start()
        except BaseException as error:
            self._journal = None  # one that never served must not write over another's file
            await self.close()
            if isinstance(error, OSError):
                raise ConfigError(f"The proxy cannot start: {error}.") from error
            raise

    async def _start(self) -> None:
        settings = self.settings
        plane = self._plane = DataPlane(settings, self._parts, self.clock, observer=self._observer)
        self._listeners.open(addresses(settings))
        journal = self._journal = Journal(settings.state_file, plane.book, self.clock)
        journal.load()
        default = default_route(settings, self.clock, plane.book)
        for change in [*plane.book.changes(), *([default] if default else [])]:
            plane.apply(change)
        self._api = ApiServer(self, self._listeners)
        self._api.start()
        self.api_port = self._listeners.port("api")
        self.public_port = self._listeners.port("public")
        await plane.start(*(self._listeners.copies(purpose) for purpose in TRAFFIC))
        plane.context.crew.spawn(journal.keep(), "save routes")
        log.info(
            "The proxy serves port %d with %d routes; control on port %d.",
            self.public_port,
            len(plane.book.routes),
            self.api_port,
        )

    @property
    def context(self) -> Context:
        """What its connections share; there once it is started."""
        return self.plane.context

    @property
    def plane(self) -> DataPlane:
        """What carries its traffic; there once it is started."""
        return cast("DataPlane", self._plane)

    @property
    def listeners(self) -> Listeners:
        """Its sockets."""
        return self._listeners

    async def wait(self) -> None:
        """Until it is closed."""
        await self._ended.wait()

    async def close(self) -> None:
        """Stop listening, end every connection, save the routes."""
        if self._api is not None:
            await self._api.close()
        if self._plane is not None:
            await self._plane.close()
        self._listeners.close()
        if self._journal is not None:
            try:
                await self._journal.flush(whole=True)
            except OSError as error:
                log.error("The proxy's state could not be saved at its end: %s", error)  # noqa: TRY400
        self._ended.set()

    # ------------------------------------------------------------ control

    @property
    def book(self) -> Book:
        """See Control."""
        return self.plane.book

    async def change(self, change: Change) -> None:
        """See Control."""
        self.plane.apply(change)
        journal = cast("Journal", self._journal)
        journal.append(change)
        if lasting(change):
            await journal.flush()

    async def refresh(self) -> None:
        """See Control. The book is the one that traffic is counted in."""

    async def probe(self, fields: Mapping[str, Any], path: str) -> int:
        """See Control."""
        return await self.plane.probe(fields, path)

    async def ask(self, path: str, fields: Mapping[str, Any], question: object) -> Answer:
        """See Control."""
        return await self.plane.ask(path, fields, question)

    async def tunnels(self) -> Sequence[Mapping[str, Any]]:
        """See Control."""
        return self.plane.tunnels()

    async def metrics(self) -> bytes:
        """See Control."""
        return exposition(self.plane.report() + own_report(self))
