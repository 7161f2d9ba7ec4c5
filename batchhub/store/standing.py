"""What a person, a profile and everybody have at this moment, counted inside the transaction that adds one more server."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from batchhub.core.model import Phase, Server
from batchhub.core.quota import Standing
from batchhub.store.models import ServerRow

_ONE_AT_A_TIME = 0x62682D71756F7461
"""PostgreSQL's advisory lock of those who count and then add ("bh-quota"); SQLite's transactions are one at a time by themselves."""

_ON_THE_WAY = (Phase.REQUESTED, Phase.STARTING)


def standing(session: Session, server: Server, since: datetime) -> Standing:
    """What there is besides a server that this transaction is adding. ``since`` is where the window of recent starts begins.

    Nobody else counts before this transaction's end.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
    another = ServerRow.id != server.id
    live = ServerRow.phase != Phase.ENDED
    own = ServerRow.user_name == server.user
    of_profile = ServerRow.profile == server.profile
    recent, first_recent = session.execute(
        select(func.count(), func.min(ServerRow.created)).where(another, own, ServerRow.created >= since)
    ).one()
    counts = session.execute(
        select(
            func.count().filter(own),
            func.count().filter(own, of_profile),
            func.count().filter(of_profile),
            func.count().filter(ServerRow.phase.in_(_ON_THE_WAY)),
        ).where(another, live)
    ).one()
    return Standing(*counts, recent=recent, first_recent=first_recent)
