"""Sign-ins that wait for a person's next answer: held in memory, a bounded number of them, each under a random name that is good once."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from dataclasses import dataclass

from batchhub.core.asking import Talk
from batchhub.core.errors import TooMany

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Half:
    """One of them. ``name`` is the account that it is about, ``address`` where the browser is. It is kept for longer than its talk: no secret may be here."""

    talk: Talk
    name: str
    address: str


class HalfOpen:
    """At most ``most`` sign-ins, those under way counted.

    Each holds a connection that sshd has not let in yet, of which it takes only so many (MaxStartups). When all places are taken the oldest that
    waits for a person of the address with the most of them gives way: whoever opens many pushes out their own first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, Half] = {}
        self._under_way = 0

    def __len__(self) -> int:
        """Places taken."""
        return self._under_way + len(self._waiting)

    def begin(self) -> None:
        """Take a place. Raises TooMany when only sign-ins that are under way hold one."""
        self._waiting = {ticket: half for ticket, half in self._waiting.items() if not half.talk.ended}
        if len(self) >= self._most and not self._drop():
            raise TooMany("Too many people are signing in right now; please try again in a minute.")
        self._under_way += 1

    def done(self) -> None:
        """Give the place back."""
        self._under_way -= 1

    def keep(self, half: Half) -> str:
        """Wait for the person: the ticket. This takes a place of its own, so the step that led here gives back its own by ``done``."""
        ticket = secrets.token_urlsafe(24)
        self._waiting[ticket] = half
        return ticket

    def take(self, ticket: str) -> Half | None:
        """The one of this ticket, which is good no more; a place is taken for it as by ``begin``."""
        half = self._waiting.pop(ticket, None)
        if half is not None:
            self._under_way += 1
        return half

    def close(self) -> None:
        """Hang up on everybody."""
        for half in self._waiting.values():
            half.talk.close()
        self._waiting.clear()

    def _drop(self) -> bool:
        if not self._waiting:
            return False
        (crowded, _), *_ = Counter(half.address for half in self._waiting.values()).most_common(1)
        ticket = next(ticket for ticket, half in self._waiting.items() if half.address == crowded)
        half = self._waiting.pop(ticket)
        log.warning("too many sign-ins wait for an answer: that of %.100r from %s was ended", half.name, half.address)
        half.talk.close()
        return True
