"""What happened to a server: the run's facts, its trail of events, the runs before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from batchhub.control.ports import TrailEvent
from batchhub.core.errors import Denied
from batchhub.core.forms import Profile
from batchhub.core.model import OptionValue, Server, UserName
from batchhub.web.base import Page
from batchhub.web.widgets import label_of

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "requested": "Asked for",
        "submit": "Given to the scheduler",
        "submitted": "Taken by the scheduler",
        "unanswered": "No answer to the submit",
        "refused": "Refused",
        "found": "Found by its name",
        "phase": "New state",
        "seen": "Seen",
        "answered": "The application answers",
        "stop": "Asked to stop",
        "cull": "Ended by the site's limits",
        "tell": "Asked to end by itself",
        "cancel": "Cancelled",
        "walltime": "The end of its time",
        "warning": "Warned of the end of its time",
        "extended": "More time given",
        "collect": "Log and exit record read",
        "post_stop": "The site's own hook was told of its end",
    }
)
"""An event's kind in words; any other is its own."""

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "prepare": "Making its directory",
        "reach": "Reaching it",
        "publish": "Publishing its route",
        "withdraw": "Withdrawing its route",
        "renew": "Renewing its secrets",
        "tell": "Asking it to end",
        "cancel": "Cancelling",
        "collect": "Reading what it left",
    }
)
"""What stands before ``failed`` and ``worked``."""

BY: Mapping[str, str] = MappingProxyType({"hub": "the hub", "scheduler": "the scheduler"})


class HistoryPage(Page):
    """``/hub/server/USER[/SERVER]``, its owner's and admins'; ``?run=`` is one of the earlier runs."""

    here = "home"

    async def get(self, user: str, name: str | None = None) -> None:
        """As it is now; while it lives, its owner's page follows along."""
        if user != self.me.name and not self.me.admin:
            raise Denied("This address belongs to somebody else.")
        hub, run = self.web.services.hub, self.get_query_argument("run", "")
        found = await hub.history(UserName(user), self.server_name(name), run)
        server = found.view.server
        profile = next((one for one in hub.profiles() if one.name == server.profile), None)
        self.page(
            "history.html",
            view=found.view,
            found=found.evidence,
            runs=found.runs,
            mine=user == self.me.name,
            options=shown_options(profile, server),
            lines=shown_lines(found.evidence.events),
        )


def shown_lines(events: Sequence[TrailEvent]) -> list[tuple[TrailEvent, str, str]]:
    """Each event with its kind and its cause in words."""
    return [(event, _what(event.kind), BY.get(event.by, event.by)) for event in events]


def _what(kind: str) -> str:
    action, _, how = kind.rpartition(" ")
    return KINDS.get(kind) or f"{ACTIONS.get(action, action)} {how}".strip().capitalize()


def shown_options(profile: Profile | None, server: Server) -> list[tuple[str, str]]:
    """What was chosen, as the form would print it; by bare names if the profile does not ask for it any more."""
    known = {asked.name: asked for asked in profile.fields} if profile else {}
    return [
        (label_of(known[name]), known[name].shown(value) or "–") if name in known else (name, _plain(value))
        for name, value in server.options.items()
    ]


def _plain(value: OptionValue) -> str:
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"
