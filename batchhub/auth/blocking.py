"""Questions that block, such as whether a password is right, asked in threads: a bounded number at a time, each with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from batchhub.core.errors import TooMany

THREADS = 8
"""Questions at a time: a wrong password holds a thread for the seconds that whoever answers wants to take."""
WAITING_LIMIT = 64
"""Questions running and waiting together; beyond it a sign-in is told to come back."""

T = TypeVar("T")


class Blocking:
    """Threads of one authenticator, or whoever asks. None is started before the first question. ``full``: the sentence when others wait already."""

    def __init__(
        self, name: str, full: str = "Too many people are signing in right now; please try again in a minute."
    ) -> None:
        self._full = full
        self._threads = ThreadPoolExecutor(THREADS, name)
        self._waiting = 0

    async def ask(self, question: Callable[[], T], seconds: float) -> T:
        """The answer. Raises what the question raises; TimeoutError; TooMany when others wait already."""
        if self._waiting >= WAITING_LIMIT:
            raise TooMany(self._full)
        self._waiting += 1
        # Held until the thread is free again, not only until somebody stops to wait for it.
        future = self._threads.submit(question)
        loop = asyncio.get_running_loop()
        waiter = asyncio.wrap_future(future)
        waiter.add_done_callback(_ignore)
        future.add_done_callback(lambda _: _call_soon(loop, self._freed))
        return await asyncio.wait_for(asyncio.shield(waiter), seconds)

    def close(self) -> None:
        """Let the threads go; those that wait for an answer end when it comes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _freed(self) -> None:
        self._waiting -= 1


def _ignore(waiter: asyncio.Future[Any]) -> None:
    # Nobody may be waiting any more; then its error is nobody's.
    if not waiter.cancelled():
        waiter.exception()


def _call_soon(loop: asyncio.AbstractEventLoop, work: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
