"""People's SSH keys in the database, as :class:`batchhub.auth.keys.KeyStore` wants them. The private halves are sealed, and not opened here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from batchhub.core.errors import NotFound
from batchhub.store.models import KeyRow, UserRow
from batchhub.store.store import Store
from batchhub.store.values import SSHKey


class Keys:
    """Each method is one transaction, and raises StoreUnavailable when the database cannot be asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def key(self, user: str, cluster: str) -> SSHKey | None:
        """One person's for one cluster."""
        return await self._store.read(_key, user, cluster)

    async def keys_of(self, user: str) -> tuple[SSHKey, ...]:
        """All of a person's, by cluster."""
        return await self._store.read(_keys_of, user)

    async def put_key(self, user: str, cluster: str, *, public: str, sealed: str) -> SSHKey:
        """In place of the one that was there. Raises NotFound for an unknown user."""
        return await self._store.write(_put, user, SSHKey(cluster, self._store.clock(), public, sealed))

    async def key_worked(self, user: str, cluster: str, public: str, *, works: bool) -> None:
        """Note what the cluster said of it, unless it was replaced meanwhile."""
        await self._store.write(_worked, user, cluster, public, self._store.clock() if works else None)

    async def delete_key(self, user: str, cluster: str) -> bool:
        """Remove it; whether there was one."""
        return await self._store.write(_delete, user, cluster)


def _value(row: KeyRow) -> SSHKey:
    return SSHKey(row.cluster, row.created, row.public, row.sealed, row.works)


def _key(session: Session, user: str, cluster: str) -> SSHKey | None:
    row = session.get(KeyRow, (user, cluster))
    return None if row is None else _value(row)


def _keys_of(session: Session, user: str) -> tuple[SSHKey, ...]:
    rows = session.scalars(select(KeyRow).where(KeyRow.user_name == user).order_by(KeyRow.cluster))
    return tuple(_value(row) for row in rows)


def _put(session: Session, user: str, key: SSHKey) -> SSHKey:
    # The user's row is locked, so that of two that make a key at once the later one's stays.
    if session.scalar(select(UserRow.id).where(UserRow.name == user).with_for_update()) is None:
        raise NotFound(f"There is no user {user!r}.")
    row = session.get(KeyRow, (user, key.cluster))
    if row is None:
        row = KeyRow(user_name=user, cluster=key.cluster)
        session.add(row)
    row.created, row.public, row.sealed, row.works = key.created, key.public, key.sealed, key.works
    session.flush()
    return key


def _worked(session: Session, user: str, cluster: str, public: str, works: datetime | None) -> None:
    named = KeyRow.user_name == user, KeyRow.cluster == cluster, KeyRow.public == public
    session.execute(update(KeyRow).where(*named).values(works=works))


def _delete(session: Session, user: str, cluster: str) -> bool:
    gone = delete(KeyRow).where(KeyRow.user_name == user, KeyRow.cluster == cluster).returning(KeyRow.cluster)
    return session.scalar(gone) is not None
