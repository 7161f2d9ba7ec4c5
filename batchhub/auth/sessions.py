"""Hub sessions: a signed cookie in the browser, a row in the database, a short-lived copy in memory.

The cookie holds a random id and its HMAC, so that a forged one costs no database query; the database holds only the id's hash, so that
a stolen copy of it signs nobody in. A session ends when it is idle, when it is old, and at once when it is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.core.model import UserName
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

HANDLE = 16
"""Characters of a session's id by which its owner and admins tell it from that person's others."""
MOST = 200
"""Sessions that one person may have at once."""
_COOKIE = re.compile(r"1\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})")


class StoredSession(Protocol):
    """A session as the store keeps it. ``id`` is the hash of the secret in the cookie."""

    @property
    def id(self) -> str:
        """SHA-256, hex."""

    @property
    def user(self) -> UserName:
        """Whose."""

    @property
    def created(self) -> datetime:
        """At sign-in."""

    @property
    def last_seen(self) -> datetime:
        """Last noted use."""

    @property
    def expires(self) -> datetime:
        """Moves with use."""

    @property
    def absolute(self) -> datetime:
        """Never moves."""

    @property
    def address(self) -> str:
        """Where it was begun from."""

    @property
    def agent(self) -> str:
        """The browser's own description."""

    @property
    def revoked(self) -> datetime | None:
        """When it was ended, if it was."""


class SessionStore(Protocol):
    """What sessions need of the database. Every method raises StoreUnavailable when it cannot be asked."""

    def add_session(
        self,
        *,
        id: str,  # noqa: A002
        user: str,
        created: datetime,
        expires: datetime,
        absolute: datetime,
        address: str,
        agent: str,
    ) -> Awaitable[StoredSession]:
        """Insert. Raises NotFound for an unknown user."""

    def session(self, id: str) -> Awaitable[StoredSession | None]:  # noqa: A002
        """By id."""

    def sessions_of(self, user: str) -> Awaitable[Sequence[StoredSession]]:
        """A user's sessions that were not revoked, last used first."""

    def touch_session(self, id: str, *, seen: datetime, expires: datetime) -> Awaitable[bool]:  # noqa: A002
        """Note a use; false if it was revoked or is not there."""

    def revoke_session(self, id: str, now: datetime) -> Awaitable[bool]:  # noqa: A002
        """End it."""

    def revoke_sessions_of(self, user: str, now: datetime, *, keep: str | None = None) -> Awaitable[Sequence[str]]:
        """End a user's sessions; the ids that ended now."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How long sessions live.

    ``idle``: without use; ``absolute``: from sign-in, used or not. ``touch_every``: a use is noted in the database at most that often.
    ``trust``: how long the copy in memory is believed, which is how late another hub process's revocation may be noticed.
    """

    idle: timedelta = timedelta(hours=24)
    absolute: timedelta = timedelta(days=14)
    touch_every: timedelta = timedelta(minutes=5)
    trust: timedelta = timedelta(seconds=30)
    cache_size: int = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is good now. ``id`` is no secret: it names the session to the proxy, in lists and in logs."""

    id: str
    user: UserName
    created: datetime
    last_seen: datetime
    expires: datetime
    absolute: datetime
    address: str = ""
    agent: str = field(default="", repr=False)

    @property
    def handle(self) -> str:
        """The beginning of the id, for pages and the API: the whole one is told to the proxy alone."""
        return self.id[:HANDLE]

    @property
    def ends(self) -> datetime:
        """When it ends if it is not used any more."""
        return min(self.expires, self.absolute)

    def good(self, now: datetime) -> bool:
        """Neither idle nor old."""
        return now < self.expires and now < self.absolute


async def _nobody(ids: Sequence[str]) -> None:
    del ids


class Sessions:
    """All sessions of the hub. ``revoked`` is told the ids that ended, after the database knows (the proxy closes their sockets)."""

    def __init__(
        self,
        store: SessionStore,
        key: bytes,
        clock: Clock,
        settings: SessionSettings | None = None,
        revoked: Callable[[Sequence[str]], Awaitable[None]] = _nobody,
    ) -> None:
        self._store = store
        self._key = hmac.digest(key, b"batchhub session cookie", "sha256")
        self._clock = clock
        self._settings = settings or SessionSettings()
        self._revoked = revoked
        self._cache: OrderedDict[str, tuple[Session, datetime]] = OrderedDict()
        self._forgotten = 0

    async def create(self, user: str, address: str, agent: str, *, old: str = "") -> tuple[str, Session]:
        """A new session after a sign-in: the cookie's value, and the session. Raises NotFound, StoreUnavailable.

        It always has a new id; ``old``, the cookie the browser came with, is ended, also if it was good no more. Of very many, the one
        used longest ago is ended: a program that signs in again and again, and never out, makes no list without end.
        """
        await self.end(old)
        now = self._clock()
        secret = secrets.token_bytes(32)
        row = await self._store.add_session(
            id=hashlib.sha256(secret).hexdigest(),
            user=user,
            created=now,
            expires=now + self._settings.idle,
            absolute=now + self._settings.absolute,
            address=_line(address, 64),
            agent=_line(agent, 200),
        )
        session = _session(row)
        self._keep(session, now)
        others = [one for one in await self._store.sessions_of(user) if one.id != session.id]
        for left in others[MOST - 1 :]:
            log.warning("%s has %d sessions: %s, used longest ago, is ended", user, MOST, left.id[:HANDLE])
            await self.revoke(left.id)
        return f"1.{_b64(secret)}.{_b64(self._mac(secret))}", session

    async def read(self, cookie: str, *, used: bool = True) -> Session | None:
        """The session a cookie's value stands for, if it is good now; that it is ``used`` is noted. Raises StoreUnavailable."""
        session_id = self._read_cookie(cookie)
        if session_id is None:
            return None
        now = self._clock()
        session = self._believed(session_id, now) or await self._load(session_id, now)
        if session is None:
            return None
        if not session.good(now):
            self.forget((session_id,))
            return None
        return await self._touch(session, now) if used else session

    async def end(self, cookie: str) -> bool:
        """End the session a cookie's value stands for, good or not; false if it stands for none.

        One that was idle for too long is no session for the hub any more, but its tickets may go on at the proxy.
        """
        session_id = self._read_cookie(cookie)
        if session_id is None:
            return False
        await self.revoke(session_id)
        return True

    async def alive(self, session_id: str) -> bool:
        """Whether the session of this id is good, without counting as a use; for open event streams and the proxy's renewals."""
        now = self._clock()
        session = self._believed(session_id, now) or await self._load(session_id, now)
        return session is not None and session.good(now)

    async def of(self, user: str) -> tuple[Session, ...]:
        """A user's good sessions."""
        now = self._clock()
        return tuple(session for session in await self.open_of(user) if session.good(now))

    async def open_of(self, user: str) -> tuple[Session, ...]:
        """Those by which something may be open: the good ones, and idle ones, whose tickets the proxy goes on to take while they are used."""
        now = self._clock()
        found = (_session(row) for row in await self._store.sessions_of(user))
        return tuple(session for session in found if now < session.absolute)

    async def end_of(self, user: str, handle: str) -> bool:
        """End the open session of this user with this handle; false if there is none."""
        ids = [session.id for session in await self.open_of(user) if session.handle == handle]
        for session_id in ids:
            await self.revoke(session_id)
        return bool(ids)

    async def revoke(self, session_id: str) -> None:
        """End a session at once, here and at the proxy."""
        await self._store.revoke_session(session_id, self._clock())
        self.forget((session_id,))
        await self._revoked((session_id,))

    async def revoke_all_of(self, user: str, *, keep: str | None = None) -> int:
        """End a user's sessions except ``keep``; returns how many."""
        ids = tuple(await self._store.revoke_sessions_of(user, self._clock(), keep=keep))
        self.forget(ids)
        if ids:
            await self._revoked(ids)
        return len(ids)

    def forget(self, ids: Iterable[str]) -> None:
        """Ask the database again about these: what another process does when it hears of a revocation."""
        self._forgotten += 1
        for session_id in ids:
            self._cache.pop(session_id, None)

    def _believed(self, session_id: str, now: datetime) -> Session | None:
        """The copy in memory, while it is young. One from the future is not: the clock was set back, and nobody knows by how much."""
        session, at = self._cache.get(session_id, (None, now))
        return session if timedelta() <= now - at < self._settings.trust else None

    async def _load(self, session_id: str, now: datetime) -> Session | None:
        before = self._forgotten
        row = await self._store.session(session_id)
        if row is None or row.revoked is not None:
            self._cache.pop(session_id, None)
            return None
        session = _session(row)
        # If anything was revoked while we waited, this row may be from before it: right now, but not to be remembered.
        if before == self._forgotten:
            self._keep(session, now)
        return session

    async def _touch(self, session: Session, now: datetime) -> Session | None:
        if now - session.last_seen < self._settings.touch_every:
            return session
        used = replace(session, last_seen=now, expires=min(now + self._settings.idle, session.absolute))
        if (kept := self._cache.get(session.id)) is not None:
            self._cache[session.id] = (used, kept[1])  # before waiting: of many requests at once one notes the use
        if not await self._store.touch_session(session.id, seen=used.last_seen, expires=used.expires):
            self.forget((session.id,))
            return None
        return used

    def _keep(self, session: Session, now: datetime) -> None:
        self._cache[session.id] = (session, now)
        self._cache.move_to_end(session.id)
        while len(self._cache) > self._settings.cache_size:
            self._cache.popitem(last=False)

    def _read_cookie(self, cookie: str) -> str | None:
        match = _COOKIE.fullmatch(cookie[:200])
        if match is None:
            return None
        secret, mac = (urlsafe_b64decode(part + "=") for part in match.groups())
        if not hmac.compare_digest(mac, self._mac(secret)):
            return None
        return hashlib.sha256(secret).hexdigest()

    def _mac(self, secret: bytes) -> bytes:
        return hmac.digest(self._key, secret, "sha256")


def _session(row: StoredSession) -> Session:
    return Session(row.id, row.user, row.created, row.last_seen, row.expires, row.absolute, row.address, row.agent)


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _line(text: str, limit: int) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:limit])
