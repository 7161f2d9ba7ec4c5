"""The one way in that every sign-in takes, and every refresh: who somebody is said to be, and whether the rules let them in.

Plain functions over an authenticator's traits, so that no subclass can leave a rule out by accident.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from batchhub.auth.base import (
    MOST_GROUPS,
    NAME_LIMIT,
    PASSWORD_LIMIT,
    Asked,
    Authenticator,
    Brought,
    Identity,
    safe_name,
)
from batchhub.core.model import UserName

log = logging.getLogger(__name__)

_NOTHING_SAID: Mapping[str, Any] = MappingProxyType({"groups": None, "admin": None, "auth_state": None, "after": ""})

T = TypeVar("T")


def problems(authenticator: Authenticator) -> tuple[str, ...]:
    """What is wrong with the rules, as sentences for whoever starts the hub; empty when nothing is."""
    name = type(authenticator).__name__
    found = []
    decides = type(authenticator).check_allowed is not Authenticator.check_allowed
    listed = set(authenticator.allowed_users) | set(authenticator.admin_users)
    grouped = authenticator.allowed_groups | authenticator.admin_groups
    if not (decides or authenticator.allow_all or grouped or listed - set(authenticator.blocked_users)):
        found.append(
            f"Nobody can sign in: set c.{name}.allow_all = True to let in everybody who has an account, "
            f"or name people in c.{name}.allowed_users, c.{name}.allowed_groups or c.{name}.admin_users."
        )
    found += [
        f"c.{name} names the user {one!r}, {why}: the entry has no effect." for one, why in _nobodies(authenticator)
    ]
    narrow = [
        one for one in ("allowed_users", "allowed_groups") if authenticator.allow_all and getattr(authenticator, one)
    ]
    found += [f"c.{name}.allow_all is set, so c.{name}.{one} keeps nobody out." for one in narrow]
    return tuple(found)


def _nobodies(authenticator: Authenticator) -> Iterator[tuple[str, str]]:
    """Names in lists that are nobody's, and why."""
    prefix, outer = authenticator.username_prefix, authenticator.username_map
    listed = authenticator.allowed_users | authenticator.admin_users | authenticator.blocked_users
    for one in sorted(listed):
        bare = one.removeprefix(prefix)
        plain = _plain(authenticator, bare)
        if not one.startswith(prefix):
            yield one, f"but names from here begin with {prefix!r}"
        elif not safe_name(one):
            yield one, "which can be nobody's name (several are a set: {'ann', 'bob'})"
        elif plain != bare:
            yield one, f"who is known here as {prefix + plain!r}"
    for one in sorted(outer):
        plain = authenticator.normalize_username(one)
        if plain != one:
            yield one, f"in username_map, who is looked for there as {plain!r}"


def never_known(names: Iterable[str], authenticators: Collection[Authenticator]) -> tuple[str, ...]:
    """Those of the names that no sign-in leads to, because they are spelled otherwise or lack a prefix."""
    return tuple(name for name in names if not any(_leads_to(one, name) for one in authenticators))


def _leads_to(authenticator: Authenticator, name: str) -> bool:
    bare = name.removeprefix(authenticator.username_prefix)
    return name.startswith(authenticator.username_prefix) and _plain(authenticator, bare) == bare


def _plain(authenticator: Authenticator, bare: str) -> str:
    """As a sign-in spells it. What a map gives stays as it is."""
    return bare if bare in authenticator.username_map.values() else authenticator.normalize_username(bare)


Because = Callable[[str, str], None]
"""Told why somebody was refused, and the hub's name for who it is if that is known."""


def _unsaid(words: str, name: str) -> None:
    del words, name


async def sign_in(
    authenticator: Authenticator, handler: Any, data: Mapping[str, Any] | None, because: Because = _unsaid
) -> Identity | Asked | None:
    """Run one sign-in through every rule: bounds, authenticate, normalise, map, validate, blocked, allowed.

    ``None`` is "no"; the reason is in the log, not on the page, and ``because`` is told it. Raises what the authenticator raises.
    """
    data = {} if data is None else data
    if not _bounded(data):
        log.warning("sign-in refused: a field is too long or holds a control character")
        because("a field is too long or holds a control character", "")
        return None
    answer = await authenticator.authenticate(handler, data)
    if answer is None:
        because("not recognised", "")
        return None
    if isinstance(answer, Asked):
        return answer
    model: Mapping[str, Any] = {"name": answer} if isinstance(answer, str) else answer
    brought = _brought(authenticator, data, model)
    identity = None
    try:
        identity = await judge(authenticator, handler, {**model, "brought": None}, because=because)
    finally:
        if identity is None and brought is not None and brought.held is not None:
            brought.held.close()
    return identity and replace(identity, brought=brought)


async def judge(
    authenticator: Authenticator,
    handler: Any,
    answer: Mapping[str, Any],
    known: UserName | None = None,
    *,
    because: Because = _unsaid,
) -> Identity | None:
    """What becomes of an authenticator's answer, at a sign-in or a refresh: every rule, then the site's ``post_auth_hook``.

    ``known`` is the hub's name for the person where it is settled already. ``None`` is "no"; the reason is in the log.
    """
    name = known or known_name(authenticator, answer.get("name"))
    if name is None:
        given = str(answer.get("name"))
        why = "is not an acceptable user name"
        if _given_away(authenticator, authenticator.normalize_username(given)):
            why = "is the name that username_map gives to somebody else"
        log.warning("sign-in refused: %.100r %s", given, why)
        because(f"{given[:100]!r} {why}", "")
        return None
    model = {**_NOTHING_SAID, **answer, "name": name}
    if not await may_enter(authenticator, name, model, because):
        return None
    if authenticator.post_auth_hook is not None:
        model = await _settled(authenticator.post_auth_hook(authenticator, handler, model))
        if model is None or model.get("name") != name:
            log.warning("sign-in of %s refused by post_auth_hook%s", name, "" if model is None else ": another name")
            because("refused by the site's post_auth_hook", name)
            return None
        model = {**_NOTHING_SAID, **model}
    return _identity(authenticator, name, model)


async def may_enter(
    authenticator: Authenticator, name: UserName, model: Mapping[str, Any], because: Because = _unsaid
) -> bool:
    """Whether the lists let them in."""
    if not await _settled(authenticator.check_blocked_users(name, model)):
        log.warning("sign-in of %s refused: blocked", name)
        because("blocked", name)
        return False
    if not await _settled(authenticator.check_allowed(name, model)):
        log.warning("sign-in of %s refused: not allowed; the groups are %.300r", name, model.get("groups") or ())
        because("not allowed", name)
        return False
    return True


def _brought(authenticator: Authenticator, data: Mapping[str, Any], model: Mapping[str, Any]) -> Brought | None:
    """What is of use to clusters; no rule of a site's own is shown it."""
    if not authenticator.pass_through:
        return None
    given, password = model.get("brought"), data.get("password")
    return given if isinstance(given, Brought) else Brought(password) if password else None


def known_name(authenticator: Authenticator, name: object) -> UserName | None:
    """A name from outside as the hub knows it: normalised, mapped, validated. ``None`` if it cannot be one."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
        return None
    plain = authenticator.normalize_username(name)
    if _given_away(authenticator, plain):
        return None
    plain = authenticator.username_prefix + authenticator.username_map.get(plain, plain)
    if not safe_name(plain) or not authenticator.validate_username(plain):
        return None
    return UserName(plain)


def _given_away(authenticator: Authenticator, plain: str) -> bool:
    """Whether the map gives this name to somebody; then whoever is called so outside is another person."""
    outer = authenticator.username_map
    return plain not in outer and plain in outer.values()


def outer_names(authenticator: Authenticator, name: str) -> tuple[str, ...]:
    """The names that whoever the hub calls ``name`` can have signed in with, as far as mapping and prefix tell; the likeliest first."""
    bare = name.removeprefix(authenticator.username_prefix)
    mapped = [outer for outer, inner in authenticator.username_map.items() if inner == bare]
    return tuple(one for one in (*mapped, bare) if known_name(authenticator, one) == name)


def _identity(authenticator: Authenticator, name: UserName, model: Mapping[str, Any]) -> Identity:
    admin = model["admin"]
    if admin is not None and not isinstance(admin, bool):
        raise TypeError(f"{type(authenticator).__name__} answered admin={admin!r}; True, False or None is expected")
    groups = _groups(authenticator, model["groups"])
    if admin is None:
        admin = admin_by_lists(authenticator, name, groups)
    state = model["auth_state"]
    frozen = None if state is None else MappingProxyType(dict(state))
    return Identity(name, admin, groups, frozen, str(model["after"]))


def admin_by_lists(authenticator: Authenticator, name: str, groups: Sequence[str]) -> bool | None:
    """What ``admin_users`` and ``admin_groups`` say of somebody; ``None`` if neither is set, and a right given earlier stays."""
    if name in authenticator.admin_users:
        return True
    listed = authenticator.admin_users or authenticator.admin_groups
    return not authenticator.admin_groups.isdisjoint(groups) if listed else None


def _groups(authenticator: Authenticator, groups: Any) -> tuple[str, ...]:
    """Each once, in the order they came in."""
    groups = groups or ()
    if isinstance(groups, str) or not all(isinstance(group, str) for group in groups):
        raise TypeError(f"{type(authenticator).__name__} answered groups that are not a list of names")
    found = [group for group in dict.fromkeys(groups) if 0 < len(group) <= NAME_LIMIT and group.isprintable()]
    if len(found) > MOST_GROUPS:
        log.warning("%d groups of one person are more than the %d that count", len(found), MOST_GROUPS)
    return tuple(found[:MOST_GROUPS])


def _bounded(data: Mapping[str, Any]) -> bool:
    name, password = data.get("username", ""), data.get("password", "")
    if not isinstance(name, str) or not isinstance(password, str):
        return False
    if len(name) > NAME_LIMIT or not name.isprintable() or len(password) > PASSWORD_LIMIT:
        return False
    return all(_short(text) for text in (password, *data.get("answers", ())))


def _short(secret: str) -> bool:
    try:
        return "\0" not in secret and len(secret.encode()) <= PASSWORD_LIMIT
    except UnicodeEncodeError:
        return False


async def _settled(answer: T | Awaitable[T]) -> T:
    return await answer if inspect.isawaitable(answer) else answer
