"""The proxy's memory: its routes, the sessions and tokens that ended, and what jobs offer to a reverse tunnel.

A :class:`Book` changes by :class:`Change` values alone. The same values are written into the state file (:mod:`batchhub.proxy.journal`)
and sent to the worker processes, so all three always hold the same.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, assert_never

from batchhub.core.errors import BadInput
from batchhub.core.ports import Clock
from batchhub.core.routes import RouteTable, route_key
from batchhub.proxy.access import Rule
from batchhub.proxy.target import Target, read_target

STARS = "***"
_MAX_SESSION = 256
_OFFER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEY_TYPE = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"  # RFC 8709 section 4: name and key, each with its length before it
_KEY_SIZE = len(_KEY_TYPE) + 32


@dataclass(slots=True)
class Use:
    """When something was used last: ``at`` all, and ``acted`` by a request that may change something, which no open page sends by itself."""

    at: datetime
    acted: datetime

    def note(self, now: datetime, *, acted: bool) -> None:
        """It is used."""
        self.at = now
        if acted:
            self.acted = now


@dataclass(slots=True)
class Route:
    """A route as it was posted: ``data`` holds every field of the body, ``authorization`` included, as it came.

    So many leading segments as ``strip`` says are taken off a request's path before it is sent on; ``host`` is the only host name the
    route may be used under (empty: any).
    ``use`` moves; all else is fixed, a changed route is a new one. Routes that take each other's place before the same application share it.
    """

    path: str
    target: Target
    rule: Rule
    authorization: bytes = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    use: Use
    strip: int = 0
    host: str = ""

    @property
    def last_activity(self) -> datetime:
        """When it was used last."""
        return self.use.at

    @last_activity.setter
    def last_activity(self, moment: datetime) -> None:
        self.use.at = moment

    def leads_where(self, other: Route) -> bool:
        """Whether both lead to the same server, or to the same address."""
        server = self.data.get("server_id")
        return self.target == other.target or (bool(server) and server == other.data.get("server_id"))

    def public(self) -> dict[str, Any]:
        """What the control API shows."""
        hidden = {"authorization": STARS} if self.data.get("authorization") else {}
        acted = {"last_act": stamp(self.use.acted)} if self.data.get("server_id") else {}
        return {**self.data, **hidden, "last_activity": stamp(self.last_activity), **acted}


def read_route(path: str, data: Mapping[str, Any], now: datetime) -> Route:
    """Check a posted route. Raises :class:`BadInput`."""
    target = data.get("target", "")
    if not isinstance(target, str) or (not target and data.get("endpoint") is None):
        raise BadInput("Must specify 'target' as string")
    texts: dict[str, str] = {}
    for name in ("owner", "server_id", "server_name", "authorization", "host"):
        value = data.get(name, "")
        if not isinstance(value, str) or len(value) > 4096:
            raise BadInput(f"{name}: a text is expected.")
        texts[name] = value
    if not (texts["authorization"].isascii() and texts["authorization"].isprintable()) and texts["authorization"]:
        raise BadInput("authorization: printable ASCII is expected.")
    strip = data.get("strip_prefix", False)
    if not isinstance(strip, bool):
        raise BadInput("strip_prefix: true or false is expected.")
    key = route_key(path)
    return Route(
        path=key,
        target=read_target(target, data.get("tunnel"), data.get("endpoint")),
        rule=Rule("" if key == "/" else key, texts["owner"], texts["host"].lower()),
        authorization=texts["authorization"].encode("ascii"),
        data=MappingProxyType(dict(data)),
        use=Use(now, now),
        strip=key.count("/") if strip and key != "/" else 0,
        host=texts["host"].lower(),
    )


def stamp(moment: datetime) -> str:
    """A time as configurable-http-proxy writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_stamp(text: str) -> datetime:
    """The other way; a time without a zone is UTC. Raises :class:`BadInput`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text[:40]!r} is not a time in ISO 8601.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ---------------------------------------------------------------- changes


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add or replace a route."""

    route: Route


@dataclass(frozen=True, slots=True)
class DropRoute:
    """Remove the route at exactly this path."""

    path: str


@dataclass(frozen=True, slots=True)
class EndSession:
    """A hub session is over. ``until`` then its tickets are dead by themselves."""

    session: str
    until: datetime


@dataclass(frozen=True, slots=True)
class EndToken:
    """An API token is over. ``digest`` is its SHA-256 in hexadecimal; ``until`` then no answer about it can be remembered any more."""

    digest: str
    until: datetime


@dataclass(frozen=True, slots=True)
class MakeOffer:
    """The job that holds the private half of ``key`` may offer its application under this id."""

    id: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DropOffer:
    """It may no longer."""

    id: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Routes were used: path -> when, last. ``acted``: by a request that may change something."""

    at: Mapping[str, datetime]
    acted: Mapping[str, datetime] = field(default_factory=dict)


Change = AddRoute | DropRoute | EndSession | EndToken | MakeOffer | DropOffer | Seen


def end_session(session: object, until: datetime) -> EndSession:
    """From what the control API was sent. Raises :class:`BadInput`."""
    if not isinstance(session, str) or not session or len(session) > _MAX_SESSION:
        raise BadInput(f"session: a text of 1 to {_MAX_SESSION} characters is expected.")
    return EndSession(session, until)


def read_ends(sessions: object) -> tuple[EndSession, ...]:
    """Many of them, as session -> until. Raises :class:`BadInput`."""
    if not isinstance(sessions, dict) or not all(isinstance(until, str) for until in sessions.values()):
        raise BadInput("sessions: an object of sessions and times is expected.")
    return tuple(end_session(session, read_stamp(until)) for session, until in sessions.items())


def end_token(digest: object, until: datetime) -> EndToken:
    """The same for a token. Raises :class:`BadInput`."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BadInput("token: the token's SHA-256 is expected, 64 digits of 0-9 and a-f.")
    return EndToken(digest, until)


def make_offer(offer: str, key: object) -> MakeOffer:
    """The same for an offer; ``key`` is a line as in an ``.pub`` file, of which the comment is dropped. Raises :class:`BadInput`."""
    if not _OFFER.fullmatch(offer):
        raise BadInput(f"{offer[:80]!r} is not an offer's id: 1 to 64 letters, digits, '-' and '_' are expected.")
    words = key.split() if isinstance(key, str) and len(key) <= 1024 else []
    try:
        raw = b64decode(words[1], validate=True) if len(words) > 1 and words[0] == "ssh-ed25519" else b""
    except Base64Error:
        raw = b""
    if len(raw) != _KEY_SIZE or not raw.startswith(_KEY_TYPE):
        raise BadInput("key: a public key as OpenSSH writes it is expected, of type ssh-ed25519.")
    return MakeOffer(offer, f"ssh-ed25519 {words[1]}")


def write_change(change: Change) -> dict[str, Any]:
    """As JSON, for the state file and the workers."""
    match change:
        case AddRoute(route):
            use = {"at": stamp(route.use.at), "acted": stamp(route.use.acted)}
            return {"do": "route", "path": route.path, "data": dict(route.data), **use}
        case DropRoute(path):
            return {"do": "drop", "path": path}
        case EndSession(session, until):
            return {"do": "session", "id": session, "until": stamp(until)}
        case EndToken(digest, until):
            return {"do": "token", "digest": digest, "until": stamp(until)}
        case MakeOffer(offer, key):
            return {"do": "offer", "id": offer, "key": key}
        case DropOffer(offer):
            return {"do": "withdraw", "id": offer}
        case Seen(at, acted):
            return {"do": "seen", "at": _stamps(at), "acted": _stamps(acted)}
        case _:
            assert_never(change)


def read_change(content: Mapping[str, Any], now: datetime) -> Change | None:
    """The other way; ``None`` for a kind that only a newer version knows. Raises BadInput, and KeyError or TypeError for what never was one."""
    match content["do"]:
        case "route":
            route = read_route(content["path"], content["data"], min(read_stamp(content["at"]), now))
            if "acted" in content:  # one that an older version wrote does not tell
                route.use.acted = min(read_stamp(content["acted"]), now)
            return AddRoute(route)
        case "drop":
            return DropRoute(str(content["path"]))
        case "session":
            return end_session(content["id"], read_stamp(content["until"]))
        case "token":
            return end_token(content["digest"], read_stamp(content["until"]))
        case "offer":
            return make_offer(str(content["id"]), content["key"])
        case "withdraw":
            return DropOffer(str(content["id"]))
        case "seen":
            return Seen(_moments(content["at"], now), _moments(content.get("acted", {}), now))
        case _:
            return None


def _stamps(moments: Mapping[str, datetime]) -> dict[str, str]:
    return {path: stamp(moment) for path, moment in moments.items()}


def _moments(stamps: Mapping[str, Any], now: datetime) -> dict[str, datetime]:
    return {str(path): min(read_stamp(moment), now) for path, moment in stamps.items()}


# ---------------------------------------------------------------- the book


class Book:
    """What is in force. ``revoked`` and ``ended_tokens`` hold until when each is to be remembered, ``offers`` the public keys by id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.routes: RouteTable[Route] = RouteTable()
        self.revoked: dict[str, datetime] = {}
        self.ended_tokens: dict[str, datetime] = {}
        self.offers: dict[str, str] = {}

    def apply(self, change: Change) -> None:
        """Carry out a change; what is so already stays so."""
        match change:
            case AddRoute(route):
                self.add(route)
            case DropRoute(path):
                self.routes.delete(path)
            case EndSession(session, until):
                self.revoked[session] = max(until, self.revoked.get(session, until))
            case EndToken(digest, until):
                self.ended_tokens[digest] = max(until, self.ended_tokens.get(digest, until))
            case MakeOffer(offer, key):
                self.offers[offer] = key
            case DropOffer(offer):
                self.offers.pop(offer, None)
            case Seen():
                self._note_use(change)
            case _:
                assert_never(change)

    def _note_use(self, seen: Seen) -> None:
        for path in seen.at.keys() | seen.acted.keys():
            known = self.routes.get(path)
            if known is not None:
                use = known.use
                use.at = max(use.at, seen.at.get(path, use.at))
                use.acted = max(use.acted, seen.acted.get(path, use.acted))

    def add(self, route: Route) -> None:
        """Add or replace. Open connections go on telling of their use, if the route leads where it led."""
        known = self.routes.get(route.path)
        if known is not None and route.leads_where(known):
            known.use.at = max(known.use.at, route.use.at)
            route.use = known.use
            if known.data == route.data:
                return
        self.routes.add(route.path, route)

    def forget_old(self) -> None:
        """Drop what ended so long ago that nobody could pass by it anyway."""
        now = self._clock()
        for ended in (self.revoked, self.ended_tokens):
            for name in [name for name, until in ended.items() if until <= now]:
                del ended[name]

    def changes(self) -> Iterator[Change]:
        """The changes that make an empty book into this one."""
        for _, route in self.routes.all():
            yield AddRoute(route)
        for session, until in list(self.revoked.items()):
            yield EndSession(session, until)
        for digest, until in list(self.ended_tokens.items()):
            yield EndToken(digest, until)
        for offer, key in list(self.offers.items()):
            yield MakeOffer(offer, key)

    def __len__(self) -> int:
        """How many of them there are."""
        return len(self.routes) + len(self.revoked) + len(self.ended_tokens) + len(self.offers)

    def idle_since(self, moment: datetime | None) -> Iterator[tuple[str, Route]]:
        """All routes, or those nobody used since."""
        return ((key, route) for key, route in self.routes.all() if moment is None or route.last_activity < moment)


class Activity:
    """Finds out which routes were used since it was asked last."""

    __slots__ = ("_book", "_told")

    def __init__(self, book: Book) -> None:
        self._book = book
        self._told: dict[str, tuple[datetime, datetime]] = {}

    def news(self) -> Seen:
        """What was used since."""
        former, self._told = (
            self._told,
            {path: (route.use.at, route.use.acted) for path, route in self._book.routes.all()},
        )
        fresh = {path: use for path, use in self._told.items() if former.get(path) != use}
        acted = {path: use[1] for path, use in fresh.items() if path not in former or former[path][1] != use[1]}
        return Seen({path: use[0] for path, use in fresh.items()}, acted)
