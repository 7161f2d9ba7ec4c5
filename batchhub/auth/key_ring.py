"""The public keys that a provider signs ID tokens with: fetched, kept for an hour, and fetched again for a key that is not among them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

from batchhub.auth.oauth_http import Asker
from batchhub.core.errors import Unreachable
from batchhub.core.ports import Clock

FRESH = timedelta(hours=1)
"""How long what a provider says of itself, and its keys, are good without asking again."""
AGAIN = timedelta(seconds=30)
"""An unknown key has the list fetched again, at most this often."""


class KeyRing:
    """One provider's keys. ``tools`` is the module with ``read_id_token``, loaded at first use; ``title`` names the provider in a sentence."""

    def __init__(self, asker: Asker, clock: Clock, tools: ModuleType, title: str) -> None:
        self._asker = asker
        self._clock = clock
        self._tools = tools
        self._title = title
        self._lock = asyncio.Lock()
        self._keys: tuple[Sequence[Mapping[str, Any]], datetime] | None = None

    async def claims(self, text: str, url: str, expected: Any) -> Mapping[str, Any]:
        """The token's claims, checked; the keys are fetched from ``url`` again if it was signed with one we do not know.

        ``expected`` is an :class:`~batchhub.auth.id_tokens.Expected`. Raises BadToken, Unreachable.
        """
        keys = await self._list(url, FRESH)
        try:
            found = self._tools.read_id_token(text, keys, expected, self._clock())
        except self._tools.UnknownKey:
            keys = await self._list(url, AGAIN)
            found = self._tools.read_id_token(text, keys, expected, self._clock())
        claims: Mapping[str, Any] = found
        return claims

    async def _list(self, url: str, age: timedelta) -> Sequence[Mapping[str, Any]]:
        """The keys, no older than ``age``."""
        async with self._lock:
            now = self._clock()
            if self._keys is None or now - self._keys[1] >= age:
                answer = await self._asker.get(url)
                if answer.code != 200:
                    raise Unreachable(f"{self._title} does not tell its keys now; please try again in a minute.")
                self._keys = (self._tools.read_keys(answer.table), now)
            return self._keys[0]
