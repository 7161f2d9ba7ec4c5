"""The frozen values the store hands out that are not in :mod:`batchhub.core.model`.

``auth`` and ``control`` do not import this module: they name the attributes they need in Protocols of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from batchhub.core.model import ServerId, UserName


@dataclass(frozen=True, slots=True)
class User:
    """A person who signed in at least once, or was named by somebody who may. ``groups`` and ``way`` are of their last sign-in or refresh."""

    name: UserName
    admin: bool
    created: datetime
    last_login: datetime | None = None
    groups: tuple[str, ...] = ()
    way: str = ""


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
    """An API token. ``hash`` is the SHA-256 (hex) of it; ``first`` its first characters, by which its owner knows it again.

    ``session`` is the id of the session it ends with, if it ends with one.
    """

    id: int
    hash: str = field(repr=False)
    first: str
    user: UserName
    note: str
    created: datetime
    expires: datetime | None = None
    last_used: datetime | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class News:
    """That something happened to a server: enough to wake whoever waits for it. ``by`` as in :class:`Event`."""

    id: int
    server_id: ServerId
    user: UserName
    by: str


@dataclass(frozen=True, slots=True)
class ClusterWord:
    """What the leader last knew of a cluster: since when it is silent and why, and when it last answered."""

    silent_since: datetime | None = None
    silent_word: str = ""
    answered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Leader:
    """Which hub led last, and whether it (or a newer one) leads now."""

    epoch: int
    holder: str
    since: datetime
    leads: bool


@dataclass(frozen=True, slots=True)
class SealedText:
    """Something sealed in a row: ``table`` and ``key`` say which row, ``text`` is what stands there."""

    table: str
    key: tuple[str, ...]
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SSHKey:
    """A person's key for one cluster. ``works`` is when the cluster last took it, if it has not refused it since."""

    cluster: str
    created: datetime
    public: str
    sealed: str = field(repr=False)
    works: datetime | None = None
