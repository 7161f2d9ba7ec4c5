"""The short way of a raw stream: while both directions are open, a message costs one call in and one call out.

After 101 nothing is read any more, only passed on. So each side's transport is given a pipe as its protocol, which writes what comes to the
other side and counts it, where the connections themselves would take four calls and a look at the clock. What is rare - a pause, an end, a
loss - is told to the connection whose place the pipe took, and with the first end of a direction the connections take their places again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from batchhub.core.ports import Stream
from batchhub.proxy.book import Route
from batchhub.proxy.context import Context

Write = Callable[[bytes], None]


class Connection(Protocol):
    """One side's connection, whose place the pipe takes."""

    @property
    def stream(self) -> Stream:
        """What its bytes go through."""

    def eof_received(self) -> bool | None:
        """There will be no more from here."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""

    def pause_writing(self) -> None:
        """It does not keep up."""

    def resume_writing(self) -> None:
        """It does again."""


class Pipe(asyncio.Protocol):
    """From one side to the other. ``size`` is what went through."""

    __slots__ = ("_connection", "_write", "size")

    def __init__(self, connection: Connection, write: Write) -> None:
        self.size = 0
        self._connection = connection
        self._write = write

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.size += len(data)
        try:
            self._write(data)
        except RuntimeError:  # uvloop's word for a transport that was closed in this turn of the loop
            return

    def eof_received(self) -> bool | None:
        """See Connection."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See Connection."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """See Connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """See Connection."""
        self._connection.resume_writing()


class ClientPipe(Pipe):
    """From the client: what it sends is activity, as in configurable-http-proxy; what it is sent is none."""

    __slots__ = ("_context", "_use")

    def __init__(self, connection: Connection, write: Write, context: Context, route: Route) -> None:
        super().__init__(connection, write)
        self._context = context
        self._use = route.use

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.size += len(data)
        self._use.at = self._context.now
        try:
            self._write(data)
        except RuntimeError:  # as in Pipe
            return


class Shortcut:
    """The two pipes between a client and an application."""

    __slots__ = ("_client", "_inward", "_outward", "_up")

    def __init__(self, client: Connection, up: Connection, context: Context, route: Route) -> None:
        self._client, self._up = client, up
        self._inward = ClientPipe(client, up.stream.write, context, route)
        self._outward = Pipe(up, client.stream.write)
        _hand_over(client.stream, self._inward)
        _hand_over(up.stream, self._outward)

    def close(self) -> tuple[int, int]:
        """The connections take their places again. Returns how many bytes came from the client and went to it."""
        _hand_over(self._client.stream, self._client)
        _hand_over(self._up.stream, self._up)
        return self._inward.size, self._outward.size


def _hand_over(stream: Stream, protocol: object) -> None:
    """Give a stream another protocol, if it can be given one: a socket can, an SSH channel cannot."""
    give = getattr(stream, "set_protocol", None)
    if give is not None:
        give(protocol)
