"""The reconciler's hands on the proxy: which route leads to which run, as far as this process knows, and the comparison with what is there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

from batchhub.core.model import Server
from batchhub.core.ports import Routes, RouteTarget

log = logging.getLogger(__name__)


class RouteKeeper:
    """Publishes and withdraws, and remembers it. Every method that waits raises Unreachable when the proxy does not answer.

    A route of a run that answers is taken for the right one without looking at where it leads; so before a run is noted as answering,
    :meth:`clear` sees to it that no route of an earlier start of it is left.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._published: dict[str, str] = {}
        self._touched: set[str] = set()
        self._in_flight: set[str] = set()
        self._left_over: set[str] = set()
        self._verified = False

    def holds(self, row: Server) -> bool:
        """Whether its route is there."""
        return self._published.get(row.path) == row.id

    def doubt(self, row: Server) -> None:
        """Its route is to be published again, whatever is there."""
        self._published.pop(row.path, None)

    async def publish(self, row: Server, target: RouteTarget) -> None:
        """Lead its path to the target."""
        with self._touching(row.path):
            await self._routes.publish(target)
        self._published[row.path] = row.id

    async def withdraw(self, row: Server) -> None:
        """Take its route away, unless the path is another run's by now; what fails is remembered, and made good later."""
        if self._published.get(row.path, row.id) != row.id:
            return
        self._published.pop(row.path, None)
        self._left_over.add(row.path)
        with self._touching(row.path):
            await self._routes.withdraw(row.path)
        self._left_over.discard(row.path)

    async def clear(self, row: Server) -> None:
        """Take away what an earlier start may have left: after a restart of the hub, or when a withdrawal failed."""
        if row.path in self._published or (self._verified and row.path not in self._left_over):
            return
        with self._touching(row.path):
            await self._routes.withdraw(row.path)
        self._left_over.discard(row.path)

    async def there(self) -> Mapping[str, str]:
        """Path -> run, as the proxy has it. What is published or withdrawn from now on is newer than this."""
        self._touched = set(self._in_flight)
        return {path.rstrip("/") + "/": server_id for path, server_id in (await self._routes.published()).items()}

    async def compare(self, there: Mapping[str, str], ready: Mapping[str, Server]) -> list[Server]:
        """Remove what leads to no run that is ready; returns those whose route is missing."""
        for path, server_id in there.items():
            row = ready.get(path)
            if server_id and (row is None or row.id != server_id) and not self._newer(path):
                log.info("removing a route that no server wants: %s", path)
                await self._routes.withdraw(path)
        kept = {path: server_id for path, server_id in self._published.items() if self._newer(path)}
        held = {path: row.id for path, row in ready.items() if there.get(path) == row.id and not self._newer(path)}
        self._published = {**held, **kept}
        self._left_over = {path for path in self._left_over if self._newer(path)}
        self._verified = True
        return [row for path, row in ready.items() if path not in self._published]

    @contextlib.contextmanager
    def _touching(self, path: str) -> Iterator[None]:
        self._in_flight.add(path)
        try:
            yield
        finally:
            self._in_flight.discard(path)
            self._touched.add(path)

    def _newer(self, path: str) -> bool:
        return path in self._touched or path in self._in_flight
