"""The database: typed SQLAlchemy models, migrations, and the transactions the control plane needs.

Frozen values go in and come out; no ORM object leaves this package. :class:`Store` is the door, :func:`upgrade` and
:func:`revision` serve ``batchhub db``.
"""

from __future__ import annotations

from batchhub.store.leading import LeaderLock, SoleHub
from batchhub.store.schema import downgrade, revision, upgrade
from batchhub.store.store import Store
from batchhub.store.values import ApiToken, ClusterWord, Event, Leader, News, StoredSession, User

__all__ = [
    "ApiToken",
    "ClusterWord",
    "Event",
    "Leader",
    "LeaderLock",
    "News",
    "SoleHub",
    "Store",
    "StoredSession",
    "User",
    "downgrade",
    "revision",
    "upgrade",
]
