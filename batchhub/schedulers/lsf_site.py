"""Queues, limits and free slots of an LSF site, for the form. Columns and units differ between versions, so reading is lenient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from batchhub.core.errors import Unreachable
from batchhub.core.model import QueueInfo
from batchhub.core.ports import Completed
from batchhub.schedulers.base import parse_duration, parse_int, require_answer, shorten
from batchhub.schedulers.lsf_words import require_bjobs

_SIZE = re.compile(r"(\d{1,15})(?:\.\d+)? ?([KMGTP]?)B?(?:ytes)?", re.IGNORECASE)
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_LIMIT = re.compile(r" +([A-Z]+LIMIT)(?= |$)")


@dataclass(frozen=True, slots=True)
class _Host:
    """A host's slots; ``slots`` is ``None`` where it sets no limit."""

    usable: bool
    slots: int | None
    used: int


@dataclass(slots=True)
class _Detail:
    """What ``bqueues -l`` says of one queue."""

    hosts: tuple[str, ...] | None = None
    default: dict[str, str] = field(default_factory=dict)
    maximum: dict[str, str] = field(default_factory=dict)


def read_site(done: Sequence[Completed], unit: str = "KB") -> Sequence[QueueInfo]:
    """The answers to ``bqueues -w``, ``bqueues -l``, ``bhosts -w`` and ``bparams -l``. Raises Unreachable without the first."""
    if not done:
        raise Unreachable("The queues were not asked for.")
    require_bjobs(done[0], "bqueues")
    open_queues = read_queue_table(done[0].out)
    if not open_queues:
        raise Unreachable("bqueues named no queue.")
    details = read_queue_details(_text(done, 1))
    hosts = read_hosts_table(_text(done, 2))
    defaults = read_default_queues(_text(done, 3))
    return [
        replace(_queue(name, details.get(name, _Detail()), hosts, unit), open=is_open, default=name in defaults)
        for name, is_open in open_queues.items()
    ]


def read_queue_table(text: str) -> dict[str, bool]:
    """Queue -> whether it takes and starts jobs, from the rows of ``bqueues``: the third column is ``Open:Active``."""
    queues = {}
    for line in text.splitlines():
        words = line.split()
        status = words[2] if len(words) > 2 else ""
        if re.fullmatch(r"(?:Open|Closed):\w+", status):
            queues[shorten(words[0], 64)] = status == "Open:Active"
    return queues


def read_queue_details(text: str) -> dict[str, _Detail]:
    """Limits and hosts of each queue, from ``bqueues -l``."""
    details: dict[str, _Detail] = {}
    here, limits = _Detail(), dict[str, str]()
    lines = text.splitlines()
    for at, line in enumerate(lines):
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if line.startswith("QUEUE: "):
            here = details[shorten(line[7:], 64)] = _Detail()
            limits = here.maximum
        elif line.startswith("DEFAULT LIMITS"):
            limits = here.default
        elif line.startswith(("MAXIMUM LIMITS", "SCHEDULING")):
            limits = here.maximum
        elif _LIMIT.match(line):
            limits.update(_columns(line, following))
        elif line.startswith("HOSTS:"):
            here.hosts = _host_names(line[6:])
    return details


def read_hosts_table(text: str) -> dict[str, _Host]:
    """Host -> slots, from ``bhosts``: ``HOST_NAME STATUS JL/U MAX NJOBS …``."""
    hosts = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and re.fullmatch(r"ok|closed\w*|un\w+", words[1]):
            full = words[1].lower() in {"closed_full", "closed_excl", "closed_busy"}
            hosts[words[0]] = _Host(
                usable=words[1] == "ok" or full,
                slots=parse_int(words[3]),
                used=(parse_int(words[4]) or 0) if not full else 10**9,
            )
    return hosts


def read_default_queues(text: str) -> tuple[str, ...]:
    """``DEFAULT_QUEUE = normal`` of ``bparams -l``, ``Default Queues:  normal`` of ``bparams``."""
    found = re.search(r"^\s*(?:DEFAULT_QUEUE\s*=|Default Queues?:)\s*(.*)$", text, re.MULTILINE)
    return tuple(found[1].split()) if found else ()


def read_memory(text: str, unit: str) -> int | None:
    """A limit (``500000 K``, ``4 G``, ``4096`` in the site's own unit) in MiB, rounded down."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    power = _POWER.get((found[2] or unit[:1]).upper(), 1)
    size: int = int(found[1]) * 1024**power
    return size // 1024**2


def _text(done: Sequence[Completed], at: int) -> str:
    """An answer the queues can do without: empty if it failed."""
    if len(done) <= at:
        return ""
    try:
        require_answer(done[at], "LSF")
    except Unreachable:
        return ""
    return done[at].out if done[at].code == 0 else ""


def _columns(labels: str, values: str) -> Mapping[str, str]:
    """The values below their labels: each begins in its label's column."""
    starts = [found.start(1) for found in _LIMIT.finditer(labels)]
    names = [found[1] for found in _LIMIT.finditer(labels)]
    ends = [*starts[1:], len(values) + 1]
    return {name: values[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)}


def _host_names(text: str) -> tuple[str, ...] | None:
    """Host names, or ``None`` for all hosts and for groups, whose members are not said. ``host+2`` holds a preference."""
    words = [re.sub(r"\+\d*$", "", word) for word in text.split()]
    if not words or words[0] in {"all", "none"} or any(word.endswith("/") for word in words):
        return None
    return tuple(words)


def _queue(name: str, detail: _Detail, hosts: Mapping[str, _Host], unit: str) -> QueueInfo:
    known = detail.hosts is None or any(host in hosts for host in detail.hosts)
    mine = [host for label, host in hosts.items() if detail.hosts is None or label in detail.hosts]
    usable = [host for host in mine if host.usable]
    slots = [host.slots for host in usable if host.slots is not None]
    per_job = _last_number(detail.maximum.get("PROCLIMIT") or detail.maximum.get("TASKLIMIT") or "")
    return QueueInfo(
        name=name,
        max_walltime=_minutes(detail.maximum.get("RUNLIMIT", "")),
        default_walltime=_minutes(detail.default.get("RUNLIMIT", "")),
        max_cores=_least([per_job, max(slots, default=None)]),
        max_memory_mib=read_memory(detail.maximum.get("MEMLIMIT", ""), unit),
        nodes=len(usable) if hosts and known else None,
        free_cores=sum(max((host.slots or 0) - host.used, 0) for host in usable) if hosts and known else None,
    )


def _minutes(text: str) -> timedelta | None:
    """``10.0 min of hostA``; the host is the one whose speed the minutes are counted for."""
    found = re.match(r"(\d{1,8}(?:\.\d+)?) min\b", text)
    return parse_duration(found[1]) if found else None


def _last_number(text: str) -> int | None:
    """``PROCLIMIT`` shows ``max``, ``min max`` or ``min default max``."""
    numbers = text.split()
    return parse_int(numbers[-1]) if numbers else None


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
