"""Who wants to know at once that a session or token has ended, within this process: the pages' event streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from batchhub.core.errors import HubError

log = logging.getLogger(__name__)


class Endings:
    """A right is known by a session's id, or by a token's hash."""

    def __init__(self) -> None:
        self._open: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        """The rights somebody waits for."""
        return len(self._open)

    @contextmanager
    def watch(self, right: str) -> Iterator[asyncio.Event]:
        """Something is open by this right; the event is set when that ends. Whether it is good now is to be asked *after* this began."""
        over = asyncio.Event()
        held = self._open.setdefault(right, set())
        held.add(over)
        try:
            yield over
        finally:
            held.discard(over)
            if not held and self._open.get(right) is held:
                del self._open[right]

    def tell(self, rights: Iterable[str]) -> None:
        """These have ended."""
        for right in rights:
            for over in self._open.get(right, ()):
                over.set()


class _Tokens(Protocol):
    def end_with(self, sessions: Sequence[str]) -> Awaitable[int]:
        """End the tokens that were to end with these sessions."""


def all_of_a_session(
    endings: Endings, tokens: Callable[[], _Tokens], proxy: Callable[[Sequence[str]], Awaitable[None]]
) -> Callable[[Sequence[str]], Awaitable[None]]:
    """What happens when sessions have ended and the database knows: streams here, tickets and connections at the proxy, tokens."""

    async def ended(ids: Sequence[str]) -> None:
        endings.tell(ids)
        await proxy(ids)
        try:
            await tokens().end_with(ids)
        except HubError as error:
            # The session is over, so they open nothing here; the proxy finds it out by its own questions.
            log.warning("Tokens of sessions that ended were not deleted; they open nothing all the same: %s", error)

    return ended


def all_of_a_token(
    endings: Endings, proxy: Callable[[Sequence[str]], Awaitable[None]]
) -> Callable[[Sequence[str]], Awaitable[None]]:
    """The same for tokens."""

    async def ended(hashes: Sequence[str]) -> None:
        endings.tell(hashes)
        await proxy(hashes)

    return ended
