"""The form: what a server needs, checked by the hub, errors shown where they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchhub.control.service import FormView
from batchhub.core.errors import Conflict, HubError, InvalidForm, NotFound, SignInAgain, SubmitRejected
from batchhub.core.idleness import limits_of
from batchhub.core.model import Phase, Want
from batchhub.web.base import Page, retry_after
from batchhub.web.widgets import clusters_to_tell, initial, posted, problems, widgets

_OURS = frozenset({"_xsrf", "profile", "next", "choose"})


class SpawnHere(Page):
    """``/hub/spawn``: one's default server."""

    def get(self) -> None:
        """To the full address, with the query kept."""
        address = self.web.links.spawn(self.me.name)
        self.redirect(f"{address}?{self.request.query}" if self.request.query else address)


class SpawnPage(Page):
    """``/hub/spawn/USER[/SERVER]``."""

    here = "home"

    async def get(self, user: str, name: str | None = None) -> None:
        """The form, filled from the address, the last use and the defaults; never submitted by itself."""
        self.own(user)
        server = self.server_name(name)
        if await self._runs_already(server):
            return
        hub = self.web.services.hub
        offered = list(hub.profiles())
        chosen = self.get_query_argument("profile", "")
        if not chosen:
            # One to offer, or what this server ran before: JupyterLab's "Restart" comes here without saying what.
            chosen = offered[0].name if len(offered) == 1 else await self._before(server)
        if not chosen or self.get_query_argument("choose", ""):
            self.page("choose.html", name=server, profiles=offered, clusters=clusters_to_tell(hub))
            return
        view = await hub.form(self.me.name, chosen)
        self._form(view, server, initial(view.profile, view.previous, self._raw(self.request.query_arguments)))

    async def post(self, user: str, name: str | None = None) -> None:
        """Start it. Whatever is wrong is shown on the form, and what was typed stays."""
        self.own(user)
        server = self.server_name(name)
        profile = self.get_body_argument("profile", "")
        raw = self._raw(self.request.body_arguments)
        hub = self.web.services.hub
        try:
            await hub.spawn(self.me.name, server, profile, raw)
        except SignInAgain:
            raise
        except HubError as error:
            if isinstance(error, Conflict) and await self._runs_already(server):
                return
            view = await hub.form(self.me.name, profile)
            self.set_status(error.status)
            if error.retry:
                self.set_header("Retry-After", retry_after(error))
            self._form(view, server, posted(view.profile, raw), error)
            return
        self.see_other(self.web.links.pending(self.me.name, server))

    def _form(self, view: FormView, server: str, values: Mapping[str, str], error: HubError | None = None) -> None:
        fields = error.fields if isinstance(error, InvalidForm) else {}
        refused = error is not None and not isinstance(error, InvalidForm)
        by_scheduler = isinstance(error, SubmitRejected)
        self.page(
            "spawn.html",
            profile=view.profile,
            cluster=view.cluster_title or view.profile.cluster,
            name=server,
            several=len(self.web.services.hub.profiles()) > 1,
            widgets=widgets(view.profile, values, fields),
            problems=problems(view.profile, fields),
            rejected=str(error) if refused else "",
            rejected_title="The scheduler refused the job" if by_scheduler else "It was not started",
            rejected_words="These are its own words:" if by_scheduler else "",
            trouble=view.trouble,
            missing=view.missing,
            ends=limits_of(view.profile).sentence,
            inspected_at=view.inspected_at,
        )

    async def _runs_already(self, server: str) -> bool:
        """Go to the server that is there instead of starting it a second time."""
        try:
            there = (await self.web.services.hub.server(self.me.name, server)).server
        except NotFound:
            return False
        if not there.alive:
            return False
        ready = there.phase is Phase.READY and there.want is Want.UP
        links = self.web.links
        self.see_other((links.enter if ready else links.pending)(self.me.name, server))
        return True

    async def _before(self, server: str) -> str:
        """The profile this server had the last time, if it is still offered."""
        try:
            before = (await self.web.services.hub.server(self.me.name, server)).server.profile
        except NotFound:
            return ""
        return before if any(profile.name == before for profile in self.web.services.hub.profiles()) else ""

    def _raw(self, arguments: Mapping[str, Sequence[bytes]]) -> dict[str, list[str]]:
        return {
            name: [self.decode_argument(value, name) for value in values]
            for name, values in arguments.items()
            if name not in _OURS
        }
