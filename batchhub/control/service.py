"""What pages and API may ask of the control plane, and nothing more of it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from batchhub.control.broadcast import Broadcast
from batchhub.control.evidence import Evidence, gather
from batchhub.control.extension import Extender
from batchhub.control.knowledge import Knowledge, Known
from batchhub.control.poller import Poller
from batchhub.control.ports import JobBuilder, ServerStore
from batchhub.control.reconciler import Reconciler
from batchhub.core.errors import (
    BadInput,
    Conflict,
    Denied,
    HubError,
    NotFound,
    StoreUnavailable,
    SubmitRejected,
    Unreachable,
)
from batchhub.core.forms import Profile, check, with_queues
from batchhub.core.handshake import read_connection
from batchhub.core.idleness import limits_of
from batchhub.core.model import (
    NO_OPTIONS,
    OptionValue,
    Outcome,
    Phase,
    QueueInfo,
    Server,
    UserName,
    Want,
    new_server_id,
    read_server_id,
    read_server_name,
)
from batchhub.core.personal import Missing
from batchhub.core.ports import Clock
from batchhub.core.quota import Quota, admit
from batchhub.core.words import Status, describe

log = logging.getLogger(__name__)

MAX_CONNECTION_BYTES = 8192


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server and what is known of it now.

    ``cluster_title`` is the cluster's name for people. ``offers`` are the whole times that may be asked for, ``limits`` says when the hub would
    end it.
    """

    server: Server
    status: Status
    cluster_title: str = ""
    offers: tuple[timedelta, ...] = ()
    limits: str = ""

    @property
    def url(self) -> str:
        """Where its owner enters it."""
        return self.server.path


@dataclass(frozen=True, slots=True)
class History:
    """A run, how it went, and all runs of the same name, newest first."""

    view: ServerView
    evidence: Evidence
    runs: Sequence[ServerView]


@dataclass(frozen=True, slots=True)
class FormView:
    """A profile's form, filled in with what the cluster offers, the values used last, and how old the cluster's word is."""

    profile: Profile
    previous: Mapping[str, OptionValue]
    cluster_title: str
    inspected_at: datetime | None
    trouble: str = ""
    missing: Missing | None = None


async def _nothing_missing(user: UserName) -> Missing | None:
    del user
    return None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the service holds of a cluster.

    ``account`` maps a hub user to the cluster's account name; ``missing`` says what they have to do before the hub can act as them.
    """

    title: str
    poller: Poller
    account: Callable[[UserName], str]
    missing: Callable[[UserName], Awaitable[Missing | None]] = _nothing_missing


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """``first_word``: seconds that a start waits for the scheduler's first answer. ``form_wait``: seconds a form waits for the partitions."""

    first_word: float = 10.0
    form_wait: float = 5.0
    quota: Quota = field(default_factory=Quota)


async def _whoever(_user: UserName) -> None:
    """Nobody is asked about."""


class HubService:
    """The facade. Every method raises errors of :mod:`batchhub.core.errors` only."""

    def __init__(
        self,
        *,
        profiles: Sequence[Profile],
        clusters: Mapping[str, ClusterFacts],
        store: ServerStore,
        reconciler: Reconciler,
        builder: JobBuilder,
        broadcast: Broadcast,
        clock: Clock,
        checks: Mapping[str, Callable[[], Awaitable[str]]],
        settings: ServiceSettings,
        extender: Extender | None = None,
        leader: Callable[[], Awaitable[str]] | None = None,
        before_start: Callable[[UserName], Awaitable[None]] = _whoever,
    ) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self._clusters = clusters
        self._store = store
        self._reconciler = reconciler
        self._builder = builder
        self._broadcast = broadcast
        self._clock = clock
        self._checks = checks
        self._settings = settings
        self._extender = extender
        self._knowledge = Knowledge({name: facts.poller for name, facts in clusters.items()}, store)
        self._leader = leader
        self._before_start = before_start

    # ------------------------------------------------ forms

    def profiles(self) -> Sequence[Profile]:
        """What can be started, in the site's order."""
        return tuple(self._profiles.values())

    def cluster_titles(self) -> Mapping[str, str]:
        """Cluster name -> its name for people."""
        return {name: facts.title for name, facts in self._clusters.items()}

    async def form(self, user: UserName, profile: str) -> FormView:
        """The form of a profile. Raises NotFound."""
        asked = self._profile(profile)
        facts = self._clusters[asked.cluster]
        queues, trouble = await self._queues(facts)
        previous: Mapping[str, OptionValue] = NO_OPTIONS
        for row in await self._store.servers_of(user):
            if row.profile == profile and row.outcome is not Outcome.REFUSED:
                previous = row.options
                break
        return FormView(
            with_queues(asked, queues),
            previous,
            facts.title,
            facts.poller.inspected_at,
            trouble,
            await facts.missing(user),
        )

    async def _queues(self, facts: ClusterFacts) -> tuple[Sequence[QueueInfo], str]:
        try:
            async with asyncio.timeout(self._settings.form_wait):
                return await facts.poller.inspect(), ""
        except TimeoutError:
            return facts.poller.queues, "The scheduler is slow to answer; limits are checked when the job is submitted."
        except Unreachable as error:
            return (), f"{error} Limits are checked when the job is submitted."

    def _profile(self, name: str) -> Profile:
        try:
            return self._profiles[name]
        except KeyError:
            offered = ", ".join(self._profiles) or "none"
            raise NotFound(f"There is no profile {name[:40]!r}; offered: {offered}.") from None

    # ------------------------------------------------ start and stop

    async def spawn(self, user: UserName, name: str, profile: str, raw: Mapping[str, Sequence[str]]) -> ServerView:
        """Start a server and wait a few seconds for the scheduler's first word.

        Raises InvalidForm, Conflict (it exists already), TooMany, SubmitRejected (the scheduler's own words), SignInAgain (they may not any more), Denied for
        whom the hub cannot act.
        """
        read_server_name(name)
        asked = self._profile(profile)
        await self._before_start(user)
        facts = self._clusters[asked.cluster]
        queues, _ = await self._queues(facts)
        options = check(with_queues(asked, queues), raw, queues)
        missing = await facts.missing(user)
        if missing is not None:
            raise Denied(missing.words)
        now = self._clock()
        row = Server(
            id=new_server_id(),
            user=user,
            name=name,
            cluster=asked.cluster,
            profile=asked.name,
            account=facts.account(user),
            created=now,
            since=now,
            options=options,
        )
        quota = self._settings.quota
        row = await self._store.add_server(
            row, admit=lambda standing: admit(quota, asked, standing, now), window=quota.starts_window
        )
        log.info("server %s of %s was asked for: profile %s on %s", row.id, user, asked.name, asked.cluster)
        row = await self._first_word(row)
        if row.outcome is Outcome.REFUSED:
            raise SubmitRejected(row.words or "The scheduler refused the job without a word.")
        return await self._view(row)

    async def _first_word(self, row: Server) -> Server:
        """Wait until the job is submitted or refused, but not for long: the waiting page takes over."""
        with self._broadcast.listen(row.id) as news, contextlib.suppress(TimeoutError):
            self._reconciler.look((row.id,))
            async with asyncio.timeout(self._settings.first_word):
                while True:
                    row = await self._store.server(row.id)
                    if row.job_id is not None or not row.alive or (row.words and row.phase is Phase.REQUESTED):
                        return row
                    await news.wait()
                    news.clear()
        return row

    async def stop(self, user: UserName, name: str, by: UserName) -> ServerView:
        """Want it down. Raises NotFound. Stopping what is stopped already is no error."""
        row = await self._current(user, name)

        def down(current: Server) -> Server | None:
            if not current.alive:
                return None
            if current.cluster not in self._clusters:
                # Nobody can be asked any more; without this the name could never be used again.
                words = f"Cluster {current.cluster!r} is not configured any more; its job {current.job_id or ''} may still be there."
                now = self._clock()
                return replace(
                    current,
                    want=Want.DOWN,
                    phase=Phase.ENDED,
                    since=now,
                    ended=now,
                    outcome=Outcome.FAILED,
                    words=words,
                )
            if current.want is Want.DOWN:
                return None
            return replace(current, want=Want.DOWN, words="" if by == user else f"Stopped by {by}.", cancel_tried=None)

        row = await self._store.update(row.id, down, kind="stop", by=by)
        self._reconciler.look((row.id,))
        self._broadcast.tell(row.id, row.user)
        return await self._view(row)

    async def extend(self, user: UserName, name: str, walltime: timedelta, by: UserName) -> ServerView:
        """Give a running server ``walltime`` in all. Raises NotFound, and as :meth:`~batchhub.control.extension.Extender.extend`."""
        row = await self._current(user, name)
        if self._extender is None:
            raise Denied("More time for a running job cannot be had here.")
        return await self._view(await self._extender.extend(row, walltime, by))

    # ------------------------------------------------ views

    async def server(self, user: UserName, name: str) -> ServerView:
        """The newest run. Raises NotFound."""
        return await self._view(await self._current(user, name))

    async def history(self, user: UserName, name: str, run: str = "") -> History:
        """The newest run, or the one with the id ``run``, with all that is known of how it went. Raises NotFound, BadInput."""
        found = await gather(self._store, user, read_server_name(name), run)
        return History(await self._view(found.server), found, await self._views(found.runs))

    async def servers_of(self, user: UserName) -> Sequence[ServerView]:
        """The newest run of each of a person's servers, live ones first."""
        rows = await self._store.servers_of(user)
        return await self._views(sorted(rows, key=lambda row: (not row.alive, row.name)))

    async def all_servers(self, *, live_only: bool, offset: int, limit: int) -> tuple[Sequence[ServerView], int]:
        """A page of everybody's newest runs, and how many there are."""
        rows, total = await self._store.all_current(live_only=live_only, offset=offset, limit=limit)
        return await self._views(rows), total

    async def watch(self, user: UserName, name: str) -> AsyncIterator[ServerView]:
        """The view now, and again after every change, until it is ready or ended (that one included). Raises NotFound.

        While somebody watches, the cluster is asked more often.
        """
        row = await self._current(user, name)
        with self._broadcast.listen(row.id) as news, self._attention(row.cluster):
            last: ServerView | None = None
            while True:
                view = await self._view(await self._store.server(row.id))
                if last is None or _differs(view, last):
                    yield view
                    last = view
                if view.server.phase in {Phase.READY, Phase.ENDED} and view.server.want is _settled_want(view.server):
                    return
                with contextlib.suppress(TimeoutError):
                    # The scheduler's reason and estimate change without a step of the server.
                    async with asyncio.timeout(2.0):
                        await news.wait()
                news.clear()

    async def changed(self, user: UserName, seconds: float) -> None:
        """Return when one of the person's servers took a step, or after ``seconds``; a step between two calls may be missed."""
        with self._broadcast.listen(user) as news, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await news.wait()

    @contextlib.contextmanager
    def _attention(self, cluster: str) -> Iterator[None]:
        facts = self._clusters.get(cluster)
        if facts is None:
            yield
            return
        facts.poller.watch(+1)
        try:
            yield
        finally:
            facts.poller.watch(-1)

    async def _current(self, user: UserName, name: str) -> Server:
        row = await self._store.current_server(user, read_server_name(name))
        if row is None:
            which = f"server {name!r}" if name else "server"
            raise NotFound(f"{user} has no {which}.")
        return row

    async def _view(self, row: Server) -> ServerView:
        (view,) = await self._views([row])
        return view

    async def _views(self, rows: Sequence[Server]) -> list[ServerView]:
        known = await self._knowledge.of(rows)
        return [self._shown(row, it) for row, it in zip(rows, known, strict=True)]

    def _shown(self, row: Server, known: Known) -> ServerView:
        facts = self._clusters.get(row.cluster)
        if facts is None:
            return ServerView(row, describe(row, None, None, self._clock()))
        unknown = facts.poller.silent_about(row)
        status = describe(row, known.seen, known.silent_since, self._clock(), unknown_since=unknown)
        limits = limits_of(self._profiles.get(row.profile)).sentence if row.alive and row.want is Want.UP else ""
        offers = self._extender.offers(row) if self._extender else ()
        return ServerView(row, status, facts.title, offers, limits)

    # ------------------------------------------------ jobs and health

    async def connected(self, server_id: str, token: str, body: bytes) -> None:
        """A job's callback: its connection file by HTTP. Raises Denied, BadInput, NotFound.

        It saves waiting for the file to be read; what it says is checked in the same way.
        """
        row = await self._store.server(read_server_id(server_id))
        if len(body) > MAX_CONNECTION_BYTES:
            raise BadInput(f"At most {MAX_CONNECTION_BYTES} bytes are expected.")
        generations = (row.generation, row.generation - 1)
        known = [self._builder.token(row, number) for number in generations if number >= 1]
        if not any(hmac.compare_digest(token.encode(), right.encode()) for right in known):
            raise Denied("This is not the server's own token.")
        connection = read_connection(body)
        if not row.alive:
            raise Conflict("This server has ended.")
        if self._reconciler.rests:
            pass  # The hub that leads reads the same from the job's own file.
        elif row.phase is Phase.STARTING and row.answered is None:
            await self._reconciler.connected(row, connection)
        else:
            # The scheduler's word that it runs, and where, is still to come.
            facts = self._clusters.get(row.cluster)
            if facts is not None:
                facts.poller.wake()

    async def health(self) -> Mapping[str, str]:
        """Part -> ``ok`` or a sentence: database, proxy, each cluster. ``leader``, with several hubs, is who leads; empty if nobody does."""
        found: dict[str, str] = {}
        for name, ask in self._checks.items():
            try:
                async with asyncio.timeout(5.0):
                    found[name] = await ask()
            except TimeoutError:
                found[name] = "does not answer within 5 seconds"
            except (HubError, StoreUnavailable) as error:
                found[name] = str(error)
        try:
            async with asyncio.timeout(5.0):
                clusters = await self._knowledge.silences()
                if self._leader is not None:
                    found["leader"] = await self._leader()
        except (HubError, TimeoutError) as error:
            clusters = dict.fromkeys(self._clusters, str(error) or "not known: the database does not answer")
        found.update((f"cluster {name}", word) for name, word in clusters.items())
        return found


def _settled_want(row: Server) -> Want:
    """The want with which a phase is final for a watcher: a READY server that is to stop is not."""
    return Want.UP if row.phase is Phase.READY else row.want


def _differs(view: ServerView, last: ServerView) -> bool:
    """Whether there is news; the time left runs on the page itself."""
    return view.server != last.server or replace(view.status, time_left=None) != replace(last.status, time_left=None)
