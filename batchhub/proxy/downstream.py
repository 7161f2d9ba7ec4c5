"""The client's side: one connection to the public socket. Reads requests one at a time, writes answers, keeps the time limits."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final, cast

from batchhub.proxy import pages
from batchhub.proxy.context import Context
from batchhub.proxy.exchange import Exchange, Stage
from batchhub.proxy.framing import Body
from batchhub.proxy.habit import Habit
from batchhub.proxy.headers import Peer
from batchhub.proxy.wire import END, Refused, suspicious


class Phase:
    """What the connection does. Plain numbers, as :class:`~batchhub.proxy.exchange.Stage` is."""

    HEAD: Final = 0
    """Waiting for a request's head, or for the rest of it."""
    BODY: Final = 1
    """Reading a request's body; the answer may have begun."""
    ANSWER: Final = 2
    """The request is whole; the answer is on its way."""
    RAW: Final = 3
    """Bytes go both ways as they come."""
    LINGER: Final = 4
    """Answered early and ended; what still comes is thrown away, so that the client reads the answer first."""
    CLOSED: Final = 5


_ANSWERING = frozenset({Phase.BODY, Phase.ANSWER, Phase.LINGER})

# Why reading is held; reading goes on when no reason is left.
_SLOW_UPSTREAM = 1
_NEXT_WAITS = 2
_EMPTY_LINE = b"\r\n"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all: closing resets the connection (socket(7))."""
_MAX_LINGER = 16 * 1024 * 1024
_REFUSING = 64
"""So many clients beyond the limit are told that there is no place for them; more are closed at once."""


class Downstream(asyncio.Protocol):
    """A client's connection."""

    __slots__ = (
        "_body",
        "_buffer",
        "_context",
        "_eof",
        "_exchange",
        "_held",
        "_looping",
        "_served",
        "_thrown",
        "_tls",
        "_transport",
        "_write_held",
        "deadline",
        "habit",
        "peer",
        "phase",
    )

    def __init__(self, context: Context) -> None:
        self.phase: int = Phase.HEAD
        self.deadline = 0.0
        self.peer = Peer("", "http")
        self.habit = Habit()
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._body: Body | None = None
        self._buffer = b""
        self._held = 0
        self._thrown = 0
        self._looping = self._eof = self._write_held = self._tls = self._served = False

    # ------------------------------------------------------------ the socket's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)
        context = self._context
        room = context.settings.limits.connections - len(context.clients)
        if room <= 0:
            context.observer.turned_away()
        if room <= -_REFUSING:
            self._transport.abort()
            return
        context.clients.add(self)
        if room <= 0:
            self.write(pages.answer(503, "There are too many connections; try again in a moment.", None, close=True))
            self._linger()
            return
        self._tls = transport.get_extra_info("sslcontext") is not None
        self.peer = _peer(transport, context, tls=self._tls)
        self._arm(context.settings.limits.head_time)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        exchange = self._exchange
        if self.phase == Phase.RAW and exchange is not None:
            if self.deadline:  # half closed, but alive
                self._arm(self._context.settings.limits.half_closed)
            exchange.request_data(data)
        elif self.phase == Phase.BODY:
            self._feed(data)
        elif self.phase == Phase.HEAD:
            before = len(self._buffer)
            self._buffer = self._buffer + data if before else data
            if not before:
                self._arm(self._context.settings.limits.head_time)
            self._read_heads(max(0, before - 3))
            if self._write_held and self._buffer:
                self._hold(_NEXT_WAITS)
        elif self.phase == Phase.ANSWER:
            self._keep(data)
        elif self.phase == Phase.LINGER:
            self._thrown += len(data)
            if self._thrown > _MAX_LINGER:
                self.abort()

    def eof_received(self) -> bool:
        """The client will send no more. True keeps our direction open (not over TLS, which cannot be half closed)."""
        self._eof = True
        if self.phase == Phase.RAW and self._exchange is not None:
            self._exchange.request_eof()
        elif self.phase != Phase.ANSWER:
            return False
        self._arm(self._context.settings.limits.half_closed)
        return not self._tls

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name for it
        """The client is gone."""
        self.phase = Phase.CLOSED
        self._context.clients.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._write_held = True
        if self._exchange is not None:
            self._exchange.hold_answer()

    def resume_writing(self) -> None:
        """It reads again."""
        self._write_held = False
        if self._exchange is not None:
            self._exchange.release_answer()
        elif self.phase == Phase.HEAD and self._buffer:
            self._release(_NEXT_WAITS)
            self._read_heads(0)

    # ------------------------------------------------------------ reading requests

    def _read_heads(self, start: int) -> None:
        """Take requests from the buffer, one after the other, while each is answered at once."""
        if self._looping:
            return
        self._looping = True
        try:
            while self.phase == Phase.HEAD and self._buffer and not self._write_held:
                if not self._take_head(start):
                    break
                start = 0
        except Refused as error:
            self._refuse(error)
        finally:
            self._looping = False

    def _take_head(self, start: int) -> bool:
        """Start on one request. False if its head is not whole yet. Raises Refused."""
        # One empty line before a request is ignored (RFC 9112 section 2.2), but begins the time in which the head must come.
        skip = 2 if self._buffer.startswith(_EMPTY_LINE) else 0
        end = self._buffer.find(END, start)
        limit = self._context.settings.limits.head_bytes
        if (end if end >= 0 else len(self._buffer)) > limit:
            raise Refused(431, f"The request's head is larger than {limit} bytes.")
        if end < 0:
            if suspicious(self._buffer, start):
                raise Refused(
                    400, "The request's head holds a bare line feed, carriage return or NUL, or a folded line."
                )
            return False
        head = self.habit.read(self._buffer[skip : end + 4])
        rest, self._buffer = self._buffer[end + 4 :], b""
        exchange = self._exchange = Exchange(self._context, self, head)
        if head.length:
            self._body = Body(head.length)
            self.phase = Phase.BODY
            self._arm(self._context.settings.limits.body_idle)
        else:
            self.phase = Phase.ANSWER
            self.deadline = 0.0
        if rest and not head.length:
            self._keep(rest)
        exchange.begin()
        if rest and head.length:
            self._rest_of_body(rest)
        return True

    def _rest_of_body(self, rest: bytes) -> None:
        if self.phase == Phase.BODY:
            self._feed(rest)

    def _keep(self, data: bytes) -> None:
        """Bytes after the current request: the next one has to wait, and so has the client."""
        self._buffer += data
        if self._buffer:
            self._hold(_NEXT_WAITS)

    def _feed(self, data: bytes) -> None:
        body, exchange = self._body, self._exchange
        if body is None or exchange is None:
            return
        try:
            part, rest = body.feed(data)
        except Refused as error:
            exchange.refuse(error.code, str(error))
            return
        if rest:
            self._keep(rest)
        if part:
            exchange.request_data(part)
        if body.done:
            self._body = None
            if self.phase == Phase.BODY:
                self.phase = Phase.ANSWER
                self.deadline = 0.0
                exchange.request_end()
        elif self.phase == Phase.BODY:
            self._arm(self._context.settings.limits.body_idle)

    def _refuse(self, error: Refused) -> None:
        """An unreadable request: say so and end."""
        self.write(pages.answer(error.code, str(error), None, close=True))
        self._context.observer.request(b"", error.code, 0.0, 0, 0)
        self._linger()

    # ------------------------------------------------------------ for the exchange

    def write(self, data: bytes) -> None:
        """Send to the client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if self._eof:
                self._arm(self._context.settings.limits.half_closed)

    def write_eof(self) -> None:
        """The raw stream's other side sends no more."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._arm(self._context.settings.limits.half_closed)
        else:
            self._transport.close()

    def hold_request(self) -> None:
        """The application does not keep up: read no more for now."""
        self._hold(_SLOW_UPSTREAM)

    def release_request(self) -> None:
        """Read on."""
        self._release(_SLOW_UPSTREAM)

    def await_answer(self) -> None:
        """The request is with the application."""
        limit = self._context.settings.limits.response_time
        if self.phase == Phase.ANSWER and limit and not self._eof:
            self._arm(limit)

    def answering(self) -> None:
        """The answer begins: no time limit any more but the client's own."""
        if self.phase == Phase.ANSWER and not self._eof:
            self.deadline = 0.0
        if self._write_held and self._exchange is not None:
            self._exchange.hold_answer()

    def raw(self) -> None:
        """From now on bytes go both ways as they come."""
        self.phase = Phase.RAW
        self.deadline = 0.0
        self.habit.forget()
        if self._write_held and self._exchange is not None:
            self._exchange.hold_answer()
        early, self._buffer = self._buffer, b""
        if early and self._exchange is not None:
            self._exchange.request_data(early)
        self._release(_NEXT_WAITS)
        if self._eof and self._exchange is not None:  # it came before the switch
            self._exchange.request_eof()
            self._arm(self._context.settings.limits.half_closed)

    @property
    def stream(self) -> asyncio.Transport:
        """What the bytes go through; there from when the client connected."""
        return cast("asyncio.Transport", self._transport)

    @property
    def ending(self) -> bool:
        """Whether this connection ends with the current answer."""
        return self._eof or self.phase == Phase.BODY or self._context.draining

    def done(self, *, keep: bool) -> None:
        """The answer is written."""
        self._exchange = None
        if self.phase == Phase.CLOSED:
            return
        if self.phase == Phase.BODY or (self._buffer and not keep):
            self._linger()
        elif not keep or self._eof:
            self.close()
        else:
            self.phase = Phase.HEAD
            self._served = True
            self._arm(self._context.settings.limits.keep_alive)
            self._release(_NEXT_WAITS | _SLOW_UPSTREAM)
            if self._buffer:
                self._arm(self._context.settings.limits.head_time)
                self._read_heads(0)

    def close(self) -> None:
        """Close after what was written is sent."""
        if self.phase != Phase.RAW:
            self.phase = Phase.LINGER
        if self._transport is not None:
            self._transport.close()
        # A client that never reads must not hold the rest for ever.
        self._arm(self._context.settings.limits.half_closed)

    def abort(self) -> None:
        """Close at once. While an answer may be on its way: :meth:`break_off`."""
        if self.phase in _ANSWERING:
            self.break_off()
        elif self._transport is not None:
            self._transport.abort()

    def break_off(self) -> None:
        """Close at once, and so that it cannot be taken for an answer's end: a body without a length ends with the connection."""
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            with suppress(OSError):  # it is gone already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _linger(self) -> None:
        self.phase = Phase.LINGER
        self._exchange = self._body = None
        self._buffer = b""
        if self._transport is None or self._transport.is_closing():
            return
        if not self._transport.can_write_eof():
            self.close()
            return
        self._transport.write_eof()
        self._release(_NEXT_WAITS | _SLOW_UPSTREAM)
        self._arm(self._context.settings.limits.linger)

    # ------------------------------------------------------------ time and pace

    def _arm(self, seconds: float) -> None:
        self.deadline = self._context.loop.time() + seconds if seconds else 0.0

    def retire(self, quiet_since: float) -> None:
        """The process drains: close if no request came since this loop time. A connection that never brought one may still do so."""
        limits = self._context.settings.limits
        quiet = not limits.keep_alive or self.deadline - limits.keep_alive <= quiet_since
        if quiet and self._served and self.phase == Phase.HEAD and not self._buffer:
            self.close()

    def expire(self) -> None:
        """The deadline passed."""
        self.deadline = 0.0
        exchange = self._exchange
        if self.phase == Phase.HEAD:
            if self._buffer and self._buffer != _EMPTY_LINE:
                self._refuse(Refused(408, "The request did not arrive in time."))
            else:
                self.close()
        elif self.phase == Phase.BODY and exchange is not None:
            if self._held:
                self._arm(self._context.settings.limits.body_idle)
            else:
                exchange.refuse(408, "The request's body did not arrive in time.")
        elif self.phase == Phase.ANSWER and not self._eof and exchange is not None and exchange.stage == Stage.ASKING:
            exchange.refuse(504, "The application did not answer in time.")
        else:
            self.abort()

    def _hold(self, reason: int) -> None:
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= reason

    def _release(self, reason: int) -> None:
        if not self._held:
            return
        self._held &= ~reason
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


def _peer(transport: asyncio.BaseTransport, context: Context, *, tls: bool) -> Peer:
    scheme = "https" if tls else "http"
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family == socket.AF_UNIX:
        return Peer("127.0.0.1", scheme, trusted=True)
    name = transport.get_extra_info("peername")
    address = str(name[0]) if name else "0.0.0.0"  # noqa: S104 - nothing is bound, the peer is merely not known
    return Peer(address, scheme, address in context.trusted)
