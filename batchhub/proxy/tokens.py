"""API tokens, asked of the hub and remembered for a moment."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

TokenChecker = Callable[[str, str], Awaitable[str | None]]
"""``(token, path)`` -> the name of the user who may enter the server at ``path`` with it. Raises Unreachable."""

KNOWN = timedelta(seconds=30)
UNKNOWN = timedelta(seconds=5)


class TokenCache:
    """Answers of the hub, by the token's hash and the path. A refusal is remembered more shortly than a yes."""

    __slots__ = ("_answers", "_ask", "_size")

    def __init__(self, ask: TokenChecker, size: int = 4096) -> None:
        self._ask = ask
        self._size = size
        self._answers: dict[bytes, tuple[datetime, str | None]] = {}

    def cached(self, token: str, path: str, now: datetime) -> tuple[bool, str | None]:
        """Whether there is an answer, and which."""
        until, user = self._answers.get(_key(token, path), (now, None))
        return until > now, user

    async def user(self, token: str, path: str, now: datetime) -> str | None:
        """The token's user, from memory or from the hub. Raises Unreachable."""
        known, user = self.cached(token, path, now)
        if known:
            return user
        user = await self._ask(token, path)
        if len(self._answers) >= self._size:
            self._make_room(now)
        self._answers[_key(token, path)] = (now + (KNOWN if user else UNKNOWN), user)
        return user

    def forget(self) -> None:
        """Ask again about every token."""
        self._answers.clear()

    def _make_room(self, now: datetime) -> None:
        self._answers = {key: answer for key, answer in self._answers.items() if answer[0] > now}
        while len(self._answers) >= self._size:
            self._answers.pop(next(iter(self._answers)))


def _key(token: str, path: str) -> bytes:
    return hashlib.sha256(f"{token}\0{path}".encode("utf-8", "surrogateescape")).digest()
