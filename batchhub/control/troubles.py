"""Evidence of what goes wrong again and again, bounded: an action that fails every two seconds for a day makes no forty thousand lines.

The first failure is a line of the server's trail, then the tenth, the hundredth and so on, each with the count, and the end of the
trouble. The counts are this process's own: after a restart of the hub a trouble that lasts begins anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from batchhub.control.ports import ServerStore
from batchhub.core.errors import HubError
from batchhub.core.model import Server, ServerId
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trouble:
    since: datetime
    words: str = ""
    attempts: int = 0


def worth_a_line(attempts: int) -> bool:
    """Whether it is the first, tenth, hundredth …, each of which stands for those since the one before."""
    return attempts >= 1 and str(attempts).rstrip("0") == "1"


class Troubles:
    """Counts what fails. What it writes is evidence alone: that it cannot be written stops nobody's action."""

    def __init__(self, store: ServerStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._open: dict[ServerId, dict[str, _Trouble]] = {}

    def again(self, row: Server, what: str) -> int:
        """How often this was tried now, this time included."""
        trouble = self._open.setdefault(row.id, {}).setdefault(what, _Trouble(self._clock()))
        trouble.attempts += 1
        return trouble.attempts

    async def failed(self, row: Server, action: str, words: str) -> None:
        """An action failed, and will be tried again or not."""
        attempts = self.again(row, action)
        trouble = self._open[row.id][action]
        trouble.words = words
        if worth_a_line(attempts):
            told = (
                words if attempts == 1 else f"{words} (attempt {attempts} since {trouble.since:%Y-%m-%d %H:%M:%S} UTC)"
            )
            await self._write(row, f"{action} failed", told)

    async def over(self, row: Server, action: str) -> None:
        """It worked. Nothing is said of what never failed."""
        trouble = self._open.get(row.id, {}).pop(action, None)
        if trouble is None:
            return
        if not self._open[row.id]:
            del self._open[row.id]
        await self._write(row, f"{action} worked", f"It worked after {self._toll(trouble)}.")

    async def close(self, row: Server) -> None:
        """The run has ended, and with it what did not work: the last words of each."""
        for action, trouble in self._open.pop(row.id, {}).items():
            if trouble.words and not worth_a_line(trouble.attempts):
                await self._write(row, f"{action} failed", f"{trouble.words} (the last of {self._toll(trouble)})")

    def _toll(self, trouble: _Trouble) -> str:
        lasted = timedelta(seconds=round((self._clock() - trouble.since).total_seconds()))
        return "1 failed attempt" if trouble.attempts == 1 else f"{trouble.attempts} failed attempts in {lasted}"

    async def _write(self, row: Server, kind: str, words: str) -> None:
        log.info("server %s of %s: %s: %s", row.id, row.user, kind, words)
        try:
            await self._store.add_event(row.id, kind, words)
        except HubError as error:
            log.warning("server %s: %s: %s; this could not be written down: %s", row.id, kind, words, error)
