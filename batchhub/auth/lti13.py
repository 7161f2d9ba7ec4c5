"""Launches from a learning platform by LTI 1.3 (LTI Core 1.3, 1EdTech Security Framework 1.0 section 5.1.1).

The platform begins: it sends the browser to ``/hub/lti13/oauth_login``, the hub sends it on to the platform's authorization page with a nonce, and the
platform has it post an ID token to ``/hub/lti13/oauth_callback``. The hub asks the platform for nothing but its public keys, and signs nothing.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

from traitlets import Dict, Float, Set, Unicode

from batchhub.auth.base import Authenticator, Departure, KnownPerson, LoginKind, Place
from batchhub.auth.clock import utc_now
from batchhub.auth.departures import LIFE
from batchhub.auth.key_ring import KeyRing
from batchhub.auth.lti_people import Learner, Source, groups_of, is_admin, name_of
from batchhub.auth.lti_tables import Platform, check_username_key, frames_of, read_platforms
from batchhub.auth.oauth_http import Asker, check_ca_file
from batchhub.auth.once import Once
from batchhub.auth.rules import known_name
from batchhub.core.errors import BadInput, ConfigError, Denied
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256")
"""The Security Framework (section 5.1.2) asks for RS256 and allows what is as strong."""
HINT_LIMIT = 4096
"""Characters of ``login_hint`` and ``lti_message_hint``, which the platform wants back as they are."""


class LTI13Authenticator(Authenticator):
    """Signs in whoever opens this hub in a course of one of ``platforms``."""

    kind = LoginKind.LTI13
    login_service = Unicode("Your learning platform", help="What people call it, in sentences.").tag(config=True)

    platforms = Dict(
        key_trait=Unicode(),
        help="The platforms that this hub is registered with: {issuer: {'client_id': …, 'authorization_endpoint': …, 'jwks_url': …, "
        "'deployment_ids': […]}}, or a list of such tables for an issuer with several client ids. Besides: 'title', 'prefix', 'trusts_email', "
        "'admin_roles', 'frame_origins'.",
    ).tag(config=True)
    username_key = Unicode(
        "sub",
        help="What becomes the name: 'sub', the platform's own id of a person; 'email'; 'lis_person_sourcedid'; 'custom.NAME', a custom parameter.",
    ).tag(config=True)
    allowed_groups = Set(
        Unicode(), help="Members of one of these may sign in: {'course:42', 'course:77:instructor'}."
    ).tag(config=True)
    timeout = Float(10.0, min=0.1, max=60, help="Seconds a platform may take to tell its keys.").tag(config=True)
    ca_file = Unicode(
        help="A file of certificates to trust instead of the system's, for a platform with one of the site's own."
    ).tag(config=True)

    def __init__(self, *, clock: Clock = utc_now, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        name = f"c.{type(self).__name__}"
        self._clock = clock
        self._platforms = read_platforms(self.platforms, f"{name}.platforms")
        check_username_key(self.username_key, [one.source for one in self._platforms], f"{name}.username_key")
        self._tools = _tools()
        check_ca_file(self.ca_file, f"{name}.ca_file")
        self._asker = Asker(self.timeout, self.ca_file)
        self._rings = {
            one.jwks_url: KeyRing(self._asker, clock, self._tools, one.source.title) for one in self._platforms
        }
        self._used = Once()

    @property
    def frames(self) -> Sequence[str]:
        """The platforms' own pages."""
        return frames_of([one.source for one in self._platforms])

    def settle(self, place: Place) -> None:
        """Raises ConfigError: the cookie that ties a launch to its browser comes back from another site, and browsers allow that over https alone."""
        need_https(place, type(self).__name__)

    async def depart(self, handler: Any, data: Mapping[str, str], state: str, callback: str) -> Departure:
        """To the platform's authorization page, by the parameters of a third-party initiated login. Raises BadInput."""
        del handler
        platform = self._asked(data.get("iss", ""), data.get("client_id", ""))
        hints = {name: data[name] for name in ("login_hint", "lti_message_hint") if data.get(name)}
        if "login_hint" not in hints or any(len(hint) > HINT_LIMIT for hint in hints.values()):
            raise BadInput(
                "Your learning platform did not say who you are (login_hint). Please open this from your course again."
            )
        nonce = secrets.token_urlsafe(24)
        url = self._tools.authorize_url(
            platform.authorization_endpoint, platform.client_id, callback, state, nonce=nonce, **hints
        )
        return Departure(url, {"nonce": nonce, "issuer": platform.issuer, "client_id": platform.client_id})

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Who the posted ID token is about. Raises Denied, BadInput for what a person can be told, Unreachable."""
        del handler
        kept = data["kept"]
        platform = self._find(kept["issuer"], kept["client_id"])
        if platform is None:
            return None
        title = platform.source.title
        if data.get("error"):
            log.warning("%s: the platform says %.100r", title, data["error"])
            raise Denied(f"{title} did not sign you in. Please open this from your course again.")
        expected = self._tools.Expected(platform.issuer, platform.client_id, kept["nonce"], algorithms=ALGORITHMS)
        try:
            claims = await self._rings[platform.jwks_url].claims(
                str(data.get("id_token", "")), platform.jwks_url, expected
            )
            now = self._clock()
            # What was sealed with the nonce is good for so long; afterwards the launch is refused without a memory of it.
            if not self._used.use(f"{platform.issuer}\n{kept['nonce']}", now + timedelta(seconds=LIFE), now):
                raise self._tools.BadToken("nonce: used before")
            learner, target = self._tools.read_message(claims, platform)
        except self._tools.BadToken as error:
            log.warning("%s: the launch does not count: %s", title, error)
            return None
        except self._tools.NotALaunch as other:
            log.warning("%s: a message of kind %.100r is not for this hub", title, str(other))
            raise BadInput(_OTHERS.get(str(other), _OTHERS[""])) from other
        return self._model(learner, platform, claims, target)

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any]:
        """Nothing new but the lists."""
        del handler
        return still(user, self, (one.source for one in self._platforms))

    def _model(
        self, learner: Learner, platform: Platform, claims: Mapping[str, Any], target: str
    ) -> Mapping[str, Any] | None:
        return model_of(self, learner, platform.source, {"lti": dict(claims)}, target)

    def _asked(self, issuer: str, client_id: str) -> Platform:
        """The platform that begins. It need not say the client id where there is one only. Raises BadInput."""
        found = [one for one in self._platforms if one.issuer == issuer and client_id in ("", one.client_id)]
        if len(found) != 1:
            log.warning("a launch by %.200r as client %.100r, which is no platform of this hub", issuer, client_id)
            raise BadInput("This hub does not know your learning platform. Its administrator can register it.")
        return found[0]

    def _find(self, issuer: str, client_id: str) -> Platform | None:
        for one in self._platforms:
            if (one.issuer, one.client_id) == (issuer, client_id):
                return one
        return None

    def close(self) -> None:
        """Let the connections go."""
        self._asker.close()


_OTHERS = {
    "LtiDeepLinkingRequest": "This hub has nothing to choose from. Add it to your course as an external tool with an address; a link may end in "
    "?profile=NAME to open one of its forms.",
    "": "This hub can be opened from a course; it can do nothing else that your learning platform asks for.",
}


def model_of(
    authenticator: Any, learner: Learner, source: Any, state: Mapping[str, Any], after: str
) -> Mapping[str, Any] | None:
    """What both versions' ``authenticate`` answers; ``None``, with a line in the log, where no name comes of it."""
    name = name_of(learner, authenticator.username_key, source)
    if name is None:
        log.warning("%s: the launch of %.100r says no %s", source.title, learner.subject, authenticator.username_key)
        return None
    admin = None if known_name(authenticator, name) in authenticator.admin_users else is_admin(learner, source)
    return {
        "name": name,
        "groups": groups_of(learner, source),
        "admin": admin,
        "auth_state": state,
        "after": after,
    }


def still(user: KnownPerson, authenticator: Authenticator, sources: Iterable[Source]) -> bool | Mapping[str, Any]:
    """What a refresh can say: a platform is not asked between launches. An admin by role stays one, as no list can know of that."""
    by_role = any(source.admin_roles for source in sources) and user.name not in authenticator.admin_users
    return {"admin": user.admin} if by_role else True


def need_https(place: Place, name: str) -> None:
    """Raises ConfigError unless browsers come by https, or from this machine alone."""
    if not place.secure and not place.loopback:
        raise ConfigError(
            f"{name} needs https: set c.Proxy.ssl_cert, or c.Proxy.https_in_front where a front end ends TLS. Over plain http it works on "
            "loopback alone (c.Proxy.ip = '127.0.0.1')."
        )


def _tools() -> ModuleType:
    """The libraries, loaded at first use. Raises ConfigError that names the extra."""
    try:
        return import_module("batchhub.auth.lti_tools")
    except ImportError as error:
        raise ConfigError(f"LTI needs more packages: pip install 'batchhub[lti]' ({error}).") from error
