"""The hub process, put together: every collaborator is made here and handed to those who need it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from tornado.httpserver import HTTPServer

from batchhub import __version__
from batchhub.app.customising import SiteCustomiser
from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.keybook import make_keybook
from batchhub.app.metrics import HubMetrics, MeteredTransport
from batchhub.app.orphans import grounds_of
from batchhub.app.owning import Owning
from batchhub.app.people import make_hooks, make_people, make_sources
from batchhub.app.plan import HubPlan, without_effect
from batchhub.app.reach import make_transport
from batchhub.app.revocations import Revocations
from batchhub.app.site import make_dialect
from batchhub.app.ssh_ca import site_authority
from batchhub.app.state import no_core_dump, utc_now
from batchhub.auth.audit import AuditTrail
from batchhub.auth.keys import ManagedKeys
from batchhub.control.broadcast import Broadcast
from batchhub.control.collecting import COLLECT_AGAIN
from batchhub.control.company import Company, Notes
from batchhub.control.culling import Culler
from batchhub.control.extension import Extendable, Extender
from batchhub.control.guarded import GuardedTransport
from batchhub.control.launcher import Launcher
from batchhub.control.leadership import Leadership
from batchhub.control.orphans import Grounds, OrphanKeeper
from batchhub.control.poller import Poller
from batchhub.control.reconciler import Cluster, Reconciler
from batchhub.control.retention import Retention
from batchhub.control.service import ClusterFacts, HubService
from batchhub.control.tagged import TaggedJobs
from batchhub.control.tasks import Tasks
from batchhub.control.walltime import EndKeeper, Watched
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import HubError, Unreachable
from batchhub.core.idleness import limits_of
from batchhub.core.model import Server
from batchhub.core.ports import Transport
from batchhub.core.walltime import read_most
from batchhub.proxy.client import ProxyClient
from batchhub.store.audit import AuditStore
from batchhub.store.keys import Keys
from batchhub.store.leading import LeaderLock, SoleHub
from batchhub.store.store import Store
from batchhub.web.app import make_app
from batchhub.web.ports import MAX_BODY, WebServices

log = logging.getLogger(__name__)


class Hub:
    """A running hub. :func:`running_hub` makes and closes one."""

    def __init__(self, plan: HubPlan) -> None:
        self._plan = plan
        self.store = Store(plan.database, clock=utc_now)
        origin = plan.site.origin
        host_of = origin.server_host if origin is not None else lambda _owner, _name: ""
        self.routes = ProxyClient(plan.proxy_api, plan.state.api_token, host_of)
        self._revocations = Revocations(self.store, self.routes, utc_now)
        self._deeds = AuditStore(self.store)
        self._audit = AuditTrail(self._deeds, utc_now)
        self._owning = Owning(plan.site.clusters, ManagedKeys(Keys(self.store), plan.state.vault.current), utc_now)
        self._people = make_people(plan, self.store, self._revocations, self._owning, self._audit)
        self._hooks = make_hooks(plan, self.store)
        self._broadcast = Broadcast()
        self._builder = SiteJobBuilder(plan.site, plan.state.key("servers"), plan.dialling, plan.notices)
        self._metrics = HubMetrics(
            (profile.name for profile in plan.site.profiles), (cluster.name for cluster in plan.site.clusters)
        )
        self._transports: dict[str, Transport] = {}
        self._pollers: dict[str, Poller] = {}
        self._reconciler: Reconciler
        self._ends: EndKeeper
        self._retention: Retention
        self._culler: Culler
        self._orphans: OrphanKeeper
        self._tasks = Tasks("hub")
        self._duties = Tasks("leader")
        self._sole = SoleHub(plan.database)
        self._lock = LeaderLock(plan.database, _holder(plan), utc_now) if self.store.shared else None
        self._leadership = Leadership(self._lock, self)
        self._server: HTTPServer | None = None
        self.service = self._compose()

    def _compose(self) -> HubService:
        plan = self._plan
        clusters: dict[str, Cluster] = {}
        facts: dict[str, ClusterFacts] = {}
        watched: dict[str, Watched] = {}
        extendable: dict[str, Extendable] = {}
        grounds: dict[str, Grounds] = {}
        authority = site_authority(plan.site, plan.state, utc_now)
        customise = SiteCustomiser(plan.site, make_sources(plan, self.store, self._hooks))
        for cluster in plan.site.clusters:
            transport = MeteredTransport(
                cluster.name, make_transport(cluster, utc_now, authority, self._owning), self._metrics
            )
            self._transports[cluster.name] = transport
            dialect = make_dialect(cluster)
            poller = self._pollers[cluster.name] = Poller(
                cluster=cluster.name,
                transport=transport,
                dialect=dialect,
                store=self.store,
                clock=utc_now,
                settings=plan.poller,
                observed=self._observed,
                meters=self._metrics,
            )
            self._metrics.watch(poller, utc_now)
            hands = GuardedTransport(transport, self._leadership.must_lead)
            clusters[cluster.name] = Cluster(poller, Launcher(hands, dialect, self._builder, customise))
            watched[cluster.name] = Watched(poller, hands)
            most = read_most(cluster.extend_at_most)
            extendable[cluster.name] = Extendable(transport, dialect, poller, cluster.extended_by, most)
            grounds[cluster.name] = grounds_of(poller, TaggedJobs(hands, dialect, self._builder))
            facts[cluster.name] = ClusterFacts(
                cluster.title or cluster.name, poller, cluster.account_of, partial(self._owning.missing, cluster.name)
            )
        led = self.store.led_by(lambda: self._leadership.epoch)
        self._notes = Notes(led, self._pollers, utc_now)
        self._orphans = OrphanKeeper(clusters=grounds, store=led, clock=utc_now, settings=plan.orphans)
        self._reconciler = Reconciler(
            clusters=clusters,
            store=led,
            routes=self.routes,
            builder=self._builder,
            broadcast=self._broadcast,
            clock=utc_now,
            settings=plan.reconciler,
            meters=self._metrics,
            ended=self._hooks.ended,
        )
        self._ends = EndKeeper(
            clusters=watched,
            store=led,
            broadcast=self._broadcast,
            clock=utc_now,
            notices=self._builder.notices,
        )
        self._retention = Retention(watched, led, utc_now, plan.retention)
        profiles = {profile.name: profile for profile in plan.site.profiles}
        extender = Extender(
            clusters=extendable,
            profiles=profiles,
            store=self.store,
            ends=self._ends,
            broadcast=self._broadcast,
            clock=utc_now,
        )
        self._culler = Culler(
            store=led,
            routes=self.routes,
            builder=self._builder,
            limits=lambda name: limits_of(profiles.get(name)),
            look=self._reconciler.look,
            clock=utc_now,
            settings=plan.culling,
        )
        self._reconciler.halt()  # until this hub leads
        self._company = Company(
            store=self.store,
            pollers=self._pollers,
            leads=lambda: self._leadership.leads,
            tell=self._broadcast.tell,
            heed=self._reconciler.look,
            clock=utc_now,
        )
        return HubService(
            profiles=plan.site.profiles,
            clusters=facts,
            store=self.store,
            reconciler=self._reconciler,
            builder=self._builder,
            broadcast=self._broadcast,
            clock=utc_now,
            checks={"database": self._ask_database, "proxy": self._ask_proxy},
            settings=plan.service,
            extender=extender,
            leader=self._who_leads if self.store.shared else None,
            before_start=self._people.before_start,
        )

    def _observed(self, rows: Sequence[Server]) -> None:
        self._reconciler.consider(rows)
        self._ends.consider(rows)
        self._notes.note(rows)
        # The scheduler's reason and estimate are news for an open page, though no step of the server.
        self._broadcast.tell(*(row.id for row in rows))

    async def _ask_database(self) -> str:
        await self.store.ping()
        return "ok"

    async def _ask_proxy(self) -> str:
        await self.routes.ping()
        return "ok"

    async def start(self) -> None:
        """Open the database, listen, begin to look. Raises WrongSchema, StoreUnavailable, TemplateProblem."""
        plan = self._plan
        self._builder.check()
        self._sole.claim()
        await self.store.open()
        for words in without_effect(plan.site, plan.authenticators):
            log.warning("%s", words)
        services = WebServices(
            hub=self.service,
            people=self._people,
            clock=utc_now,
            ticket_key=plan.state.key("tickets"),
            audit=self._audit,
            deeds=self._deeds,
            orphans=self._orphans.found,
            keys=make_keybook(plan.site.clusters, self._owning, utc_now),
            registry=self._metrics.registry,
        )
        self._server = HTTPServer(make_app(services, plan.web), xheaders=True, max_body_size=MAX_BODY)
        self._server.listen(plan.listen[1], plan.listen[0])
        self._tasks.start(self._revocations.keep(), "revocations")
        self._tasks.start(self._owning.keep_house(), "passwords of people who left")
        self._tasks.start(self._audit.keep(), "audit")
        self._audit.note(DeedKind.HUB_STARTED, by="hub", words=f"{_holder(plan)}, version {__version__}")
        if self._lock is None:
            await self._leadership.alone()
        else:
            self._tasks.start(self._company.keep(), "company")
            self._tasks.start(self._leadership.run(), "leadership")

    # ------------------------------------------------ what the leader alone does

    async def begin(self) -> None:
        """Look at the clusters and take steps. Raises StoreUnavailable."""
        for poller in self._pollers.values():
            poller.reset()
        self._notes.reset()
        self._reconciler.begin()
        rows = await self.store.live_servers()
        for poller in self._pollers.values():
            self._duties.start(poller.run(), f"poller of {poller.cluster}")
        self._duties.start(self._keep_default_route(), "default route")
        self._duties.start(self._reconciler.keep_routes(), "routes")
        self._duties.start(self._keep_house(), "house")
        self._duties.start(self._look_after_people(), "rights of people with servers")
        self._duties.start(self._notes.keep(), "notes")
        self._duties.start(self._culler.run(), "culling")
        self._duties.start(self._retention.keep(), "retention")
        self._duties.start(self._orphans.keep(), "orphans")
        self._reconciler.consider(rows)
        await self._reconciler.collect_again()
        await self._hooks.catch_up(utc_now() - COLLECT_AGAIN)

    def halt(self) -> None:
        """Nothing of it any more, at once."""
        self._reconciler.halt()
        self._ends.halt()
        self._duties.halt()

    async def end(self) -> None:
        """Wait until all of it has ended."""
        await self._reconciler.close()
        await self._duties.close()
        await self._ends.close()
        for poller in self._pollers.values():
            poller.reset()

    async def _keep_default_route(self) -> None:
        """Whatever no route takes is for the hub that leads, so people's pages come from one that lives."""
        began = False
        while True:
            try:
                await self.routes.lead(self._plan.address, led=self._lock is not None)
                if not began:
                    for authenticator in self._plan.authenticators.values():
                        authenticator.lead()
                began, delay = True, 30.0
            except Unreachable as error:
                log.info("the proxy could not be told where the hub is: %s", error)
                delay = 2.0
            await asyncio.sleep(delay)

    async def _who_leads(self) -> str:
        found = await self.store.leader()
        if found is None or not found.leads:
            return ""
        return f"{found.holder} since {found.since.isoformat()}" + (" (this hub)" if self._leadership.leads else "")

    async def _keep_house(self) -> None:
        while True:
            try:
                now = utc_now()
                await self.store.expire_sessions(now)
                while self._plan.keep_ended and await self.store.prune_ended(now - self._plan.keep_ended):
                    pass
                while self._plan.keep_audit and await self._deeds.prune(now - self._plan.keep_audit):
                    pass
            except HubError as error:
                log.warning("old sessions and servers could not be removed, this is tried again in an hour: %s", error)
            await asyncio.sleep(3600)

    async def _look_after_people(self) -> None:
        """Whoever is in a notebook may come to no page of the hub for days."""
        while True:
            try:
                await self._people.look_after({row.user for row in await self.store.live_servers()})
            except HubError as error:
                log.warning("people could not be asked about, this is tried again in a minute: %s", error)
            await asyncio.sleep(60)

    async def close(self) -> None:
        """Stop looking and listening. Jobs, the proxy and everybody's connections go on."""
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
        await self._audit.close()
        await self._tasks.close()
        self.halt()
        await self.end()
        if self._lock is not None:
            await self._lock.close()
        for authenticator in self._plan.authenticators.values():
            authenticator.close()
        self._owning.close()
        await self._hooks.close()
        for transport in self._transports.values():
            await transport.close()
        await self.routes.close()
        await self.store.close()
        self._sole.release()


def _holder(plan: HubPlan) -> str:
    """Name the hub for people."""
    return f"{socket.gethostname()} at {plan.address} (pid {os.getpid()})"


@contextlib.asynccontextmanager
async def running_hub(plan: HubPlan) -> AsyncIterator[Hub]:
    """A hub from start to end."""
    hub = Hub(plan)
    try:
        await hub.start()
        yield hub
    finally:
        await hub.close()


async def _nothing(_hub: Hub) -> None:
    """Jobs and notebooks outlive the hub."""


async def serve(
    plan: HubPlan,
    started: Callable[[Hub], None] = lambda _: None,
    ending: Callable[[Hub], Awaitable[None]] = _nothing,
) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP (the terminal was closed); ``started`` is called when the hub listens, ``ending`` before it stops to."""
    no_core_dump()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with running_hub(plan) as hub:
        log.info("the hub listens on %s:%d", *plan.listen)
        started(hub)
        await stop.wait()
        await ending(hub)
        log.info("the hub ends; jobs and notebooks go on")
