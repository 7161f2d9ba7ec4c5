"""Who people are: their groups, what their way to sign in keeps of them (sealed), their keys for clusters, and who did what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forwards: people of before have no groups until they sign in again."""
    with op.batch_alter_table("users") as table:
        table.add_column(sa.Column("groups", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("way", sa.String(40), nullable=False, server_default=""))
        table.add_column(sa.Column("auth_state", sa.Text()))
    with op.batch_alter_table("users") as table:
        table.alter_column("groups", server_default=None)
        table.alter_column("way", server_default=None)
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_user_name", "audit", ["user_name"])
    op.create_table(
        "keys",
        sa.Column("user_name", sa.String(255), nullable=False),
        sa.Column("cluster", sa.String(40), nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("public", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("works", _TIME),
        sa.PrimaryKeyConstraint("user_name", "cluster", name="pk_keys"),
        sa.ForeignKeyConstraint(
            ["user_name"], ["users.name"], name="fk_keys_user_name_users", ondelete="CASCADE", onupdate="CASCADE"
        ),
    )


def downgrade() -> None:
    """Backwards: keys have to be made and added anew."""
    op.drop_table("keys")
    op.drop_index("ix_audit_user_name", table_name="audit")
    op.drop_index("ix_audit_at", table_name="audit")
    op.drop_table("audit")
    with op.batch_alter_table("users") as table:
        for name in ("auth_state", "way", "groups"):
            table.drop_column(name)
