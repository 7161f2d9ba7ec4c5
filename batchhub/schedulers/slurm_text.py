"""Reading Slurm's text: state words, times, one job from named fields, ``scontrol show`` records, partitions.

Text, not ``--json``: JSON needs a build with json-c, its layout changed in 23.02, 23.11, 24.11 and 25.05, before 24.05 it ignored
filters (every job of every user came back), before 23.11 sacct's JSON held wrong exit codes, and one user's job name in broken
UTF-8 makes the whole document unreadable. The text of the columns asked for here is the same from 21.08 to 26.05.

Field names of a record are our own (``id``, ``word``, ``start`` …), whichever command they came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from batchhub.core.errors import BadInput
from batchhub.core.model import JobId, JobReport, JobState, QueueInfo
from batchhub.schedulers.base import (
    decode_wait,
    expand_nodes,
    note_bad_row,
    parse_duration,
    parse_epoch,
    parse_int,
    shorten,
)

SEPARATOR = "\x1f"
"""ASCII's unit separator: nothing Slurm prints in the columns we ask for contains it."""

# Slurm's job_state_codes and squeue(1), "JOB STATE CODES": a base state and any number of flags. The text names a flag if one
# is set, the first in this order (job_state_string()).
_FLAGS = {
    "COMPLETING": JobState.COMPLETING,
    "STAGE_OUT": JobState.COMPLETING,
    "CONFIGURING": JobState.STARTING,
    "EXPEDITING": JobState.PENDING,
    "RESIZING": JobState.RUNNING,
    "REQUEUED": JobState.REQUEUED,
    "REQUEUE_FED": JobState.REQUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "STOPPED": JobState.SUSPENDED,
    "REVOKED": JobState.CANCELLED,
    "RESV_DEL_HOLD": JobState.HELD,
}
_BASES = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "COMPLETED": JobState.COMPLETED,
    "CANCELLED": JobState.CANCELLED,
    "FAILED": JobState.FAILED,
    "TIMEOUT": JobState.TIMEOUT,
    "NODE_FAIL": JobState.NODE_FAIL,
    "PREEMPTED": JobState.PREEMPTED,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    # Alone it says that signals are being sent to a job that lives.
    "SIGNALING": JobState.RUNNING,
}
_SHORT = {
    "PD": "PENDING",
    "R": "RUNNING",
    "S": "SUSPENDED",
    "CD": "COMPLETED",
    "CA": "CANCELLED",
    "F": "FAILED",
    "TO": "TIMEOUT",
    "NF": "NODE_FAIL",
    "PR": "PREEMPTED",
    "BF": "BOOT_FAIL",
    "DL": "DEADLINE",
    "OOM": "OUT_OF_MEMORY",
    "CG": "COMPLETING",
    "CF": "CONFIGURING",
    "SO": "STAGE_OUT",
    "RS": "RESIZING",
    "RQ": "REQUEUED",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "SE": "SPECIAL_EXIT",
    "RD": "RESV_DEL_HOLD",
    "RV": "REVOKED",
    "SI": "SIGNALING",
    "ST": "STOPPED",
}
_HELD = re.compile(r"JobHeldUser|JobHeldAdmin|JobHoldMaxRequeue|launch[ _]failed[ _]requeued[ _]held")
_WORD = re.compile(r"[A-Za-z_]+(?:[+,|][A-Za-z_]+)*\+?")
_NOTHING = frozenset({"", "N/A", "n/a", "(null)", "None", "None assigned", "Unknown", "NONE"})
_ID = re.compile(r"\d+(?:[_+](?:\d+|\[[0-9,%:/-]*(?:\.\.\.)?\]))?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_RAISED = re.compile(r"RaisedSignal:(\d{1,3})\b")
_EXIT = re.compile(r"(\d{1,10}):(\d{1,10})")

SHOW_KEYS = {
    "JobState": "word",
    "Reason": "reason",
    "UserId": "user",
    "Partition": "partition",
    "NodeList": "nodes",
    "BatchHost": "host",
    "SubmitTime": "submit",
    "StartTime": "start",
    "EndTime": "end",
    "TimeLimit": "limit",
    "Priority": "priority",
    "ExitCode": "exit",
}
_SHOW = re.compile(rf"(?:^|\s)({'|'.join(SHOW_KEYS)})=(.*?)(?=\s+[A-Za-z][A-Za-z:/]*=|\s*$)", re.MULTILINE)
_BLANKS = re.compile(r"[ \t]+")
_SHOW_START = re.compile(r"^(?=JobId=\d)", re.MULTILINE | re.ASCII)
_SHOW_TASK = re.compile(r"^JobId=\d+ ArrayJobId=(\d+) ArrayTaskId=(\d+)\s")


def state_of(text: str, reason: str = "", priority: str = "") -> JobState:
    """The state that Slurm's word or words mean, long or short, with flags (``PENDING+COMPLETING``) or cut (``CANCELLED+``).

    A flag we know goes before the base state; one we do not know changes nothing. A word nobody knows alone is UNKNOWN. A
    pending job is HELD by its reason or by priority 0 (squeue(1), "JOB REASON CODES").
    """
    words = [_full_word(word) for word in _words(text)]
    state = next((_FLAGS[flag] for flag in _FLAGS if flag in words), None)
    if state is None:
        state = next((_BASES[word] for word in words if word in _BASES), JobState.UNKNOWN)
    if state is JobState.PENDING and (_HELD.match(reason) or parse_int(priority) == 0):
        return JobState.HELD
    return state


def _words(text: str) -> list[str]:
    """``CANCELLED by 1001`` is CANCELLED; a ``+`` at the end is sacct's mark of a cut column, not a separator."""
    word = text.partition(" ")[0].upper()
    cut = word.endswith("+")
    words = re.split(r"[+,|]", word.rstrip("+"))
    if cut:
        known = [name for name in (*_BASES, *_FLAGS) if name.startswith(words[-1])]
        words[-1] = known[0] if len(known) == 1 or words[-1] in known else words[-1]
    return words


def _full_word(word: str) -> str:
    return _SHORT.get(word, word)


def said(text: str | None) -> str:
    """The text, or the empty one where Slurm says in one of its ways that there is nothing."""
    text = (text or "").strip()
    return "" if text in _NOTHING else text


def report(row: Mapping[str, str]) -> JobReport:
    """One job from named fields. Raises BadInput when its id, state or nodes cannot be read; odd times are left out."""
    number, word, reason = row["id"].strip(), row["word"].strip(), said(row.get("reason"))
    if not _ID.fullmatch(number) or not _WORD.fullmatch(word.partition(" ")[0]):
        raise BadInput(f"{shorten(number, 40)!r} in state {shorten(word, 40)!r} is not a job.")
    if number.isdecimal() and row.get("raw", number).strip() != number:
        # Only parts of arrays and of heterogeneous jobs have a number other than the id that people see.
        raise BadInput(f"The row of job {shorten(number, 40)!r} is about {shorten(row['raw'], 40)!r} too.")
    state = state_of(word, reason, row.get("priority", ""))
    # A pending job has no node yet: what some releases print then are the nodes it may get.
    nodes = () if state.waiting else expand_nodes(said(row.get("nodes")))
    host = said(row.get("host")) if nodes else ""
    if host and not _HOST.fullmatch(host):
        raise BadInput(f"{shorten(host, 40)!r} is not a host name.")
    start = parse_epoch(row.get("start", ""))
    exit_code, signal = _exit(row.get("exit", ""), reason) if state.terminal else (None, None)
    left = row.get("left", "")
    return JobReport(
        id=JobId(number),
        state=state,
        raw_state=shorten(word, 60),
        reason=shorten(reason, 200),
        user=shorten(said(row.get("user")), 64),
        partition=shorten(said(row.get("partition")), 200),
        nodes=nodes,
        host=host or (nodes[0] if nodes else ""),
        submitted=parse_epoch(row.get("submit", "")),
        # A job cancelled or refused while it waited bears that moment as its start; it was never on a node.
        started=start if nodes else None,
        estimated_start=start if state.waiting else None,
        ended=parse_epoch(row.get("end", "")) if state.terminal else None,
        time_limit=duration(row.get("limit", "")),
        time_left=duration(left) if not state.terminal else None,
        exit_code=exit_code,
        signal=signal,
    )


def duration(text: str) -> timedelta | None:
    """A Slurm duration; ``UNLIMITED``, ``NOT_SET``, ``Partition_Limit``, ``INVALID``, ``NONE`` and ``n/a`` are ``None``."""
    return parse_duration(text)


def _exit(text: str, reason: str) -> tuple[int | None, int | None]:
    """``3:0`` is exit 3, ``0:9`` is signal 9, ``768`` a wait status; a reason may say the signal where the exit is missing."""
    text = text.strip()
    found = _EXIT.fullmatch(text)
    if found is not None:
        code, signal = int(found[1]), int(found[2])
        return (code, None) if not signal else (code or None, signal)
    status = parse_int(text)
    if status is not None:
        return decode_wait(status)
    raised = _RAISED.match(reason)
    return None, int(raised[1]) if raised else None


def rows(text: str, names: Sequence[str], bad: list[str]) -> Iterator[Mapping[str, str]]:
    """The rows of a table whose last column may hold anything. ``CLUSTER:`` headings are skipped, short rows are bad.

    Only a line feed ends a row: other control characters that Python calls line ends may stand in a reason.
    """
    for line in text.split("\n"):
        if not line.strip(" \t\r") or line.startswith("CLUSTER: "):
            continue
        cells = line.split(SEPARATOR, len(names) - 1)
        if len(cells) == len(names):
            yield dict(zip(names, cells, strict=True))
        else:
            note_bad_row(bad, line)


def read_rows(table: Iterable[Mapping[str, str]], bad: list[str]) -> Iterator[tuple[Mapping[str, str], JobReport]]:
    """A report for each row that can be read; the others are noted as bad."""
    for row in table:
        try:
            yield row, report(row)
        except BadInput:
            note_bad_row(bad, " ".join(row.values()))


def read_show_job(text: str) -> list[JobReport]:
    """The jobs in the answer of ``scontrol show job``, with ``-o`` or without; records that cannot be read are left out.

    A job's name stands in its record raw and may look like other fields, or even like another record. So ask for one id at a
    time and believe the first record only; everything up to its ``UserId=`` is taken for the name.
    """
    jobs: list[JobReport] = []
    for record in _SHOW_START.split(text)[1:]:
        row = {"id": record[len("JobId=") :].split(maxsplit=1)[0]}
        task = _SHOW_TASK.match(record)
        if task:
            row["id"] = f"{task[1]}_{task[2]}"
        body = record.find(" UserId=")
        for key, value in _SHOW.findall(_BLANKS.sub(" ", record[max(body, 0) :])):
            row.setdefault(SHOW_KEYS[key], value.strip())
        row.setdefault("word", "")
        row["user"] = row.get("user", "").partition("(")[0]
        jobs.extend(found for _, found in read_rows([row], []))
    return jobs


# ---------------------------------------------------------------- partitions

SINFO_COLUMNS = {
    "name": "%R",
    "avail": "%a",
    "max": "%l",
    "default": "%L",
    "nodes": "%D",
    "cpus": "%C",
    "cores": "%c",
    "memory": "%m",
    "state": "%t",
    "gres": "%G",
}
_RECORD = re.compile(r"(?:^|\s)PartitionName=")
_GPU = re.compile(r"gpu(?::([A-Za-z0-9._-]+))?:(\d{1,6})")
_PARENTHESES = re.compile(r"\([^()]*\)")


def show_records(text: str) -> list[dict[str, str]]:
    """The records of ``scontrol show partition``, with ``-o`` or without, as ``Key -> value``."""
    records = []
    for part in _RECORD.split(text)[1:]:
        pairs = [field.partition("=") for field in f"PartitionName={part}".split()]
        records.append({key: value for key, _, value in pairs})
    return records


def read_partitions(shown: str, listed: str) -> list[QueueInfo]:
    """The partitions ``scontrol`` shows, in its order, with what ``sinfo`` adds about their nodes."""
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows(listed, tuple(SINFO_COLUMNS), []):
        groups.setdefault(row["name"].strip(), []).append(row)
    return [_partition(record, groups.get(record["PartitionName"], [])) for record in show_records(shown)]


def _partition(record: Mapping[str, str], groups: Sequence[Mapping[str, str]]) -> QueueInfo:
    gpus = [gpus_of(row["gres"]) for row in groups] or [_gpus_of_tres(record)]
    up = record.get("State", "UP") == "UP" and all(row["avail"].strip() == "up" for row in groups)
    free = [_idle(row["cpus"]) for row in groups]
    return QueueInfo(
        name=shorten(record["PartitionName"], 200),
        default=record.get("Default") == "YES",
        open=up,
        max_walltime=duration(record.get("MaxTime", "")),
        default_walltime=duration(record.get("DefaultTime", "")),
        max_cores=_least(_most(row["cores"] for row in groups), parse_int(record.get("MaxCPUsPerNode", ""))),
        max_memory_mib=_least(
            _most(row["memory"] for row in groups), parse_int(record.get("MaxMemPerNode", "")) or None
        ),
        max_gpus=max((sum(found.values()) for found in gpus), default=0),
        gpu_types=tuple(sorted({kind for found in gpus for kind in found if kind})),
        nodes=parse_int(record.get("TotalNodes", "")),
        free_cores=sum(count for count in free if count is not None) if any(c is not None for c in free) else None,
    )


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs of one node by type (``""`` where none is said): ``gpu:a100:4(S:0-1),gpu:2,shard:8`` is ``{"a100": 4, "": 2}``."""
    found: dict[str, int] = {}
    for item in _PARENTHESES.sub("", said(gres)).split(","):
        gpu = _GPU.fullmatch(item.strip())
        if gpu:
            found[gpu[1] or ""] = found.get(gpu[1] or "", 0) + int(gpu[2])
    return found


def _gpus_of_tres(record: Mapping[str, str]) -> dict[str, int]:
    """Without sinfo: types from ``TRES=…gres/gpu:a100=4``, and the partition's mean number on a node, from below."""
    counts = dict(re.findall(r"gres/gpu(?::([A-Za-z0-9._-]+))?=(\d{1,6})", record.get("TRES", "")))
    nodes = parse_int(record.get("TotalNodes", "")) or 1
    typed = {kind: int(count) // nodes for kind, count in counts.items() if kind}
    return typed or {kind: int(count) // nodes for kind, count in counts.items()}


def _idle(cpus: str) -> int | None:
    """The second of allocated/idle/other/total; idle cores of nodes that are down count as other already."""
    parts = cpus.strip().split("/")
    return parse_int(parts[1]) if len(parts) == 4 else None


def _most(texts: Iterable[str]) -> int | None:
    """The largest number; ``16+`` is sinfo's *16 and more*."""
    numbers = [parse_int(text.strip().rstrip("+")) for text in texts]
    return max((number for number in numbers if number is not None), default=None)


def _least(most: int | None, limit: int | None) -> int | None:
    return limit if most is None else min(most, limit) if limit is not None else most
