"""How much of a hub one person, one profile and everybody together may have at a time. Pure: the store counts, :func:`admit` says yes or why not.

Counting and inserting are one transaction, so two forms that are sent at once cannot both have the last place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from batchhub.core.errors import TooMany
from batchhub.core.forms import Profile


@dataclass(frozen=True, slots=True)
class Quota:
    """The site's limits; 0 is no limit.

    ``servers_each``: a person's servers that have not ended. ``concurrent_starts``: everybody's servers that are being submitted or whose
    application is starting; waiting in the queue is the scheduler's affair and does not count. ``starts_each`` within ``starts_window``: a person's
    starts, refused ones too, because each of them is a command to the scheduler.
    """

    servers_each: int = 0
    concurrent_starts: int = 0
    starts_each: int = 0
    starts_window: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is when somebody asks for one more.

    ``own``, ``own_of_profile`` and ``of_profile`` count servers that have not ended: the person's, the person's of this profile, everybody's of
    this profile. ``starting`` counts everybody's that are on their way. ``recent`` counts the person's starts within the window, and
    ``first_recent`` is when the first of these was asked for.
    """

    own: int = 0
    own_of_profile: int = 0
    of_profile: int = 0
    starting: int = 0
    recent: int = 0
    first_recent: datetime | None = None


def admit(quota: Quota, profile: Profile, standing: Standing, now: datetime) -> None:
    """Return if one more server of this profile may be started. Raises TooMany with the limit and what would help."""
    title = profile.title or profile.name
    if _full(standing.own, quota.servers_each):
        raise TooMany(f"You have {_servers(standing.own)}, which is the limit here; stop one first.")
    if _full(standing.own_of_profile, profile.at_most_each):
        raise TooMany(
            f"You have {_servers(standing.own_of_profile)} of {title!r}, which is the limit for it; stop one first."
        )
    if _full(standing.of_profile, profile.at_most):
        raise TooMany(
            f"All {profile.at_most} places for {title!r} are taken by now; try again when somebody has stopped theirs."
        )
    if _full(standing.recent, quota.starts_each):
        raise TooMany(
            f"You have started {_servers(standing.recent)} within {_minutes(quota.starts_window)}, which is the limit; "
            f"the next one may be started in {_minutes(_wait(quota, standing, now))}."
        )
    if _full(standing.starting, quota.concurrent_starts):
        raise TooMany(
            f"{standing.starting} servers are being started at this moment, which is as many as this hub starts at a time; try again in a minute."
        )


def _full(count: int, limit: int) -> bool:
    return 0 < limit <= count


def _wait(quota: Quota, standing: Standing, now: datetime) -> timedelta:
    """Until the first of the recent starts is not recent any more."""
    first = standing.first_recent or now
    return max(timedelta(0), first + quota.starts_window - now)


def _servers(count: int) -> str:
    return "1 server" if count == 1 else f"{count} servers"


def _minutes(span: timedelta) -> str:
    minutes = max(1, -(-int(span.total_seconds()) // 60))
    return "1 minute" if minutes == 1 else f"{minutes} minutes"
