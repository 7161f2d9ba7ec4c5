"""One's own servers."""

from __future__ import annotations

from batchhub.core.errors import BadInput, HubError
from batchhub.core.model import read_server_name
from batchhub.web.api.servers import read_time
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
        await self.show(name, error)

    async def show(self, name: str = "", name_error: str = "", refused: tuple[str, str] = ("", "")) -> None:
        """The list. ``refused`` is a server for which more time could not be had, and why."""
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
            name_error=name_error,
            refused=refused,
        )

    def _name_error(self, name: str) -> str:
        if not name:
            return "The server needs a name."
        try:
            read_server_name(name)
        except BadInput as error:
            return str(error)
        return ""


class ExtendPage(HomePage):
    """``POST /hub/extend/USER[/SERVER]``: more time for one's own running server."""

    def get(self, _user: str, _name: str | None = None) -> None:  # type: ignore[override]
        """The address of a button that was reloaded after signing in again."""
        self.redirect(self.web.links.home)

    async def post(self, user: str, name: str | None = None) -> None:
        """Back to the list; a refusal stands at the button."""
        owner, server = self.own(user), self.server_name(name)
        try:
            seconds = self.get_body_argument("walltime", "")
            walltime = read_time(int(seconds) if seconds.isascii() and seconds.isdigit() else seconds)
            await self.web.services.hub.extend(owner, server, walltime, self.me.name)
        except HubError as error:
            self.set_status(error.status)
            await self.show(refused=(server, str(error)))
            return
        self.see_other(self.web.links.home)


class HubRoot(Page):
    """``/``, ``/hub`` and ``/hub/``: the way in."""

    signed_in = False

    def get(self) -> None:
        """To the list of servers."""
        self.redirect(self.web.links.home)
