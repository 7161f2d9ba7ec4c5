"""What a step of a server adds to the hub's figures: how long its job waited and started, and how it ended. Pure but for the meters."""

from __future__ import annotations

from datetime import datetime

from batchhub.control.ports import Meters
from batchhub.core.model import Phase, Server

_BEFORE_A_NODE = frozenset({Phase.REQUESTED, Phase.QUEUED})
_ON_A_NODE = frozenset({Phase.STARTING, Phase.READY})


def measure(meters: Meters, before: Server, after: Server, now: datetime) -> None:
    """Count the step from ``before`` to ``after``, which was noticed ``now``."""
    if before.phase is after.phase:
        return
    if before.phase in _BEFORE_A_NODE and after.phase in _ON_A_NODE:
        meters.waited(after.cluster, after.profile, queue_wait(before, after, now))
    if after.phase is Phase.READY:
        seconds = start_up(before, after)
        if seconds is not None:
            meters.started(after.cluster, after.profile, seconds)
    if after.phase is Phase.ENDED and after.outcome is not None:
        meters.ended(after.cluster, after.profile, after.outcome)


def queue_wait(before: Server, after: Server, now: datetime) -> float:
    """Seconds from the submit, or from the return into the queue, until the job began.

    The scheduler's word counts for when it began, unless its clock contradicts ours; then it is when the hub saw it, a tick later at most.
    """
    requeued = before.generation > 1 and before.phase is Phase.QUEUED
    since = before.since if requeued else before.submit_tried or before.created
    began = after.started if after.started is not None and since <= after.started <= now else now
    return max(0.0, (began - since).total_seconds())


def start_up(before: Server, after: Server) -> float | None:
    """Seconds from the job's start to the application's first answer; ``None`` if nobody knows when it began."""
    if after.answered is None:
        return None
    if after.started is not None and after.started <= after.answered:
        return (after.answered - after.started).total_seconds()
    if before.phase is Phase.STARTING and before.since <= after.answered:
        return (after.answered - before.since).total_seconds()
    return None
