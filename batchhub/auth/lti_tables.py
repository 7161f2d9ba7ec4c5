"""The tables in which a site says which platforms (LTI 1.3) and consumers (LTI 1.1) it believes, read strictly. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import permutations
from typing import Any
from urllib.parse import urlsplit

from batchhub.auth.lti_people import CUSTOM, Source
from batchhub.auth.oauth_http import check_url, is_loopback
from batchhub.core.errors import ConfigError

_PREFIX = re.compile(r"[a-z0-9][a-z0-9_.@+-]{0,31}")
_FRAME = re.compile(r"(https?)://((?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?::[0-9]{1,5})?")
_SOURCE = ("title", "prefix", "trusts_email", "admin_roles", "frame_origins")
_PLATFORM = ("client_id", "authorization_endpoint", "jwks_url", "deployment_ids", *_SOURCE)
_CONSUMER = ("secret_file", *_SOURCE)
_KEYS = ("sub", "email", "lis_person_sourcedid")


@dataclass(frozen=True, slots=True)
class Platform:
    """A learning platform that this hub is registered with (LTI 1.3)."""

    issuer: str
    client_id: str
    authorization_endpoint: str
    jwks_url: str
    deployment_ids: frozenset[str]
    source: Source


@dataclass(frozen=True, slots=True)
class Consumer:
    """One that shares a secret with this hub (LTI 1.1). ``setting`` names the file in a sentence."""

    key: str
    secret_file: str
    setting: str
    source: Source


def read_platforms(value: Mapping[str, Any], setting: str) -> tuple[Platform, ...]:
    """From ``{issuer: table, or a list of tables with a client_id each}``. Raises ConfigError that names the field."""
    found = []
    for issuer, given in value.items():
        tables = given if isinstance(given, list | tuple) else [given]
        if not issuer or not tables:
            raise ConfigError(f"{setting}: each issuer needs a name and at least one table.")
        found += [_platform(issuer, table, f"{setting}[{issuer!r}]") for table in tables]
    if not found:
        raise ConfigError(f"{setting} is empty: name the learning platforms that this hub is registered with.")
    known = [(one.issuer, one.client_id) for one in found]
    if len(set(known)) < len(known):
        raise ConfigError(f"{setting}: the same client_id is there twice for one issuer.")
    _check_apart([one.source for one in found], setting)
    return tuple(found)


def read_consumers(value: Mapping[str, Any], setting: str) -> Mapping[str, Consumer]:
    """From ``{consumer key: table}``. Raises ConfigError that names the field."""
    found = {}
    for key, given in value.items():
        where = f"{setting}[{key!r}]"
        table = _table(given, _CONSUMER, where)
        if not key or len(key) > 255:
            raise ConfigError(f"{setting}: a consumer key has 1 to 255 characters.")
        source = _source(table, where, key, ())
        found[key] = Consumer(key, _text(table, "secret_file", where), f"{where}['secret_file']", source)
    if not found:
        raise ConfigError(
            f"{setting} is empty: name the consumer keys that this hub believes, and the files of their secrets."
        )
    _check_apart([one.source for one in found.values()], setting)
    return found


def check_username_key(key: str, sources: Collection[Source], setting: str) -> None:
    """Refuse what is no key, and an e-mail address of a platform that is not said to check it. Raises ConfigError."""
    if key not in _KEYS and not (key.startswith(CUSTOM) and len(key) > len(CUSTOM)):
        raise ConfigError(
            f"{setting} is {key!r}; it must be one of {', '.join(_KEYS)}, or '{CUSTOM}' and a parameter's name."
        )
    for source in sources:
        if key == "email" and not source.trusts_email:
            raise ConfigError(
                f"{setting} is 'email', but trusts_email is not set for {source.title}: it must be a platform on which nobody can have "
                "somebody else's address."
            )


def frames_of(sources: Collection[Source]) -> tuple[str, ...]:
    """The origins whose pages may show the launch page in a frame."""
    return tuple(dict.fromkeys(origin for source in sources for origin in source.frame_origins))


def _platform(issuer: str, given: object, where: str) -> Platform:
    table = _table(given, _PLATFORM, where)
    page = check_url(_text(table, "authorization_endpoint", where), f"{where}['authorization_endpoint']")
    deployments = _texts(table, "deployment_ids", where)
    if not deployments:
        raise ConfigError(f"{where}['deployment_ids'] is missing: the ids under which this hub was added there.")
    origins = tuple(dict.fromkeys(_origin(url) for url in (issuer, page) if _FRAME.fullmatch(_origin(url))))
    return Platform(
        issuer=issuer,
        client_id=_text(table, "client_id", where),
        authorization_endpoint=page,
        jwks_url=check_url(_text(table, "jwks_url", where), f"{where}['jwks_url']"),
        deployment_ids=frozenset(deployments),
        source=_source(table, where, urlsplit(issuer).hostname or issuer, origins),
    )


def _source(table: Mapping[str, Any], where: str, title: str, origins: Sequence[str]) -> Source:
    prefix = _text(table, "prefix", where, "")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"{where}['prefix'] is {prefix!r}; up to 32 lower-case letters, digits and inner '_.@+-' can be one, as in 'moodle-'."
        )
    trusts = table.get("trusts_email", False)
    if not isinstance(trusts, bool):
        raise ConfigError(f"{where}['trusts_email'] must be True or False.")
    frames = _texts(table, "frame_origins", where) if "frame_origins" in table else tuple(origins)
    for frame in frames:
        parts = _FRAME.fullmatch(frame)
        if parts is None or (parts[1] == "http" and not is_loopback(parts[2])):
            raise ConfigError(
                f"{where}['frame_origins'] holds {frame!r}; 'https://lms.example.org' is expected, without a path."
            )
    return Source(
        title=_text(table, "title", where, title),
        prefix=prefix,
        trusts_email=trusts,
        admin_roles=frozenset(_texts(table, "admin_roles", where)),
        frame_origins=frames,
    )


def _check_apart(sources: Sequence[Source], setting: str) -> None:
    """Ids are a platform's own: two of them may call two people, or two courses, the same."""
    for one, other in permutations(sources, 2):
        if other.prefix.startswith(one.prefix):
            raise ConfigError(
                f"{setting}: a person of {one.title} and one of {other.title} could have the same name, and so could their courses. Give each a "
                f"'prefix' of its own, of which none begins with another."
            )


def _table(given: object, known: Sequence[str], where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a table, as in {{{known[0]!r}: …}}.")
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ConfigError(f"{where}: {name!r} is no setting; {hint}")
    return given


def _text(table: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str) or (default is None and not value) or not value.isprintable():
        raise ConfigError(
            f"{where}[{name!r}] must be a text{'' if default is not None else '; it is missing or empty'}."
        )
    return value


def _texts(table: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = table.get(name, ())
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(one, str) and one for one in value):
        raise ConfigError(f"{where}[{name!r}] must be a list of texts.")
    return tuple(dict.fromkeys(value))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
