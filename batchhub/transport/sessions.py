"""What happens on one SSH channel: a command, or a byte stream. asyncssh calls these classes; they never wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Protocol

import asyncssh

from batchhub.core.errors import TunnelError
from batchhub.core.ports import H
from batchhub.transport.answer import Answer, Bounded
from batchhub.transport.line import without_packet_log

log = logging.getLogger(__name__)

HIGH_WATER = 256 * 1024
"""Bytes buffered for sending before the handler is asked to pause."""

SMALLEST_PACKET = 4096
"""Bytes. Each packet costs time of a loop that everybody shares; an end that takes a byte in each would have it all.

RFC 4253 (6.1) asks for 32,768.
"""

_GRACE = 1.0
"""Seconds between TERM and KILL at a command's deadline."""


class Host(Protocol):
    """The connection a channel counts itself on."""

    label: str

    def channel_opened(self) -> None:
        """One more."""

    def channel_closed(self) -> None:
        """One fewer."""


def reason(error: BaseException) -> str:
    """A foreign error's words, on one line, short, printable: they may be another machine's."""
    text = error.reason if isinstance(error, asyncssh.Error) else str(error)
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    return text[:200].rstrip(".") or type(error).__name__


class RunSession(asyncssh.SSHClientSession[bytes]):
    """One command: feeds its input, collects its outputs."""

    def __init__(self, host: Host, data: bytes, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.signalled = False
        self.broken = ""
        self._host = host
        self._data = data
        self._out, self._err = Bounded(limit), Bounded(limit)
        self._code: int | None = None
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._abandoned = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is open; the command was not asked for yet."""
        self._channel = chan
        self._host.channel_opened()
        if self._abandoned:
            chan.abort()  # asyncssh does not ask for the command on a closed channel
        elif not self.made.done():
            self.made.set_result(None)

    def session_started(self) -> None:
        """The command was started; a short one has ended already."""
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(self._data)
            self._channel.write_eof()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Output."""
        (self._out if datatype is None else self._err).add(data)

    def exit_status_received(self, status: int) -> None:
        """It ended by itself."""
        self._code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """It was killed."""
        del signal, core_dumped, msg, lang
        self.signalled = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel has closed."""
        self._channel = None
        self.broken = reason(exc) if exc else ""
        self._host.channel_closed()
        if not self.closed.done():
            self.closed.set_result(None)

    async def kill(self) -> None:
        """At the deadline. sshd before 7.9 passes no signal on; there the command's own ``timeout`` ends it."""
        for name in ("TERM", "KILL"):
            if self._channel is not None:
                self._channel.send_signal(name)
                await asyncio.wait({self.closed}, timeout=_GRACE)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._abandoned = True
        if self._channel is not None:
            self._channel.abort()

    def answer(self, *, timed_out: bool) -> Answer:
        """What came until now."""
        return Answer(
            code=None if timed_out else self._code,
            out=self._out.value(),
            err=self._err.value(),
            timed_out=timed_out,
            truncated=self._out.more or self._err.more,
        )


class ChannelStream:
    """:class:`~batchhub.core.ports.Stream` on a channel. As with a socket, and not as with a channel, late writes are forgiven."""

    __slots__ = ("_channel",)

    def __init__(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._channel = channel

    def write(self, data: bytes) -> None:
        """Send."""
        if not self._channel.is_closing():
            self._channel.write(data)

    def write_eof(self) -> None:
        """Close the writing direction."""
        if not self._channel.is_closing():
            self._channel.write_eof()

    def pause_reading(self) -> None:
        """Let the window run out."""
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._channel.resume_reading()

    def close(self) -> None:
        """Close after what is buffered was sent."""
        self._channel.close()

    def abort(self) -> None:
        """Close at once."""
        self._channel.abort()

    def is_closing(self) -> bool:
        """Closing or closed."""
        return self._channel.is_closing()

    def get_write_buffer_size(self) -> int:
        """Bytes buffered."""
        return self._channel.get_write_buffer_size()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """An SSH connection inside this stream asks for a socket and addresses, as of any transport. There are none."""
        del name
        return default


class StreamSession(asyncssh.SSHTCPSession[bytes], Generic[H]):
    """Hands a channel's events to a handler.

    An exception that leaves a session ends the whole connection in asyncssh, and everybody's streams with it; so an error in
    a handler is caught here and ends its own stream.
    """

    handler: H
    """There from when the channel is open."""

    def __init__(self, host: Host, factory: Callable[[], H]) -> None:
        self._host = host
        self._factory = factory
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._handed = False
        self._abandoned = False

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = chan
        without_packet_log(chan)
        self._host.channel_opened()
        # asyncssh shows nowhere else what the other end takes in one packet.
        if self._abandoned or getattr(chan, "_send_pktsize", SMALLEST_PACKET) < SMALLEST_PACKET:
            chan.abort()
            return
        self.handler = self._factory()
        chan.set_write_buffer_limits(high=HIGH_WATER)
        self._handed = True
        self._guard(self.handler.connection_made, ChannelStream(chan))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Bytes."""
        del datatype
        try:
            self.handler.data_received(data)
        except Exception as error:  # noqa: BLE001 - see the class
            self._failed(error)

    def eof_received(self) -> bool:
        """No more bytes."""
        try:
            return bool(self.handler.eof_received())
        except Exception as error:  # noqa: BLE001 - see the class
            self._failed(error)
            return False

    def pause_writing(self) -> None:
        """The buffer is full."""
        self._guard(self.handler.pause_writing)

    def resume_writing(self) -> None:
        """It is not any more."""
        self._guard(self.handler.resume_writing)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel has closed."""
        self._channel = None
        self._host.channel_closed()
        if self._handed:
            error = TunnelError(f"The SSH connection {self._host.label} was lost: {reason(exc)}.") if exc else None
            self._guard(self.handler.connection_lost, error)

    def opened(self) -> H:
        """The handler, once the channel was opened. Raises TunnelError if that is of no use."""
        if not self._handed:
            raise TunnelError(f"The other end of a stream through {self._host.label} takes too little in one packet.")
        return self.handler

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._abandoned = True
        if self._channel is not None:
            self._channel.abort()

    def _guard(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - see the class
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        log.error("The handler of a stream through %s failed; the stream is closed.", self._host.label, exc_info=error)
        if self._channel is not None:
            self._channel.abort()
