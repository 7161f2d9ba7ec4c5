"""Names, groups and rights of people who come from a course, by what LTI 1.3 or 1.1 says of them. Pure.

Both versions say the same things in other words; what is decided of them is here, once.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote

MOST_ROLES = 200
"""Roles that are looked at; the others do not count."""
ID_LIMIT = 255
"""Characters of an id: LTI Core 1.3 sections 5.3.4 and 5.4.1 allow no more."""
CUSTOM = "custom."
"""Before the name of a custom parameter, in ``username_key``."""

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_.@+-]{0,63}")
_HASHED = "x-"
_PRINCIPAL = (
    "Administrator", "ContentDeveloper", "Instructor", "Learner", "Manager", "Member", "Mentor", "Officer",
)  # fmt: skip
_ASSISTANT = "TeachingAssistant"
_IN_COURSE = "http://purl.imsglobal.org/vocab/lis/v2/membership"
_IN_COURSE_1 = "urn:lti:role:ims/lis/"

ROLE_WORDS: Mapping[str, str] = MappingProxyType(
    {
        spelt: role.lower()
        for role in (*_PRINCIPAL, _ASSISTANT)
        for spelt in (role, f"{_IN_COURSE}#{role}", f"{_IN_COURSE_1}{role}")
    }
    | {f"{_IN_COURSE}/Instructor#{_ASSISTANT}": _ASSISTANT.lower()}
)
"""Roles *in the course*, spelt exactly, to the last word of a group. Roles in the institution or the platform make no group: who teaches
somewhere does not teach here. LTI Core 1.3, A.2.3 (short names are of the course too); LTI 1.1, A.2.2."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who vouches: a platform of LTI 1.3 or a consumer of 1.1. What a site says of one holds for nobody else's people.

    ``prefix`` stands before names and course ids. ``trusts_email``: the platform lets nobody have an address that is not theirs.
    """

    title: str
    prefix: str = ""
    trusts_email: bool = False
    admin_roles: frozenset[str] = frozenset()
    frame_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Learner:
    """What a launch that was checked says of a person. Empty texts are things it does not say."""

    subject: str
    course: str = ""
    roles: tuple[str, ...] = ()
    email: str = ""
    sourcedid: str = ""
    person: str = ""
    custom: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


def name_of(learner: Learner, key: str, source: Source) -> str | None:
    """The name that ``key`` (a ``username_key``) gives, with the source's prefix; ``None`` if the launch does not say it."""
    if key == "sub":
        return source.prefix + name_of_subject(learner.subject)
    said: object = learner.custom.get(key.removeprefix(CUSTOM)) if key.startswith(CUSTOM) else ""
    if key == "email" and source.trusts_email:
        said = learner.email
    elif key == "lis_person_sourcedid":
        said = learner.sourcedid
    # "$User.username": a variable that the platform does not know comes back as it was written, the same for everybody.
    if not isinstance(said, str) or not 0 < len(said) <= ID_LIMIT or said.startswith("$"):
        return None
    return source.prefix + said


def name_of_subject(subject: str) -> str:
    """A name for a platform's id of a person; no two ids have the same.

    Ids differ by capitals and may hold what no name does, so those are hashed (100 bits behind ``x-``), as is a plain one that begins so.
    """
    if _PLAIN.fullmatch(subject) and not subject.startswith(_HASHED):
        return subject
    digest = hashlib.sha256(subject.encode("utf-8", "surrogatepass")).digest()
    return _HASHED + b32encode(digest).decode("ascii").lower()[:20]


def groups_of(learner: Learner, source: Source) -> tuple[str, ...]:
    """``course:ID``, and ``course:ID:instructor`` for each role in the course; nothing where there is no course.

    The id is percent-encoded but for letters, digits and ``_.-~@+``: a course whose id holds a colon is no role in another.
    """
    if not learner.course:
        return ()
    course = f"course:{source.prefix}{quote(learner.course, safe='@+', errors='surrogatepass')}"
    words = {ROLE_WORDS[role] for role in learner.roles[:MOST_ROLES] if role in ROLE_WORDS}
    return (course, *(f"{course}:{word}" for word in sorted(words)))


def is_admin(learner: Learner, source: Source) -> bool | None:
    """Whether a role that the site named makes an admin of the hub; ``None`` where it named none: nothing is said."""
    if not source.admin_roles:
        return None
    return not source.admin_roles.isdisjoint(learner.roles[:MOST_ROLES])
