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
        self,
        name: str,
        full: str = "Too many people are signing in right now; please try again in a minute.",
        threads: int = THREADS,
    ) -> None:
        self._full = full
        self._threads = ThreadPoolExecutor(threads, name)
        self._waiting = 0

    async def ask(self, question: Callable[[], T], seconds: float) -> T:
        """The answer. Raises what the question raises; TimeoutError; TooMany when others wait already.

        A question that nobody waits for any more is not begun: a password that was typed once is not tried twice.
        """
        if self._waiting >= WAITING_LIMIT:
            raise TooMany(self._full)
        self._waiting += 1
        # Counted until the thread is free again, not only until somebody stops to wait for it.
        future = self._threads.submit(_answered, question)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_soon(loop, self._freed))
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    def close(self) -> None:
        """Let the threads go; those that wait for an answer end when it comes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _freed(self) -> None:
        self._waiting -= 1


def _answered(question: Callable[[], T]) -> T:
    """Raises RuntimeError for what no future can carry (StopIteration), what would end the hub (``sys.exit``), or would read as if we had not waited."""
    try:
        return question()
    except (StopIteration, SystemExit, KeyboardInterrupt, TimeoutError) as error:
        raise RuntimeError(f"{type(error).__name__} was raised: {error}") from error


def _call_soon(loop: asyncio.AbstractEventLoop, work: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
