"""The tables. :mod:`batchhub.store.migrations` creates them; a test holds both against each other.

Rows are turned into frozen values in :mod:`batchhub.store.servers` and :mod:`batchhub.store.people`, inside the transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from batchhub.core.model import OptionValue, Outcome, Phase, Truth, Want
from batchhub.store.types import CleanText, UTCDateTime, words_of

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name that a later migration can drop it by."""

# SQLite numbers rows by itself only where the key is INTEGER; on PostgreSQL a trail of events may outgrow that.
_Key = BigInteger().with_variant(Integer(), "sqlite")
_LIVE = text("phase != 'ended'")


class Base(DeclarativeBase):
    """What the tables share."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's way to configure a base)
        datetime: UTCDateTime,
        str: CleanText,
        Want: words_of(Want),
        Phase: words_of(Phase),
        Outcome: words_of(Outcome),
        Truth: words_of(Truth),
        dict[str, OptionValue]: JSON,
        list[str]: JSON,
    }


def _owner() -> Any:
    return mapped_column(String(255), ForeignKey("users.name", ondelete="CASCADE", onupdate="CASCADE"), index=True)


class UserRow(Base):
    """:class:`batchhub.store.values.User`. ``way`` is how they signed in last; ``auth_state`` is sealed (:mod:`batchhub.auth.vault`)."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    admin: Mapped[bool]
    created: Mapped[datetime]
    last_login: Mapped[datetime | None]
    groups: Mapped[list[str]]
    way: Mapped[str] = mapped_column(String(40))
    auth_state: Mapped[str | None]


class ServerRow(Base):
    """:class:`batchhub.core.model.Server`: one row for each run. ``seq`` says which of two runs is newer."""

    __tablename__ = "servers"
    __table_args__ = (
        Index("uq_servers_one_live_run", "user_name", "name", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
        Index("ix_servers_newest", "user_name", "name", "seq"),
        Index("ix_servers_live", "cluster", sqlite_where=_LIVE, postgresql_where=_LIVE),
    )

    seq: Mapped[int] = mapped_column(_Key, primary_key=True)
    id: Mapped[str] = mapped_column(String(12), unique=True)
    user_name: Mapped[str] = mapped_column(
        String(255), ForeignKey("users.name", ondelete="CASCADE", onupdate="CASCADE")
    )
    name: Mapped[str]
    cluster: Mapped[str]
    profile: Mapped[str]
    account: Mapped[str]
    created: Mapped[datetime]
    since: Mapped[datetime]
    options: Mapped[dict[str, OptionValue]]
    want: Mapped[Want]
    phase: Mapped[Phase]
    directory: Mapped[str]
    job_id: Mapped[str | None]
    submit_tried: Mapped[datetime | None]
    submit_count: Mapped[int]
    generation: Mapped[int]
    host: Mapped[str]
    endpoint_host: Mapped[str | None]
    endpoint_port: Mapped[int | None]
    endpoint_socket: Mapped[str | None]
    nonce: Mapped[str]
    started: Mapped[datetime | None]
    answered: Mapped[datetime | None]
    told: Mapped[datetime | None]
    cancel_tried: Mapped[datetime | None]
    active: Mapped[datetime | None]
    warned: Mapped[datetime | None]
    outcome: Mapped[Outcome | None]
    exit_code: Mapped[int | None]
    words: Mapped[str]
    log_tail: Mapped[str]
    ended: Mapped[datetime | None]


class EventRow(Base):
    """:class:`batchhub.store.values.Event`."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_server_id_id", "server_id", "id"),)

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    server_id: Mapped[str] = mapped_column(String(12), ForeignKey("servers.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(40))
    words: Mapped[str]
    by: Mapped[str]
    seen: Mapped[str]
    done: Mapped[str]


class SightingRow(Base):
    """The last :class:`batchhub.core.model.Observation` of a server's job that said something, for pages of hubs that do not look themselves."""

    __tablename__ = "sightings"

    server_id: Mapped[str] = mapped_column(String(12), ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime]
    truth: Mapped[Truth]
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    word: Mapped[str]


class ClusterRow(Base):
    """:class:`batchhub.store.values.ClusterWord`; ``watched_until``: until then somebody waits in front of a page for news from it."""

    __tablename__ = "clusters"

    name: Mapped[str] = mapped_column(primary_key=True)
    silent_since: Mapped[datetime | None]
    silent_word: Mapped[str]
    answered_at: Mapped[datetime | None]
    watched_until: Mapped[datetime | None]


class LeaderRow(Base):
    """One row: which hub leads. ``epoch`` counts the changes of leader; what an earlier leader would still write is refused by it."""

    __tablename__ = "leaders"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    holder: Mapped[str]
    since: Mapped[datetime]


class SessionRow(Base):
    """:class:`batchhub.store.values.StoredSession`."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_name: Mapped[str] = _owner()
    created: Mapped[datetime]
    last_seen: Mapped[datetime]
    expires: Mapped[datetime] = mapped_column(index=True)
    absolute: Mapped[datetime]
    address: Mapped[str]
    agent: Mapped[str]
    revoked: Mapped[datetime | None]


class TokenRow(Base):
    """:class:`batchhub.store.values.ApiToken`."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    first: Mapped[str] = mapped_column(String(16))
    user_name: Mapped[str] = _owner()
    note: Mapped[str]
    created: Mapped[datetime]
    last_used: Mapped[datetime | None]
    expires: Mapped[datetime | None]
    session_id: Mapped[str | None] = mapped_column(
        String(64), ForeignKey("sessions.id", ondelete="CASCADE"), index=True
    )


class AuditRow(Base):
    """:class:`batchhub.core.deeds.Deed`: who did what about whom. Not tied to the users' table, so that it outlives them."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(40))
    user_name: Mapped[str] = mapped_column(String(255), index=True)
    by: Mapped[str] = mapped_column(index=True)
    address: Mapped[str]
    words: Mapped[str]


class KeyRow(Base):
    """A person's SSH key for one cluster, made by the hub: the public half, and the private one, sealed."""

    __tablename__ = "keys"

    user_name: Mapped[str] = mapped_column(
        String(255), ForeignKey("users.name", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True
    )
    cluster: Mapped[str] = mapped_column(String(40), primary_key=True)
    created: Mapped[datetime]
    public: Mapped[str]
    sealed: Mapped[str]
    works: Mapped[datetime | None]
