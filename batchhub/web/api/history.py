"""What happened to a server, for programs."""

from __future__ import annotations

from batchhub.core.model import read_server_name
from batchhub.web.api.base import ApiHandler
from batchhub.web.models import event_model, run_model


class HistoryApi(ApiHandler):
    """``GET /hub/api/users/NAME/server/events`` and ``…/servers/SERVER/events``; ``?run=`` is one of the earlier runs."""

    async def get(self, user: str, name: str | None = None) -> None:
        """The run, its events, oldest first, and all runs of the name, newest first. 404 if it was never started."""
        run = self.get_query_argument("run", "")
        found = await self.web.services.hub.history(self.subject(user), read_server_name(name or ""), run)
        self.answer(
            {
                "run": run_model(found.view),
                "events": [event_model(event) for event in found.evidence.events],
                "older_events": found.evidence.cut,
                "runs": [run_model(view) for view in found.runs],
            }
        )
