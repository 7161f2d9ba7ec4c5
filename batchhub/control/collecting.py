"""What a job that ended left behind: its exit record and the last lines of its log, fetched once, and again if they could not be had.

Its secrets are removed then; the rest stays as evidence until :mod:`batchhub.control.retention` takes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from batchhub.control.launcher import Launcher
from batchhub.control.ports import ServerStore
from batchhub.control.steps import NO_RECORD
from batchhub.control.troubles import Troubles
from batchhub.core.errors import HubError
from batchhub.core.lifecycle import Action
from batchhub.core.model import Outcome, Phase, Server, ServerId, Trace
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

COLLECT_AGAIN = timedelta(hours=1)
"""So long after a run has ended a hub that starts tries once more to fetch a log that is not there."""


class Uncollected:
    """Runs that have ended and whose log and exit record could not be read: tried again, ever more seldom, and not for ever.

    ``tries`` is how often, the first one not counted; twelve take three quarters of an hour.
    """

    def __init__(self, tries: int = 12) -> None:
        self._most = tries
        self._tries: dict[ServerId, int] = {}

    def expect(self, server_id: ServerId) -> None:
        """It is to be tried."""
        self._tries.setdefault(server_id, 0)

    def expects(self, server_id: ServerId) -> bool:
        """Whether it is still to be tried."""
        return server_id in self._tries

    def missed(self, row: Server) -> float | None:
        """It did not work: seconds to the next try, ``None`` if there will be none."""
        tried = self._tries.get(row.id, 0) + 1
        if row.phase is not Phase.ENDED or tried > self._most:
            self._tries.pop(row.id, None)
            return None
        self._tries[row.id] = tried
        return float(min(300, 5 * 2 ** (tried - 1)))

    def done(self, server_id: ServerId) -> None:
        """It worked."""
        self._tries.pop(server_id, None)


class Collector:
    """The reconciler's action COLLECT. ``later`` looks at a server again."""

    def __init__(
        self, *, store: ServerStore, troubles: Troubles, clock: Clock, later: Callable[[ServerId, float], None]
    ) -> None:
        self._store = store
        self._troubles = troubles
        self._clock = clock
        self._later = later
        self._uncollected = Uncollected()

    def expects(self, row: Server) -> bool:
        """Whether something of it is still to be fetched."""
        return self._uncollected.expects(row.id)

    async def expect_recent(self) -> Sequence[ServerId]:
        """Runs that ended a short time ago and of which nothing was fetched, to be tried once more. Raises StoreUnavailable."""
        rows = await self._store.uncollected(self._clock() - COLLECT_AGAIN)
        for row in rows:
            self._uncollected.expect(row.id)
        return [row.id for row in rows]

    async def collect(self, row: Server, launcher: Launcher) -> Server:
        """The row with what could be had; the rest is tried again later."""
        try:
            remains = await launcher.remains(row)
        except HubError as error:
            log.warning("server %s: what its job left cannot be read: %s", row.id, error)
            self._again(row)
            await self._troubles.failed(row, Action.COLLECT, str(error))
            return row
        await self._troubles.over(row, Action.COLLECT)
        if await self._forgotten(row, launcher) and remains.whole:
            self._uncollected.done(row.id)
        else:
            self._again(row)

        def note(current: Server) -> Server | None:
            after = replace(current, log_tail=remains.log_tail or current.log_tail)
            if remains.exit is not None and current.exit_code is None:
                after = replace(after, exit_code=remains.exit.code)
            if remains.exit is not None and after.outcome is Outcome.FAILED and current.words == NO_RECORD:
                words = remains.exit.word
                outcome = Outcome.COMPLETED if remains.exit.code == 0 else Outcome.FAILED
                after = replace(after, outcome=outcome, words=words or after.words)
            return after if after != current else None

        seen = "no exit record" if remains.exit is None else f"exit record: code {remains.exit.code}"
        return await self._store.update(row.id, note, trace=lambda: Trace("collect", seen=seen, done=Action.COLLECT))

    async def forget(self, row: Server, launcher: Launcher) -> None:
        """Remove the secrets of a run that ended with nothing to fetch; what cannot be removed now is tried again with the rest."""
        if not await self._forgotten(row, launcher):
            self._again(row)

    async def _forgotten(self, row: Server, launcher: Launcher) -> bool:
        """Whether an ended run's directory holds no secret any more. Before its end its job needs them."""
        if row.phase is not Phase.ENDED or not row.directory:
            return True
        try:
            await launcher.forget(row)
        except HubError as error:
            log.warning("server %s: the secrets that its job was given cannot be removed: %s", row.id, error)
            return False
        return True

    def _again(self, row: Server) -> None:
        delay = self._uncollected.missed(row)
        if delay is not None:
            self._later(row.id, delay)
