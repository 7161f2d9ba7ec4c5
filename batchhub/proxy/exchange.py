"""One request and its answer: find the route, ask who it is, get a connection, and pass bytes both ways at the slower side's pace."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from batchhub.core.errors import BadInput, TunnelError, Unreachable
from batchhub.core.hosts import ENTER
from batchhub.core.routes import canonical_path
from batchhub.proxy import errorpages, pages
from batchhub.proxy.access import Allow, AskHub, Decision, shut_out
from batchhub.proxy.book import Route
from batchhub.proxy.context import Context
from batchhub.proxy.doorway import FormReader, Spoken, at_the_door, spoken
from batchhub.proxy.forward import host_segment, redirected
from batchhub.proxy.framing import LAST_CHUNK, chunk
from batchhub.proxy.gate import decide
from batchhub.proxy.grants import Bearer
from batchhub.proxy.headers import asker, connection_line, last_chunk, response_lines
from batchhub.proxy.outgoing import outgoing
from batchhub.proxy.relay import Shortcut
from batchhub.proxy.upstream import Upstream
from batchhub.proxy.wire import CHUNKED, UNTIL_CLOSE, Refused, RequestHead, ResponseHead

if TYPE_CHECKING:
    from batchhub.proxy.downstream import Downstream

log = logging.getLogger(__name__)

HEALTH = "/_chp_healthz"
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Stage:
    """How far the answer is. Plain numbers: CPython 3.11 takes 0.2 µs to look up a member of an enum, and a request does so 30 times."""

    ASKING: Final = 0
    """Nobody answered yet: an error can still be told."""
    ANSWERING: Final = 1
    """The client got an answer's head, or will with the next bytes."""
    RAW: Final = 2
    """Bytes are passed as they come."""
    OVER: Final = 3


class Exchange:
    """See the module. The client's connection feeds it the request; the application's, as its consumer, the answer."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_client",
        "_context",
        "_ends",
        "_form",
        "_head",
        "_head_out",
        "_last",
        "_path",
        "_pending",
        "_renew",
        "_request_done",
        "_request_out",
        "_right",
        "_route",
        "_shortcut",
        "_size",
        "_status",
        "_taken",
        "_trailers",
        "_up",
        "_user",
        "stage",
    )

    def __init__(self, context: Context, client: Downstream, head: RequestHead) -> None:
        self.stage: int = Stage.ASKING
        self._context = context
        self._client = client
        self._head = head
        self._begun = context.loop.time()
        self._path = ""
        self._route: Route | None = None
        self._up: Upstream | None = None
        self._user = self._right = ""
        self._form: FormReader | None = None
        self._renew: str | None = None
        self._request_out = self._head_out = b""
        self._pending: list[bytes] = []
        self._shortcut: Shortcut | None = None
        self._request_done = head.length == 0
        self._trailers: ResponseHead | None = None
        self._chunked = self._last = False
        self._size = self._taken = self._status = self._ends = 0

    # ------------------------------------------------------------ the way in

    def begin(self) -> None:
        """Find out where to, and whether."""
        try:
            path = canonical_path(self._head.path)
        except BadInput as error:
            self.refuse(400, str(error))
            return
        self._path = path.text
        if path.text == HEALTH:
            self._reply(200, pages.whole(200, "application/json", b'{"status":"OK"}', self._head, close=self._closing))
            return
        if path.text == ENTER and self._context.settings.origin is not None:
            self._form = at_the_door(self._context, self._head, self._client.peer, self._say)
            return
        segments = path.segments
        if self._context.settings.forwarding.host_routing:
            segments = (host_segment(self._head.host), *segments)
        match = self._context.book.routes.match(segments)
        if match is None:
            self.refuse(404, "No server or page has this address.")
            return
        route = self._route = match[1]
        if route.rule.owner or self._context.settings.origin is not None:
            facts = self._client.habit.facts(self._head, self._client.peer, self._path)
            self._follow(decide(self._context, facts, route.rule))
        else:
            self._connect(route)

    def _say(self, answer: Spoken) -> None:
        """Answer without an application."""
        if self.stage == Stage.ASKING:
            secure = self._context.settings.secure_cookies
            self._reply(*spoken(answer, self._head, close=self._closing, secure=secure))

    def _follow(self, decision: Decision) -> None:
        route = self._route
        if route is None:
            return
        self._context.observer.decided(type(decision))
        match decision:
            case Allow():
                self._user, self._renew = decision.user, decision.renew
                if decision.session:
                    self._right = decision.session
                    self._context.grants.join(decision.session, self, decision.until)
                self._connect(route)
            case AskHub():
                known, user = self._context.tokens.cached(decision.token, route.path, self._context.clock())
                if known:
                    self._token_answer(route, decision.token, user)
                else:
                    self._context.crew.spawn(self._ask(route, decision.token), f"token for {route.path}")
            case _:
                self._say(decision)

    @property
    def _closing(self) -> bool:
        """Whether an answer of our own ends the connection: also one to a path that nobody should have sent."""
        return self._head.close or not self._request_done or not self._path or self._context.draining

    async def _ask(self, route: Route, token: str) -> None:
        try:
            user = await self._context.tokens.user(token, route.path, self._context.clock())
        except Unreachable as error:
            self.refuse(503, str(error))
            return
        except Exception:  # as in _open
            log.exception("A token for %s could not be checked.", route.path)
            self.refuse(500, "The token could not be checked; the proxy's log has the details.")
            return
        self._token_answer(route, token, user)

    def _token_answer(self, route: Route, token: str, user: str | None) -> None:
        if self.stage != Stage.ASKING:
            return
        if user == route.rule.owner:
            self._user = user
            context = self._context
            self._right = context.grants.join_bearer(Bearer(token, route.path, user), self, context.clock())
            self._connect(route)
        else:
            site = (self._head.get(b"sec-fetch-site") or b"").decode("latin-1")
            words = "This token does not open this server."  # JupyterLab sends Jupyter's own beside a ticket
            self._follow(shut_out(site, words, upgrade=bool(self._head.upgrade)))

    def _connect(self, route: Route) -> None:
        """Write the request's head and send it over an idle connection, or over a new one.

        Only what may be repeated goes over a connection that was used before: the application may close it at the same moment.
        """
        head, client = self._head, self._client
        self._request_out = outgoing(head, self._path, route, client.peer, client.habit, context=self._context)
        repeatable = head.method in _REPEATABLE and not head.length and not head.upgrade
        idle = self._context.pool.take(route.target) if repeatable else None
        if idle is not None:
            self._send(idle)
        else:
            self._context.crew.spawn(self._open(route), f"open {route.path}")

    async def _open(self, route: Route) -> None:
        context = self._context
        limit = context.settings.limits.head_bytes
        try:
            up = await context.opener.open(route.target, lambda: Upstream(route.target, context.pool, limit))
        except TunnelError as error:
            self._unreachable(route, error)
            return
        except Exception:  # whatever a tunnel of somebody's own raises, the client is answered
            log.exception("A connection to %s could not be opened.", route.path)
            self.refuse(
                500, "The connection to this server failed in a way nobody foresaw; the proxy's log has the details."
            )
            return
        if self.stage == Stage.ASKING:
            self._send(up)
        else:
            context.pool.put(up)

    def _unreachable(self, route: Route, error: TunnelError) -> None:
        if route.path == "/" and not route.rule.owner and not self._context.settings.standalone:
            self.refuse(503, pages.HUB_AWAY, refresh=4)
        else:
            words = f"The server at this address could not be reached. {error} {pages.AGAIN}"
            self.refuse(503, words, refresh=5, home=True)

    def _send(self, up: Upstream) -> None:
        self._up = up
        self._client.release_request()  # before the writes, which may hold it again
        up.begin(self, self._head.method, self._request_out)
        for data in self._pending:
            up.write(data)
        self._pending.clear()
        if self._request_done:
            self._client.await_answer()

    # ------------------------------------------------------------ the client's side

    def request_data(self, data: bytes) -> None:
        """A part of the request's body, or of the raw stream."""
        self._taken += len(data)
        if self.stage == Stage.RAW:
            self._touch()
        elif self._head.length == CHUNKED:
            data = chunk(data)
        if self._up is not None:
            self._up.write(data)
        elif self._form is not None:
            self._form.write(data)
        elif self.stage == Stage.ASKING:
            self._pending.append(data)
            self._client.hold_request()

    def request_end(self) -> None:
        """The request's body is whole."""
        if self._head.length == CHUNKED:
            if self._up is None:
                self._pending.append(LAST_CHUNK)
            else:
                self._up.write(LAST_CHUNK)
        self._request_done = True
        if self._up is not None and self.stage != Stage.OVER:
            self._client.await_answer()

    def request_eof(self) -> None:
        """The raw stream's client will send no more."""
        if self._up is not None:
            self._up.write_eof()
            self._one_end()

    def hold_answer(self) -> None:
        """The client does not keep up."""
        if self._up is not None:
            self._up.hold()

    def release_answer(self) -> None:
        """It does again."""
        if self._up is not None:
            self._up.release()

    def client_lost(self) -> None:
        """The client is gone."""
        raw = self.stage == Stage.RAW
        self._finish(self._status or 499)
        up, self._up = self._up, None
        if up is None:
            return
        if raw:
            up.close()  # what the client said last is still delivered
        else:
            up.abort()

    def cut(self) -> None:
        """The session behind this ended: so does the connection."""
        self._client.abort()

    def refuse(self, code: int, words: str, *, refresh: int = 0, home: bool = False) -> None:
        """Answer with an error of our own; if an answer is on its way already, break it off instead."""
        if self.stage != Stage.ASKING:
            if self.stage != Stage.OVER:
                self._client.break_off()
            return
        if self._context.settings.standalone:
            self._fail(errorpages.status(code), words)
            return
        if code >= 500:
            log.warning("%d for %s: %s", code, self._path or "-", words)
        more = f'<p><a href="{self._context.settings.hub_prefix}home">Your servers</a></p>' if home else ""
        self._reply(code, pages.answer(code, words, self._head, close=self._closing, refresh=refresh, more=more))

    def _fail(self, code: int, words: str) -> None:
        """Tell of an error as configurable-http-proxy does: with a page from elsewhere, if one is to be had."""
        log.warning("%d for %s: %s", code, self._path or "-", words)
        if self._head.upgrade or not self._context.error_pages.has(code):
            self._reply(code, errorpages.answer(code, words, None, self._head, close=self._closing))
            return
        up, self._up = self._up, None
        if up is not None:
            up.abort()
        self._pending.clear()
        self.stage = Stage.ANSWERING  # what the client still sends is thrown away
        self._client.release_request()
        self._context.crew.spawn(self._error_page(code, words), f"page about error {code}")

    async def _error_page(self, code: int, words: str) -> None:
        page = await self._context.error_pages.page(code, self._path + self._head.query.decode("latin-1"))
        if self.stage == Stage.ANSWERING:
            self._reply(code, errorpages.answer(code, words, page, self._head, close=self._closing))

    def _reply(self, code: int, whole: bytes) -> None:
        self._client.write(whole)
        self._finish(code)
        up, self._up = self._up, None
        if up is not None:
            up.abort()
        self._client.done(keep=not self._closing)

    # ------------------------------------------------------------ the application's side

    def answered(self, head: ResponseHead) -> None:
        """See :class:`~batchhub.proxy.upstream.Consumer`."""
        owned = self._route is not None and bool(self._route.rule.owner)
        if head.status == 101:
            self._switch(head, owned=owned)
        elif head.status < 200:
            if self._head.minor and self.stage == Stage.ASKING:
                self._client.write(response_lines(head, framing=b"\r\n", owned=owned))
        else:
            self.stage = Stage.ANSWERING
            self._status = head.status
            if head.status < 300:
                self._touch(acted=self._head.method not in _REPEATABLE)
            if self._context.settings.standalone and self._route is not None:
                head = redirected(head, self._head.host, self._route.target, self._context.settings.forwarding)
            extra = b"" if self._renew is None else b"Set-Cookie: %b\r\n" % self._renew.encode("latin-1")
            framing = self._framing(head)
            self._trailers = head if self._chunked and self._head.trailers and head.length == CHUNKED else None
            self._head_out = response_lines(
                head, framing=framing, owned=owned, extra=extra, trailers=self._trailers is not None
            )
            self._client.answering()

    def _framing(self, head: ResponseHead) -> bytes:
        line = b""
        if head.length > 0 or (head.length == 0 and head.status != 204):
            # For HEAD and 304 the application's own words about the body that is not there; none if it had none.
            given = next((value for name, _, value in head.headers if name == b"content-length"), None)
            line = b"Content-Length: %b\r\n" % given if given is not None else b""
        elif head.length in {CHUNKED, UNTIL_CLOSE} and self._head.minor:
            self._chunked = True
            line = b"Transfer-Encoding: chunked\r\n"
        self._last = self._head.close or self._client.ending
        return line + connection_line(head, close=self._last)

    def _switch(self, head: ResponseHead, *, owned: bool) -> None:
        if not self._head.upgrade or self._up is None:
            raise Refused(502, "The application switched protocols unasked.")
        protocol = next((value for name, _, value in head.headers if name == b"upgrade"), self._head.upgrade)
        extra = b"" if self._renew is None else b"Set-Cookie: %b\r\n" % self._renew.encode("latin-1")
        framing = b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol
        self._client.write(response_lines(head, framing=framing, owned=owned, extra=extra))
        self.stage = Stage.RAW
        self._status = 101
        self._head = self._head._replace(headers=[], query=b"")  # a WebSocket may stay for days
        self._request_out = b""
        self._touch()
        self._up.raw()
        self._client.raw()
        if not self._ends and self._route is not None:
            self._shortcut = Shortcut(self._client, self._up, self._context, self._route)

    def _slow_down(self) -> None:
        """Back to the long way, which knows of ends and their time limits."""
        shortcut, self._shortcut = self._shortcut, None
        if shortcut is not None:
            taken, size = shortcut.close()
            self._taken += taken
            self._size += size

    def answer_data(self, data: bytes) -> None:
        """See Consumer."""
        self._size += len(data)
        if self._chunked:
            data = chunk(data)
        if self._head_out:
            data, self._head_out = self._head_out + data, b""
        self._client.write(data)

    def answer_flush(self) -> None:
        """See Consumer."""
        if self._head_out:
            self._client.write(self._head_out)
            self._head_out = b""

    def answer_end(self) -> None:
        """See Consumer."""
        tail = LAST_CHUNK if self._chunked else b""
        if self._trailers is not None and self._up is not None:
            tail = last_chunk(self._up.trailers, self._trailers)
        if tail or self._head_out:
            self._client.write(self._head_out + tail)
            self._head_out = b""
        up, self._up = self._up, None
        keep = self._request_done and not self._last  # as the head has said it, whatever began since
        self._finish(self._status)
        if up is not None:
            if self._request_done:
                up.done()
            else:
                up.abort()
        self._client.done(keep=keep)

    def answer_eof(self) -> None:
        """See Consumer."""
        self._client.write_eof()
        self._one_end()

    def _one_end(self) -> None:
        """One direction of the raw stream ended; with both, all is said."""
        self._slow_down()
        self._ends += 1
        if self._ends == 2 and self._up is not None:
            self._up.close()
            self._client.close()

    def broken(self, error: Refused) -> None:
        """See Consumer. A connection used before that died in silence is no failure yet: what goes over one may be repeated."""
        up, self._up = self._up, None
        if self.stage == Stage.RAW:
            self._client.close()
        elif self.stage == Stage.ASKING and up is not None and up.uses > 1 and not up.heard and self._route is not None:
            self._context.crew.spawn(self._open(self._route), f"open {self._route.path} again")
        else:
            self.refuse(error.code, str(error))

    def hold_request(self) -> None:
        """See Consumer."""
        self._client.hold_request()

    def release_request(self) -> None:
        """See Consumer."""
        self._client.release_request()

    def _touch(self, *, acted: bool = False) -> None:
        if self._route is not None:
            self._route.use.note(self._context.clock(), acted=acted)

    def _finish(self, status: int) -> None:
        if self.stage == Stage.OVER:
            return
        context = self._context
        self._slow_down()
        self.stage = Stage.OVER
        if self._right:
            context.grants.leave(self._right, self)
        now = context.loop.time()
        took = now - self._begun
        context.observer.request(self._head.method, status, took, self._size, self._taken)
        if context.access_log is not None:
            who = self._user, asker(self._head, self._client.peer, context.trusted)
            context.access_log.note(self._head.method, self._path, status, who, size=self._size, now=now, took=took)
