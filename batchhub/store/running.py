"""One transaction in its thread, seen from outside: since when it runs, and its connection while it may be cut."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from sqlalchemy import Connection

from batchhub.store.engine import cut


class Running:
    """Entered by the thread that runs it. A connection that went back to the pool is another transaction's, and is not cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> None:
        """It begins."""
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It has ended."""
        self.uses(None)

    def uses(self, connection: Connection | None) -> None:
        """It works on this connection from now on."""
        with self._lock:
            self._connection = connection

    def for_seconds(self, now: float) -> float:
        """How long it runs, by the monotonic clock; 0 while it waits for its thread."""
        return now - self._since if self._since is not None else 0.0

    def cut(self) -> None:
        """End its connection, if it has one."""
        with self._lock:
            if self._connection is not None:
                cut(self._connection)
