"""Transactions about servers and their events: plain functions over an open ORM session.

:class:`batchhub.store.store.Store` opens the session, commits, and turns errors into ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, Select, delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from batchhub.core.errors import BadInput, Conflict, NotFound
from batchhub.core.model import Endpoint, JobId, Phase, Server, ServerId, Trace, UserName
from batchhub.core.quota import Standing
from batchhub.store.models import EventRow, ServerRow
from batchhub.store.people import ensure_user
from batchhub.store.standing import standing
from batchhub.store.values import Event

Change = Callable[[Server], Server | None]
Admit = Callable[[Standing], None]

_KEPT = ("id", "user", "name", "created")
"""What no change may touch."""

_PLAIN = (
    "id", "name", "cluster", "profile", "account", "created", "since", "want", "phase", "directory", "job_id",
    "submit_tried", "submit_count", "generation", "host", "nonce", "started", "answered", "told", "cancel_tried", "active", "warned",
    "outcome", "exit_code",    "words", "log_tail", "ended",
)  # fmt: skip
"""The fields whose column has the same name and form; a test holds that no field of Server is left out."""


def add(session: Session, server: Server, by: str, admit: Admit | None, since: datetime) -> Server:
    """Insert a new run; its owner's row is made if missing. Raises Conflict, and what ``admit`` raises of what there is already."""
    ensure_user(session, server.user, server.created)
    row = ServerRow(user_name=server.user)
    _write(row, server)
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        what = f"server {server.name!r}" if server.name else "a server"
        raise Conflict(f"{server.user} has {what} that has not ended.") from error
    if admit is not None:
        admit(standing(session, server, since))
    words = f"{server.profile} on {server.cluster}"
    _add_event(session, Event(server.id, server.created, "requested", words, by or server.user))
    return server


def one(session: Session, server_id: ServerId) -> Server:
    """The run of this id. Raises NotFound."""
    return _read(_row(session, select(ServerRow).where(ServerRow.id == server_id), server_id))


def current(session: Session, user: str, name: str) -> Server | None:
    """The newest run of this name."""
    newest = select(func.max(ServerRow.seq)).where(ServerRow.user_name == user, ServerRow.name == name)
    row = session.scalar(select(ServerRow).where(ServerRow.seq == newest.scalar_subquery()))
    return None if row is None else _read(row)


def newest_of(session: Session, user: str) -> tuple[Server, ...]:
    """The newest run of each of a user's names, by name."""
    newest = select(func.max(ServerRow.seq)).where(ServerRow.user_name == user).group_by(ServerRow.name)
    return all_of(session, select(ServerRow).where(ServerRow.seq.in_(newest)).order_by(ServerRow.name))


def live(session: Session, cluster: str | None) -> tuple[Server, ...]:
    """Every run that has not ended, oldest first.

    Asked every few seconds for thousands: without the identity map, which nobody needs here, it takes a third less time.
    """
    wanted = select(*ServerRow.__table__.columns).where(ServerRow.phase != Phase.ENDED).order_by(ServerRow.seq)
    rows = session.execute(wanted if cluster is None else wanted.where(ServerRow.cluster == cluster))
    return tuple(_read(row) for row in rows)


def uncollected(session: Session, since: datetime) -> tuple[Server, ...]:
    """Runs that have ended since then, were given to a scheduler, and of which no log is kept; at most a thousand, the newest."""
    given = (ServerRow.phase == Phase.ENDED, ServerRow.since >= since, ServerRow.submit_tried.is_not(None))
    wanted = select(ServerRow).where(*given, ServerRow.log_tail == "", ServerRow.directory != "")
    return all_of(session, wanted.order_by(ServerRow.seq.desc()).limit(1000))


def newest_of_all(session: Session, limit: int, offset: int, *, live_only: bool) -> tuple[tuple[Server, ...], int]:
    """A page of the newest runs of each name of each user, by user and name, and how many there are in all."""
    if live_only:
        # A live run is its name's newest: only one of a name lives, and a new one begins after the last has ended.
        which = ServerRow.phase != Phase.ENDED
    else:
        newest = select(func.max(ServerRow.seq)).group_by(ServerRow.user_name, ServerRow.name)
        which = ServerRow.seq.in_(newest)
    total = session.scalar(select(func.count()).select_from(ServerRow).where(which)) or 0
    page = select(ServerRow).where(which).order_by(ServerRow.user_name, ServerRow.name)
    return all_of(session, page.limit(limit).offset(offset)), total


def update(
    session: Session, server_id: ServerId, change: Change, event: Event | None, trace: Callable[[], Trace] | None = None
) -> Server:
    """Load under lock, change, save, and record the event if anything changed. Raises NotFound, Conflict, and as ``change``.

    ``trace``, asked after ``change``, says what of the event only it can know.
    """
    row = _row(session, select(ServerRow).where(ServerRow.id == server_id).with_for_update(), server_id)
    before = _read(row)
    after = change(before)
    if after is None or after == before:
        return before
    if any(getattr(before, field) != getattr(after, field) for field in _KEPT):
        raise ValueError(f"a change of server {server_id} must keep {', '.join(_KEPT)}")
    _write(row, after)
    session.flush()
    if event is not None:
        if trace is not None:
            said = trace()
            event = replace(event, kind=said.kind, by=said.by, seen=said.seen, done=said.done)
        _add_event(session, event if event.words else replace(event, words=_difference(before, after)))
    return after


def _difference(before: Server, after: Server) -> str:
    """What a change says for itself."""
    parts = []
    if after.phase is not before.phase:
        parts.append(f"{before.phase} → {after.phase}")
    if after.want is not before.want:
        parts.append(f"wanted {after.want}")
    if after.job_id != before.job_id and after.job_id:
        parts.append(f"job {after.job_id}")
    if after.host != before.host and after.host:
        parts.append(f"on {after.host}")
    if after.outcome is not before.outcome and after.outcome:
        code = "" if after.exit_code is None else f" (exit code {after.exit_code})"
        parts.append(f"{after.outcome}{code}")
    if after.words not in {"", before.words, after.outcome}:
        parts.append(after.words)
    return "; ".join(parts)


def add_event(session: Session, event: Event) -> None:
    """Record what happened. Raises NotFound."""
    _row(session, select(ServerRow).where(ServerRow.id == event.server_id), event.server_id)
    _add_event(session, event)


def events_of(session: Session, server_id: ServerId, limit: int) -> tuple[Event, ...]:
    """The newest ``limit`` events, oldest of them first; empty for a server nobody knows."""
    rows = session.scalars(
        select(EventRow).where(EventRow.server_id == server_id).order_by(EventRow.id.desc()).limit(limit)
    )
    return tuple(reversed(tuple(event_of(row) for row in rows)))


def event_of(row: EventRow) -> Event:
    """The event as a value."""
    return Event(ServerId(row.server_id), row.at, row.kind, row.words, row.by, row.seen, row.done)


def runs_of(session: Session, user: str, name: str, limit: int) -> tuple[Server, ...]:
    """The newest ``limit`` runs of a name, newest first."""
    runs = select(ServerRow).where(ServerRow.user_name == user, ServerRow.name == name)
    return all_of(session, runs.order_by(ServerRow.seq.desc()).limit(limit))


def prune_ended(session: Session, before: datetime, limit: int) -> int:
    """Delete at most ``limit`` runs that ended before then, with their events; returns how many."""
    over = func.coalesce(ServerRow.ended, ServerRow.since)
    old = (
        select(ServerRow.seq).where(ServerRow.phase == Phase.ENDED, over < before).order_by(ServerRow.seq).limit(limit)
    )
    found = tuple(session.scalars(old))
    session.execute(delete(ServerRow).where(ServerRow.seq.in_(found)))
    return len(found)


def with_old_directories(
    session: Session, cluster: str, *, newest: int, since: datetime | None, settled: datetime, limit: int
) -> tuple[Server, ...]:
    """Ended runs on a cluster whose job directory is to go, the oldest first.

    They are not among the ``newest`` of their person there (0: all are), or ended before ``since``. Those that ended after ``settled`` are left
    alone.
    """
    over = func.coalesce(ServerRow.ended, ServerRow.since)
    rank = func.row_number().over(partition_by=ServerRow.user_name, order_by=ServerRow.seq.desc())
    here = (ServerRow.cluster == cluster, ServerRow.phase == Phase.ENDED, ServerRow.directory != "")
    ranked = select(ServerRow.seq, over.label("over"), rank.label("rank")).where(*here).subquery()
    reasons = []
    if newest:
        reasons.append(ranked.c.rank > newest)
    if since is not None:
        reasons.append(ranked.c.over < since)
    if not reasons:
        return ()
    old = select(ranked.c.seq).where(or_(*reasons), ranked.c.over < settled).order_by(ranked.c.seq).limit(limit)
    return all_of(session, select(ServerRow).where(ServerRow.seq.in_(old)).order_by(ServerRow.seq))


def _row(session: Session, query: Select[ServerRow], server_id: ServerId) -> ServerRow:
    row = session.scalar(query)
    if row is None:
        raise NotFound(f"There is no server with the id {server_id[:40]!r}.")
    return row


def all_of(session: Session, query: Select[ServerRow]) -> tuple[Server, ...]:
    """The servers of a query."""
    rows: Iterable[ServerRow] = session.scalars(query)
    return tuple(_read(row) for row in rows)


def _add_event(session: Session, event: Event) -> None:
    row = EventRow(
        server_id=event.server_id,
        at=event.at,
        kind=event.kind[:40],
        words=event.words,
        by=event.by,
        seen=event.seen,
        done=event.done,
    )
    session.add(row)
    session.flush()


def _write(row: ServerRow, server: Server) -> None:
    for field in _PLAIN:
        setattr(row, field, getattr(server, field))
    if row.options != server.options:
        row.options = _checked(server)
    end = server.endpoint
    row.endpoint_host = None if end is None else end.host
    row.endpoint_port = None if end is None else end.port
    row.endpoint_socket = None if end is None else end.socket


def _checked(server: Server) -> dict[str, str | int | float | bool]:
    options = dict(server.options)
    for name, value in options.items():
        # JSON has no word for these, and PostgreSQL refuses Python's.
        if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124
            raise BadInput(f"{name}: {value} is not a number that can be kept.")
    return options


def _read(row: ServerRow | Row[Any]) -> Server:
    endpoint = None
    if row.endpoint_host is not None:
        endpoint = Endpoint(row.endpoint_host, row.endpoint_port or 0, row.endpoint_socket or "")
    return Server(
        id=ServerId(row.id),
        user=UserName(row.user_name),
        name=row.name,
        cluster=row.cluster,
        profile=row.profile,
        account=row.account,
        created=row.created,
        since=row.since,
        options=MappingProxyType(row.options),
        want=row.want,
        phase=row.phase,
        directory=row.directory,
        job_id=None if row.job_id is None else JobId(row.job_id),
        submit_tried=row.submit_tried,
        submit_count=row.submit_count,
        generation=row.generation,
        host=row.host,
        endpoint=endpoint,
        nonce=row.nonce,
        started=row.started,
        answered=row.answered,
        told=row.told,
        cancel_tried=row.cancel_tried,
        active=row.active,
        warned=row.warned,
        outcome=row.outcome,
        exit_code=row.exit_code,
        words=row.words,
        log_tail=row.log_tail,
        ended=row.ended,
    )
