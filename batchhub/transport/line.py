"""The bytes of an SSH connection, between the socket and asyncssh: fewer and larger writes, smaller reads, prompt acknowledgements.

docs/performance.md says what each is worth. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from batchhub.core.ports import Stream

PIECE = 64 * 1024
"""asyncssh moves what is left of its input after each packet, so a big read (uvloop's are 256 KiB) costs more than its parts."""

SMALL = 4096
"""Bytes. Packets up to this are gathered into one write; larger ones would have to be copied for it."""

_IGNORE = 2  # RFC 4253, 12: SSH_MSG_IGNORE
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux, tcp(7)


class Line:
    """A handler of the stream below, and the transport of asyncssh's connection above, ``inner``; ``heard`` is called when bytes arrive.

    sshd does not set TCP_NODELAY for a connection that only forwards: its second small packet waits for our acknowledgement of the
    first (Nagle), and that we would delay for 40 ms in the hope of something to send with it. So if a turn of the loop brings bytes and sends none,
    they are acknowledged at once.
    """

    def __init__(self, inner: Any, heard: Callable[[], None]) -> None:
        self.inner = inner
        self._heard = heard
        self._receive = inner.data_received
        self._loop = asyncio.get_running_loop()
        self._stream: Stream | None = None
        self._socket: Any = None
        self._gathered: list[bytes] = []
        self._settling = self._wrote = False
        without_ignored(inner)
        without_packet_log(inner)

    # ------------------------------------------------------------ for the stream below

    def connection_made(self, transport: Any) -> None:
        """The stream is open."""
        self._stream = transport
        below = transport.get_extra_info("socket")
        if _QUICKACK is not None and below is not None and below.family in {socket.AF_INET, socket.AF_INET6}:
            self._socket = below
        self.inner.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes."""
        self._heard()
        if len(data) <= PIECE:
            self._receive(data)
            self._settle_later()
            return
        for start in range(0, len(data), PIECE):
            self._receive(data[start : start + PIECE])

    def eof_received(self) -> bool | None:
        """No more bytes."""
        ended: bool | None = self.inner.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._socket = None
        self._gathered.clear()
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Whoever writes is bounded by the channels' windows."""

    def resume_writing(self) -> None:
        """See above."""

    # ------------------------------------------------------------ for asyncssh above

    def write(self, data: bytes) -> None:
        """Send, with whatever else is small and said in this turn of the loop."""
        if len(data) <= SMALL:
            self._gathered.append(data)
            self._settle_later()
        elif self._stream is not None:
            self._flush()
            self._wrote = True
            self._stream.write(data)

    def close(self) -> None:
        """Close after what was written was sent."""
        if self._stream is not None:
            self._flush()
            self._stream.close()

    def abort(self) -> None:
        """Close at once; but what was written in this turn, a farewell, is handed on before."""
        if self._stream is not None:
            self._flush()
            self._loop.call_soon(self._stream.abort)

    def is_closing(self) -> bool:
        """Closing or closed."""
        return self._stream is None or self._stream.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The stream's."""
        below: Any = self._stream
        return default if below is None else below.get_extra_info(name, default)

    # ------------------------------------------------------------ inside

    def _settle_later(self) -> None:
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """At the end of a turn."""
        self._settling = False
        self._flush()
        if not self._wrote and self._socket is not None and not self.is_closing():
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        self._wrote = False

    def _flush(self) -> None:
        if self._gathered and self._stream is not None:
            said, self._gathered = self._gathered, []
            self._wrote = True
            if not self._stream.is_closing():
                self._stream.write(said[0] if len(said) == 1 else b"".join(said))


def without_ignored(connection: Any) -> None:
    """Have a connection send no empty SSH_MSG_IGNORE before each packet.

    asyncssh does so against an attack on CBC ciphers (RFC 4251, 9.3.1), which we never offer; it doubles the packets. It calls the method
    for it on itself, so that one can be given that leaves them out.
    """
    send = getattr(connection, "send_packet", None)
    if send is None:
        return

    def send_packet(kind: int, *arguments: bytes, handler: Any = None) -> None:
        if kind != _IGNORE:
            send(kind, *arguments, handler=handler)

    connection.send_packet = send_packet


def bounded(connection: Any, most: int, too_much: Callable[[], object]) -> None:
    """Have ``too_much`` called when more than ``most`` bytes wait for the other end to read them. asyncssh itself lets them pile up."""
    transport = getattr(connection, "_transport", None)
    if transport is not None:
        transport.set_write_buffer_limits(high=most)
        connection.pause_writing = too_much


def without_packet_log(logger: Any) -> None:
    """Have a connection or channel prepare no log line for each packet: they are only written at asyncssh's debug level 3, which we never set."""
    logger.log_sent_packet = logger.log_received_packet = _nothing


def _nothing(*_: object) -> None:
    """Log nothing."""
