"""Which ends of servers a site's hook was told of: a line of the server's own trail says so, so that a hub which died in between is made up for."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from batchhub.core.model import Phase, Server, ServerId
from batchhub.store import servers
from batchhub.store.models import EventRow, ServerRow
from batchhub.store.store import Store

TOLD = "post_stop"
"""The kind of that line."""
MOST = 1000


class Telling:
    """Each method is one transaction, and raises StoreUnavailable when the database cannot be asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def untold(self, since: datetime) -> tuple[Server, ...]:
        """Runs that have ended since then, and of whose end nobody was told; at most a thousand, the oldest first."""
        return await self._store.read(_untold, since)

    async def told(self, server_id: ServerId, words: str) -> None:
        """Note it. Raises NotFound."""
        await self._store.add_event(server_id, TOLD, words)


def _untold(session: Session, since: datetime) -> tuple[Server, ...]:
    told = select(EventRow.id).where(EventRow.server_id == ServerRow.id, EventRow.kind == TOLD)
    wanted = select(ServerRow).where(ServerRow.phase == Phase.ENDED, ServerRow.since >= since, ~told.exists())
    return servers.all_of(session, wanted.order_by(ServerRow.seq).limit(MOST))
