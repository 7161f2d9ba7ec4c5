"""Durations and memory as people write them, and the limits a partition puts on a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

from batchhub.core.errors import BadInput
from batchhub.core.model import OptionValue, QueueInfo

_FLAGS = re.ASCII | re.IGNORECASE
_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,5}):([0-5]\d)(?::([0-5]\d))?", _FLAGS)
_UNITS = re.compile(r"(?:(\d{1,3})\s*d)?\s*(?:(\d{1,5})\s*h)?\s*(?:(\d{1,5})\s*m(?:in)?)?", _FLAGS)
_MEMORY = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)\s*([MGT]?)(?:i?B)?", _FLAGS)
_MEBIBYTES = {"M": 1, "G": 1024, "T": 1024 * 1024}


def parse_walltime(text: str) -> timedelta:
    """A walltime: ``8h``, ``90m``, ``1d 12h``, ``8:00`` (hours:minutes), ``8:00:00`` or ``1-12:00:00``.

    A bare number is refused, because Slurm reads ``90`` as minutes and PBS as seconds. Raises BadInput.
    """
    text = text.strip()
    clock = _CLOCK.fullmatch(text)
    units = _UNITS.fullmatch(text) if text else None
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        found = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    elif units and any(units.groups()):
        days, hours, minutes = (int(part or 0) for part in units.groups())
        found = timedelta(days=days, hours=hours, minutes=minutes)
    else:
        raise BadInput(f"{text[:40]!r} is not a time; write it as 8h, 90m, 1d 12h, 8:00 (hours:minutes) or 1-12:00:00.")
    if found <= timedelta(0):
        raise BadInput(f"{text[:40]!r} is no time at all; ask for at least a minute.")
    return found


def format_walltime(value: timedelta, *, exact: bool = False) -> str:
    """The shortest of the forms :func:`parse_walltime` reads, to the minute, rounded up; ``exact`` shows odd seconds too (``0:01:30``)."""
    total = -(-int(value.total_seconds()) // (1 if exact else 60)) * (1 if exact else 60)
    minutes, seconds = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    if seconds:
        return f"{hours}:{minutes:02}:{seconds:02}"
    days, hours = divmod(hours, 24)
    parts = [f"{number}{unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if number]
    return " ".join(parts) or "0m"


def parse_memory(text: str) -> int:
    """Memory in MiB from ``8``, ``8G``, ``512M`` or ``1.5T``; a bare number is GiB. Raises BadInput."""
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        raise BadInput(f"{text[:40]!r} is not an amount of memory; write it as 8 or 8G (GiB), 512M or 1.5T.")
    found = round(float(match[1]) * _MEBIBYTES[match[2].upper() or "G"])
    if found < 1:
        raise BadInput(f"{text[:40]!r} is no memory at all; ask for at least 1M.")
    return found


def format_memory(mib: int) -> str:
    """``8G`` where it is exact, else ``512M``."""
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"


def over_limits(queue: QueueInfo, options: Mapping[str, OptionValue]) -> dict[str, str]:
    """The fields of a checked form that ask for more than the partition gives, each with its sentence.

    ``walltime`` is in seconds and ``memory`` in MiB, as :mod:`batchhub.core.forms` leaves them.
    """
    found: dict[str, str] = {}
    where = f"partition {queue.name}"

    def amount(name: str) -> float:
        value = options.get(name, 0)
        return float(value) if isinstance(value, (int, float)) else 0.0

    if queue.max_cores is not None and amount("cores") > queue.max_cores:
        found["cores"] = f"{where} has at most {queue.max_cores} cores on a node."
    if queue.max_memory_mib is not None and amount("memory") > queue.max_memory_mib:
        found["memory"] = f"{where} has at most {format_memory(queue.max_memory_mib)} of memory on a node."
    if queue.max_walltime is not None and amount("walltime") > queue.max_walltime.total_seconds():
        found["walltime"] = f"{where} allows at most {format_walltime(queue.max_walltime)}."
    if queue.max_gpus is not None and amount("gpus") > queue.max_gpus:
        have = f"at most {queue.max_gpus} GPUs on a node" if queue.max_gpus else "no GPUs"
        found["gpus"] = f"{where} has {have}."
    return found
