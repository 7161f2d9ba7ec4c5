"""The long form of ``bjobs -l`` and ``bhist -l``: a heading and dated events for each job, folded at 80 columns.

Folding breaks words and swallows blanks, so everything here is found by its brackets. Only a line that begins with a date is an
event: a job's name or command stands in the heading and can forge none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from batchhub.core.model import JobId, JobReport, JobState
from batchhub.schedulers.base import parse_duration, parse_int, shorten
from batchhub.schedulers.lsf_read import RUN_LIMIT_EXIT, STATES, read_hosts, read_termination, read_time, signal_of

_HEAD = re.compile(r"Job (?:Id )?<(\d{1,12}(?:\[\d{1,9}\])?)>")
_EVENT = re.compile(r"([A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d(?: \d{4})?): *(?:\[\d+\] *)?(.*)")
_FOLD = re.compile(r" {21}(?=\S)|\t+ *")
_HOSTS = re.compile(
    r"(?:[Ss]tarted|[Dd]ispatched|[Ss]tarting)\b[^<]*?(?:on|to)\s*(?:\d+\s*)?(?:Hosts?/Processors|Host\(s\)|Hosts?)?\s*((?:<[^<>]+>\s*)+)"
)
_CODE = re.compile(r"Exited\s*(?:with\s*exit\s*code|by\s*exit\s*code)\s*(\d{1,5})")
_SIGNAL = re.compile(r"Exited\s*by\s*signal\s*(\d{1,3})")
_ENDED = re.compile(r"Exited\b|Completed\s*<exit>|Exit\b")
_DONE = re.compile(r"Done\s*successfully|Completed\s*<done>")
_AGAIN = re.compile(r"[Rr]equeued|Pending:|Migration requested")
_ASKED_TO_END = re.compile(
    r"Signal\s*<(?:KILL|TERM|INT)>\s*requested|[Tt]ermination\s*(?:request|issued)|Job\s*terminated\s*by"
)


@dataclass(slots=True)
class _Story:
    """One job while its events are read, oldest first."""

    heading: str
    state: JobState | None = None
    hosts: tuple[str, ...] = ()
    submitted: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    code: int | None = None
    signal: int | None = None
    asked_to_end: bool = False
    why: JobState | None = None
    words: str = ""


def read_long(text: str) -> dict[JobId, JobReport]:
    """Every job of the text. A job without a readable end is what its STATUS or its last event says."""
    return {job: _read(job, lines) for job, lines in _blocks(text)}


def unfold(text: str) -> list[str]:
    """The lines with their continuations (21 blanks, or a TAB) joined on, with nothing between."""
    lines: list[str] = []
    for line in text.splitlines():
        fold = _FOLD.match(line)
        if fold is not None and lines and lines[-1].strip():
            lines[-1] += line[fold.end() :]
        else:
            lines.append(line)
    return lines


def _blocks(text: str) -> Iterator[tuple[JobId, list[str]]]:
    job, block = JobId(""), list[str]()
    for line in unfold(text):
        head = _HEAD.match(line)
        if head is not None:
            if job:
                yield job, block
            job, block = JobId(head[1]), [line]
        elif job:
            block.append(line)
    if job:
        yield job, block


def _read(job: JobId, lines: list[str]) -> JobReport:
    story = _Story(lines[0])
    for line in lines[1:]:
        event = _EVENT.match(line)
        if event is not None:
            _tell(story, read_time(event[1]), event[2])
    status = re.search(r", *Status *<([A-Z_]+)>", story.heading)
    raw = status[1] if status else ""
    state = _state(story, raw)
    nodes = () if state.waiting else story.hosts
    return JobReport(
        id=job,
        state=state,
        raw_state=raw,
        reason=shorten(_pending_reasons(lines) if state.waiting else story.words if state.terminal else ""),
        user=shorten(_bracketed(story.heading, "User"), 64),
        name=shorten(_bracketed(story.heading, "Job Name"), 256),
        partition=shorten(_bracketed(story.heading, "Queue") or _queue_of_events(lines), 64),
        nodes=nodes,
        host=nodes[0] if nodes else "",
        submitted=story.submitted,
        started=None if state.waiting else story.started,
        ended=story.ended if state.terminal else None,
        time_limit=_run_limit(lines),
        exit_code=story.code if state.terminal else None,
        signal=(story.signal or signal_of(story.code)) if state.terminal else None,
    )


def _tell(story: _Story, when: datetime | None, event: str) -> None:
    """Take one event in."""
    if story.submitted is None and event.startswith("Submitted"):
        story.submitted = when
        return
    hosts = _HOSTS.match(event)
    if hosts is not None:
        story.state, story.started = JobState.RUNNING, when
        story.hosts = tuple(
            dict.fromkeys(name for part in re.findall(r"<([^<>]+)>", hosts[1]) for name in read_hosts(part))
        )
    elif _DONE.match(event):
        story.state, story.code, story.ended = JobState.COMPLETED, 0, when
    elif _ENDED.match(event):
        _tell_end(story, when, event)
    elif _AGAIN.match(event):
        story.state, story.hosts, story.asked_to_end = JobState.PENDING, (), False
    elif _ASKED_TO_END.match(event):
        story.asked_to_end = True


def _tell_end(story: _Story, when: datetime | None, event: str) -> None:
    """``Exited with exit code 3``, or the ``Completed <exit>; TERM_…`` that follows it in LSF."""
    code, signal = _CODE.match(event), _SIGNAL.match(event)
    story.state = JobState.FAILED
    story.ended = when or story.ended
    story.code = parse_int(code[1]) if code else story.code
    story.signal = parse_int(signal[1]) if signal else story.signal
    story.why = read_termination(event) or story.why
    story.words = event if "TERM_" in event or not story.words else story.words


def _state(story: _Story, raw: str) -> JobState:
    state = STATES.get(raw, JobState.UNKNOWN) if raw else story.state or JobState.PENDING
    if state is not JobState.FAILED:
        return state
    if story.why is not None:
        return story.why
    if story.code == RUN_LIMIT_EXIT and not story.asked_to_end:
        return JobState.TIMEOUT
    # Nobody is said to have ended it: one that never began, or whose owner asked for its end, was cancelled.
    return JobState.CANCELLED if story.asked_to_end or not story.hosts else JobState.FAILED


def _bracketed(heading: str, label: str) -> str:
    """The text in brackets behind a label; a folded label has lost its blanks, and an array's name holds brackets of its own."""
    pattern = r"\s*".join(re.escape(part) for part in label.split())
    found = re.search(rf"(?:^|, *){pattern}\s*<([^<>]*)>", heading)
    return found[1] if found else ""


def _queue_of_events(lines: list[str]) -> str:
    """``bhist`` names the queue in the first event."""
    found = next((re.search(r"\bto\s*Queue\s*<([^<>]*)>", line) for line in lines[1:] if _EVENT.match(line)), None)
    return found[1] if found else ""


def _pending_reasons(lines: list[str]) -> str:
    reasons: list[str] = []
    inside = False
    for line in lines:
        if re.match(r" ?PENDING REASONS:", line):
            inside = True
        elif inside and line.strip():
            reasons.append(line.strip().rstrip(";"))
        elif inside:
            break
    return "; ".join(reasons)


def _run_limit(lines: list[str]) -> timedelta | None:
    """`` RUNLIMIT`` above `` 10.0 min of head``."""
    for label, value in pairwise(lines):
        minutes = re.match(r" *(\d+(?:\.\d+)?) min\b", value)
        if re.match(r" *RUNLIMIT\b", label) and minutes is not None:
            return parse_duration(minutes[1])
    return None
