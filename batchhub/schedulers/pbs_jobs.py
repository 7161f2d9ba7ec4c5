"""What a PBS or Torque job record means: its state, its end, its hosts, its times. Records come from :mod:`.pbs_read`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from batchhub.core.errors import BadInput
from batchhub.core.model import JobId, JobReport, JobState
from batchhub.schedulers.base import MAX_NODES, parse_duration, parse_epoch, shorten
from batchhub.schedulers.pbs_read import Record

MONTHS: Mapping[str, int] = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_CTIME = re.compile(r"(?:[A-Z][a-z]{2} )?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})")
_HOST_PART = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?::\d+)?(?:/[\d,*-]+(?:\*\d+)?)?")
_EXCEEDED = re.compile(r"exceeded (?:resource )?(\w+)")

_STATES: Mapping[str, JobState] = {
    "Q": JobState.PENDING,
    "W": JobState.PENDING,
    "T": JobState.PENDING,
    "H": JobState.HELD,
    "R": JobState.RUNNING,
    "B": JobState.RUNNING,
    "S": JobState.SUSPENDED,
    "U": JobState.SUSPENDED,
    "E": JobState.COMPLETING,
    # M was handed to another server, which is the one to ask.
    "M": JobState.UNKNOWN,
}
_STARTING_SUBSTATES = frozenset({"41", "71"})  # sent to the node but not begun; node being provisioned
_FINISHED, _FAILED, _TERMINATED = "92", "93", "91"

# Exit_status below zero is the server's or MoM's own verdict (job.h of OpenPBS; Torque counts differently from -8 on).
_PBS_VERDICTS: Mapping[int, JobState] = {
    -29: JobState.TIMEOUT,
    -28: JobState.TIMEOUT,
    -27: JobState.OUT_OF_MEMORY,
    -26: JobState.OUT_OF_MEMORY,
    -20: JobState.NODE_FAIL,
    -14: JobState.NODE_FAIL,
}
_TORQUE_VERDICTS: Mapping[int, JobState] = {
    -12: JobState.TIMEOUT,
    -11: JobState.TIMEOUT,
    -10: JobState.OUT_OF_MEMORY,
    -14: JobState.NODE_FAIL,
    -20: JobState.NODE_FAIL,
}
_LIMITS: Mapping[str, JobState] = {
    "walltime": JobState.TIMEOUT,
    "cput": JobState.TIMEOUT,
    "mem": JobState.OUT_OF_MEMORY,
    "vmem": JobState.OUT_OF_MEMORY,
    "pmem": JobState.OUT_OF_MEMORY,
    "pvmem": JobState.OUT_OF_MEMORY,
}
_KILLED_BY_QDEL = frozenset({265, 271})  # 256 + SIGKILL, 256 + SIGTERM


def read_job(job: JobId, record: Record, *, torque: bool = False) -> JobReport:
    """The report of one job record. Raises BadInput if it has no state."""
    letter = text_of(record, "job_state")
    if not re.fullmatch(r"[A-Z]", letter):
        raise BadInput(f"Job {shorten(job, 60)} has no state that can be read.")
    status = _number(text_of(record, "Exit_status") or text_of(record, "exit_status"))
    state = _state(letter, record, status, torque=torque)
    code, signal = _exit(status) if state.terminal else (None, None)
    nodes = () if state.waiting else read_exec_host(text_of(record, "exec_host"))
    limit = parse_duration(text_of(record, "Resource_List", "walltime"), alone=timedelta(seconds=1))
    return JobReport(
        id=job,
        state=state,
        raw_state=letter,
        reason=shorten(text_of(record, "comment")),
        user=shorten(text_of(record, "Job_Owner").partition("@")[0], 64),
        name=shorten(text_of(record, "Job_Name"), 256),
        partition=shorten(text_of(record, "queue").partition("@")[0], 64),
        nodes=nodes,
        host=nodes[0] if nodes else "",
        submitted=read_time(text_of(record, "ctime") or text_of(record, "qtime")),
        started=None if state.waiting else read_time(text_of(record, "stime") or text_of(record, "start_time")),
        estimated_start=_estimate(record) if state.waiting else None,
        ended=_ended(record) if state.terminal else None,
        time_limit=limit,
        time_left=_time_left(record, limit)
        if state in {JobState.RUNNING, JobState.STARTING, JobState.SUSPENDED}
        else None,
        exit_code=code,
        signal=signal,
    )


def text_of(record: Record, name: str, member: str = "") -> str:
    """An attribute, or a member of one, as text; empty when it is missing or no text."""
    value = record.get(name)
    if member:
        value = value.get(member) if isinstance(value, Mapping) else None
    return value.strip() if isinstance(value, str) else ""


def read_time(text: str) -> datetime | None:
    """``Sun Nov 22 20:47:36 2026`` (asked for with ``TZ=UTC``) or seconds since 1970 (Torque's XML, PBS's history)."""
    found = _CTIME.fullmatch(text.strip())
    if found is None:
        return parse_epoch(text)
    month = MONTHS.get(found[1], 0)
    try:
        return datetime(int(found[6]), month, int(found[2]), int(found[3]), int(found[4]), int(found[5]), tzinfo=UTC)
    except ValueError:
        return None


def read_exec_host(text: str) -> tuple[str, ...]:
    """The hosts of ``a/0*4+b/1`` (PBS) or ``a/0-23+b/12`` (Torque), each once; the first runs the script.

    Text that is not of this form names no host: a wrong host would be dialled.
    """
    if not text or len(text) > 1_000_000:
        return ()
    hosts: dict[str, None] = {}
    for part in text.split("+"):
        found = _HOST_PART.fullmatch(part.strip())
        if found is None or len(hosts) >= MAX_NODES:
            return ()
        hosts[found[1]] = None
    return tuple(hosts)


def _state(letter: str, record: Record, status: int | None, *, torque: bool) -> JobState:
    substate = text_of(record, "substate")
    if letter == "F" or (letter == "C" and torque):
        return _ended_state(record, substate, status, torque=torque)
    if letter == "X":  # a subjob that ended; how is known to history alone
        return JobState.UNKNOWN if status is None else _ended_state(record, substate, status, torque=torque)
    if letter == "R" and substate in _STARTING_SUBSTATES:
        return JobState.STARTING
    # A dependency is a system hold in PBS, but to its owner such a job simply waits.
    if letter == "H" and text_of(record, "Hold_Types") == "s" and text_of(record, "depend"):
        return JobState.PENDING
    return _STATES.get(letter, JobState.UNKNOWN)


def _ended_state(record: Record, substate: str, status: int | None, *, torque: bool) -> JobState:
    comment = text_of(record, "comment")
    exceeded = _EXCEEDED.search(comment)
    if exceeded and exceeded[1] in _LIMITS:
        return _LIMITS[exceeded[1]]
    if status is None:
        return _end_without_status(record, substate)
    if status < 0:
        return (_TORQUE_VERDICTS if torque else _PBS_VERDICTS).get(status, JobState.FAILED)
    # PBS says who was terminated; Torque does not, and SIGTERM to the whole job is what its qdel sends.
    terminated = substate == _TERMINATED or " terminated" in comment
    if terminated or (torque and status == 271) or (status in _KILLED_BY_QDEL and "deleted" in comment):
        return JobState.CANCELLED
    return JobState.COMPLETED if status == 0 and substate != _FAILED else JobState.FAILED


def _end_without_status(record: Record, substate: str) -> JobState:
    """A job that never ran has no exit status: it was deleted in the queue."""
    if substate == _FINISHED:
        return JobState.COMPLETED
    if substate == _TERMINATED or not text_of(record, "exec_host"):
        return JobState.CANCELLED
    return JobState.FAILED


def _exit(status: int | None) -> tuple[int | None, int | None]:
    """(exit code, signal): 256 + n is the job killed by signal n; 128 + n a shell's word for the same, kept as its code too."""
    if status is None or status < 0:
        return None, None
    if 256 < status <= 256 + 64:
        return None, status - 256
    return status, status - 128 if 128 < status <= 128 + 64 else None


def _ended(record: Record) -> datetime | None:
    for name in ("obittime", "history_timestamp", "comp_time", "mtime"):
        when = read_time(text_of(record, name))
        if when is not None:
            return when
    return None


def _estimate(record: Record) -> datetime | None:
    return read_time(text_of(record, "estimated", "start_time") or text_of(record, "estimated.start_time"))


def _time_left(record: Record, limit: timedelta | None) -> timedelta | None:
    if limit is None:
        return None
    used = parse_duration(text_of(record, "resources_used", "walltime"), alone=timedelta(seconds=1))
    return max(limit - (used or timedelta(0)), timedelta(0))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,6}", text, re.ASCII) else None
