"""Transactions about users, their sessions and their API tokens: plain functions over an open ORM session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from batchhub.core.errors import NotFound
from batchhub.core.model import UserName
from batchhub.store.models import SessionRow, TokenRow, UserRow
from batchhub.store.values import ApiToken, StoredSession, User

# ---------------------------------------------------------------- users


def ensure_user(session: Session, name: str, now: datetime, *, admin: bool | None = None, login: bool = False) -> User:
    """Get or make the row. ``admin=None`` leaves the right as it is (a new user has none)."""
    found = select(UserRow).where(UserRow.name == name)
    row = session.scalar(found)
    if row is None:
        try:
            with session.begin_nested():
                session.add(UserRow(name=name, admin=bool(admin), created=now, groups=[], way=""))
                session.flush()
        except IntegrityError:
            pass  # another hub's transaction made it since we looked; it has ended by now, or we would still wait
        row = session.scalars(found).one()
    if admin is not None:
        row.admin = admin
    if login:
        row.last_login = now
    session.flush()
    return as_user(row)


def user(session: Session, name: str) -> User | None:
    """The user of this name."""
    row = session.scalar(select(UserRow).where(UserRow.name == name))
    return None if row is None else as_user(row)


def users(session: Session, limit: int, offset: int, part: str = "") -> tuple[User, ...]:
    """Users by name, those whose name has this part."""
    found = select(UserRow).where(UserRow.name.contains(part, autoescape=True)) if part else select(UserRow)
    rows = session.scalars(found.order_by(UserRow.name).limit(limit).offset(offset))
    return tuple(as_user(row) for row in rows)


def as_user(row: UserRow) -> User:
    """The row as a value."""
    return User(
        name=UserName(row.name),
        admin=row.admin,
        created=row.created,
        last_login=row.last_login,
        groups=tuple(row.groups),
        way=row.way,
    )


def _must_exist(session: Session, name: str) -> None:
    if session.scalar(select(UserRow.id).where(UserRow.name == name)) is None:
        raise NotFound(f"There is no user {name[:80]!r}.")


# ---------------------------------------------------------------- sessions


def add_session(session: Session, new: StoredSession) -> StoredSession:
    """Insert. Raises NotFound for an unknown user."""
    _must_exist(session, new.user)
    row = SessionRow(
        id=new.id,
        user_name=new.user,
        created=new.created,
        last_seen=new.last_seen,
        expires=new.expires,
        absolute=new.absolute,
        address=new.address,
        agent=new.agent,
        revoked=new.revoked,
    )
    session.add(row)
    session.flush()
    return _session(row)


def session_of(session: Session, session_id: str) -> StoredSession | None:
    """The session of this id, revoked or expired as it may be."""
    row = session.get(SessionRow, session_id)
    return None if row is None else _session(row)


def sessions_of(session: Session, name: str) -> tuple[StoredSession, ...]:
    """A user's sessions that were not revoked, last used first."""
    found = select(SessionRow).where(SessionRow.user_name == name, SessionRow.revoked.is_(None))
    return tuple(_session(row) for row in session.scalars(found.order_by(SessionRow.last_seen.desc(), SessionRow.id)))


def touch_session(session: Session, session_id: str, seen: datetime, expires: datetime) -> bool:
    """Note a use; false if it was revoked or is not there."""
    change = update(SessionRow).where(SessionRow.id == session_id, SessionRow.revoked.is_(None))
    return _count(session.execute(change.values(last_seen=seen, expires=expires))) > 0


def revoke_session(session: Session, session_id: str, now: datetime) -> bool:
    """End it; false if that was done before or it is not there."""
    change = update(SessionRow).where(SessionRow.id == session_id, SessionRow.revoked.is_(None))
    return _count(session.execute(change.values(revoked=now))) > 0


def revoke_sessions_of(session: Session, name: str, now: datetime, keep: str | None) -> tuple[str, ...]:
    """End all of a user's sessions except ``keep``; the ids of those that ended now."""
    mine = select(SessionRow).where(SessionRow.user_name == name, SessionRow.revoked.is_(None)).with_for_update()
    ended = tuple(row for row in session.scalars(mine) if row.id != keep)
    for row in ended:
        row.revoked = now
    return tuple(row.id for row in ended)


def ended_sessions(session: Session, now: datetime) -> dict[str, datetime]:
    """The revoked sessions whose tickets could live on if nobody knew: id -> latest end."""
    ended = select(SessionRow.id, SessionRow.absolute).where(SessionRow.revoked.is_not(None), SessionRow.absolute > now)
    return {row.id: row.absolute for row in session.execute(ended)}


def expire_sessions(session: Session, now: datetime) -> int:
    """Delete sessions that are past their latest end; returns how many.

    One that was revoked, or was idle for too long, stays until then: its tickets may be about, and have to be told apart or revoked.
    """
    return _count(session.execute(delete(SessionRow).where(SessionRow.absolute <= now)))


def _session(row: SessionRow) -> StoredSession:
    return StoredSession(
        id=row.id,
        user=UserName(row.user_name),
        created=row.created,
        last_seen=row.last_seen,
        expires=row.expires,
        absolute=row.absolute,
        address=row.address,
        agent=row.agent,
        revoked=row.revoked,
    )


# ---------------------------------------------------------------- tokens


def add_token(session: Session, new: ApiToken) -> ApiToken:
    """Insert; the database chooses the ``id``. Raises NotFound for an unknown user."""
    _must_exist(session, new.user)
    row = TokenRow(
        hash=new.hash,
        first=new.first,
        user_name=new.user,
        note=new.note,
        created=new.created,
        expires=new.expires,
        session_id=new.session,
    )
    session.add(row)
    session.flush()
    return _token(row)


def token(session: Session, digest: str) -> ApiToken | None:
    """The token of this hash, expired as it may be."""
    row = session.scalar(select(TokenRow).where(TokenRow.hash == digest))
    return None if row is None else _token(row)


def tokens_of(session: Session, name: str) -> tuple[ApiToken, ...]:
    """A user's tokens, newest first."""
    rows = session.scalars(select(TokenRow).where(TokenRow.user_name == name).order_by(TokenRow.id.desc()))
    return tuple(_token(row) for row in rows)


def touch_token(session: Session, token_id: int, used: datetime) -> bool:
    """Note a use; false if it is not there."""
    return _count(session.execute(update(TokenRow).where(TokenRow.id == token_id).values(last_used=used))) > 0


def revoke_token(session: Session, token_id: int, name: str | None) -> str | None:
    """Delete it, if it is this user's (``None``: anybody's); its hash, or ``None`` if it is not there."""
    dead = delete(TokenRow).where(TokenRow.id == token_id)
    mine = dead if name is None else dead.where(TokenRow.user_name == name)
    return session.scalar(mine.returning(TokenRow.hash))


def revoke_tokens_of(session: Session, name: str) -> tuple[str, ...]:
    """Delete all of a user's; their hashes."""
    return tuple(session.scalars(delete(TokenRow).where(TokenRow.user_name == name).returning(TokenRow.hash)))


def revoke_tokens_with(session: Session, sessions: Sequence[str]) -> tuple[str, ...]:
    """Delete those that end with these sessions; their hashes."""
    return tuple(session.scalars(delete(TokenRow).where(TokenRow.session_id.in_(sessions)).returning(TokenRow.hash)))


def _token(row: TokenRow) -> ApiToken:
    return ApiToken(
        id=row.id,
        hash=row.hash,
        first=row.first,
        user=UserName(row.user_name),
        note=row.note,
        created=row.created,
        expires=row.expires,
        last_used=row.last_used,
        session=row.session_id,
    )


def _count(result: object) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0
