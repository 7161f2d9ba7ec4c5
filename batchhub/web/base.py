"""What pages and API share: who asks, what may be asked, how errors look, which headers go out.

Unless servers have hosts of their own, notebooks live at the hub's own origin, below ``/user/``, and run any script their owner was given.
So "same origin" proves nothing here: hub pages cannot be framed, share no window with other pages (COOP), are handed to ``fetch()`` only with
an XSRF token, and cookies of the hub are scoped to ``/hub/``. With hosts of their own, notebooks are still of the same *site*: then the
cookies are bound to the hub's host by their names (``__Host-``), as a page below it could set others for it.
"""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, ClassVar

from tornado.httputil import HTTPServerRequest, url_concat
from tornado.web import HTTPError, RequestHandler

from batchhub.auth.redirects import safe_next
from batchhub.auth.xsrf import new_anonymous, read_anonymous
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, ConfigError, Denied, HubError, SignInAgain
from batchhub.core.model import UserName, read_server_name
from batchhub.core.tickets import COOKIE_NAME
from batchhub.core.vouching import ADDRESS, HEADER, vouched
from batchhub.web.log import errors, incident, request_words
from batchhub.web.ports import MAX_BODY, Visitor
from batchhub.web.shared import Web

SESSION_COOKIE = "batchhub-session"
XSRF_COOKIE = "batchhub-xsrf"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_NAME = 255
MAX_FIELDS = 200
_FRONT_ENDS = frozenset({"basic", "digest", "negotiate", "ntlm"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
MISCONFIGURED = "This hub is not set up right. Its administrators find in its log what is wrong; please tell them."
TITLES = {
    400: "That cannot be done",
    403: "Not allowed",
    404: "There is no such page",
    405: "That is not how this address is used",
    409: "That does not go now",
    413: "That is too much",
    429: "Too often",
    503: "Not available at the moment",
}


class Handler(RequestHandler):
    """The base of all handlers. Subclasses say with class attributes what a request must bring."""

    signed_in: ClassVar[bool] = True
    """Somebody must be signed in."""
    guarded: ClassVar[bool] = True
    """State changes, and reading by scripts, need an XSRF token. Off only where no cookie counts."""
    max_body: ClassVar[int] = MAX_BODY
    web: Web
    visitor: Visitor | None = None
    _incident = ""

    def initialize(self, web: Web) -> None:
        """Tornado's: what the route table hands over."""
        self.web = web
        self.request.remote_ip = asker(self.request, web.services.ticket_key, web.services.clock())

    def set_default_headers(self) -> None:
        """Tornado's: also called again for errors."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")
        if hasattr(self, "web"):
            self._headers_of_this_hub()

    def _headers_of_this_hub(self) -> None:
        self.set_header("X-JupyterHub-Version", self.web.settings.api_version)
        origin = self.web.settings.origin
        if origin is not None:
            # Our forms are posted here, but the answer may send the browser on to a server, and some browsers count that.
            self.allow_forms(f"'self' {origin.at(f'*.{origin.host}')}")

    def allow_forms(self, where: str) -> None:
        """Say where this page's forms may lead."""
        policy = HEADERS["Content-Security-Policy"].replace("form-action 'self'", f"form-action {where}")
        self.set_header("Content-Security-Policy", policy)

    async def prepare(self) -> None:
        """Before every method: bounds, origin, visitor, XSRF, and whether somebody must be signed in."""
        self._headers_of_this_hub()
        self._check_bounds()
        self.visitor = await self.find_visitor()
        if self.guarded and not (self.visitor and self.visitor.token_id):
            self._check_origin()
        if self.signed_in and self.visitor is None:
            self.ask_to_sign_in()

    async def find_visitor(self) -> Visitor | None:
        """Pages know people by their session cookie alone."""
        cookie = self.cookie(SESSION_COOKIE)
        if not 0 < len(cookie) <= 1024:
            return None
        # Where nobody has to be signed in, nobody is asked about: the way out stays open whatever else is closed.
        # What an open page asks by itself says nothing of whether anybody sits before it.
        return await self.web.services.people.visitor(cookie, self, ask=self.signed_in, used=not self.by_script)

    def ask_to_sign_in(self) -> None:
        """Nobody is signed in: a navigation goes to the sign-in page and comes back, anything else is refused."""
        if self.request.method in {"GET", "HEAD"} and not self.by_script:
            self.redirect(self.web.links.login_then(self.request.uri or self.web.links.home))
            return
        raise Denied("You are not signed in (any more).")

    @property
    def me(self) -> Visitor:
        """Who is signed in. Raises Denied."""
        if self.visitor is None:
            raise Denied("You are not signed in (any more).")
        return self.visitor

    def note(self, kind: DeedKind, user: str, words: str = "") -> None:
        """A line for the audit trail: whoever is signed in did this, to or about ``user``."""
        self.web.services.audit.note(kind, user, by=self.me.name, address=self.request.remote_ip or "", words=words)

    @property
    def by_script(self) -> bool:
        """The browser says that a script asks (fetch, XHR, EventSource), not a person going somewhere."""
        return self.request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"

    @property
    def secure(self) -> bool:
        """Whether cookies are for https only."""
        chosen = self.web.settings.secure_cookies
        return chosen == "always" or (chosen == "auto" and self.request.protocol == "https")

    @property
    def xsrf(self) -> str:
        """The token for this browser's forms; a browser without a session is given a random id to bind it to."""
        return self.web.services.people.xsrf(self._bound() or f"browser {self._new_browser()}")

    def own(self, user: str) -> UserName:
        """The name in the address, which must be one's own. Raises Denied, without a word about others."""
        if user != self.me.name:
            raise Denied("This address belongs to somebody else.")
        return self.me.name

    def server_name(self, name: str | None) -> str:
        """The server's name in the address. Raises BadInput."""
        return read_server_name(name or "")

    def own_path(self, given: str, fallback: str) -> str:
        """Where to go next: a path of this hub, or the fallback."""
        return safe_next(given, self.web.links.base, fallback)

    def cookie(self, name: str) -> str:
        """A cookie of ours; empty if there is none."""
        return self.get_cookie(self._bound_name(name), "") or ""

    def put_cookie(self, name: str, value: str, path: str, max_age: int | None, *, crossing: bool = False) -> None:
        """Set a cookie scripts cannot read and other sites' requests do not carry.

        ``crossing``: their requests do carry it, because the way back is a form that another site posts. Browsers want it ``Secure`` then, and
        take it so over plain http from loopback alone.
        """
        bound = self._bound_name(name)
        self.set_cookie(
            bound,
            value,
            path=path if bound == name else "/",
            max_age=max_age,
            expires_days=None,
            httponly=True,
            samesite="None" if crossing else "Lax",
            secure=crossing or self.secure,
        )

    def drop_cookie(self, name: str, path: str, *, crossing: bool = False) -> None:
        """Remove it from the browser."""
        bound = self._bound_name(name)
        path = path if bound == name else "/"
        kind = "None" if crossing else "Lax"
        self.clear_cookie(bound, path=path, httponly=True, samesite=kind, secure=crossing or self.secure)

    def _bound_name(self, name: str) -> str:
        """With this prefix browsers take a cookie from the host itself alone, over https, for all paths (RFC 6265bis section 4.1.3.2)."""
        return f"__Host-{name}" if self.web.settings.origin is not None and self.secure else name

    def leave(self) -> None:
        """To the sign-in page, without the cookies of a session that has ended."""
        if self.visitor:
            self.drop_cookie(COOKIE_NAME, self.web.links.user(self.visitor.name))
        self.drop_cookie(SESSION_COOKIE, self.web.links.hub)
        self.see_other(self.web.links.login, out="1")

    def see_other(self, address: str, **query: str) -> None:
        """After a POST: look there."""
        self.redirect(url_concat(address, query), status=303)

    # Errors

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Tornado's. Foreseen errors are a line at most; others get an id and their traceback, in the log alone."""
        del typ, tb
        if isinstance(value, HubError):
            if value.status >= 500:
                errors.warning("%s: %s", request_words(self.request), value)
        elif value is not None and not isinstance(value, HTTPError):
            self._incident = incident(self.request, value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tornado's. The sentence is the error's own where it is one of ours; nothing of any other is shown."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        message = TITLES.get(status_code) or HTTPStatus(status_code).phrase
        if isinstance(error, HubError):
            status_code, message = error.status, sentence(error)
            self.set_status(status_code)
            if error.retry:
                self.set_header("Retry-After", retry_after(error))
        elif status_code == 404:
            message = "There is nothing at this address."
        elif self._incident:
            message = f"Something went wrong in the hub. Its log has the details under {self._incident}."
        elif isinstance(error, HTTPError) and error.reason:
            message = error.reason
        self.show_error(status_code, message)

    def show_error(self, status: int, message: str) -> None:
        """Print it; pages and API differ."""
        self.set_header("Content-Type", "application/json")
        self.finish({"status": status, "message": message})

    # Checks

    def _check_bounds(self) -> None:
        if len(self.request.body) > self.max_body:
            raise HTTPError(413, reason=f"At most {self.max_body} bytes are read here.")
        if len(self.request.body_arguments) > MAX_FIELDS or len(self.request.uri or "") > 8192:
            raise BadInput("That is more than this page asks for.")

    def _check_origin(self) -> None:
        changes = self.request.method not in SAFE_METHODS
        if changes and self.request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
            raise Denied("Another site sent this request for you; it was not carried out.")
        if (changes or self.by_script) and not self._xsrf_given():
            raise Denied(
                "This page is too old, or the request did not come from it. Load the page again, then try again."
            )

    def _xsrf_given(self) -> bool:
        given = self.request.headers.get("X-XSRFToken", "") or self.get_body_argument("_xsrf", "")
        bound = self._bound()
        return bool(bound) and 0 < len(given) <= 512 and self.web.services.people.xsrf_fits(bound, given)

    def _bound(self) -> str:
        if self.visitor and self.visitor.session:
            return f"session {self.visitor.session}"
        browser = read_anonymous(self.cookie(XSRF_COOKIE))
        return f"browser {browser}" if browser else ""

    def _new_browser(self) -> str:
        browser = new_anonymous()
        self.put_cookie(XSRF_COOKIE, browser, self.web.links.hub, None)
        return browser


class Page(Handler):
    """An HTML page."""

    here: ClassVar[str] = ""

    def page(self, template: str, **context: object) -> None:
        """Render and send. ``context`` is added to what every page has."""
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.finish(
            self.web.render(
                template,
                site=self.web.settings,
                links=self.web.links,
                me=self.visitor,
                here=self.here,
                xsrf=self.xsrf,
                static=self.static_url,
                **context,
            )
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tornado's. Somebody who has to sign in again is led there, and back."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, SignInAgain) and not self.by_script:
            self.see_other(self.web.links.login_then(self.request.uri or self.web.links.home))
            return
        super().write_error(status_code, **kwargs)

    def show_error(self, status: int, message: str) -> None:
        """A page, or JSON for a script."""
        if self.by_script and "text/html" not in self.request.headers.get("Accept", ""):
            super().show_error(status, message)
            return
        title = TITLES.get(status, "Something went wrong")
        self.page("error.html", status=status, title=title, message=message)


def authorized(request: HTTPServerRequest) -> bool:
    """Whether it comes with an ``Authorization`` for us, right or wrong.

    What a browser sends because a front end asked for it, a password or a ticket, is for that: it goes along with every request.
    """
    given = request.headers.get("Authorization")
    return given is not None and given.strip().partition(" ")[0].lower() not in _FRONT_ENDS


def asker(request: HTTPServerRequest, key: bytes, now: datetime) -> str:
    """Where a request came from: the proxy's word under its seal. Without one it is whoever has connected to the hub's port, whatever they say."""
    lines = request.headers.get_list(HEADER)
    told = vouched(key, lines[0], now).get(ADDRESS) if len(lines) == 1 else None
    if told:
        return told
    if "X-Forwarded-For" in request.headers:
        errors.warning(
            "%s: not under this proxy's seal, so nobody knows where it comes from: the proxy is older than the hub (batchhub reload), their clocks differ by "
            "more than a minute, or it was sent past the proxy",
            request_words(request),
        )
    connected = getattr(getattr(request.connection, "context", None), "address", None)
    return str(connected[0]) if isinstance(connected, tuple) else ""


def sentence(error: HubError) -> str:
    """What people read of it. A mistake of those who run the hub names their files and settings: those are for the log."""
    return MISCONFIGURED if isinstance(error, ConfigError) else str(error)


def retry_after(error: HubError) -> str:
    """Seconds for ``Retry-After``: the error's own word, or a little while."""
    seconds = getattr(error, "retry_after", None)
    return str(max(1, round(float(seconds)))) if isinstance(seconds, (int, float)) else "5"
