"""What has ended reaches the proxy: at once, or when it answers again, and after a restart of the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from batchhub.app.revocations import Revocations
from batchhub.auth.sessions import Sessions
from batchhub.auth.tokens import Tokens, hash_token
from batchhub.control.tasks import Tasks
from batchhub.core.errors import StoreUnavailable, Unreachable
from batchhub.proxy.client import ProxyClient
from batchhub.store.store import Store as Database
from tests.proxy.harness import TOKEN, App, World, running, ticket_cookie, world

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
END = NOW + timedelta(days=3)


class Store:
    """Knows which sessions ended."""

    def __init__(self) -> None:
        self.ended: dict[str, datetime] = {}
        self.down = False

    async def ended_sessions(self, now: datetime) -> Mapping[str, datetime]:
        assert now == NOW
        if self.down:
            raise StoreUnavailable("The database does not answer.")
        return dict(self.ended)


class Proxy:
    """Does not answer while it is ``deaf``."""

    def __init__(self) -> None:
        self.deaf = 0
        self.sessions: dict[str, datetime | None] = {}
        self.tokens: list[str] = []
        self.catching_up = 0

    def _listen(self) -> None:
        if self.deaf:
            self.deaf -= 1
            raise Unreachable("The proxy does not answer.")

    async def revoke(self, session: str) -> None:
        self._listen()
        self.sessions[session] = None

    async def revoke_token(self, digest: str) -> None:
        self._listen()
        self.tokens.append(digest)

    async def revoke_all(self, sessions: Mapping[str, datetime]) -> None:
        self._listen()
        self.catching_up += 1
        self.sessions.update(sessions)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0)


@asynccontextmanager
async def keeping(store: Store, proxy: Proxy, *, hourly: float = 3600.0) -> AsyncIterator[Revocations]:
    made = Revocations(store, proxy, lambda: NOW, again=0.0, hourly=hourly)  # type: ignore[arg-type]
    tasks = Tasks("test")
    tasks.start(made.keep(), "revocations")
    try:
        yield made
    finally:
        await tasks.close()


async def test_the_proxy_is_told_at_once() -> None:
    store, proxy = Store(), Proxy()
    async with keeping(store, proxy) as revocations:
        await until(lambda: proxy.catching_up == 1)
        await revocations.sessions_ended(("a", "b"))
        await revocations.tokens_ended(("t",))
        assert (list(proxy.sessions), proxy.tokens) == (["a", "b"], ["t"])
    assert proxy.catching_up == 1


async def test_a_hub_that_starts_tells_what_ended_before() -> None:
    store, proxy = Store(), Proxy()
    store.ended = {"a": END}
    proxy.deaf = 3
    async with keeping(store, proxy):
        await until(lambda: proxy.sessions == {"a": END})


async def test_a_proxy_that_was_away_is_told_of_everything_that_matters() -> None:
    store, proxy = Store(), Proxy()
    async with keeping(store, proxy) as revocations:
        await until(lambda: proxy.catching_up == 1)
        proxy.deaf = 4
        store.ended = {"a": END, "b": END, "c": END}
        await revocations.sessions_ended(("a", "b"))
        await revocations.tokens_ended(("t", "u"))
        assert (proxy.sessions, proxy.tokens) == ({}, [])
        await until(lambda: proxy.sessions == {"a": END, "b": END, "c": END} and set(proxy.tokens) == {"t", "u"})
        assert len(proxy.tokens) == 2, "each token once"


async def test_a_database_that_pauses_is_asked_again() -> None:
    store, proxy = Store(), Proxy()
    store.ended, store.down = {"a": END}, True
    async with keeping(store, proxy):
        for _ in range(20):
            await asyncio.sleep(0)
        assert proxy.sessions == {}
        store.down = False
        await until(lambda: proxy.sessions == {"a": END})


async def test_every_hour_it_is_told_again() -> None:
    store, proxy = Store(), Proxy()
    async with keeping(store, proxy, hourly=0.0):
        await until(lambda: proxy.catching_up > 2)


# ---------------------------------------------------------------- with the database and the proxy


@asynccontextmanager
async def hub(w: World, file: Path, *, api_port: int | None = None) -> AsyncIterator[tuple[Sessions, Tokens]]:
    """The part of a hub that ends sessions and tokens, from its start to its end."""
    database = Database(f"sqlite:///{file}", clock=w.clock)
    await database.open()
    routes = ProxyClient(f"http://127.0.0.1:{api_port or w.proxy.api_port}", TOKEN)
    tasks = Tasks("hub")
    made = Revocations(database, routes, w.clock, again=0.01)
    tasks.start(made.keep(), "revocations")
    await database.get_or_create_user("alice")
    try:
        yield (
            Sessions(database, bytes(32), w.clock, revoked=made.sessions_ended),
            Tokens(database, w.clock, revoked=made.tokens_ended),
        )
    finally:
        await tasks.close()
        await routes.close()
        await database.close()


def ticket(session: str, w: World) -> str:
    return ticket_cookie(session=session, absolute=w.clock() + timedelta(days=14))


async def test_who_signs_out_is_out_at_the_proxy_and_may_come_back(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w, hub(w, tmp_path / "db") as (sessions, tokens):
        w.route("/user/alice", app.port, owner="alice")
        cookie, session = await sessions.create("alice", "", "")
        assert (await w.get("/user/alice/", ticket(session.id, w)))[0] == 200
        assert await sessions.end(cookie)
        assert (await w.get("/user/alice/", ticket(session.id, w)))[0] == 403
        _, again = await sessions.create("alice", "", "", old=cookie)
        assert (await w.get("/user/alice/", ticket(again.id, w)))[0] == 200

        secret, row = await tokens.issue("alice")
        w.proxy.context.tokens._ask = lambda _token, _path: asyncio.sleep(0, "alice")  # type: ignore[misc]
        assert (await w.get("/user/alice/", f"Authorization: token {secret}"))[0] == 200
        assert await tokens.revoke(row.id)
        assert hash_token(secret) in w.proxy.context.book.ended_tokens
        assert (await w.get("/user/alice/", f"Authorization: token {secret}"))[0] == 403


async def test_a_sign_out_while_the_proxy_is_away_survives_the_hubs_end(tmp_path: Path, unused_tcp_port: int) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        async with hub(w, tmp_path / "db", api_port=unused_tcp_port) as (sessions, _):  # nobody listens there
            cookie, session = await sessions.create("alice", "", "")
            _, other = await sessions.create("alice", "", "")
            assert await sessions.end(cookie)
            assert (await w.get("/user/alice/", ticket(session.id, w)))[0] == 200, "the proxy has not heard"
        async with hub(w, tmp_path / "db"):
            async with asyncio.timeout(60):
                while session.id not in w.proxy.context.book.revoked:
                    await asyncio.sleep(0.001)
            assert (await w.get("/user/alice/", ticket(session.id, w)))[0] == 403
            assert (await w.get("/user/alice/", ticket(other.id, w)))[0] == 200
            assert w.proxy.context.book.revoked[session.id] == session.absolute
