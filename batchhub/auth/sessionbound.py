"""What people signed in with, while they are signed in, for clusters that are reached as them by it: passwords, and the names of their tickets' caches.

In this hub's memory and nowhere else: not in the database, in no file, in no log. A secret is held for the sessions that it opened, is asked for
only while one of them is good, and is overwritten when the last has ended, when it is too old, or when a host refused it. Copies that Python
or a library made of it meanwhile are out of our hands; whoever reads this process's memory has it anyhow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from batchhub.core.model import UserName
from batchhub.core.ports import Clock

MOST = 10_000
"""People whose secrets are held; beyond it the one longest unused goes."""


@dataclass(slots=True)
class _Held:
    text: bytearray = field(repr=False)
    since: datetime
    sessions: set[str]
    until: datetime | None

    def wipe(self) -> str:
        """Overwrite it; what it was."""
        text = self.text.decode()
        self.text[:] = bytes(len(self.text))
        return text


class SessionBound:
    """One secret of each person.

    ``life`` is how long it is held at most. ``ended`` is told whose was let go, so that what was opened with it can be
    closed; ``wiped`` is told each that is held no more, also in favour of a newer one, so that what it names can be destroyed.
    """

    def __init__(
        self,
        clock: Clock,
        life: timedelta,
        ended: Callable[[UserName], None],
        most: int = MOST,
        wiped: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._life = life
        self._ended = ended
        self._most = most
        self._wiped = wiped
        self._held: OrderedDict[UserName, _Held] = OrderedDict()

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    def keep(self, user: UserName, session: str, secret: str, until: datetime | None = None) -> None:
        """Somebody signed in with it; ``session`` is the id of what they got. It ends by itself at ``until``."""
        before = self._held.pop(user, None)
        sessions = {session}
        if before is not None:
            sessions |= before.sessions
            self._wipe(before)
        self._held[user] = _Held(bytearray(secret.encode()), self._clock(), sessions, until)
        while len(self._held) > self._most:
            self.drop(next(iter(self._held)))

    async def of(self, user: UserName, alive: Callable[[str], Awaitable[bool]], life: timedelta) -> str | None:
        """The secret, if it is younger than ``life`` and one of its sessions is ``alive``. Raises what ``alive`` does."""
        held = self._held.get(user)
        if held is None or self._old(held):
            self._drop(user, held)
            return None
        if self._clock() - held.since >= life:
            return None
        for session in tuple(held.sessions):
            if await alive(session):
                if self._held.get(user) is not held:
                    return None  # let go, or replaced, while we asked
                self._held.move_to_end(user)
                return held.text.decode()
            held.sessions.discard(session)
        self._drop(user, held)
        return None

    def holds(self, user: UserName, secret: str) -> bool:
        """Whether it is this one, and not another that was brought meanwhile."""
        held = self._held.get(user)
        return held is not None and held.text == secret.encode()

    def people(self) -> tuple[UserName, ...]:
        """Whose are held."""
        return tuple(self._held)

    def sessions_ended(self, ids: Iterable[str]) -> None:
        """These are over."""
        gone = set(ids)
        for user, held in list(self._held.items()):
            held.sessions -= gone
            if not held.sessions:
                self._drop(user, held)

    async def sweep(self, alive: Callable[[str], Awaitable[bool]]) -> None:
        """Let go of what is too old, or has no session that is ``alive``. Raises what that does."""
        for user in list(self._held):
            await self.of(user, alive, self._life)

    def drop(self, user: UserName) -> None:
        """It is of no use any more."""
        self._drop(user, self._held.get(user))

    def close(self) -> None:
        """Let go of all of them."""
        for user in list(self._held):
            self.drop(user)

    def _old(self, held: _Held) -> bool:
        now = self._clock()
        return now - held.since >= self._life or (held.until is not None and now >= held.until)

    def _drop(self, user: UserName, held: _Held | None) -> None:
        if held is not None and self._held.get(user) is held:
            del self._held[user]
            self._wipe(held)
            self._ended(user)

    def _wipe(self, held: _Held) -> None:
        text = held.wipe()
        if self._wiped is not None:
            self._wiped(text)
