"""The door to the database: every method is one transaction, run in a thread of the store's own, so the event loop never waits.

A cancelled method may or may not have happened, as with any database; the callers are level-triggered and look again. So may one that had
no answer in time: a database that hangs is not waited for.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from batchhub.core.errors import StoreUnavailable
from batchhub.core.model import Observation, Server, ServerId, Trace, UserName
from batchhub.core.ports import Clock
from batchhub.core.quota import Standing
from batchhub.store import leading, people, schema, servers, sightings, trail
from batchhub.store.engine import is_memory, is_shared, open_engine, our_errors, passing, read_url, reading, shown
from batchhub.store.running import Running
from batchhub.store.trail import Line, Scope
from batchhub.store.values import ApiToken, ClusterWord, Event, Leader, News, StoredSession, User

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """A database at ``url``. Construct, :meth:`open`, use, :meth:`close`. ``clock`` dates events and sign-ins.

    Writes go through one thread with SQLite, which has one writer anyway, and through ``threads`` otherwise; reads have ``threads`` of
    their own. ``waiting_limit`` bounds the transactions that wait for a thread; beyond it a method raises StoreUnavailable at
    once. ``patience`` is how many seconds a transaction may take, or wait while no other comes to its end. With ``create`` a new, empty
    database gets its tables; one at another revision is refused either way.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        create: bool = True,
        threads: int = 4,
        waiting_limit: int = 10_000,
        patience: float = 15.0,
    ) -> None:
        self._url = read_url(url)
        self._clock = clock
        self._create = create
        self._limit = waiting_limit
        self._patience = patience
        self._writers = threads if is_shared(self._url) else 1
        self._readers = 0 if is_memory(self._url) else threads
        self._door = _Door()
        self._led: Callable[[], int | None] | None = None

    def led_by(self, epoch: Callable[[], int | None]) -> Store:
        """The same database for the leader alone: a transaction that writes raises NotLeading unless ``epoch`` is the newest then.

        ``epoch`` gives the lead's of this process, or ``None`` while it does not lead.
        """
        view = copy.copy(self)
        view._led = epoch  # noqa: SLF001 - our own
        return view

    @property
    def clock(self) -> Clock:
        """What dates events and sign-ins."""
        return self._clock

    @property
    def shared(self) -> bool:
        """Whether several hubs may work on this database."""
        return is_shared(self._url)

    async def open(self) -> None:
        """Open and check the schema. Raises WrongSchema, StoreUnavailable, ConfigError."""
        opened = _Opened(open_engine(self._url, self._writers + self._readers), self._writers, self._readers)
        self._door.opened = opened
        try:
            await self._prepare(opened)
        except BaseException:
            await self.close()
            raise

    async def _prepare(self, opened: _Opened) -> None:
        """Not within our patience: making the tables, or waiting for another hub that does, takes as long as it takes."""

        def prepare() -> None:
            with our_errors(self._url):
                schema.prepare(opened.engine, create=self._create)

        await asyncio.wrap_future(opened.write.submit(prepare))

    async def close(self) -> None:
        """Let running transactions end, refuse new ones, close every connection."""
        opened, self._door.opened = self._door.opened, None
        if opened is not None:
            await asyncio.get_running_loop().run_in_executor(None, opened.close)

    async def check_schema(self) -> None:
        """Raise WrongSchema if the database is not (any more) at this version's revision."""
        opened = self._opened()
        await self._run(opened.write, lambda _: schema.check(opened.engine))

    async def ping(self) -> None:
        """Return if the database answers. Raises StoreUnavailable."""
        await self.read(_ping)

    # ------------------------------------------------------------ servers

    async def add_server(
        self,
        server: Server,
        *,
        by: str = "",
        admit: Callable[[Standing], None] | None = None,
        window: timedelta = timedelta(0),
    ) -> Server:
        """Insert a new run; its owner's row is made if missing. Raises Conflict if one of that name has not ended.

        ``by`` is who asked for it, when that was not its owner. ``admit`` is handed what there is already, starts within ``window`` included,
        and raises what speaks against one more; nobody else's is added in between.
        """
        return await self.write(servers.add, server, by, admit, server.created - window)

    async def server(self, server_id: ServerId) -> Server:
        """The run of this id. Raises NotFound."""
        return await self.read(servers.one, server_id)

    async def current_server(self, user: str, name: str = "") -> Server | None:
        """The newest run of this name, ended or not; ``None`` if there never was one."""
        return await self.read(servers.current, user, name)

    async def servers_of(self, user: str) -> tuple[Server, ...]:
        """The newest run of each of the user's server names, by name."""
        return await self.read(servers.newest_of, user)

    async def runs_of(self, user: str, name: str, limit: int = 50) -> tuple[Server, ...]:
        """The newest ``limit`` runs of this name, newest first."""
        return await self.read(servers.runs_of, user, name, limit)

    async def live_servers(self, cluster: str | None = None) -> tuple[Server, ...]:
        """Every run that has not ended, of one cluster or of all, oldest first."""
        return await self.read(servers.live, cluster)

    async def uncollected(self, since: datetime) -> tuple[Server, ...]:
        """Runs that have ended since then, were given to a scheduler, and of which no log is kept."""
        return await self.read(servers.uncollected, since)

    async def all_current(
        self, *, live_only: bool = False, offset: int = 0, limit: int = 100
    ) -> tuple[tuple[Server, ...], int]:
        """A page of the newest runs of each server name of each user, by user and name, and how many there are in all."""
        return await self.read(servers.newest_of_all, limit, offset, live_only=live_only)

    async def update(
        self,
        server_id: ServerId,
        change: Callable[[Server], Server | None],
        *,
        kind: str = "",
        by: str = "",
        words: str = "",
        trace: Callable[[], Trace] | None = None,
    ) -> Server:
        """Load, change, save, in one transaction under the row's lock; returns the value that is in the database then.

        ``change`` is pure, runs in the store's thread, and returns ``None`` to leave the row alone. With a ``kind``, a change that
        made a difference is recorded as an event in the same transaction; without ``words`` the event says what is different.
        ``trace`` is asked instead of ``kind`` and ``by`` for what is known only once ``change`` has run; it is called after it, as it is.
        Raises NotFound, Conflict, and what ``change`` raises (then nothing is saved).
        """
        event = Event(server_id, self._clock(), kind, words, by or "hub") if kind or trace else None
        return await self.write(servers.update, server_id, change, event, trace)

    async def add_event(self, server_id: ServerId, kind: str, words: str, *, by: str = "", done: str = "") -> None:
        """Record something that changed no server. Raises NotFound."""
        await self.write(servers.add_event, Event(server_id, self._clock(), kind, words, by or "hub", done=done))

    async def events_of(self, server_id: ServerId, limit: int = 200) -> tuple[Event, ...]:
        """The newest ``limit`` events of a run, the oldest of them first."""
        return await self.read(servers.events_of, server_id, limit)

    async def trail(self, scope: Scope, limit: int = 200) -> tuple[Line, ...]:
        """The newest ``limit`` events within the scope, oldest of them first. Raises NotFound."""
        return await self.read(trail.trail, scope, limit)

    async def knows_server(self, server_id: str) -> bool:
        """Whether there is a run of this id."""
        return await self.read(trail.knows, server_id)

    async def prune_ended(self, before: datetime, limit: int = 1000) -> int:
        """Delete at most ``limit`` runs that ended before then, with their events; call again while it returns ``limit``."""
        return await self.write(servers.prune_ended, before, limit)

    async def with_old_directories(
        self, cluster: str, *, newest: int, since: datetime | None, settled: datetime, limit: int
    ) -> tuple[Server, ...]:
        """Ended runs on a cluster whose job directory is to go, the oldest first; see :func:`batchhub.store.servers.with_old_directories`."""
        return await self.read(
            servers.with_old_directories, cluster, newest=newest, since=since, settled=settled, limit=limit
        )

    # ------------------------------------------------------------ users

    async def get_or_create_user(self, name: str, admin: bool | None = None, *, login: bool = False) -> User:
        """The user, made if missing. ``admin=None`` leaves that right as it is; ``login`` notes a sign-in."""
        return await self.write(people.ensure_user, name, self._clock(), admin=admin, login=login)

    async def user(self, name: str) -> User | None:
        """The user of this name."""
        return await self.read(people.user, name)

    async def users(self, *, limit: int = 100, offset: int = 0, part: str = "") -> tuple[User, ...]:
        """Users by name, those whose name has this part, a page at a time."""
        return await self.read(people.users, limit, offset, part)

    # ------------------------------------------------------------ sessions

    async def add_session(
        self,
        *,
        id: str,  # noqa: A002
        user: str,
        created: datetime,
        expires: datetime,
        absolute: datetime,
        address: str,
        agent: str,
    ) -> StoredSession:
        """Insert a session. Raises NotFound for an unknown user, Conflict for a known id."""
        new = StoredSession(id, UserName(user), created, created, expires, absolute, address[:64], agent[:200])
        return await self.write(people.add_session, new)

    async def session(self, id: str) -> StoredSession | None:  # noqa: A002
        """The session of this id; the caller looks at ``revoked``, ``expires`` and ``absolute``."""
        return await self.read(people.session_of, id)

    async def sessions_of(self, user: str) -> tuple[StoredSession, ...]:
        """A user's sessions that were not revoked, last used first."""
        return await self.read(people.sessions_of, user)

    async def touch_session(self, id: str, *, seen: datetime, expires: datetime) -> bool:  # noqa: A002
        """Note a use; false if it was revoked or is not there."""
        return await self.write(people.touch_session, id, seen, expires)

    async def revoke_session(self, id: str, now: datetime) -> bool:  # noqa: A002
        """End a session; false if it had ended before or is not there."""
        return await self.write(people.revoke_session, id, now)

    async def revoke_sessions_of(self, user: str, now: datetime, *, keep: str | None = None) -> tuple[str, ...]:
        """End all of a user's sessions except ``keep``; the ids of those that ended now."""
        return await self.write(people.revoke_sessions_of, user, now, keep)

    async def ended_sessions(self, now: datetime) -> dict[str, datetime]:
        """The revoked sessions whose latest end is still to come: id -> that end."""
        return await self.read(people.ended_sessions, now)

    async def expire_sessions(self, now: datetime) -> int:
        """Delete the sessions that are past their latest end; returns how many."""
        return await self.write(people.expire_sessions, now)

    # ------------------------------------------------------------ tokens

    async def add_token(
        self,
        *,
        hash: str,  # noqa: A002
        first: str,
        user: str,
        note: str,
        created: datetime,
        expires: datetime | None,
        session: str | None = None,
    ) -> ApiToken:
        """Insert a token. Raises NotFound for an unknown user, Conflict for a known hash or an unknown session."""
        new = ApiToken(0, hash, first[:16], UserName(user), note[:200], created, expires, session=session)
        return await self.write(people.add_token, new)

    async def token(self, hash: str) -> ApiToken | None:  # noqa: A002
        """The token of this hash; the caller looks at ``expires``."""
        return await self.read(people.token, hash)

    async def tokens_of(self, user: str) -> tuple[ApiToken, ...]:
        """A user's tokens, newest first."""
        return await self.read(people.tokens_of, user)

    async def touch_token(self, id: int, used: datetime) -> bool:  # noqa: A002
        """Note a use; false if it is not there."""
        return await self.write(people.touch_token, id, used)

    async def revoke_token(self, id: int, user: str | None = None) -> str | None:  # noqa: A002
        """Delete a token, if it is ``user``'s when one is given; its hash, or ``None`` if there is none such."""
        return await self.write(people.revoke_token, id, user)

    async def revoke_tokens_of(self, user: str) -> tuple[str, ...]:
        """Delete all of a user's tokens; their hashes."""
        return await self.write(people.revoke_tokens_of, user)

    async def revoke_tokens_with(self, sessions: Sequence[str]) -> tuple[str, ...]:
        """Delete the tokens that end with these sessions; their hashes."""
        return await self.write(people.revoke_tokens_with, sessions) if sessions else ()

    # ------------------------------------------------------------ several hubs

    async def save_sightings(self, seen: Mapping[ServerId, Observation]) -> None:
        """Note the last good observations of these servers, in one transaction."""
        await self.write(sightings.save, seen)

    async def sightings(self, ids: Collection[ServerId]) -> dict[ServerId, Observation]:
        """The last good observations of these servers that were noted."""
        return await self.read(sightings.of, ids) if ids else {}

    async def note_cluster(self, name: str, since: datetime | None, word: str, answered: datetime | None) -> None:
        """Note what is known of a cluster: since when it is silent and why, and when it last answered."""
        await self.write(sightings.note_cluster, name, ClusterWord(since, word, answered))

    async def cluster_words(self) -> dict[str, ClusterWord]:
        """What was last noted of each cluster."""
        return await self.read(sightings.words)

    async def watch_clusters(self, clusters: Collection[str], until: datetime) -> None:
        """Until then somebody waits for news from these clusters."""
        await self.write(sightings.watch, clusters, until)

    async def watched_clusters(self, now: datetime) -> frozenset[str]:
        """The clusters for whose news somebody waits, in front of whichever hub's page."""
        return await self.read(sightings.watched, now)

    async def news(self, after: int, limit: int = 500) -> tuple[News, ...]:
        """Events with ids greater than ``after``, oldest first. A transaction that ends late may bring one between those that were read."""
        return await self.read(sightings.news, after, limit)

    async def newest_event(self) -> int:
        """The greatest id of any event."""
        return await self.read(sightings.newest_event)

    async def leader(self) -> Leader | None:
        """Which hub led last, and whether one leads now; ``None`` if none ever did, or the database is one hub's alone."""
        return await self.read(leading.leader) if self.shared else None

    # ------------------------------------------------------------ threads

    async def write(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One transaction that may change something: for the facades beside this one, such as :class:`batchhub.store.persons.Persons`."""
        opened = self._opened()
        led, epoch = self._led is not None, self._led() if self._led is not None else None

        def write(session: Session) -> T:
            if led:
                leading.check_epoch(session, epoch, shared=self.shared)
            return work(session, *args, **kwargs)

        return await self._run(opened.write, lambda running: _transact(opened.engine, write, running))

    async def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One transaction that changes nothing."""
        opened = self._opened()
        return await self._run(
            opened.read, lambda running: _transact(opened.reading, lambda s: work(s, *args, **kwargs), running)
        )

    async def _run(self, threads: _Threads, work: Callable[[Running], T]) -> T:
        door, running = self._door, Running()
        if door.waiting >= self._limit:
            raise StoreUnavailable("The database is asked more than it can answer now.")

        def run() -> T:
            with our_errors(self._url), running:
                answer = work(running)
            threads.progress += 1
            return answer

        try:
            future = asyncio.wrap_future(threads.submit(run))
        except RuntimeError as error:
            raise StoreUnavailable("The database is being closed.") from error
        door.waiting += 1
        try:
            return await self._answer(future, running, threads)
        finally:
            door.waiting -= 1

    async def _answer(self, future: asyncio.Future[T], running: Running, threads: _Threads) -> T:
        """A thread that is inside a transaction when its caller is cancelled finishes it; one that waits for an answer too long is cut off."""
        try:
            while True:
                progress = threads.progress
                done, _ = await asyncio.wait({future}, timeout=self._patience)
                if done:
                    return future.result()
                if running.for_seconds(time.monotonic()) < self._patience and threads.progress != progress:
                    continue  # there are many before us, and they get on
                if self.shared:
                    running.cut()
                raise StoreUnavailable(
                    f"The database {shown(self._url)} did not answer within {self._patience:g} seconds."
                )
        finally:
            future.cancel()

    def _opened(self) -> _Opened:
        if self._door.opened is None:
            raise StoreUnavailable("The database is not open.")
        return self._door.opened


class _Threads(ThreadPoolExecutor):
    """Threads, and how many transactions they brought to a good end."""

    progress = 0


class _Door:
    """What all views of a store share: what is open, and how many transactions wait."""

    def __init__(self) -> None:
        self.opened: _Opened | None = None
        self.waiting = 0


class _Opened:
    """What an open store holds: the engine and the threads. With a database in memory reads go through the writer too."""

    def __init__(self, engine: Engine, writers: int, readers: int) -> None:
        self.engine = engine
        self.write = _Threads(writers, "store-write")
        self.reading = reading(engine) if readers else engine
        self.read = _Threads(readers, "store-read") if readers else self.write

    def close(self) -> None:
        """Blocks until running transactions have ended."""
        self.read.shutdown()
        self.write.shutdown()
        self.engine.dispose()


def _ping(session: Session) -> None:
    session.execute(text("SELECT 1"))


_TRIES = 4
"""How often a transaction is tried that another stood in the way of. What runs in it may run again: it is pure but for the database."""


def _transact(engine: Engine, work: Callable[[Session], T], running: Running) -> T:
    for left in range(_TRIES - 1, -1, -1):
        try:
            with Session(engine, autoflush=False) as session, session.begin():
                running.uses(session.connection())
                return work(session)
        except DBAPIError as error:
            if not left or not passing(error):
                raise
    raise AssertionError("unreachable")
