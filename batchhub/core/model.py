"""What BatchHub is about, as frozen values: the server a person asked for, the scheduler's job, what was seen of it.

One noun per thing: *Server* is what a person asked for (one row for each run), *Job* is the scheduler's, *Observation* is what
somebody saw of a job and when. Nothing here acts.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

from batchhub.core.errors import BadInput

ServerId = NewType("ServerId", str)
"""Twelve characters of ``a-z2-7``: 60 random bits. Part of the job name, the job directory and the pages' addresses."""

JobId = NewType("JobId", str)
"""The scheduler's id, kept as text: ``123``, ``123_4``, ``123;cluster``, ``123.server``, ``123[4]`` are all in use."""

UserName = NewType("UserName", str)
"""A hub user's normalised name."""

OptionValue = str | int | float | bool
"""A checked form value."""

NO_OPTIONS: Mapping[str, OptionValue] = MappingProxyType({})

JOB_NAME_PREFIX = "bh-"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_SERVER_ID = re.compile(r"[a-z2-7]{12}")
_SERVER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Want(StrEnum):
    """What the person wants of a server."""

    UP = "up"
    DOWN = "down"


class Phase(StrEnum):
    """Where a server is. The table in :mod:`batchhub.core.lifecycle` holds every step between them."""

    REQUESTED = "requested"
    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


class Outcome(StrEnum):
    """How a server ended."""

    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node failure"
    REFUSED = "refused"
    CANCELLED = "cancelled outside"


class JobState(StrEnum):
    """A scheduler's state word, normalised over the dialects."""

    PENDING = "pending"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETING = "completing"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    NODE_FAIL = "node_fail"
    OUT_OF_MEMORY = "out_of_memory"
    UNKNOWN = "unknown"

    @property
    def waiting(self) -> bool:
        """In the queue, without a node."""
        return self in {JobState.PENDING, JobState.HELD, JobState.REQUEUED}

    @property
    def terminal(self) -> bool:
        """The scheduler will do nothing more with this run of the job."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.CANCELLED,
        JobState.PREEMPTED,
        JobState.NODE_FAIL,
        JobState.OUT_OF_MEMORY,
    }
)


@dataclass(frozen=True, slots=True)
class JobReport:
    """One job as one answer of the scheduler shows it. Fields the answer does not hold stay at their defaults.

    ``raw_state`` is the scheduler's own word and ``reason`` its own reason, for people. ``nodes`` are expanded names in the
    scheduler's order and ``host`` is the one that runs the script. Times are aware (UTC). ``exit_code`` is the script's,
    ``signal`` the one that killed it.
    """

    id: JobId
    state: JobState
    raw_state: str = ""
    reason: str = ""
    user: str = ""
    name: str = ""
    partition: str = ""
    nodes: tuple[str, ...] = ()
    host: str = ""
    submitted: datetime | None = None
    started: datetime | None = None
    estimated_start: datetime | None = None
    ended: datetime | None = None
    time_limit: timedelta | None = None
    time_left: timedelta | None = None
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A readable answer to a status question about named jobs.

    ``jobs`` holds what was seen. ``gone`` holds ids the tool itself said it does not know any more; an id in neither is merely
    missing, which is not an answer. ``bad_rows`` are lines that could not be read (at most a few, shortened): they say
    nothing about any job. ``unread`` are the ids that such lines begin with: the scheduler holds those jobs, but in which state is
    not known, so they are not even missing.
    """

    jobs: Mapping[JobId, JobReport]
    gone: frozenset[JobId] = frozenset()
    bad_rows: tuple[str, ...] = ()
    unread: frozenset[JobId] = frozenset()


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A partition or queue as the scheduler describes it; ``None`` means unlimited or not said. Memory in MiB a node."""

    name: str
    default: bool = False
    open: bool = True
    max_walltime: timedelta | None = None
    default_walltime: timedelta | None = None
    max_cores: int | None = None
    max_memory_mib: int | None = None
    max_gpus: int | None = None
    gpu_types: tuple[str, ...] = ()
    nodes: int | None = None
    free_cores: int | None = None


class Truth(StrEnum):
    """The three truths about a job."""

    SEEN = "seen"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Observation:
    """The newest word about one server's job.

    ``SEEN`` carries a report. ``GONE`` is the scheduler's or accounting's own word that no such job is alive; it carries a
    report when accounting had a record. ``UNKNOWN`` carries in ``word`` why nobody could say. ``at`` is when the question was
    put.
    """

    truth: Truth
    at: datetime
    report: JobReport | None = None
    word: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an application listens, as the hub will dial it: a host and port, or a Unix socket on that host.

    ``offer`` is the name under which its job offers it to a ``reverse`` tunnel; the other kinds have no use for it.
    """

    host: str
    port: int = 0
    socket: str = ""
    offer: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """One run of a person's server: what was asked for, where it is, how it ended. Saved after every step.

    ``account`` is the user name on the cluster. ``submit_tried`` is when a submit command was last begun, and once it has ended without an answer, when that was (``None`` = never);
    with no ``job_id`` the job is looked up by ``job_name`` before anything is submitted again. ``generation`` counts the secrets
    issued: a requeued job gets a new one. ``nonce`` is the one by which
    the application's present start named itself; its secret is derived from it. ``answered`` is when the application last began to answer; ``None`` = not in this run.
    ``told`` is when the application was asked to end by itself, before its job is cancelled. ``active`` is when somebody last used it or it last
    computed, as far as is known. ``warned`` is the end of its walltime of which its owner was warned: a later end is a new reason to warn.
    ``words`` is the newest sentence about this server for the person who owns it.
    """

    id: ServerId
    user: UserName
    name: str
    cluster: str
    profile: str
    account: str
    created: datetime
    since: datetime
    options: Mapping[str, OptionValue] = field(default_factory=lambda: NO_OPTIONS)
    want: Want = Want.UP
    phase: Phase = Phase.REQUESTED
    directory: str = ""
    job_id: JobId | None = None
    submit_tried: datetime | None = None
    submit_count: int = 0
    generation: int = 1
    host: str = ""
    endpoint: Endpoint | None = None
    nonce: str = ""
    started: datetime | None = None
    answered: datetime | None = None
    told: datetime | None = None
    cancel_tried: datetime | None = None
    active: datetime | None = None
    warned: datetime | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    words: str = ""
    log_tail: str = ""
    ended: datetime | None = None

    @property
    def job_name(self) -> str:
        """The job's name: fifteen characters, the first a letter, as Torque's qsub(1) demands of ``-N``."""
        return JOB_NAME_PREFIX + self.id

    @property
    def path(self) -> str:
        """The server's address below the proxy, as JupyterHub's: ``/user/NAME/`` or ``/user/NAME/SERVER/``."""
        return f"/user/{self.user}/{self.name}/" if self.name else f"/user/{self.user}/"

    @property
    def alive(self) -> bool:
        """Whether anything is still to be done for it."""
        return self.phase is not Phase.ENDED


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the hub knows: what their last sign-in or refresh said of them. ``way`` names how they signed in; empty if they never did."""

    name: UserName
    admin: bool = False
    groups: tuple[str, ...] = ()
    way: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a line of a server's trail says besides the change itself, told by whoever made the change, once it is made.

    ``kind`` is a short word for programs, ``by`` who caused it: a user's name, ``scheduler`` or ``hub``. ``seen`` and ``done`` are a few
    words each, or empty.
    """

    kind: str
    by: str = "hub"
    seen: str = ""
    done: str = ""


def new_server_id() -> ServerId:
    """A fresh random id."""
    return ServerId("".join(secrets.choice(_ALPHABET) for _ in range(12)))


def read_server_id(text: str) -> ServerId:
    """Check an id that came from outside. Raises :class:`BadInput`."""
    if not _SERVER_ID.fullmatch(text):
        raise BadInput(f"{text[:40]!r} is not a server id: twelve characters of a-z and 2-7 are expected.")
    return ServerId(text)


def read_server_name(text: str) -> str:
    """Check a server's name; the empty name is the default server. Raises :class:`BadInput`.

    The rule keeps names free of anything a URL, a path or a shell would read differently.
    """
    if text and not _SERVER_NAME.fullmatch(text):
        raise BadInput(
            f"Server name {text[:40]!r}: letters, digits and inner '.', '_', '-' are allowed, at most 63 characters."
        )
    return text
