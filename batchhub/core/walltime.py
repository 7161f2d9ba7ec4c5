"""When a job's time is up, whether its owner must be warned now, and how much more time may be asked for. Pure.

The end is the scheduler's word, never our own sum of what was asked: a partition's default, an extension by an operator or a suspension
change it. Schedulers tell it to the second or only to the minute, so two ends within :data:`SAME` are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from batchhub.core.errors import BadInput
from batchhub.core.limits import format_walltime, parse_walltime
from batchhub.core.model import JobReport, JobState, Observation, Phase, Server, Truth, Want

SAME = timedelta(minutes=2)
"""Two ends that differ by less are one: answers are rounded, and are on their way for a while."""

SHORT_JOB = 5
"""A notice takes at most this part of a job's time: nobody who asks for an hour wants a quarter of it to be a warning."""

STEPS = tuple(timedelta(hours=hours) for hours in (0.5, 1, 2, 4, 8, 24))
"""What a page offers to add."""


@dataclass(frozen=True, slots=True)
class TimeUp:
    """What a profile says about the end of its jobs' time, in a table of its own.

    ``warn_before`` and ``save_before``, seconds: when the person is warned and when the job is to save, in place of the site's. ``command`` is
    the administrator's shell line that saves; it runs in the job, beside the application. ``signal`` goes to the application's process group
    then; most programs die of one that they are not prepared for. ``extend_at_most`` bounds a job's whole time when it is given more.
    """

    warn_before: float | None = None
    save_before: float | None = None
    command: str = ""
    signal: Literal["", "HUP", "INT", "TERM", "USR1", "USR2", "XCPU"] = ""
    extend_at_most: str = ""

    def __post_init__(self) -> None:
        for name in ("warn_before", "save_before"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 <= seconds <= 7 * 86400:
                raise ValueError(f"{name}: {seconds:g} seconds are not between 0 (never) and a week.")
        if len(self.command) > 4096 or not all(letter.isprintable() or letter == "\t" for letter in self.command):
            raise ValueError("command: one line of at most 4096 characters is expected; a longer one is a script's.")
        read_most(self.extend_at_most)

    @property
    def most(self) -> timedelta | None:
        """``extend_at_most``."""
        return read_most(self.extend_at_most)


def read_most(text: str) -> timedelta | None:
    """``extend_at_most``; empty is no bound. Raises ValueError."""
    try:
        return parse_walltime(text) if text else None
    except BadInput as error:
        raise ValueError(f"extend_at_most: {error}") from error


@dataclass(frozen=True, slots=True)
class End:
    """When a running job's time is up: ``at``, by what was ``said`` (when the scheduler was asked), out of a whole ``walltime``, if that is known."""

    at: datetime
    said: datetime
    walltime: timedelta | None = None


def end_of(seen: Observation | None) -> End | None:
    """The end by an observation; ``None`` if it says none: not seen, not running (a suspended job's time stands still), no limit."""
    job = seen.report if seen is not None and seen.truth is Truth.SEEN else None
    if seen is None or job is None or job.state not in {JobState.RUNNING, JobState.STARTING}:
        return None
    if job.started is not None and job.time_limit is not None:
        # It does not shake from answer to answer. But a suspension makes it too early, and what is left is then the better word.
        at = job.started + job.time_limit
        if job.time_left is not None and seen.at + job.time_left > at + SAME:
            at = seen.at + job.time_left
        return End(at, seen.at, job.time_limit)
    if job.time_left is not None:
        at = seen.at + job.time_left
        return End(at, seen.at, job.time_limit or (at - job.started if job.started is not None else None))
    return None


def same(one: datetime, other: datetime) -> bool:
    """Whether two ends are one."""
    return abs(one - other) <= SAME


def notice(before: timedelta, walltime: timedelta | None) -> timedelta:
    """How long before the end the notice is due: ``before``, less for a short job."""
    return before if walltime is None else min(before, walltime / SHORT_JOB)


def runs(row: Server) -> bool:
    """Whether it is on a node and wanted, so that the end of its time matters to somebody."""
    return row.want is Want.UP and row.phase in {Phase.STARTING, Phase.READY}


def warned_of(row: Server, end: End | None, now: datetime, before: timedelta) -> datetime | None:
    """What ``row.warned`` should be: the end its owner was or is now warned of, ``None`` while that is far. At most one warning for each end.

    What is not known changes nothing. An end that moved, by an extension or a new limit, is a new reason to warn.
    """
    if end is None or not runs(row) or (row.warned is not None and same(row.warned, end.at)):
        return row.warned
    near = end.at - now <= notice(before, end.walltime)
    return end.at if before > timedelta(0) and near and now < end.at else None


def warning_words(end: End, now: datetime, silent_since: datetime | None) -> str:
    """The warning as a sentence, for events and programs; pages show the moment in the reader's own time."""
    text = f"The job's time is up at {end.at:%Y-%m-%d %H:%M} UTC, in {format_walltime(max(end.at - now, timedelta(minutes=1)))}."
    if silent_since is not None:
        text += f" The scheduler said so at {end.said:%H:%M} UTC and does not answer now."
    return text


def shown_warning(row: Server, end: End | None) -> datetime | None:
    """The end that pages warn of; ``None`` if there is nothing to warn of (any more)."""
    if row.warned is None or not runs(row) or (end is not None and not same(row.warned, end.at)):
        return None
    return row.warned


def limit_of(report: JobReport | None) -> timedelta | None:
    """The whole time a job has, if its report says it."""
    if report is None or report.state not in {JobState.RUNNING, JobState.STARTING}:
        return None
    return report.time_limit


def more_time(limit: timedelta | None, most: timedelta | None) -> tuple[timedelta, ...]:
    """The whole times that a page offers in place of ``limit``, up to ``most`` (``None``: no bound of ours), the shortest first."""
    if limit is None:
        return ()
    offers = [limit + step for step in STEPS if most is None or limit + step <= most]
    if most is not None and limit < most and most not in offers and len(offers) < len(STEPS):
        offers.append(most)
    return tuple(offers)


def smallest(limits: Sequence[timedelta | None]) -> timedelta | None:
    """The smallest of several bounds, where ``None`` is none."""
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)
