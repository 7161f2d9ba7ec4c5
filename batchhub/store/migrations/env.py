"""Alembic runs this file. The connection is handed in by :mod:`batchhub.store.schema`, inside its transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from batchhub.store.models import Base


def _run() -> None:
    connection = context.config.attributes["connection"]
    if not isinstance(connection, Connection):
        raise TypeError("the migrations run on a connection of batchhub.store.schema")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite cannot alter a table in place
        transactional_ddl=True,
    )
    context.run_migrations()


_run()
