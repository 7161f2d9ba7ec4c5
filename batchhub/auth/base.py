"""What an authenticator is.

:class:`Authenticator` has the shape of JupyterHub's, so that one written for it works after its import is changed. It holds traits and
hooks; the rules are applied by :mod:`batchhub.auth.rules`, so that no subclass can leave one out by accident.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any, Protocol

from traitlets import Any as Any_
from traitlets import Bool, Dict, Float, Set, Unicode, validate
from traitlets.config import LoggingConfigurable
from traitlets.traitlets import TraitError

from batchhub.core.asking import Doors, Held, Question
from batchhub.core.model import UserName
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

NAME_LIMIT = 255
"""Characters of a login field; more is refused before anything looks at it."""
PASSWORD_LIMIT = 1024
"""Bytes of a password; hashing costs grow with it."""
MOST_GROUPS = 2000
"""Groups of one person that are kept; the others do not count."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_@+.][A-Za-z0-9_@+.-]{0,127}")


class LoginKind(StrEnum):
    """What the login page shows for an authenticator."""

    PASSWORD = "password"  # noqa: S105  (a word, not a password)
    """A form with a user name and a password."""
    LINK = "link"
    """Nothing to fill in: people come with a one-time link."""
    REDIRECT = "redirect"
    """A button that leads to somebody else's sign-in page: :meth:`Authenticator.depart`."""
    REQUEST = "request"
    """The request itself proves it: a header set by a trusted front end. Nothing to fill in."""
    LTI13 = "lti13"
    """Nothing: people come from a course. The platform begins, :meth:`Authenticator.depart` leads back to it."""
    LTI11 = "lti11"
    """Nothing: people come from a course, with a form that the platform has signed."""
    NEGOTIATE = "negotiate"
    """A button, behind which the browser itself is asked (``Negotiate``): ``authenticate`` is given its token, in base64, as ``negotiate``."""
    CLOSED = "closed"
    """Nobody signs in."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What somebody signed in with that clusters with ``sign_in = 'session'`` may use for them.

    A password, or the empty text for none; and a connection that it opened, or forwarded tickets.
    """

    password: str = field(repr=False)
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who has just proved to be whom.

    ``admin`` is ``None`` where neither the authenticator nor a list of admins says anything: a right given earlier stays. ``auth_state`` is the
    authenticator's own, possibly secret. ``after`` is the address the person was on the way to, if the authenticator was told; nobody has
    looked yet whether it leads to this hub.
    """

    name: UserName
    admin: bool | None = None
    groups: tuple[str, ...] = ()
    auth_state: Mapping[str, Any] | None = field(default=None, repr=False)
    after: str = ""
    brought: Brought | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """More has to be answered before anybody is known: the page asks it, and :meth:`Authenticator.authenticate` is called again.

    ``ticket`` is the authenticator's own name for what is half done. The browser that began carries it, sealed, and brings it back once.
    """

    question: Question
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Departure:
    """The way to somebody else's sign-in page. ``keep`` is what the browser carries, sealed, until it is back (a PKCE verifier, a nonce)."""

    url: str
    keep: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """What an authenticator may need to know of the hub before it starts.

    ``address`` is where the proxy listens. ``front_ends`` are the addresses and networks it believes, and ``identity_headers`` the lower-case
    names of the headers it believes from them and takes from everybody else. ``key`` is shared with the proxy. ``doors`` are the login nodes
    that people can sign in at. ``secure``: browsers come by https.
    """

    address: str
    key: bytes = field(repr=False)
    clock: Clock
    front_ends: tuple[str, ...] = ()
    identity_headers: frozenset[str] = frozenset()
    doors: Doors | None = None
    secure: bool = False

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the proxy."""
        if self.address == "localhost":
            return True
        try:
            return ip_address(self.address).is_loopback
        except ValueError:
            return False

    @property
    def loopback_front(self) -> bool:
        """Whether this machine is among those that are believed."""
        ours = (ip_network("127.0.0.0/8"), ip_network("::1"))
        given = [ip_network(text, strict=False) for text in self.front_ends]
        return any(one.version == other.version and one.overlaps(other) for one in given for other in ours)


class KnownPerson(Protocol):
    """Somebody who signed in earlier, as :meth:`Authenticator.refresh_user` is given them: what JupyterHub's ``User`` has of it."""

    @property
    def name(self) -> UserName:
        """The hub's name for them."""

    @property
    def admin(self) -> bool:
        """Whether they are an admin of the hub."""

    @property
    def groups(self) -> tuple[str, ...]:
        """As the last answer had them."""

    def get_auth_state(self) -> Awaitable[Mapping[str, Any] | None]:
        """What is kept of their last sign-in or refresh, if ``enable_auth_state`` keeps it."""


class Authenticator(LoggingConfigurable):
    """Base of all authenticators. Override :meth:`authenticate`; the rest has working defaults.

    Constructing one has no effect outside. ``docs/authenticators.md`` shows a whole one in fifteen lines.
    """

    kind: LoginKind = LoginKind.PASSWORD
    login_service = Unicode("", help="The name on the login page, as in: Sign in with NAME.").tag(config=True)
    username_prefix = Unicode(
        "",
        help="Put in front of every name from here, after mapping, as in 'gh-'. Where several ways to sign in are offered, prefixes keep "
        "their people apart.",
    ).tag(config=True)

    pass_through = Bool(
        False,
        help="The passwords that people sign in with here are those of their cluster accounts: clusters with sign_in = 'session' may use them, for "
        "that person alone and while they are signed in.",
    ).tag(config=True)

    allow_all = Bool(
        False, help="Let everybody in who can prove who they are. Nobody is allowed unless this or a list says so."
    ).tag(config=True)
    allowed_users = Set(Unicode(), help="Names that may sign in.").tag(config=True)
    allowed_groups = Set(
        Unicode(), help="Members of one of these, by its exact name, may sign in. Groups are the authenticator's word."
    ).tag(config=True)
    blocked_users = Set(Unicode(), help="Names that may not sign in, whatever else is said.").tag(config=True)
    admin_users = Set(
        Unicode(),
        help="Names that may sign in and are admins of the hub. Where this or admin_groups is set, who is in neither is no admin any more.",
    ).tag(config=True)
    admin_groups = Set(
        Unicode(),
        help="Members of one of these, by its exact name, may sign in and are admins.",
    ).tag(config=True)
    auth_refresh_age = Float(
        300.0,
        min=0,
        help="Seconds after which a person's next page or request has refresh_user ask again whether they still may; 0 asks before a start alone.",
    ).tag(config=True)
    refresh_pre_spawn = Bool(True, help="Ask before a server is started too, however long ago it was asked.").tag(
        config=True
    )
    auth_refresh_patience = Float(
        3600.0,
        min=0,
        help="Seconds for which an earlier answer goes on to count while nobody can be asked; after them people have to wait. 0 does not wait for "
        "an earlier one.",
    ).tag(config=True)
    post_auth_hook = Any_(
        None,
        allow_none=True,
        help="Called as hook(authenticator, handler, authentication) when somebody may come in, at a sign-in and at a refresh that brings news "
        "(handler may be None then); answers the authentication, changed or not, or None for no. May be async.",
    ).tag(config=True)
    enable_auth_state = Bool(
        False,
        help="Keep what the sign-in brought (auth_state: tokens, claims) for refreshing and for hooks, sealed, until the next sign-in. Off: it is "
        "forgotten.",
    ).tag(config=True)
    manage_groups = Bool(
        True,
        help="Accepted for JupyterHub's sake and must stay True: a person's groups are always the authenticator's word.",
    ).tag(config=True)
    username_pattern = Unicode(
        "", help="A regular expression that the whole name must match, beside the hub's own rule. Empty: no other rule."
    ).tag(config=True)
    username_map = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="From the name somebody signs in with to the hub's name, after normalising: {'ann@example.org': 'ann'}. Nobody else gets such a name: "
        "who is called 'ann' to begin with is refused, unless {'ann': 'ann'} is there too.",
    ).tag(config=True)

    @validate("username_prefix")
    def _check_prefix(self, proposal: Mapping[str, Any]) -> str:
        prefix = str(proposal["value"])
        if prefix and not safe_name(prefix):
            raise TraitError(
                f"username_prefix {prefix!r} could not begin a name; letters, digits and inner '_@+.-' could."
            )
        return prefix

    @validate("manage_groups")
    def _check_manage_groups(self, proposal: Mapping[str, Any]) -> bool:
        if not proposal["value"]:
            raise TraitError("manage_groups must be True: the hub has no groups of its own, only the authenticator's.")
        return True

    @validate("post_auth_hook")
    def _check_hook(self, proposal: Mapping[str, Any]) -> Any:
        if proposal["value"] is not None and not callable(proposal["value"]):
            raise TraitError(f"post_auth_hook must be a function, not {type(proposal['value']).__name__}.")
        return proposal["value"]

    @validate("username_pattern")
    def _check_pattern(self, proposal: Mapping[str, Any]) -> str:
        try:
            re.compile(proposal["value"])
        except re.error as error:
            raise TraitError(f"username_pattern is not a regular expression: {error}") from error
        return str(proposal["value"])

    @property
    def frames(self) -> Sequence[str]:
        """Origins whose pages may show this one's launch page in a frame (LTI); no other page of the hub can be framed."""
        return ()

    def settle(self, place: Place) -> None:
        """Called once, before the hub starts. Raises ConfigError where people could not be signed in safely with these settings."""

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> str | Mapping[str, Any] | Asked | None:
        """Who this is: a name, or ``{"name": …, "admin": …, "groups": …, "auth_state": …}`` with all but the name optional.

        Or :class:`Asked`: then it is called again with ``{"username": …, "ticket": …, "answers": (…)}``, an answer for each prompt.

        ``data`` holds the login form's fields (``username``, ``password``). ``None`` means no, whatever the reason: log it, without
        the password. Runs on the event loop: what blocks belongs in a thread. Raises Unreachable when nobody could be asked.
        """
        raise NotImplementedError

    async def preview(self, handler: Any, data: Mapping[str, Any]) -> str | None:
        """For LTI11: whom ``data`` would sign in, in words for a page that asks; nothing is used up. ``None``: nobody."""
        raise NotImplementedError

    async def depart(self, handler: Any, data: Mapping[str, str], state: str, callback: str) -> Departure:
        """For REDIRECT and LTI13: where to send the browser. Its way back is ``callback``, with ``state`` among the parameters.

        :meth:`authenticate` is then given the parameters it came back with, and ``kept``, ``state`` and ``callback``. ``data`` are the
        parameters of the address that began it. Raises Unreachable, BadInput.
        """
        raise NotImplementedError

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any] | None:
        """Whether somebody who signed in this way earlier still may: ``True`` if nothing is new, or whatever :meth:`authenticate` would answer now.

        What the answer does not name stays as it is. ``False`` ends their sessions: they have to sign in again. Raises Unreachable when
        nobody could be asked; then the earlier answer counts for ``auth_refresh_patience``. ``handler`` is the request's, if there is one.
        """
        del user, handler
        return True

    def contradicts(self, handler: Any, name: str) -> bool:
        """Whether the request itself says that somebody else asks than ``name``, whose session it comes with: then the session does not count for it."""
        del handler, name
        return False

    def lead(self) -> None:
        """Called when people's pages begin to come from this hub, also when it takes over from another, whose memory it has not."""

    def close(self) -> None:
        """Called once, when the hub ends: let threads and connections go."""

    def knows_groups(self) -> bool:
        """Whether groups can come from here at all; ``allowed_groups`` and ``admin_groups`` are refused at start where they cannot."""
        return True

    def normalize_username(self, username: str) -> str:
        """One spelling for each person: lower case, unless overridden."""
        # The Kelvin sign is the one letter beyond ASCII whose small form is in it: whoever is called so must not become somebody with a plain "k".
        return username if "\N{KELVIN SIGN}" in username else username.lower()

    def validate_username(self, username: str) -> bool:
        """Whether a normalised and mapped name is one the site has; the hub's own rule for names holds besides."""
        return not self.username_pattern or re.fullmatch(self.username_pattern, username) is not None

    def check_blocked_users(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool:
        """Whether the name is *not* blocked. May be async."""
        del authentication
        return username not in self.blocked_users

    def check_allowed(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool | Awaitable[bool]:
        """Whether the person may use the hub. May be async. An override adds to ``super().check_allowed``, or replaces it."""
        if self.allow_all or username in self.allowed_users or username in self.admin_users:
            return True
        groups = (authentication or {}).get("groups") or ()
        return not (self.allowed_groups | self.admin_groups).isdisjoint(groups)


def safe_name(name: str) -> bool:
    """The hub's own rule for user names, on every path into the system.

    A name is a part of URLs, directory names and command lines: at most 128 of ``A-Za-z0-9_@+.-``, not beginning with ``-``, and not only
    of dots.
    """
    return _SAFE_NAME.fullmatch(name) is not None and name.strip(".") != ""
