"""Start, look at and stop servers by API, with JupyterHub's codes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from batchhub.control.service import ServerView
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, Denied, NotFound
from batchhub.core.forms import Field
from batchhub.core.limits import parse_walltime
from batchhub.core.model import read_server_name
from batchhub.web.api.base import ApiHandler
from batchhub.web.models import is_ready, pending, server_model
from batchhub.web.widgets import initial

MAX_VALUE = 4096
MAX_SECONDS = 366 * 86400


class ServerApi(ApiHandler):
    """``/hub/api/users/NAME/server`` and ``/hub/api/users/NAME/servers/SERVER``."""

    async def get(self, user: str, name: str | None = None) -> None:
        """The server's model. 404 if it was never started."""
        view = await self.web.services.hub.server(self.subject(user), self._name(name))
        self.answer(server_model(view, self.web.links))

    async def post(self, user: str, name: str | None = None) -> None:
        """Start it: 201 if it is ready at once, 202 while it is coming, 400 if it is there already."""
        owner, server, hub = self.subject(user), self._name(name), self.web.services.hub
        if owner != self.me.name:
            raise Denied("Starting servers for others is not possible yet.")
        body = self.json_body()
        there = await self._there(user, server)
        if there is not None:
            if is_ready(there) or pending(there) != "spawn":
                raise BadInput("The server is running already." if is_ready(there) else "The server is being stopped.")
            self.empty(202)
            return
        options = body.get("user_options", body) if {"user_options", "display_name"} & body.keys() else body
        profile, raw = await self._options({} if options is None else options)
        view = await hub.spawn(owner, server, profile, raw)
        self.empty(201 if is_ready(view) else 202)

    async def delete(self, user: str, name: str | None = None) -> None:
        """Stop it: 202 while it is ending, 204 if it is down, also if it was before."""
        owner, server = self.subject(user), self._name(name)
        remove = self.json_body().get("remove", False)
        if remove and not server:
            raise BadInput("The default server cannot be removed, only stopped.")
        try:
            view = await self.web.services.hub.stop(owner, server, by=self.me.name)
        except NotFound:
            if server:
                raise
            self.empty(204)  # a default server that never was is down, as in JupyterHub
            return
        if owner != self.me.name:
            self.note(DeedKind.STOPPED_FOR, owner, f"server {server or '(default)'}")
        self.empty(202 if view.server.alive else 204)

    def _name(self, name: str | None) -> str:
        return read_server_name(name or "")

    async def _there(self, user: str, server: str) -> ServerView | None:
        try:
            view = await self.web.services.hub.server(self.subject(user), server)
        except NotFound:
            return None
        return view if view.server.alive else None

    async def _options(self, options: Any) -> tuple[str, dict[str, list[str]]]:
        """The profile and the form values; what is not said is as last time, else the default. Raises BadInput, NotFound."""
        if not isinstance(options, dict):
            raise BadInput("user_options must be a JSON object.")
        offered = self.web.services.hub.profiles()
        profile = options.get("profile", offered[0].name if offered else "")
        if not isinstance(profile, str):
            raise BadInput("profile: the name of a profile is expected.")
        form = await self.web.services.hub.form(self.me.name, profile)
        known = {asked.name: asked for asked in form.profile.fields}
        unknown = options.keys() - known.keys() - {"profile"}
        if unknown:
            raise BadInput(f"{min(unknown)[:40]}: profile {profile[:40]} has no such field.")
        raw = {name: [text] for name, text in initial(form.profile, form.previous, {}).items()}
        raw |= {name: [_text(known[name], value)] for name, value in options.items() if name in known}
        return profile, raw


class ExtendApi(ApiHandler):
    """``POST /hub/api/users/NAME/server/extend`` and ``…/servers/SERVER/extend``: more time for a running server."""

    async def post(self, user: str, name: str | None = None) -> None:
        """``{"walltime": …}`` is the whole time, in seconds or as in a form (``8h``). The server's model, or why not."""
        owner, server = self.subject(user), read_server_name(name or "")
        walltime = read_time(self.json_body().get("walltime"))
        view = await self.web.services.hub.extend(owner, server, walltime, self.me.name)
        if owner != self.me.name:
            self.note(DeedKind.EXTENDED_FOR, owner, f"server {server or '(default)'}: {walltime} in all")
        self.answer(server_model(view, self.web.links))


def read_time(value: Any) -> timedelta:
    """A time from JSON: seconds, or as people write it. Raises BadInput."""
    if isinstance(value, str):
        return parse_walltime(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS:
        return timedelta(seconds=value)
    raise BadInput("walltime: the whole time is expected, in seconds or as in 8h.")


def _text(asked: Field, value: Any) -> str:
    """A text is read as if typed; a number is in the unit that ``user_options`` shows: seconds of time, MiB of memory."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return asked.shown(value)
    if isinstance(value, str) and len(value) <= MAX_VALUE:
        return value
    raise BadInput(f"{asked.name}: a text, a number or a truth value is expected.")
