"""What the control API needs of the process it runs in: a proxy alone, or the supervisor of several workers."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchhub.core.ports import Answer, Clock
from batchhub.proxy.book import AddRoute, Book, Change, EndSession, EndToken, read_route
from batchhub.proxy.settings import ProxySettings

log = logging.getLogger(__name__)

_COMPLAIN = 60.0  # seconds between two lines about refused callers


class Control(Protocol):
    """See the module."""

    @property
    def settings(self) -> ProxySettings:
        """The proxy's."""

    @property
    def clock(self) -> Clock:
        """The time."""

    @property
    def book(self) -> Book:
        """What is in force; changed by :meth:`change` alone."""

    @property
    def calls(self) -> Calls:
        """What was asked of the control API."""

    def change(self, change: Change) -> Awaitable[None]:
        """Carry out a change. On return it holds wherever a request may arrive, and the end of a session or token is on disk.

        Raises Unreachable if a worker did not say so in time, and OSError if it holds but could not be saved.
        """

    def refresh(self) -> Awaitable[None]:
        """Have it in the book when each route was used last."""

    def probe(self, fields: Mapping[str, Any], path: str) -> Awaitable[int]:
        """GET ``path`` from the target that a route's fields name: the HTTP status. Raises TunnelError and BadInput."""

    def ask(self, path: str, fields: Mapping[str, Any], question: object) -> Awaitable[Answer]:
        """Put a question (``proxy/question.py``) to the target that the fields of the route at ``path`` name. Raises TunnelError and BadInput."""

    def tunnels(self) -> Awaitable[Sequence[Mapping[str, Any]]]:
        """Each tunnel's cluster, kind and state."""

    def metrics(self) -> Awaitable[bytes]:
        """All counters, in Prometheus' text format."""


def default_route(settings: ProxySettings, clock: Clock, book: Book) -> AddRoute | None:
    """The route of whatever no other route takes, if the settings name one, and no hub has said that it leads (``led``) and takes it."""
    there = book.routes.get("/")
    if not settings.default_target or (there is not None and there.data.get("led") is True):
        return None
    mark = {} if settings.standalone else {"hub": True}
    return AddRoute(read_route("/", {"target": settings.default_target, **mark}, clock()))


def lasting(change: Change) -> bool:
    """Whether nobody is told of success before the change is on disk: what lets somebody in must not come back after a crash."""
    return isinstance(change, EndSession | EndToken)


@dataclass(slots=True)
class Calls:
    """Counts of the control API. ``answers`` by status, ``changes`` by kind; ``open`` are being answered."""

    answers: Counter[int] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    lists: int = 0
    open: int = 0
    complained: float = -math.inf

    def wrong(self, who: str, path: str) -> None:
        """Somebody came without the token: often a hub with another one, so it is worth a line, but not a thousand."""
        if time.monotonic() - self.complained >= _COMPLAIN:
            self.complained = time.monotonic()
            log.warning("The control API refused %s (%r): the token is missing or another one.", who, path)
