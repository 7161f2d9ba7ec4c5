"""Launches from a course: where learning platforms send people by LTI 1.3 and 1.1.

A platform shows tools in a frame, as a rule. The hub's pages are for no frame: cookies would be lost there, and what is framed can be dressed up
by who frames it. So the one page here that may be framed, by the platforms' own pages, is a single button that goes on in a tab of its own:
with 1.3 the sign-in *begins* there, so its cookies are the hub's own and no ticket has to be carried over; with 1.1 the same signed form is
posted there, and it is used up there only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import parse_qs, urlencode

from batchhub.auth.departures import LIFE
from batchhub.auth.oauth_http import is_loopback
from batchhub.auth.redirects import path_here
from batchhub.core.errors import BadInput, Denied, NotFound
from batchhub.core.hosts import host_name
from batchhub.web.base import SESSION_COOKIE, Handler
from batchhub.web.links import Links
from batchhub.web.pages.sign_in import SignIn, journey_cookie
from batchhub.web.ports import Way

LOGIN_FIELDS = ("iss", "login_hint", "target_link_uri", "lti_message_hint", "client_id", "lti_deployment_id")
"""Of a third-party initiated login: OpenID Connect Core section 4, and what LTI Core 1.3 section 4.1 adds."""
PRESSED = "pressed"
"""Says that a person pressed the button of the framed page: it is not shown twice to a browser that does not say whether it is in a frame.

Whoever frames the page can say it too, so it counts for nothing where the browser says that it is.
"""
_FRAMED = frozenset({"iframe", "frame", "embed", "object", "fencedframe"})
_NOT_HERE = "This address is for learning platforms. Please open the hub from your course."


class LaunchPage(SignIn):
    """What these pages share: who offers it, over which connection, in which frames, and fields that come once."""

    guarded = False
    kind: ClassVar[str]

    async def prepare(self) -> None:
        """Raises NotFound where the site offers nothing of the kind, Denied where the network could read along."""
        await super().prepare()
        self.way()
        near = is_loopback(host_name(self.request.host).strip("[]"))
        if self.request.protocol != "https" and not near:
            raise Denied("Launches from a course come over https only; this address is http.")

    def way(self) -> Way:
        """The site's way of this kind. Raises NotFound."""
        for way in self.web.services.people.ways:
            if way.kind == self.kind:
                return way
        raise NotFound("One does not come here from a course.")

    def _headers_of_this_hub(self) -> None:
        super()._headers_of_this_hub()
        origins = next((way.frames for way in self.web.services.people.ways if way.kind == self.kind), ())
        if origins:
            policy = self._headers["Content-Security-Policy"]
            ours = f"frame-ancestors {' '.join(origins)}"
            self.set_header("Content-Security-Policy", policy.replace("frame-ancestors 'none'", ours))
            self.clear_header("X-Frame-Options")

    @property
    def framed(self) -> bool | None:
        """Whether the page is in a frame; ``None`` if the browser does not say (Safari before 16.4)."""
        said = self.request.headers.get("Sec-Fetch-Dest", "")
        return said in _FRAMED if said else None

    @property
    def our_origin(self) -> str:
        """As the browser sees it."""
        return f"{self.request.protocol}://{self.request.host}"

    def fields(self, arguments: Mapping[str, list[bytes]]) -> dict[str, str]:
        """Each once, as it was sent: a signature may be over it. Raises BadInput."""
        found = {}
        for name, values in arguments.items():
            try:
                text = [value.decode() for value in values]
            except UnicodeDecodeError:
                raise BadInput(f"The field {name[:40]!r} of this launch is not text.") from None
            if len(text) != 1:
                raise BadInput(f"The field {name[:40]!r} of this launch is there {len(text)} times; once is right.")
            found[name] = text[0]
        return found

    def go(self, wanted: str) -> str:
        """Where a launch leads."""
        return self.own_path(destination(wanted, self.our_origin, self.web.links), self.web.links.home)

    async def get(self) -> None:
        """Somebody has typed the address, or came back to it."""
        raise BadInput(_NOT_HERE)


class Login13Page(LaunchPage):
    """``/hub/lti13/oauth_login``: a platform wants somebody signed in (third-party initiated login)."""

    kind = "lti13"

    async def post(self) -> None:
        """A platform may choose. With a GET the browser brings the session it has, which is to end when another begins."""
        fields = self.fields({**self.request.query_arguments, **self.request.body_arguments})
        self.see_other(self._again(fields))

    async def get(self) -> None:
        """On to the platform's authorization page, with a cookie that ties the answer to this browser; from a frame, in a new tab."""
        if self.by_script:
            # Images of another site's page would fill the browser with cookies, until no request with all of them is taken.
            raise Denied(_NOT_HERE)
        links, way, fields = self.web.links, self.way(), self.fields(self.request.query_arguments)
        if self.framed or (self.framed is None and PRESSED not in fields):
            again = self._again({**fields, PRESSED: "1"})
            self.page("launch.html", again=again, action="", fields={}, who="", framed=True)
            return
        callback = f"{self.our_origin}{links.lti}oauth_callback"
        old = self.cookie(SESSION_COOKIE) if self.visitor else ""
        leaving = await self.web.services.people.leave(self, way.name, fields, "", callback, cookie=old)
        self.put_cookie(journey_cookie(leaving.state), leaving.sealed, links.hub, LIFE, crossing=True)
        self.see_other(leaving.url)

    def fields(self, arguments: Mapping[str, list[bytes]]) -> dict[str, str]:
        """Those of a login; the others are nothing to us. Raises BadInput."""
        found = super().fields({name: arguments[name] for name in (*LOGIN_FIELDS, PRESSED) if name in arguments})
        if not found.get("iss"):
            raise BadInput(_NOT_HERE)
        return found

    def _again(self, fields: Mapping[str, str]) -> str:
        return f"{self.web.links.lti}oauth_login?{urlencode(fields)}"


class Launch13Page(LaunchPage):
    """``/hub/lti13/oauth_callback``: back from there, with an ID token in a form that the platform's page has posted."""

    kind = "lti13"

    async def post(self) -> None:
        """Open a session, go on to what was launched."""
        fields = self.fields(self.request.body_arguments)
        journey = journey_cookie(fields.get("state", ""))
        sealed = self.cookie(journey)
        self.drop_cookie(journey, self.web.links.hub, crossing=True)
        people = self.web.services.people
        entry, wanted = await people.come_back(self, fields, sealed, self.cookie(SESSION_COOKIE))
        self.enter(entry, self.go(wanted))


class Launch11Page(LaunchPage):
    """``/hub/lti/launch``: a form that the platform has signed.

    Any page can post such a form, also one that somebody got for an account of their own. So a form from elsewhere only makes a page that says who it
    would sign in; what signs in is the person's press of its button, which posts the same form from our own page.
    """

    kind = "lti11"

    async def post(self) -> None:
        """Ask; or open a session and go on."""
        fields = self.fields(self.request.body_arguments)
        data = {"url": f"{self.our_origin}{self.request.uri}", "fields": fields}
        people, way = self.web.services.people, self.way()
        if not self._from_our_page():
            who = await people.preview(self, way.name, data)
            self.page("launch.html", again="", action=self.request.uri, fields=fields, who=who, framed=self.framed)
            return
        entry = await people.launched(self, way.name, data, self.cookie(SESSION_COOKIE))
        self.enter(entry, self.go(entry.after))

    def _from_our_page(self) -> bool:
        headers = self.request.headers
        site = headers.get("Sec-Fetch-Site", "same-origin")
        return headers.get("Origin", "") == self.our_origin and site == "same-origin"


class Tool13Page(Handler):
    """``/hub/lti13/config``: what a platform has to know of this hub, as JSON in the form that Canvas reads."""

    signed_in = False
    guarded = False

    def get(self) -> None:
        """The addresses are those the request came to."""
        links, title = self.web.links, self.web.settings.title
        here = f"{self.request.protocol}://{self.request.host}"
        launch = f"{here}{links.lti}oauth_callback"
        self.finish(
            {
                "title": title,
                "description": f"Notebooks on the cluster, by {title}.",
                "oidc_initiation_url": f"{here}{links.lti}oauth_login",
                "target_link_uri": launch,
                "redirect_uris": [launch],
                "public_jwk_url": f"{here}{links.lti}jwks",
                "scopes": [],
                "custom_fields": {},
                "extensions": [
                    {
                        "platform": "canvas.instructure.com",
                        "privacy_level": "public",
                        "settings": {
                            "text": title,
                            "placements": [
                                {
                                    "placement": "course_navigation",
                                    "message_type": "LtiResourceLinkRequest",
                                    "target_link_uri": launch,
                                    "text": title,
                                    "windowTarget": "_blank",
                                }
                            ],
                        },
                    }
                ],
            }
        )


class ToolKeysPage(Handler):
    """``/hub/lti13/jwks``: no keys, because this hub signs nothing. Some platforms register no tool without the address."""

    signed_in = False
    guarded = False

    def get(self) -> None:
        """An empty set (RFC 7517 section 5)."""
        self.finish({"keys": []})


def destination(wanted: str, origin: str, links: Links) -> str:
    """The page that a launch asks for: a page of ours; for the launch's own address, or the hub's front, the servers' page.

    ``?next=PATH`` there leads on, and ``?profile=NAME`` opens the form of that profile, filled from the other parameters. What comes of it is still
    to be checked, like any ``next``.
    """
    path, _, query = path_here(wanted, origin).partition("?")
    fronts = {"", links.base, links.hub, links.hub.rstrip("/"), links.home, links.lti11}
    if path not in fronts and not path.startswith(links.lti):
        return f"{path}?{query}" if query else path
    asked = parse_qs(query)
    for name in ("next", "custom_next"):
        if name in asked:
            return path_here(asked[name][0], origin)
    return f"{links.hub}spawn?{query}" if "profile" in asked else links.home
