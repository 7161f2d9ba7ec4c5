"""The proxy put together: listeners, the time-keeper, start and end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import cast

from tornado.httpserver import HTTPServer

from batchhub.core.errors import ConfigError
from batchhub.core.ports import Clock
from batchhub.proxy.access import Tickets
from batchhub.proxy.api import MAX_BODY, application
from batchhub.proxy.book import Book, read_route
from batchhub.proxy.context import Context, NullObserver, Observer
from batchhub.proxy.downstream import Downstream
from batchhub.proxy.headers import TrustedProxies
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tasks import Crew
from batchhub.proxy.tokens import TokenCache, TokenChecker
from batchhub.proxy.upstream import Opener, Pool, Tunnels

log = logging.getLogger(__name__)


class Proxy:
    """The data plane. ``tunnels`` and ``token_checker`` are the caller's, who closes them after :meth:`close`."""

    def __init__(
        self,
        settings: ProxySettings,
        *,
        tunnels: Tunnels,
        token_checker: TokenChecker,
        clock: Clock,
        observer: Observer | None = None,
    ) -> None:
        settings.check()
        self._settings = settings
        self._trusted = TrustedProxies(settings.trusted_proxies)
        self._tunnels = tunnels
        self._token_checker = token_checker
        self._clock = clock
        self._observer = observer or NullObserver()
        self._context: Context | None = None
        self._server: asyncio.Server | None = None
        self._api: HTTPServer | None = None
        self._ended = asyncio.Event()
        self._serving = False
        self.public_port = settings.public_port
        self.api_port = settings.api_port

    async def start(self) -> None:
        """Read the saved routes, then listen. Raises ConfigError when a socket or certificate cannot be used."""
        settings, loop = self._settings, asyncio.get_running_loop()
        limits = settings.limits
        book = Book(settings.state_file, self._clock)
        context = self._context = Context(
            settings=settings,
            loop=loop,
            clock=self._clock,
            book=book,
            pool=Pool(limits.pool_size, loop),
            opener=Opener(self._tunnels, limits.connect_time),
            tickets=Tickets(settings.ticket_keys),
            tokens=TokenCache(self._token_checker),
            trusted=self._trusted,
            crew=Crew(),
            observer=self._observer,
        )
        try:
            book.load()
            if settings.default_target:
                book.add(read_route("/", {"target": settings.default_target, "hub": True}, self._clock()))
            await self._listen(context)
        except BaseException as error:
            await self.close()
            if isinstance(error, OSError):
                raise ConfigError(f"The proxy cannot start: {error}.") from error
            raise
        self._serving = True
        context.crew.spawn(book.keep(), "save routes")
        context.crew.spawn(self._watch(context), "watch time limits")
        log.info(
            "The proxy serves port %d with %d routes; control on port %d.",
            self.public_port,
            len(book.routes),
            self.api_port,
        )

    async def _listen(self, context: Context) -> None:
        settings = self._settings
        tls = _tls(settings)
        # The control interface first: a second proxy fails on it before it takes a single client.
        family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
        control = socket.create_server((settings.api_host, settings.api_port), family=family, backlog=128)
        control.setblocking(False)
        self._api = HTTPServer(
            application(context), max_body_size=MAX_BODY, idle_connection_timeout=60.0, body_timeout=10.0
        )
        self._api.add_sockets([control])
        self.api_port = int(control.getsockname()[1])
        if settings.public_socket is not None:
            settings.public_socket.unlink(missing_ok=True)
            self._server = await context.loop.create_unix_server(
                lambda: Downstream(context), str(settings.public_socket), ssl=tls, backlog=1024
            )
            return
        self._server = await context.loop.create_server(
            lambda: Downstream(context), settings.public_host or None, settings.public_port, ssl=tls, backlog=1024
        )
        self.public_port = int(self._server.sockets[0].getsockname()[1])

    async def _watch(self, context: Context) -> None:
        """Once each tick, look at every deadline: cheaper than a timer for each request."""
        limits = self._settings.limits
        while True:
            await asyncio.sleep(limits.tick)
            now = context.loop.time()
            for client in [client for client in context.clients if client.deadline and client.deadline <= now]:
                try:
                    client.expire()
                except Exception:  # one connection's fault must not end the watch over all others
                    log.exception("A time limit could not be carried out.")
                    client.abort()
            context.pool.sweep(now - limits.pool_idle)
            context.book.forget_old()

    @property
    def context(self) -> Context:
        """What its connections share; there once it is started."""
        return cast("Context", self._context)

    async def wait(self) -> None:
        """Until it is closed."""
        await self._ended.wait()

    async def close(self) -> None:
        """Stop listening, end every connection, save the routes."""
        context = self._context
        if self._server is not None:
            self._server.close()
        if self._api is not None:
            self._api.stop()
            await self._api.close_all_connections()
        if context is not None:
            for client in list(context.clients):
                client.abort()
            await context.crew.close()
            context.pool.close()
            await asyncio.sleep(0)  # the connections' ends are told in the loop's next turn
        if context is not None and self._serving:  # one that never served must not write over another's file
            try:
                await context.book.flush()
            except OSError as error:
                log.error("The proxy's state could not be saved at its end: %s", error)  # noqa: TRY400
        self._ended.set()


def _tls(settings: ProxySettings) -> ssl.SSLContext | None:
    if settings.certificate is None or settings.key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificate {settings.certificate} with key {settings.key} cannot be used: {error}."
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context
