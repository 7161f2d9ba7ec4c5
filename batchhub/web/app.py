"""The route table: which handler answers where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tornado.routing import URLSpec
from tornado.web import Application, StaticFileHandler

from batchhub.core.errors import ConfigError
from batchhub.web.api.base import UnknownApi
from batchhub.web.api.events import OwnServersApi, ProgressApi
from batchhub.web.api.history import HistoryApi
from batchhub.web.api.hub import ConnectionApi, HealthApi, MetricsApi, RootApi, UserApi, WhoApi
from batchhub.web.api.servers import ExtendApi, ServerApi
from batchhub.web.api.sessions import SessionApi, SessionsApi
from batchhub.web.base import HEADERS, Page
from batchhub.web.links import Links
from batchhub.web.log import log_request
from batchhub.web.pages.access import AccessPage, DefaultRoute, StoppedPage, UserRedirect
from batchhub.web.pages.admin import AdminPage
from batchhub.web.pages.audit import AuditPage
from batchhub.web.pages.history import HistoryPage
from batchhub.web.pages.home import ExtendPage, HomePage, HubRoot
from batchhub.web.pages.keys import KeysPage
from batchhub.web.pages.launch import Launch11Page, Launch13Page, Login13Page, Tool13Page, ToolKeysPage
from batchhub.web.pages.pending import PendingPage, StopPage
from batchhub.web.pages.people import PeoplePage, PersonPage
from batchhub.web.pages.settings import SessionsPage, SettingsRoot
from batchhub.web.pages.sign_in import AnswerPage, ComeBackPage, LeavePage, LoginPage, LogoutPage, NegotiatePage
from batchhub.web.pages.spawn import SpawnHere, SpawnPage
from batchhub.web.pages.token import TokenPage
from batchhub.web.ports import WebServices, WebSettings
from batchhub.web.render import Renderer
from batchhub.web.shared import StreamLimit, Web

STATIC = Path(__file__).parent / "static"
_SERVER = r"/([^/]+)(?:/([^/]+))?/?"


class Static(StaticFileHandler):
    """Our stylesheet, scripts and logo."""

    def set_extra_headers(self, path: str) -> None:
        """A versioned address never changes; a module imported by another is asked for anew, by its ETag."""
        del path
        for name in ("X-Content-Type-Options", "Cross-Origin-Resource-Policy", "Content-Security-Policy"):
            self.set_header(name, HEADERS[name])
        self.clear_header("Server")
        if not self.get_argument("v", ""):
            self.set_header("Cache-Control", "no-cache")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Without a page: nobody reads it."""
        del kwargs
        self.set_header("Content-Type", "text/plain")
        self.finish(f"{status_code}\n")


class Logo(Static):
    """``/hub/logo``: classic notebooks show the hub's logo."""

    async def get(self, path: str = "favicon.svg", include_body: bool = True) -> None:
        """The favicon is the logo."""
        await super().get(path or "favicon.svg", include_body)


class NoPage(Page):
    """Any other address."""

    signed_in = False
    guarded = False

    def get(self) -> None:
        """404, on a page that leads back."""
        self.send_error(404)

    post = put = patch = delete = get


def make_app(services: WebServices, settings: WebSettings) -> Application:
    """The hub's pages and API. Give :data:`~batchhub.web.ports.MAX_BODY` to the HTTP server too. Raises ConfigError."""
    if not re.fullmatch(r"/(?:[A-Za-z0-9._~-]+/)*", settings.base_url):
        raise ConfigError(f"base_url {settings.base_url!r}: a path that begins and ends with '/' is expected.")
    links = Links(settings.base_url, settings.origin)
    titles = Renderer(lambda: {profile.name: profile.title or profile.name for profile in services.hub.profiles()})
    web = Web(services, settings, links, titles, StreamLimit(settings.streams))
    return Application(
        _routes(web),
        default_handler_class=NoPage,
        default_handler_args={"web": web},
        log_function=log_request,
        static_path=str(STATIC),
        static_url_prefix=f"{links.hub}static/",
        static_handler_class=Static,
        compress_response=False,
    )


def _routes(web: Web) -> list[Any]:
    base, hub, api = (re.escape(text) for text in (web.links.base, web.links.hub, web.links.api))
    one = rf"{api}/users/([^/]+)/(?:server|servers/([^/]+))"
    table: list[tuple[str, type]] = [
        (base, HubRoot),
        (rf"{base}hub/?", HubRoot),
        (rf"{hub}login", LoginPage),
        (rf"{hub}login/answer", AnswerPage),
        (rf"{hub}login/negotiate", NegotiatePage),
        (rf"{hub}logout", LogoutPage),
        (rf"{hub}oauth_login", LeavePage),
        (rf"{hub}oauth_callback(?:/[a-z0-9_-]+)?", ComeBackPage),
        (rf"{hub}lti13/oauth_login", Login13Page),
        (rf"{hub}lti13/oauth_callback", Launch13Page),
        (rf"{hub}lti13/config", Tool13Page),
        (rf"{hub}lti13/jwks", ToolKeysPage),
        (rf"{hub}lti/launch", Launch11Page),
        (rf"{hub}home/?", HomePage),
        (rf"{hub}spawn/?", SpawnHere),
        (rf"{hub}spawn{_SERVER}", SpawnPage),
        (rf"{hub}spawn-pending{_SERVER}", PendingPage),
        (rf"{hub}stop{_SERVER}", StopPage),
        (rf"{hub}server{_SERVER}", HistoryPage),
        (rf"{hub}extend{_SERVER}", ExtendPage),
        (rf"{hub}access", AccessPage),
        (rf"{hub}user-redirect/(.*)", UserRedirect),
        (rf"{hub}user/([^/]+)(/.*)?", StoppedPage),
        (rf"{base}user/.*", DefaultRoute),
        (rf"{hub}admin/?", AdminPage),
        (rf"{hub}admin/people/?", PeoplePage),
        (rf"{hub}admin/people/([^/]+)", PersonPage),
        (rf"{hub}admin/audit/?", AuditPage),
        (rf"{hub}token/?", TokenPage),
        (rf"{hub}settings/?", SettingsRoot),
        (rf"{hub}settings/sessions/?", SessionsPage),
        (rf"{hub}settings/keys/?", KeysPage),
        (rf"{hub}health", HealthApi),
        (rf"{hub}metrics", MetricsApi),
        (rf"{api}/?", RootApi),
        (rf"{api}/user", WhoApi),
        (rf"{api}/events", OwnServersApi),
        (rf"{api}/users/([^/]+)", UserApi),
        (rf"{api}/users/([^/]+)/sessions", SessionsApi),
        (rf"{api}/users/([^/]+)/sessions/([^/]+)", SessionApi),
        (rf"{one}/progress", ProgressApi),
        (rf"{one}/events", HistoryApi),
        (rf"{one}/extend", ExtendApi),
        (one, ServerApi),
        (rf"{api}/jobs/([^/]+)/connection", ConnectionApi),
        (rf"{api}/.*", UnknownApi),
    ]
    files = URLSpec(rf"{hub}logo()", Logo, {"path": str(STATIC)})
    return [files, *(URLSpec(pattern, handler, {"web": web}) for pattern, handler in table)]
