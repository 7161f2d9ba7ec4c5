"""The audit trail's values: who did what about whom, from where. Pure.

A deed is of the people's side: signing in, ending sessions, giving rights, acting for others. What happens to servers has a trail of its own
(:class:`batchhub.store.values.Event`). No deed holds a secret; what a stranger typed stands in one line, bounded and escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

MOST_NAME = 100
MOST_WORDS = 400


class DeedKind(StrEnum):
    """What was done. A trail may hold other words too: those of a newer version of the hub."""

    SIGN_IN = "sign-in"
    REFUSED = "sign-in refused"
    SIGN_OUT = "sign-out"
    SESSION_ENDED = "session ended"
    TOKEN_MADE = "token made"  # noqa: S105 - a kind of deed
    TOKEN_REVOKED = "token revoked"  # noqa: S105
    ADMIN_GIVEN = "admin given"
    ADMIN_TAKEN = "admin taken"
    ENTRY_REFUSED = "entry refused"
    STOPPED_FOR = "server stopped for"
    EXTENDED_FOR = "server extended for"
    KEY_MADE = "key made"
    KEY_DELETED = "key deleted"
    VAULT_ROTATED = "vault rotated"
    SSH_CA = "ssh-ca"
    HUB_STARTED = "hub started"
    LEFT_OUT = "left out"


TITLES: Mapping[str, str] = MappingProxyType(
    {
        DeedKind.SIGN_IN: "Signed in",
        DeedKind.REFUSED: "Sign-in refused",
        DeedKind.SIGN_OUT: "Signed out",
        DeedKind.SESSION_ENDED: "Session ended",
        DeedKind.TOKEN_MADE: "Token made",
        DeedKind.TOKEN_REVOKED: "Token revoked",
        DeedKind.ADMIN_GIVEN: "Admin rights given",
        DeedKind.ADMIN_TAKEN: "Admin rights taken",
        DeedKind.ENTRY_REFUSED: "Kept out of somebody's server",
        DeedKind.STOPPED_FOR: "Server stopped for another",
        DeedKind.EXTENDED_FOR: "More time for another's server",
        DeedKind.KEY_MADE: "SSH key made",
        DeedKind.KEY_DELETED: "SSH key deleted",
        DeedKind.VAULT_ROTATED: "Vault rotated",
        DeedKind.SSH_CA: "SSH authority",
        DeedKind.HUB_STARTED: "Hub started",
        DeedKind.LEFT_OUT: "In the log alone",
    }
)
"""For people."""


@dataclass(frozen=True, slots=True)
class Deed:
    """One line of the trail.

    ``user`` is whom it is about, ``by`` who did it: a user's name, ``hub`` for the hub itself, empty for strangers. ``address`` is where
    it was asked from, as the proxy knows it. Make one with :func:`deed`.
    """

    at: datetime
    kind: str
    user: str = ""
    by: str = ""
    address: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class DeedScope:
    """Which deeds. ``user``: about or by them; ``before``: with smaller numbers, which is how one turns pages; ``None`` is no limit."""

    user: str | None = None
    kind: str | None = None
    since: datetime | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class DeedLine:
    """A deed with its number in the trail; newer ones have greater numbers, but for what two hubs write at once."""

    number: int
    deed: Deed


def deed(
    at: datetime, kind: DeedKind, user: str = "", *, by: str | None = None, address: str = "", words: str = ""
) -> Deed:
    """A deed whose texts are one line each, bounded and escaped; ``by=None``: the user."""
    name = one_line(user, MOST_NAME)
    doer = name if by is None else one_line(by, MOST_NAME)
    return Deed(at, kind, name, doer, one_line(address, 64), one_line(words, MOST_WORDS))


def one_line(text: str, limit: int) -> str:
    r"""At most ``limit`` characters; what is not printable is written as Python would (``\n``, ``\x1b``, ``\u202e``), and so is ``\``."""
    shown = "".join(_shown(letter) for letter in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _shown(letter: str) -> str:
    if letter.isprintable() and letter != "\\":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def as_json(done: Deed) -> dict[str, str]:
    """For ``json.dumps``; the same keys in the log and from the command line."""
    return {
        "time": done.at.astimezone(UTC).isoformat(),
        "kind": done.kind,
        "user": done.user,
        "by": done.by,
        "address": done.address,
        "words": done.words,
    }
