"""Several hubs on one database: who leads, and what the leader sees, for the pages of the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forwards."""
    op.create_table(
        "sightings",
        sa.Column("server_id", sa.String(12), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("truth", sa.String(20), nullable=False),
        sa.Column("report", sa.JSON()),
        sa.Column("word", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", name="pk_sightings"),
        sa.ForeignKeyConstraint(
            ["server_id"], ["servers.id"], name="fk_sightings_server_id_servers", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "clusters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("silent_since", _TIME),
        sa.Column("silent_word", sa.Text(), nullable=False),
        sa.Column("answered_at", _TIME),
        sa.Column("watched_until", _TIME),
        sa.PrimaryKeyConstraint("name", name="pk_clusters"),
    )
    op.create_table(
        "leaders",
        sa.Column("name", sa.String(20), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leaders"),
    )


def downgrade() -> None:
    """Backwards: jobs and people lose nothing; the next look at the clusters says the same again."""
    for table in ("leaders", "clusters", "sightings"):
        op.drop_table(table)
