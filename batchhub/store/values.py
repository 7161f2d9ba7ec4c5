"""The frozen values the store hands out that are not in :mod:`batchhub.core.model`.

``auth`` and ``control`` do not import this module: they name the attributes they need in Protocols of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from batchhub.core.model import ServerId, UserName


@dataclass(frozen=True, slots=True)
class User:
    """A person who signed in at least once, or was named by somebody who may."""

    name: UserName
    admin: bool
    created: datetime
    last_login: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a server's evidence trail.

    ``kind`` is a short word for programs (``phase``, ``submit``, ``stop`` …), ``words`` a sentence for people, ``by`` who caused it: a
    user's name, ``scheduler`` or ``hub``. ``seen`` is what was seen of the job that led to it, ``done`` what was done then, each in a few words or empty.
    """

    server_id: ServerId
    at: datetime
    kind: str
    words: str
    by: str
    seen: str = ""
    done: str = ""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A hub session. ``id`` is the SHA-256 (hex) of the secret in the cookie, so a stolen database signs nobody in.

    ``expires`` moves with use, ``absolute`` never does.
    """

    id: str
    user: UserName
    created: datetime
    last_seen: datetime
    expires: datetime
    absolute: datetime
    address: str
    agent: str
    revoked: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiToken:
    """An API token. ``hash`` is the SHA-256 (hex) of it; ``first`` its first characters, by which its owner knows it again."""

    id: int
    hash: str = field(repr=False)
    first: str
    user: UserName
    note: str
    created: datetime
    expires: datetime | None = None
    last_used: datetime | None = None
