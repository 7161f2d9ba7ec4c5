"""Access tickets: what a browser shows the proxy to enter a server, checked without asking the hub.

A ticket is a cookie scoped to one user's paths and bound to the hub session it was issued in. The hub signs the first one; the
proxy checks it at every request and signs a renewed one while the session lives, until ``absolute``. Both hold the same keys.
Several keys are a rotation: the first signs, all are accepted.

Where servers have hosts of their own, the hub cannot set a cookie there. It hands the browser an :class:`Entry` instead: a promise of a
ticket, good for a minute, for one host and for the one browser that stands at that host's door. It is no ticket itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from batchhub.core.errors import BadInput, Denied

COOKIE_NAME = "batchhub-access"
"""The cookie a ticket travels in; its ``Path`` is the ticket's path."""

MAX_LENGTH = 2048
"""Characters of a signed ticket. Longer text is refused unread."""

MIN_KEY = 32
"""Bytes a key must have at least."""

ENTRY_LIFE = timedelta(seconds=60)
"""How long an entry is good."""

_VERSION = "v1"
_ACCESS = b"batchhub access ticket\0"
_ENTRY = b"batchhub entry\0"
_FUTURE = timedelta(seconds=60)  # how far the clocks of hub and proxy may differ


@dataclass(frozen=True, slots=True)
class Ticket:
    """``user`` may pass below ``path`` (``/user/NAME/``) from ``issued`` until ``expires``; renewals end at ``absolute``.

    ``session`` is the hub session whose end revokes the ticket. ``host`` is the only host it opens, empty where servers have none of their
    own. Times are aware; fractions of a second are not kept.
    """

    user: str
    session: str
    path: str
    issued: datetime
    expires: datetime
    absolute: datetime
    host: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """``ticket`` shall be given to the browser that knows what ``door`` is the hash of, until ``until``."""

    ticket: Ticket
    door: str
    until: datetime


def sign(key: bytes, ticket: Ticket) -> str:
    """The ticket as cookie text: ``v1.<payload>.<HMAC-SHA256>``, both base64url. Raises :class:`BadInput` if it is unusable."""
    text = _seal(key, _ACCESS, _fields(ticket))
    if len(text) > MAX_LENGTH:
        raise BadInput(f"The access ticket of {ticket.user[:40]!r} would be longer than {MAX_LENGTH} characters.")
    if not (ticket.path.startswith("/") and ticket.path.endswith("/")):
        raise BadInput(f"A ticket's path begins and ends with '/'; {ticket.path[:80]!r} does not.")
    return text


def verify(keys: Sequence[bytes], text: str, now: datetime) -> Ticket:
    """Read a signed ticket. Raises :class:`Denied` if it is malformed, not ours, expired, or not valid yet."""
    ticket = _ticket(_open(keys, _ACCESS, text))
    check_times(ticket, now)
    return ticket


def sign_entry(key: bytes, entry: Entry) -> str:
    """The entry as text, for a form's hidden field. Raises :class:`BadInput` as :func:`sign` does."""
    sign(key, entry.ticket)
    text = _seal(key, _ENTRY, [_fields(entry.ticket), entry.door, int(entry.until.timestamp())])
    if len(text) > MAX_LENGTH:
        raise BadInput(f"The entry of {entry.ticket.user[:40]!r} would be longer than {MAX_LENGTH} characters.")
    return text


def verify_entry(keys: Sequence[bytes], text: str, now: datetime) -> Entry:
    """Read a signed entry. Raises :class:`Denied` if it is malformed, not ours, too old, or its ticket is."""
    content = _open(keys, _ENTRY, text)
    if not (isinstance(content, list) and len(content) == 3 and isinstance(content[1], str)):
        raise Denied("The entry cannot be read.")
    ticket, until = _ticket(content[0]), _moment(content[2])
    if not now < until <= now + ENTRY_LIFE + _FUTURE:
        raise Denied("Entering took too long.")
    check_times(ticket, now)
    return Entry(ticket, content[1], until)


def door_of(secret: str) -> str:
    """What the hub is told of a browser's secret at a server's door: its hash."""
    return _encode(hashlib.sha256(b"batchhub door\0" + secret.encode("utf-8", "replace")).digest())


def check_times(ticket: Ticket, now: datetime) -> None:
    """Raises :class:`Denied` unless the ticket is valid at this moment."""
    if not ticket.issued - _FUTURE <= now < min(ticket.expires, ticket.absolute):
        raise Denied("The access ticket has expired.")


def valid_between(ticket: Ticket) -> tuple[datetime, datetime]:
    """From when, and until before when, :func:`check_times` lets the ticket pass."""
    return ticket.issued - _FUTURE, min(ticket.expires, ticket.absolute)


def renewable_from(ticket: Ticket) -> datetime | None:
    """When a third of the ticket's life is used; ``None`` if it already reaches ``absolute`` and is not renewed."""
    if ticket.expires >= ticket.absolute:
        return None
    return ticket.issued + (ticket.expires - ticket.issued) / 3


def renewed(ticket: Ticket, now: datetime) -> Ticket | None:
    """A fresh ticket of the same length once a third of this one's life is used; ``None`` while there is no need or no right.

    The new one never lasts beyond ``absolute``; a ticket that already reaches it is not renewed.
    """
    begin = renewable_from(ticket)
    if begin is None or now < begin:
        return None
    return replace(ticket, issued=now, expires=min(now + (ticket.expires - ticket.issued), ticket.absolute))


def _fields(ticket: Ticket) -> list[Any]:
    times = [int(moment.timestamp()) for moment in (ticket.issued, ticket.expires, ticket.absolute)]
    return [ticket.user, ticket.session, ticket.path, *times, *([ticket.host] if ticket.host else [])]


def _seal(key: bytes, purpose: bytes, content: Any) -> str:
    _check_key(key)
    body = _encode(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
    return f"{_VERSION}.{body}.{_encode(_mac(key, purpose, body))}"


def _open(keys: Sequence[bytes], purpose: bytes, text: str) -> Any:
    """What was sealed. Raises Denied."""
    version, _, rest = text.partition(".")
    body, _, seal = rest.partition(".")
    if len(text) > MAX_LENGTH or version != _VERSION or not text.isascii():
        raise Denied("This is not an access ticket.")
    given = _decode(seal)
    # Every key is tried, so that the time taken does not tell which one it was.
    genuine = False
    for key in keys:
        _check_key(key)
        genuine |= hmac.compare_digest(_mac(key, purpose, body), given)
    if not genuine:
        raise Denied("The access ticket's signature is not ours.")
    try:
        return json.loads(_decode(body))
    except ValueError as error:
        raise Denied("The access ticket cannot be read.") from error


def _check_key(key: bytes) -> None:
    if len(key) < MIN_KEY:
        raise BadInput(f"A ticket key needs at least {MIN_KEY} bytes.")


def _mac(key: bytes, purpose: bytes, body: str) -> bytes:
    return hmac.digest(key, purpose + f"{_VERSION}.{body}".encode("ascii"), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Denied("This is not an access ticket.") from error
    if _encode(data) != text:  # one spelling only: unused bits and padding would make others
        raise Denied("This is not an access ticket.")
    return data


def _ticket(content: Any) -> Ticket:
    if not (isinstance(content, list) and len(content) in {6, 7}):
        raise Denied("The access ticket cannot be read.")
    user, session, path, *times = content[:6]
    host = content[6] if len(content) == 7 else ""
    if not all(isinstance(text, str) for text in (user, session, path, host)):
        raise Denied("The access ticket cannot be read.")
    issued, expires, absolute = (_moment(moment) for moment in times)
    return Ticket(user, session, path, issued, expires, absolute, host)


def _moment(seconds: Any) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise Denied("The access ticket cannot be read.") from error
