"""Brings every server from what it is to what is wanted, one look at a time.

A look loads the row, takes the newest observation, runs the pure :func:`batchhub.control.steps.step` inside the store's transaction,
and then carries out the actions. Looks at one server never overlap. A queue entry means "look at this server again" and may be lost or
doubled without harm: the poller's next tick brings it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import assert_never

from batchhub.control.broadcast import Broadcast
from batchhub.control.collecting import Collector
from batchhub.control.launcher import Launcher
from batchhub.control.measuring import measure
from batchhub.control.offering import OfferKeeper
from batchhub.control.poller import Poller
from batchhub.control.ports import NO_METERS, JobBuilder, Meters, ServerStore
from batchhub.control.recovery import Recovery
from batchhub.control.routing import RouteKeeper
from batchhub.control.steps import step
from batchhub.control.stopping import Stopper, StopSettings
from batchhub.control.submitting import Again, Submitter
from batchhub.control.tasks import Tasks
from batchhub.control.trail import trace_of
from batchhub.control.troubles import Troubles
from batchhub.core.errors import FileMissing, HubError, NotFound, TunnelError, Unreachable
from batchhub.core.handshake import Connection
from batchhub.core.lifecycle import Action, Decision, Limits
from batchhub.core.model import JobState, Phase, Server, ServerId, Trace
from batchhub.core.ports import Clock, Routes

log = logging.getLogger(__name__)

_LATELY = timedelta(seconds=90)
"""How fresh an application's silence must be to be held against it."""

_LEFT_BEHIND = timedelta(seconds=30)
"""So old, a connection file with former secrets is no longer taken for one that the former start left behind: this start read them."""


@dataclass(frozen=True, slots=True)
class ReconcilerSettings:
    """Seconds, unless said otherwise.

    ``submit_again``: the pause after a submit that could not be begun.
    ``submits_at_most``: how often a job that proved absent is submitted before it is given up. ``verify_routes``: how often the proxy's
    routes are compared with ours. ``workers``: the most looks at a time on one cluster, so that one which hangs holds up no other.
    """

    limits: Limits = field(default_factory=Limits)
    stop: StopSettings = field(default_factory=StopSettings)
    submit_again: float = 5.0
    submits_at_most: int = 3
    verify_routes: float = 30.0
    workers: int = 16


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the reconciler holds of a cluster."""

    poller: Poller
    launcher: Launcher


class Reconciler:
    """The only writer of phases."""

    def __init__(
        self,
        *,
        clusters: Mapping[str, Cluster],
        store: ServerStore,
        routes: Routes,
        builder: JobBuilder,
        broadcast: Broadcast,
        clock: Clock,
        settings: ReconcilerSettings,
        meters: Meters = NO_METERS,
        ended: Callable[[Server], None] = lambda _: None,
    ) -> None:
        self._clusters = clusters
        self._store = store
        self._routes = routes
        self._builder = builder
        self._broadcast = broadcast
        self._clock = clock
        self._settings = settings
        self._meters = meters
        self._ended = ended
        self._tasks = Tasks("reconciler")
        self._patient = replace(settings.limits, start_timeout=timedelta.max)
        self._slots = {name: asyncio.Semaphore(settings.workers) for name in clusters}
        self._timers: dict[ServerId, asyncio.TimerHandle] = {}
        self._closed = False
        self._start_over()

    def _start_over(self) -> None:
        """With nothing remembered."""
        store, routes, builder, broadcast = self._store, self._routes, self._builder, self._broadcast
        clock, settings = self._clock, self._settings
        self._busy: set[ServerId] = set()
        self._again: set[ServerId] = set()
        self._keeper = RouteKeeper(routes)
        self._offers = OfferKeeper(routes, builder)
        self._troubles = Troubles(store, clock)
        self._stopper = Stopper(
            store=store,
            routes=routes,
            builder=builder,
            broadcast=broadcast,
            clock=clock,
            later=self.later,
            say=self._say,
            settings=settings.stop,
            troubles=self._troubles,
        )
        self._recovery = Recovery(store, clock())
        self._submitter = Submitter(
            store=store,
            recovery=self._recovery,
            offers=self._offers,
            broadcast=broadcast,
            troubles=self._troubles,
            clock=clock,
            again=Again(self.look, self.later, self._say),
            at_most=settings.submits_at_most,
            pause=settings.submit_again,
        )
        self._silent: dict[ServerId, datetime] = {}
        self._collector = Collector(store=store, troubles=self._troubles, clock=clock, later=self.later)
        self._suspended: dict[ServerId, datetime] = {}

    # ------------------------------------------------ the queue

    def look(self, server_ids: Iterable[ServerId]) -> None:
        """Look at these servers again, soon."""
        if self._closed:
            return
        for server_id in server_ids:
            if server_id in self._busy:
                self._again.add(server_id)
                continue
            self._busy.add(server_id)
            self._tasks.start(self._work(server_id), f"look at {server_id}")

    def consider(self, rows: Iterable[Server]) -> None:
        """Rows as the database had them a moment ago: look at those for which the newest observation means something.

        Nearly all of thousands of servers go on as they were; finding that out costs no query.
        """
        now = self._clock()
        self.look(row.id for row in rows if self._matters(row, now))

    def _matters(self, row: Server, now: datetime) -> bool:
        cluster = self._clusters.get(row.cluster)
        if cluster is None:
            return False
        after, decision = step(row, cluster.poller.newest(row.id), now, self._limits(row, now))
        if after != row:
            return True
        return any(not self._idle(action, row, now) for action in decision.actions)

    def _idle(self, action: Action, row: Server, now: datetime) -> bool:
        """Whether doing it would do nothing."""
        if action is Action.PUBLISH:
            return self._keeper.holds(row)
        if action is Action.CANCEL:
            return not self._stopper.may_cancel(row, now)
        if action is Action.TELL:
            return not self._stopper.may_tell(row)
        return False

    def _limits(self, row: Server, now: datetime) -> Limits:
        """Nobody is given up for what could not be asked: while hub, proxy or login node were down, or the job was suspended."""
        seen = self._clusters[row.cluster].poller.newest(row.id)
        if row.phase is Phase.STARTING and seen and seen.report and seen.report.state is JobState.SUSPENDED:
            self._suspended[row.id] = now
        suspended = self._suspended.get(row.id)
        if suspended is not None and now - suspended <= self._settings.limits.start_timeout:
            return self._patient
        silent = self._silent.get(row.id)
        return self._settings.limits if silent is not None and now - silent <= _LATELY else self._patient

    def later(self, server_id: ServerId, delay: float) -> None:
        """Look at it again in ``delay`` seconds; the newer of two wishes stands."""
        if self._closed:
            return
        if old := self._timers.pop(server_id, None):
            old.cancel()
        loop = asyncio.get_running_loop()
        self._timers[server_id] = loop.call_later(delay, self._due, server_id)

    def _due(self, server_id: ServerId) -> None:
        self._timers.pop(server_id, None)
        self.look((server_id,))

    @property
    def rests(self) -> bool:
        """Whether it looks at nothing: another hub's does, or the hub ends."""
        return self._closed

    def begin(self) -> None:
        """Look again, with nothing remembered: another hub may have done what it liked since :meth:`close`."""
        self._start_over()
        self._closed = False

    def halt(self) -> None:
        """Stop looking, at once and without waiting for what is cancelled."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._tasks.halt()

    async def close(self) -> None:
        """Stop looking."""
        self.halt()
        await self._tasks.close()

    async def _work(self, server_id: ServerId) -> None:
        try:
            await self._look(server_id)
        except HubError as error:
            log.warning("server %s: %s", server_id, error)
            self.later(server_id, 5.0)
        except Exception:
            log.exception("looking at server %s failed", server_id)
            self.later(server_id, 10.0)
        finally:
            self._busy.discard(server_id)
            if server_id in self._again:
                self._again.discard(server_id)
                self.look((server_id,))

    # ------------------------------------------------ one look

    async def _look(self, server_id: ServerId) -> None:
        try:
            row = await self._store.server(server_id)
        except NotFound:
            log.info("server %s is not in the database any more", server_id)
            return
        cluster = self._clusters.get(row.cluster)
        if cluster is None:
            log.error("server %s is on cluster %r, which the configuration does not name any more", row.id, row.cluster)
            return
        async with self._slots[row.cluster]:
            await self._step(row, cluster)

    async def _step(self, before: Server, cluster: Cluster) -> None:
        server_id = before.id
        seen = cluster.poller.newest(server_id)
        decided: list[tuple[Server, Server, Decision]] = []

        def change(current: Server) -> Server | None:
            now = self._clock()
            after, decision = step(current, seen, now, self._limits(current, now))
            decided[:] = [(current, after, decision)]
            return after if after != current else None

        row = await self._store.update(server_id, change, trace=lambda: trace_of(*decided[0], seen))
        found, _, decision = decided[0]
        if row.phase is not Phase.STARTING:
            self._silent.pop(server_id, None)
            self._suspended.pop(server_id, None)
        if row.phase is not before.phase:
            log.info("server %s of %s: %s -> %s%s", row.id, row.user, before.phase, row.phase, _how(row))
        try:
            for action in decision.actions:
                row = await self._act(action, row, cluster)
        finally:
            measure(self._meters, found, row, self._clock())
            if row.phase is Phase.ENDED and before.phase is not Phase.ENDED and not self._closed:
                self._ended(row)
        if row.phase is Phase.ENDED and before.phase is not Phase.ENDED:
            await self._offers.withdraw(row)
            if Action.COLLECT not in decision.actions:
                await self._collector.forget(row, cluster.launcher)
        elif row.phase is Phase.ENDED and self._collector.expects(row):
            await self._collector.collect(row, cluster.launcher)
        if row.phase is Phase.ENDED and not self._collector.expects(row):
            await self._troubles.close(row)

    async def _act(self, action: Action, row: Server, cluster: Cluster) -> Server:
        match action:
            case Action.SUBMIT:
                return await self._submitter.submit(row, cluster.launcher, cluster.poller)
            case Action.RENEW:
                return await self._renew(row, cluster)
            case Action.REACH:
                return await self._reach(row, cluster)
            case Action.PUBLISH:
                return await self._publish(row, cluster)
            case Action.WITHDRAW:
                return await self._withdraw(row)
            case Action.TELL:
                return await self._stopper.tell(row)
            case Action.CANCEL:
                return await self._stopper.cancel(row, cluster.launcher, cluster.poller)
            case Action.COLLECT:
                return await self._collector.collect(row, cluster.launcher)
            case Action.NOTIFY:
                self._broadcast.tell(row.id, row.user)
                return row
            case _:
                assert_never(action)

    # ------------------------------------------------ actions

    async def _say(self, row: Server, words: str) -> Server:
        row = await self._store.update(
            row.id, lambda current: replace(current, words=words) if current.words != words else None
        )
        self._broadcast.tell(row.id, row.user)
        return row

    async def _renew(self, row: Server, cluster: Cluster) -> Server:
        try:
            await cluster.launcher.renew(row)
            await self._offers.offer(row)
        except HubError as error:
            # The job would start again with its former secrets, which are this person's own and still good.
            log.warning("server %s: its secrets could not be renewed: %s", row.id, error)
            await self._troubles.failed(row, Action.RENEW, str(error))
        return row

    async def _reach(self, row: Server, cluster: Cluster) -> Server:
        try:
            connection = await cluster.launcher.connection(row)
        except FileMissing:
            return self._not_yet(row)
        except Unreachable as error:
            self.later(row.id, 2.0)
            return await self._unreached(row, str(error))
        except HubError as error:
            return await self._unreached(self._not_yet(row, 2.0), str(error))
        if connection.generation > row.generation:
            row = await self._recovery.caught_up(row, cluster.launcher)
        return await self.connected(row, connection)

    async def connected(self, row: Server, connection: Connection) -> Server:
        """A job said where it listens: try it through the tunnel, and note that it answers."""
        if connection.generation > row.generation:
            return self._not_yet(row)
        try:
            endpoint = self._builder.endpoint(row, connection)
            found = replace(row, endpoint=endpoint, generation=connection.generation, nonce=connection.nonce)
            if connection.generation == row.generation or self._clock() - row.since > _LEFT_BEHIND:
                await self._offers.offer(found)
            status = await self._routes.probe(self._builder.route(found), self._builder.ready_path(row))
        except Unreachable as error:
            if isinstance(error, TunnelError):
                self._not_yet(row)
            self.later(row.id, max(1.0, self._reach_pause(row)))
            return await self._unreached(row, f"The application runs, but cannot be reached yet: {error}")
        except HubError as error:
            return await self._unreached(self._not_yet(row, 5.0), str(error))
        if status >= 400:
            # The file may be one that an earlier start of the job left behind.
            words = f"The application answers with an error so far (HTTP {status})."
            return await self._unreached(self._not_yet(row, 1.0), words)
        await self._keeper.clear(row)
        now = self._clock()

        def answered(current: Server) -> Server | None:
            # Found by a callback while the scheduler told of another start: it is about the former one.
            now_there = (current.generation, current.host, current.started)
            if now_there != (row.generation, row.host, row.started) or not current.alive or current.answered:
                return None
            return replace(
                current,
                answered=now,
                endpoint=endpoint,
                generation=connection.generation,
                nonce=connection.nonce,
                words="",
            )

        seen = f"answers with HTTP {status} on {endpoint.host}"
        row = await self._store.update(row.id, answered, trace=lambda: Trace("answered", seen=seen, done=Action.REACH))
        await self._troubles.over(row, Action.REACH)
        # An older route of this run, to its former node or with its former secret, must not count as published.
        self._keeper.doubt(row)
        self.look((row.id,))
        return row

    async def _unreached(self, row: Server, words: str) -> Server:
        await self._troubles.failed(row, Action.REACH, words)
        return await self._say(row, words)

    def _not_yet(self, row: Server, pause: float = 0.0) -> Server:
        """The application was asked, and does not answer yet: look again."""
        self._silent[row.id] = self._clock()
        self.later(row.id, pause or self._reach_pause(row))
        return row

    def _reach_pause(self, row: Server) -> float:
        """Often at first, when the application is about to listen, then seldom; a class that starts together shares twenty looks a second."""
        age = (self._clock() - row.since).total_seconds()
        return max(0.25 if age < 20 else 1.0 if age < 120 else 3.0, len(self._timers) / 20)

    async def _publish(self, row: Server, cluster: Cluster) -> Server:
        if self._keeper.holds(row) or row.endpoint is None:
            return row
        try:
            await self._keeper.publish(row, self._builder.route(row))
        except Unreachable as error:
            log.warning("server %s: its route could not be published: %s", row.id, error)
            self.later(row.id, 2.0)
            await self._troubles.failed(row, Action.PUBLISH, str(error))
            return row
        except HubError as error:
            # Its profile was taken out of the configuration, say: the admin's to mend, with a restart.
            log.error("server %s: it has no route: %s", row.id, error)  # noqa: TRY400 - the sentence says it all
            self.later(row.id, 60.0)
            await self._troubles.failed(row, Action.PUBLISH, str(error))
            return await self._say(row, f"It runs, but has no route: {error}")
        await self._troubles.over(row, Action.PUBLISH)
        self._broadcast.tell(row.id, row.user)
        cluster.poller.wake()
        return row

    async def _withdraw(self, row: Server) -> Server:
        try:
            await self._keeper.withdraw(row)
        except Unreachable as error:
            log.warning("server %s: its route stays until the proxy answers: %s", row.id, error)
            await self._troubles.failed(row, Action.WITHDRAW, str(error))
        return row

    async def collect_again(self) -> None:
        """After a start: fetch what runs left that ended a short time ago and of which nothing was fetched. Raises StoreUnavailable."""
        self.look(await self._collector.expect_recent())

    # ------------------------------------------------ the proxy

    async def verify_routes(self) -> None:
        """Compare the proxy's routes with the servers that are ready: add what is missing, remove what is not wanted."""
        there, offers = await self._keeper.there(), await self._offers.there()
        live = await self._store.live_servers()
        ready = {row.path: row for row in live if row.phase is Phase.READY}
        self.look(row.id for row in await self._keeper.compare(there, ready))
        await self._offers.compare(offers, live)

    async def keep_routes(self) -> None:
        """Verify now and then, until cancelled."""
        while True:
            try:
                await self.verify_routes()
                delay = self._settings.verify_routes
            except HubError as error:
                log.warning("the proxy's routes could not be verified: %s", error)
                delay = 3.0
            except Exception:
                log.exception("verifying the proxy's routes failed")
                delay = 30.0
            await asyncio.sleep(delay)


def _how(row: Server) -> str:
    """How it ended, for the log."""
    return f" ({row.outcome}: {row.words[:300]!r})" if row.phase is Phase.ENDED and row.outcome is not None else ""
