"""What the control plane needs from its neighbours, as Protocols."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from batchhub.core.customising import NOT_CUSTOMISED, Customisation
from batchhub.core.handshake import Connection
from batchhub.core.model import Endpoint, Observation, Outcome, Phase, Server, ServerId, Trace, Truth
from batchhub.core.ports import RouteTarget
from batchhub.core.proofs import Facts
from batchhub.core.quota import Standing


class TrailEvent(Protocol):
    """A line of a server's trail: the attributes of :class:`batchhub.store.values.Event`."""

    @property
    def at(self) -> datetime:
        """When it was written."""

    @property
    def kind(self) -> str:
        """A short word for programs."""

    @property
    def words(self) -> str:
        """A sentence for people."""

    @property
    def by(self) -> str:
        """Who caused it."""

    @property
    def seen(self) -> str:
        """What was seen."""

    @property
    def done(self) -> str:
        """What was decided then."""


class Meters(Protocol):
    """Where the control plane's figures go. Durations in seconds. No name of a person is among them."""

    def waited(self, cluster: str, profile: str, seconds: float) -> None:
        """A job began, so long after its submit or its return into the queue."""

    def started(self, cluster: str, profile: str, seconds: float) -> None:
        """An application answered, so long after its job began."""

    def ended(self, cluster: str, profile: str, outcome: Outcome) -> None:
        """A run ended."""

    def polled(self, cluster: str, seconds: float) -> None:
        """A tick was done, with or without answers."""

    def poll_failed(self, cluster: str) -> None:
        """A question of a tick was not answered."""

    def alive(self, cluster: str, phases: Mapping[Phase, int]) -> None:
        """So many servers live, in these phases."""

    def seen(self, cluster: str, truths: Mapping[Truth, int]) -> None:
        """Of so many of them the newest word is that they are there, that they are gone, or nothing."""


class NoMeters:
    """Nobody counts."""

    def waited(self, cluster: str, profile: str, seconds: float) -> None:
        """Not counted."""

    def started(self, cluster: str, profile: str, seconds: float) -> None:
        """Not counted."""

    def ended(self, cluster: str, profile: str, outcome: Outcome) -> None:
        """Not counted."""

    def polled(self, cluster: str, seconds: float) -> None:
        """Not counted."""

    def poll_failed(self, cluster: str) -> None:
        """Not counted."""

    def alive(self, cluster: str, phases: Mapping[Phase, int]) -> None:
        """Not counted."""

    def seen(self, cluster: str, truths: Mapping[Truth, int]) -> None:
        """Not counted."""


NO_METERS = NoMeters()


class ClusterWord(Protocol):
    """What the leader last knew of a cluster."""

    @property
    def silent_since(self) -> datetime | None:
        """Since when it does not answer."""

    @property
    def silent_word(self) -> str:
        """Why."""


class ServerStore(Protocol):
    """The transactions on servers. Every method raises StoreUnavailable when the database cannot be asked."""

    def add_server(
        self, server: Server, *, admit: Callable[[Standing], None] | None = None, window: timedelta = timedelta(0)
    ) -> Awaitable[Server]:
        """Save a new run. Raises Conflict if the person has a live one of that name, and what ``admit`` raises.

        ``admit`` is handed what there is already, starts within ``window`` included; nobody else's is added in between.
        """

    def server(self, server_id: ServerId) -> Awaitable[Server]:
        """Raises NotFound."""

    def current_server(self, user: str, name: str) -> Awaitable[Server | None]:
        """The newest run."""

    def servers_of(self, user: str) -> Awaitable[Sequence[Server]]:
        """The newest run of each name."""

    def live_servers(self, cluster: str | None = None) -> Awaitable[Sequence[Server]]:
        """Every run that has not ended."""

    def all_current(self, *, live_only: bool, offset: int, limit: int) -> Awaitable[tuple[Sequence[Server], int]]:
        """A page of everybody's newest runs, and how many there are."""

    def uncollected(self, since: datetime) -> Awaitable[Sequence[Server]]:
        """Runs that have ended since then, were given to a scheduler, and of which no log is kept."""

    def runs_of(self, user: str, name: str, limit: int) -> Awaitable[Sequence[Server]]:
        """The newest runs of a name, newest first."""

    def sightings(self, ids: Collection[ServerId]) -> Awaitable[Mapping[ServerId, Observation]]:
        """The last good observations of these servers that the leader noted."""

    def cluster_words(self) -> Awaitable[Mapping[str, ClusterWord]]:
        """What it noted of each cluster."""

    def update(
        self,
        server_id: ServerId,
        change: Callable[[Server], Server | None],
        *,
        kind: str = "",
        by: str = "",
        trace: Callable[[], Trace] | None = None,
    ) -> Awaitable[Server]:
        """Load, change, save in one transaction; ``None`` leaves the row alone. Returns the row as it is then.

        A change that made a difference is an event if it has a ``kind``, or a ``trace``, which is asked for it once ``change`` has run.
        """

    def add_event(self, server_id: ServerId, kind: str, words: str) -> Awaitable[None]:
        """Record something that changed no server. Raises NotFound."""

    def events_of(self, server_id: ServerId, limit: int) -> Awaitable[Sequence[TrailEvent]]:
        """The newest events of a run, the oldest of them first."""


class OrphanStore(Protocol):
    """The transactions on jobs that no row knew."""

    def live_servers(self, cluster: str | None = None) -> Awaitable[Sequence[Server]]:
        """Every run that has not ended."""

    def server(self, server_id: ServerId) -> Awaitable[Server]:
        """Raises NotFound."""

    def add_server(self, server: Server) -> Awaitable[Server]:
        """Save a run. Raises Conflict if the person has a live one of that name, or there is one of that id."""

    def add_event(self, server_id: ServerId, kind: str, words: str) -> Awaitable[None]:
        """Record what happened."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What is written into a job's directory before it is submitted, in the order of ``files``, each 0600; ``script`` is submitted.

    A name may stand in one directory below, as ``files/spark.conf``.
    """

    script: str
    files: Mapping[str, bytes]


Customiser = Callable[[Server, str], Awaitable[Customisation]]
"""What a site adds to one job, from its server and its owner's home directory on the cluster; made anew at each call, as values may be fresh
credentials. Raises any HubError; its sentence is the owner's to read, and holds no value."""


class JobBuilder(Protocol):
    """Turns a server into the contents of its job directory. Raises BadInput or TemplateProblem."""

    def build(self, server: Server, home: str, added: Customisation = NOT_CUSTOMISED) -> JobFiles:
        """Render the script and the documents; ``home`` is the account's on the cluster."""

    def secrets(self, server: Server, added: Customisation = NOT_CUSTOMISED) -> bytes:
        """``secrets.json`` for the server's current generation; its directory must be known where files are added."""

    def proof(self, server: Server) -> bytes:
        """``server.json``: the run's facts, signed, by which its job is known for ours without a row."""

    def prove(self, data: bytes) -> Facts:
        """The facts of a run that this hub signed. Raises BadInput, Denied."""

    def unfit(self, facts: Facts) -> str:
        """Why a run of these facts could not go on under today's configuration; empty if it could."""

    def token(self, server: Server, generation: int) -> str:
        """The server's own secret of a generation."""

    @property
    def dials_in(self) -> bool:
        """Whether any cluster's jobs dial in at the proxy (``reverse`` tunnels)."""

    def offer_key(self, server: Server) -> str:
        """The public key with which the server's present generation dials in; empty if it does not."""

    def endpoint(self, server: Server, connection: Connection) -> Endpoint:
        """Where to dial, from what the scheduler and the job say together. Raises BadInput when they cannot both be right."""

    def route(self, server: Server) -> RouteTarget:
        """The route to a server whose endpoint is known."""

    def shutdown_path(self, server: Server) -> str:
        """Where a POST asks its application to end by itself; empty if it knows no such thing."""

    def jupyter_path(self, server: Server) -> str:
        """Where its application's Jupyter API is, which tells what its kernels do; empty if it has none."""

    def ready_path(self, server: Server) -> str:
        """The path that answers once the application is ready."""
