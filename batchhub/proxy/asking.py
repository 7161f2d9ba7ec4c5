"""A request of the proxy's own, whose answer is for no client: what probes, the hub's questions and pages about errors have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from batchhub.core.errors import BadInput, TunnelError
from batchhub.core.routes import canonical_path
from batchhub.proxy.target import Target
from batchhub.proxy.upstream import Opener, Pool, Upstream
from batchhub.proxy.wire import Refused, ResponseHead

T = TypeVar("T")


class Ear(Generic[T]):
    """A :class:`~batchhub.proxy.upstream.Consumer` that makes one value of an answer, ``heard``, and lets pass what is not part of it.

    Made in a running loop. ``heard`` raises TunnelError if the connection is of no use before.
    """

    __slots__ = ("heard",)

    def __init__(self) -> None:
        self.heard: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def hear(self, value: T) -> None:
        """Make this what was heard; the first word counts."""
        if not self.heard.done():
            self.heard.set_result(value)

    def broken(self, error: Refused) -> None:
        """See Consumer."""
        if not self.heard.done():
            self.heard.set_exception(TunnelError(str(error)))

    def answered(self, head: ResponseHead) -> None:
        """See Consumer."""

    def answer_data(self, data: bytes) -> None:
        """See Consumer."""

    def answer_end(self) -> None:
        """See Consumer."""

    def answer_flush(self) -> None:
        """See Consumer."""

    def answer_eof(self) -> None:
        """See Consumer."""

    def hold_request(self) -> None:
        """See Consumer."""

    def release_request(self) -> None:
        """See Consumer."""


def read_path(path: str, what: str) -> tuple[str, tuple[str, ...]]:
    """A path, with or without a query, as it is sent, and its segments as they are meant. Raises BadInput."""
    plain, mark, query = path.partition("?")
    if not query.isascii() or any(char <= " " for char in query):
        raise BadInput(f"{what}: the query holds characters that must be escaped.")
    canonical = canonical_path(plain)
    return canonical.text + mark + query, canonical.segments


@asynccontextmanager
async def asking(
    opener: Opener,
    pool: Pool,
    target: Target,
    path: str,
    ear: Ear[T],
    *,
    head_limit: int,
    authorization: bytes = b"",
    method: bytes = b"GET",
) -> AsyncIterator[None]:
    """Ask for a path (ASCII, with its query), on a connection that ends with the context. Raises TunnelError if there is none.

    The request has no body.
    """
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, path.encode("ascii"), target.authority.encode("ascii"))
    head += b"Accept: */*\r\nConnection: close\r\n"
    if method != b"GET":
        head += b"Content-Length: 0\r\n"
    if authorization:
        head += b"Authorization: %b\r\n" % authorization
    up = await opener.open(target, lambda: Upstream(target, pool, head_limit))
    try:
        up.begin(ear, method, head + b"\r\n")
        yield
    finally:
        up.abort()
