"""One SSH connection for each identity on a login node, made when somebody needs it and shared by everybody who does.

A connection that is lost is made again when it is next needed, with a growing pause after failures, during which whoever
asks is told at once what is wrong and when the next try is. A connection that gives no channel is *retired*: nothing new is
put on it, what runs on it may end. A command is tried a second time only if it was certainly not started.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from batchhub.core.errors import TunnelError, Unreachable
from batchhub.core.ports import Clock, H
from batchhub.transport.answer import Answer
from batchhub.transport.backoff import Backoff
from batchhub.transport.connection import Connection, NotOpened
from batchhub.transport.settings import SSHSettings
from batchhub.transport.shell import check_account

T = TypeVar("T")

_CLOSE_TIMEOUT = 2.0
_GROW_AFTER = 50
_REAP_PAUSES = (0.05, 0.2, 0.5)
"""Seconds. sshd frees a session only when it has reaped the child, somewhat after it told us that the channel is closed."""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A connection as people may see it. ``state``: ``connecting``, ``up``, ``idle``, ``down`` (not tried), ``backing off``."""

    host: str
    identity: str
    state: str
    since: datetime
    channels: int = 0
    words: str = ""

    def __str__(self) -> str:
        text = f"{self.state} since {self.since:%Y-%m-%dT%H:%M:%SZ}, {self.channels} channels"
        return f"{text}: {self.words}" if self.words else text


class Slots:
    """A semaphore whose limit follows what the other side lets in, and which can be closed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._most = limit
        self._worked = 0
        self.used = 0
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> bool:
        """Wait for a slot; False when there will be none here any more."""
        while not self._closed and self.used >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was our turn: pass it on
                raise
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        if self._closed:
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """Give a slot back."""
        self.used -= 1
        self._wake()

    def refused(self) -> None:
        """The other side did not let the newest one in: no more at a time than there were before it."""
        self.limit = max(1, min(self.limit, self.used - 1))
        self._worked = 0

    def worked(self) -> None:
        """One went well. A refusal may have been a matter of timing (sshd had not reaped a child), so the limit grows again."""
        self._worked += 1
        if self._worked >= _GROW_AFTER and self.limit < self._most:
            self.limit += 1
            self._worked = 0
            self._wake()

    def close(self) -> None:
        """Send everybody who waits elsewhere."""
        self._closed = True
        while self._waiting:
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


@dataclass(slots=True)
class _Link:
    """An identity's current connection, and what is known when there is none."""

    identity: str
    account: str
    label: str
    since: datetime
    slots: Slots
    backoff: Backoff
    connection: Connection | None = None
    opening: asyncio.Task[None] | None = None
    idle: asyncio.TimerHandle | None = None


class SSHPool:
    """The connections to one login node. ``user`` is an account to act as, ``None`` the service.

    Implements ``tunnel.login.Pool``. ``chance`` gives numbers in [0, 1) for jitter.
    """

    def __init__(self, settings: SSHSettings, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._links: dict[str, _Link] = {}
        self._all: set[Connection] = set()
        self._handshakes = asyncio.Semaphore(settings.max_handshakes)
        self._closed = False

    @property
    def host(self) -> str:
        """The login node's name, for sentences."""
        return self._settings.host

    async def execute(
        self, user: str | None, line: Callable[[float], str], data: bytes, limit: int, seconds: float
    ) -> Answer:
        """Run a login-shell line; ``line`` is called with the seconds that are left when its turn has come.

        Waiting for a connection and for a turn counts. Raises Unreachable.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        retried = False
        pauses = iter(_REAP_PAUSES)
        while True:
            try:
                async with asyncio.timeout_at(ends):
                    link, connection, slots = await self._turn(user)
            except TimeoutError as error:
                raise Unreachable(f"{self._label(user)} had no time for a command within {seconds:g} s.") from error
            try:
                left = max(0.1, ends - loop.time())
                answer = await connection.execute(line(left), data, limit, left)
            except NotOpened as refused:
                if not refused.silent and slots.used > 1:
                    slots.refused()  # sshd's MaxSessions
                    continue
                pause = next(pauses, None)
                if not refused.silent and connection.served and pause is not None and loop.time() + pause < ends:
                    await asyncio.sleep(pause)
                    continue
                self._retire(link, connection)
                if retried or loop.time() >= ends:
                    raise
                retried = True
            else:
                link.backoff.worked()
                slots.worked()
                return answer
            finally:
                slots.give()

    async def open_stream(
        self, user: str | None, handler: Callable[[], H], host: str, port: int, seconds: float = 10.0
    ) -> H:
        """A TCP stream from the login node to ``host``. Raises TunnelError for that hop, Unreachable for the SSH hop."""
        return await self._stream(user, lambda connection: connection.stream(handler, host, port, seconds))

    async def open_unix(self, user: str | None, handler: Callable[[], H], path: str, seconds: float = 10.0) -> H:
        """A stream to a Unix socket on the login node. Raises as :meth:`open_stream`."""
        return await self._stream(user, lambda connection: connection.unix_stream(handler, path, seconds))

    def connections(self) -> tuple[ConnectionView, ...]:
        """What there is to see."""
        return tuple(self._view(link) for link in self._links.values())

    def state(self) -> Mapping[str, str]:
        """The same as text: ``alice@login1:22`` -> ``up since …, 3 channels``."""
        return {f"{link.label}:{self._settings.port}": str(self._view(link)) for link in self._links.values()}

    async def close(self) -> None:
        """Close every connection, and whatever runs on them."""
        self._closed = True
        openings = [link.opening for link in self._links.values() if link.opening is not None]
        for opening in openings:
            opening.cancel()
        for link in self._links.values():
            link.slots.close()
            if link.idle is not None:
                link.idle.cancel()
        connections = list(self._all)
        for connection in connections:
            connection.close()
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(each.wait_closed(), name=f"ssh close {each.label}") for each in connections]
        if openings or waits:
            _, late = await asyncio.wait([*openings, *waits], timeout=_CLOSE_TIMEOUT)
            for task in late:
                task.cancel()

    # ------------------------------------------------------------ inside

    async def _stream(self, user: str | None, opening: Callable[[Connection], Awaitable[T]]) -> T:
        retried = False
        while True:
            link = self._link(user)
            connection = await self._connected(link)
            try:
                stream = await opening(connection)
            except TunnelError:
                link.backoff.worked()
                raise
            except NotOpened:
                self._retire(link, connection)
                if retried:
                    raise
                retried = True
            else:
                link.backoff.worked()
                return stream

    async def _turn(self, user: str | None) -> tuple[_Link, Connection, Slots]:
        link = self._link(user)
        while True:
            connection = await self._connected(link)
            slots = link.slots
            if await slots.take():
                if link.connection is connection and connection.alive:
                    return link, connection, slots
                slots.give()

    def _link(self, user: str | None) -> _Link:
        if self._closed:
            raise Unreachable(f"The connections to {self.host} are closed.")
        if user is not None:
            check_account(user, self._settings.wide_accounts)
        identity = self._settings.identity(user)
        link = self._links.get(identity)
        if link is None:
            account = "" if user is None or self._settings.sudo else user
            label = f"{identity or '(service)'}@{self.host}"
            slots = Slots(self._settings.max_sessions)
            link = _Link(identity, account, label, self._clock(), slots, Backoff(self._chance))
            self._links[identity] = link
        return link

    def _label(self, user: str | None) -> str:
        return self._link(user).label

    async def _connected(self, link: _Link) -> Connection:
        """The link's live connection; made once, however many ask."""
        while True:
            if link.connection is not None and link.connection.alive:
                return link.connection
            if link.opening is None:
                loop = asyncio.get_running_loop()
                link.backoff.check(loop.time())
                link.opening = loop.create_task(self._open(link), name=f"ssh connect {link.label}")
                link.opening.add_done_callback(_read)
            opening = link.opening
            try:
                await asyncio.shield(opening)
            except asyncio.CancelledError:
                if opening.cancelled() and self._closed:
                    raise Unreachable(f"The connections to {self.host} are closed.") from None
                raise

    async def _open(self, link: _Link) -> None:
        connection = Connection(self._settings, link.label, lambda changed: self._changed(link, changed))
        loop = asyncio.get_running_loop()
        try:
            async with self._handshakes:
                await connection.connect(link.identity, link.account)
            if not connection.alive:
                raise Unreachable(f"{link.label}: the connection was lost at once ({connection.lost}).")
        except Unreachable as error:
            link.backoff.failed(str(error), loop.time(), self._clock())
            raise
        else:
            self._all.add(connection)
            link.connection, link.slots = connection, Slots(self._settings.max_sessions)
            link.since = self._clock()
            self._when_idle(link, connection)
        finally:
            link.opening = None

    def _changed(self, link: _Link, connection: Connection) -> None:
        """Called by a connection that was lost or has no channel left."""
        if connection.lost is not None:
            self._all.discard(connection)
            if link.connection is connection:
                self._forget(link)
                if not connection.served and not self._closed:
                    # Up, but of no use to anybody: do not make it again and again.
                    words = f"{link.label}: the connection was lost ({connection.lost})."
                    link.backoff.failed(words, asyncio.get_running_loop().time(), self._clock())
        elif link.connection is not connection:
            connection.close()
        else:
            self._when_idle(link, connection)

    def _retire(self, link: _Link, connection: Connection) -> None:
        if link.connection is connection:
            self._forget(link)
        if connection.channels == 0:
            connection.close()

    def _forget(self, link: _Link) -> None:
        link.connection, link.since = None, self._clock()
        link.slots.close()
        if link.idle is not None:
            link.idle.cancel()

    def _when_idle(self, link: _Link, connection: Connection) -> None:
        """Close a person's connection after a while; the service's stays."""
        if link.idle is not None:
            link.idle.cancel()
        if link.account:
            loop = asyncio.get_running_loop()
            link.idle = loop.call_later(self._settings.idle_seconds, self._idle, link, connection)

    def _idle(self, link: _Link, connection: Connection) -> None:
        if link.connection is connection and connection.channels == 0 and link.slots.used == 0:
            self._forget(link)
            connection.close()
            if self._links.get(link.identity) is link:
                del self._links[link.identity]

    def _view(self, link: _Link) -> ConnectionView:
        state, since, words = "down", link.since, ""
        channels = link.connection.channels if link.connection is not None else 0
        if link.connection is not None:
            state = "up" if channels else "idle"
        elif link.opening is not None:
            state = "connecting"
        elif link.backoff.since is not None:
            state, since, words = "backing off", link.backoff.since, link.backoff.words
        return ConnectionView(self.host, link.identity, state, since, channels, words)


def _read(task: asyncio.Task[None]) -> None:
    """Whoever waited has the exception; nobody may be waiting any more."""
    if not task.cancelled():
        task.exception()
