"""Secrets of people that have to be kept: sealed, so that the database alone gives none of them away.

The newest key seals; all of them open. :mod:`batchhub.auth.vaultfile` keeps them in a file, ``batchhub vault`` changes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

LIMIT = 256 * 1024
"""Characters of what is kept for one person; more is no state of a sign-in."""


class Vault:
    """Seals values for one owner and purpose each; what was sealed for another opens as nothing. ``keys`` are Fernet's, the newest first."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._newest = Fernet(keys[0])
        self._all = MultiFernet([Fernet(key) for key in keys])

    def seal(self, purpose: str, owner: str, value: Mapping[str, Any]) -> str:
        """As text for the database. Raises ValueError for what is no JSON or is too long."""
        try:
            plain = json.dumps([purpose, owner, value], allow_nan=False)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"what is kept for {owner!r} is no JSON: {error}") from error
        if len(plain) > LIMIT:
            raise ValueError(f"what is kept for {owner!r} is longer than {LIMIT} characters")
        return self._newest.encrypt(plain.encode()).decode()

    def open(self, purpose: str, owner: str, text: str) -> Mapping[str, Any] | None:
        """What was sealed for this owner and purpose; ``None`` if no key opens it, or it was sealed for something else."""
        try:
            sealed_purpose, sealed_owner, value = json.loads(self._all.decrypt(text.encode()))
        except (InvalidToken, ValueError, UnicodeEncodeError):
            return None
        return value if (sealed_purpose, sealed_owner) == (purpose, owner) and isinstance(value, dict) else None

    def renew(self, text: str) -> str | None:
        """The same, sealed by the newest key; ``None`` if no key opens it."""
        try:
            return self._all.rotate(text.encode()).decode()
        except (InvalidToken, UnicodeEncodeError):
            return None

    def stale(self, text: str) -> bool:
        """Whether an older key than the newest sealed it, or none that is known."""
        try:
            self._newest.decrypt(text.encode())
        except (InvalidToken, UnicodeEncodeError):
            return True
        return False
