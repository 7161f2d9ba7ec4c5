"""One SSH connection for each identity on a login node, made when somebody needs it and shared by everybody who does.

A connection that is lost is made again when it is next needed, with a growing pause after failures, during which whoever
asks is told at once what is wrong and when the next try is. A connection that gives no channel is *retired*: nothing new is
put on it, what runs on it may end. A command is tried a second time only if it was certainly not started.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from batchhub.core.errors import ConfigError, TunnelError, Unreachable
from batchhub.core.ports import Clock, H
from batchhub.transport.answer import Answer
from batchhub.transport.asking import sign_in_as
from batchhub.transport.backoff import Backoff
from batchhub.transport.certificates import Sign
from batchhub.transport.connection import Connection, Dial, NotOpened, NoWay
from batchhub.transport.credentials import Own, Proof, Refusal, Unproven
from batchhub.transport.settings import SSHSettings
from batchhub.transport.shell import check_account
from batchhub.transport.slots import Slots

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSE_TIMEOUT = 2.0
_LONGEST_PAUSE = 20.0
"""Seconds. So late, at most, is it noticed that a login node is back; a try costs it one TCP connection."""
_REFUSED_PAUSES = (10.0, 120.0)
"""Seconds, the first and the longest, after a login node refused a person. Each try counts against the address that is everybody's: sshd's
PerSourcePenalties (OpenSSH 9.8), fail2ban."""
_LONGEST_LIFE = timedelta(hours=1)
"""sshd asks who somebody is when they connect, and not again. So a person's connection is made again at times: whoever took their key away, or
was revoked or shut out there, is not acted as for much longer."""
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


@dataclass(slots=True)
class Counts:
    """What became of connections: ``connects`` were made, ``failures`` were not, ``losses`` were made and then lost."""

    connects: int = 0
    failures: int = 0
    losses: int = 0


@dataclass(slots=True)
class Shared:
    """What the pools of several hosts have in common: a bound on the connections being made, and the counts."""

    handshakes: asyncio.Semaphore
    counts: Counts = field(default_factory=Counts)


_Key = tuple[str, str]
"""SSH user and account. Without the account whoever is called as the service would have its connection."""


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

    @property
    def key(self) -> _Key:
        """Which of a pool's it is."""
        return self.identity, self.account


class SSHPool:
    """The connections to one login node, or ``via`` that to one compute node. ``user`` is an account to act as, ``None`` the service.

    Implements ``tunnel.login.Pool``. ``chance`` gives numbers in [0, 1) for jitter. ``sign`` makes each connection's credential where
    ``settings.sign_in`` is ``ca``. Raises ConfigError where it is and nothing signs. ``own`` knows what people sign in with where it is theirs;
    without it they have no connections here.
    """

    def __init__(
        self,
        settings: SSHSettings,
        clock: Clock,
        chance: Callable[[], float] = random.random,
        *,
        via: Dial | None = None,
        shared: Shared | None = None,
        sign: Sign | None = None,
        own: Own | None = None,
    ) -> None:
        if (settings.sign_in == "ca") != (sign is not None):
            raise ConfigError(
                f"{settings.host}: certificates need an authority, and sign_in = 'ca'; here is one without the other."
            )
        self._settings = settings
        self._sign = sign
        self._own = own
        self._clock = clock
        self._chance = chance
        self._via = via
        self._links: dict[_Key, _Link] = {}
        self._all: dict[Connection, _Key] = {}
        self._shared = shared or Shared(asyncio.Semaphore(settings.max_handshakes))
        self._asking = 0
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

    def counters(self) -> Mapping[str, int]:
        """``connects``, ``failures`` and ``losses`` since the start."""
        return asdict(self._shared.counts)

    def adopt(self, user: str, connection: Connection) -> None:
        """Use a connection that has signed in as this person. It is not closed for being idle: it may not be possible to make another."""
        link = self._link(user)
        if link.connection is not None:
            self._retire(link, link.connection)
        connection.kept = True
        connection.on_change = lambda changed: self._changed(link, changed)
        link.backoff.worked()
        self._up(link, connection)

    def is_up(self, user: str) -> bool:
        """Whether there is a connection of this person's now."""
        link = self._links.get(self._key(user))
        return link is not None and link.connection is not None and link.connection.alive

    def renew(self, user: str) -> None:
        """Somebody has something new to sign in with: what failed before says nothing any more."""
        if (link := self._links.get(self._key(user))) is not None:
            link.backoff.worked()

    def let_go(self, user: str) -> None:
        """End a person's connection now, with whatever runs on it."""
        key = self._key(user)
        if (link := self._links.pop(key, None)) is not None and link.connection is not None:
            self._forget(link)
        # What was retired and still runs is among them.
        for connection in [connection for connection, whose in self._all.items() if whose == key]:
            connection.close()

    @property
    def busy(self) -> bool:
        """Something runs through it, or is about to."""
        return self._asking > 0 or any(connection.channels for connection in self._all)

    def tidy(self) -> bool:
        """Forget failures whose pause is over. Whether nothing is left: no connection, nobody who asks for one, no pause."""
        if self._asking:
            return False
        now = asyncio.get_running_loop().time()
        for link in list(self._links.values()):
            if link.connection is None and link.opening is None and link.backoff.over(now):
                del self._links[link.key]
        return not (self._links or self._all)

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
        self._asking += 1
        try:
            return await self._streaming(user, opening)
        finally:
            self._asking -= 1

    async def _streaming(self, user: str | None, opening: Callable[[Connection], Awaitable[T]]) -> T:
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
            old = bool(link.account) and self._clock() - link.since >= _LONGEST_LIFE
            if old and link.connection is not None and not link.connection.kept:
                self._retire(link, link.connection)
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
        identity, account = key = self._key(user)
        link = self._links.get(key)
        if link is None:
            label = f"{identity or '(service)'}@{self.host}"
            slots = Slots(self._settings.max_sessions)
            backoff = Backoff(self._chance, longest=_LONGEST_PAUSE)
            link = _Link(identity, account, label, self._clock(), slots, backoff)
            self._links[key] = link
        return link

    def _label(self, user: str | None) -> str:
        return self._link(user).label

    def _key(self, user: str | None) -> _Key:
        return self._settings.identity(user), "" if user is None or self._settings.sudo else user

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
        connection = Connection(
            self._settings, link.label, lambda changed: self._changed(link, changed), self._via, self._sign
        )
        try:
            proof = await self._proof(link)
            # The service's is one, and asks about everybody's jobs: it does not wait behind people's.
            async with self._shared.handshakes if link.account else nullcontext():
                await self._sign_in(link, connection, proof)
            if not connection.alive:
                raise Unreachable(f"{link.label}: the connection was lost at once ({connection.lost}).")
        except (NoWay, Unproven):
            raise  # the way there has a pause of its own, and whoever has nothing to sign in with was not refused
        except Unreachable as error:
            # A node may refuse for a moment whoever's job is about to begin there (pam_slurm_adopt).
            refused = isinstance(error, Refusal) and bool(link.account) and self._via is None
            self._failed(link, str(error), _REFUSED_PAUSES if refused else None)
            raise
        else:
            if link.connection is not None and link.connection.alive:
                connection.close()  # another was adopted meanwhile
            else:
                self._up(link, connection)
        finally:
            link.opening = None

    async def _proof(self, link: _Link) -> Proof | None:
        """Before it is this one's turn for a handshake, which others wait for: a database or KDC may be slow. ``None``: the service's keys do."""
        if not self._is_own(link):
            return None
        if self._own is None:
            raise Unproven(f"{link.label}: nobody signs in as themselves here.")
        return await self._own.proof(link.account)

    async def _sign_in(self, link: _Link, connection: Connection, proof: Proof | None) -> None:
        if not self._is_own(link):
            await connection.connect(link.identity, link.account)
            return
        self._check_still_theirs(link)
        assert self._own is not None
        assert proof is not None
        await sign_in_as(connection, link.identity, link.account, self._own, proof)
        try:
            self._check_still_theirs(link)
        except Unproven:
            connection.close()
            raise

    def _is_own(self, link: _Link) -> bool:
        return bool(link.account) and self._settings.personal

    def _check_still_theirs(self, link: _Link) -> None:
        if self._links.get(link.key) is not link:  # let go meanwhile
            raise Unproven(f"{link.label}: signed out.")

    def _up(self, link: _Link, connection: Connection) -> None:
        self._shared.counts.connects += 1
        log.info("The SSH connection %s is up.", link.label)
        self._all[connection] = link.key
        link.connection, link.slots = connection, Slots(self._settings.max_sessions)
        link.since = self._clock()
        self._when_idle(link, connection)

    def _failed(self, link: _Link, words: str, pauses: tuple[float, float] | None = None) -> None:
        self._shared.counts.failures += 1
        if link.backoff.since is None:
            log.warning("There is no SSH connection %s: %s", link.label, words)
        link.backoff.failed(words, asyncio.get_running_loop().time(), self._clock(), pauses)

    def _changed(self, link: _Link, connection: Connection) -> None:
        """Called by a connection that was lost or has no channel left."""
        if connection.lost is not None:
            if connection in self._all and not connection.closing:
                self._shared.counts.losses += 1
                log.warning("The SSH connection %s was lost: %s.", link.label, connection.lost)
            self._all.pop(connection, None)
            if link.connection is connection:
                self._forget(link)
                if not connection.served and not self._closed:
                    # Up, but of no use to anybody: do not make it again and again.
                    self._failed(link, f"{link.label}: the connection was lost ({connection.lost}).")
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
        if link.account and not connection.kept:
            loop = asyncio.get_running_loop()
            link.idle = loop.call_later(self._settings.idle_seconds, self._idle, link, connection)

    def _idle(self, link: _Link, connection: Connection) -> None:
        if link.connection is connection and connection.channels == 0 and link.slots.used == 0:
            self._forget(link)
            connection.close()
            if self._links.get(link.key) is link:
                del self._links[link.key]

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
