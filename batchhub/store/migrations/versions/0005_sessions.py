"""Tokens that end with a session, and the audit trail by who did it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forwards: tokens of before end with no session."""
    with op.batch_alter_table("tokens") as table:
        table.add_column(sa.Column("session_id", sa.String(64)))
        table.create_foreign_key(
            "fk_tokens_session_id_sessions", "sessions", ["session_id"], ["id"], ondelete="CASCADE"
        )
    op.create_index("ix_tokens_session_id", "tokens", ["session_id"])
    op.create_index("ix_audit_by", "audit", ["by"])


def downgrade() -> None:
    """Backwards. A token that was to end with a session must not outlive it: it ends now."""
    op.drop_index("ix_audit_by", table_name="audit")
    op.execute("DELETE FROM tokens WHERE session_id IS NOT NULL")
    op.drop_index("ix_tokens_session_id", table_name="tokens")
    with op.batch_alter_table("tokens") as table:
        table.drop_constraint("fk_tokens_session_id_sessions", type_="foreignkey")
        table.drop_column("session_id")
