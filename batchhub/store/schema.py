"""The schema's revision: checked at start, changed by ``batchhub db upgrade`` only.

A new, empty database is created and stamped by whoever opens it first. One that has another revision is refused with a
sentence: a migration is an admin's decision, after a backup.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from batchhub.core.errors import WrongSchema
from batchhub.store.engine import open_engine, our_errors, read_url, shown

MIGRATIONS = Path(__file__).parent / "migrations"

_ONE_AT_A_TIME = 0x62682D6D69677261
"""PostgreSQL's advisory lock of whoever migrates ("bh-migra"); SQLite's transactions are one at a time by themselves."""


def revision(url: str) -> str | None:
    """The database's revision; ``None`` for a database without our tables. Raises StoreUnavailable, ConfigError."""
    engine = open_engine(read_url(url), connections=1)
    try:
        with our_errors(engine.url), engine.connect() as connection:
            return _revision(connection)
    finally:
        engine.dispose()


def revisions() -> tuple[str, ...]:
    """All revisions that this version knows, oldest first."""
    return tuple(reversed([script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]))


def newest_revision() -> str:
    """The revision this version of BatchHub needs."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if head is None:
        raise WrongSchema("This installation of BatchHub lacks its migrations.")
    return head


def upgrade(url: str, target: str = "head") -> str:
    """Bring the database to this version's revision, in one transaction; returns it.

    Raises WrongSchema if the database is a newer version's or not ours, StoreUnavailable, ConfigError.
    """
    engine = open_engine(read_url(url), connections=1, patient=True)
    try:
        with our_errors(engine.url):
            _migrate(engine, target, up=True)
    finally:
        engine.dispose()
    return revision(url) or ""


def downgrade(url: str, target: str) -> None:
    """Take the database back to ``target`` (a revision, or ``base`` = no tables). Data of newer columns and tables is lost.

    Raises WrongSchema for a target that is no earlier revision; then nothing was changed.
    """
    if target != "base" and not _known(target):
        raise WrongSchema(f"There is no revision {target[:40]!r}; known: base, {', '.join(revisions())}.")
    engine = open_engine(read_url(url), connections=1, patient=True)
    try:
        with our_errors(engine.url):
            _migrate(engine, target, up=False)
    finally:
        engine.dispose()


def draft(url: str, message: str) -> None:
    """Write a new migration from the difference between the models and the database at ``url``; a person then reads it."""
    engine = open_engine(read_url(url), connections=1)
    try:
        with engine.begin() as connection:
            command.revision(_alembic(connection), message, autogenerate=True)
    finally:
        engine.dispose()


def prepare(engine: Engine, *, create: bool) -> None:
    """Create the tables of a new database if asked to, then check. Raises WrongSchema."""
    with engine.connect() as connection:
        new = _is_new(connection)
    if new and create:
        _migrate(engine, "head", up=True)
    check(engine)


def check(engine: Engine) -> None:
    """Raise WrongSchema unless the database has this version's revision."""
    with engine.connect() as connection:
        have = _revision(connection)
        new = _is_new(connection)
    need = newest_revision()
    if have == need:
        return
    where = shown(engine.url)
    if have is None and not new:
        raise WrongSchema(
            f"The database {where} holds tables that are not BatchHub's; give BatchHub a database of its own."
        )
    if have is None:
        raise WrongSchema(f"The database {where} has no tables yet. Run 'batchhub db upgrade' to create them.")
    if not _known(have):
        raise WrongSchema(
            f"The database {where} is at revision {have}, which this version of BatchHub does not know: a newer version "
            "has used it. Install that version again, or restore a backup; 'batchhub db upgrade' cannot go back."
        )
    raise WrongSchema(
        f"The database {where} is at revision {have}, this version of BatchHub needs {need}. "
        "Make a backup, then run 'batchhub db upgrade'."
    )


def _known(name: str) -> bool:
    return name in revisions()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_new(connection: Connection) -> bool:
    return not inspect(connection).get_table_names()


def _migrate(engine: Engine, target: str, *, up: bool) -> None:
    with engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            # Outside a transaction, or it has no effect: SQLite changes a table by making it anew, which must not cascade.
            _pragma(connection, "foreign_keys=OFF")
        try:
            with connection.begin():
                if not sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
                _refuse_foreign(connection)
                (command.upgrade if up else command.downgrade)(_alembic(connection), target)
                if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise WrongSchema("The migration would leave rows that point nowhere; nothing was changed.")
        finally:
            if sqlite:
                _pragma(connection, "foreign_keys=ON")


def _pragma(connection: Connection, words: str) -> None:
    raw = connection.connection.driver_connection
    if raw is not None:
        raw.execute(f"PRAGMA {words}")


def _refuse_foreign(connection: Connection) -> None:
    # Asked again under the write lock: of two hubs that start on a new file one creates it, the other finds it created.
    have = _revision(connection)
    if have is None and not _is_new(connection):
        tables = set(inspect(connection).get_table_names())
        if tables != {"alembic_version"}:
            where = shown(connection.engine.url)
            raise WrongSchema(
                f"The database {where} holds tables that are not BatchHub's; give BatchHub a database of its own."
            )
    if have is not None and not _known(have):
        raise WrongSchema(f"The database is at revision {have}, which this version of BatchHub does not know.")


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
