"""What is open by which right, so that it can be closed when the right ends.

A right is a hub session (by its id) or an API token (by :func:`by_token`). Requests pass by it for moments, WebSockets for days. A
session's end is told by the hub, and its latest moment stands in the ticket. A token's end is told too; as one may also expire, or the word
be lost, the hub is asked again from time to time about the tokens by which something is open.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.core.errors import Unreachable
from batchhub.proxy.tokens import digest_of

log = logging.getLogger(__name__)

AGAIN = timedelta(minutes=5)
"""How often the hub is asked about a token by which something stays open."""


class Member(Protocol):
    """Something open."""

    def cut(self) -> None:
        """Close it at once."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The token that a request came with, the server it opened, and whose the hub said it is."""

    token: str = field(repr=False)
    path: str
    user: str

    @property
    def right(self) -> str:
        """Its name in :class:`Grants`."""
        return by_token(digest_of(self.token))


def by_token(digest: str) -> str:
    """The right of a token with this SHA-256."""
    return f"token:{digest}"


class Grants:
    """See the module. Costs one dictionary access for each request; what is open for long is looked at in :meth:`review`."""

    __slots__ = ("_ends", "_members", "_questions")

    def __init__(self) -> None:
        self._members: dict[str, dict[Member, Bearer | None]] = {}
        self._ends: dict[str, datetime] = {}
        self._questions: dict[str, datetime] = {}

    def __len__(self) -> int:
        """The number of rights by which something is open."""
        return len(self._members)

    def join(self, right: str, member: Member, until: datetime | None = None) -> None:
        """It is open by this session, which ends ``until`` at the latest."""
        members = self._members.get(right)
        if members is None:
            members = self._members[right] = {}
            if until is not None:
                self._ends[right] = until
        members[member] = None

    def join_bearer(self, bearer: Bearer, member: Member, now: datetime) -> str:
        """It is open by this token; returns the right."""
        right = bearer.right
        members = self._members.get(right)
        if members is None:
            members = self._members[right] = {}
            self._questions[right] = now + AGAIN
        members[member] = bearer
        return right

    def leave(self, right: str, member: Member) -> None:
        """It is closed."""
        members = self._members.get(right)
        if members is None or member not in members:
            return
        del members[member]
        if not members:
            del self._members[right]
            self._ends.pop(right, None)
            self._questions.pop(right, None)

    def cut(self, right: str) -> None:
        """Close all that is open by it."""
        for member in list(self._members.get(right, ())):
            member.cut()

    def review(self, now: datetime) -> list[str]:
        """Close what has reached its session's end; returns the tokens' rights that the hub is to be asked about again."""
        for right in [right for right, end in self._ends.items() if end <= now]:
            self.cut(right)
        due = [right for right, moment in self._questions.items() if moment <= now]
        for right in due:
            self._questions[right] = now + AGAIN
        return due

    async def ask_again(self, right: str, ask: Callable[[str, str], Awaitable[str | None]]) -> None:
        """Ask about every server that is open by this token, and close what it opens no more. No answer closes nothing."""
        for bearer in self._bearers(right):
            try:
                user = await ask(bearer.token, bearer.path)
            except Unreachable as error:
                log.info("A token with open connections could not be checked again: %s", error)
                return
            if user != bearer.user:
                for member, other in list(self._members.get(right, {}).items()):
                    if other == bearer:
                        member.cut()

    def _bearers(self, right: str) -> Iterator[Bearer]:
        yield from {bearer for bearer in self._members.get(right, {}).values() if bearer is not None}
