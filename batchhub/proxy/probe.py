"""One GET to an application through its tunnel, to learn whether it answers and with what status."""

from __future__ import annotations

import asyncio

from batchhub.core.errors import BadInput, TunnelError
from batchhub.core.routes import canonical_path
from batchhub.proxy.book import Route
from batchhub.proxy.upstream import Opener, Pool, Upstream
from batchhub.proxy.wire import Refused, ResponseHead


class _Ear:
    """Waits for the answer's head; the body is not of interest."""

    __slots__ = ("status",)

    def __init__(self, status: asyncio.Future[int]) -> None:
        self.status = status

    def answered(self, head: ResponseHead) -> None:
        if head.status >= 200 and not self.status.done():
            self.status.set_result(head.status)

    def broken(self, error: Refused) -> None:
        if not self.status.done():
            self.status.set_exception(TunnelError(str(error)))

    def answer_data(self, data: bytes) -> None:
        pass

    def answer_end(self) -> None:
        pass

    def answer_flush(self) -> None:
        pass

    def answer_eof(self) -> None:
        pass

    def hold_request(self) -> None:
        pass

    def release_request(self) -> None:
        pass


async def probe(opener: Opener, pool: Pool, route: Route, path: str, *, deadline: float, head_limit: int) -> int:
    """The HTTP status of ``path`` (with or without a query). Raises TunnelError with the cause in words, and BadInput."""
    plain, mark, query = path.partition("?")
    if not query.isascii() or any(char <= " " for char in query):
        raise BadInput("probe: the query holds characters that must be escaped.")
    target = route.target.prefix + canonical_path(plain).text + mark + query
    head = f"GET {target} HTTP/1.1\r\nHost: {route.target.authority}\r\nAccept: */*\r\nConnection: close\r\n".encode(
        "ascii"
    )
    if route.authorization:
        head += b"Authorization: %b\r\n" % route.authorization
    up = await opener.open(route.target, lambda: Upstream(route.target, pool, head_limit))
    ear = _Ear(asyncio.get_running_loop().create_future())
    try:
        up.begin(ear, b"GET", head + b"\r\n")
        async with asyncio.timeout(deadline):
            return await ear.status
    except TimeoutError as error:
        raise TunnelError(
            f"{route.target.authority} took the connection but did not answer within {deadline:.0f} seconds."
        ) from error
    finally:
        up.abort()
