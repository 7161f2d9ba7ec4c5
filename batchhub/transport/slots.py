"""Whose turn it is to use one of a connection's sessions."""

from __future__ import annotations

import asyncio
from collections import deque

_GROW_AFTER = 50


class Slots:
    """A semaphore whose limit follows what the other side lets in, and which can be closed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._most = limit
        self._worked = 0
        self.used = 0
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> bool:
        """Wait for a slot; False when there will be none here any more."""
        while not self._closed and self.used >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was our turn: pass it on
                raise
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        if self._closed:
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """Give a slot back."""
        self.used -= 1
        self._wake()

    def refused(self) -> None:
        """The other side did not let the newest one in: no more at a time than there were before it."""
        self.limit = max(1, min(self.limit, self.used - 1))
        self._worked = 0

    def worked(self) -> None:
        """One went well. A refusal may have been a matter of timing (sshd had not reaped a child), so the limit grows again."""
        self._worked += 1
        if self._worked >= _GROW_AFTER and self.limit < self._most:
            self.limit += 1
            self._worked = 0
            self._wake()

    def close(self) -> None:
        """Send everybody who waits elsewhere."""
        self._closed = True
        while self._waiting:
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
