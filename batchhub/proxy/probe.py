"""One GET to an application through its tunnel, to learn whether it answers and with what status."""

from __future__ import annotations

import asyncio

from batchhub.core.errors import TunnelError
from batchhub.proxy.asking import Ear, asking, read_path
from batchhub.proxy.book import Route
from batchhub.proxy.upstream import Opener, Pool
from batchhub.proxy.wire import ResponseHead


class _Status(Ear[int]):
    __slots__ = ()

    def answered(self, head: ResponseHead) -> None:
        if head.status >= 200:
            self.hear(head.status)


async def probe(opener: Opener, pool: Pool, route: Route, path: str, *, deadline: float, head_limit: int) -> int:
    """The HTTP status of ``path`` (with or without a query), if it comes within ``deadline`` seconds of the connection.

    Raises TunnelError with the cause in words, and BadInput.
    """
    target = route.target
    where = target.prefix + read_path(path, "probe")[0]
    ear = _Status()
    try:
        async with (
            asking(opener, pool, target, where, ear, head_limit=head_limit, authorization=route.authorization),
            asyncio.timeout(deadline),
        ):
            return await ear.heard
    except TimeoutError as error:
        raise TunnelError(
            f"{target.authority} took the connection but did not answer within {deadline:.0f} seconds."
        ) from error
