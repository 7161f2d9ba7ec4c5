"""What a hub makes good that another process, or an older database, left undone or did not know.

The reconciler asks here where the row and the newest observation alone cannot tell: whether a job of this name was submitted before this
process began, which secrets were written since the database's backup was taken, and whose log is still to be fetched.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime

from batchhub.control.launcher import Launcher
from batchhub.control.ports import ServerStore
from batchhub.core.errors import HubError
from batchhub.core.model import JobId, Server

log = logging.getLogger(__name__)


class Recovery:
    """``began``: when this process did."""

    def __init__(self, store: ServerStore, began: datetime) -> None:
        self._store = store
        self._began = began

    async def submitted_before(self, row: Server, launcher: Launcher) -> JobId | None:
        """The job of a row that says it never had one, if the row is older than this process. Raises Unreachable.

        The database may be a backup, taken before the job was submitted: submitting it again would make two.
        """
        if row.submit_tried is not None or row.created >= self._began:
            return None
        return await launcher.named(row)

    async def caught_up(self, row: Server, launcher: Launcher) -> Server:
        """The row with the generation of the newest secrets this hub signed, where its job started with newer ones than it knows of.

        The job's own word is not enough: its secrets would be sent where it says.
        """
        try:
            facts = await launcher.proof(row)
        except HubError as error:
            log.warning("server %s: its job is ahead of its row, and nothing proves why: %s", row.id, error)
            return row
        if facts.id != row.id or facts.account != row.account or facts.generation <= row.generation:
            return row

        def catch_up(current: Server) -> Server | None:
            newer = current.phase is row.phase and facts.generation > current.generation
            return replace(current, generation=facts.generation) if newer else None

        return await self._store.update(row.id, catch_up, kind="caught up")
