"""The control interface: configurable-http-proxy's REST API, with what tunnels and access rules need besides.

======  ========================  =====================================================================================
GET     ``/api/routes[/PATH]``    all routes (``?inactiveSince=``), or one; keys unescaped; a server's secret shows as stars
POST    ``/api/routes[/PATH]``    add or replace: ``target``, and ours: ``tunnel``, ``endpoint``, ``owner``, ``authorization`` …: 201
DELETE  ``/api/routes/PATH``      204, or 404
POST    ``/api/probe``            the same fields and ``probe``: a path; 200 ``{"status": N}`` or 503 ``{"message": …}``
POST    ``/api/revocations``      ``{"session": ID}``: its tickets are dead and its connections closed at once; 204 when on disk
GET     ``/api/tunnels``          the state of each tunnel
======  ========================  =====================================================================================

Each request needs ``Authorization: token T``, with a lower-case ``token``, else 403. There is no open mode.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from tornado import web

from batchhub.core.errors import BadInput, HubError, TunnelError
from batchhub.proxy.book import read_route, read_stamp
from batchhub.proxy.context import Context
from batchhub.proxy.probe import probe

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
PROBE_DEADLINE = 8.0  # seconds; the client's own deadline is 10


class _Handler(web.RequestHandler):
    """Checks the token; answers our errors as JSON."""

    context: Context

    def initialize(self, context: Context) -> None:
        self.context = context

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def prepare(self) -> None:
        given = self.request.headers.get_list("Authorization")
        wanted = f"token {self.context.settings.token}".encode()
        if len(given) != 1 or not hmac.compare_digest(given[0].encode("latin-1"), wanted):
            self.set_status(403)
            self.finish()

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
    def get(self, raw: str | None) -> None:
        book = self.context.book
        path = self.route_path(raw)
        if path != "/":
            route = book.routes.get(path)
            if route is None:
                raise web.HTTPError(404)
            self.finish(route.public())
            return
        since = self.get_query_argument("inactiveSince", None) or self.get_query_argument("inactive_since", None)
        chosen = book.idle_since(read_stamp(since) if since else None)
        self.finish({key: route.public() for key, route in chosen})

    def post(self, raw: str | None) -> None:
        self.context.book.add(read_route(self.route_path(raw), self.body(), self.context.clock()))
        self.set_status(201)

    def delete(self, raw: str | None) -> None:
        if not self.context.book.delete(self.route_path(raw)):
            raise web.HTTPError(404)
        self.set_status(204)


class _Probe(_Handler):
    async def post(self) -> None:
        content = dict(self.body())
        path = content.pop("probe", None)
        if not isinstance(path, str):
            raise BadInput("probe: a path is expected.")
        context = self.context
        route = read_route("/", content, context.clock())
        limit = context.settings.limits.head_bytes
        try:
            status = await probe(context.opener, context.pool, route, path, deadline=PROBE_DEADLINE, head_limit=limit)
        except TunnelError as error:
            self.set_status(503)
            self.finish({"status": 503, "message": str(error)})
            return
        self.finish({"status": status})


class _Revocations(_Handler):
    async def post(self) -> None:
        session = self.body().get("session")
        if not isinstance(session, str):
            raise BadInput("session: a text is expected.")
        context = self.context
        context.book.revoke(session, context.clock() + context.settings.ticket_life)
        context.cut(session)
        try:
            await context.book.flush()
        except OSError as error:
            log.error("A revocation could not be saved: %s", error)  # noqa: TRY400
            raise web.HTTPError(500, reason="The revocation holds now but could not be saved.") from error
        self.set_status(204)


class _Tunnels(_Handler):
    def get(self) -> None:
        tunnels = self.context.opener.tunnels.items()
        shown = [
            {"cluster": cluster, "kind": kind, "state": dict(tunnel.state())} for (cluster, kind), tunnel in tunnels
        ]
        self.finish({"tunnels": shown})


class _Nothing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            raise web.HTTPError(404)


def application(context: Context) -> web.Application:
    """The API as a tornado application."""
    own: dict[str, Any] = {"context": context}
    return web.Application(
        [
            (r"/api/routes(/.*)?", _Routes, own),
            (r"/api/probe/?", _Probe, own),
            (r"/api/revocations/?", _Revocations, own),
            (r"/api/tunnels/?", _Tunnels, own),
        ],
        default_handler_class=_Nothing,
        default_handler_args=own,
        log_function=_log,
    )


def _log(handler: web.RequestHandler) -> None:
    log.debug("%d %s %s", handler.get_status(), handler.request.method, handler.request.path)
