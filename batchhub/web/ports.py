"""What the pages need of the people side, as Protocols and values. :mod:`batchhub.web.people` stands behind them in production."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from prometheus_client import REGISTRY, CollectorRegistry
from tornado.web import RequestHandler

from batchhub import __version__
from batchhub.control.orphans import Orphan
from batchhub.control.service import HubService
from batchhub.core.asking import Question
from batchhub.core.deeds import DeedKind, DeedLine, DeedScope
from batchhub.core.hosts import Origin
from batchhub.core.model import UserName
from batchhub.core.ports import Clock

MAX_BODY = 64 * 1024
"""Bytes of a request's body the hub reads; give it to ``HTTPServer(max_body_size=…)`` too, so that more is never buffered."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who made a request. ``session`` is empty for a token; ``until`` is when the session or token ends at the latest."""

    name: UserName
    admin: bool = False
    session: str = ""
    token_id: str = ""
    until: datetime | None = None
    right: str = field(default="", repr=False)
    """By what :meth:`People.ending` knows it: the session's id or the token's hash."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A fresh sign-in: the session's cookie text, once. ``after``: where the authenticator says the person was on the way to, unchecked.

    ``known``: another cookie's, by which the browser is known to be the account's when somebody signs in there again; empty where no name was typed.
    """

    visitor: Visitor
    cookie: str = field(repr=False)
    after: str = ""
    known: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to sign in as the page shows it. ``kind`` is a word of :class:`batchhub.auth.base.LoginKind`; ``frames`` are origins that may frame it."""

    name: str
    kind: str
    title: str
    frames: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Leaving:
    """The browser goes to somebody else's sign-in page; ``sealed`` is the cookie it carries until it is back, under a name made of ``state``."""

    url: str
    state: str
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Asking:
    """A sign-in that wants more. ``sealed`` is the cookie by which this browser, once, may answer, under a name made of ``state``."""

    question: Question
    way: str
    username: str
    state: str
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenView:
    """An API token as its owner sees it, without the secret."""

    id: str
    note: str
    created: datetime
    last_used: datetime | None = None
    expires: datetime | None = None
    bound: bool = False
    """It ends with the session it was made in."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its owner and admins see it. ``id`` is a handle that opens nothing; ``current``: it is the one that asks.

    ``agent`` is the browser in words, ``said`` what it said of itself; ``ends`` is when it ends unless it is used.
    """

    id: str
    created: datetime
    last_used: datetime
    ends: datetime
    absolute: datetime
    address: str
    agent: str
    said: str
    current: bool = False
    idle: bool = False
    """The hub's pages want a new sign-in; notebooks that it opened go on, until ``absolute``."""


@dataclass(frozen=True, slots=True)
class PersonView:
    """Somebody the hub knows, as admins see them."""

    name: UserName
    admin: bool
    created: datetime
    last_login: datetime | None = None
    groups: Sequence[str] = ()
    way: str = ""


class Audit(Protocol):
    """Where deeds are noted: :class:`batchhub.auth.audit.AuditTrail`."""

    def note(
        self, kind: DeedKind, user: str = "", *, by: str | None = None, address: str = "", words: str = ""
    ) -> None:
        """It was done: ``by`` whom (``None``: by ``user``), to ``user``. Never waits, never fails."""


class Deeds(Protocol):
    """Where deeds are read: :class:`batchhub.store.audit.AuditStore`."""

    def find(self, scope: DeedScope, limit: int) -> Awaitable[Sequence[DeedLine]]:
        """The newest ``limit`` within the scope, newest first. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class KeyView:
    """A person's SSH key for one cluster, or that they have none: ``line`` is empty. ``works``: when the cluster last took it, if it did."""

    cluster: str
    title: str
    account: str
    host: str
    line: str = ""
    created: datetime | None = None
    works: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyTest:
    """What a login node said to a key. ``works`` is ``None`` where nobody could be asked."""

    works: bool | None
    words: str


class KeyBook(Protocol):
    """People's own SSH keys. Errors are of :mod:`batchhub.core.errors` only."""

    def keys(self, user: UserName) -> Awaitable[Sequence[KeyView]]:
        """One for each cluster that wants one."""

    def make(self, user: UserName, cluster: str) -> Awaitable[None]:
        """A new one, in place of any other. Raises NotFound, Denied."""

    def remove(self, user: UserName, cluster: str) -> Awaitable[None]:
        """Forget it. Raises NotFound."""

    def test(self, user: UserName, cluster: str) -> Awaitable[KeyTest]:
        """Sign in with it. Raises NotFound, TooMany."""


class People(Protocol):
    """Sign-in, sessions and tokens. Errors are of :mod:`batchhub.core.errors` only."""

    @property
    def ways(self) -> Sequence[Way]:
        """How one signs in here, in the site's order."""

    def preview(self, handler: RequestHandler, way: str, data: Mapping[str, Any]) -> Awaitable[str]:
        """Whom a signed launch would sign in, in words for the person who is asked. Raises Denied, TooMany."""

    def launched(self, handler: RequestHandler, way: str, data: Mapping[str, Any], cookie: str) -> Awaitable[Entry]:
        """Use a signed launch up: open a session, as :meth:`sign_in` does. Raises Denied, TooMany."""

    def sign_in(
        self, handler: RequestHandler, way: str, data: Mapping[str, str], cookie: str, *, known: str = ""
    ) -> Awaitable[Entry | Asking]:
        """Check what the sign-in form sent and open a session, in place of the one whose cookie the browser has.

        Or ask for more. ``known`` is the cookie of earlier sign-ins with this browser. Raises Denied, TooMany, Unreachable.
        """

    def answer(
        self,
        handler: RequestHandler,
        state: str,
        sealed: str,
        answers: Sequence[str],
        cookie: str,
        *,
        known: str = "",
    ) -> Awaitable[Entry | Asking]:
        """What was asked for. Raises Denied, TooMany, Unreachable."""

    def leave(
        self, handler: RequestHandler, way: str, data: Mapping[str, str], after: str, callback: str, *, cookie: str = ""
    ) -> Awaitable[Leaving]:
        """Begin a sign-in at somebody else's page. ``after`` is where to go in the end. Raises Denied, Unreachable.

        ``cookie`` is the session's that the browser has now, where it will not come along on the way back.
        """

    def come_back(
        self, handler: RequestHandler, data: Mapping[str, str], sealed: str, cookie: str
    ) -> Awaitable[tuple[Entry, str]]:
        """End it: the session, and where to go. It ends at the address that ``leave`` named, and at no other. Raises Denied, TooMany, Unreachable."""

    def visitor(
        self, cookie: str, handler: RequestHandler, *, ask: bool, used: bool = True
    ) -> Awaitable[Visitor | None]:
        """Whose session it is; ``None`` if it is no (longer a) session, or the request itself says that somebody else asks.

        ``used``: it is a use of the session, which keeps it from being idle. ``ask``: it may be asked whether they still may be here. Raises Unreachable when that could not be had for too long.
        """

    def bearer(self, token: str, handler: RequestHandler | None = None) -> Awaitable[Visitor | None]:
        """Whose API token it is; ``None`` if it is none (any more). Raises SignInAgain, Unreachable, as for a session."""

    def good(self, visitor: Visitor) -> Awaitable[bool]:
        """Whether the session or token is still good; not a use of it."""

    def ending(self, visitor: Visitor) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when this hub ends the visitor's session or token. Ask :meth:`good` after it was entered."""

    def sign_out(self, cookie: str) -> Awaitable[bool]:
        """End the session, here and in the proxy, also one that is good no more; false if the cookie was never one of ours."""

    def xsrf(self, bound: str) -> str:
        """A token for a session, or for the random id of a browser nobody is signed in with."""

    def xsrf_fits(self, bound: str, given: str) -> bool:
        """Whether the token was made for it."""

    def tokens(self, user: UserName) -> Awaitable[Sequence[TokenView]]:
        """A person's tokens, newest first."""

    def make_token(self, user: UserName, note: str, life: timedelta, session: str = "") -> Awaitable[str]:
        """A new token's secret, told once; it ends with the session, if one is named. Raises BadInput, TooMany."""

    def revoke_token(self, user: UserName, token_id: str) -> Awaitable[None]:
        """End it. Raises NotFound."""

    def revoke_tokens(self, user: UserName) -> Awaitable[int]:
        """End all of a person's; how many."""

    def sessions_of(self, user: UserName, current: str = "") -> Awaitable[Sequence[SessionView]]:
        """A person's sessions that are good or idle, last used first; ``current`` is the whole id of the one that asks."""

    def end_session(self, user: UserName, handle: str) -> Awaitable[None]:
        """End one of a person's with all that was opened by it. Raises NotFound."""

    def end_sessions(self, user: UserName, keep: str = "") -> Awaitable[int]:
        """End all of a person's, but the one whose whole id is ``keep``; how many."""

    def person(self, name: str) -> Awaitable[PersonView]:
        """Somebody the hub knows. Raises NotFound."""

    def everybody(self, part: str, offset: int, limit: int) -> Awaitable[Sequence[PersonView]]:
        """People by name, those whose name has this part."""


@dataclass(frozen=True, slots=True)
class WebServices:
    """Whom the pages ask. ``ticket_key`` signs the access tickets the proxy checks (see :mod:`batchhub.core.tickets`)."""

    hub: HubService
    people: People
    clock: Clock
    ticket_key: bytes = field(repr=False)
    audit: Audit
    deeds: Deeds
    registry: CollectorRegistry = REGISTRY
    orphans: Callable[[], Sequence[Orphan]] = tuple
    """Jobs that no row knows, as they were found last."""
    keys: KeyBook | None = None
    """Where some cluster is reached by keys of people's own."""


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What a site sets about the pages.

    ``base_url`` begins and ends with ``/``. ``origin`` is the hub's own if every server has a host of its own below it.
    ``auto_login``: where one other site's sign-in page is all there is, go there without being asked. ``secure_cookies``: ``auto`` follows the request's scheme. ``ticket_life`` is how long an access cookie is good after its last use; a
    laptop that slept longer has to load its notebook page again. Signing out ends it at once. ``metrics``: who may read
    ``/hub/metrics``: ``admin`` (an admin's token, or a request from the loopback interface that was not forwarded) or ``all``.
    ``streams`` is the number of open event streams a person may have. ``keep_alive`` and ``poll`` are in seconds. ``version`` is ours;
    ``compatible`` is the JupyterHub version whose API we speak.
    """

    base_url: str = "/"
    origin: Origin | None = None
    title: str = "BatchHub"
    announcement: str = ""
    docs: str = ""
    support: str = ""
    sign_in_words: str = ""
    auto_login: bool = False
    version: str = __version__
    compatible: str = "5.5.4"
    secure_cookies: Literal["auto", "always", "never"] = "auto"
    ticket_life: timedelta = timedelta(hours=12)
    named_servers: bool = True
    metrics: Literal["admin", "all"] = "admin"
    streams: int = 20
    keep_alive: float = 8.0
    poll: float = 2.0

    @property
    def api_version(self) -> str:
        """PEP 440 with our version as the local part: single-user servers refuse to start with anything unparsable."""
        return f"{self.compatible}+batchhub.{self.version}"
