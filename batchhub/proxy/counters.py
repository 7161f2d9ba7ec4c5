"""What a process that carries traffic counts: plain numbers on the hot path, made into a report when somebody asks.

A report is a flat mapping, so that reports of several processes are added up by their keys. A key is a name and its labels, with tabs between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency histogram's buckets, in seconds."""

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_DECISIONS = {
    "Allow": "allowed",
    "AskHub": "asked hub",
    "Redirect": "redirected",
    "Knock": "sent for an entry",
    "Entered": "entered",
    "Refuse": "refused",
}


class Shown(Protocol):
    """A tunnel, or what else has connections to show."""

    def state(self) -> Mapping[str, str]:
        """Of each connection, by its name."""


@dataclass(frozen=True, slots=True)
class Report:
    """``counts`` only grow; ``levels`` are how things stand."""

    counts: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Report) -> Report:
        """Both together."""
        return Report(_sum(self.counts, other.counts), _sum(self.levels, other.levels))


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    both = dict(one)
    for key, value in other.items():
        both[key] = both.get(key, 0) + value
    return both


def key(name: str, *labels: object) -> str:
    """A report's key."""
    return "\t".join([name, *map(str, labels)])


class Counters:
    """Implements :class:`~batchhub.proxy.context.Observer`."""

    __slots__ = ("_decided", "_received", "_requests", "_seconds", "_sent", "_times", "away")

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._times = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._sent = self._received = self.away = 0
        self._decided: Counter[type[object]] = Counter()

    def request(self, method: bytes, status: int, seconds: float, sent: int, received: int) -> None:
        """See Observer. How long a WebSocket was open is no latency."""
        kind = _METHODS.get(method, "other"), status
        self._requests[kind] = self._requests.get(kind, 0) + 1
        self._sent += sent
        self._received += received
        if status != 101:
            self._times[bisect_left(BOUNDS, seconds)] += 1
            self._seconds += seconds

    def decided(self, kind: type[object]) -> None:
        """See Observer."""
        self._decided[kind] += 1

    def turned_away(self) -> None:
        """See Observer."""
        self.away += 1

    def counts(self) -> dict[str, float]:
        """Everything, by key."""
        found: dict[str, float] = {
            "sent": self._sent,
            "received": self._received,
            "turned_away": self.away,
            "seconds": self._seconds,
        }
        for (method, status), number in self._requests.items():
            label = key("requests", method, status if 100 <= status < 600 else "other")
            found[label] = found.get(label, 0) + number
        for position, number in enumerate(self._times):
            found[key("times", position)] = number
        for kind, number in self._decided.items():
            found[key("access", _DECISIONS.get(kind.__name__, "other"))] = number
        return found


def tunnel_report(tunnels: Iterable[tuple[tuple[str, str], Shown]]) -> Report:
    """The tunnels' connections by state, and what they have counted themselves, if they do."""
    counts: Counter[str] = Counter()
    levels: Counter[str] = Counter()
    for (cluster, kind), tunnel in tunnels:
        for name, words in tunnel.state().items():
            if "since " in words or name == "state":
                levels[key("tunnels", cluster, kind, words.partition("since ")[0].strip()[:40] or "up")] += 1
        own: Any = getattr(tunnel, "counters", None)
        for name, number in (own() if own is not None else {}).items():
            part, _, event = name.rpartition("/")  # one of several kinds that are tried in order
            counts[key("tunnel_events", cluster, part or kind, event)] += number
    return Report(counts, levels)
