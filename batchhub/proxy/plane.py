"""The part of a proxy that carries traffic: its connections, the time-keeper, and how it ends without cutting anybody off."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from batchhub.core.model import Endpoint
from batchhub.core.ports import Answer, Clock
from batchhub.proxy.access import Tickets
from batchhub.proxy.accesslog import AccessLog
from batchhub.proxy.allocator import keep_freed_memory
from batchhub.proxy.book import Book, Change, DropOffer, EndSession, EndToken, MakeOffer, read_route
from batchhub.proxy.context import Context, Observer
from batchhub.proxy.counters import Counters, Report, Shown, tunnel_report
from batchhub.proxy.downstream import Downstream, Phase
from batchhub.proxy.errorpages import ErrorSource
from batchhub.proxy.grants import by_token
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.probe import probe
from batchhub.proxy.question import put
from batchhub.proxy.redirect import Redirects
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tasks import Crew
from batchhub.proxy.tls import server_context
from batchhub.proxy.tokens import HubTokens, TokenCache, TokenChecker
from batchhub.proxy.upstream import Opener, Pool, Tunnels

log = logging.getLogger(__name__)

PROBE_DEADLINE = 8.0  # seconds; the client's own deadline is 10
_QUIET = 1.0  # seconds without a request, after which a connection that is kept alive is closed in a drain
_COMPLAIN = 60.0  # seconds between two lines about clients that were turned away


class Offers(Protocol):
    """Where the jobs of reverse tunnels dial in, and who may. Offers are told before the start too, and any of it more than once."""

    def offered(self, offer: str, key: str) -> None:
        """The job that holds the private half of ``key`` (``ssh-ed25519 AAAA…``) may offer its application as ``offer``."""

    def withdrawn(self, offer: str) -> None:
        """It may no longer: what it has open is cut at once."""

    def start(self, sock: socket.socket) -> Awaitable[None]:
        """Serve a socket that listens. Raises ConfigError."""

    def drain(self) -> None:
        """Take no more jobs; send those without a stream elsewhere."""

    @property
    def busy(self) -> bool:
        """Whether any job is connected here."""

    def state(self) -> Mapping[str, str]:
        """The jobs that are connected here; no secret."""

    def counters(self) -> Mapping[str, int]:
        """What became of their connections since the start."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a data plane is made with besides its settings: whoever made them closes them after it."""

    tunnels: Tunnels
    token_checker: TokenChecker
    offers: Offers | None = None


class DataPlane:
    """See the module. ``clients``: how many connections there is room for, where that is fewer than the limit in the settings."""

    def __init__(
        self,
        settings: ProxySettings,
        parts: Parts,
        clock: Clock,
        *,
        observer: Observer | None = None,
        clients: int | None = None,
    ) -> None:
        """Raises ConfigError."""
        limits = settings.limits
        if clients is not None and clients < limits.connections:
            settings = replace(settings, limits=replace(limits, connections=clients))
        self._settings = settings
        self._offers = parts.offers
        self._counters = Counters()
        self._servers: list[asyncio.Server] = []
        self._listening: Sequence[socket.socket] = ()
        self._redirects: Redirects | None = None
        self.book = Book(clock)
        self.drained = asyncio.Event()
        loop = asyncio.get_running_loop()
        pool, opener = Pool(limits.pool_size, loop), Opener(parts.tunnels, limits.connect_time, settings.client_tls)
        self.context = Context(
            settings=settings,
            loop=loop,
            clock=clock,
            book=self.book,
            pool=pool,
            opener=opener,
            tickets=Tickets(settings.ticket_keys),
            tokens=TokenCache(parts.token_checker, self.book.ended_tokens),
            trusted=TrustedProxies(settings.trusted_proxies),
            crew=Crew(),
            observer=observer or self._counters,
            error_pages=ErrorSource(settings.error_pages, opener, pool),
            access_log=AccessLog(loop, clock) if settings.access_log else None,
        )

        if isinstance(parts.token_checker, HubTokens):
            parts.token_checker.follow(self._leading_hub)

    def _leading_hub(self) -> Endpoint | None:
        default = self.book.routes.get("/")
        return default.target.endpoint if default is not None and default.data.get("led") is True else None

    # ------------------------------------------------------------ start and end

    async def start(
        self,
        public: Sequence[socket.socket],
        redirect: Sequence[socket.socket] = (),
        dial_in: Sequence[socket.socket] = (),
    ) -> None:
        """Take clients, and jobs, from these listening sockets, which are then ours. Raises ConfigError."""
        keep_freed_memory()
        self._listening = public
        if self._offers is not None and dial_in:
            await self._offers.start(dial_in[0])
        await self._serve()
        if self._settings.redirect is not None:
            self._redirects = Redirects(self._settings.redirect)
            await self._redirects.start(redirect)
        self.context.crew.spawn(self._watch(), "watch time limits")

    async def _serve(self) -> None:
        """Servers on copies of the sockets, with the certificate as it is in its file now; then those before are closed."""
        settings, context = self._settings, self.context
        tls = server_context(settings.tls) if settings.tls is not None else None
        former = self._servers
        self._servers = []
        for each in self._listening:
            make = context.loop.create_unix_server if each.family == socket.AF_UNIX else context.loop.create_server
            copy, patience = each.dup(), settings.limits.head_time if tls is not None else None
            self._servers.append(
                await make(
                    lambda: Downstream(context), sock=copy, ssl=tls, ssl_handshake_timeout=patience, backlog=1024
                )
            )
        for server in former:
            server.close()

    async def reload_certificate(self) -> None:
        """New connections get the certificate as it is in its file now. Raises ConfigError, and all stays as it was."""
        if self._settings.tls is not None and not self.context.draining:
            await self._serve()

    def drain(self, patience: timedelta) -> None:
        """Take no new client, let each request end, keep what is open; ``drained`` is set when nothing is left.

        After ``patience`` (0: never) what is left is cut.
        """
        if self.context.draining:
            return
        self.context.draining = True
        self._listen_no_more()
        if self._offers is not None:
            self._offers.drain()
        self.context.crew.spawn(self._drain(patience.total_seconds()), "drain")

    async def _drain(self, seconds: float) -> None:
        loop = self.context.loop
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds or None):
                await asyncio.sleep(_QUIET)  # whoever was accepted last may still be shaking hands over TLS
                while self.context.clients or (self._offers is not None and self._offers.busy):
                    for client in list(self.context.clients):
                        client.retire(loop.time() - _QUIET)
                    await asyncio.sleep(min(self._settings.limits.tick, 0.25))
        for client in list(self.context.clients):
            client.abort()
        self.drained.set()

    def _listen_no_more(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []
        for each in self._listening:
            each.close()
        self._listening = ()
        if self._redirects is not None:
            self._redirects.stop()

    async def close(self) -> None:
        """End every connection."""
        self._listen_no_more()
        for client in list(self.context.clients):
            client.abort()
        if self._redirects is not None:
            self._redirects.close()
        await self.context.crew.close()
        self.context.pool.close()
        await asyncio.sleep(0)  # the connections' ends are told in the loop's next turn
        if self.context.access_log is not None:
            self.context.access_log.close()

    async def _watch(self) -> None:
        """Once each tick, look at every deadline: cheaper than a timer for each request."""
        context, limits = self.context, self._settings.limits
        away, complained = 0, -_COMPLAIN
        while True:
            await asyncio.sleep(limits.tick)
            now = context.loop.time()
            for client in [client for client in context.clients if client.deadline and client.deadline <= now]:
                try:
                    client.expire()
                except Exception:  # one connection's fault must not end the watch over all others
                    log.exception("A time limit could not be carried out.")
                    client.abort()
            idle = len(context.pool)
            crowded = idle > 2 * (limits.connections - len(context.clients))  # their files are needed for clients
            context.pool.sweep(float("inf") if crowded else now - limits.pool_idle)
            self.book.forget_old()
            context.review()
            if self._counters.away > away and now - complained >= _COMPLAIN:
                log.warning(
                    "%d clients were turned away: %d connections are open, more are not allowed here.",
                    self._counters.away - away,
                    len(context.clients),
                )
                away, complained = self._counters.away, now

    # ------------------------------------------------------------ control

    def apply(self, change: Change) -> None:
        """Carry out a change of the book, and what follows from it for open connections."""
        self.book.apply(change)
        match change:
            case EndSession(session, _):
                self.context.grants.cut(session)
            case EndToken(digest, _):
                self.context.grants.cut(by_token(digest))
            case MakeOffer(offer, public_key) if self._offers is not None:
                self._offers.offered(offer, public_key)
            case DropOffer(offer) if self._offers is not None:
                self._offers.withdrawn(offer)
            case _:
                pass

    async def probe(self, fields: Mapping[str, Any], path: str) -> int:
        """See :class:`~batchhub.proxy.control.Control`."""
        context = self.context
        route = read_route("/", fields, context.clock())
        limit = context.settings.limits.head_bytes
        return await probe(context.opener, context.pool, route, path, deadline=PROBE_DEADLINE, head_limit=limit)

    async def ask(self, path: str, fields: Mapping[str, Any], question: object) -> Answer:
        """See :class:`~batchhub.proxy.control.Control`."""
        context = self.context
        route = read_route(path, fields, context.clock())
        return await put(context.opener, context.pool, route, question, head_limit=context.settings.limits.head_bytes)

    def tunnels(self) -> list[dict[str, Any]]:
        """See Control."""
        return [
            {"cluster": cluster, "kind": kind, "state": dict(shown.state())} for (cluster, kind), shown in self._shown()
        ]

    def _shown(self) -> list[tuple[tuple[str, str], Shown]]:
        """The tunnels of each cluster, and the jobs' connections, which are of no cluster and so counted once."""
        found: list[tuple[tuple[str, str], Shown]] = list(self.context.opener.tunnels.items())
        return found if self._offers is None else [*found, (("", "reverse"), self._offers)]

    def report(self) -> Report:
        """What was counted, and how things stand."""
        phases = [client.phase for client in self.context.clients]
        levels = {
            "clients": len(phases),
            "websockets": phases.count(Phase.RAW),
            "in_flight": phases.count(Phase.BODY) + phases.count(Phase.ANSWER),
            "idle_upstreams": len(self.context.pool),
        }
        return Report(self._counters.counts(), levels) + tunnel_report(self._shown())
