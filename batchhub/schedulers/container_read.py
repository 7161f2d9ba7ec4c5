"""What podman and Docker answer about containers: JSON lines of our own making, and complaints about ids that they do not know."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batchhub.core.errors import Unreachable
from batchhub.core.model import JobId, JobReport, JobState
from batchhub.core.ports import Completed
from batchhub.schedulers import base

JOB = "batchhub.job"
ACCOUNT = "batchhub.account"
WALLTIME = "batchhub.walltime"
"""Labels. Only who may talk to the engine can write them."""

REFUSED = "batchhub: refused: "
NOTHING_MADE = "batchhub: there is no such container now"
LISTED = "batchhub: listed"
"""What our own scripts say."""

# Docker: Error response from daemon: No such container: X. podman 4: no such container X, in two wordings; podman also: no container with …
_UNKNOWN = re.compile(
    r"(?:[Nn]o such (?:container|object):? |no container with (?:name or )?ID )\"?([A-Za-z0-9][A-Za-z0-9_.-]{0,127})\b"
)
_OVER = re.compile(r"is not running|container state improper|already (?:stopped|exited)|can only stop", re.IGNORECASE)
_DENIED = re.compile(
    r"permission denied|a password is required|not allowed to execute|not in the sudoers", re.IGNORECASE
)
_KEPT_OUT = re.compile(
    r"permission denied while trying to connect to the docker|a password is required|not allowed to execute|not in the sudoers|may not run sudo",
    re.IGNORECASE,
)
_WARNING = re.compile(r'^(?:WARNING: |time="[^"]*" level=(?:debug|info|warning) )')
_ID = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

_TIMED_OUT = 124
_TERM, _KILL = 15, 9

STATES = {
    "created": JobState.PENDING,
    "configured": JobState.PENDING,
    "initialized": JobState.PENDING,
    "running": JobState.RUNNING,
    "paused": JobState.SUSPENDED,
    "restarting": JobState.STARTING,
    "stopping": JobState.COMPLETING,
    "stopped": JobState.COMPLETING,
    "removing": JobState.COMPLETING,
    "exited": JobState.COMPLETED,
    "dead": JobState.COMPLETED,
}
"""``State.Status`` of Docker (API 1.41) and podman (libpod/define/containerstate.go). How a container ended decides :func:`report`."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """Rows that are JSON objects, lines that are not, and ids or names that the engine does not know."""

    found: tuple[Mapping[str, object], ...]
    bad: tuple[str, ...]
    gone: frozenset[str]


def is_host(text: str) -> bool:
    """Whether a tunnel could dial it."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return True


def complaints(err: str) -> list[str]:
    """The lines that may mean something: the engines warn of their configuration and the kernel beside every answer."""
    return [line for line in base.complaints(err) if not _WARNING.match(line) and not line.startswith("batchhub: ")]


def words(done: Completed, program: str) -> str:
    """The engine's own words."""
    text = base.words_of("\n".join(complaints(done.err)), program)
    text = re.sub(r"^Error(?: response from daemon)?: ", "", text)
    return text or ("no answer in time" if done.timed_out else f"exit status {done.code}")


def denied(err: str) -> bool:
    """Whether the engine, its socket or sudo refused our account."""
    return any(_DENIED.search(line) for line in complaints(err))


def kept_out(err: str) -> bool:
    """Whether our account did not even reach the engine, so that nothing was made."""
    return any(_KEPT_OUT.search(line) for line in complaints(err))


def unknown_in(line: str) -> str:
    """The id or name that a complaint says is unknown, or empty."""
    found = _UNKNOWN.search(line)
    return found[1] if found else ""


def is_over(line: str) -> bool:
    """Whether a complaint says that a container runs no more."""
    return _OVER.search(line) is not None


def inspected(done: Completed, program: str) -> Inspected:
    """An answer of ``inspect``. It exits above 0 when it did not know some id; whatever else it complains of spoils the answer.

    Raises Unreachable.
    """
    base.require_answer(done, program)
    lines = complaints(done.err)
    gone = frozenset(filter(None, map(unknown_in, lines)))
    if done.code != 0 and not (gone and all(unknown_in(line) for line in lines)):
        raise Unreachable(f"{program} did not answer: {words(done, program)}")
    found: list[Mapping[str, object]] = []
    bad: list[str] = []
    for line in done.out.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            found.append(row)
        elif line.strip():
            base.note_bad_row(bad, line)
    return Inspected(tuple(found), tuple(bad), gone if done.code != 0 else frozenset())


def report(row: Mapping[str, object], partition: str, host: str) -> JobReport | None:
    """One container, or ``None`` if the row cannot be read. ``host`` is where it listens if it has no address of its own."""
    job, name, state = row.get("id"), row.get("name"), row.get("state")
    if (
        not isinstance(job, str)
        or not _ID.fullmatch(job)
        or not isinstance(name, str)
        or not isinstance(state, Mapping)
    ):
        return None
    word = state.get("Status")
    if not isinstance(word, str):
        return None
    labels = row.get("labels")
    labels = labels if isinstance(labels, Mapping) else {}
    started, ended = _time(state.get("StartedAt")), _time(state.get("FinishedAt"))
    limit = base.parse_int(_line(labels.get(WALLTIME)))
    seen = STATES.get(word, JobState.UNKNOWN)
    over = seen is JobState.COMPLETED
    code = _whole(state.get("ExitCode")) if over else None
    time_limit = timedelta(seconds=limit) if limit and limit < 10**9 else None
    if over:
        used_up = time_limit is not None and started is not None and ended is not None and ended - started >= time_limit
        seen = _ending(code, oom=state.get("OOMKilled") is True, used_up=used_up)
    if seen is JobState.PENDING and started is not None:
        # It ran until its machine went down; podman then calls it as it was before its start, and nobody starts it again.
        seen = JobState.NODE_FAIL
    here = _address(row.get("networks")) or host
    return JobReport(
        id=JobId(job),
        state=seen,
        raw_state=base.shorten(word, 40),
        reason=_reason(state, seen),
        user=_line(labels.get(ACCOUNT)),
        name=base.shorten(name.removeprefix("/"), 200),
        partition=partition,
        nodes=(here,) if started else (),
        host=here if started else "",
        submitted=_time(row.get("created")),
        started=started,
        ended=ended if over else None,
        time_limit=time_limit,
        exit_code=code if code is not None and code <= 128 else None,
        signal=code - 128 if code is not None and 128 < code <= 128 + 64 else None,
    )


def _ending(code: int | None, *, oom: bool, used_up: bool) -> JobState:
    """An engine keeps no reason of an end but its status and whether the kernel ended something in it for its memory.

    ``timeout`` exits 124 when time is up, and 137 if the job then had to be killed; ``stop`` sends TERM, which nothing else does. A kernel of a
    notebook that was ended for its memory on Monday is no reason why the server was stopped on Tuesday: memory explains only what nothing else does.
    """
    if code == 0:
        return JobState.COMPLETED
    if code == _TIMED_OUT or (used_up and code in {128 + _TERM, 128 + _KILL}):
        return JobState.TIMEOUT
    if code == 128 + _TERM:
        return JobState.CANCELLED
    return JobState.OUT_OF_MEMORY if oom else JobState.FAILED


def _reason(state: Mapping[object, object], seen: JobState) -> str:
    said = _line(state.get("Error"))
    return said or ("OOMKilled" if seen is JobState.OUT_OF_MEMORY else "")


def _address(networks: object) -> str:
    """The container's own, if it is on a network with addresses."""
    for network in networks.values() if isinstance(networks, Mapping) else ():
        text = network.get("IPAddress") if isinstance(network, Mapping) else None
        if isinstance(text, str) and text:
            try:
                return str(ipaddress.IPv4Address(text))
            except ValueError:
                continue
    return ""


def _line(value: object) -> str:
    return base.shorten(value, 300) if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= 255 else None


def _time(value: object) -> datetime | None:
    """RFC 3339 with nanoseconds; the engines write the year 1 for *not yet*."""
    if not isinstance(value, str) or len(value) > 40 or value.startswith("0001-"):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo is not None else None
