"""Access tickets: what a browser shows the proxy to enter a server, checked without asking the hub.

A ticket is a cookie scoped to one user's paths and bound to the hub session it was issued in. The hub signs the first one; the
proxy checks it at every request and signs a renewed one while the session lives, until ``absolute``. Both hold the same keys.
Several keys are a rotation: the first signs, all are accepted.
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

from batchhub.core.errors import BadInput, Denied

COOKIE_NAME = "batchhub-access"
"""The cookie a ticket travels in; its ``Path`` is the ticket's path."""

MAX_LENGTH = 2048
"""Characters of a signed ticket. Longer text is refused unread."""

MIN_KEY = 32
"""Bytes a key must have at least."""

_VERSION = "v1"
_PURPOSE = b"batchhub access ticket\0"
_FUTURE = timedelta(seconds=60)  # how far the clocks of hub and proxy may differ


@dataclass(frozen=True, slots=True)
class Ticket:
    """``user`` may pass below ``path`` (``/user/NAME/``) from ``issued`` until ``expires``; renewals end at ``absolute``.

    ``session`` is the hub session whose end revokes the ticket. Times are aware; fractions of a second are not kept.
    """

    user: str
    session: str
    path: str
    issued: datetime
    expires: datetime
    absolute: datetime


def sign(key: bytes, ticket: Ticket) -> str:
    """The ticket as cookie text: ``v1.<payload>.<HMAC-SHA256>``, both base64url. Raises :class:`BadInput` if it is unusable."""
    _check_key(key)
    times = [int(moment.timestamp()) for moment in (ticket.issued, ticket.expires, ticket.absolute)]
    fields = [ticket.user, ticket.session, ticket.path, *times]
    body = _encode(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode())
    text = f"{_VERSION}.{body}.{_encode(_mac(key, body))}"
    if len(text) > MAX_LENGTH:
        raise BadInput(f"The access ticket of {ticket.user[:40]!r} would be longer than {MAX_LENGTH} characters.")
    if not (ticket.path.startswith("/") and ticket.path.endswith("/")):
        raise BadInput(f"A ticket's path begins and ends with '/'; {ticket.path[:80]!r} does not.")
    return text


def verify(keys: Sequence[bytes], text: str, now: datetime) -> Ticket:
    """Read a signed ticket. Raises :class:`Denied` if it is malformed, not ours, expired, or not valid yet."""
    version, _, rest = text.partition(".")
    body, _, seal = rest.partition(".")
    if len(text) > MAX_LENGTH or version != _VERSION or not text.isascii():
        raise Denied("This is not an access ticket.")
    given = _decode(seal)
    # Every key is tried, so that the time taken does not tell which one it was.
    genuine = False
    for key in keys:
        _check_key(key)
        genuine |= hmac.compare_digest(_mac(key, body), given)
    if not genuine:
        raise Denied("The access ticket's signature is not ours.")
    ticket = _read(_decode(body))
    check_times(ticket, now)
    return ticket


def check_times(ticket: Ticket, now: datetime) -> None:
    """Raises :class:`Denied` unless the ticket is valid at this moment."""
    if not ticket.issued - _FUTURE <= now < min(ticket.expires, ticket.absolute):
        raise Denied("The access ticket has expired.")


def renewed(ticket: Ticket, now: datetime) -> Ticket | None:
    """A fresh ticket of the same length once a third of this one's life is used; ``None`` while there is no need or no right.

    The new one never lasts beyond ``absolute``; a ticket that already reaches it is not renewed.
    """
    life = ticket.expires - ticket.issued
    if now < ticket.issued + life / 3 or ticket.expires >= ticket.absolute:
        return None
    return replace(ticket, issued=now, expires=min(now + life, ticket.absolute))


def _check_key(key: bytes) -> None:
    if len(key) < MIN_KEY:
        raise BadInput(f"A ticket key needs at least {MIN_KEY} bytes.")


def _mac(key: bytes, body: str) -> bytes:
    return hmac.digest(key, _PURPOSE + f"{_VERSION}.{body}".encode("ascii"), hashlib.sha256)


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


def _read(data: bytes) -> Ticket:
    try:
        user, session, path, issued, expires, absolute = json.loads(data)
        moments = [datetime.fromtimestamp(moment, UTC) for moment in (issued, expires, absolute)]
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise Denied("The access ticket cannot be read.") from error
    if not all(isinstance(text, str) for text in (user, session, path)):
        raise Denied("The access ticket cannot be read.")
    return Ticket(user, session, path, *moments)
