"""The hub's figures for Prometheus: what the control plane measures, commands by program, and how old its knowledge is.

Labels are clusters, profiles, phases, outcomes and programs, all of them bounded; nobody's name is in them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from batchhub.core.errors import HubError
from batchhub.core.model import Outcome, Phase, Truth
from batchhub.core.ports import Clock, Command, Completed, Transport

OTHER = "other"
"""What is none of the known profiles or programs."""

_MOST_PROGRAMS = 32

_QUEUE = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400)
_START = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
_POLL = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Eyes(Protocol):
    """What is asked of a poller."""

    @property
    def cluster(self) -> str:
        """The cluster's name."""

    @property
    def silent_since(self) -> datetime | None:
        """Since when it does not answer, if so."""

    @property
    def answered_at(self) -> datetime | None:
        """When it last did."""


class HubMetrics:
    """:class:`batchhub.control.ports.Meters`, in a registry of one hub."""

    def __init__(self, profiles: Iterable[str], clusters: Iterable[str]) -> None:
        self.registry = registry = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=registry)
        self._profiles = frozenset(profiles)
        started = ("cluster", "profile")
        self._waited = Histogram(
            "batchhub_queue_wait_seconds",
            "From the submit, or the return into the queue, until the job began.",
            started,
            buckets=_QUEUE,
            registry=registry,
        )
        self._started = Histogram(
            "batchhub_start_up_seconds",
            "From the job's start until its application answered.",
            started,
            buckets=_START,
            registry=registry,
        )
        self._ended = Counter("batchhub_ended", "Runs that ended.", (*started, "outcome"), registry=registry)
        self._polled = Histogram(
            "batchhub_poll_seconds", "One look at a cluster.", ("cluster",), buckets=_POLL, registry=registry
        )
        self._poll_failures = Counter(
            "batchhub_poll_failures", "Questions of such looks without an answer.", ("cluster",), registry=registry
        )
        self._alive = Gauge("batchhub_servers", "Live servers.", ("cluster", "phase"), registry=registry)
        self._seen = Gauge(
            "batchhub_servers_seen",
            "The same, by the scheduler's newest word about their jobs.",
            ("cluster", "truth"),
            registry=registry,
        )
        self._unknown = Gauge(
            "batchhub_unknown_seconds",
            "How long nothing is known of a cluster's jobs: since it last answered, while it does not; else 0.",
            ("cluster",),
            registry=registry,
        )
        self._commands = Counter(
            "batchhub_commands",
            "Commands run on a cluster. result: ok, failed (an exit status but 0), killed (deadline or signal), unreachable.",
            ("cluster", "program", "result"),
            registry=registry,
        )
        self._programs: set[str] = set()
        for cluster in clusters:
            # A rate needs to see a counter before the first.
            self._poll_failures.labels(cluster)
            self._polled.labels(cluster)

    def waited(self, cluster: str, profile: str, seconds: float) -> None:
        """A job began, so long after its submit or its return into the queue."""
        self._waited.labels(cluster, self._profile(profile)).observe(seconds)

    def started(self, cluster: str, profile: str, seconds: float) -> None:
        """An application answered, so long after its job began."""
        self._started.labels(cluster, self._profile(profile)).observe(seconds)

    def ended(self, cluster: str, profile: str, outcome: Outcome) -> None:
        """A run ended."""
        self._ended.labels(cluster, self._profile(profile), outcome.value).inc()

    def polled(self, cluster: str, seconds: float) -> None:
        """A tick was done, with or without answers."""
        self._polled.labels(cluster).observe(seconds)

    def poll_failed(self, cluster: str) -> None:
        """A question of a tick was not answered."""
        self._poll_failures.labels(cluster).inc()

    def alive(self, cluster: str, phases: Mapping[Phase, int]) -> None:
        """So many servers live, in these phases."""
        for phase in Phase:
            if phase is not Phase.ENDED:
                self._alive.labels(cluster, phase.value).set(phases.get(phase, 0))

    def seen(self, cluster: str, truths: Mapping[Truth, int]) -> None:
        """Of so many of them the newest word is that they are there, that they are gone, or nothing."""
        for truth in Truth:
            self._seen.labels(cluster, truth.value).set(truths.get(truth, 0))

    def watch(self, eyes: Eyes, clock: Clock) -> None:
        """Have the age of what is known of a cluster measured whenever somebody asks."""
        self._unknown.labels(eyes.cluster).set_function(lambda: unknown_age(eyes, clock()))

    def ran(self, cluster: str, argv: Collection[str], result: str) -> None:
        """A command was run."""
        program = program_of(tuple(argv))
        if program not in self._programs and len(self._programs) >= _MOST_PROGRAMS:
            program = OTHER
        self._programs.add(program)
        self._commands.labels(cluster, program, result).inc()

    def _profile(self, name: str) -> str:
        """Runs of profiles that were taken out of the configuration live on."""
        return name if name in self._profiles else OTHER


def unknown_age(eyes: Eyes, now: datetime) -> float:
    """Seconds since the cluster last answered, while it does not; one that never did was silent from the first question on."""
    if eyes.silent_since is None:
        return 0.0
    return max(0.0, (now - (eyes.answered_at or eyes.silent_since)).total_seconds())


def program_of(argv: tuple[str, ...]) -> str:
    """The program's name without its directory; of ``python -m MODULE`` the module's."""
    if len(argv) > 2 and argv[1] == "-m":
        return argv[2]
    return PurePosixPath(argv[0]).name if argv else OTHER


class MeteredTransport:
    """A transport whose commands are counted."""

    def __init__(self, cluster: str, inner: Transport, metrics: HubMetrics) -> None:
        self._cluster = cluster
        self._inner = inner
        self._metrics = metrics

    async def run(self, command: Command, user: str | None = None) -> Completed:
        """Run to the end or the deadline."""
        try:
            done = await self._inner.run(command, user)
        except HubError:
            self._metrics.ran(self._cluster, command.argv, "unreachable")
            raise
        result = "ok" if done.code == 0 else "killed" if done.code is None else "failed"
        self._metrics.ran(self._cluster, command.argv, result)
        return done

    def home(self, user: str) -> Awaitable[str]:
        """As the transport does."""
        return self._inner.home(user)

    def make_directory(self, path: str, user: str) -> Awaitable[None]:
        """As the transport does."""
        return self._inner.make_directory(path, user)

    def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> Awaitable[None]:
        """As the transport does."""
        return self._inner.put(path, data, user, mode)

    def get(self, path: str, user: str, limit: int = 65536) -> Awaitable[bytes]:
        """As the transport does."""
        return self._inner.get(path, user, limit)

    def tail(self, path: str, user: str, limit: int = 8192) -> Awaitable[bytes]:
        """As the transport does."""
        return self._inner.tail(path, user, limit)

    def remove_directory(self, path: str, user: str) -> Awaitable[None]:
        """As the transport does."""
        return self._inner.remove_directory(path, user)

    def discard(self, path: str, names: Sequence[str], user: str) -> Awaitable[None]:
        """As the transport does."""
        return self._inner.discard(path, names, user)

    def close(self) -> Awaitable[None]:
        """As the transport does."""
        return self._inner.close()
