"""A second port that speaks plain HTTP and answers one thing: come back by https."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import cast

from batchhub.proxy import pages
from batchhub.proxy.settings import Redirect
from batchhub.proxy.wire import END, Refused, RequestHead, parse_request

_HEAD_BYTES = 16 * 1024
_PATIENCE = 10.0  # seconds from the connection to its end
_CONNECTIONS = 1000


def secure_address(head: RequestHead, port: int) -> bytes:
    """The same address by https. Raises :class:`Refused` if the client did not say which host it wants."""
    name = head.host if head.host.endswith(b"]") else head.host.rpartition(b":")[0] or head.host
    if not name:
        raise Refused(
            400, f"Only https is spoken here, on port {port}, and the request does not say to which host it goes."
        )
    shown = b"" if port == 443 else b":%d" % port
    return b"https://%b%b%b%b" % (name, shown, head.path, head.query)


class Redirects:
    """The listener. One connection is good for one answer."""

    def __init__(self, redirect: Redirect) -> None:
        self._redirect = redirect
        self._servers: list[asyncio.Server] = []
        self.open: set[_Connection] = set()

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Take what comes to these listening sockets."""
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_server(lambda: _Connection(self, loop, self._redirect.to), sock=each, backlog=128)
            for each in sockets
        ]

    def stop(self) -> None:
        """Listen no more; what is open is answered."""
        for server in self._servers:
            server.close()

    def close(self) -> None:
        """Listen no more, and end what is open."""
        self.stop()
        for connection in list(self.open):
            connection.abort()


class _Connection(asyncio.Protocol):
    __slots__ = ("_buffer", "_listener", "_loop", "_timer", "_to", "_transport")

    def __init__(self, listener: Redirects, loop: asyncio.AbstractEventLoop, to: int) -> None:
        self._listener = listener
        self._loop = loop
        self._to = to
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._listener.open) >= _CONNECTIONS:
            self.abort()
            return
        self._listener.open.add(self)
        self._timer = self._loop.call_later(_PATIENCE, self.abort)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._buffer += data
        end = self._buffer.find(END)
        if end >= 0 or len(self._buffer) > _HEAD_BYTES:
            transport.write(_answer(self._buffer, end, self._to))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name for it
        self._listener.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _answer(data: bytes, end: int, port: int) -> bytes:
    try:
        if end < 0 or end > _HEAD_BYTES:
            raise Refused(431, f"The request's head is larger than {_HEAD_BYTES} bytes.")
        head = parse_request(data[: end + 4])
        address = secure_address(head, port)
    except Refused as error:
        return pages.answer(error.code, str(error), None, close=True)
    return pages.whole(301, "text/plain", b"", head, close=True, extra=b"Location: %b\r\n" % address)
