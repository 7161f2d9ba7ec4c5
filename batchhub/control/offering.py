"""The reconciler's hands on who may dial in at the proxy (``reverse`` tunnels): announced before a job can run, taken back at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from batchhub.control.ports import JobBuilder
from batchhub.core.errors import Unreachable
from batchhub.core.model import Server
from batchhub.core.ports import Routes

log = logging.getLogger(__name__)


class OfferKeeper:
    """Announces offers and remembers which. Where no cluster's jobs dial in, the proxy is asked nothing, so it may be one that knows of none."""

    def __init__(self, routes: Routes, builder: JobBuilder) -> None:
        self._routes = routes
        self._builder = builder
        self._offered: dict[str, str] = {}

    async def offer(self, row: Server) -> None:
        """Let the run's present generation dial in, and no other. Raises Unreachable."""
        key = self._builder.offer_key(row)
        if key and self._offered.get(row.id) != key:
            await self._announce(row.id, key)

    async def withdraw(self, row: Server) -> None:
        """It has ended. If the proxy cannot be told now, the next comparison does it."""
        if not self._builder.offer_key(row):
            return
        self._offered.pop(row.id, None)
        try:
            await self._routes.withdraw_offer(row.id)
        except Unreachable as error:
            log.warning("server %s: its key is good until the proxy answers: %s", row.id, error)

    async def there(self) -> Mapping[str, str]:
        """Run -> key, as the proxy has it. Raises Unreachable."""
        return await self._routes.offers() if self._builder.dials_in else {}

    async def compare(self, there: Mapping[str, str], live: Iterable[Server]) -> None:
        """Announce what the proxy has lost, take back what no live run wants. ``live`` was read after ``there``. Raises Unreachable."""
        wanted = {str(row.id): key for row in live if (key := self._builder.offer_key(row))}
        self._offered = {server_id: key for server_id, key in self._offered.items() if server_id in wanted}
        for server_id in there.keys() - wanted.keys():
            log.info("taking back an offer that no server wants: %s", server_id)
            await self._routes.withdraw_offer(server_id)
        for server_id, key in wanted.items():
            if there.get(server_id) != key:
                await self._announce(server_id, key)

    async def _announce(self, server_id: str, key: str) -> None:
        await self._routes.offer(server_id, key)
        self._offered[server_id] = key
