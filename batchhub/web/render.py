"""Templates to text: jinja2 with autoescaping, and the few filters our pages need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from batchhub.control.service import ServerView
from batchhub.core.limits import format_walltime
from batchhub.core.model import Outcome, Phase, Want

_CALM_ENDS = frozenset({Outcome.STOPPED, Outcome.COMPLETED})


def iso(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second, as ``<time datetime>`` and our JSON have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(moment: datetime) -> str:
    """For readers without JavaScript; with it, the page shows local time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def utc_exactly(moment: datetime) -> str:
    """The same to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def capitalized(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def tone(view: ServerView) -> str:
    """The colour of a server's state: its phase, ``failed`` for an end nobody wished, ``ended`` for a calm one."""
    if view.server.phase is Phase.ENDED:
        return "ended" if view.server.outcome in _CALM_ENDS else "failed"
    if view.server.want is Want.DOWN:
        return Phase.STOPPING.value
    return view.server.phase.value


class Renderer:
    """Renders our templates. ``titles`` says what a profile is called now."""

    def __init__(self, titles: Callable[[], Mapping[str, str]]) -> None:
        self._titles = titles
        self._jinja = Environment(
            loader=PackageLoader("batchhub", "templates/html"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters |= {
            "iso": iso,
            "utc": utc,
            "utc_exactly": utc_exactly,
            "tone": tone,
            "capitalized": capitalized,
            "walltime": format_walltime,
            "profile_title": self._profile_title,
        }

    def __call__(self, template: str, **context: object) -> str:
        """The page. A name the template needs and nobody gave is an error, not an empty place."""
        return self._jinja.get_template(template).render(**context)

    def _profile_title(self, name: str) -> str:
        return self._titles().get(name, name)
