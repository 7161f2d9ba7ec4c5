"""Tells waiting pages that a server changed. Holds no state worth keeping: a page that missed a word reads the row."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from batchhub.core.model import ServerId


class Broadcast:
    """Per server, the events of those who wait for news about it."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def listen(self, key: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change of the server (or user) called ``key``; the listener clears it."""
        event = asyncio.Event()
        self._waiting[key].add(event)
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    def tell(self, *keys: str) -> None:
        """Something changed."""
        for key in keys:
            for event in self._waiting.get(key, ()):
                event.set()

    def watched(self, server_id: ServerId) -> bool:
        """Whether a page waits for this server."""
        return server_id in self._waiting
