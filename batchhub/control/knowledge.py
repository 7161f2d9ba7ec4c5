"""What is known of servers' jobs and of the clusters at this moment: by the poller if this hub looks, else by what the leader noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from batchhub.control.poller import Poller
from batchhub.control.ports import ServerStore
from batchhub.core.model import Observation, Server


@dataclass(frozen=True, slots=True)
class Known:
    """The last good observation of a server's job, and since when its cluster is silent."""

    seen: Observation | None = None
    silent_since: datetime | None = None


class Knowledge:
    """Asks the database only for what no poller here knows: in the leader that is what it has not looked at since its start."""

    def __init__(self, pollers: Mapping[str, Poller], store: ServerStore) -> None:
        self._pollers = pollers
        self._store = store

    async def of(self, rows: Sequence[Server]) -> list[Known]:
        """In the rows' order. Raises StoreUnavailable."""
        asked = [row for row in rows if row.alive and row.submit_tried is not None and row.cluster in self._pollers]
        noted = await self._store.sightings([row.id for row in asked if self._seen(row) is None]) if asked else {}
        silent = await self._silent_by_note() if any(not self._looked(row.cluster) for row in asked) else {}
        return [Known(self._seen(row) or noted.get(row.id), self._silence(row.cluster, silent)) for row in rows]

    async def silences(self) -> Mapping[str, str]:
        """Cluster -> since when it is silent and why, or ``ok``. Raises StoreUnavailable."""
        words = await self._store.cluster_words() if not all(map(self._looked, self._pollers)) else {}
        found: dict[str, str] = {}
        for name, poller in self._pollers.items():
            word = poller if self._looked(name) else words.get(name)
            since = word.silent_since if word is not None else None
            found[name] = (
                "ok" if word is None or since is None else f"silent since {since.isoformat()}: {word.silent_word}"
            )
        return found

    def _seen(self, row: Server) -> Observation | None:
        poller = self._pollers.get(row.cluster)
        return poller.last_good(row.id) if poller is not None else None

    def _looked(self, cluster: str) -> bool:
        poller = self._pollers[cluster]
        return poller.answered_at is not None or poller.silent_since is not None

    async def _silent_by_note(self) -> Mapping[str, datetime | None]:
        return {name: word.silent_since for name, word in (await self._store.cluster_words()).items()}

    def _silence(self, cluster: str, noted: Mapping[str, datetime | None]) -> datetime | None:
        if cluster not in self._pollers:
            return None
        return self._pollers[cluster].silent_since if self._looked(cluster) else noted.get(cluster)
