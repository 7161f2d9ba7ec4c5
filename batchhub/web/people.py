"""Sign-in, sessions and tokens as the pages need them, put together from the parts in :mod:`batchhub.auth`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from tornado.web import RequestHandler

from batchhub.auth.base import Asked, Authenticator, Brought, Identity, LoginKind
from batchhub.auth.departures import Departures, Journey
from batchhub.auth.endings import Endings
from batchhub.auth.known import KnownBrowsers
from batchhub.auth.refresh import Refresher, StoredUser
from batchhub.auth.rules import sign_in
from batchhub.auth.sessions import Session, Sessions
from batchhub.auth.states import AuthStates
from batchhub.auth.throttle import Throttle
from batchhub.auth.tokens import StoredToken, Tokens
from batchhub.auth.xsrf import Xsrf
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, Denied, NotFound, SignInAgain, TooMany
from batchhub.core.model import UserName
from batchhub.core.ports import Clock
from batchhub.web.agents import agent_words
from batchhub.web.ports import Asking, Audit, Entry, Leaving, PersonView, SessionView, TokenView, Visitor, Way

LOST = "This sign-in was not begun in this browser, or it took too long. Please begin again."
_NO_LAUNCH = "Your learning platform has not said who you are, or not in time, or this hub does not let you in. Please open it from your course again."

MOST_TOKENS = 100
"""Tokens a person may have at once."""


class TooOften(TooMany):
    """Too many attempts; ``retry_after`` is in seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many attempts to sign in. Try again in {seconds} second{'s' if seconds != 1 else ''}.")
        self.retry_after = seconds


class ListedUser(StoredUser, Protocol):
    """A person as the store keeps them, with what lists show."""

    @property
    def created(self) -> datetime:
        """When they were first heard of."""


class Users(Protocol):
    """What the pages need of the store. Every method raises StoreUnavailable when it cannot be asked."""

    def user(self, name: str) -> Awaitable[ListedUser | None]:
        """The user of this name."""

    def users(self, *, limit: int, offset: int, part: str) -> Awaitable[Sequence[ListedUser]]:
        """Users by name, those whose name has this part."""


class Persons(Protocol):
    """What is kept of who people are. Every method raises StoreUnavailable when the store cannot be asked."""

    def signed_in(
        self, name: str, *, way: str, admin: bool | None, groups: Sequence[str], sealed: str | None
    ) -> Awaitable[StoredUser]:
        """Note a sign-in; the user is made if missing. ``admin=None`` leaves that right as it is."""


@dataclass(frozen=True, slots=True)
class _Step:
    """The how-manyth question of a sign-in it is, and for whose account it counts. ``username`` is as it was typed.

    ``known`` is the cookie of a browser that may be known to be the account's.
    """

    way: str
    username: str
    account: str
    number: int
    known: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AuthPeople:
    """:class:`~batchhub.web.ports.People` with our own sessions and tokens."""

    authenticators: Mapping[str, Authenticator]
    departures: Departures
    asked: Departures
    """Seals what a browser carries from one question to the next."""
    sessions: Sessions
    access_tokens: Tokens
    users: Users
    persons: Persons
    states: AuthStates
    refresher: Refresher
    throttle: Throttle
    browsers: KnownBrowsers
    guard: Xsrf = field(repr=False)
    clock: Clock
    endings: Endings
    audit: Audit
    keep: Callable[[UserName, str, Brought], None] | None = None
    """Told what somebody signed in with, and the id of the session that it opened, where clusters are reached by that."""

    @property
    def ways(self) -> Sequence[Way]:
        """What the site offers."""
        return [
            Way(name, one.kind.value, one.login_service or name.replace("_", " ").capitalize(), one.frames)
            for name, one in self.authenticators.items()
        ]

    async def sign_in(
        self, handler: RequestHandler, way: str, data: Mapping[str, str], cookie: str, *, known: str = ""
    ) -> Entry | Asking:
        """What a form sent, a password or a link; or what the browser itself brought."""
        authenticator = self._way(way)
        refusal = "The username or the password is not right."
        if authenticator.kind is LoginKind.LINK:
            refusal = "This sign-in link was used already or is too old. Ask for a new one."
        account = data.get("username") or data.get("token", "")
        if authenticator.kind is LoginKind.NEGOTIATE:
            refusal = "Your Kerberos ticket does not count here, or this hub does not let you in."
            account = secrets.token_hex(8)
        if authenticator.kind is LoginKind.REQUEST:
            # Nothing was typed that somebody could guess at: people are told apart by their address alone.
            refusal = "The site in front of this hub has not said who you are, or this hub does not let you in."
            account = secrets.token_hex(8)
        step = _Step(way, data.get("username", ""), account, 1, known)
        return await self._enter(handler, step, data, refusal=refusal, cookie=cookie)

    async def preview(self, handler: RequestHandler, way: str, data: Mapping[str, Any]) -> str:
        """Of a launch. A wrong one costs what a wrong password does."""
        address, nobody = handler.request.remote_ip or "", secrets.token_hex(8)
        wait = self.throttle.attempt(nobody, address, self.clock())
        if wait:
            raise TooOften(wait)
        words = await self._way(way).preview(handler, data)
        if words is None:
            raise Denied(_NO_LAUNCH)
        self.throttle.succeeded(nobody, address, self.clock())
        return words

    async def launched(self, handler: RequestHandler, way: str, data: Mapping[str, Any], cookie: str) -> Entry:
        """Attempts count by address: the consumer's key is everybody's of a platform, and nobody may use up theirs."""
        step = _Step(way, "", secrets.token_hex(8), 1)
        return self._last(way, await self._enter(handler, step, data, refusal=_NO_LAUNCH, cookie=cookie))

    async def answer(
        self,
        handler: RequestHandler,
        state: str,
        sealed: str,
        answers: Sequence[str],
        cookie: str,
        *,
        known: str = "",
    ) -> Entry | Asking:
        """What the page asked for after the first form. Each answer is an attempt at the account, as a password is."""
        journey = self.asked.open(sealed, state)
        if journey is None:
            self._lost(handler)
        kept = journey.keep
        step = _Step(journey.way, kept["username"], kept["account"], int(kept["steps"]) + 1, known)
        data = {"username": step.username, "ticket": kept["ticket"], "answers": tuple(answers)}
        refusal = "Something of what you typed is not right. Please begin again."
        return await self._enter(handler, step, data, refusal=refusal, cookie=cookie)

    async def leave(
        self, handler: RequestHandler, way: str, data: Mapping[str, str], after: str, callback: str, *, cookie: str = ""
    ) -> Leaving:
        """To somebody else's page."""
        authenticator = self._way(way)
        if authenticator.kind not in {LoginKind.REDIRECT, LoginKind.LTI13}:
            raise Denied("One does not sign in this way here.")
        state = secrets.token_urlsafe(24)
        departure = await authenticator.depart(handler, data, state, callback)
        journey = Journey(way, state, after, callback, departure.keep, cookie)
        try:
            sealed = self.departures.seal(journey)
        except ValueError:  # a long bookmark is lost rather than the sign-in
            sealed = self.departures.seal(replace(journey, after=""))
        return Leaving(departure.url, state, sealed)

    async def come_back(
        self, handler: RequestHandler, data: Mapping[str, str], sealed: str, cookie: str
    ) -> tuple[Entry, str]:
        """From there."""
        journey = self.departures.open(sealed, data.get("state", ""))
        if journey is None:
            self._lost(handler)
        if urlsplit(journey.callback).path != handler.request.path:
            # One provider's answer must not be brought to another, which would be handed its code (RFC 9700 section 4.4).
            self._lost(handler)
        self._way(journey.way)
        title = next(way.title for way in self.ways if way.name == journey.way)
        brought = {**data, "kept": journey.keep, "callback": journey.callback}
        refusal = f"{title} knows you, but this hub does not let you in. Its administrator can."
        step = _Step(journey.way, "", journey.state, 1)
        entry = self._last(
            journey.way, await self._enter(handler, step, brought, refusal=refusal, cookie=cookie or journey.old)
        )
        return entry, entry.after or journey.after

    def _last(self, way: str, entry: Entry | Asking) -> Entry:
        if isinstance(entry, Asking):
            raise TypeError(
                f"{type(self._way(way)).__name__} asks for more after somebody else's page, where nobody can answer"
            )
        return entry

    def _lost(self, handler: RequestHandler) -> NoReturn:
        words = "an answer that this browser did not ask for, or too late"
        self.audit.note(DeedKind.REFUSED, by="", address=_address(handler), words=words)
        raise Denied(LOST)

    def _way(self, name: str) -> Authenticator:
        authenticator = self.authenticators.get(name)
        if authenticator is None:
            raise Denied("One does not sign in this way here.")
        return authenticator

    async def _enter(
        self,
        handler: RequestHandler,
        step: _Step,
        data: Mapping[str, Any],
        *,
        refusal: str,
        cookie: str,
    ) -> Entry | Asking:
        """Throttle, ask the authenticator, open a session in place of the one the browser came with."""
        authenticator = self._way(step.way)
        address = _address(handler)

        def refused(words: str, name: str) -> None:
            typed = name or step.username
            self.audit.note(DeedKind.REFUSED, typed, by="", address=address, words=f"{step.way}: {words}")

        browser = self.browsers.read(step.known, step.account)
        wait = self.throttle.attempt(step.account, address, self.clock(), browser)
        if wait:
            refused(f"too many attempts; the next is heard in {wait} s", "")
            raise TooOften(wait)
        try:
            identity = await sign_in(authenticator, handler, data, refused)
        except (BadInput, Denied) as error:
            refused(str(error), "")
            raise
        if identity is None:
            raise Denied(refusal)
        if isinstance(identity, Asked):
            return self._ask(step, identity)
        self.throttle.succeeded(step.account, address, self.clock(), step.number, browser=browser)
        sealed = self.states.seal(identity.name, identity.auth_state) if authenticator.enable_auth_state else None
        entry = await self._open(handler, step.way, identity, sealed, cookie)
        return replace(entry, known=self.browsers.seal(step.account)) if step.username else entry

    async def _open(
        self, handler: RequestHandler, way: str, identity: Identity, sealed: str | None, cookie: str
    ) -> Entry:
        known = await self.users.user(identity.name)
        was_admin = known is not None and known.admin
        user = await self.persons.signed_in(
            identity.name,
            way=way,
            admin=identity.admin,
            groups=identity.groups,
            sealed=sealed,
        )
        agent = handler.request.headers.get("User-Agent", "")
        fresh, session = await self.sessions.create(user.name, _address(handler), agent, old=cookie)
        if identity.brought is not None and self.keep is not None:
            self.keep(user.name, session.id, identity.brought)
        words = f"{way}; {agent_words(session.agent)}; session {session.handle}"
        self.audit.note(DeedKind.SIGN_IN, user.name, address=session.address, words=words)
        if user.admin != was_admin:
            kind = DeedKind.ADMIN_GIVEN if user.admin else DeedKind.ADMIN_TAKEN
            self.audit.note(kind, user.name, by="hub", words=f"as {way} said at the sign-in")
        return Entry(_of_session(session, user), fresh, identity.after)

    def _ask(self, step: _Step, asked: Asked) -> Asking:
        state = secrets.token_urlsafe(24)
        keep = {
            "ticket": asked.ticket,
            "username": step.username,
            "account": step.account,
            "steps": str(step.number),
        }
        sealed = self.asked.seal(Journey(step.way, state, "", "", keep))
        return Asking(asked.question, step.way, step.username, state, sealed)

    async def visitor(self, cookie: str, handler: RequestHandler, *, ask: bool, used: bool = True) -> Visitor | None:
        """Whose session it is, with the rights they have now; ``ask``: they are asked about again if that was long ago."""
        session = await self.sessions.read(cookie, used=used)
        user: StoredUser | None = await self.users.user(session.user) if session else None
        if session is None or user is None:
            return None
        way = self.authenticators.get(user.way)
        if way is not None and way.contradicts(handler, user.name):
            return None
        if ask:
            try:
                user = await self.refresher.check(user, handler)
            except SignInAgain:
                return None
        return _of_session(session, user)

    async def bearer(self, token: str, handler: RequestHandler | None = None) -> Visitor | None:
        """Whose token it is, with the rights they have now."""
        row = await self.access_tokens.find(token)
        user: StoredUser | None = await self.users.user(row.user) if row else None
        if row is None or user is None:
            return None
        if handler is not None:
            user = await self.refresher.check(user, handler)
        return Visitor(user.name, user.admin, token_id=str(row.id), until=row.expires, right=row.hash)

    async def before_start(self, name: UserName) -> None:
        """Whether a server may be started for somebody, whoever asked for it and how. Raises SignInAgain, Unreachable."""
        user = await self.users.user(name)
        if user is not None:
            await self.refresher.check(user, start=True)

    async def look_after(self, names: Iterable[str]) -> None:
        """Ask about those of these people about whom nobody has asked for long. Raises StoreUnavailable."""
        await self.refresher.check_all(names, self.users.user)

    async def good(self, visitor: Visitor) -> bool:
        """Whether the session or token is still good; not a use of it."""
        if visitor.session:
            return await self.sessions.alive(visitor.session)
        return any(str(row.id) == visitor.token_id for row in await self._good_tokens(visitor.name))

    def ending(self, visitor: Visitor) -> AbstractContextManager[asyncio.Event]:
        """For what stays open."""
        return self.endings.watch(visitor.right)

    async def sign_out(self, cookie: str) -> bool:
        """End the session; the proxy is told by the sessions themselves."""
        return await self.sessions.end(cookie)

    def xsrf(self, bound: str) -> str:
        """A fresh spelling of the token."""
        return self.guard.token(bound)

    def xsrf_fits(self, bound: str, given: str) -> bool:
        """Whether the token was made for it."""
        return self.guard.check(bound, given)

    async def tokens(self, user: UserName) -> Sequence[TokenView]:
        """Those that are good, newest first."""
        rows = await self._good_tokens(user)
        return [_of_token(row) for row in sorted(rows, key=lambda row: row.created, reverse=True)]

    async def _good_tokens(self, user: UserName) -> Sequence[StoredToken]:
        now = self.clock()
        rows = [row for row in await self.access_tokens.of(user) if row.expires is None or now < row.expires]
        if all(row.session is None for row in rows):
            return rows
        good = {None, *(session.id for session in await self.sessions.of(user))}
        return [row for row in rows if row.session in good]

    async def make_token(self, user: UserName, note: str, life: timedelta, session: str = "") -> str:
        """A new one."""
        if len(await self.tokens(user)) >= MOST_TOKENS:
            raise TooMany(f"You have {MOST_TOKENS} tokens, which is the limit; revoke some.")
        secret, _ = await self.access_tokens.issue(user, note, life, session or None)
        return secret

    async def revoke_token(self, user: UserName, token_id: str) -> None:
        """End it, if it is this person's."""
        number = int(token_id) if token_id.isascii() and token_id.isdecimal() and len(token_id) < 19 else -1
        if not await self.access_tokens.revoke(number, user):
            raise NotFound("You have no such token (any more).")

    async def revoke_tokens(self, user: UserName) -> int:
        """All of them."""
        return await self.access_tokens.revoke_all_of(user)

    async def sessions_of(self, user: UserName, current: str = "") -> Sequence[SessionView]:
        """Last used first."""
        found, now = await self.sessions.open_of(user), self.clock()
        return [_seen(one, current, now) for one in sorted(found, key=lambda one: one.last_seen, reverse=True)]

    async def end_session(self, user: UserName, handle: str) -> None:
        """Tickets, connections, streams and bound tokens end with it: the sessions themselves tell."""
        if not await self.sessions.end_of(user, handle):
            raise NotFound("There is no such session (any more).")

    async def end_sessions(self, user: UserName, keep: str = "") -> int:
        """The same for all."""
        return await self.sessions.revoke_all_of(user, keep=keep or None)

    async def person(self, name: str) -> PersonView:
        """Who is known by this name."""
        user = await self.users.user(name)
        if user is None:
            raise NotFound(f"This hub knows nobody called {name[:40]!r}.")
        return _listed(user)

    async def everybody(self, part: str, offset: int, limit: int) -> Sequence[PersonView]:
        """By name."""
        return [_listed(user) for user in await self.users.users(limit=limit, offset=offset, part=part)]


def _address(handler: RequestHandler) -> str:
    return handler.request.remote_ip or ""


def _of_session(session: Session, user: StoredUser) -> Visitor:
    return Visitor(user.name, user.admin, session=session.id, until=session.absolute, right=session.id)


def _seen(session: Session, current: str, now: datetime) -> SessionView:
    return SessionView(
        id=session.handle,
        created=session.created,
        last_used=session.last_seen,
        ends=session.ends,
        absolute=session.absolute,
        address=session.address,
        agent=agent_words(session.agent),
        said=session.agent,
        current=session.id == current,
        idle=not session.good(now),
    )


def _listed(user: ListedUser) -> PersonView:
    return PersonView(user.name, user.admin, user.created, user.last_login, tuple(user.groups), user.way)


def _of_token(row: StoredToken) -> TokenView:
    return TokenView(str(row.id), row.note, row.created, row.last_used, row.expires, row.session is not None)
