"""One-time sign-in links, for ``batchhub demo``: whoever started the hub reads the link on the terminal, and nobody else."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from batchhub.auth.base import Authenticator, LoginKind
from batchhub.auth.clock import utc_now
from batchhub.core.errors import TooMany
from batchhub.core.ports import Clock

OPEN_LINKS = 1000
"""Links issued and neither used nor expired, at most."""

_LIFE = timedelta(minutes=15)


class LinkAuthenticator(Authenticator):
    """Signs in whoever brings a token that :meth:`issue` gave out. Only hashes of tokens are kept, in memory.

    ``used`` is called with the user's name when a token has signed in.
    """

    kind = LoginKind.LINK

    def __init__(self, *, clock: Clock = utc_now, used: Callable[[str], None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clock = clock
        self._used = used
        self._open: dict[bytes, tuple[str, datetime]] = {}

    def issue(self, user: str, now: datetime, life: timedelta = _LIFE) -> str:
        """A fresh token of 256 random bits that signs ``user`` in once, until ``now + life``. Raises TooMany."""
        self._open = {key: entry for key, entry in self._open.items() if entry[1] > now}
        if len(self._open) >= OPEN_LINKS:
            raise TooMany("Too many sign-in links are open.")
        token = secrets.token_urlsafe(32)
        self._open[_digest(token)] = (user, now + life)
        return token

    def redeem(self, token: str, now: datetime) -> str | None:
        """The user the token was for; afterwards it is used up, whether it was in time or not."""
        if len(token) > 100:
            return None
        user, until = self._open.pop(_digest(token), ("", now))
        return user if now < until else None

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> str | None:
        """``data["token"]`` is the link's."""
        del handler
        user = self.redeem(str(data.get("token", "")), self._clock())
        if user is not None and self._used is not None:
            self._used(user)
        return user

    def knows_groups(self) -> bool:
        """None can come from here."""
        return False

    def check_allowed(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool:
        """A link is a permission."""
        del username, authentication
        return True


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
