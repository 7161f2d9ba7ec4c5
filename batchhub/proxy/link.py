"""What the supervisor and a worker say to each other over a socket pair: questions, answers and news.

Each message is a JSON object with its length before it (four bytes, network order). ``{"do": NAME, "with": …}`` is news; with an ``id`` it is a
question, answered by ``{"re": ID, "is": …}`` or ``{"re": ID, "error": [KIND, SENTENCE]}``. Messages are dealt with in the order they came: what
is done at once is done before the next message is looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, cast

from batchhub.core.errors import BadInput, ConfigError, HubError, TunnelError, Unreachable
from batchhub.proxy.tasks import Crew

log = logging.getLogger(__name__)

_LENGTH = struct.Struct(">I")
_MOST = 64 * 1024 * 1024
_ERRORS: Mapping[str, type[HubError]] = {
    kind.__name__: kind for kind in (BadInput, ConfigError, TunnelError, Unreachable)
}

Handler = Callable[[str, Mapping[str, Any]], Any]
"""Deals with a question or news, by name; what it returns, or what that awaits to, is the answer."""


class Link(asyncio.Protocol):
    """One end. ``lost`` is called once, when the other end is gone."""

    def __init__(self, handle: Handler, lost: Callable[[], None]) -> None:
        self._handle = handle
        self._lost = lost
        self._crew = Crew()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = secrets.randbits(32) << 20  # a late answer to a former program's question is no answer to ours
        self._held: list[bytes] | None = None
        self.alive = False

    async def open(self, end: socket.socket) -> None:
        """Begin to listen and to speak."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    # ------------------------------------------------------------ speaking

    async def ask(self, name: str, seconds: float, **content: Any) -> Any:
        """The other end's answer. Raises Unreachable if it is gone or takes too long, else what it raised, if that is one of ours."""
        return await self.answer(self.put(name, **content), name, seconds)

    def put(self, name: str, **content: Any) -> int:
        """Ask now, to wait for the :meth:`answer` later. Raises Unreachable."""
        if not self.alive:
            raise Unreachable("The other process is gone.")
        self._count += 1
        self._asked[self._count] = asyncio.get_running_loop().create_future()
        self._send({"id": self._count, "do": name, "with": content})
        return self._count

    async def answer(self, number: int, name: str, seconds: float) -> Any:
        """See :meth:`ask`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._asked[number]
        except TimeoutError as error:
            raise Unreachable(f"There was no answer to {name!r} within {seconds:g} seconds.") from error
        finally:
            self._asked.pop(number, None)

    def tell(self, name: str, **content: Any) -> None:
        """News; nobody answers."""
        if self.alive:
            self._send({"do": name, "with": content})

    def hold(self) -> None:
        """Say no more, until :meth:`release`, than what was already said: whoever listens will be somebody else."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Say what was held."""
        held, self._held = self._held or [], None
        if self._transport is not None:
            self._transport.write(b"".join(held))

    def _send(self, message: Mapping[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":")).encode()
        data = _LENGTH.pack(len(text)) + text
        if self._held is not None:
            self._held.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    # ------------------------------------------------------------ listening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast("asyncio.Transport", transport)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        """Bytes of messages."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer, start)
            if size > _MOST:
                log.error("A message of %d bytes between the proxy's processes: the link is closed.", size)
                self.close()
                return
            end = start + _LENGTH.size + size
            if len(self._buffer) < end:
                break
            message = json.loads(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
            self._take(message)
        del self._buffer[:start]

    def _take(self, message: Mapping[str, Any]) -> None:
        if "re" in message:
            future = self._asked.get(message["re"])
            if future is not None and not future.done():
                _settle(future, message)
            return
        number = message.get("id")
        try:
            result = self._handle(message["do"], message["with"])
        except Exception as error:  # noqa: BLE001 - whatever it is, the other end is told, and the link lives on
            self._fail(number, error)
            return
        if isawaitable(result):
            self._crew.spawn(self._later(number, result), f"link {message['do']}")
        elif number is not None:
            self._send({"re": number, "is": result})

    async def _later(self, number: int | None, result: Awaitable[Any]) -> None:
        try:
            value = await result
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(number, error)
        else:
            if number is not None:
                self._send({"re": number, "is": value})

    def _fail(self, number: int | None, error: Exception) -> None:
        if not isinstance(error, HubError):
            log.error("A message between the proxy's processes failed.", exc_info=error)
        if number is not None:
            self._send({"re": number, "error": [type(error).__name__, str(error)]})

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name for it
        """The other end is gone."""
        self.alive = False
        for future in self._asked.values():
            if not future.done():
                future.set_exception(Unreachable("The other process is gone."))
                future.exception()  # whoever does not wait any more need not hear of it
        self._lost()

    @property
    def file(self) -> int:
        """The socket's descriptor."""
        return int(self._transport.get_extra_info("socket").fileno()) if self._transport is not None else -1

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    async def end(self) -> None:
        """End it, and what was still being answered."""
        self.close()
        await self._crew.close()


def _settle(future: asyncio.Future[Any], message: Mapping[str, Any]) -> None:
    if "error" not in message:
        future.set_result(message["is"])
        return
    kind, sentence = message["error"]
    future.set_exception(_ERRORS.get(kind, HubError)(sentence))
