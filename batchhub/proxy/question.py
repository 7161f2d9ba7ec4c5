"""A question of the hub's to an application: a GET or POST without a body, through its tunnel, and the first bytes of the answer.

It cannot be turned at anything else: the target is a route's, checked as one, and the path lies below that route's own.
"""

from __future__ import annotations

import asyncio

from batchhub.core.errors import BadInput
from batchhub.core.ports import NO_ANSWER, Answer
from batchhub.proxy.asking import Ear, asking, read_path
from batchhub.proxy.book import Route
from batchhub.proxy.upstream import Opener, Pool
from batchhub.proxy.wire import Refused, ResponseHead

MOST_ANSWER = 64 * 1024
"""Bytes of an answer that are kept."""
LONGEST = 8.0
"""Seconds a question may wait for its answer; the hub's own deadline is 10."""
_METHODS = frozenset({"GET", "POST"})
_KEYS = frozenset({"method", "path", "deadline"})


class _Answer(Ear[Answer]):
    """Status, and as much of the body as is kept."""

    __slots__ = ("_body", "_status")

    def __init__(self) -> None:
        super().__init__()
        self._status = 0
        self._body = bytearray()

    def answered(self, head: ResponseHead) -> None:
        if head.status >= 200:
            self._status = head.status

    def answer_data(self, data: bytes) -> None:
        self._body += data[: MOST_ANSWER - len(self._body)]
        if len(self._body) == MOST_ANSWER:
            self.answer_end()

    def answer_end(self) -> None:
        self.hear(Answer(self._status, bytes(self._body)))

    def broken(self, error: Refused) -> None:  # noqa: ARG002 - whatever broke it, there is no whole answer
        self.hear(NO_ANSWER)


async def put(opener: Opener, pool: Pool, route: Route, content: object, *, head_limit: int) -> Answer:
    """Ask the application behind a route. ``content`` is the question as the control API was sent it.

    :data:`~batchhub.core.ports.NO_ANSWER`: it took the question, and no whole answer came in time. Raises TunnelError, with the cause in
    words, if it could not be put, and BadInput.
    """
    method, path, deadline = _read(content, route)
    ear = _Answer()
    asked = asking(
        opener,
        pool,
        route.target,
        route.target.prefix + path,
        ear,
        head_limit=head_limit,
        authorization=route.authorization,
        method=method,
    )
    async with asked:
        try:
            async with asyncio.timeout(deadline):
                return await ear.heard
        except TimeoutError:
            return NO_ANSWER


def _read(content: object, route: Route) -> tuple[bytes, str, float]:
    if not isinstance(content, dict) or content.keys() - _KEYS:
        raise BadInput("ask: an object with path, method and deadline is expected.")
    method, path, deadline = content.get("method", "GET"), content.get("path"), content.get("deadline", LONGEST)
    if not isinstance(method, str) or method not in _METHODS:
        raise BadInput("ask: the method is GET or POST.")
    if not isinstance(path, str) or len(path) > 2048:
        raise BadInput("ask: a path of at most 2048 characters is expected.")
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline <= LONGEST:
        raise BadInput(f"ask: the deadline is more than 0 and at most {LONGEST:g} seconds.")
    text, segments = read_path(path, "ask")
    own = tuple(part for part in route.path.split("/") if part)
    if not route.strip and segments[: len(own)] != own:
        raise BadInput(f"ask: {text[:80]!r} is not below {route.path[:80]!r}, the route's own path.")
    return method.encode("ascii"), text, float(deadline)
