"""Browsers that somebody has signed in with: each has a cookie that says to which account (OWASP calls it a device cookie).

By it others' guesses at that account, or from the same address, do not keep its owner out (:mod:`batchhub.auth.throttle`). It opens nothing. Whoever steals one may guess at that one account as often as one browser may.
"""

from __future__ import annotations

import hmac
import re
import secrets
from datetime import timedelta

from batchhub.core.ports import Clock

LIFE = timedelta(days=90)
_TEXT = re.compile(r"1\.([A-Za-z0-9_-]{22})\.([0-9]{1,12})\.([0-9a-f]{64})")


class KnownBrowsers:
    """Makes and reads the cookies."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = hmac.digest(key, b"batchhub known browser", "sha256")
        self._clock = clock

    def seal(self, account: str) -> str:
        """The cookie's value for a browser that has just signed in to this account."""
        name, until = secrets.token_urlsafe(16), int((self._clock() + LIFE).timestamp())
        return f"1.{name}.{until}.{self._mac(account, name, str(until))}"

    def read(self, text: str, account: str) -> str:
        """The browser's name, if it is known to be this account's; else empty."""
        found = _TEXT.fullmatch(text[:200])
        if found is None:
            return ""
        name, until, mac = found.groups()
        if not hmac.compare_digest(mac, self._mac(account, name, until)) or int(until) <= self._clock().timestamp():
            return ""
        return name

    def _mac(self, account: str, name: str, until: str) -> str:
        said = f"{name}.{until}.{account.casefold()}".encode("utf-8", "replace")
        return hmac.digest(self._key, said, "sha256").hex()
