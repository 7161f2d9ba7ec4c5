"""A site's own functions around a server: before its job is written (they may refuse, and add to it), and after it has ended.

A plain function runs in a thread, an async one on the event loop; each has a time limit. What goes wrong in one refuses the start: its traceback is in the log, the
person is told that the site's hook failed. Reconciling is level-triggered, so a hook may run again for the same server. That of an end is noted once it has
run: what a hub that died told nobody of, the next one tells.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

from batchhub.auth.blocking import Blocking
from batchhub.config import traits
from batchhub.control.tasks import Tasks
from batchhub.core.additions import Additions, merged, read_additions
from batchhub.core.errors import BadInput, ConfigError, Denied, HubError
from batchhub.core.model import OptionValue, Outcome, Person, Server, ServerId, UserName

log = logging.getLogger(__name__)

THREADS = 24
"""Hooks at a time: a cluster's starts that are prepared together (16) do not use up their time limit by waiting for each other."""
ENDS_AT_ONCE = 4
"""Ends that ``post_stop_hook`` is told of at a time, others wait: a maintenance ends all servers in a minute, and starts need threads too."""

Hook = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Spawn:
    """A server that is about to be given to the scheduler, or comes back to it. ``auth_state`` is what is kept of its owner's sign-in, if anything is."""

    person: Person
    server_id: str
    server_name: str
    profile: str
    cluster: str
    account: str
    options: Mapping[str, OptionValue]
    auth_state: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Stop:
    """A server that has ended, and how: ``words`` are the sentence its owner reads."""

    person: Person
    server_id: str
    server_name: str
    profile: str
    cluster: str
    account: str
    outcome: Outcome | None
    exit_code: int | None
    words: str


@dataclass(frozen=True, slots=True)
class SiteHooks:
    """What the site set; ``deadline`` in seconds."""

    pre_spawn: Hook | None = None
    auth_state: Hook | None = None
    post_stop: Hook | None = None
    deadline: float = 30.0


NO_HOOKS = SiteHooks()


class Ends(Protocol):
    """Of which ends ``post_stop_hook`` was told. Both raise StoreUnavailable."""

    def untold(self, since: datetime) -> Awaitable[Sequence[Server]]:
        """Runs that have ended since then and of which it was not."""

    def told(self, server_id: ServerId, words: str) -> Awaitable[None]:
        """It was told now."""


def plan_hooks(hub: traits.BatchHub) -> SiteHooks:
    """Raises ConfigError for what is no function."""
    found = {}
    for name in ("pre_spawn_hook", "auth_state_hook", "post_stop_hook"):
        hook = getattr(hub, name)
        if hook is not None and not callable(hook):
            raise ConfigError(f"c.BatchHub.{name} must be a function, not {type(hook).__name__}.")
        found[name.removesuffix("_hook")] = hook
    return SiteHooks(**found, deadline=hub.hook_timeout)


class Hooks:
    """Calls them. ``person`` and ``state`` say what is kept of somebody, ``ends`` which ends were told of."""

    def __init__(
        self,
        hooks: SiteHooks,
        person: Callable[[UserName], Awaitable[Person | None]],
        state: Callable[[UserName], Awaitable[Mapping[str, Any] | None]],
        ends: Ends,
    ) -> None:
        self._hooks = hooks
        self._person = person
        self._state = state
        self._ends = ends
        self._telling: set[ServerId] = set()
        self._threads = Blocking(
            "hooks", "Too much is asked of this site's hooks right now; please try again in a minute.", THREADS
        )
        self._tasks = Tasks("hooks")
        self._room = asyncio.Semaphore(ENDS_AT_ONCE)

    async def additions(self, server: Server) -> Additions:
        """What they add to its job: ``auth_state_hook``, then ``pre_spawn_hook``, whose word counts. Raises what they refuse with, Denied, StoreUnavailable."""
        if self._hooks.pre_spawn is None and self._hooks.auth_state is None:
            return Additions()
        person, state = await self._who(server.user), await self._state(server.user)
        parts = []
        if self._hooks.auth_state is not None and state is not None:
            parts.append(await self._ask("auth_state_hook", self._hooks.auth_state, person, state))
        if self._hooks.pre_spawn is not None:
            spawn = Spawn(
                person,
                server.id,
                server.name,
                server.profile,
                server.cluster,
                server.account,
                MappingProxyType(dict(server.options)),
                state,
            )
            parts.append(await self._ask("pre_spawn_hook", self._hooks.pre_spawn, spawn))
        return merged(parts)

    def ended(self, server: Server) -> None:
        """Have ``post_stop_hook`` called; nobody waits for it."""
        if self._hooks.post_stop is not None and server.id not in self._telling:
            self._telling.add(server.id)
            self._tasks.start(self._tell(self._hooks.post_stop, server), f"post_stop_hook of {server.id}")

    async def catch_up(self, since: datetime) -> None:
        """Have it called for what ended since then and was told nobody: a hub died in that moment. Raises StoreUnavailable."""
        if self._hooks.post_stop is not None:
            for server in await self._ends.untold(since):
                self.ended(server)

    async def close(self) -> None:
        """Wait for nothing more."""
        await self._tasks.close()
        self._threads.close()

    async def _who(self, user: UserName) -> Person:
        return await self._person(user) or Person(user)

    async def _ask(self, name: str, hook: Hook, *words: object) -> Additions:
        """Raises HubError: its own, or that it failed."""
        try:
            answer = await self._call(hook, *words)
        except HubError:
            raise
        except _TookTooLong:
            log.error("%s did not end within %g seconds", name, self._hooks.deadline)  # noqa: TRY400  (there is nothing to trace)
            raise Denied(f"The site's {name} took too long; please tell the hub's administrator.") from None
        except (Exception, SystemExit) as error:
            log.exception("%s failed", name)
            raise Denied(f"The site's {name} failed; the hub's administrator finds the reason in its log.") from error
        try:
            return read_additions(answer)
        except BadInput as error:
            log.error("%s answered what cannot be added: %s", name, error)  # noqa: TRY400  (a traceback could hold some of it)
            raise Denied(f"The site's {name} failed; the hub's administrator finds the reason in its log.") from None

    async def _tell(self, hook: Hook, server: Server) -> None:
        try:
            async with self._room:
                words = await self._told(hook, server)
            await self._ends.told(server.id, words)
        except HubError as error:
            log.warning("that post_stop_hook was called for server %s could not be noted: %s", server.id, error)
        finally:
            self._telling.discard(server.id)

    async def _told(self, hook: Hook, server: Server) -> str:
        """What came of it, for the server's trail."""
        try:
            stop = Stop(
                await self._who(server.user),
                server.id,
                server.name,
                server.profile,
                server.cluster,
                server.account,
                server.outcome,
                server.exit_code,
                server.words,
            )
            await self._call(hook, stop)
        except _TookTooLong:
            log.error("post_stop_hook did not end within %g seconds for server %s", self._hooks.deadline, server.id)  # noqa: TRY400
            return "It took too long."
        except (Exception, SystemExit):
            log.exception("post_stop_hook failed for server %s", server.id)
            return "It failed; the hub's log says why."
        return ""

    async def _call(self, hook: Hook, *words: object) -> object:
        """Its answer. Raises _TookTooLong, and what it raises, a TimeoutError of its own among it."""
        limit = asyncio.timeout(self._hooks.deadline)
        try:
            async with limit:
                if inspect.iscoroutinefunction(hook):
                    return await hook(*words)
                # The time of a thread that goes on nevertheless is counted here alone.
                answer = await self._threads.ask(functools.partial(hook, *words), 2 * self._hooks.deadline)
                return await answer if inspect.isawaitable(answer) else answer
        except TimeoutError:
            if limit.expired():
                raise _TookTooLong from None
            raise


class _TookTooLong(Exception):
    """A hook did not end within its time."""
