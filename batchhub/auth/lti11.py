"""Launches from a learning platform by LTI 1.1: a form signed with a secret that platform and hub share. For platforms without 1.3.

Whoever knows the secret can be anybody of that platform, and a launch is tied to no browser; so the hub asks the person before it signs them in.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from traitlets import Dict, Set, Unicode

from batchhub.auth.base import Authenticator, KnownPerson, LoginKind, Place
from batchhub.auth.clock import utc_now
from batchhub.auth.lti13 import model_of, need_https, still
from batchhub.auth.lti_people import ID_LIMIT, MOST_ROLES, Learner
from batchhub.auth.lti_tables import Consumer, check_username_key, frames_of, read_consumers
from batchhub.auth.once import Once
from batchhub.auth.secretfile import read_secret_file
from batchhub.core.errors import ConfigError
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

WINDOW = timedelta(minutes=5)
"""How far the time of a launch may be from ours, either way."""
SHORTEST = 16
"""Characters of a secret; a shorter one could be found by guessing."""

_TIME = re.compile(r"[1-9][0-9]{8,10}")
_FIXED = {
    "lti_message_type": "basic-lti-launch-request",
    "lti_version": "LTI-1p0",
    "oauth_signature_method": "HMAC-SHA1",
}


class LTI11Authenticator(Authenticator):
    """Signs in whoever opens this hub in a course of one of ``consumers``."""

    kind = LoginKind.LTI11

    consumers = Dict(
        key_trait=Unicode(),
        help="The platforms that share a secret with this hub: {consumer key: {'secret_file': a file that only the hub's account may read "
        "(0600)}}. Besides: 'title', 'prefix', 'trusts_email', 'admin_roles', 'frame_origins'.",
    ).tag(config=True)
    username_key = Unicode(
        "sub",
        help="What becomes the name: 'sub', the platform's own id of a person (user_id); 'email'; 'lis_person_sourcedid'; 'custom.NAME', a "
        "custom parameter.",
    ).tag(config=True)
    allowed_groups = Set(
        Unicode(), help="Members of one of these may sign in: {'course:42', 'course:77:instructor'}."
    ).tag(config=True)

    def __init__(self, *, clock: Clock = utc_now, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        name = f"c.{type(self).__name__}"
        self._clock = clock
        self._consumers = read_consumers(self.consumers, f"{name}.consumers")
        check_username_key(self.username_key, [one.source for one in self._consumers.values()], f"{name}.username_key")
        self._tools = _tools()
        for consumer in self._consumers.values():
            self._secret(consumer)
        self._used = Once()
        self._born = clock()
        self._nobodys = secrets.token_urlsafe(32)

    @property
    def frames(self) -> Sequence[str]:
        """The platforms' own pages."""
        return frames_of([one.source for one in self._consumers.values()])

    def settle(self, place: Place) -> None:
        """Raises ConfigError: over plain http a launch can be read and used by others before it arrives."""
        need_https(place, type(self).__name__)

    def lead(self) -> None:
        """What was made before may have been used at the hub that was there then."""
        self._born = self._clock()

    async def preview(self, handler: Any, data: Mapping[str, Any]) -> str | None:
        """Whom a launch would sign in, for the page that asks; it is not used up. ``None`` if it does not count."""
        del handler
        read = self._read(data["fields"], data["url"])
        if read is None:
            return None
        learner, consumer = read
        return f"{learner.person or learner.subject} ({consumer.source.title})"

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any]:
        """Nothing new but the lists."""
        del handler
        return still(user, self, (one.source for one in self._consumers.values()))

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Who the signed form is about: ``data`` holds its ``fields`` and the ``url`` it was posted to. Raises TooMany, ConfigError."""
        del handler
        fields: Mapping[str, str] = data["fields"]
        read = self._read(fields, data["url"])
        if read is None:
            return None
        learner, consumer = read
        until = datetime.fromtimestamp(int(fields["oauth_timestamp"]), UTC) + WINDOW
        # The nonce is for one timestamp of one consumer (RFC 5849 section 3.3).
        what = "\n".join((consumer.key, fields["oauth_timestamp"], fields["oauth_nonce"]))
        if not self._used.use(what, until + timedelta(seconds=1), self._clock()):
            log.warning("%s: the launch does not count: used before", consumer.source.title)
            return None
        state = {"lti": {name: value for name, value in fields.items() if name != "oauth_signature"}}
        after = fields.get("custom_next") or data["url"]
        return model_of(self, learner, consumer.source, state, after)

    def _read(self, fields: Mapping[str, str], url: str) -> tuple[Learner, Consumer] | None:
        """The signature first: nothing of a form that nobody signed is looked at, or told."""
        consumer = self._consumers.get(fields.get("oauth_consumer_key", ""))
        secret = self._secret(consumer) if consumer else self._nobodys
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        try:
            signed = self._tools.fits(url, fields, secret)
        except ValueError:
            signed = False
        if consumer is None or not signed:
            log.warning("LTI 1.1: a launch of consumer %.100r that it did not sign", fields.get("oauth_consumer_key"))
            return None
        problem = "a parameter comes twice" if _twice(query, fields) else problem_of(fields, self._clock(), self._born)
        if problem:
            log.warning("%s: the launch does not count: %s", consumer.source.title, problem)
            return None
        return learner_of(fields), consumer

    def _secret(self, consumer: Consumer) -> str:
        """Read at each launch, so that a new secret needs no restart. Raises ConfigError."""
        secret = read_secret_file(consumer.secret_file, consumer.setting)
        if len(secret) < SHORTEST:
            raise ConfigError(
                f"{consumer.setting}: the secret has {len(secret)} characters; at least {SHORTEST} are needed."
            )
        return secret


def problem_of(fields: Mapping[str, str], now: datetime, born: datetime) -> str:
    """Why a form that is rightly signed is no launch for us, now; empty if it is one. ``born``: since when uses are remembered."""
    for name, wanted in _FIXED.items():
        if fields.get(name) != wanted:
            return f"{name} is not {wanted}"
    if fields.get("oauth_version", "1.0") != "1.0" or fields.get("oauth_token"):
        return "oauth_version or oauth_token is not as in a launch"
    if missing := _missing(fields):
        return f"{missing} is missing or too long"
    if not _TIME.fullmatch(fields.get("oauth_timestamp", "")):
        return "oauth_timestamp is not a time"
    at = datetime.fromtimestamp(int(fields["oauth_timestamp"]), UTC)
    if abs(now - at) > WINDOW:
        return f"oauth_timestamp is {abs((now - at).total_seconds()):.0f} s away"
    if at < born.replace(microsecond=0):
        return "it was made before this hub started or took over, so that it cannot know whether it was used"
    return ""


def learner_of(fields: Mapping[str, str]) -> Learner:
    """What the form says of the person."""
    return Learner(
        subject=fields["user_id"],
        course=fields.get("context_id", ""),
        roles=tuple(role.strip() for role in fields["roles"].split(",", MOST_ROLES)),
        email=fields.get("lis_person_contact_email_primary", ""),
        sourcedid=fields.get("lis_person_sourcedid", ""),
        person=_name(fields.get("lis_person_name_full", "")),
        custom={name.removeprefix("custom_"): value for name, value in fields.items() if name.startswith("custom_")},
    )


def _missing(fields: Mapping[str, str]) -> str:
    for name in ("user_id", "resource_link_id", "oauth_nonce"):
        if not 0 < len(fields.get(name, "")) <= ID_LIMIT:
            return name
    if len(fields.get("context_id", "")) > ID_LIMIT:
        return "context_id"
    return "" if "roles" in fields else "roles"


def _name(text: str) -> str:
    return text if len(text) <= ID_LIMIT and text.isprintable() else ""


def _twice(query: Sequence[tuple[str, str]], fields: Mapping[str, str]) -> bool:
    """Some platforms post the address' parameters too; then they must say the same."""
    return len(dict(query)) < len(query) or any(fields.get(name, value) != value for name, value in query)


def _tools() -> ModuleType:
    """oauthlib, loaded at first use. Raises ConfigError that names the extra."""
    try:
        return import_module("batchhub.auth.lti11_signature")
    except ImportError as error:
        raise ConfigError(f"LTI needs more packages: pip install 'batchhub[lti]' ({error}).") from error
