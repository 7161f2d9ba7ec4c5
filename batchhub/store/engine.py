"""Engines: how a database is opened, what a transaction begins with, and foreign errors turned into ours.

SQLite is put into write-ahead logging, so that readers and the one writer do not wait for each other, with ``synchronous=NORMAL``:
a killed process loses nothing, a power cut may lose the last commits but never the file's integrity
(sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from batchhub.core.errors import ConfigError, Conflict, StoreUnavailable

BUSY_SECONDS = 10
"""How long one process waits for another's write transaction before it says the database is unavailable."""

_BEGIN = "batchhub_begin"


def read_url(text: str) -> URL:
    """A database address, checked. Raises ConfigError; the sentence holds no password."""
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        example = "sqlite:////var/lib/batchhub/batchhub.sqlite"
        raise ConfigError(f"The database address cannot be read; it looks like {example!r}.") from error
    return url


def is_memory(url: URL) -> bool:
    """Whether this is SQLite in memory: one connection is then the whole database."""
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def open_engine(url: URL, connections: int) -> Engine:
    """An engine whose transactions take the write lock at their beginning. Opens nothing yet."""
    # Statements may be logged, the values in them (hashes, people's words) not.
    options: dict[str, Any] = {"json_serializer": partial(json.dumps, allow_nan=False), "hide_parameters": True}
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, pool_size=connections, max_overflow=0, pool_pre_ping=True, **options)
        if is_memory(url):
            options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        else:
            _private_file(url)
            options |= {"pool_size": connections, "max_overflow": 0, "connect_args": {"timeout": BUSY_SECONDS}}
        engine = create_engine(url, **options)
    except ImportError as error:
        raise ConfigError(f"The driver for {url.drivername} databases is not installed: {error}.") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """The same engine with transactions that take no write lock."""
    return engine.execution_options(**{_BEGIN: "BEGIN"})


def _private_file(url: URL) -> None:
    # Session and token hashes are inside: the file is ours alone, and SQLite gives -wal and -shm the same mode.
    if url.database is None or url.database.startswith("file:"):
        return
    try:
        os.close(os.open(url.database, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        where = Path(url.database).absolute()
        raise StoreUnavailable(f"The database file {where} cannot be opened for writing: {error.strerror}.") from error


def _prepare_sqlite(connection: Any, record: object) -> None:
    del record
    connection.isolation_level = None  # the driver begins no transaction behind our back
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] not in {"wal", "memory"}:
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for the lock in between: SQLite answers "busy" at once.
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN IMMEDIATE"))


@contextmanager
def our_errors(url: URL) -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours. The details are in the ``__cause__``, never on a page."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict("The change contradicts what the database holds by now.") from error
    except (DBAPIError, PoolTimeout) as error:
        raise StoreUnavailable(f"The database {shown(url)} cannot be asked now.") from error
    except StatementError as error:  # a value no column takes: a mistake of ours, shown without SQL around it
        raise error.orig or error from error


def shown(url: URL) -> str:
    """The address for people, its password as stars."""
    return url.render_as_string(hide_password=True)
