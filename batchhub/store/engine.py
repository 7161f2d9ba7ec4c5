"""Engines: how a database is opened, what a transaction begins with, and foreign errors turned into ours.

SQLite is put into write-ahead logging, so that readers and the one writer do not wait for each other, with ``synchronous=NORMAL``:
a killed process loses nothing, a power cut may lose the last commits but never the file's integrity
(sqlite.org/pragma.html#pragma_synchronous).

PostgreSQL is spoken by psycopg 3. Every wait for it is bounded: the server ends statements and lock waits that last too long, TCP ends
connections whose other side is silent, and what is left (a server that hangs with its connections open) :func:`cut` ends from outside.
"""

from __future__ import annotations

import json
import os
import socket
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

CONNECT_SECONDS = 5
"""How long a connection to PostgreSQL may take to open."""

STATEMENT_SECONDS = 10
"""How long PostgreSQL may work on one statement, and a statement wait for a lock. A migration may take as long as it takes."""

_DRIVERS = {"postgresql": "postgresql+psycopg"}
"""What an address without a driver means here; SQLAlchemy would look for psycopg 2."""

_BEGIN = "batchhub_begin"


def read_url(text: str) -> URL:
    """A database address, checked. Raises ConfigError; the sentence holds no password."""
    try:
        url = make_url(text)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        examples = "'sqlite:////var/lib/batchhub/batchhub.sqlite' or 'postgresql://batchhub@db.example.org/batchhub'"
        raise ConfigError(f"The database address cannot be read; it looks like {examples}.") from error
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(f"{url.get_backend_name()} databases are not supported; use sqlite or postgresql.")
    return url


def is_memory(url: URL) -> bool:
    """Whether this is SQLite in memory: one connection is then the whole database."""
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def is_shared(url: URL) -> bool:
    """Whether several hubs may work on this database."""
    return url.get_backend_name() != "sqlite"


def open_engine(url: URL, connections: int, *, patient: bool = False, idle_seconds: int = 0) -> Engine:
    """An engine whose transactions take SQLite's write lock at their beginning. Opens nothing yet.

    ``patient``: statements may take as long as they take. ``idle_seconds``: PostgreSQL ends a connection that asks nothing for so long, and
    frees its locks (``idle_session_timeout``, PostgreSQL 14); 0 is never.
    """
    # Statements may be logged, the values in them (hashes, people's words) not.
    options: dict[str, Any] = {"json_serializer": partial(json.dumps, allow_nan=False), "hide_parameters": True}
    try:
        if is_shared(url):
            options["connect_args"] = _postgresql_arguments(patient=patient, idle_seconds=idle_seconds)
            return create_engine(
                url,
                pool_size=connections,
                max_overflow=0,
                pool_timeout=STATEMENT_SECONDS,
                pool_pre_ping=True,
                **options,
            )
        if is_memory(url):
            options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        else:
            _private_file(url)
            options |= {"pool_size": connections, "max_overflow": 0, "connect_args": {"timeout": BUSY_SECONDS}}
        engine = create_engine(url, **options)
    except ImportError as error:
        hint = " Install it: pip install 'batchhub[postgresql]'." if is_shared(url) else ""
        raise ConfigError(f"The driver for {url.drivername} databases is not installed: {error}.{hint}") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """The same engine with transactions that take no write lock."""
    return engine.execution_options(**{_BEGIN: "BEGIN"})


def _postgresql_arguments(*, patient: bool, idle_seconds: int) -> dict[str, Any]:
    """Connection parameters of libpq (PostgreSQL documentation, 34.1.2). The socket options end a connection whose other host is gone."""
    settings: dict[str, int] = {}
    if not patient:
        # A hub that is paused in the middle of a transaction holds rows that others wait for.
        settings |= {"idle_in_transaction_session_timeout": STATEMENT_SECONDS * 1000}
        settings |= {"statement_timeout": STATEMENT_SECONDS * 1000, "lock_timeout": STATEMENT_SECONDS * 500}
    if idle_seconds:
        settings["idle_session_timeout"] = idle_seconds * 1000
    return {
        "application_name": "batchhub",
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_SECONDS * 1000,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
    }


def cut(connection: Connection) -> None:
    """End a PostgreSQL connection from another thread: whoever waits in it has an error at once. Its server may hang, and never would answer."""
    try:
        descriptor = connection.connection.driver_connection.pgconn.socket  # type: ignore[union-attr]
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except Exception:  # noqa: BLE001 - it was closed, or is not open yet: then it ends by itself
        return


def passing(error: DBAPIError) -> bool:
    """Whether two transactions only stood in each other's way (serialisation failure, deadlock): the same one may well succeed now."""
    return getattr(error.orig, "sqlstate", None) in {"40001", "40P01"}


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
