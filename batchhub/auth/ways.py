"""The ways to sign in that a site offers, by name, and what must hold where there are several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations

from batchhub.auth.base import Authenticator, LoginKind
from batchhub.core.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

_SHOWN_ONCE = (LoginKind.LINK, LoginKind.REQUEST, LoginKind.LTI13, LoginKind.LTI11, LoginKind.NEGOTIATE)
"""Kinds of which the page, or the request, could not say which one is meant."""


def check_ways(ways: Mapping[str, Authenticator], *, same_people: bool) -> None:
    """Refuse what could let one person in as another, or could never work. Raises ConfigError.

    Two ways that can give the same name would make one account of two people, so each needs a prefix of its own, unless the site says
    with ``same_people`` that a name is the same person's everywhere.
    """
    for name in ways:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a way to sign in: lower-case letters, digits, '-' and '_' can.")
    _check_groups(ways)
    _check_sections(ways)
    for kind in _SHOWN_ONCE:
        found = [name for name, one in ways.items() if one.kind is kind]
        if len(found) > 1:
            raise ConfigError(f"c.BatchHub.authenticator_class: of {' and '.join(found)} only one can be offered.")
    open_ways = {name: one for name, one in ways.items() if one.kind is not LoginKind.CLOSED}
    prefixes = {name: one.username_prefix for name, one in open_ways.items()}
    if len(open_ways) < 2 or same_people:
        return
    for name, prefix in prefixes.items():
        for other, longer in prefixes.items():
            if name != other and longer.startswith(prefix):
                raise ConfigError(
                    f"A name from {name!r} and one from {other!r} could be the same, and so could be two people with one account. Give each "
                    f"way a username_prefix of its own, or, if a name is the same person's in both, set c.BatchHub.same_people = True."
                )


def _check_sections(ways: Mapping[str, Authenticator]) -> None:
    """What the configuration says of a class holds for those made from it, so of two ways one would let in whom the other should."""
    classes = {type(one) for one in ways.values()}
    for one, other in permutations(classes, 2):
        if issubclass(one, other):
            raise ConfigError(
                f"{one.__name__} is made from {other.__name__}, so that all of c.{other.__name__} holds for it too, such as allow_all. Of ways that are "
                f"offered together none can be made from another: make a class of your own from {other.__name__} for each, and configure those."
            )


def _check_groups(ways: Mapping[str, Authenticator]) -> None:
    """A rule that can never hold is a mistake."""
    for one in ways.values():
        if (one.allowed_groups or one.admin_groups) and not one.knows_groups():
            raise ConfigError(
                f"c.{type(one).__name__}: allowed_groups or admin_groups is set, but nothing says what groups a person is in."
            )
