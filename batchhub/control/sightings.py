"""What was last seen of each server's job, and whether that is news. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from batchhub.core.model import JobState, Observation, Server, ServerId, Truth


class Sightings:
    """Of one cluster. ``news``: whether anything was seen that was otherwise before, since somebody last set it to false."""

    def __init__(self) -> None:
        self.news = False
        self._newest: dict[ServerId, Observation] = {}
        self._good: dict[ServerId, Observation] = {}
        self._unknown: dict[ServerId, datetime] = {}

    def newest(self, server_id: ServerId) -> Observation | None:
        """The newest observation, whatever it says."""
        return self._newest.get(server_id)

    def last_good(self, server_id: ServerId) -> Observation | None:
        """The newest observation that said something."""
        return self._good.get(server_id)

    def unknown_since(self, server_id: ServerId) -> datetime | None:
        """Since when nothing is known of it; ``None`` while something is."""
        return self._unknown.get(server_id)

    def put(self, server_id: ServerId, seen: Observation) -> None:
        """A newer one."""
        before = self._newest.get(server_id)
        self.news = self.news or before is None or _gist(before) != _gist(seen)
        self._newest[server_id] = seen
        if _says_something(seen):
            self._good[server_id] = seen
            self._unknown.pop(server_id, None)
        else:
            self._unknown.setdefault(server_id, seen.at)

    def note(self, rows: Iterable[Server], seen: Observation) -> None:
        """The same of several."""
        for row in rows:
            self.put(row.id, seen)

    def keep(self, live: set[ServerId]) -> None:
        """Forget all servers but these."""
        for memory in (self._newest, self._good, self._unknown):
            for server_id in [known for known in memory if known not in live]:
                del memory[server_id]


def _says_something(seen: Observation) -> bool:
    """A scheduler that lost the job's node knows the job, and nothing of how it is."""
    return seen.truth is not Truth.UNKNOWN and (seen.report is None or seen.report.state is not JobState.UNKNOWN)


def _gist(seen: Observation) -> tuple[Truth, JobState | None, str]:
    """What makes an observation news; reasons, estimates and the time left change by themselves."""
    return seen.truth, seen.report.state if seen.report else None, seen.report.host if seen.report else ""
