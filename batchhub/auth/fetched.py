"""What a provider says of itself, kept for a while: its description, its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from batchhub.core.errors import Unreachable
from batchhub.core.ports import Clock

T = TypeVar("T")


class Fetched(Generic[T]):
    """Asks at most one question at a time. Those who wait for it share its answer, and also that there was none.

    Otherwise a slow provider would be asked once more for each of them, one after the other, and the last would wait for hours.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[T]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._found: tuple[T, datetime] | None = None
        self._silences: tuple[int, str] = (0, "")
        """How often there was no answer, and the sentence about the last time."""

    async def get(self, url: str, age: timedelta) -> T:
        """What ``url`` says, no older than ``age``. Raises what the question raises; Unreachable."""
        before, _ = self._silences
        async with self._lock:
            now = self._clock()
            if self._found is not None and now - self._found[1] < age:
                return self._found[0]
            number, words = self._silences
            if number > before:
                raise Unreachable(words)
            try:
                found = await self._fetch(url)
            except Unreachable as error:
                self._silences = number + 1, str(error)
                raise
            self._found = (found, now)
            return found
