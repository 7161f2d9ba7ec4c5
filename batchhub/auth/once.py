"""Things that are good once: which of them were used, for as long as they could be used again. Pure; time is handed in; memory is bounded."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from datetime import datetime

from batchhub.core.errors import TooMany

ENTRIES = 50_000
"""Uses that are remembered at a time: a course of thousands opens its notebooks within minutes."""


class Once:
    """Remembers uses of this process. What it forgets must have become too old by itself."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._used: OrderedDict[bytes, datetime] = OrderedDict()

    def use(self, what: str, until: datetime, now: datetime) -> bool:
        """Whether this is its first use; it is good until ``until``. Raises TooMany rather than forget one that still is."""
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        digest = hashlib.sha256(what.encode("utf-8", "surrogatepass")).digest()
        if self._used.get(digest, now) > now:
            return False
        if len(self._used) >= self._entries:
            self._used = OrderedDict((key, end) for key, end in self._used.items() if end > now)
        if len(self._used) >= self._entries:
            raise TooMany("Too many people come from their courses at this moment; please try again in a minute.")
        self._used[digest] = until
        return True

    def __len__(self) -> int:
        """Entries held."""
        return len(self._used)
