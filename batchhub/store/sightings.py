"""What the leader saw, for the pages of other hubs and for its own after a restart: plain functions over an open ORM session."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, get_args, get_type_hints

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from batchhub.core.model import JobId, JobReport, JobState, Observation, ServerId, UserName
from batchhub.store.models import Base, ClusterRow, EventRow, ServerRow, SightingRow
from batchhub.store.types import clean
from batchhub.store.values import ClusterWord, News

_HINTS = get_type_hints(JobReport)
_MOMENTS = frozenset(name for name, hint in _HINTS.items() if datetime in get_args(hint))
_SPANS = frozenset(name for name, hint in _HINTS.items() if timedelta in get_args(hint))
_MANY = 500
"""The most ids in one question; SQLite takes 32,766 parameters."""

Report = dict[str, Any]


def save(session: Session, seen: Mapping[ServerId, Observation]) -> None:
    """Note the last good observations of these servers; of a server that is not there any more nothing is noted."""
    there = _known(session, list(seen))
    rows = [
        {
            "server_id": server_id,
            "at": observation.at,
            "truth": observation.truth,
            "report": None if observation.report is None else write_report(observation.report),
            "word": observation.word,
        }
        for server_id, observation in seen.items()
        if server_id in there
    ]
    _put(session, SightingRow, "server_id", rows)


def of(session: Session, ids: Collection[ServerId]) -> dict[ServerId, Observation]:
    """The last good observations of these servers, as far as there are any."""
    found: dict[ServerId, Observation] = {}
    for some in _parts(list(ids)):
        for row in session.scalars(select(SightingRow).where(SightingRow.server_id.in_(some))):
            report = None if row.report is None else read_report(row.report)
            found[ServerId(row.server_id)] = Observation(row.truth, row.at, report, row.word)
    return found


def note_cluster(session: Session, name: str, word: ClusterWord) -> None:
    """Note what is known of this cluster."""
    facts = {"silent_since": word.silent_since, "silent_word": word.silent_word, "answered_at": word.answered_at}
    _put(session, ClusterRow, "name", [{"name": name, **facts}])


def words(session: Session) -> dict[str, ClusterWord]:
    """What was last known of each cluster."""
    return {
        row.name: ClusterWord(row.silent_since, row.silent_word, row.answered_at)
        for row in session.scalars(select(ClusterRow))
    }


def watch(session: Session, clusters: Collection[str], until: datetime) -> None:
    """Somebody waits for news from these clusters."""
    rows = [{"name": name, "silent_word": "", "watched_until": until} for name in sorted(clusters)]
    _put(session, ClusterRow, "name", rows, only=("watched_until",))


def watched(session: Session, now: datetime) -> frozenset[str]:
    """The clusters for whose news somebody waits in front of any hub's page."""
    return frozenset(session.scalars(select(ClusterRow.name).where(ClusterRow.watched_until > now)))


def news(session: Session, after: int, limit: int) -> tuple[News, ...]:
    """Events with greater ids, oldest first."""
    rows = session.execute(
        select(EventRow.id, EventRow.server_id, ServerRow.user_name, EventRow.by)
        .join(ServerRow, ServerRow.id == EventRow.server_id)
        .where(EventRow.id > after)
        .order_by(EventRow.id)
        .limit(limit)
    )
    return tuple(News(number, ServerId(server_id), UserName(user), by) for number, server_id, user, by in rows)


def newest_event(session: Session) -> int:
    """The greatest id of any event; 0 if there is none."""
    return session.scalar(select(EventRow.id).order_by(EventRow.id.desc()).limit(1)) or 0


# ---------------------------------------------------------------- reports as JSON


def write_report(report: JobReport) -> Report:
    """As JSON has it, without what the scheduler did not say."""
    found: Report = {}
    for field in fields(report):
        value = getattr(report, field.name)
        if value is None or value in ("", ()):
            continue
        found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case tuple():
            return [clean(item) for item in value]
        case StrEnum():
            return value.value
        case str():
            return clean(value)
        case _:
            return value


def read_report(data: Report) -> JobReport:
    """The other way. What another version of BatchHub wrote and this one does not know is left out."""
    known: Report = {}
    for name, value in data.items():
        if name in _MOMENTS:
            known[name] = datetime.fromisoformat(value)
        elif name in _SPANS:
            known[name] = timedelta(seconds=value)
        elif name == "state":
            known[name] = JobState(value) if value in set(JobState) else JobState.UNKNOWN
        elif name in _HINTS:
            known[name] = tuple(value) if isinstance(value, list) else value
    return JobReport(**{"id": JobId(""), "state": JobState.UNKNOWN, **known})


# ---------------------------------------------------------------- rows


def _put(session: Session, table: type[Base], key: str, rows: Sequence[Report], only: Sequence[str] = ()) -> None:
    """Insert, or change those that are there; ``only`` these columns of them."""
    if not rows:
        return
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    made = insert(table)
    changed = {name: made.excluded[name] for name in only or rows[0] if name != key}
    # In the order of their keys: two that write the same rows do not wait for each other in a circle.
    session.execute(
        made.on_conflict_do_update(index_elements=[key], set_=changed), sorted(rows, key=lambda row: str(row[key]))
    )


def _known(session: Session, ids: list[ServerId]) -> set[str]:
    return {
        found for some in _parts(ids) for found in session.scalars(select(ServerRow.id).where(ServerRow.id.in_(some)))
    }


def _parts(ids: list[ServerId]) -> list[list[ServerId]]:
    return [ids[start : start + _MANY] for start in range(0, len(ids), _MANY)]
