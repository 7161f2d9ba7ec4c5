"""Entering servers: tickets for the proxy, and what is at a server's address while it is not running."""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import unquote

from batchhub.control.service import ServerView
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, Denied, HubError, NotFound
from batchhub.core.hosts import ENTER, Origin
from batchhub.core.model import read_server_name
from batchhub.core.tickets import COOKIE_NAME, ENTRY_LIFE, Entry, Ticket, sign, sign_entry
from batchhub.web.base import Handler, Page, authorized

_TRIES = "batchhub-tries"
MOST_TRIES = 5
_DOOR = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_AT = 2048


class AccessPage(Page):
    """``/hub/access?next=``: the proxy sends people here who have no valid ticket for a server's path.

    Where servers have hosts of their own, it says besides for which server (``at``, its path) and what the browser's door there is
    (:mod:`batchhub.proxy.doorway`).
    """

    async def get(self) -> None:
        """A ticket for one's own paths, and back. Somebody else's path is refused."""
        me, links = self.me, self.web.links
        after = self.own_path(self.get_query_argument("next", ""), "")
        mine = links.user(me.name)
        path = after.partition("?")[0].partition("#")[0]
        if not after.startswith(f"{links.base}user/"):
            raise BadInput("This address leads to no server.")
        if not _below(path, mine):
            self._keep_out(path)
        if links.origin is not None:
            self._lead_in(links.origin, after, path)
            return
        self._count_tries()
        ticket = self._ticket(mine)
        age = max(1, int((ticket.absolute - ticket.issued).total_seconds()))
        self.put_cookie(COOKIE_NAME, sign(self.web.services.ticket_key, ticket), mine, age)
        self.redirect(after)

    def _lead_in(self, origin: Origin, after: str, path: str) -> None:
        """A page whose form posts an entry to the server's host; without a door, to the door first."""
        me, links = self.me, self.web.links
        name = self._server(path)
        door = self.get_query_argument("door", "")
        if not _DOOR.fullmatch(door):
            self.redirect(links.at(me.name, name, after))
            return
        self._count_tries()
        host = origin.server_host(me.name, name)
        ticket = self._ticket(links.server(me.name, name), host)
        entry = sign_entry(self.web.services.ticket_key, Entry(ticket, door, ticket.issued + ENTRY_LIFE))
        self.allow_forms(origin.at(host))
        # The proxy wants to see in Origin that the form was ours; with "same-origin" browsers would write "null".
        self.set_header("Referrer-Policy", "strict-origin")
        self.page("enter.html", action=origin.at(host) + ENTER, entry=entry, after=after)

    def _server(self, path: str) -> str:
        """The server in ``at``, which must be one's own, with the address to go to in it. Raises BadInput, Denied."""
        at, mine = self.get_query_argument("at", "")[:_MAX_AT], unquote(self.web.links.user(self.me.name))
        if not at:
            return ""
        if not at.startswith(mine):
            self._keep_out(at)
        name = read_server_name(at.removeprefix(mine).removesuffix("/"))
        if not _below(path, self.web.links.server(self.me.name, name)):
            raise BadInput("This address does not lead into the server that was opened.")
        return name

    def _keep_out(self, path: str) -> NoReturn:
        self.note(DeedKind.ENTRY_REFUSED, self.me.name, path)
        raise Denied("This server belongs to somebody else.")

    def _ticket(self, path: str, host: str = "") -> Ticket:
        me, now = self.me, self.web.services.clock()
        until = me.until or now + self.web.settings.ticket_life
        expires = min(now + self.web.settings.ticket_life, until)
        return Ticket(me.name, me.session, path, issued=now, expires=expires, absolute=until, host=host)

    def _count_tries(self) -> None:
        """Stop a browser that runs in a circle because its tickets are refused. Raises HubError."""
        tries = self._tries()
        if tries > MOST_TRIES:
            self.drop_cookie(_TRIES, f"{self.web.links.hub}access")
            raise _NoEntry(
                "The server's door does not take the ticket this hub gave you. Please tell the administrators."
            )
        self.put_cookie(_TRIES, str(tries), f"{self.web.links.hub}access", 10)

    def _tries(self) -> int:
        """How often this browser was here in the last seconds: a ticket that is refused must not make it run in a circle."""
        before = self.cookie(_TRIES) or "0"
        return 1 + (int(before) if before.isdecimal() and len(before) < 3 else 0)


class _NoEntry(HubError):
    """Hub and proxy do not agree about tickets."""

    status = 500


class DefaultRoute(Handler):
    """``/user/…`` when the proxy has no route for it. The hub's cookies are not sent here, so nobody is known."""

    signed_in = False
    guarded = False

    async def prepare(self) -> None:
        """Every method, known to HTTP or not, gets the same answer."""
        self.set_header("X-JupyterHub-Version", self.web.settings.api_version)
        if self.request.method in {"GET", "HEAD"} and wants_page(self):
            rest = (self.request.uri or "")[len(self.web.links.base) :]
            self.redirect(self.web.links.hub + rest)
        else:
            not_running(self)


class StoppedPage(Page):
    """``/hub/user/NAME/…``: the owner's page for a server that is not running; status 424, which JupyterLab understands."""

    here = "home"
    signed_in = False
    guarded = False

    async def get(self, user: str, rest: str | None = None) -> None:
        """Its last outcome and a way to start it. Others learn nothing, not even whether there is such a person."""
        if not wants_page(self):
            not_running(self)
            return
        if self.visitor is None:
            self.redirect(self.web.links.login_then(self.request.uri or ""))
            return
        self.own(user)
        name, view = await self._server(rest or "")
        self.set_status(424, "Server not running")
        self.page("stopped.html", name=name, view=view)

    def post(self, _user: str, _rest: str | None = None) -> None:
        """A script of a page whose server has gone."""
        not_running(self)

    put = patch = delete = post

    async def _server(self, rest: str) -> tuple[str, ServerView | None]:
        """The named server the path begins with if there is one, else the default server."""
        hub = self.web.services.hub
        first = rest.strip("/").partition("/")[0]
        for name in (first, "") if first else ("",):
            try:
                return name, await hub.server(self.me.name, read_server_name(name))
            except (NotFound, BadInput):
                continue
        return "", None


def wants_page(handler: Handler) -> bool:
    """A person going somewhere, as far as the request shows, and not a script, a WebSocket or an API client."""
    headers = handler.request.headers
    if handler.by_script or "Upgrade" in headers or headers.get("X-Requested-With", "") == "XMLHttpRequest":
        return False
    if "/api/" in handler.request.path or authorized(handler.request):
        return False
    return "text/html" in headers.get("Accept", "text/html") or headers.get("Accept") == "*/*"


def not_running(handler: Handler) -> None:
    """424 as JSON: JupyterLab shows its "server unavailable" dialogue for it."""
    handler.set_status(424, "Server not running")
    handler.set_header("Content-Type", "application/json")
    handler.finish({"status": 424, "message": "The server at this address is not running."})


def _below(path: str, mine: str) -> bool:
    """Below one's own paths, compared decoded: a browser may have escaped the name in another way."""
    return unquote(path).startswith(unquote(mine)) or unquote(path) == unquote(mine).rstrip("/")


class UserRedirect(Page):
    """``/hub/user-redirect/PATH``: shared links that lead each person to the same place in their own server."""

    def get(self, rest: str) -> None:
        """To one's own default server."""
        query = f"?{self.request.query}" if self.request.query else ""
        mine, links = self.me.name, self.web.links
        if not rest:
            self.redirect(links.home)
            return
        target = links.user(mine) + self.request.path.partition("/user-redirect/")[2]
        self.redirect(links.at(mine, "", self.own_path(target + query, links.user(mine))))
