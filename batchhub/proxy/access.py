"""Who may pass to a server: a pure decision, made for every request.

The owner of a route passes with a signed ticket (a cookie the hub set, :mod:`batchhub.core.tickets`) or with an API token that the hub
says is the owner's. A ticket is tried first: a page of the notebook itself may send an ``Authorization`` header of its own. A request
with a cookie that a foreign page made (another ``Origin``, or ``Sec-Fetch-Site`` says so) does not pass where it could do harm, that is
in a WebSocket and in every method but the reading ones. Routes without an owner are open: what is behind them asks for itself.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

from batchhub.core.errors import Denied
from batchhub.core.tickets import COOKIE_NAME, Ticket, renewable_from, renewed, sign, valid_between, verify

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_TOKEN = 512
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision needs to know of a request. ``target`` is its canonical path and query, ``tickets`` the cookies' values."""

    method: str
    target: str
    host: str
    tickets: Sequence[str] = ()
    authorization: str = ""
    origin: str | None = None
    fetch_site: str = ""
    fetch_mode: str = ""
    accept: str = ""
    upgrade: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What the decision needs to know of the route.

    ``path`` has no final ``/``. ``owner`` may pass (empty: everybody), under ``host`` alone (lower case, without a port; empty: any).
    """

    path: str
    owner: str
    host: str = ""
    prefix: str = field(init=False, repr=False, compare=False)
    logout: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Put together once what every request is compared with."""
        object.__setattr__(self, "prefix", f"{self.path}/")
        object.__setattr__(self, "logout", f"{self.path}/logout")


@dataclass(frozen=True, slots=True)
class Allow:
    """Pass. ``session`` is the hub session behind the ticket, ``renew`` a Set-Cookie value to send along.

    What is still open ``until`` then, the session's latest end, is closed.
    """

    user: str = ""
    session: str = ""
    renew: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AskHub:
    """Pass if the hub says that this token is the owner's."""

    token: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the browser elsewhere: to the hub to fetch a ticket or to sign out, or to the host where something is."""

    url: str


@dataclass(frozen=True, slots=True)
class Knock:
    """Send the browser to the hub for an entry to this host: a ``door`` is to be added to the address, and its secret set as a cookie."""

    url: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not pass."""

    status: int
    words: str


Decision = Allow | AskHub | Redirect | Knock | Refuse
OPEN = Allow()


@dataclass(frozen=True, slots=True)
class _Known:
    """A genuine ticket and the moments that matter of it."""

    ticket: Ticket
    begin: datetime
    end: datetime
    renewable: datetime | None
    allow: Allow


class Tickets:
    """The tickets seen lately, so that a signature is checked once and not at each of a page's hundred requests.

    Only what never changes is kept: that the text is genuine. Times, user, path, host and revocation are looked at every time.
    """

    __slots__ = ("_keys", "_seen", "_size")

    def __init__(self, keys: Sequence[bytes], size: int = 4096) -> None:
        self._keys = tuple(keys)
        self._seen: dict[str, _Known] = {}
        self._size = size

    @property
    def keys(self) -> Sequence[bytes]:
        """All that are accepted; the first signs."""
        return self._keys

    @property
    def signing_key(self) -> bytes:
        """The key that signs."""
        return self._keys[0]

    def known(self, text: str, now: datetime) -> _Known:
        """As :func:`~batchhub.core.tickets.verify`, with what follows from the ticket. Raises :class:`Denied`."""
        known = self._seen.get(text)
        if known is None:
            known = self._learn(text, now)
        if not known.begin <= now < known.end:
            raise Denied("The access ticket has expired.")
        return known

    def _learn(self, text: str, now: datetime) -> _Known:
        ticket = verify(self._keys, text, now)
        allow = Allow(ticket.user, ticket.session, None, ticket.absolute)
        known = _Known(ticket, *valid_between(ticket), renewable_from(ticket), allow)
        if len(self._seen) >= self._size:
            self._seen.clear()
        self._seen[text] = known
        return known


def check(
    facts: Facts, rule: Rule, now: datetime, tickets: Tickets, revoked: Container[str], *, secure: bool, hub: str
) -> Decision:
    """Decide. ``revoked`` holds ended sessions, ``secure`` marks renewed cookies for https only.

    ``hub`` is the hub's address: a path with ``/`` at both ends, with its origin before it where servers have hosts of their own.
    """
    if not rule.owner:
        return OPEN
    known = _opening(facts, rule, now, tickets, revoked)
    foreign = known is not None and _foreign(facts, rule)
    if known is not None and not foreign:
        if facts.target.startswith(rule.logout) and _leaving(facts, rule):
            # The application's own sign-out would end nothing: whoever comes back is let in by the ticket.
            return Redirect(f"{hub}logout")
        if known.renewable is None or now < known.renewable:
            return known.allow
        return _renew(known, now, tickets, secure=secure)
    token = _token(facts.authorization)
    if token:
        return AskHub(token)
    if foreign:
        return Refuse(403, "This request was made by a page of another site, so it is not let through.")
    if navigation(facts):
        target = quote(facts.target, safe="")
        if rule.host:
            return Knock(f"{hub}access?next={target}&at={quote(rule.prefix, safe='')}")
        return Redirect(f"{hub}access?next={target}")
    words = "You are not signed in to this server, or it is not yours. Sign in again, or send a token."
    return shut_out(facts.fetch_site, words, upgrade=facts.upgrade)


def shut_out(fetch_site: str, words: str, *, upgrade: bool) -> Refuse:
    """The refusal for want of a ticket or token.

    An open page of the server's own is told 424. At 403 JupyterLab says that the kernel has died; at 424 it says that the server cannot be
    reached, and its kernels connect again by themselves once the person has signed in and come back, in whatever tab.
    """
    if fetch_site.lower() == "same-origin" and not upgrade:
        return Refuse(424, "You are not signed in to this server any more. Open it in another tab, then go on here.")
    return Refuse(403, words)


def _opening(facts: Facts, rule: Rule, now: datetime, tickets: Tickets, revoked: Container[str]) -> _Known | None:
    """The first ticket that opens this route to this request."""
    for text in facts.tickets:
        try:
            known = tickets.known(text, now)
        except Denied:
            continue
        ticket = known.ticket
        if (
            ticket.user == rule.owner
            and ticket.host == rule.host
            and rule.prefix.startswith(ticket.path)
            and ticket.session not in revoked
        ):
            return known
    return None


def _renew(known: _Known, now: datetime, tickets: Tickets, *, secure: bool) -> Allow:
    fresh = renewed(known.ticket, now)
    if fresh is None:
        return known.allow
    cookie = ticket_cookie(sign(tickets.signing_key, fresh), fresh, now, secure=secure)
    return Allow(fresh.user, fresh.session, cookie, fresh.absolute)


def _leaving(facts: Facts, rule: Rule) -> bool:
    return facts.target.partition("?")[0] == rule.logout and navigation(facts)


def _token(authorization: str) -> str:
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    return token if scheme.lower() in {"token", "bearer"} and 0 < len(token) <= _MAX_TOKEN else ""


def _foreign(facts: Facts, rule: Rule) -> bool:
    site = facts.fetch_site.lower()
    if facts.method in _READING and not facts.upgrade:
        # The hosts of servers are one site, so SameSite cookies come along: pages of one may only lead to another, not read from it.
        return bool(rule.host) and site in {"same-site", "cross-site"} and not navigation(facts)
    if site == "cross-site":
        return True
    origin = facts.origin
    if origin is None or origin in {f"https://{facts.host}", f"http://{facts.host}"}:
        return False  # as browsers write it; what is below is for other spellings
    return not same_host(origin, facts.host)


def same_host(origin: str, host: str) -> bool:
    """Whether an ``Origin`` names this ``Host``; the port that a scheme implies may be left out of either."""
    try:
        there = urlsplit(origin)
        here = urlsplit(f"//{host}")
        implied = _PORTS.get(there.scheme)
        return (
            implied is not None
            and there.hostname is not None
            and there.hostname == here.hostname
            and (there.port or implied) == (here.port or implied)
        )
    except ValueError:
        return False


def navigation(facts: Facts) -> bool:
    """Whether a person goes somewhere, and looks at the answer."""
    if facts.method not in {"GET", "HEAD"} or facts.upgrade:
        return False
    return facts.fetch_mode == "navigate" or (not facts.fetch_mode and "text/html" in facts.accept)


def ticket_cookie(text: str, ticket: Ticket, now: datetime, *, secure: bool) -> str:
    """The Set-Cookie value of a signed ticket: for this host alone, below the ticket's path, hidden from scripts."""
    age = max(0, int((ticket.expires - now).total_seconds()))
    return f"{COOKIE_NAME}={text}; Path={ticket.path}; Max-Age={age}; HttpOnly; SameSite=Lax" + (
        "; Secure" if secure else ""
    )
