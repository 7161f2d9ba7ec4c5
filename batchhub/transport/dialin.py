"""One SSH connection that a job made to us: what it may ask for, and the streams that we open in it. asyncssh calls the class."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import asyncssh

from batchhub.core.errors import TunnelError
from batchhub.core.handshake import OFFER_HOST, OFFER_PORT
from batchhub.core.ports import Clock, H
from batchhub.transport.admission import AdmissionSettings
from batchhub.transport.connection import STREAM_PACKET, STREAM_WINDOW
from batchhub.transport.line import bounded, without_ignored, without_packet_log
from batchhub.transport.sessions import StreamSession, reason

log = logging.getLogger(__name__)

_KEY_TRIES = 4
"""Keys that a connection may show; a job has one."""
_STRIKES = 5
"""Refused requests after which a connection is closed: it is no launcher of ours."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Seconds, unless said otherwise.

    ``handshake``: from a connection's first byte to its offer. ``keepalive_interval`` and ``keepalive_count``: so often a job is asked whether it
    lives, and so many questions in a row may go without an answer. ``streams``: the most at a time to one job. ``patience``: how long a stream waits
    for a job that is about to dial in. ``open``: how long a job may take to open a stream. ``unread``: bytes that may wait for a job to read them.
    """

    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    handshake: float = 20.0
    keepalive_interval: float = 15.0
    keepalive_count: int = 3
    streams: int = 200
    patience: float = 1.5
    open: float = 10.0
    unread: int = 64 * 1024 * 1024


class Keeper(Protocol):
    """What a connection asks of the gate."""

    settings: GateSettings
    clock: Clock

    def admit(self, address: str) -> bool:
        """Whether its handshake may begin."""

    def settled(self, address: str) -> None:
        """It has proved who it is, or is gone."""

    def knows(self, offer: str, key: bytes) -> bool:
        """Whether this is the key of this offer, now."""

    def proved(self, dialled: JobConnection) -> None:
        """It has signed in, and makes its offer next."""

    def take(self, dialled: JobConnection) -> Awaitable[bool]:
        """It makes its offer: whether that stands."""

    def idle(self, dialled: JobConnection) -> None:
        """Its last stream has ended."""

    def lost(self, dialled: JobConnection) -> None:
        """It is gone."""


class JobConnection(asyncssh.SSHServer):
    """A connection, from its first byte. ``offer`` is empty until it has proved to hold that offer's ``key``."""

    def __init__(self, keeper: Keeper) -> None:
        self.offer = ""
        self.key = b""
        self.since: datetime | None = None
        """When its offer was taken."""
        self.streams = 0
        self.alive = True
        self._keeper = keeper
        self.label = ""
        """Its name in logs and errors."""
        self._ssh: asyncssh.SSHServerConnection | None = None
        self._address = ""
        self._unknown = False
        self._shown = 0
        self._strikes = 0
        self._proved = ("", b"")
        self._timer: asyncio.TimerHandle | None = None
        self._openings: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------ its life

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """TCP is connected; nothing was said yet."""
        peer = conn.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else "an unknown address"
        self._address = address
        self.label = f"from {address}"
        if not self._keeper.admit(address):
            self.alive = False
            conn.abort()
            return
        self._ssh = conn
        without_ignored(conn)
        without_packet_log(conn)
        self._unknown = True
        loop = asyncio.get_running_loop()
        # A stream's window bounds what waits for it, but that is the job's word; and answers to what it asks have no window.
        bounded(
            conn, self._keeper.settings.unread, lambda: loop.call_soon(self.cut, "it does not read what it is sent")
        )
        self._timer = loop.call_later(self._keeper.settings.handshake, self.cut, "it made no offer in time")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        alive, self.alive = self.alive, False
        self._ssh = None
        self._settle()
        if self._timer is not None:
            self._timer.cancel()
        if alive and self.since is not None:
            log.info("The connection %s has ended: %s.", self.label, reason(exc) if exc else "closed")
        elif alive and exc is not None:
            log.debug("A connection %s has ended before it made an offer: %s.", self.label, reason(exc))
        self._keeper.lost(self)

    def cut(self, words: str) -> None:
        """End it at once, with every stream in it."""
        if self._ssh is not None:
            log.info("The connection %s is cut: %s.", self.label, words)
            self._ssh.disconnect(asyncssh.DISC_BY_APPLICATION, words)
            self._ssh = None
        if self.alive:
            self.alive = False
            self._keeper.lost(self)

    def _settle(self) -> None:
        if self._unknown:
            self._unknown = False
            self._keeper.settled(self._address)

    # ------------------------------------------------ who it is

    def begin_auth(self, username: str) -> bool:
        """Nobody comes in without a key."""
        del username
        return True

    def public_key_auth_supported(self) -> bool:
        """By key; by nothing else."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Asked once about the key and once more with its signature, which asyncssh checks."""
        self._shown += 1
        if self._shown > 2 * _KEY_TRIES:
            self.cut("it has shown too many keys")
            return False
        if not self._keeper.knows(username, key.public_data):
            log.info("A connection %s was refused: it has no key of offer %.64r.", self.label, username)
            return False
        self._proved = (username, key.public_data)
        return True

    def auth_completed(self) -> None:
        """It holds the key that was accepted last."""
        name = self._ssh.get_extra_info("username") if self._ssh is not None else None
        offer, key = self._proved
        if name != offer or not self._keeper.knows(offer, key):
            self.cut("its offer was withdrawn")
            return
        self.offer, self.key = offer, key
        self.label = f"of the job's offer {offer}"
        self._settle()
        self._keeper.proved(self)

    # ------------------------------------------------ what it asks for

    async def server_requested(self, listen_host: str, listen_port: int) -> asyncssh.SSHListener | bool:
        """``ssh -R``: the one thing that is granted, once, and with a listener that listens nowhere."""
        if (listen_host, listen_port) != (OFFER_HOST, OFFER_PORT):
            return self._refuse(f"a forwarding of {listen_host[:60]!r} port {listen_port}")
        if self.since is not None:
            return self._refuse("a second forwarding")
        self.since = self._keeper.clock()
        if not await self._keeper.take(self):
            self.cut("its offer was withdrawn")
            return False
        if self._timer is not None:
            self._timer.cancel()
        return _Nowhere(self)

    def session_requested(self) -> bool:
        """Shells, commands, files."""
        return self._refuse("a session")

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """``ssh -L``, ``-W``."""
        del orig_host, orig_port
        return self._refuse(f"a connection to {dest_host[:60]!r} port {dest_port}")

    def unix_connection_requested(self, dest_path: str) -> bool:
        """The same to a Unix socket."""
        return self._refuse(f"a connection to the socket {dest_path[:60]!r}")

    def unix_server_requested(self, listen_path: str) -> bool:
        """``ssh -R`` of a Unix socket."""
        return self._refuse(f"a forwarding of the socket {listen_path[:60]!r}")

    def tun_requested(self, unit: int | None) -> bool:
        """``ssh -w``."""
        return self._refuse(f"a network device {unit}")

    def tap_requested(self, unit: int | None) -> bool:
        """The same, of the other kind."""
        return self._refuse(f"a network device {unit}")

    def _refuse(self, what: str) -> bool:
        self._strikes += 1
        log.warning("The connection %s asked for %s, which is refused.", self.label, what)
        if self._strikes >= _STRIKES:
            self.cut("it asks for what is not given")
        return False

    # ------------------------------------------------ streams

    def channel_opened(self) -> None:
        """One more stream."""
        self.streams += 1

    def channel_closed(self) -> None:
        """One fewer."""
        self.streams -= 1
        if not self.streams:
            self._keeper.idle(self)

    async def open(self, factory: Callable[[], H]) -> H:
        """A stream to the application. Raises TunnelError."""
        settings = self._keeper.settings
        if self._ssh is None:
            raise TunnelError("The job's connection to this proxy was lost a moment ago.")
        if self.streams + len(self._openings) >= settings.streams:
            raise TunnelError(f"The job has {settings.streams} streams open already.")
        session = StreamSession(self, factory)
        creating = self._ssh.create_connection(
            lambda: session,
            OFFER_HOST,
            OFFER_PORT,
            "127.0.0.1",
            0,
            window=STREAM_WINDOW,
            max_pktsize=STREAM_PACKET,
        )
        # Never cancelled: asyncssh would leave the channel behind, open. A session that was abandoned closes it.
        opening = asyncio.get_running_loop().create_task(creating, name=f"stream {self.label}")
        self._openings.add(opening)
        opening.add_done_callback(self._opened)
        try:
            await asyncio.wait({opening}, timeout=settings.open)
            if not opening.done():
                raise TunnelError(f"The job did not open a stream within {settings.open:g} s.")
            error = opening.exception()
            if isinstance(error, asyncssh.ChannelOpenError) and self.alive:
                raise TunnelError(f"The application does not take the job's connection: {reason(error)}.") from error
            if error is not None:
                raise TunnelError(f"The job's connection to this proxy was lost: {reason(error)}.") from error
        except BaseException:
            session.abandon()
            raise
        return session.opened()

    def _opened(self, task: asyncio.Task[Any]) -> None:
        self._openings.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has read it; nobody may be waiting any more


class _Nowhere(asyncssh.SSHListener):
    """The listener of an offer: there is no port. A job that takes its offer back has nothing more to say."""

    def __init__(self, dialled: JobConnection) -> None:
        super().__init__()
        self._dialled = dialled

    def close(self) -> None:
        """The offer is taken back, or the connection is gone."""
        self._dialled.cut("it took its offer back")
