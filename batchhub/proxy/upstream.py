"""The application's side of a request: one connection, read message by message, and the pool of idle ones.

A connection is an ``asyncio.Protocol`` in shape only: its bytes may come through a socket or through a tunnel's channel.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol, TypeVar, cast

from batchhub.core.errors import TunnelError
from batchhub.core.ports import Stream, StreamHandler, Tunnel
from batchhub.proxy.framing import Body
from batchhub.proxy.target import Target
from batchhub.proxy.tls import ClientTLS, client_context
from batchhub.proxy.wire import END, Refused, ResponseHead, parse_response

H = TypeVar("H", bound=StreamHandler)

Tunnels = Mapping[tuple[str, str], Tunnel]
"""(cluster, kind) -> the tunnel."""

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_READ = 256 * 1024
_MOST_INTERIM = 100
"""So many informational answers (1xx) to one request are passed on; an application that sends more does not mean to answer."""


class Consumer(Protocol):
    """Who asked, and is told what the application answers."""

    def answered(self, head: ResponseHead) -> None:
        """A head arrived: informational (1xx, then another follows), switching protocols (101) or final."""

    def answer_data(self, data: bytes) -> None:
        """A part of the body, or of the raw stream after 101."""

    def answer_end(self) -> None:
        """The body is whole. The connection is the consumer's to give back or to close."""

    def answer_flush(self) -> None:
        """There is no more for the moment."""

    def answer_eof(self) -> None:
        """The raw stream will bring no more."""

    def broken(self, error: Refused) -> None:
        """The connection is of no use any more, before the answer was whole."""

    def hold_request(self) -> None:
        """The application does not keep up."""

    def release_request(self) -> None:
        """It does again."""


class State:
    """Where a connection is. Plain numbers, as :class:`~batchhub.proxy.exchange.Stage` is."""

    IDLE: Final = 0
    HEAD: Final = 1
    BODY: Final = 2
    DONE: Final = 3
    RAW: Final = 4
    DEAD: Final = 5


class Upstream:
    """A connection to an application."""

    __slots__ = (
        "_body",
        "_buffer",
        "_consumer",
        "_head_limit",
        "_held",
        "_interim",
        "_method",
        "_pool",
        "_transport",
        "heard",
        "idle_since",
        "reusable",
        "state",
        "target",
        "uses",
    )

    def __init__(self, target: Target, pool: Pool, head_limit: int) -> None:
        self.target = target
        self.state: int = State.IDLE
        self.uses = 0
        self.idle_since = 0.0
        self.reusable = True
        self.heard = False
        """Whether anything came since the request was sent."""
        self._pool = pool
        self._head_limit = head_limit
        self._transport: Stream | None = None
        self._consumer: Consumer | None = None
        self._body: Body | None = None
        self._buffer = b""
        self._method = b""
        self._held = False
        self._interim = 0

    # ------------------------------------------------------------ for the consumer

    def begin(self, consumer: Consumer, method: bytes, data: bytes) -> None:
        """Send a request's head, and read its answer for this consumer."""
        self._consumer = consumer
        self._method = method
        self.state = State.HEAD
        self.heard = False
        self._interim = 0
        self.uses += 1
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """End our direction. TLS has no half-closed connections: there it ends the whole."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.target.tls:
            self._transport.close()
        else:
            self._transport.write_eof()

    def hold(self) -> None:
        """Read no more."""
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self._held and self._transport is not None and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def raw(self) -> None:
        """From now on bytes are passed as they come."""
        self.state = State.RAW
        self._body = None
        self._buffer = b""

    @property
    def stream(self) -> Stream:
        """What the bytes go through; there from when it is open."""
        return cast("Stream", self._transport)

    def done(self) -> None:
        """The exchange is over: keep the connection for another, if that can be."""
        self._consumer = None
        if self.state == State.DONE and self.reusable:
            self.state = State.IDLE
            self.release()
            self._pool.put(self)
        else:
            self.abort()

    def close(self) -> None:
        """Close after what was written is sent."""
        self._consumer = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._consumer = None
        self.state = State.DEAD
        if self._transport is not None:
            self._transport.abort()

    @property
    def trailers(self) -> list[bytes]:
        """The lines after the last chunk of the answer just read."""
        return [] if self._body is None else self._body.trailers

    @property
    def alive(self) -> bool:
        """Whether a request can be sent."""
        return self.state == State.IDLE and self._transport is not None and not self._transport.is_closing()

    # ------------------------------------------------------------ for the stream

    def connection_made(self, transport: Stream) -> None:
        """The stream is open."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        consumer = self._consumer
        if consumer is None:
            self._pool.drop(self)  # an idle connection on which something arrives is not to be trusted
            self.abort()
            return
        if self.state == State.RAW:
            consumer.answer_data(data)
            return
        self.heard = True
        try:
            self._read(data, consumer)
        except Refused as error:
            self._break(Refused(502, str(error)))
            return
        consumer.answer_flush()

    def _read(self, data: bytes, consumer: Consumer) -> None:
        while data:
            if self.state == State.HEAD:
                data = self._read_head(data, consumer)
            elif self.state == State.BODY and self._body is not None:
                data = self._read_body(data, consumer)
            elif self.state == State.RAW:
                consumer.answer_data(data)
                return
            else:
                self.reusable = False  # bytes nobody asked for
                return

    def _read_head(self, data: bytes, consumer: Consumer) -> bytes:
        data = self._buffer + data
        end = data.find(END, max(0, len(self._buffer) - 3))
        if max(end, 0 if end >= 0 else len(data)) > self._head_limit:
            raise Refused(502, "The application's answer has too large a head.")
        if end < 0:
            self._buffer = data
            return b""
        self._buffer = b""
        head = parse_response(data[: end + 4], self._method)
        rest = data[end + 4 :]
        if head.status < 200:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise Refused(502, "The application sends informational answers without end.")
            consumer.answered(head)
            return rest
        self.reusable = not head.close
        self.state = State.BODY
        if len(rest) == head.length:  # all came in one piece, as most answers do: nobody has to find the body's end
            self._body = None
            consumer.answered(head)
            if rest:
                consumer.answer_data(rest)
            self._finish(b"", consumer)
            return b""
        self._body = Body(head.length)
        consumer.answered(head)
        if self._body.done:
            self._finish(rest, consumer)
            return b""
        return rest

    def _read_body(self, data: bytes, consumer: Consumer) -> bytes:
        body = self._body
        if body is None:
            return b""
        part, rest = body.feed(data)
        if part:
            consumer.answer_data(part)
        if body.done:
            self._finish(rest, consumer)
            return b""
        return rest

    def _finish(self, rest: bytes, consumer: Consumer) -> None:
        if self.state == State.BODY:
            self.state = State.DONE
            self.reusable = self.reusable and not rest
            consumer.answer_end()

    def _break(self, error: Refused) -> None:
        consumer = self._consumer
        self.abort()
        if consumer is not None:
            consumer.broken(error)

    def eof_received(self) -> bool | None:
        """The application will send no more."""
        if self.state == State.RAW and self._consumer is not None:
            self._consumer.answer_eof()
            return not self.target.tls
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is gone."""
        if isinstance(exc, ConnectionError) and self.state in {State.HEAD, State.BODY}:
            self._read_what_is_left()
        consumer, state = self._consumer, self.state
        if state == State.IDLE:
            self._pool.drop(self)
        self._consumer = None
        self.state = State.DEAD
        if consumer is None:
            return
        if state == State.BODY and exc is None and self._body is not None and self._body.close():
            self.reusable = False
            consumer.answer_end()
            consumer.answer_flush()
        elif state == State.DONE:
            self.reusable = False
        else:
            cause = f" {exc}" if isinstance(exc, TunnelError) else ""
            consumer.broken(Refused(502, f"The application closed the connection before its answer was whole.{cause}"))

    def _read_what_is_left(self) -> None:
        """A write failed. Who refuses an upload early (413) and closes has sent an answer before, which the loops' transports would not read."""
        get_extra_info = getattr(self._transport, "get_extra_info", None)  # a tunnel's channel has none
        raw = get_extra_info("socket") if get_extra_info is not None else None
        if get_extra_info is None or raw is None or raw.family not in _INTERNET or self.target.tls:
            return
        with suppress(OSError), socket.socket(fileno=os.dup(raw.fileno())) as left:
            left.setblocking(False)  # asyncio and uvloop close it only when we have been told
            while self._consumer is not None and (data := left.recv(_READ)):
                self.data_received(data)

    def pause_writing(self) -> None:
        """The application does not keep up."""
        if self._consumer is not None:
            self._consumer.hold_request()

    def resume_writing(self) -> None:
        """It does again."""
        if self._consumer is not None:
            self._consumer.release_request()


class Pool:
    """Idle connections by target, the newest first in use."""

    __slots__ = ("_idle", "_loop", "_size")

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._idle: dict[Target, list[Upstream]] = {}
        self._size = size
        self._loop = loop

    def take(self, target: Target) -> Upstream | None:
        """A connection that is ready, or none."""
        idle = self._idle.get(target)
        while idle:
            upstream = idle.pop()
            if upstream.alive:
                return upstream
        return None

    def put(self, upstream: Upstream) -> None:
        """Keep it for another request, unless there are enough."""
        idle = self._idle.get(upstream.target)
        if idle is None:
            idle = self._idle[upstream.target] = []
        if len(idle) >= self._size or not upstream.alive:
            upstream.abort()
            return
        upstream.idle_since = self._loop.time()
        idle.append(upstream)

    def drop(self, upstream: Upstream) -> None:
        """It is of no use any more."""
        idle = self._idle.get(upstream.target)
        if idle is not None and upstream in idle:
            idle.remove(upstream)

    def sweep(self, oldest: float) -> None:
        """Close what has been idle since before this loop time."""
        for target, idle in list(self._idle.items()):
            old = [upstream for upstream in idle if upstream.idle_since < oldest]
            self._idle[target] = [upstream for upstream in idle if upstream.idle_since >= oldest]
            for upstream in old:
                upstream.abort()
            if not self._idle[target]:
                del self._idle[target]

    def __len__(self) -> int:
        """Idle connections."""
        return sum(map(len, self._idle.values()))

    def close(self) -> None:
        """Close all."""
        self.sweep(float("inf"))


_SYSTEM = ClientTLS()


class Opener:
    """Opens a byte stream to a target, through its tunnel or by dialling it."""

    __slots__ = ("_client", "_deadline", "_secure", "tunnels")

    def __init__(self, tunnels: Tunnels, deadline: float, client: ClientTLS = _SYSTEM) -> None:
        """Raises ConfigError when a certificate that is named cannot be used."""
        self.tunnels = tunnels
        self._deadline = deadline
        self._client = client
        self._secure = None if client == _SYSTEM else client_context(client)

    async def open(self, target: Target, handler: Callable[[], H]) -> H:
        """Open, within the deadline. Raises TunnelError with the cause in words."""
        try:
            async with asyncio.timeout(self._deadline or None):
                if target.cluster or target.kind:
                    return await self._tunnel(target).open(handler, target.endpoint, target.account)
                return await self._dial(target, handler)
        except TimeoutError as error:
            raise TunnelError(f"{target.authority} did not answer within {self._deadline:.0f} seconds.") from error

    def _tunnel(self, target: Target) -> Tunnel:
        try:
            return self.tunnels[target.cluster, target.kind]
        except KeyError:
            raise TunnelError(
                f"There is no tunnel of kind {target.kind!r} to the cluster {target.cluster!r}: where clusters were changed, the proxy has to read the "
                "configuration again (`batchhub reload`, or SIGUSR2)."
            ) from None

    async def _dial(self, target: Target, handler: Callable[[], H]) -> H:
        loop = asyncio.get_running_loop()
        factory = cast("Callable[[], asyncio.Protocol]", handler)
        where = target.endpoint
        if target.tls and self._secure is None:
            self._secure = client_context(self._client)
        secure = self._secure if target.tls else None
        try:
            if where.socket:
                _, made = await loop.create_unix_connection(factory, where.socket)
            else:
                _, made = await loop.create_connection(factory, where.host, where.port, ssl=secure)
        except OSError as error:
            name = where.socket or target.authority
            raise TunnelError(f"{name} cannot be reached: {error.strerror or error}.") from error
        return cast("H", made)
