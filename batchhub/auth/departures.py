"""What a browser carries in the middle of a sign-in: sealed, so that it can neither be read nor made up, and for some minutes only."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from batchhub.core.ports import Clock

LIFE = 900
"""Seconds a person may take at the other page."""
ELSEWHERE = b"batchhub sign-in elsewhere"
ASKED = b"batchhub sign-in asked for more"
"""What is sealed for one purpose is nothing for the other."""
LIMIT = 3500
"""Characters of what is sealed: browsers keep no cookie of more than 4096 bytes (RFC 6265, 6.1)."""


@dataclass(frozen=True, slots=True)
class Journey:
    """Who went where: the way to sign in, where to go afterwards, the address to come back to, and what the authenticator keeps.

    ``old`` is the session's cookie that the browser had when it left, for a way back on which it does not come along.
    """

    way: str
    state: str
    after: str
    callback: str
    keep: Mapping[str, str] = field(repr=False)
    old: str = field(default="", repr=False)


class Departures:
    """Seals and opens journeys."""

    def __init__(self, key: bytes, clock: Clock, purpose: bytes = ELSEWHERE) -> None:
        derived = HKDF(SHA256(), 32, None, purpose).derive(key)
        self._fernet = Fernet(urlsafe_b64encode(derived))
        self._clock = clock

    def seal(self, journey: Journey) -> str:
        """A cookie's value. Raises ValueError if it is too long for one."""
        parts = [journey.way, journey.state, journey.after, journey.callback, dict(journey.keep), journey.old]
        text = self._fernet.encrypt_at_time(json.dumps(parts).encode(), int(self._clock().timestamp())).decode()
        if len(text) > LIMIT:
            raise ValueError(f"{len(text)} characters are more than a cookie holds")
        return text

    def open(self, text: str, state: str) -> Journey | None:
        """The journey, if it is ours, recent, and the one of this state."""
        if not 0 < len(text) <= LIMIT:
            return None
        try:
            plain = self._fernet.decrypt_at_time(text.encode(), LIFE, int(self._clock().timestamp()))
            way, sealed, after, callback, keep, old = json.loads(plain)
        except (InvalidToken, ValueError, UnicodeEncodeError):
            return None
        return Journey(way, sealed, after, callback, keep, old) if sealed == state else None
