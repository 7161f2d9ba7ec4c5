"""How long to wait before a cluster is asked again. Pure: what happened and chance are handed in."""

from __future__ import annotations

from dataclasses import dataclass

from batchhub.core.errors import ConfigError

RESTLESS = 150
"""For how many ticks without a change something that moves is believed to arrive soon: five minutes, at two seconds each. A job that
a dead node cleans up for hours must not keep the scheduler busy that long."""

QUIET = 30
"""After how many ticks without a change the pause grows beyond ``slow``: about nine minutes, as the settings come."""

JITTER = 0.2
"""The part of each pause that is left to chance, so that hubs and clusters that began together do not ask together. It only shortens:
a pause is never longer than its setting says."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pauses between two questions, in seconds.

    ``fast`` while somebody waits in front of a page, or something is about to change; then twice as long each time, up to ``slow``, and
    up to ``ceiling`` where nothing at all changes for long, or the scheduler does not answer. Raises ConfigError.
    """

    fast: float = 2.0
    slow: float = 20.0
    ceiling: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.fast <= self.slow <= self.ceiling:
            raise ConfigError(
                f"Watching: fast ({self.fast:g} s), slow ({self.slow:g} s) and ceiling ({self.ceiling:g} s) must be above 0, each at least "
                "the one before it."
            )


def pause(pace: Pace, *, watched: bool, moving: bool, unchanged: int, failures: int) -> float:
    """Seconds until the next question, before chance.

    ``watched``: somebody waits for news. ``moving``: a server starts or stops, or a job's end is being found out. ``unchanged``: the ticks in
    a row that brought no news. ``failures``: the ticks in a row that could not ask; each doubles the pause, whoever waits.
    """
    calm = pace.fast if watched else _calm(pace, unchanged - RESTLESS if moving else unchanged)
    return min(pace.ceiling, _doubled(calm, failures))


def drawn(seconds: float, chance: float) -> float:
    """The pause that is really made; ``chance`` is from 0 to 1."""
    return seconds * (1 - JITTER * chance)


def _calm(pace: Pace, unchanged: int) -> float:
    if unchanged <= QUIET:
        return min(pace.slow, _doubled(pace.fast, unchanged))
    return min(pace.ceiling, _doubled(pace.slow, unchanged - QUIET))


def _doubled(seconds: float, times: int) -> float:
    return seconds * 2.0 ** min(max(times, 0), 30)
