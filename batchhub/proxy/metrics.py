"""Reports as Prometheus reads them, in names of our own and in configurable-http-proxy's, for the dashboards that exist.

No label holds a person's name: paths, users and tokens are in no metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from batchhub.proxy.control import Control
from batchhub.proxy.counters import BOUNDS, Report, key

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_COUNTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("requests", "requests", "Answers, by request method and status code.", ("method", "code")),
    ("sent", "sent_bytes", "Bytes of bodies and raw streams sent to clients, counted at a request's end.", ()),
    ("received", "received_bytes", "Bytes of bodies and raw streams received from clients, counted at their end.", ()),
    ("turned_away", "turned_away", "Clients for which there was no place.", ()),
    ("access", "access", "What the access check of owned routes said.", ("decision",)),
    (
        "tunnel_events",
        "tunnel_events",
        "Connections of tunnels that were made, failed or lost.",
        ("cluster", "kind", "event"),
    ),
    ("changes", "changes", "Changes through the control API.", ("change",)),
    ("api", "api_requests", "Answers of the control API.", ("code",)),
    ("restarts", "worker_restarts", "Workers that ended and were started again.", ()),
)
_LEVELS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("clients", "client_connections", "Open connections of clients.", ()),
    ("websockets", "websockets", "Of these, WebSockets and other upgraded connections.", ()),
    ("in_flight", "requests_in_flight", "Of these, requests whose answer is not whole.", ()),
    ("idle_upstreams", "idle_upstreams", "Connections to applications that wait for another request.", ()),
    ("tunnels", "tunnels", "Connections of tunnels.", ("cluster", "kind", "state")),
    ("routes", "routes", "Routes.", ()),
    ("offers", "offers", "Offers that jobs may make to a reverse tunnel.", ()),
    ("revocations", "revocations", "Ended sessions and tokens that are remembered.", ()),
    ("workers", "workers", "Worker processes.", ("state",)),
)
_CHANGES = {
    "AddRoute": "route added",
    "DropRoute": "route removed",
    "EndSession": "session ended",
    "EndToken": "token ended",
    "MakeOffer": "offer made",
    "DropOffer": "offer withdrawn",
}


def own_report(control: Control) -> Report:
    """What the process with the control API adds to what those with the traffic counted."""
    book, calls = control.book, control.calls
    counts: dict[str, float] = {key("changes", name): calls.changes[kind] for kind, name in _CHANGES.items()}
    counts |= {key("api", status): number for status, number in calls.answers.items()}
    counts["api_lists"] = calls.lists
    counts["restarts"] = 0  # a rate needs to see it before the first
    levels = {
        "routes": len(book.routes),
        "offers": len(book.offers),
        "revocations": len(book.revoked) + len(book.ended_tokens),
    }
    return Report(counts, levels)


def exposition(report: Report) -> bytes:
    """The text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reported(report))
    return generate_latest(registry)


class _Reported(Collector):
    def __init__(self, report: Report) -> None:
        self._counts = _by_name(report.counts)
        self._levels = _by_name(report.levels)

    def collect(self) -> Iterator[Metric]:
        for name, shown, words, labels in _COUNTS:
            counter = CounterMetricFamily(f"batchhub_proxy_{shown}", words, labels=labels)
            for values, number in self._counts[name].items():
                counter.add_metric(values, number)
            yield counter
        for name, shown, words, labels in _LEVELS:
            gauge = GaugeMetricFamily(f"batchhub_proxy_{shown}", words, labels=labels)
            for values, number in self._levels[name].items():
                gauge.add_metric(values, number)
            yield gauge
        yield self._latency()
        yield from self._like_chp()

    def _latency(self) -> Metric:
        histogram = HistogramMetricFamily(
            "batchhub_proxy_request_seconds",
            "Time from a request's head to its answer's end; without upgraded connections.",
        )
        times, total = self._counts["times"], 0.0
        buckets = []
        for position, bound in enumerate([*map(str, BOUNDS), "+Inf"]):
            total += times.get((str(position),), 0)
            buckets.append((bound, total))
        histogram.add_metric([], buckets, self._counts["seconds"].get((), 0))
        return histogram

    def _like_chp(self) -> Iterator[Metric]:
        """configurable-http-proxy 5's names. How long a route was looked for is not measured, so there is a count alone."""
        requests, changes = self._counts["requests"], self._counts["changes"]
        sockets = sum(number for (_, code), number in requests.items() if code == "101")
        everything = sum(requests.values())
        plain = {
            "api_route_get": self._counts["api_lists"].get((), 0),
            "api_route_add": changes.get(("route added",), 0),
            "api_route_delete": changes.get(("route removed",), 0),
            "requests_ws": sockets,
            "requests_web": everything - sockets,
        }
        for name, number in plain.items():
            yield _untyped(name, [({}, number)])
        for name in ("find_target_for_req", "last_activity_updating"):
            metric = Metric(name, "As configurable-http-proxy's; the count alone.", "summary")
            metric.add_sample(f"{name}_count", {}, everything)
            yield metric
        codes: defaultdict[str, float] = defaultdict(float)
        for (_, code), number in requests.items():
            codes[code] += number
        yield _untyped("requests_proxy", [({"status": code}, number) for code, number in codes.items()])
        api = self._counts["api"].items()
        yield _untyped("requests_api", [({"status": code}, number) for (code,), number in api])


def _untyped(name: str, samples: Sequence[tuple[dict[str, str], float]]) -> Metric:
    """Without the ``_total`` that a counter's name would get."""
    metric = Metric(name, "As configurable-http-proxy's.", "untyped")
    for labels, number in samples:
        metric.add_sample(name, labels, number)
    return metric


def _by_name(values: Mapping[str, float]) -> defaultdict[str, dict[tuple[str, ...], float]]:
    found: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for joined, number in values.items():
        name, *labels = joined.split("\t")
        found[name][tuple(labels)] = number
    return found
