"""What every handler of one hub holds in common, built once by :func:`batchhub.web.app.make_app`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from batchhub.core.errors import TooMany
from batchhub.core.model import UserName
from batchhub.web.links import Links
from batchhub.web.ports import WebServices, WebSettings
from batchhub.web.render import Renderer


class StreamLimit:
    """Counts each person's open event streams: every one of them holds a socket and makes the cluster be asked more often."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[UserName] = Counter()

    @contextmanager
    def one(self, user: UserName) -> Iterator[None]:
        """Hold one stream. Raises TooMany."""
        if self._open[user] >= self._most:
            raise TooMany(f"You have {self._most} live pages open, which is the limit; close some of them.")
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]


@dataclass(frozen=True, slots=True)
class Web:
    """Collaborators, settings, addresses, templates."""

    services: WebServices
    settings: WebSettings
    links: Links
    render: Renderer
    streams: StreamLimit = field(repr=False)
