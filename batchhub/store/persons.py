"""What the hub keeps of who people are: the rights, groups and sealed state of their last sign-in or refresh.

A facade of its own over the same door as :class:`~batchhub.store.store.Store`. Nothing here opens what is sealed; to seal it anew with another key, it is
listed and replaced text by text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import CursorResult, select, tuple_, update
from sqlalchemy.orm import Session

from batchhub.core.model import Person
from batchhub.store import people
from batchhub.store.models import KeyRow, UserRow
from batchhub.store.store import Store
from batchhub.store.values import SealedText, User


class Persons:
    """Each method is one transaction, and raises StoreUnavailable when the database cannot be asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def signed_in(
        self, name: str, *, way: str, admin: bool | None = None, groups: Sequence[str] = (), sealed: str | None = None
    ) -> User:
        """Note a sign-in; the user is made if missing.

        ``admin=None`` leaves that right as it is. ``groups`` and ``sealed`` take the place of what was kept before, also where they are empty.
        """
        return await self._store.write(
            _signed_in, name, now=self._store.clock(), way=way, admin=admin, groups=groups, sealed=sealed
        )

    async def refreshed(
        self,
        name: str,
        *,
        way: str,
        login: datetime | None,
        admin: bool | None = None,
        groups: Sequence[str] | None = None,
        sealed: str | None = None,
    ) -> User | None:
        """Note what a refresh of the sign-in at ``login`` said; ``None`` of anything leaves it as it is. ``None`` if they are gone, or signed in meanwhile."""
        return await self._store.write(
            _refreshed, name, way=way, login=login, admin=admin, groups=groups, sealed=sealed
        )

    async def person(self, name: str) -> Person | None:
        """Who they are, as far as is kept."""
        return await self._store.read(_person, name)

    async def sealed_state(self, name: str) -> str | None:
        """The sealed state of their last sign-in or refresh, if any is kept."""
        return await self._store.read(_sealed_state, name)

    async def sealed(self, after: SealedText | None = None, limit: int = 500) -> tuple[SealedText, ...]:
        """Everything sealed that the database holds, at most ``limit`` at once, in the order of its rows; ``after``: the last one of the call before."""
        return await self._store.read(_sealed, after, limit)

    async def reseal(self, changes: Iterable[tuple[SealedText, str]]) -> int:
        """Put new texts in the place of those that still stand there; how many did."""
        return await self._store.write(_reseal, tuple(changes))


def _signed_in(
    session: Session,
    name: str,
    *,
    now: datetime,
    way: str,
    admin: bool | None,
    groups: Sequence[str],
    sealed: str | None,
) -> User:
    people.ensure_user(session, name, now, admin=admin, login=True)
    row = session.scalars(select(UserRow).where(UserRow.name == name)).one()
    row.groups = list(groups)
    row.way = way
    row.auth_state = sealed
    session.flush()
    return people.as_user(row)


def _refreshed(
    session: Session,
    name: str,
    *,
    way: str,
    login: datetime | None,
    admin: bool | None,
    groups: Sequence[str] | None,
    sealed: str | None,
) -> User | None:
    row = session.scalar(select(UserRow).where(UserRow.name == name, UserRow.way == way).with_for_update())
    if row is None or people.as_user(row).last_login != login:
        return None
    if admin is not None:
        row.admin = admin
    if groups is not None:
        row.groups = list(groups)
    if sealed is not None:
        row.auth_state = sealed
    session.flush()
    return people.as_user(row)


def _person(session: Session, name: str) -> Person | None:
    found = people.user(session, name)
    return None if found is None else Person(found.name, found.admin, found.groups, found.way)


def _sealed_state(session: Session, name: str) -> str | None:
    return session.scalar(select(UserRow.auth_state).where(UserRow.name == name))


def _sealed(session: Session, after: SealedText | None, limit: int) -> tuple[SealedText, ...]:
    found: list[SealedText] = []
    for table, listing in _LISTINGS.items():
        if after is None or after.table == table:
            found += listing(session, after.key if after else (), limit - len(found))
            after = None
        if len(found) == limit:
            break
    return tuple(found)


def _of_users(session: Session, after: tuple[str, ...], limit: int) -> list[SealedText]:
    asked = select(UserRow.name, UserRow.auth_state).where(UserRow.auth_state.is_not(None))
    later = asked.where(UserRow.name > after[0]) if after else asked
    rows = session.execute(later.order_by(UserRow.name).limit(limit))
    return [SealedText("users", (row.name,), row.auth_state) for row in rows]


def _of_keys(session: Session, after: tuple[str, ...], limit: int) -> list[SealedText]:
    asked = select(KeyRow.user_name, KeyRow.cluster, KeyRow.sealed)
    later = asked.where(tuple_(KeyRow.user_name, KeyRow.cluster) > after) if after else asked
    rows = session.execute(later.order_by(KeyRow.user_name, KeyRow.cluster).limit(limit))
    return [SealedText("keys", (row.user_name, row.cluster), row.sealed) for row in rows]


_LISTINGS: dict[str, Callable[[Session, tuple[str, ...], int], list[SealedText]]] = {
    "users": _of_users,
    "keys": _of_keys,
}
"""In this order, each table whole, by its key."""


def _reseal(session: Session, changes: tuple[tuple[SealedText, str], ...]) -> int:
    done = 0
    for old, text in changes:
        if old.table == "users":
            change = update(UserRow).where(UserRow.name == old.key[0], UserRow.auth_state == old.text)
            result = session.execute(change.values(auth_state=text))
        else:
            named = KeyRow.user_name == old.key[0], KeyRow.cluster == old.key[1]
            result = session.execute(update(KeyRow).where(*named, KeyRow.sealed == old.text).values(sealed=text))
        done += result.rowcount if isinstance(result, CursorResult) else 0
    return done
