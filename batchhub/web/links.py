"""Every address the hub prints or answers at, with names percent-encoded. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlencode

from batchhub.core.hosts import Origin


def segment(text: str) -> str:
    """A name as one path segment: nothing in it can end the segment or mean something in a URL."""
    return quote(text, safe="@!$'()*,;:~")


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses below ``base``, the path of the whole installation: ``/`` or ``/prefix/``.

    ``origin`` is the hub's own if every server has a host of its own below it.
    """

    base: str = "/"
    origin: Origin | None = None

    @property
    def hub(self) -> str:
        """The hub's own part; its cookies are scoped to it."""
        return f"{self.base}hub/"

    @property
    def home(self) -> str:
        """One's own servers."""
        return f"{self.hub}home"

    @property
    def login(self) -> str:
        """The sign-in page."""
        return f"{self.hub}login"

    @property
    def answer(self) -> str:
        """Where the answers go that a sign-in still wants."""
        return f"{self.hub}login/answer"

    @property
    def negotiate(self) -> str:
        """Where the browser itself is asked who somebody is."""
        return f"{self.hub}login/negotiate"

    def negotiate_then(self, after: str) -> str:
        """The same, and where to go from there."""
        return f"{self.negotiate}?{urlencode({'next': after})}" if after else self.negotiate

    def come_back(self, way: str = "") -> str:
        """Where somebody else's sign-in page sends the browser back to: JupyterHub's address, so that what is registered there stays good.

        Where several such pages are offered each has an address of its own, named by its ``way`` (RFC 9700 section 4.4.2.2).
        """
        return f"{self.hub}oauth_callback" + (f"/{way}" if way else "")

    def leave(self, way: str, after: str) -> str:
        """The way to somebody else's sign-in page."""
        return f"{self.hub}oauth_login?{urlencode({'way': way, 'next': after})}"

    @property
    def lti(self) -> str:
        """What learning platforms use of LTI 1.3: ``oauth_login``, ``oauth_callback``, ``config``, ``jwks``; the addresses of JupyterHub's own."""
        return f"{self.hub}lti13/"

    @property
    def lti11(self) -> str:
        """Where they post signed forms of LTI 1.1 to; JupyterHub's own address too."""
        return f"{self.hub}lti/launch"

    @property
    def logout(self) -> str:
        """Signing out."""
        return f"{self.hub}logout"

    @property
    def keys(self) -> str:
        """One's SSH keys."""
        return f"{self.hub}settings/keys"

    @property
    def token(self) -> str:
        """One's API tokens."""
        return f"{self.hub}token"

    @property
    def settings(self) -> str:
        """What one sets and sees about oneself; it leads to the first of its pages."""
        return f"{self.hub}settings"

    @property
    def sessions(self) -> str:
        """One's sessions."""
        return f"{self.settings}/sessions"

    @property
    def admin(self) -> str:
        """Everybody's servers."""
        return f"{self.hub}admin"

    @property
    def people(self) -> str:
        """Everybody the hub knows, for admins."""
        return f"{self.admin}/people"

    def person(self, user: str) -> str:
        """One of them."""
        return f"{self.people}/{segment(user)}"

    @property
    def audit(self) -> str:
        """Who did what, for admins."""
        return f"{self.admin}/audit"

    @property
    def api(self) -> str:
        """The REST API, without a final slash."""
        return f"{self.hub}api"

    @property
    def events(self) -> str:
        """The stream of one's own servers."""
        return f"{self.api}/events"

    def login_then(self, after: str) -> str:
        """The sign-in page, and where to go from there."""
        return f"{self.login}?{urlencode({'next': after})}"

    def user(self, user: str) -> str:
        """The path all servers of a person are below; access cookies are scoped to it."""
        return f"{self.base}user/{segment(user)}/"

    def enter(self, user: str, name: str = "") -> str:
        """Where the owner's browser enters a server: its path, with its origin before it if it has one of its own."""
        return self.at(user, name, self.server(user, name))

    def at(self, user: str, name: str, path: str) -> str:
        """A path of a server as its owner's browser asks for it."""
        return path if self.origin is None else self.origin.server(user, name) + path

    def server(self, user: str, name: str = "") -> str:
        """A server's path."""
        return self.user(user) + (f"{segment(name)}/" if name else "")

    def spawn(self, user: str, name: str = "") -> str:
        """The form."""
        return self._of("spawn", user, name)

    def pending(self, user: str, name: str = "") -> str:
        """The waiting page."""
        return self._of("spawn-pending", user, name)

    def history(self, user: str, name: str = "", run: str = "") -> str:
        """What happened to a server; ``run`` is the id of one of its runs, the newest if not said."""
        return self._of("server", user, name) + (f"?run={segment(run)}" if run else "")

    def stop(self, user: str, name: str = "") -> str:
        """Where the stop buttons post to."""
        return self._of("stop", user, name)

    def extend(self, user: str, name: str = "") -> str:
        """Where the buttons for more time post to."""
        return self._of("extend", user, name)

    def api_server(self, user: str, name: str = "") -> str:
        """A server in the REST API."""
        return f"{self.api}/users/{segment(user)}/" + (f"servers/{segment(name)}" if name else "server")

    def progress(self, user: str, name: str = "") -> str:
        """A server's stream of events."""
        return f"{self.api_server(user, name)}/progress"

    def _of(self, what: str, user: str, name: str) -> str:
        return f"{self.hub}{what}/{segment(user)}" + (f"/{segment(name)}" if name else "")
