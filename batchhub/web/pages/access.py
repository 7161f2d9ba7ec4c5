"""Entering servers: tickets for the proxy, and what is at a server's address while it is not running."""

from __future__ import annotations

from urllib.parse import unquote

from batchhub.control.service import ServerView
from batchhub.core.errors import BadInput, Denied, HubError, NotFound
from batchhub.core.model import read_server_name
from batchhub.core.tickets import COOKIE_NAME, Ticket, sign
from batchhub.web.base import Handler, Page

_TRIES = "batchhub-tries"
MOST_TRIES = 5


class AccessPage(Page):
    """``/hub/access?next=``: the proxy sends people here who have no valid ticket for a server's path."""

    async def get(self) -> None:
        """A ticket for one's own paths, and back. Somebody else's path is refused."""
        me, links = self.me, self.web.links
        after = self.own_path(self.get_query_argument("next", ""), "")
        mine = links.user(me.name)
        path = after.partition("?")[0].partition("#")[0]
        if not after.startswith(f"{links.base}user/"):
            raise BadInput("This address leads to no server.")
        if not _below(path, mine):
            raise Denied("This server belongs to somebody else.")
        tries = self._tries()
        if tries > MOST_TRIES:
            self.drop_cookie(_TRIES, f"{links.hub}access")
            raise _NoEntry(
                "The server's door does not take the ticket this hub gave you. Please tell the administrators."
            )
        now = self.web.services.clock()
        until = me.until or now + self.web.settings.ticket_life
        expires = min(now + self.web.settings.ticket_life, until)
        ticket = Ticket(user=me.name, session=me.session, path=mine, issued=now, expires=expires, absolute=until)
        age = max(1, int((until - now).total_seconds()))
        self.put_cookie(_TRIES, str(tries), f"{links.hub}access", 10)
        self.put_cookie(COOKIE_NAME, sign(self.web.services.ticket_key, ticket), mine, age)
        self.redirect(after)

    def _tries(self) -> int:
        """How often this browser was here in the last seconds: a ticket that is refused must not make it run in a circle."""
        before = self.get_cookie(_TRIES, "0") or "0"
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
    if "/api/" in handler.request.path or "Authorization" in headers:
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
        target = self.web.links.user(self.me.name) + self.request.path.partition("/user-redirect/")[2]
        self.redirect(self.own_path(target + query, self.web.links.user(self.me.name)) if rest else self.web.links.home)
