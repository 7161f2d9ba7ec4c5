"""Whether people who signed in some time ago still may: asked of the way they signed in by, now and then, and before a server is started.

One who may not loses every session at once. When nobody can be asked, the earlier answer counts for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from weakref import WeakValueDictionary

from batchhub.auth.base import Authenticator, Identity
from batchhub.auth.rules import admin_by_lists, judge, known_name, may_enter
from batchhub.auth.states import AuthStates
from batchhub.core.errors import Denied, HubError, SignInAgain, Unreachable
from batchhub.core.model import UserName
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

DEADLINE = 30.0
"""Seconds that whoever is asked may take."""
JUST_NOW = timedelta(seconds=5)
"""An answer this young is not asked for again before a start."""
AGAIN = timedelta(seconds=30)
"""After a question that nobody answered, pages do not wait for another one so soon."""
BROKEN = "This hub failed to find out whether you may still use it. Its administrators find the reason in its log; please tell them, or try again in a minute."
AGAIN_PLEASE = "Your sign-in does not hold any more. Please sign in again."
REMEMBERED = 10_000
"""People whose last answer is known; of others, the last sign-in is."""


class StoredUser(Protocol):
    """A person as the store keeps them."""

    @property
    def name(self) -> UserName:
        """Normalised."""

    @property
    def admin(self) -> bool:
        """May see and stop everything."""

    @property
    def groups(self) -> tuple[str, ...]:
        """As the last answer had them."""

    @property
    def way(self) -> str:
        """How they signed in last; empty if they never did."""

    @property
    def last_login(self) -> datetime | None:
        """When."""


class RefreshedUsers(Protocol):
    """What this needs of the store. Raises StoreUnavailable when it cannot be asked."""

    def refreshed(
        self,
        name: str,
        *,
        way: str,
        login: datetime | None,
        admin: bool | None = None,
        groups: Sequence[str] | None = None,
        sealed: str | None = None,
    ) -> Awaitable[StoredUser | None]:
        """Note what a refresh said; ``None`` of anything leaves it as it is. ``None`` if they signed in another way meanwhile, or are gone."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one person: when the last answer came and when it was asked for last, who they were then, and whether the answer was no.

    ``broken``: the last question did not end as any question should, so that no earlier answer counts.
    """

    answered: datetime
    tried: datetime
    user: StoredUser | None = None
    ended: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """As an authenticator is given them."""

    name: UserName
    admin: bool
    groups: tuple[str, ...]
    states: AuthStates

    async def get_auth_state(self) -> Mapping[str, Any] | None:
        """What is kept of their last sign-in or refresh. Raises StoreUnavailable, ConfigError."""
        return await self.states.of(self.name)


def _unsaid(user: StoredUser) -> None:
    del user


class Refresher:
    """Asks for everybody.

    ``ended`` is called with the name of whoever has to sign in again, and ends their sessions; ``admin`` with whoever has become an admin, or is none any more.
    """

    def __init__(
        self,
        ways: Mapping[str, Authenticator],
        users: RefreshedUsers,
        states: AuthStates,
        clock: Clock,
        ended: Callable[[str], Awaitable[object]],
        *,
        admin: Callable[[StoredUser], None] = _unsaid,
    ) -> None:
        self._ways = ways
        self._users = users
        self._states = states
        self._clock = clock
        self._ended = ended
        self._admin = admin
        self._began = clock()
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def check(self, user: StoredUser, handler: Any = None, *, start: bool = False) -> StoredUser:
        """The person as they are now; ``start``: a server is about to be. Many who ask at one time share a question.

        Raises SignInAgain, once their sessions have ended; Unreachable when nobody could be asked for too long; StoreUnavailable.
        """
        if not user.way:
            # They have not signed in since the hub remembers how: there is nobody to ask, but nobody means to let them in either.
            if any(user.name in way.blocked_users for way in self._ways.values()):
                raise await self._end(user, "blocked")
            return user
        way = self._ways.get(user.way)
        if way is None:
            raise await self._end(user, f"one does not sign in by {user.way!r} here any more")
        if user.name in way.blocked_users:
            raise await self._end(user, "blocked")
        if self._due(user, way, start=start):
            async with self._asking.setdefault(user.name, asyncio.Lock()):
                if self._due(user, way, start=start):
                    await self._ask(user, way, handler)
            user = self._of(user).user or user
        self._check_answer(user, way)
        return user

    async def check_all(self, names: Iterable[str], find: Callable[[str], Awaitable[StoredUser | None]]) -> None:
        """All of these, one after the other, where it is due: who is only in a notebook comes to no page for days. Raises StoreUnavailable."""
        ages = [way.auth_refresh_age for way in self._ways.values() if way.auth_refresh_age]
        soonest = timedelta(seconds=min(ages, default=0))
        for name in names:
            seen = self._seen.get(name)
            if seen is not None and self._clock() - seen.tried < soonest:
                continue
            user = await find(name)
            if user is not None:
                with suppress(SignInAgain, Unreachable):
                    await self.check(user)

    # ------------------------------------------------ when

    def _due(self, user: StoredUser, way: Authenticator, *, start: bool) -> bool:
        seen, now = self._of(user), self._clock()
        if seen.ended:
            return False
        if start and way.refresh_pre_spawn:
            return now - seen.answered >= JUST_NOW and now - seen.tried >= JUST_NOW
        age = timedelta(seconds=way.auth_refresh_age)
        # A question that had no answer is asked again by pages too, or nobody could get to where a start asks it.
        asks = bool(age) or seen.broken or seen.tried > seen.answered
        return asks and now - seen.answered >= age and now - seen.tried >= AGAIN

    def _check_answer(self, user: StoredUser, way: Authenticator) -> None:
        """Whether the last answer was yes and, after a question that had none, counts still."""
        seen = self._of(user)
        if seen.ended:
            raise SignInAgain(AGAIN_PLEASE)
        if seen.broken:
            raise Unreachable(BROKEN)
        patience = timedelta(seconds=way.auth_refresh_patience)
        if seen.tried > seen.answered and self._clock() - max(seen.answered, self._began) > patience:
            raise Unreachable(
                "Nobody can be asked now whether you may still use this hub. Please try again in a minute."
            )

    def _of(self, user: StoredUser) -> Seen:
        """A sign-in is an answer, wherever it was."""
        login = user.last_login or self._began
        seen = self._seen.get(user.name)
        return seen if seen is not None and seen.answered >= login else Seen(login, login)

    def _note(self, user: StoredUser, seen: Seen) -> None:
        self._seen[user.name] = seen
        self._seen.move_to_end(user.name)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    # ------------------------------------------------ what

    async def _ask(self, user: StoredUser, way: Authenticator, handler: Any) -> None:
        now = self._clock()
        person = Person(user.name, user.admin, user.groups, self._states)
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await way.refresh_user(person, handler)
                identity = await self._identity(user, way, handler, answer)
        except Denied as error:
            log.warning("%s: %s", user.name, error)
            identity = None
        except (HubError, TimeoutError) as error:
            log.warning("whether %s may still use the hub could not be asked: %s", user.name, error or "no answer")
            self._note(user, replace(self._of(user), tried=now, broken=False))
            return
        except Exception:
            # A site's own authenticator, rule or hook is wrong: no yes, and no no that would sign everybody out.
            log.exception("whether %s may still use the hub could not be asked of %r", user.name, user.way)
            self._note(user, replace(self._of(user), tried=now, broken=True))
            return
        saved = await self._save(user, way, identity)
        if saved is None:
            return  # who has signed in while it was asked is known by that, and not by what was kept of an earlier time
        if identity is None:
            raise await self._end(user, f"{user.way!r} says so")
        self._note(user, Seen(now, now, saved))

    async def _identity(self, user: StoredUser, way: Authenticator, handler: Any, answer: object) -> Identity | None:
        """Through the rules; ``None`` is "no"."""
        if not way.validate_username(user.name):
            log.warning("%s is no name that is known here any more", user.name)
            return None
        if answer is True:
            return await self._as_before(user, way)
        if not isinstance(answer, Mapping):
            if answer:
                raise TypeError(f"{type(way).__name__}.refresh_user answered {type(answer).__name__}")
            return None
        named = answer.get("name", user.name)
        if user.name not in {named, known_name(way, named)}:
            log.warning("a refresh of %s answered with another name, %.100r", user.name, named)
            return None
        kept = await self._kept(user, way)
        identity = await judge(way, handler, {"groups": user.groups, "auth_state": kept, **answer}, user.name)
        return replace(identity, auth_state=None) if identity and identity.auth_state == kept else identity

    async def _as_before(self, user: StoredUser, way: Authenticator) -> Identity | None:
        """Nothing is new there; what the configuration says may be."""
        model = {"name": user.name, "groups": user.groups, "admin": user.admin}
        model["auth_state"] = await self._kept(user, way)
        ours = type(way).check_allowed is Authenticator.check_allowed
        # A site's own check may go by what the sign-in brought, and cannot be asked without it.
        if (ours or way.enable_auth_state) and not await may_enter(way, user.name, model):
            return None
        return Identity(user.name, admin_by_lists(way, user.name, user.groups), user.groups)

    async def _kept(self, user: StoredUser, way: Authenticator) -> Mapping[str, Any] | None:
        return await self._states.of(user.name) if way.enable_auth_state else None

    async def _save(self, user: StoredUser, way: Authenticator, identity: Identity | None) -> StoredUser | None:
        """The person as they are now; ``None`` if they have signed in since. A "no" changes nothing."""
        if identity is None:
            return await self._users.refreshed(user.name, way=user.way, login=user.last_login)
        admin = identity.admin if identity.admin is not None and identity.admin != user.admin else None
        groups = identity.groups if identity.groups != user.groups else None
        sealed = self._states.seal(user.name, identity.auth_state) if way.enable_auth_state else None
        saved = await self._users.refreshed(
            user.name, way=user.way, login=user.last_login, admin=admin, groups=groups, sealed=sealed
        )
        if saved is not None and admin is not None:
            self._admin(saved)
        return saved

    async def _end(self, user: StoredUser, why: str) -> SignInAgain:
        """Their sessions are over; the error that says so."""
        if not self._of(user).ended:
            await self._ended(user.name)
            log.warning("%s has to sign in again: %s", user.name, why)
            now = self._clock()
            self._note(user, Seen(now, now, ended=True))
        return SignInAgain(AGAIN_PLEASE)
