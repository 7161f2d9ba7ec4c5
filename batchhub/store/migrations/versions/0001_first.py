"""The first tables: users, servers, events, sessions, tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_LIVE = sa.text("phase != 'ended'")


def _key() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _owner(table: str) -> tuple[sa.Column[str], sa.ForeignKeyConstraint]:
    """A column that names the owner, and its constraint."""
    return (
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_name"], ["users.name"], name=f"fk_{table}_user_name_users", ondelete="CASCADE", onupdate="CASCADE"
        ),
    )


def upgrade() -> None:
    """Forwards."""
    op.create_table(
        "users",
        sa.Column("id", _key(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("last_login", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    _servers()
    op.create_table(
        "events",
        sa.Column("id", _key(), nullable=False),
        sa.Column("server_id", sa.String(12), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["server_id"], ["servers.id"], name="fk_events_server_id_servers", ondelete="CASCADE"),
    )
    op.create_index("ix_events_server_id_id", "events", ["server_id", "id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), nullable=False),
        *_owner("sessions"),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("last_seen", _TIME, nullable=False),
        sa.Column("expires", _TIME, nullable=False),
        sa.Column("absolute", _TIME, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("revoked", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_user_name", "sessions", ["user_name"])
    op.create_index("ix_sessions_expires", "sessions", ["expires"])
    op.create_table(
        "tokens",
        sa.Column("id", _key(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("first", sa.String(16), nullable=False),
        *_owner("tokens"),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("last_used", _TIME),
        sa.Column("expires", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )
    op.create_index("ix_tokens_user_name", "tokens", ["user_name"])


def _servers() -> None:
    op.create_table(
        "servers",
        sa.Column("seq", _key(), nullable=False),
        sa.Column("id", sa.String(12), nullable=False),
        *_owner("servers"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("want", sa.String(20), nullable=False),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text()),
        sa.Column("submit_tried", _TIME),
        sa.Column("submit_count", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("endpoint_host", sa.Text()),
        sa.Column("endpoint_port", sa.Integer()),
        sa.Column("endpoint_socket", sa.Text()),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("started", _TIME),
        sa.Column("answered", _TIME),
        sa.Column("cancel_tried", _TIME),
        sa.Column("outcome", sa.String(20)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("log_tail", sa.Text(), nullable=False),
        sa.Column("ended", _TIME),
        sa.PrimaryKeyConstraint("seq", name="pk_servers"),
        sa.UniqueConstraint("id", name="uq_servers_id"),
    )
    op.create_index(
        "uq_servers_one_live_run",
        "servers",
        ["user_name", "name"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_index("ix_servers_newest", "servers", ["user_name", "name", "seq"])
    op.create_index("ix_servers_live", "servers", ["cluster"], sqlite_where=_LIVE, postgresql_where=_LIVE)


def downgrade() -> None:
    """Backwards: every table goes."""
    for table in ("tokens", "sessions", "events", "servers", "users"):
        op.drop_table(table)
