"""Waiting for a server, how it ended, and stopping it."""

from __future__ import annotations

from batchhub.control.service import ServerView
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import Denied, NotFound
from batchhub.core.model import Phase, UserName, Want
from batchhub.web.base import Page
from batchhub.web.render import tone
from batchhub.web.widgets import initial

STEPS = (Phase.REQUESTED, Phase.QUEUED, Phase.STARTING, Phase.READY)


class PendingPage(Page):
    """``/hub/spawn-pending/USER[/SERVER]``: the state in words until it is ready, or how it ended."""

    here = "home"

    async def get(self, user: str, name: str | None = None) -> None:
        """Prints the state as it is now, so that it works without scripts too."""
        self.own(user)
        server = self.server_name(name)
        view = await self.web.services.hub.server(self.me.name, server)
        if view.server.phase is Phase.ENDED:
            await self._ended(view)
        elif view.server.phase is Phase.READY and view.server.want is Want.UP:
            self.redirect(self.web.links.enter(self.me.name, server))
        else:
            step = STEPS.index(view.server.phase) if view.server.phase in STEPS else len(STEPS)
            self.page("pending.html", view=view, step=step, failed=False)

    async def _ended(self, view: ServerView) -> None:
        server = view.server
        what = {profile.name: profile.title for profile in self.web.services.hub.profiles()}.get(server.profile)
        failed = tone(view) == "failed"
        # A job that ran for a minute without its application is no server that has started, for the person who waits for one.
        verb = "did not start" if failed and server.answered is None else "has ended"
        title = f"{what or server.profile}{f' “{server.name}”' if server.name else ''} {verb}"
        lead = ""
        if failed:
            lead = "Your files are untouched." + (" Its log below may say why." if server.log_tail else "")
        self.page("ended.html", view=view, title=title, lead=lead, again=await self._again(view))

    async def _again(self, view: ServerView) -> list[tuple[str, str]] | None:
        """The same options as form values; none if the profile is no longer offered."""
        try:
            form = await self.web.services.hub.form(self.me.name, view.server.profile)
        except NotFound:
            return None
        values = initial(form.profile, view.server.options, {})
        return [
            (asked.name, values[asked.name] if asked.name in view.server.options else "")
            for asked in form.profile.fields
        ]


class StopPage(Page):
    """``POST /hub/stop/USER[/SERVER]``: one's own, or anybody's for an admin."""

    def get(self, _user: str, _name: str | None = None) -> None:
        """The address of a button that was reloaded after signing in again."""
        self.redirect(self.web.links.home)

    async def post(self, user: str, name: str | None = None) -> None:
        """Want it down, and back to where the button was."""
        me = self.me
        if user != me.name and not me.admin:
            raise Denied("This address belongs to somebody else.")
        await self.web.services.hub.stop(UserName(user), self.server_name(name), by=me.name)
        if user != me.name:
            self.note(DeedKind.STOPPED_FOR, user, f"server {name or '(default)'}")
        self.see_other(self.own_path(self.get_body_argument("next", ""), self.web.links.home))
