"""The audit trail's table: plain functions over an open ORM session, and the door to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from batchhub.core.deeds import Deed, DeedLine, DeedScope
from batchhub.store.models import AuditRow
from batchhub.store.store import Store


class AuditStore:
    """The trail in a store's database. Every method raises StoreUnavailable when it cannot be asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, deeds: Sequence[Deed]) -> None:
        """All of them, or none."""
        await self._store.write(add, tuple(deeds))

    async def find(self, scope: DeedScope, limit: int) -> tuple[DeedLine, ...]:
        """The newest ``limit`` within the scope, newest first."""
        return await self._store.read(find, scope, limit)

    async def prune(self, before: datetime, limit: int = 1000) -> int:
        """Delete at most ``limit`` older ones; call again while it returns ``limit``."""
        return await self._store.write(prune, before, limit)


def add(session: Session, deeds: Sequence[Deed]) -> None:
    """Insert."""
    session.add_all(
        AuditRow(at=one.at, kind=one.kind, user_name=one.user, by=one.by, address=one.address, words=one.words)
        for one in deeds
    )


def find(session: Session, scope: DeedScope, limit: int) -> tuple[DeedLine, ...]:
    """The newest ``limit`` within the scope, newest first."""
    query = select(AuditRow)
    if scope.user is not None:
        query = query.where((AuditRow.user_name == scope.user) | (AuditRow.by == scope.user))
    if scope.kind is not None:
        query = query.where(AuditRow.kind == scope.kind)
    if scope.since is not None:
        query = query.where(AuditRow.at >= scope.since)
    if scope.before is not None:
        query = query.where(AuditRow.id < scope.before)
    return tuple(_line(row) for row in session.scalars(query.order_by(AuditRow.id.desc()).limit(limit)))


def prune(session: Session, before: datetime, limit: int) -> int:
    """Delete at most ``limit`` rows of before then, the oldest; returns how many."""
    found = tuple(session.scalars(select(AuditRow.id).where(AuditRow.at < before).order_by(AuditRow.id).limit(limit)))
    session.execute(delete(AuditRow).where(AuditRow.id.in_(found)))
    return len(found)


def _line(row: AuditRow) -> DeedLine:
    return DeedLine(row.id, Deed(row.at, row.kind, row.user_name, row.by, row.address, row.words))
