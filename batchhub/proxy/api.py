"""The control interface: configurable-http-proxy's REST API, with what tunnels and access rules need besides.

======  ========================  =====================================================================================
GET     ``/api/routes[/PATH]``    all routes (``?inactiveSince=``), or one; keys unescaped; a server's secret shows as stars
POST    ``/api/routes[/PATH]``    add or replace: ``target``, and ours: ``tunnel``, ``endpoint``, ``owner``, ``authorization`` …: 201
DELETE  ``/api/routes/PATH``      204, or 404
POST    ``/api/probe``            the same fields and ``probe``: a path; 200 ``{"status": N}`` or 503 ``{"message": …}``
POST    ``/api/ask``              the same fields, ``path`` (the route's), and ``ask``: ``{"path", "method", "deadline"}``, a GET or POST without a
                                  body below that path; 200 ``{"status": N, "body": BASE64}`` (0: no answer in time) or 503
POST    ``/api/revocations``      ``{"session": ID}``: its tickets are dead and its connections closed at once; 204 when on disk.
                                  ``{"token": SHA256}``: the same for an API token, by its hash in hexadecimal.
                                  ``{"sessions": {ID: UNTIL, …}}``: many sessions, and until when each is to be remembered
POST    ``/api/offers/ID``        ``{"key": "ssh-ed25519 …"}``: a job with this key may offer its application as ID: 201
DELETE  ``/api/offers/ID``        204, or 404; its connection is cut
GET     ``/api/offers``           all of them
GET     ``/api/tunnels``          the state of each tunnel
GET     ``/api/metrics``          counters for Prometheus
======  ========================  =====================================================================================

Each request needs ``Authorization: token T``, with a lower-case ``token``, else 403. There is no open mode.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

from tornado import web
from tornado.httpserver import HTTPServer

from batchhub.core.errors import BadInput, HubError, TunnelError
from batchhub.core.routes import route_key
from batchhub.proxy.book import (
    AddRoute,
    Change,
    DropOffer,
    DropRoute,
    end_session,
    end_token,
    make_offer,
    read_ends,
    read_route,
    read_stamp,
)
from batchhub.proxy.control import Control
from batchhub.proxy.listeners import Listeners
from batchhub.proxy.metrics import CONTENT_TYPE
from batchhub.proxy.tls import server_context

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
REMEMBERED = timedelta(minutes=5)
"""So long the end of a token is remembered: longer than any answer of the hub about it may be under way or in a cache."""


class _Handler(web.RequestHandler):
    """Checks the token; answers our errors as JSON."""

    control: Control

    def initialize(self, control: Control) -> None:
        self.control = control

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def prepare(self) -> None:
        self.control.calls.open += 1
        given = self.request.headers.get_list("Authorization")
        wanted = f"token {self.control.settings.token}".encode()
        if len(given) != 1 or not hmac.compare_digest(given[0].encode("latin-1"), wanted):
            self.set_status(403)
            self.control.calls.wrong(self.request.remote_ip or "a Unix socket", self.request.path)
            self.finish({"status": 403, "message": "The token is missing, or it is not the proxy's."})

    def check_xsrf_cookie(self) -> None:
        """Tokens come in a header that no foreign page can set."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, HubError):
            self.set_status(error.status)
            self.finish({"status": error.status, "message": str(error)})
        else:
            self.finish({"status": status_code, "message": self._reason})

    def log_exception(self, *args: Any) -> None:
        if not isinstance(args[1], HubError):
            super().log_exception(*args)

    async def change(self, change: Change) -> None:
        """Carry it out. Raises HTTPError if it holds now but would not survive a restart."""
        self.control.calls.changes[type(change).__name__] += 1
        try:
            await self.control.change(change)
        except OSError as error:
            log.error("A change could not be saved: %s", error)  # noqa: TRY400
            raise web.HTTPError(500, reason="The change holds now but could not be saved.") from error

    def on_finish(self) -> None:
        self.control.calls.open -= 1
        self.control.calls.answers[self.get_status()] += 1

    def body(self) -> Mapping[str, Any]:
        """The JSON object that was sent. Raises BadInput."""
        try:
            content = json.loads(self.request.body)
        except ValueError as error:
            raise BadInput("The body is not JSON.") from error
        if not isinstance(content, dict):
            raise BadInput("The body must be a JSON object.")
        return content

    def route_path(self, raw: str | None) -> str:
        """The path behind ``/api/routes``, unescaped. Raises BadInput."""
        try:
            path = unquote_to_bytes(raw or "/").decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInput("The route's path is not UTF-8.") from error
        if len(path) > 2048 or any(char < " " for char in path):
            raise BadInput("The route's path is too long or holds a control character.")
        return path


class _Routes(_Handler):
    async def get(self, raw: str | None) -> None:
        control = self.control
        path = self.route_path(raw)
        control.calls.lists += 1
        await control.refresh()
        if path != "/":
            route = control.book.routes.get(path)
            if route is None:
                raise web.HTTPError(404)
            self.finish(route.public())
            return
        since = self.get_query_argument("inactiveSince", None) or self.get_query_argument("inactive_since", None)
        chosen = control.book.idle_since(read_stamp(since) if since else None)
        self.finish({key: route.public() for key, route in chosen})

    async def post(self, raw: str | None) -> None:
        fields = self.body()
        if self.control.settings.standalone and fields.get("owner"):
            raise BadInput("owner: this proxy stands alone. Every route is open; it cannot tell who somebody is.")
        await self.change(AddRoute(read_route(self.route_path(raw), fields, self.control.clock())))
        self.set_status(201)

    async def delete(self, raw: str | None) -> None:
        path = self.route_path(raw)
        if self.control.book.routes.get(path) is None:
            raise web.HTTPError(404)
        await self.change(DropRoute(route_key(path)))
        self.set_status(204)


class _Probe(_Handler):
    async def post(self) -> None:
        content = dict(self.body())
        path = content.pop("probe", None)
        if not isinstance(path, str):
            raise BadInput("probe: a path is expected.")
        try:
            status = await self.control.probe(content, path)
        except TunnelError as error:
            self.set_status(503)
            self.finish({"status": 503, "message": str(error)})
            return
        self.finish({"status": status})


class _Ask(_Handler):
    async def post(self) -> None:
        content = dict(self.body())
        question, path = content.pop("ask", None), content.pop("path", None)
        if not isinstance(path, str):
            raise BadInput("path: the route's own path is expected.")
        try:
            answer = await self.control.ask(self.route_path(path), content, question)
        except TunnelError as error:
            self.set_status(503)
            self.finish({"status": 503, "message": str(error)})
            return
        self.finish({"status": answer.status, "body": b64encode(answer.body).decode("ascii")})


class _Revocations(_Handler):
    async def post(self) -> None:
        content, now = self.body(), self.control.clock()
        if "token" in content:
            await self.change(end_token(content["token"], now + REMEMBERED))
        elif "sessions" in content:
            known = self.control.book.revoked
            ends = [end for end in read_ends(content["sessions"]) if known.get(end.session, now) < end.until]
            await asyncio.gather(*(self.change(end) for end in ends))  # one write to the disk for all
        else:
            await self.change(end_session(content.get("session"), now + self.control.settings.ticket_life))
        self.set_status(204)


class _Offers(_Handler):
    def get(self) -> None:
        self.finish({"offers": dict(self.control.book.offers)})


class _Offer(_Handler):
    async def post(self, raw: str) -> None:
        await self.change(make_offer(raw, self.body().get("key")))
        self.set_status(201)

    async def delete(self, raw: str) -> None:
        if raw not in self.control.book.offers:
            raise web.HTTPError(404)
        await self.change(DropOffer(raw))
        self.set_status(204)


class _Tunnels(_Handler):
    async def get(self) -> None:
        self.finish({"tunnels": list(await self.control.tunnels())})


class _Metrics(_Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(await self.control.metrics())


class _Nothing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            raise web.HTTPError(404)


def application(control: Control) -> web.Application:
    """The API as a tornado application."""
    own: dict[str, Any] = {"control": control}
    return web.Application(
        [
            (r"/api/routes(/.*)?", _Routes, own),
            (r"/api/probe/?", _Probe, own),
            (r"/api/ask/?", _Ask, own),
            (r"/api/revocations/?", _Revocations, own),
            (r"/api/offers/?", _Offers, own),
            (r"/api/offers/([^/]+)", _Offer, own),
            (r"/api/tunnels/?", _Tunnels, own),
            (r"/api/metrics/?", _Metrics, own),
        ],
        default_handler_class=_Nothing,
        default_handler_args=own,
        log_function=_log,
    )


def _log(handler: web.RequestHandler) -> None:
    log.debug("%d %s %s", handler.get_status(), handler.request.method, handler.request.path)


class _OpenMetrics(web.RequestHandler):
    """``/metrics`` on a listener of its own, where everybody who reaches it may ask, as with configurable-http-proxy."""

    def initialize(self, control: Control) -> None:
        self._control = control

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    async def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(await self._control.metrics())


class ApiServer:
    """The control API, and the metrics if they have sockets of their own, on copies of the listening sockets."""

    def __init__(self, control: Control, listeners: Listeners) -> None:
        self._control = control
        self._listeners = listeners
        self._servers: list[HTTPServer] = []

    def start(self) -> None:
        """Answer; called again, with the certificate as it is in its file now. Raises ConfigError for one that cannot be used."""
        tls = self._control.settings.api_tls
        secure = server_context(tls) if tls is not None else None
        former, self._servers = self._servers, []
        self._serve("api", application(self._control), secure)
        metrics = web.Application([(r"/metrics/?", _OpenMetrics, {"control": self._control})], log_function=_log)
        self._serve("metrics", metrics, None)
        for server in former:
            server.stop()

    def _serve(self, purpose: str, answers: web.Application, secure: ssl.SSLContext | None) -> None:
        server = HTTPServer(
            answers, max_body_size=MAX_BODY, idle_connection_timeout=60.0, body_timeout=10.0, ssl_options=secure
        )
        server.add_sockets(self._listeners.copies(purpose))
        self._servers.append(server)

    async def finish(self, seconds: float) -> None:
        """Answer what was asked, within this time, and take nothing new: whoever comes waits in the socket's queue. :meth:`start` goes on."""
        calls = self._control.calls
        for server in self._servers:
            server.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while calls.open:  # noqa: ASYNC110 - once in a reload; an event would cost every call
                    await asyncio.sleep(0.01)
        await self.close()

    async def close(self) -> None:
        """End."""
        for server in self._servers:
            server.stop()
            await server.close_all_connections()
        self._servers = []
