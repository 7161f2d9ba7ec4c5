"""The people side of a hub, put together: who signs in, their sessions and tokens, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchhub.app.customising import Sources
from batchhub.app.hooks import Hooks
from batchhub.app.owning import Owning
from batchhub.app.plan import HubPlan
from batchhub.app.revocations import Revocations
from batchhub.app.state import utc_now
from batchhub.auth.audit import AuditTrail
from batchhub.auth.departures import ASKED, Departures
from batchhub.auth.endings import Endings, all_of_a_session, all_of_a_token
from batchhub.auth.known import KnownBrowsers
from batchhub.auth.refresh import Refresher, StoredUser
from batchhub.auth.sessions import Sessions
from batchhub.auth.states import AuthStates
from batchhub.auth.throttle import Throttle
from batchhub.auth.tokens import Tokens
from batchhub.auth.xsrf import Xsrf
from batchhub.core.deeds import DeedKind
from batchhub.core.model import UserName
from batchhub.store.persons import Persons
from batchhub.store.store import Store
from batchhub.store.telling import Telling
from batchhub.web.people import AuthPeople


def make_people(plan: HubPlan, store: Store, revocations: Revocations, owning: Owning, audit: AuditTrail) -> AuthPeople:
    """Raises ConfigError if a key file is not as it should be."""
    cookie_key = plan.state.key("cookies")
    persons, file = Persons(store), plan.state.vault
    file.current()  # made at the first start, and looked at before anybody signs in
    states = AuthStates(persons, file.current)
    endings = Endings()

    async def ended(ids: Sequence[str]) -> None:
        owning.sessions_ended(ids)
        await revocations.sessions_ended(ids)

    sessions_ended = all_of_a_session(endings, lambda: tokens, ended)
    sessions = Sessions(store, cookie_key, utc_now, plan.sessions, sessions_ended)
    owning.sessions_are(sessions.alive)
    tokens_ended = all_of_a_token(endings, revocations.tokens_ended)
    tokens = Tokens(store, utc_now, revoked=tokens_ended, alive=sessions.alive)

    async def turn_out(name: str) -> int:
        count = await sessions.revoke_all_of(name)
        if count:
            audit.note(DeedKind.SESSION_ENDED, name, by="hub", words=f"asked about again, and not let in: {count}")
        return count

    def rights(user: StoredUser) -> None:
        kind = DeedKind.ADMIN_GIVEN if user.admin else DeedKind.ADMIN_TAKEN
        audit.note(kind, user.name, by="hub", words=f"as {user.way} and the lists say by now")

    return AuthPeople(
        authenticators=plan.authenticators,
        departures=Departures(cookie_key, utc_now),
        asked=Departures(cookie_key, utc_now, ASKED),
        sessions=sessions,
        access_tokens=tokens,
        users=store,
        persons=persons,
        states=states,
        refresher=Refresher(plan.authenticators, persons, states, utc_now, turn_out, admin=rights),
        throttle=Throttle(),
        browsers=KnownBrowsers(cookie_key, utc_now),
        guard=Xsrf(cookie_key),
        clock=utc_now,
        endings=endings,
        audit=audit,
        keep=owning.keep,
    )


def make_hooks(plan: HubPlan, store: Store) -> Hooks:
    """The site's own functions around servers."""
    persons = Persons(store)
    return Hooks(plan.hooks, persons.person, AuthStates(persons, plan.state.vault.current).of, Telling(store))


def make_sources(plan: HubPlan, store: Store, hooks: Hooks) -> Sources:
    """What the site's additions to jobs may depend on, as it is kept at that moment."""
    persons = Persons(store)
    states = AuthStates(persons, plan.state.vault.current)

    async def groups(user: UserName) -> tuple[str, ...]:
        found = await persons.person(user)
        return found.groups if found is not None else ()

    async def state(user: UserName) -> Mapping[str, Any]:
        return await states.of(user) or {}

    return Sources(groups, state, hooks.additions)
