"""The public keys that a provider signs ID tokens with: fetched, kept for an hour, and fetched again for a key that is not among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import ModuleType
from typing import Any

from batchhub.auth.fetched import Fetched
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
        self._keys = Fetched(self._fetch, clock)

    async def claims(self, text: str, url: str, expected: Any) -> Mapping[str, Any]:
        """The token's claims, checked; the keys are fetched from ``url`` again if it was signed with one we do not know.

        ``expected`` is an :class:`~batchhub.auth.id_tokens.Expected`. Raises BadToken, Unreachable.
        """
        keys = await self._keys.get(url, FRESH)
        try:
            found = self._tools.read_id_token(text, keys, expected, self._clock())
        except self._tools.UnknownKey:
            keys = await self._keys.get(url, AGAIN)
            found = self._tools.read_id_token(text, keys, expected, self._clock())
        claims: Mapping[str, Any] = found
        return claims

    async def _fetch(self, url: str) -> Sequence[Mapping[str, Any]]:
        answer = await self._asker.get(url)
        if answer.code != 200:
            raise Unreachable(f"{self._title} does not tell its keys now; please try again in a minute.")
        keys: Sequence[Mapping[str, Any]] = self._tools.read_keys(answer.table)
        return keys
