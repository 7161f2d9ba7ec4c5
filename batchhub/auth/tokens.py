"""API tokens: ``bh_`` and 256 random bits, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.core.model import UserName
from batchhub.core.ports import Clock

PREFIX = "bh_"
"""By which secret scanners and people know one."""

_TOKEN = re.compile(r"bh_[A-Za-z0-9_-]{43}")


class StoredToken(Protocol):
    """A token as the store keeps it."""

    @property
    def id(self) -> int:
        """Its number, for lists and revocation."""

    @property
    def hash(self) -> str:
        """SHA-256, hex: by which the proxy knows it."""

    @property
    def user(self) -> UserName:
        """Whose."""

    @property
    def first(self) -> str:
        """Its first characters."""

    @property
    def note(self) -> str:
        """The owner's own words."""

    @property
    def created(self) -> datetime:
        """When it was issued."""

    @property
    def expires(self) -> datetime | None:
        """``None``: never."""

    @property
    def last_used(self) -> datetime | None:
        """Noted at most once in ``touch_every``."""

    @property
    def session(self) -> str | None:
        """The id of the session it ends with, if it ends with one."""


class TokenStore(Protocol):
    """What tokens need of the database. Every method raises StoreUnavailable when it cannot be asked."""

    def add_token(
        self,
        *,
        hash: str,  # noqa: A002
        first: str,
        user: str,
        note: str,
        created: datetime,
        expires: datetime | None,
        session: str | None = None,
    ) -> Awaitable[StoredToken]:
        """Insert. Raises NotFound for an unknown user, Conflict for an unknown session."""

    def token(self, hash: str) -> Awaitable[StoredToken | None]:  # noqa: A002
        """By hash."""

    def tokens_of(self, user: str) -> Awaitable[Sequence[StoredToken]]:
        """A user's."""

    def touch_token(self, id: int, used: datetime) -> Awaitable[bool]:  # noqa: A002
        """Note a use."""

    def revoke_token(self, id: int, user: str | None = None) -> Awaitable[str | None]:  # noqa: A002
        """Delete it; its hash, or ``None`` if it is not there."""

    def revoke_tokens_of(self, user: str) -> Awaitable[Sequence[str]]:
        """Delete all of a user's; their hashes."""

    def revoke_tokens_with(self, sessions: Sequence[str]) -> Awaitable[Sequence[str]]:
        """Delete those that end with these sessions; their hashes."""


async def _nobody(hashes: Sequence[str]) -> None:
    del hashes


async def _none_is(session: str) -> bool:
    del session
    return False


class Tokens:
    """All API tokens of the hub. A token's use is noted in the database at most once in ``touch_every``.

    ``revoked`` is told the hashes of those that ended, after the database knows (the proxy forgets them and closes what they opened).
    ``alive`` says whether a session is good: a token that ends with one is good only as long, whatever became of its row.
    """

    def __init__(
        self,
        store: TokenStore,
        clock: Clock,
        touch_every: timedelta = timedelta(minutes=5),
        revoked: Callable[[Sequence[str]], Awaitable[None]] = _nobody,
        alive: Callable[[str], Awaitable[bool]] = _none_is,
    ) -> None:
        self._store = store
        self._clock = clock
        self._touch_every = touch_every
        self._revoked = revoked
        self._alive = alive

    async def issue(
        self, user: str, note: str = "", life: timedelta | None = None, session: str | None = None
    ) -> tuple[str, StoredToken]:
        """A new token, to be shown once, and its entry. ``life=None``: it does not expire. Raises NotFound.

        It ends with the session of that id, if one is given.
        """
        secret, now = PREFIX + secrets.token_urlsafe(32), self._clock()
        row = await self._store.add_token(
            hash=hash_token(secret),
            first=secret[:9],
            user=user,
            note="".join(char if char.isprintable() else " " for char in note[:200]),
            created=now,
            expires=None if life is None else now + life,
            session=session,
        )
        return secret, row

    async def find(self, text: str) -> StoredToken | None:
        """The token somebody sent, if it is good now. Raises StoreUnavailable."""
        if _TOKEN.fullmatch(text[:100]) is None:
            return None
        row, now = await self._store.token(hash_token(text)), self._clock()
        if row is None or (row.expires is not None and row.expires <= now):
            return None
        if row.session is not None and not await self._alive(row.session):
            return None
        if (row.last_used is None or now - row.last_used >= self._touch_every) and not await self._store.touch_token(
            row.id, now
        ):
            return None  # revoked since
        return row

    async def of(self, user: str) -> Sequence[StoredToken]:
        """A user's tokens, expired ones too."""
        return await self._store.tokens_of(user)

    async def revoke(self, token_id: int, user: str | None = None) -> bool:
        """End a token, if it is ``user``'s when one is given; false if there is none such."""
        ended = await self._store.revoke_token(token_id, user)
        if ended is not None:
            await self._revoked((ended,))
        return ended is not None

    async def revoke_all_of(self, user: str) -> int:
        """End all of a user's tokens; returns how many."""
        ended = await self._store.revoke_tokens_of(user)
        if ended:
            await self._revoked(ended)
        return len(ended)

    async def end_with(self, sessions: Sequence[str]) -> int:
        """End those that were to end with these sessions; returns how many."""
        ended = await self._store.revoke_tokens_with(sessions)
        if ended:
            await self._revoked(ended)
        return len(ended)


def hash_token(token: str) -> str:
    """SHA-256, hex. 256 random bits need no slow hash: there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()
