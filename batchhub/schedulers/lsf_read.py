"""The short forms in which LSF prints jobs: rows of ``bjobs -o``, its JSON, and the wide table of openlava. Text in, reports out.

The rows' format is fixed by :data:`FORMAT`, which the command line passes: a user's or site's ``LSB_BJOBS_FORMAT`` then has no say.
Job names are not asked for, since they may hold anything; the wide table shows them, and a row they break is a bad row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from batchhub.core.errors import BadInput, Unreachable
from batchhub.core.model import JobId, JobReport, JobState
from batchhub.schedulers.base import MAX_NODES, note_bad_row, parse_duration, parse_int, shorten

FIELDS = (
    "jobid",
    "jobindex",
    "stat",
    "user",
    "queue",
    "exec_host",
    "submit_time",
    "start_time",
    "finish_time",
    "estimated_start_time",
    "time_left",
    "runtimelimit",
    "exit_code",
    "exit_reason",
    "pend_reason",
)
DELIMITER = "^"
FORMAT = f"{' '.join(FIELDS)} delimiter='{DELIMITER}'"

STATES: Mapping[str, JobState] = {
    "PEND": JobState.PENDING,
    "PSUSP": JobState.HELD,
    "PROV": JobState.STARTING,
    "WAIT": JobState.STARTING,
    "RUN": JobState.RUNNING,
    "USUSP": JobState.SUSPENDED,
    "SSUSP": JobState.SUSPENDED,
    "DONE": JobState.COMPLETED,
    "EXIT": JobState.FAILED,
    # The node is lost: the job may run on, and a killed one becomes EXIT once the node is back.
    "UNKWN": JobState.UNKNOWN,
    "ZOMBI": JobState.UNKNOWN,
    "POST_DONE": JobState.COMPLETED,
    "PDONE": JobState.COMPLETED,
    "POST_ERR": JobState.COMPLETED,
    "PERR": JobState.COMPLETED,
}

_TERMINATIONS: Mapping[str, JobState] = {
    "OWNER": JobState.CANCELLED,
    "ADMIN": JobState.CANCELLED,
    "FORCE_OWNER": JobState.CANCELLED,
    "FORCE_ADMIN": JobState.CANCELLED,
    "BUCKET_KILL": JobState.CANCELLED,
    "RUNLIMIT": JobState.TIMEOUT,
    "CPULIMIT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "WINDOW": JobState.TIMEOUT,
    "MEMLIMIT": JobState.OUT_OF_MEMORY,
    "SWAP": JobState.OUT_OF_MEMORY,
    "PREEMPT": JobState.PREEMPTED,
    "ZOMBIE": JobState.NODE_FAIL,
    "REQUEUE_OWNER": JobState.REQUEUED,
    "REQUEUE_ADMIN": JobState.REQUEUED,
}

RUN_LIMIT_EXIT = 140
"""128 + SIGUSR2, the signal that LSF sends at the run limit (bjobs, "exit codes"); a notebook server does not die of it otherwise."""

# The sentences that bhist, bacct and bjobs -l add to such a word, for answers that hold the sentence alone.
_SENTENCES = (
    (re.compile(r"killed by owner|killed by (?:root|LSF) admin|forced? to exit by", re.IGNORECASE), JobState.CANCELLED),
    (
        re.compile(r"run(?:time)? ?limit|run time limit|cpu (?:time |usage )?limit|deadline|run window", re.IGNORECASE),
        JobState.TIMEOUT,
    ),
    (re.compile(r"memory usage limit|swap usage limit|memory limit", re.IGNORECASE), JobState.OUT_OF_MEMORY),
    (re.compile(r"preempt", re.IGNORECASE), JobState.PREEMPTED),
)

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(r"(?:[A-Z][a-z]{2} )?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d)(?::(\d\d))?(?: (\d{4}))?(?: [ELX])?")
_MAX_ROW = 10_000  # a name has 4094 characters at most; a longer line would cost the pattern below its square in time
_WIDE = re.compile(
    r"(\d+)\s+(\S+)\s+([A-Z_]+)\s+(\S+)\s+(\S+)\s+(.*\S)\s+"
    r"([A-Z][a-z]{2} +\d{1,2} \d\d:\d\d(?::\d\d)?(?: \d{4})?)\s*"
)
_HOST = re.compile(r"(?:(\d{1,6})\*)?([A-Za-z0-9][A-Za-z0-9._-]*)")
_ELEMENT = re.compile(r"\[(\d{1,9})\]$")
_NOT_FOUND = re.compile(r"Job <(\d+(?:\[\d+\])?)> is not found")
_NOTICE = re.compile(
    r"still trying|Please wait|^JOBID\s|^No (?:unfinished |DONE/EXIT |matching |pending |running |suspended )?job found"
)
_CONTINUED = re.compile(r"\s{20,}(\S+)\s*")
_LIVELY = (JobState.RUNNING, JobState.STARTING, JobState.SUSPENDED, JobState.PENDING, JobState.HELD, JobState.REQUEUED)


@dataclass(slots=True)
class Rows:
    """Jobs while they are being read. Two rows of one id that differ are a forgery or a mistake: neither is believed."""

    found: dict[JobId, JobReport] = field(default_factory=dict)
    gone: set[JobId] = field(default_factory=set)
    bad: list[str] = field(default_factory=list)
    twice: set[JobId] = field(default_factory=set)

    def add(self, report: JobReport, row: str) -> None:
        """Keep a report, unless another one contradicts it."""
        other = self.found.get(report.id)
        if report.id in self.twice or (other is not None and other.raw_state != report.raw_state):
            self.twice.add(report.id)
            self.found.pop(report.id, None)
            note_bad_row(self.bad, row)
            return
        self.found[report.id] = report


def read_rows(text: str) -> Rows:
    """The rows of ``bjobs -o FORMAT``, of ``bjobs -w`` with or without header, or a JSON document: whichever it is."""
    if re.search(r'"RECORDS"\s*:', text):
        return read_json(text)
    rows = Rows()
    last: JobId | None = None
    for line in text.splitlines():
        if not line.strip() or _NOTICE.search(line):
            continue
        lost = _NOT_FOUND.search(line)
        if lost is not None and DELIMITER not in line:
            rows.gone.add(JobId(lost[1]))
            continue
        if line[0].isspace() and last in rows.found and _continue(rows, last, line):
            continue
        try:
            report = _row(line)
        except BadInput:
            note_bad_row(rows.bad, line)
            continue
        rows.add(report, line)
        last = report.id
    return rows


def read_json(text: str) -> Rows:
    """The records of ``bjobs -json``, cut out of whatever was printed around them. Raises Unreachable.

    Every value is text; a record may hold an error instead of a job.
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        document = json.loads(text[start : end + 1], strict=False, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Unreachable("bjobs printed a JSON document that cannot be read.") from error
    records = document.get("RECORDS") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise Unreachable("bjobs printed a JSON document without records.")
    rows = Rows()
    for record in records:
        _add_record(rows, record)
    return rows


def _add_record(rows: Rows, record: Any) -> None:
    if not isinstance(record, dict):
        note_bad_row(rows.bad, str(type(record)))
        return
    values = {key.lower(): value.strip() for key, value in record.items() if isinstance(value, str)}
    error = values.get("error", "")
    lost = _NOT_FOUND.search(error)
    if lost is not None:
        rows.gone.add(JobId(lost[1]))
        return
    try:
        rows.add(_report(values), values.get("jobid", ""))
    except BadInput:
        note_bad_row(rows.bad, error or values.get("jobid", "a record without an id"))


def _row(line: str) -> JobReport:
    values = [value.strip() for value in line.split(DELIMITER, len(FIELDS) - 1)]
    if len(values) == len(FIELDS):
        return _report(dict(zip(FIELDS, values, strict=True)))
    return _wide_row(line)


def _wide_row(line: str) -> JobReport:
    """``JOBID USER STAT QUEUE FROM_HOST EXEC_HOST JOB_NAME SUBMIT_TIME``; the name may hold blanks, a missing host is ``-``."""
    found = _WIDE.fullmatch(line) if len(line) <= _MAX_ROW else None
    if found is None:
        raise BadInput("This is no row of bjobs.")
    number, user, stat, queue, _, rest, submitted = found.groups()
    host, _, name = rest.partition(" ")
    if stat in {"PEND", "PSUSP"} and host != "-":  # without -w the column is blank
        host, name = "-", rest
    element = _ELEMENT.search(name)
    values = {"jobid": number, "stat": stat, "user": user, "queue": queue, "exec_host": host, "submit_time": submitted}
    return _report(values | {"jobindex": element[1] if element else "0", "job_name": name.strip()})


def _continue(rows: Rows, job: JobId, line: str) -> bool:
    """A line that goes on with the job before: another host (without ``-w``) or why it waits (with ``-p``)."""
    report = rows.found[job]
    host = _CONTINUED.fullmatch(line)
    if host is not None and report.nodes and _HOST.fullmatch(host[1]):
        rows.found[job] = replace(report, nodes=tuple(dict.fromkeys((*report.nodes, *read_hosts(host[1])))))
        return True
    if report.state.waiting and line.rstrip().endswith(";"):
        reason = shorten(f"{report.reason} {line.strip().rstrip(';')}".strip())
        rows.found[job] = replace(report, reason=reason)
        return True
    return False


def _report(given: Mapping[str, str]) -> JobReport:
    """The report of one job. Raises BadInput without an id or a state."""
    values = {key: "" if value == "-" else value for key, value in given.items()}
    number = re.match(r"(\d{1,12})(?:\[(\d{1,9})\])?$", values.get("jobid", ""), re.ASCII)
    stat = values.get("stat", "")
    if number is None or not re.fullmatch(r"[A-Z_]{2,16}", stat):
        raise BadInput("This is no job of bjobs.")
    index = number[2] or values.get("jobindex", "")
    ran = values.get("exec_host", "")
    code = parse_int(values.get("exit_code", ""))
    state = end_state(stat, values.get("exit_reason", ""), ran=bool(ran) or "exec_host" not in given, code=code)
    code = code if state.terminal else None
    nodes = () if state.waiting else read_hosts(ran)
    on_node = state in {JobState.RUNNING, JobState.STARTING, JobState.SUSPENDED}
    return JobReport(
        id=JobId(f"{number[1]}[{index}]" if index not in {"", "0"} else number[1]),
        state=state,
        raw_state=stat,
        reason=shorten(values.get("exit_reason", "") if state.terminal else values.get("pend_reason", "")),
        user=shorten(values.get("user", ""), 64),
        name=shorten(values.get("job_name", ""), 256),
        partition=shorten(values.get("queue", ""), 64),
        nodes=nodes,
        host=nodes[0] if nodes else "",
        submitted=read_time(values.get("submit_time", "")),
        started=None if state.waiting else read_time(values.get("start_time", "")),
        estimated_start=read_time(values.get("estimated_start_time") or values.get("estart_time", ""))
        if state.waiting
        else None,
        ended=read_time(values.get("finish_time", "")) if state.terminal else None,
        time_limit=read_limit(values.get("runtimelimit", "")),
        time_left=read_left(values.get("time_left", "")) if on_node else None,
        exit_code=code,
        signal=signal_of(code),
    )


def end_state(stat: str, reason: str, *, ran: bool, code: int | None = None) -> JobState:
    """The state for a STAT word; an EXIT is told apart by why LSF ended the job, one that never had a host was killed waiting.

    Without such words exit code 140 tells of the run limit (:data:`RUN_LIMIT_EXIT`).
    """
    state = STATES.get(stat, JobState.UNKNOWN)
    if state is not JobState.FAILED:
        return state
    why = read_termination(reason)
    if why is not None:
        return why
    if ran and code == RUN_LIMIT_EXIT:
        return JobState.TIMEOUT
    return JobState.FAILED if ran else JobState.CANCELLED


def read_termination(text: str) -> JobState | None:
    """What a ``TERM_…`` word, or the sentence that goes with it, makes of an end; ``None`` where it says nothing."""
    word = re.search(r"TERM_([A-Z_]+)", text)
    if word is not None:
        return _TERMINATIONS.get(word[1], JobState.FAILED)
    return next((state for sentence, state in _SENTENCES if sentence.search(text)), None)


def signal_of(code: int | None) -> int | None:
    """The signal that an exit code of 128 + n stands for, as in a shell."""
    return code - 128 if code is not None and 128 < code <= 128 + 64 else None


def read_hosts(text: str) -> tuple[str, ...]:
    """The hosts of ``a:a:b`` (openlava) or ``2*a:b`` (LSF), each once; the first runs the script. Anything else names none."""
    hosts: dict[str, None] = {}
    for part in re.split(r"[:\s]+", text.strip()) if text and len(text) < 1_000_000 else ():
        found = _HOST.fullmatch(part)
        if found is None or len(hosts) >= MAX_NODES:
            return ()
        hosts[found[2]] = None
    return tuple(hosts)


def read_time(text: str) -> datetime | None:
    """``Nov 22 20:58:45 2026``, in UTC as asked; without a year (``Nov 22 20:58``) it is not known when, so ``None``."""
    found = _DATE.fullmatch(text.strip())
    if found is None or found[6] is None or found[1] not in _MONTHS:
        return None
    try:
        return datetime(
            int(found[6]),
            _MONTHS.index(found[1]) + 1,
            int(found[2]),
            int(found[3]),
            int(found[4]),
            int(found[5] or 0),
            tzinfo=UTC,
        )
    except ValueError:
        return None


def read_limit(text: str) -> timedelta | None:
    """``1440.0`` minutes, ``10.0/hostA`` (for that host's speed), ``00:10:00`` with ``-hms``."""
    return parse_duration(text.partition("/")[0].strip(), alone=timedelta(minutes=1), pair="hm")


def read_left(text: str) -> timedelta | None:
    """``0:9 L``: hours and minutes; the mark says whether it is a limit or an estimate, ``X`` that it was overrun."""
    number, _, mark = text.strip().partition(" ")
    if mark.strip() == "X":
        return timedelta(0)
    return parse_duration(number, alone=timedelta(minutes=1), pair="hm")


def under_asked(rows: Rows, jobs: Iterable[JobId]) -> tuple[dict[JobId, JobReport], frozenset[JobId]]:
    """The jobs and the gone ids under the ids that were asked. An array asked as a whole is shown by its liveliest element."""
    seen: dict[JobId, JobReport] = {}
    gone = set[JobId]()
    arrays: dict[str, list[JobReport]] = {}
    for name, report in rows.found.items():
        arrays.setdefault(name.partition("[")[0], []).append(report)
    for job in jobs:
        if job in rows.found:
            seen[job] = rows.found[job]
        elif job in rows.gone or job.partition("[")[0] in rows.gone:
            gone.add(job)
        elif job in arrays:
            seen[job] = replace(min(arrays[job], key=_rank), id=job)
    return seen, frozenset(gone)


def _rank(report: JobReport) -> int:
    return _LIVELY.index(report.state) if report.state in _LIVELY else len(_LIVELY)
