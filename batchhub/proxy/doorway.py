"""How a browser gets its ticket at a server's own host, where the hub can set no cookie.

A browser without a ticket is sent to the hub with a *door*: the hash of a secret that it keeps in a cookie of the server's host. The hub
answers the person it knows with a page whose form posts an entry (:class:`batchhub.core.tickets.Entry`) to :data:`ENTER` at that
host. The proxy gives the ticket if the form was the hub's own (``Origin``) and the browser has the door's secret. So an entry that somebody
else was given, or took, opens nothing: not in a victim's browser (whom it would sign in as another), nor in a thief's.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never
from urllib.parse import parse_qsl

from batchhub.core.errors import BadInput, Denied
from batchhub.core.hosts import ENTER, Origin, host_name
from batchhub.core.routes import canonical_path
from batchhub.core.tickets import door_of, sign, verify_entry
from batchhub.proxy import pages
from batchhub.proxy.access import Facts, Knock, Redirect, Refuse, Tickets, navigation, ticket_cookie
from batchhub.proxy.context import Context
from batchhub.proxy.gate import facts_of
from batchhub.proxy.headers import Peer, cookies
from batchhub.proxy.wire import RequestHead

MAX_FORM = 16 * 1024
_DOOR_LIFE = 600  # seconds; a person may have to sign in meanwhile, and other tabs use the same one
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_QUERY = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Entered:
    """Go on to ``location``, a path of this host, with the ticket's ``cookie``."""

    location: str
    cookie: str


def knock(url: str, known: str, *, secure: bool) -> tuple[str, str]:
    """The hub's address with this browser's door, and the Set-Cookie value of the door's secret. ``known`` is the one it has, if any."""
    secret = known if _SECRET.fullmatch(known) else secrets.token_urlsafe(32)
    marks = "HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
    cookie = f"{_cookie(secure=secure)}={secret}; Path=/; Max-Age={_DOOR_LIFE}; {marks}"
    return f"{url}&door={door_of(secret)}", cookie


def door_secret(head: RequestHead, *, secure: bool) -> str:
    """The door's secret that this browser has; empty if it has none."""
    found = cookies(head.all(b"cookie"), _cookie(secure=secure).encode())
    return found[0] if found else ""


def _cookie(*, secure: bool) -> str:
    # With the prefix, browsers take it from this host alone, over https; a page of a neighbouring host cannot put one here.
    return "__Host-batchhub-door" if secure else "batchhub-door"


def refused(facts: Facts, origin: Origin, hub: str, *, form: bool) -> Redirect | Refuse | None:
    """What is answered before the form is read; ``None``: read it. ``hub`` is the hub's path, ``form``: the body can be a form."""
    if not origin.covers(host_name(facts.host)):
        return Refuse(404, "Nobody enters here.")
    if navigation(facts):
        return Redirect(f"{origin.text}{hub}home")  # somebody reloads, or comes back to, what was a form's answer
    if facts.method != "POST" or not form:
        return Refuse(400, "The hub's own form is expected here.")
    if facts.origin != origin.text:
        return Refuse(403, "This form was not the hub's own, so nobody is let in by it.")
    return None


def enter(
    body: bytes, host: str, door: str, now: datetime, *, tickets: Tickets, revoked: Container[str], secure: bool
) -> Entered | Refuse:
    """Read the form, posted to this host. ``door`` is the secret from the browser's cookie, empty if it has none."""
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=4))
        entry = verify_entry(tickets.keys, fields["entry"], now)
        location = _below(fields["next"], entry.ticket.path)
    except (ValueError, KeyError):
        return Refuse(400, "The hub's own form is expected here.")
    except (Denied, BadInput) as error:
        return Refuse(403, f"{error} Open your server again.")
    ticket = entry.ticket
    if not door or not hmac.compare_digest(door_of(door).encode(), entry.door.encode("utf-8", "replace")):
        return Refuse(403, "This browser did not ask to come in here, or it keeps no cookies. Open your server again.")
    if ticket.host != host_name(host) or ticket.session in revoked:
        return Refuse(403, "You are not signed in to this server, or it is not yours. Sign in again.")
    return Entered(location, ticket_cookie(sign(tickets.signing_key, ticket), ticket, now, secure=secure))


def _below(target: str, path: str) -> str:
    """The canonical form of a path and query below ``path`` (unescaped, as a ticket has it). Raises BadInput."""
    raw, mark, query = target.partition("?")
    canonical = canonical_path(raw)
    if not ("/".join(("", *canonical.segments)) + "/").startswith(path) or not _QUERY.fullmatch(query):
        raise BadInput("This address does not lead into the server that was opened.")
    return f"{canonical.text}{mark}{query}"


class FormReader:
    """Stands where an application's connection stands otherwise: collects the form and hands it over once it is whole."""

    __slots__ = ("_answer", "_body", "_length", "_loop")

    def __init__(self, length: int, answer: Callable[[bytes], None], loop: asyncio.AbstractEventLoop) -> None:
        self._length = length
        self._answer = answer
        self._loop = loop
        self._body = bytearray()

    def write(self, data: bytes) -> None:
        """A part of the form."""
        self._body += data
        if len(self._body) >= self._length:
            # In the loop's next turn: the client's side has noted by then that the request is whole, and may keep the connection.
            self._loop.call_soon(self._answer, bytes(self._body))


def at_the_door(
    context: Context, head: RequestHead, peer: Peer, answer: Callable[[Redirect | Refuse | Entered], None]
) -> FormReader | None:
    """Take a request for :data:`ENTER`. It is answered at once, or when the form that is returned has been read."""

    def say(decided: Redirect | Refuse | Entered) -> None:
        context.observer.decided(type(decided))
        answer(decided)

    settings = context.settings
    facts = facts_of(head, peer, ENTER)
    kind = (head.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    form = kind == b"application/x-www-form-urlencoded" and 0 < head.length <= MAX_FORM
    nobody = Refuse(404, "Nobody enters here.")
    said = refused(facts, settings.origin, settings.hub_prefix, form=form) if settings.origin is not None else nobody
    if said is not None:
        say(said)
        return None
    secure = settings.secure_cookies
    secret = door_secret(head, secure=secure)

    def read(body: bytes) -> None:
        tickets, revoked, now = context.tickets, context.book.revoked, context.clock()
        say(enter(body, facts.host, secret, now, tickets=tickets, revoked=revoked, secure=secure))

    return FormReader(head.length, read, context.loop)


Spoken = Redirect | Knock | Refuse | Entered


def spoken(answer: Spoken, head: RequestHead, *, close: bool, secure: bool) -> tuple[int, bytes]:
    """The status and the whole response."""
    match answer:
        case Redirect(url):
            return 302, pages.redirect(url, head, close=close)
        case Knock(url):
            url, cookie = knock(url, door_secret(head, secure=secure), secure=secure)
            return 302, pages.redirect(url, head, close=close, cookie=cookie)
        case Entered(location, cookie):
            return 303, pages.redirect(location, head, close=close, code=303, cookie=cookie)
        case Refuse(status, words):
            person = head.get(b"sec-fetch-mode") == b"navigate"
            return status, pages.answer(status, words, head, close=close, json_only=not person)
        case _:
            assert_never(answer)
