"""Which of several hubs on one database leads.

With PostgreSQL the leader is whoever holds an advisory lock, on a connection kept for that alone. It asks something every second; when
it asks nothing for :data:`IDLE_SECONDS`, because its machine hangs or is cut off, PostgreSQL itself ends the connection and with it the lock.
Each change of leader raises an epoch in the table ``leaders``, and the reconciler's transactions hold it against their own
(:meth:`batchhub.store.store.Store.led_by`): what a former leader would still write is refused, however late it comes.

With SQLite there is one hub, and a lock on a file beside the database sees to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from batchhub.core.errors import ConfigError, NotLeading, StoreUnavailable
from batchhub.core.ports import Clock
from batchhub.store.engine import cut, is_memory, is_shared, open_engine, our_errors, read_url, shown
from batchhub.store.models import LeaderRow
from batchhub.store.values import Leader

IDLE_SECONDS = 10
"""After so long a silence PostgreSQL takes the lead away."""

_KEY = 0x62682D6C65616473
"""The advisory lock ("bh-leads")."""
_NAME = "hub"

T = TypeVar("T")


class LeaderLock:
    """The lead, as one hub tries to take it. ``holder`` is its name for people. Every method raises StoreUnavailable."""

    DEADLINE = 4.0
    """Seconds for one answer."""

    def __init__(self, url: str, holder: str, clock: Clock) -> None:
        self._engine = open_engine(read_url(url), connections=1, idle_seconds=IDLE_SECONDS)
        self._holder = holder
        self._clock = clock
        self._connection: Connection | None = None
        self._thread = ThreadPoolExecutor(1, "store-lead")

    async def acquire(self) -> int | None:
        """Take the lead if nobody has it: its epoch, or ``None``."""
        return await self._run(self._acquire)

    async def confirm(self) -> None:
        """Return if the lead is still ours. Raises NotLeading, and StoreUnavailable: then it is given up here, too."""
        await self._run(self._confirm)

    async def release(self) -> None:
        """Give it up, if we have it."""
        with contextlib.suppress(StoreUnavailable):
            await self._run(self._drop)

    async def close(self) -> None:
        """Give it up for good."""
        await self.release()
        self._thread.shutdown(wait=False)
        self._engine.dispose()

    async def _run(self, work: Callable[[], T]) -> T:
        """In the thread; after an error, or without an answer in time, the connection is ended, and the lock with it."""

        def run() -> T:
            try:
                with our_errors(self._engine.url):
                    return work()
            except BaseException:
                self._drop()
                raise

        future = asyncio.wrap_future(self._thread.submit(run))
        try:
            done, _ = await asyncio.wait({future}, timeout=self.DEADLINE)
        except asyncio.CancelledError:
            self._cut()
            raise
        if not done:
            self._cut()
            future.cancel()
            raise StoreUnavailable(f"The database {shown(self._engine.url)} does not answer.")
        return future.result()

    def _cut(self) -> None:
        connection = self._connection
        if connection is not None:
            cut(connection)

    def _acquire(self) -> int | None:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection = self._connection
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}):
            return None
        raised = text(
            "INSERT INTO leaders (name, epoch, holder, since) VALUES (:name, 1, :holder, :now) "
            "ON CONFLICT (name) DO UPDATE SET epoch = leaders.epoch + 1, holder = :holder, since = :now RETURNING epoch"
        )
        # Waits for the transactions that a former leader has open, which PostgreSQL ends if they stand still.
        epoch = connection.scalar(raised, {"name": _NAME, "holder": self._holder, "now": self._clock()})
        return int(epoch)

    def _confirm(self) -> None:
        if self._connection is None:
            raise NotLeading("This hub does not lead.")
        # That this connection answers is the proof: its lock lasts as long as it does.
        self._connection.scalar(text("SELECT 1"))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            raw = connection.connection.driver_connection if not connection.invalidated else None
            with contextlib.suppress(Exception):
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()
            if raw is not None:
                raw.close()


def check_epoch(session: Session, epoch: int | None, *, shared: bool) -> None:
    """Raise NotLeading unless ``epoch`` is the newest. Nobody takes the lead before this transaction has ended."""
    if epoch is None:
        raise NotLeading("This hub does not lead at the moment.")
    if not shared:
        return
    newest = session.scalar(text("SELECT epoch FROM leaders WHERE name = :name FOR SHARE"), {"name": _NAME})
    if newest != epoch:
        raise NotLeading("Another hub leads by now.")


def leader(session: Session) -> Leader | None:
    """Who led last, and whether the lead is taken; ``None`` if nobody ever did. PostgreSQL only."""
    row = session.get(LeaderRow, _NAME)
    if row is None:
        return None
    held = text(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = :high "
        "AND objid = :low AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    leads = session.scalar(held, {"high": _KEY >> 32, "low": _KEY & 0xFFFFFFFF})
    return Leader(row.epoch, row.holder, row.since, bool(leads))


class SoleHub:
    """The claim of one hub on a database that only one may use. Nothing to do for a shared one, or one in memory."""

    def __init__(self, url: str) -> None:
        read = read_url(url)
        alone = not is_shared(read) and not is_memory(read) and not (read.database or "").startswith("file:")
        self._path = Path(f"{read.database}.hub").absolute() if alone else None
        self._file: int | None = None

    def claim(self) -> None:
        """Take it, until :meth:`release` or the process's end. Raises ConfigError if another hub has it."""
        if self._path is None or self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"The file {self._path} cannot be opened for writing: {error.strerror}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise ConfigError(
                f"Another hub works on the database {self._path.with_suffix('')}; with SQLite there can be one. End it, or give both a "
                "PostgreSQL database (c.BatchHub.db_url)."
            ) from error
        self._file = file

    def release(self) -> None:
        """Let another hub have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
