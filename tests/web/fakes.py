"""A hub in memory behind the real pages, and a small browser for tornado's client."""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from cryptography.fernet import Fernet
from prometheus_client import CollectorRegistry, Counter
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from batchhub.auth.base import Authenticator, Brought
from batchhub.auth.departures import ASKED, Departures
from batchhub.auth.endings import Endings, all_of_a_session, all_of_a_token
from batchhub.auth.known import KnownBrowsers
from batchhub.auth.link import LinkAuthenticator
from batchhub.auth.refresh import Refresher
from batchhub.auth.sessions import Sessions
from batchhub.auth.states import AuthStates
from batchhub.auth.throttle import Throttle
from batchhub.auth.tokens import Tokens
from batchhub.auth.vault import Vault
from batchhub.auth.xsrf import Xsrf
from batchhub.control.evidence import Evidence
from batchhub.control.orphans import Orphan
from batchhub.control.service import FormView, History, HubService, ServerView
from batchhub.core.deeds import Deed, DeedLine, deed
from batchhub.core.errors import Conflict, Denied, HubError, NotFound
from batchhub.core.forms import Choice, Field, FieldKind, Profile, check
from batchhub.core.idleness import limits_of
from batchhub.core.model import (
    JobId,
    JobReport,
    JobState,
    Observation,
    Outcome,
    Phase,
    QueueInfo,
    Server,
    Truth,
    UserName,
    Want,
    new_server_id,
)
from batchhub.core.personal import Missing
from batchhub.core.words import describe
from batchhub.store.values import Event
from batchhub.web.app import make_app
from batchhub.web.people import AuthPeople
from batchhub.web.ports import MAX_BODY, KeyBook, WebServices, WebSettings

KEY = b"k" * 32
VAULT = Vault([Fernet.generate_key()])
START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)

LAB = Profile(
    name="lab",
    cluster="tinaroo",
    title="JupyterLab",
    description="Notebooks, a terminal and files.",
    fields=(
        Field(
            "partition", FieldKind.CHOICE, choices=(Choice("short", "short (up to 4h)"), Choice("gpu")), default="short"
        ),
        Field("cores", FieldKind.NUMBER, default=2, minimum=1, maximum=64, help="Processor cores on one node."),
        Field("memory", FieldKind.MEMORY, default=8192, maximum=262144),
        Field("walltime", FieldKind.WALLTIME, default=28800, maximum=172800, required=True),
        Field("gpus", FieldKind.NUMBER, default=0, minimum=0, maximum=4),
        Field("account", FieldKind.TEXT, help="The project that pays. Empty: your default."),
        Field(
            "environment",
            FieldKind.CHOICE,
            choices=(Choice("2026.1", "Python 2026.1"), Choice("2025.2", "Python 2025.2")),
        ),
        Field("exclusive", FieldKind.CHECKBOX, label="A whole node for me", help="Others' jobs stay away."),
    ),
)
STUDIO = Profile(name="rstudio", cluster="tinaroo", title="RStudio", description="For R.")
QUEUES = (QueueInfo("short", default=True, max_walltime=timedelta(hours=4)), QueueInfo("gpu", max_gpus=4))


class Clock:
    """Stands still until moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def later(self, **delta: float) -> None:
        self.now += timedelta(**delta)


class FakeHub(HubService):
    """Servers in memory; the test moves them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.offered: list[Profile] = [LAB, STUDIO]
        self.rows: dict[tuple[str, str], Server] = {}
        self.reports: dict[tuple[str, str], JobReport] = {}
        self.past: dict[tuple[str, str], list[Server]] = {}
        self.trails: dict[str, list[Event]] = {}
        self.cut = False
        self.silent: datetime | None = None
        self.refuse: HubError | None = None
        self.offered_times: tuple[timedelta, ...] = ()
        self.trouble = ""
        self.missing: Missing | None = None
        self.news = asyncio.Event()
        self.watchers = 0
        self.calls: list[object] = []
        self.orphans: list[Orphan] = []
        self.parts = {"database": "ok", "proxy": "ok"}
        self.before_start = None

    def move(self, user: str, name: str = "", report: JobReport | None = None, **changes: object) -> None:
        key = (user, name)
        self.rows[key] = replace(self.rows[key], since=self.clock(), **changes)  # type: ignore[arg-type]
        if report:
            self.reports[key] = report
        self.news.set()
        self.news = asyncio.Event()

    def put(self, user: str, name: str = "", **changes: object) -> None:
        now = self.clock()
        fresh = Server(new_server_id(), UserName(user), name, "tinaroo", "lab", user, now, now)
        self.rows[user, name] = fresh
        self.move(user, name, **changes)

    def view(self, row: Server) -> ServerView:
        report = self.reports.get((row.user, row.name))
        seen = Observation(Truth.SEEN, self.clock(), report) if report else None
        offers = self.offered_times if row.phase is Phase.READY else ()
        profile = next((profile for profile in self.offered if profile.name == row.profile), None)
        status, limits = describe(row, seen, self.silent, self.clock()), limits_of(profile).sentence
        return ServerView(row, status, offers=offers, limits=limits)

    def profiles(self) -> Sequence[Profile]:
        return self.offered

    def cluster_titles(self) -> Mapping[str, str]:
        return {profile.cluster: profile.cluster.title() for profile in self.offered}

    async def form(self, user: UserName, profile: str) -> FormView:
        for one in self.offered:
            if one.name == profile:
                old = next(
                    (row.options for row in self.rows.values() if row.user == user and row.profile == profile), {}
                )
                return FormView(one, old, "Tinaroo", self.clock(), self.trouble, self.missing)
        raise NotFound(f"There is no profile {profile!r}.")

    async def spawn(self, user: UserName, name: str, profile: str, raw: Mapping[str, Sequence[str]]) -> ServerView:
        await self.before_start(user)
        self.calls.append(("spawn", user, name, profile, dict(raw)))
        view = await self.form(user, profile)
        options = check(view.profile, raw, QUEUES)
        if self.refuse:
            raise self.refuse
        old = self.rows.get((user, name))
        if old and old.alive:
            raise Conflict("It is there already.")
        self.reports.pop((user, name), None)
        self.put(user, name, profile=profile, options=options, phase=Phase.QUEUED, job_id=JobId("4711"))
        return await self.server(user, name)

    async def stop(self, user: UserName, name: str, by: UserName) -> ServerView:
        self.calls.append(("stop", user, name, by))
        view = await self.server(user, name)
        if view.server.alive:
            self.move(user, name, want=Want.DOWN)
        return await self.server(user, name)

    async def history(self, user: UserName, name: str, run: str = "") -> History:
        view = await self.server(user, name)
        rows = [view.server, *self.past.get((user, name), ())]
        chosen = next((row for row in rows if run in {"", row.id}), None)
        if chosen is None:
            raise NotFound(f"There is no run {run!r} of this server.")
        found = Evidence(chosen, self.trails.get(chosen.id, ()), self.cut, rows)
        return History(self.view(chosen), found, [self.view(row) for row in rows])

    async def extend(self, user: UserName, name: str, walltime: timedelta, by: UserName) -> ServerView:
        self.calls.append(("extend", user, name, walltime, by))
        view = await self.server(user, name)
        if self.refuse:
            raise self.refuse
        return view

    async def server(self, user: UserName, name: str) -> ServerView:
        if (user, name) not in self.rows:
            raise NotFound(f"{user} has no server {name!r}.")
        return self.view(self.rows[user, name])

    async def servers_of(self, user: UserName) -> Sequence[ServerView]:
        rows = [row for row in self.rows.values() if row.user == user]
        return [self.view(row) for row in sorted(rows, key=lambda row: (not row.alive, row.name))]

    async def all_servers(self, *, live_only: bool, offset: int, limit: int) -> tuple[Sequence[ServerView], int]:
        rows = [row for row in self.rows.values() if row.alive or not live_only]
        return [self.view(row) for row in rows[offset : offset + limit]], len(rows)

    async def changed(self, user: UserName, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.news.wait()

    async def watch(self, user: UserName, name: str) -> AsyncIterator[ServerView]:
        self.watchers += 1
        try:
            while True:
                changed = self.news
                view = await self.server(user, name)
                yield view
                if view.server.phase in {Phase.READY, Phase.ENDED}:
                    return
                await changed.wait()
        finally:
            self.watchers -= 1

    async def connected(self, server_id: str, token: str, body: bytes) -> None:
        self.calls.append(("connected", server_id, token, body))
        if token != "right":
            raise Denied("This is not the server's own token.")

    async def health(self) -> Mapping[str, str]:
        return self.parts


@dataclass
class Row:
    """One class for what the store hands out."""

    id: object
    user: UserName
    created: datetime
    expires: datetime | None
    absolute: datetime | None = None
    last_seen: datetime | None = None
    last_used: datetime | None = None
    address: str = ""
    agent: str = ""
    revoked: datetime | None = None
    note: str = ""
    first: str = ""
    hash: str = ""
    session: str | None = None


@dataclass
class Known:
    name: UserName
    admin: bool
    groups: tuple[str, ...] = ()
    way: str = ""
    sealed: str | None = None
    created: datetime = START
    last_login: datetime | None = None


class FakeStore:
    """Sessions, tokens and users."""

    def __init__(self, clock=lambda: START) -> None:
        self.clock = clock
        self.sessions: dict[str, Row] = {}
        self.access: list[Row] = []
        self.people: dict[str, Known] = {}

    async def add_session(self, *, id, user, created, expires, absolute, address, agent):  # noqa: A002
        self.sessions[id] = Row(id, user, created, expires, absolute, created, address=address, agent=agent)
        return self.sessions[id]

    async def session(self, id):  # noqa: A002
        return self.sessions.get(id)

    async def sessions_of(self, user):
        return [row for row in self.sessions.values() if row.user == user and not row.revoked]

    async def touch_session(self, id, *, seen, expires):  # noqa: A002
        self.sessions[id].last_seen, self.sessions[id].expires = seen, expires
        return True

    async def revoke_session(self, id, now):  # noqa: A002
        return self.sessions.pop(id, None) is not None

    async def revoke_sessions_of(self, user, now, *, keep=None):
        ids = tuple(row.id for row in await self.sessions_of(user) if row.id != keep)
        for id in ids:  # noqa: A001
            del self.sessions[id]
        return ids

    async def add_token(self, *, hash, first, user, note, created, expires, session=None):  # noqa: A002
        row = Row(len(self.access) + 1, user, created, expires, note=note, first=first, hash=hash, session=session)
        self.access.append(row)
        return row

    async def token(self, hash):  # noqa: A002
        return next((row for row in self.access if row.hash == hash), None)

    async def tokens_of(self, user):
        return [row for row in self.access if row.user == user]

    async def touch_token(self, id, used):  # noqa: A002
        return True

    async def revoke_token(self, id, user=None):  # noqa: A002
        gone = [row for row in self.access if row.id == id and row.user == user]
        self.access = [row for row in self.access if row not in gone]
        return gone[0].hash if gone else None

    async def revoke_tokens_of(self, user):
        return tuple(row.hash for row in await self.tokens_of(user))

    async def revoke_tokens_with(self, sessions):
        gone = [row for row in self.access if row.session in sessions]
        self.access = [row for row in self.access if row not in gone]
        return tuple(row.hash for row in gone)

    async def get_or_create_user(self, name, admin=None, *, login=False):
        known = self.people.setdefault(name, Known(name, bool(admin)))
        known.admin = known.admin if admin is None else admin
        return known

    async def signed_in(self, name, *, way, admin=None, groups=(), sealed=None):
        known = await self.get_or_create_user(name, admin)
        known.way, known.groups, known.sealed, known.last_login = way, tuple(groups), sealed, self.clock()
        return replace(known)

    async def refreshed(self, name, *, way, login, admin=None, groups=None, sealed=None):
        known = self.people[name]
        if (known.way, known.last_login) != (way, login):
            return None
        for field, value in (("admin", admin), ("groups", groups), ("sealed", sealed)):
            if value is not None:
                setattr(known, field, value)
        return replace(known)

    async def sealed_state(self, name):
        return self.people[name].sealed if name in self.people else None

    async def user(self, name):
        return replace(self.people[name]) if name in self.people else None

    async def users(self, *, limit, offset, part=""):
        found = sorted(name for name in self.people if part in name)
        return [self.people[name] for name in found[offset : offset + limit]]


class Kept:
    """Deeds in memory, where they are noted and read."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.deeds: list[Deed] = []

    def note(self, kind, user="", *, by=None, address="", words=""):
        self.deeds.append(deed(self.clock(), kind, user, by=by, address=address, words=words))

    async def find(self, scope, limit):
        lines = [DeedLine(number, done) for number, done in enumerate(self.deeds, 1)]
        return lines[::-1][:limit]


@dataclass
class Database:
    """A real one, and what is read and written of it."""

    store: Any
    persons: Any
    audit: Any
    deeds: Any
    clock: Clock


class Plain(Authenticator):
    """The password is the name backwards."""

    async def authenticate(self, handler, data):
        return data["username"] if data["password"] == data["username"][::-1] else None


@dataclass
class Site:
    """Everything of one running hub."""

    hub: FakeHub
    store: FakeStore
    links: LinkAuthenticator
    clock: Clock
    revoked: list[str]
    audit: Any
    port: int
    server: HTTPServer
    base: str = "/"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def browser(self) -> "Browser":
        return Browser(self)

    async def signed_in(self, name: str = "ann") -> "Browser":
        browser = self.browser()
        await browser.get("hub/login")
        answer = await browser.post("hub/login", username=name, password=name[::-1])
        assert answer.code == 303, answer.body
        return browser


def open_site(
    settings: WebSettings | None = None,
    more: Mapping[str, Authenticator] | None = None,
    without: Sequence[str] = (),
    *,
    keys: KeyBook | None = None,
    keep: Callable[[UserName, str, Brought], None] | None = None,
    database: "Database | None" = None,
) -> Site:
    """``database`` stands in for the store, its persons and its trail, together with its clock."""
    settings = settings or WebSettings(poll=0.01, keep_alive=0.05)
    clock = database.clock if database else Clock()
    hub, revoked = FakeHub(clock), []
    store = database.store if database else FakeStore(clock)
    persons = database.persons if database else store
    audit = database.audit if database else Kept(clock)
    endings = Endings()

    async def forget(ids):
        revoked.extend(ids)

    links = LinkAuthenticator(clock=clock)
    ways = {"plain": Plain(allow_all=True, admin_users={"root"}, blocked_users={"gast"}), "link": links, **(more or {})}
    ways = {name: way for name, way in ways.items() if name not in without}
    states = AuthStates(persons, lambda: VAULT)
    sessions = Sessions(store, KEY, clock, revoked=all_of_a_session(endings, lambda: tokens, forget))
    tokens = Tokens(store, clock, revoked=all_of_a_token(endings, forget), alive=sessions.alive)
    people = AuthPeople(
        authenticators=ways,
        departures=Departures(KEY, clock),
        asked=Departures(KEY, clock, ASKED),
        sessions=sessions,
        access_tokens=tokens,
        users=store,
        persons=persons,
        states=states,
        refresher=Refresher(ways, persons, states, clock, sessions.revoke_all_of),
        throttle=Throttle(),
        browsers=KnownBrowsers(KEY, clock),
        guard=Xsrf(KEY),
        clock=clock,
        endings=endings,
        audit=audit,
        keep=keep,
    )
    hub.before_start = people.before_start
    registry = CollectorRegistry()
    Counter("batchhub_things", "Things.", registry=registry)
    deeds = database.deeds if database else audit
    orphans = lambda: tuple(hub.orphans)  # noqa: E731
    services = WebServices(hub, people, clock, KEY, audit, deeds, registry, orphans=orphans, keys=keys)
    app = make_app(services, settings)
    server = HTTPServer(app, max_body_size=4 * MAX_BODY)
    socket, port = bind_unused_port(address="127.0.0.1")
    server.add_socket(socket)
    return Site(hub, store, links, clock, revoked, audit, port, server, settings.base_url)


class Browser:
    """Keeps cookies by path, follows nothing, knows the page's XSRF token."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[tuple[str, str], str] = {}
        self.xsrf = ""
        self.text = ""

    async def ask(self, method: str, path: str, *, body=None, headers=None, timeout=5.0) -> HTTPResponse:
        path = path if path.startswith("/") else self.site.base + path
        plain = urlsplit(path).path
        sent = "; ".join(f"{name}={value}" for (name, scope), value in self.cookies.items() if plain.startswith(scope))
        request = HTTPRequest(
            self.site.url + path,
            method=method,
            body=body,
            headers={"Accept": "text/html,*/*", **({"Cookie": sent} if sent else {}), **(headers or {})},
            follow_redirects=False,
            request_timeout=timeout,
            allow_nonstandard_methods=True,
            decompress_response=False,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        for line in answer.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel.value:
                    self.cookies[name, morsel["path"]] = morsel.value
                else:
                    self.cookies.pop((name, morsel["path"]), None)
        self.text = answer.body.decode()
        found = re.search(r'batchhub-xsrf" content="([^"]+)"', self.text)
        self.xsrf = found[1] if found else self.xsrf
        return answer

    async def get(self, path: str, **headers: str) -> HTTPResponse:
        return await self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> HTTPResponse:
        body = urlencode({"_xsrf": self.xsrf, **fields})
        sent = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin", **(headers or {})}
        return await self.ask("POST", path, body=body, headers=sent)

    def has(self, *words: str) -> None:
        """Every one of these is on the page, as a reader sees it."""
        seen = html.unescape(self.text)
        for word in words:
            assert word in seen, f"{word!r} is not in\n{seen}"


FAILED = {"phase": Phase.ENDED, "want": Want.DOWN, "outcome": Outcome.FAILED, "exit_code": 3}
PENDING = JobReport(
    JobId("4711"), JobState.PENDING, "PENDING", "Resources", estimated_start=START + timedelta(minutes=20)
)
LIMITED = JobReport(
    JobId("4711"),
    JobState.RUNNING,
    "RUNNING",
    started=START - timedelta(hours=2),
    time_limit=timedelta(hours=2, minutes=12),
)
"""Its time is up in twelve minutes."""
RUNNING = JobReport(JobId("4711"), JobState.RUNNING, "RUNNING", time_left=timedelta(hours=3, minutes=20))
