"""What a connection's last request said, because its next one mostly says the same.

A browser that polls repeats its header lines to the letter and changes the address alone. So the lines of the last request are kept, with
what was read from them, what the access check needs to know of them, and what they became on their way to the application. All of it depends
on nothing but the lines, the method and version before them, the client's address and the route, and is used again only where these
are the same; whether a request may pass is decided anew for each. ``docs/performance.md`` says what
it saves; it costs an idle connection up to twice its header lines.
"""

from __future__ import annotations

from batchhub.proxy.access import Facts
from batchhub.proxy.book import Route
from batchhub.proxy.gate import facts_of
from batchhub.proxy.headers import Peer
from batchhub.proxy.wire import RequestHead, follow_up, parse_request

_MOST = 4096
"""Bytes of header lines worth keeping; browsers send about 1,000."""


class Habit:
    """Of one connection."""

    __slots__ = ("_below", "_facts", "_head", "_lines", "_route")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """No further request will come."""
        self._lines = b""
        self._head: RequestHead | None = None
        self._facts: Facts | None = None
        self._route: Route | None = None
        self._below = b""

    def read(self, data: bytes) -> RequestHead:
        """A request's head, as :func:`~batchhub.proxy.wire.parse_request` reads it. Raises Refused."""
        lines = data[data.find(b"\r\n") :]
        before = self._head
        if before is not None and lines == self._lines:
            head = follow_up(data[: -len(lines)], before)
            if head is not None:
                return head
        head = parse_request(data)
        self._head = self._facts = self._route = None
        if len(lines) <= _MOST and data.startswith(b"%b /" % head.method):
            self._head, self._lines = head, lines
        return head

    def facts(self, head: RequestHead, peer: Peer, path: str) -> Facts:
        """See :func:`~batchhub.proxy.gate.facts_of`. ``peer`` is always the same."""
        known = self._facts
        if known is None or not self._holds(head):
            known = self._facts = facts_of(head, peer, path)
            return known
        return Facts(
            known.method,
            path + head.query.decode("latin-1"),
            known.host,
            known.tickets,
            known.authorization,
            known.origin,
            known.fetch_site,
            known.fetch_mode,
            known.accept,
            known.upgrade,
        )

    def below(self, head: RequestHead, route: Route) -> bytes:
        """What went to this route's application below the first line; empty if that is not known."""
        return self._below if self._route is route and self._holds(head) else b""

    def keep(self, head: RequestHead, route: Route, below: bytes) -> None:
        """Remember what goes to this route's application below the first line."""
        if self._holds(head):
            self._route, self._below = route, below

    def _holds(self, head: RequestHead) -> bool:
        """Whether this head has the lines that are known, read as the same method and version."""
        return self._head is not None and self._head.headers is head.headers
