"""When a server is ended because nobody uses it, or because it has lived long enough. Pure.

What is not known ends nothing: a server whose application or proxy cannot be asked is neither idle nor in use. A kernel that computes is in
use, however long it says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from batchhub.core.forms import Profile
from batchhub.core.limits import format_walltime
from batchhub.core.model import Phase, Server, Want
from batchhub.core.ports import Answer

NO_LIMIT = timedelta(0)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Of something that was asked, and knows of no use."""
_BUSY = "busy"


@dataclass(frozen=True, slots=True)
class EndLimits:
    """``idle``: without use for so long, a server is ended. ``lifetime``: so long after its job began, in any case. Zero: no limit."""

    idle: timedelta = NO_LIMIT
    lifetime: timedelta = NO_LIMIT

    @property
    def sentence(self) -> str:
        """For people; empty if there is no limit."""
        parts = []
        if self.idle:
            parts.append(f"after {format_walltime(self.idle)} without use")
        if self.lifetime:
            parts.append(f"{format_walltime(self.lifetime)} after its job began, whatever it does")
        return f"The hub ends it {', and '.join(parts)}." if parts else ""


def limits_of(profile: Profile | None) -> EndLimits:
    """A profile's; none for one that is not there any more."""
    if profile is None:
        return EndLimits()
    return EndLimits(timedelta(seconds=profile.idle_timeout or 0), timedelta(seconds=profile.max_lifetime or 0))


def outlived(row: Server, limits: EndLimits, now: datetime) -> bool:
    """Whether it has lived for as long as it may. Its time in the queue does not count; a requeued job begins anew."""
    began = row.started or row.answered
    wanted = row.want is Want.UP and row.phase in {Phase.STARTING, Phase.READY}
    return wanted and bool(limits.lifetime) and began is not None and now - began >= limits.lifetime


def last_use(row: Server, *seen: datetime | None) -> datetime:
    """The newest use that is known of: what the row holds, what was seen since. That it began to answer counts as one."""
    known = (row.active, row.answered, *seen)
    return max((moment for moment in known if moment is not None), default=row.created)


def is_due(row: Server, limits: EndLimits, last: datetime, now: datetime) -> bool:
    """Whether it is to be ended, unless its application knows better."""
    return row.want is Want.UP and row.phase is Phase.READY and bool(limits.idle) and now - last >= limits.idle


def jupyter_use(kernels: Answer, terminals: Answer, now: datetime) -> datetime | None:
    """The newest use that Jupyter's own API tells of (``/api/kernels``, ``/api/terminals``); ``None`` if that cannot be read.

    A busy kernel is in use now, any other was at its last message. A terminal was when something went through it. The owner's own program
    writes these answers, so a time to come is taken for now.
    """
    found = _list(kernels)
    # Where terminals are switched off there is no such path.
    found_too = [] if terminals.status == 404 else _list(terminals)
    if found is None or found_too is None:
        return None
    moments = [NEVER]
    for each in (*found, *found_too):
        if not isinstance(each, dict):
            return None
        moment = now if each.get("execution_state") == _BUSY else _moment(each.get("last_activity"))
        if moment is None:
            return None
        moments.append(min(moment, now))
    return max(moments)


def _list(answer: Answer) -> Sequence[Any] | None:
    if answer.status != 200:
        return None
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, list) else None


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def idle_words(last: datetime, limits: EndLimits, now: datetime) -> str:
    """Why it was ended, for its owner."""
    return f"Not used for {format_walltime(now - last)}; servers of this kind are ended after {format_walltime(limits.idle)} without use."


def outlived_words(limits: EndLimits) -> str:
    """The same for one that lived long enough."""
    return f"Its job began {format_walltime(limits.lifetime)} ago, which is as long as servers of this kind live."
