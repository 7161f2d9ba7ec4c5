"""The trail of events over several servers, for those who read the database themselves: a plain function over an open ORM session."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from batchhub.core.errors import NotFound
from batchhub.core.model import JobId, UserName
from batchhub.store.models import EventRow, ServerRow, UserRow
from batchhub.store.servers import event_of
from batchhub.store.values import Event


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose events: everybody's, one person's, those of all runs of one name, or one run's. ``None`` is "of all"."""

    user: str | None = None
    name: str | None = None
    server_id: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An event, with what tells its run from others. ``number`` grows with time, but for what two processes write at once."""

    number: int
    event: Event
    user: UserName
    name: str
    cluster: str
    job_id: JobId | None


def trail(session: Session, scope: Scope, limit: int) -> tuple[Line, ...]:
    """The newest ``limit`` events, oldest of them first. Raises NotFound for somebody, or a server, nobody knows."""
    _check(session, scope)
    query = select(EventRow, ServerRow).join(ServerRow, ServerRow.id == EventRow.server_id)
    if scope.user is not None:
        query = query.where(ServerRow.user_name == scope.user)
    if scope.name is not None:
        query = query.where(ServerRow.name == scope.name)
    if scope.server_id is not None:
        query = query.where(EventRow.server_id == scope.server_id)
    found = [
        Line(
            event.id,
            event_of(event),
            UserName(server.user_name),
            server.name,
            server.cluster,
            None if server.job_id is None else JobId(server.job_id),
        )
        for event, server in session.execute(query.order_by(EventRow.id.desc()).limit(limit))
    ]
    return tuple(reversed(found))


def knows(session: Session, server_id: str) -> bool:
    """Whether there is a run of this id."""
    return session.scalar(select(ServerRow.seq).where(ServerRow.id == server_id)) is not None


def _check(session: Session, scope: Scope) -> None:
    if scope.server_id is not None and not knows(session, scope.server_id):
        raise NotFound(f"There is no server with the id {scope.server_id[:40]!r}.")
    if scope.user is None:
        return
    if session.scalar(select(UserRow.id).where(UserRow.name == scope.user)) is None:
        raise NotFound(f"The database knows no user {scope.user[:40]!r}.")
    if scope.name is None:
        return
    names = session.scalars(select(ServerRow.name).where(ServerRow.user_name == scope.user).distinct()).all()
    if scope.name not in names:
        known = ", ".join(sorted(name or "(the default server)" for name in names)[:20]) or "none"
        which = f"server {scope.name[:63]!r}" if scope.name else "default server"
        raise NotFound(f"The database knows no {which} of {scope.user}; known: {known}.")
