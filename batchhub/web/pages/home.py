"""One's own servers."""

from __future__ import annotations

from batchhub.core.errors import BadInput
from batchhub.core.model import read_server_name
from batchhub.web.base import Page
from batchhub.web.models import fingerprint
from batchhub.web.widgets import clusters_to_tell


class HomePage(Page):
    """``/hub/home``; ``?name=`` is the form for a named server, which leads to its own page."""

    here = "home"

    async def get(self) -> None:
        """The list, or on to the named server's form."""
        name, error = self.get_query_argument("name", ""), ""
        if self.request.query_arguments.keys() & {"name"}:
            error = self._name_error(name)
            if not error:
                chosen = self.get_query_argument("profile", "")
                self.see_other(self.web.links.spawn(self.me.name, name), **({"profile": chosen} if chosen else {}))
                return
            self.set_status(400)
        hub = self.web.services.hub
        views = await hub.servers_of(self.me.name)
        self.page(
            "home.html",
            views=views,
            state=fingerprint(views),
            profiles=list(hub.profiles()),
            clusters=clusters_to_tell(hub),
            default_free=not any(view.server.alive and not view.server.name for view in views),
            named=self.web.settings.named_servers and bool(hub.profiles()),
            name=name,
            name_error=error,
        )

    def _name_error(self, name: str) -> str:
        if not name:
            return "The server needs a name."
        try:
            read_server_name(name)
        except BadInput as error:
            return str(error)
        return ""


class HubRoot(Page):
    """``/``, ``/hub`` and ``/hub/``: the way in."""

    signed_in = False

    def get(self) -> None:
        """To the list of servers."""
        self.redirect(self.web.links.home)
