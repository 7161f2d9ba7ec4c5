"""The Protocols through which the layers meet. Only :mod:`batchhub.app` knows which class stands behind which.

The methods that wait return ``Awaitable``; nothing here is tied to an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol, TypeVar

from batchhub.core.model import Endpoint, JobId, JobReport, Listing, QueueInfo

NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


class Clock(Protocol):
    """Time is handed in."""

    def __call__(self) -> datetime:
        """Now, aware, UTC."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to be run on a cluster's login node.

    ``argv`` reaches the program literally. ``unset`` holds shell-style patterns (``SBATCH_*``) of environment variables to
    remove, ``keep`` the exceptions; ``env`` is set afterwards. ``deadline`` is in seconds, after which the command is killed and
    the answer says ``timed_out``. ``output_limit`` bounds stdout and stderr each, in bytes; more makes the answer ``truncated``.
    ``as_service``: the service's own account runs it, whoever the job is for: an engine or API that people themselves may not talk to.
    """

    argv: tuple[str, ...]
    stdin: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: NO_ENVIRONMENT)
    unset: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    deadline: float = 30.0
    output_limit: int = 64 * 1024 * 1024
    as_service: bool = False

    def runs_as(self, account: str | None) -> str | None:
        """Who runs it, if ``account`` is the job's: that one, or ``None`` for the service's own."""
        return None if self.as_service else account


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command answered. ``code`` is ``None`` when it was killed at its deadline or by a signal.

    Text is decoded as UTF-8 with replacement characters. A transport that could not run the command at all raises
    :class:`~batchhub.core.errors.Unreachable` instead.
    """

    code: int | None
    out: str = ""
    err: str = ""
    timed_out: bool = False
    truncated: bool = False


class Transport(Protocol):
    """Runs commands and keeps small files on one cluster's login node.

    ``user`` is the cluster account to act as; ``None`` is the service's own account, used for questions about all jobs.
    Every method raises :class:`~batchhub.core.errors.Unreachable` when the node could not be reached in time.
    """

    def run(self, command: Command, user: str | None = None) -> Awaitable[Completed]:
        """Run to the end or the deadline."""

    def home(self, user: str) -> Awaitable[str]:
        """The account's home directory, absolute. Raises NotFound if there is no such account."""

    def make_directory(self, path: str, user: str) -> Awaitable[None]:
        """Make it and its missing parents, each 0700; an existing last part is made 0700."""

    def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> Awaitable[None]:
        """Write a file in one step (temporary name, then rename); it never exists with wider permissions."""

    def get(self, path: str, user: str, limit: int = 65536) -> Awaitable[bytes]:
        """The first ``limit`` bytes. Raises FileMissing."""

    def tail(self, path: str, user: str, limit: int = 8192) -> Awaitable[bytes]:
        """The last ``limit`` bytes. Raises FileMissing."""

    def remove_directory(self, path: str, user: str) -> Awaitable[None]:
        """Remove a job's directory, ``…/.batchhub/jobs/ID``, and nothing else, never through a link. Raises BadInput, Denied."""

    def discard(self, path: str, names: Sequence[str], user: str) -> Awaitable[None]:
        """Remove these files and directories of a job's directory, which stays; what is not there is well. Raises BadInput, Denied."""

    def close(self) -> Awaitable[None]:
        """Let go of every connection."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a dialect needs to build a submit command. ``directory`` is the job's own, absolute, on the cluster."""

    name: str
    directory: str
    script: str
    user: str


class Dialect(Protocol):
    """One scheduler's command lines and answers. Pure: builds :class:`Command`, reads :class:`Completed`, nothing else.

    Reading judges exit status, stdout and stderr together; what cannot be read is
    :class:`~batchhub.core.errors.Unreachable`, never "no such job".
    """

    @property
    def name(self) -> str:
        """``slurm``, ``pbs``, ``lsf``, ``local`` …; also the name of its job template (``slurm.sh.j2``)."""

    def submit(self, request: JobRequest) -> Command:
        """Submit the script, named and placed as the request says, whatever the script's own directives are."""

    def read_submit(self, done: Completed) -> JobId:
        """The new job's id. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""

    def find(self, name: str, user: str) -> Command:
        """Look for jobs of exactly this name, finished ones too where the scheduler can."""

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """The jobs found, newest first; records left by refused submits are left out. Raises Unreachable."""

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One question for all the jobs (never empty), of all users."""

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen, row by row; a bad row spoils no other. Raises Unreachable."""

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """Ask the records about jobs that left the queue; ``None`` where the dialect has none."""

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The newest record of each; a job without one is absent from the answer. Raises Unreachable."""

    def tagged(self, prefix: str) -> Command:
        """One question for the live jobs of all users whose name begins so.

        The service account asks; where a site hides jobs from others (Slurm's PrivateData, PBS's query_other_jobs) it is answered for
        its own alone.
        """

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """Those jobs with their names, and their users where the answer holds them whole. Raises Unreachable.

        Names are free text, in which somebody may have written a whole row: what stands here is a hint, to be asked for again by
        :meth:`find` before anything is done about it. A row that cannot be read is left out.
        """

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """Cancel the jobs, in as many commands as is safe."""

    def read_cancel(self, done: Completed) -> None:
        """Return if the jobs are, or will be, gone. Raises Unreachable or Denied."""

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """Give a running job this much time in all; ``None`` where the scheduler cannot. Raises BadInput."""

    def read_extend(self, done: Completed) -> None:
        """Return if it has it. Raises Denied in the scheduler's own words, Conflict if the job has ended, Unreachable."""

    def inspect(self) -> Sequence[Command]:
        """Ask for the partitions or queues, their limits and free resources."""

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """The answers to :meth:`inspect`, in its order. Raises Unreachable."""


class Stream(Protocol):
    """The writing side of a byte stream: the part of ``asyncio.Transport`` that a socket and an SSH channel share."""

    def write(self, data: bytes) -> None:
        """Send, buffering what the other side is not ready for."""

    def write_eof(self) -> None:
        """Close the writing direction only."""

    def pause_reading(self) -> None:
        """Stop calling ``data_received``."""

    def resume_reading(self) -> None:
        """Go on calling it."""

    def close(self) -> None:
        """Close after what is buffered was sent."""

    def abort(self) -> None:
        """Close at once."""

    def is_closing(self) -> bool:
        """Closing or closed."""

    def get_write_buffer_size(self) -> int:
        """Bytes buffered."""


class StreamHandler(Protocol):
    """The reading side, called by the stream: the callbacks of ``asyncio.Protocol``."""

    def connection_made(self, transport: Stream) -> None:
        """Called once, first."""

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""

    def eof_received(self) -> bool | None:
        """The other side will send no more; a true value keeps our side open."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once, last."""

    def pause_writing(self) -> None:
        """The buffer is over its high-water mark."""

    def resume_writing(self) -> None:
        """It is below the low-water mark again."""


H = TypeVar("H", bound=StreamHandler)


class Tunnel(Protocol):
    """One way to the compute nodes of one cluster. The kinds are named in ``docs/architecture.md``."""

    @property
    def kind(self) -> str:
        """``direct``, ``login``, ``node``, ``reverse``, or several that are tried in order: ``login,node``."""

    def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> Awaitable[H]:
        """Open a byte stream to the endpoint for the cluster account ``user``. Raises TunnelError with the cause in words."""

    def state(self) -> Mapping[str, str]:
        """What there is to see: host, identity and state of each pooled connection; no secret."""

    def close(self) -> Awaitable[None]:
        """Close everything it holds."""


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """Where a route leads.

    ``cluster`` and ``kind`` choose the tunnel (both empty: the proxy dials ``endpoint`` itself), ``account`` the identity.
    ``authorization`` is the server's own secret, added to every request; it is printed as stars. ``owner`` may pass; nobody else.
    ``server_id`` names the run, so that a late word about an old run changes nothing. ``strip_prefix``: the application knows nothing of
    ``path``, which is taken off before a request is sent on. ``host``: the only host name under which the route may be used (empty: any).
    """

    path: str
    endpoint: Endpoint
    owner: str
    server_id: str
    server_name: str = ""
    cluster: str = ""
    kind: str = ""
    account: str = ""
    authorization: str = field(default="", repr=False)
    strip_prefix: bool = False
    host: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an application answered to a question of the hub's: HTTP status (0: nothing whole, in time) and the body's first 64 KiB."""

    status: int = 0
    body: bytes = b""


NO_ANSWER = Answer()


@dataclass(frozen=True, slots=True)
class Use:
    """When a route was used: ``at`` all by whatever request or client's message, ``acted`` by a request that changes something.

    An open page asks by itself, again and again; what it asks for so are GETs. ``server_id`` is the run that the route leads to.
    """

    at: datetime
    acted: datetime
    server_id: str = ""


class Routes(Protocol):
    """The proxy's control API as the hub uses it. Every method raises Unreachable when the proxy does not answer."""

    def publish(self, target: RouteTarget) -> Awaitable[None]:
        """Add or replace the route at ``target.path``."""

    def withdraw(self, path: str) -> Awaitable[None]:
        """Remove it; nothing happens if it is not there."""

    def published(self) -> Awaitable[Mapping[str, str]]:
        """Path -> server id (empty for routes that are not servers)."""

    def probe(self, target: RouteTarget, path: str) -> Awaitable[int]:
        """GET ``path`` from the target through its tunnel: the HTTP status. Raises TunnelError with the cause in words."""

    def ask(self, target: RouteTarget, path: str, *, method: str = "GET", deadline: float = 8.0) -> Awaitable[Answer]:
        """GET or POST ``path``, which lies below the target's own, without a body; at most ``deadline`` seconds (8) for the answer.

        :data:`NO_ANSWER`: the application took the question. Raises TunnelError, with the cause in words, if it could not be put.
        """

    def activity(self) -> Awaitable[Mapping[str, Use]]:
        """Path -> when it was last used."""

    def offer(self, server_id: str, key: str) -> Awaitable[None]:
        """Let the job that holds the private half of ``key`` (``ssh-ed25519 AAAA…``) dial in under this name; an older key ends."""

    def withdraw_offer(self, server_id: str) -> Awaitable[None]:
        """Let it no longer, and cut it; nothing happens if it is not there."""

    def offers(self) -> Awaitable[Mapping[str, str]]:
        """Server id -> key."""

    def revoke(self, session: str) -> Awaitable[None]:
        """Forget a hub session: its cookies stop to work, its open connections are closed."""

    def revoke_token(self, digest: str) -> Awaitable[None]:
        """The same for an API token, named by its SHA-256 in hexadecimal."""

    def revoke_all(self, sessions: Mapping[str, datetime]) -> Awaitable[None]:
        """:meth:`revoke` for many: session -> its latest end, from which on it need not be remembered. Those that are known cost nothing."""
