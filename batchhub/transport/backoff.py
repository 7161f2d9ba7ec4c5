"""How long to wait before trying again. Pure: time and chance are handed in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from batchhub.core.errors import Unreachable


class Backoff:
    """Exponential, from ``first`` to ``longest`` seconds, each pause drawn between half and the whole of that.

    ``now`` is any clock in seconds that never goes back; ``at`` is the time of day, for people.
    """

    def __init__(self, chance: Callable[[], float], first: float = 1.0, longest: float = 60.0) -> None:
        self._chance = chance
        self._first = first
        self._longest = longest
        self._failures = 0
        self._next = 0.0
        self.since: datetime | None = None
        self.words = ""

    def failed(self, words: str, now: float, at: datetime, pauses: tuple[float, float] | None = None) -> None:
        """One more failure, and why. ``pauses`` are for this one, in place of ``first`` and ``longest``."""
        first, longest = pauses or (self._first, self._longest)
        pause = min(first * 2.0 ** min(self._failures, 30), longest)
        self._next = now + pause * (0.5 + self._chance() / 2)
        self._failures += 1
        self.since = self.since or at
        self.words = words

    def worked(self) -> None:
        """Start over."""
        self._failures, self._next, self.since, self.words = 0, 0.0, None, ""

    def over(self, now: float) -> bool:
        """Whether the pause, if there is one, has ended."""
        return now >= self._next

    def check(self, now: float) -> None:
        """Return if it is time to try. Raises Unreachable at once otherwise, with what went wrong and since when."""
        left = self._next - now
        if left > 0 and self.since is not None:
            raise Unreachable(f"{self.words} So since {self.since:%H:%M:%S} UTC; next try in {max(1, round(left))} s.")
