"""What there is to show of a run: its trail of events, when it took its steps, and the other runs of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from batchhub.control.ports import ServerStore, TrailEvent
from batchhub.core.errors import NotFound
from batchhub.core.model import Server, UserName, read_server_id

MOST_EVENTS = 500
"""Lines of a trail that are shown; a run that was requeued for days may have more."""

MOST_RUNS = 50


@dataclass(frozen=True, slots=True)
class Evidence:
    """``events`` are the newest, oldest of them first; ``cut`` says that there are older ones. ``runs`` are all of the name, newest first."""

    server: Server
    events: Sequence[TrailEvent]
    cut: bool
    runs: Sequence[Server]

    @property
    def newest(self) -> bool:
        """Whether it is the name's newest run."""
        return bool(self.runs) and self.runs[0].id == self.server.id

    @property
    def steps(self) -> Sequence[tuple[str, datetime]]:
        """What happened when, of a run's usual way, as far as it has come."""
        row = self.server
        answered = row.answered or max((event.at for event in self.events if event.kind == "answered"), default=None)
        known = (
            ("Requested", row.created),
            ("Submitted", row.submit_tried if row.job_id else None),
            ("Started", row.started),
            ("Answered", answered),
            ("Ended", row.ended),
        )
        return tuple((what, at) for what, at in known if at is not None)


async def gather(store: ServerStore, user: UserName, name: str, run: str = "") -> Evidence:
    """The evidence of a person's newest run of this name, or of the one with the id ``run``. Raises NotFound, BadInput."""
    runs = await store.runs_of(user, name, MOST_RUNS)
    if not runs:
        which = f"server {name!r}" if name else "server"
        raise NotFound(f"{user} has no {which}.")
    server = runs[0]
    if run:
        server = await store.server(read_server_id(run))
        if (server.user, server.name) != (user, name):
            raise NotFound(f"There is no run {run!r} of this server.")
    events = await store.events_of(server.id, MOST_EVENTS + 1)
    return Evidence(server, events[-MOST_EVENTS:], len(events) > MOST_EVENTS, runs)
