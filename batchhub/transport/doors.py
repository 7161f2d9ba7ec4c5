"""Byte streams between the proxy's processes: a Unix socket for each job's connection, through which the others use it.

A Unix socket cannot tell that a stream was cut from that it ended, and an answer cut short must not pass for a whole one. So what goes
through is framed: a letter, a length, as many bytes. The sockets lie in a directory that only our account can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

from batchhub.core.errors import ConfigError, TunnelError
from batchhub.core.ports import H, Stream, StreamHandler

_MAX_PATH = 107
"""Bytes in a Unix socket's path (unix(7))."""
_HEADER = struct.Struct(">cI")
_OPENED, _DATA, _EOF, _CLOSED, _FAILED = b"o", b"d", b"e", b"c", b"x"
"""A stream is wanted, or is there; bytes; one direction ends; all ends well; all ends with a sentence why. Without a word all ends badly as well."""
_MAX_WORDS = 1024


def check_directory(directory: Path, name: str) -> None:
    """Make the directory of sockets, 0700. Raises ConfigError if it is not ours alone, or a ``name`` in it would be too long a path."""
    if len(os.fsencode(directory / name)) > _MAX_PATH:
        raise ConfigError(
            f"{directory} is too long a path for Unix sockets in it: at most {_MAX_PATH} bytes with a name."
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = directory.lstat()
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}.") from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise ConfigError(f"{directory} must be a directory of ours that nobody else can enter (0700).")


class Door:
    """The Unix socket of one connection. The newest door of a name stands; an older one knows that it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def open(self, caller: Callable[[], asyncio.Protocol]) -> None:
        """Listen, in the place of whoever did before. Raises OSError."""
        fresh = self._path.with_name(f".{os.getpid()}-{id(self):x}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            fresh.unlink(missing_ok=True)
            listener.bind(str(fresh))
            fresh.chmod(0o600)
            self._inode = fresh.stat().st_ino
            self._server = await asyncio.get_running_loop().create_unix_server(caller, sock=listener, backlog=256)
            fresh.replace(self._path)
        except BaseException:
            self.close()
            listener.close()
            fresh.unlink(missing_ok=True)
            raise

    @property
    def stands(self) -> bool:
        """Whether nobody has replaced it."""
        try:
            return self._server is not None and self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Stop listening; the name is removed if it is still ours. Calls that are under way go on."""
        if self.stands:
            self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
            self._server = None


class _Wire(asyncio.Protocol):
    """One end of a Unix socket between two of our processes: a Stream for ``handler``, framed for the other end."""

    def __init__(self) -> None:
        self.handler: StreamHandler | None = None
        self.lost = False
        self._transport: asyncio.Transport
        self._error: TunnelError | None = TunnelError("The proxy's process that the job dialled has ended the stream.")
        self._head = b""
        self._kind = _DATA
        self._left = 0
        self._words = b""

    # ------------------------------------------------ the socket's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        while data and not self._transport.is_closing():
            if self._left:
                part, data = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
                self._left -= len(part)
                self._payload(part)
                continue
            need = _HEADER.size - len(self._head)
            self._head, data = self._head + data[:need], data[need:]
            if len(self._head) == _HEADER.size:
                self._kind, self._left = _HEADER.unpack(self._head)
                self._head = b""
                if not self._left:
                    self._control(self._kind)

    def eof_received(self) -> bool | None:
        return None  # closes it

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.connection_lost(self._error)

    def pause_writing(self) -> None:
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        if self.handler is not None:
            self.handler.resume_writing()

    def _payload(self, part: bytes) -> None:
        if self._kind == _DATA and self.handler is not None:
            self.handler.data_received(part)
        elif self._kind == _FAILED:
            self._words = (self._words + part)[:_MAX_WORDS]
            if not self._left:
                self.failed(TunnelError(self._words.decode("utf-8", "replace")))

    def _control(self, kind: bytes) -> None:
        if kind == _CLOSED:
            self._error = None
            self._transport.close()
        elif kind == _EOF and self.handler is not None:
            if not self.handler.eof_received():
                self.close()
        elif kind == _OPENED:
            self.opened()

    def opened(self) -> None:
        """The other end wants a stream, or has opened it."""

    def failed(self, error: TunnelError) -> None:
        """The other end says why it ends."""
        self._error = error
        self._transport.abort()

    # ------------------------------------------------ Stream

    def send(self, kind: bytes, data: bytes = b"") -> None:
        """A frame."""
        if not self._transport.is_closing():
            self._transport.writelines((_HEADER.pack(kind, len(data)), data))

    def write(self, data: bytes) -> None:
        """See Stream."""
        if data:
            self.send(_DATA, data)

    def write_eof(self) -> None:
        """See Stream."""
        self.send(_EOF)

    def close(self) -> None:
        """See Stream."""
        self.send(_CLOSED)
        self._error = None
        self._transport.close()

    def abort(self) -> None:
        """See Stream."""
        self._error = None
        self._transport.abort()

    def say_why(self, error: Exception) -> None:
        """End badly, with a sentence."""
        self.send(_FAILED, str(error).encode()[:_MAX_WORDS])
        self._error = None
        self._transport.close()

    def pause_reading(self) -> None:
        """See Stream."""
        with contextlib.suppress(RuntimeError):  # uvloop's word for: closed a moment ago
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See Stream."""
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        """See Stream."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """See Stream."""
        return self._transport.get_write_buffer_size()


class _End:
    """One end of a relay: what arrives here leaves at the other end, as fast as that takes it."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.other: _End
        self.ended = False

    def connection_made(self, transport: Stream) -> None:
        self.stream = transport

    def data_received(self, data: bytes) -> None:
        if self.other.stream is not None:
            self.other.stream.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.other.stream is not None:
            self.other.stream.write_eof()
        for end in (self, self.other) if self.other.ended else ():
            if end.stream is not None:
                end.stream.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.stream = None
        other = self.other.stream
        if other is None:
            return
        if exc is None:
            other.close()
        elif isinstance(other, _Wire):
            other.say_why(exc)
        else:
            other.abort()

    def pause_writing(self) -> None:
        if self.other.stream is not None:
            self.other.stream.pause_reading()

    def resume_writing(self) -> None:
        if self.other.stream is not None:
            self.other.stream.resume_reading()


class Caller(_Wire):
    """A caller at a door: gets a stream of its own, opened by ``opening`` in a task that ``start`` owns."""

    def __init__(
        self,
        opening: Callable[[Callable[[], StreamHandler]], Awaitable[StreamHandler]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        super().__init__()
        self._opening = opening
        self._start = start
        self._asked = False

    def opened(self) -> None:
        """It asks for a stream. Nothing more is read before there is somewhere to write it."""
        if not self._asked:
            self._asked = True
            self.pause_reading()
            self._start(self._open())

    async def _open(self) -> None:
        try:
            await self._opening(self._join)
        except TunnelError as error:
            self.say_why(error)
        except BaseException:
            self.abort()
            raise
        else:
            self.resume_reading()

    def _join(self) -> StreamHandler:
        """The stream is about to be there."""
        near, far = _End(), _End()
        near.other, far.other = far, near
        if not self.lost:
            self.handler = near
            near.connection_made(self)
            self.send(_OPENED)
        return far


class _Asking(_Wire):
    """Waits for the owner's word, then serves the handler."""

    def __init__(self, factory: Callable[[], StreamHandler]) -> None:
        super().__init__()
        self._factory = factory
        self.answer: asyncio.Future[StreamHandler] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(_OPENED)

    def opened(self) -> None:
        if self.handler is None and not self.answer.done():
            self.handler = self._factory()
            self.handler.connection_made(self)
            self.answer.set_result(self.handler)

    def failed(self, error: TunnelError) -> None:
        super().failed(error)
        self._refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._refuse()

    def _refuse(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(self._error or TunnelError("The stream was given up."))


async def call(path: Path, factory: Callable[[], H]) -> H:
    """A stream from the process that listens at ``path``. Raises its TunnelError, or OSError if there is none."""
    asking: list[_Asking] = []

    def begin() -> _Asking:
        asking.append(_Asking(factory))
        return asking[0]

    transport, _ = await asyncio.get_running_loop().create_unix_connection(begin, str(path))
    try:
        return cast("H", await asking[0].answer)
    except BaseException:
        transport.abort()
        raise
