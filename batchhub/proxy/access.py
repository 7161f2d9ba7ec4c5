"""Who may pass to a server: a pure decision, made for every request.

The owner of a route passes with a signed ticket (a cookie the hub set, :mod:`batchhub.core.tickets`) or with an API token that the hub
says is the owner's. A ticket is tried first: a page of the notebook itself may send an ``Authorization`` header of its own. A request
with a cookie that a foreign page made (another ``Origin``, or ``Sec-Fetch-Site`` says so) does not pass where it could do harm, that is
in a WebSocket and in every method but the reading ones. Routes without an owner are open: what is behind them asks for itself.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

from batchhub.core.errors import Denied
from batchhub.core.tickets import COOKIE_NAME, Ticket, check_times, renewed, sign, verify

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
    """What the decision needs to know of the route: its path (without a final ``/``) and who may pass (empty: everybody)."""

    path: str
    owner: str


@dataclass(frozen=True, slots=True)
class Allow:
    """Pass. ``session`` is the hub session behind the ticket, ``renew`` a Set-Cookie value to send along."""

    user: str = ""
    session: str = ""
    renew: str | None = None


@dataclass(frozen=True, slots=True)
class AskHub:
    """Pass if the hub says that this token is the owner's."""

    token: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the browser to the hub: to fetch a ticket, or to sign out."""

    url: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not pass."""

    status: int
    words: str


Decision = Allow | AskHub | Redirect | Refuse


class Tickets:
    """The tickets seen lately, so that a signature is checked once and not at each of a page's hundred requests.

    Only what never changes is kept: that the text is genuine. Times, user, path and revocation are looked at every time.
    """

    __slots__ = ("_keys", "_seen", "_size")

    def __init__(self, keys: Sequence[bytes], size: int = 4096) -> None:
        self._keys = tuple(keys)
        self._seen: dict[str, Ticket] = {}
        self._size = size

    @property
    def signing_key(self) -> bytes:
        """The key that signs."""
        return self._keys[0]

    def read(self, text: str, now: datetime) -> Ticket:
        """As :func:`~batchhub.core.tickets.verify`. Raises :class:`Denied`."""
        known = self._seen.get(text)
        if known is not None:
            check_times(known, now)
            return known
        ticket = verify(self._keys, text, now)
        if len(self._seen) >= self._size:
            self._seen.clear()
        self._seen[text] = ticket
        return ticket


def check(
    facts: Facts, rule: Rule, now: datetime, tickets: Tickets, revoked: Container[str], *, secure: bool, hub: str
) -> Decision:
    """Decide. ``revoked`` holds ended sessions, ``secure`` marks renewed cookies for https only, ``hub`` is the hub's path prefix."""
    if not rule.owner:
        return Allow()
    ticket = _ticket(facts, rule, now, tickets, revoked)
    foreign = ticket is not None and _foreign(facts)
    if ticket is not None and not foreign:
        if _navigation(facts) and facts.target.partition("?")[0] == f"{rule.path}/logout":
            # The application's own sign-out would end nothing: whoever comes back is let in by the ticket.
            return Redirect(f"{hub}logout")
        fresh = renewed(ticket, now)
        cookie = _cookie(sign(tickets.signing_key, fresh), fresh, now, secure=secure) if fresh else None
        return Allow(ticket.user, ticket.session, cookie)
    token = _token(facts.authorization)
    if token:
        return AskHub(token)
    if foreign:
        return Refuse(403, "This request was made by a page of another site, so it is not let through.")
    if _navigation(facts):
        return Redirect(f"{hub}access?next={quote(facts.target, safe='')}")
    return Refuse(403, "You are not signed in to this server, or it is not yours. Sign in again, or send a token.")


def _ticket(facts: Facts, rule: Rule, now: datetime, tickets: Tickets, revoked: Container[str]) -> Ticket | None:
    """The first ticket that opens this route to this request."""
    for text in facts.tickets:
        try:
            ticket = tickets.read(text, now)
        except Denied:
            continue
        if ticket.user == rule.owner and (rule.path + "/").startswith(ticket.path) and ticket.session not in revoked:
            return ticket
    return None


def _token(authorization: str) -> str:
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    return token if scheme.lower() in {"token", "bearer"} and 0 < len(token) <= _MAX_TOKEN else ""


def _foreign(facts: Facts) -> bool:
    if facts.method in _READING and not facts.upgrade:
        return False
    if facts.fetch_site.lower() == "cross-site":
        return True
    return facts.origin is not None and not same_host(facts.origin, facts.host)


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


def _navigation(facts: Facts) -> bool:
    """Whether a person looks at the answer."""
    if facts.method not in {"GET", "HEAD"} or facts.upgrade:
        return False
    return facts.fetch_mode == "navigate" or (not facts.fetch_mode and "text/html" in facts.accept)


def _cookie(text: str, ticket: Ticket, now: datetime, *, secure: bool) -> str:
    age = max(0, int((ticket.expires - now).total_seconds()))
    return f"{COOKIE_NAME}={text}; Path={ticket.path}; Max-Age={age}; HttpOnly; SameSite=Lax" + (
        "; Secure" if secure else ""
    )
