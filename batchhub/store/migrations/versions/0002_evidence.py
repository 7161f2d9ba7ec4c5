"""What a server was told and warned of, when it was last used, and what each event saw and did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENTS = ("told", "active", "warned")
_TEXTS = ("seen", "done")


def upgrade() -> None:
    """Forwards."""
    with op.batch_alter_table("servers") as table:
        for name in _MOMENTS:
            table.add_column(sa.Column(name, sa.DateTime(timezone=True)))
    with op.batch_alter_table("events") as table:
        for name in _TEXTS:
            table.add_column(sa.Column(name, sa.Text(), nullable=False, server_default=""))
    with op.batch_alter_table("events") as table:
        for name in _TEXTS:
            table.alter_column(name, existing_type=sa.Text(), existing_nullable=False, server_default=None)


def downgrade() -> None:
    """Back."""
    with op.batch_alter_table("events") as table:
        for name in _TEXTS:
            table.drop_column(name)
    with op.batch_alter_table("servers") as table:
        for name in _MOMENTS:
            table.drop_column(name)
