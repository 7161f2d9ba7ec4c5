"""A session's end, whoever ends it and from where, closes what it opened: hub, database and proxy as they are put together in production."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from batchhub.app.owning import Owning
from batchhub.app.people import make_people
from batchhub.app.revocations import Revocations
from batchhub.app.state import StateDirectory, utc_now
from batchhub.auth.audit import AuditTrail
from batchhub.auth.keys import ManagedKeys
from batchhub.auth.sessions import SessionSettings
from batchhub.proxy.client import ProxyClient
from batchhub.proxy.server import Proxy
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tokens import HubTokens
from batchhub.store.audit import AuditStore
from batchhub.store.keys import Keys
from batchhub.store.store import Store
from batchhub.web.app import make_app
from batchhub.web.people import AuthPeople
from batchhub.web.ports import WebServices, WebSettings
from tests.proxy.harness import App, World, read_head, running
from tests.web.fakes import Browser, Clock, FakeHub, Plain

Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    while data := await reader.read(100):
        writer.write(data)


@dataclass
class Whole:
    """What a browser sees: everything by the proxy's port."""

    world: World
    ways: dict[str, Plain]
    audit: AuditTrail
    people: AuthPeople
    base = "/"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.world.proxy.public_port}"

    async def signed_in(self, name: str) -> Browser:
        browser = Browser(self)  # type: ignore[arg-type]
        await browser.get("/hub/login")
        assert (await browser.post("/hub/login", username=name, password=name[::-1])).code == 303
        assert (await browser.get(f"/hub/access?next=/user/{name}/")).code == 302
        return browser

    async def open(self, path: str, *lines: str) -> Socket:
        """A WebSocket, or an event stream, as far as its first bytes."""
        reader, writer = await self.world.connect()
        head = [f"GET {path} HTTP/1.1", f"Host: {self.url[7:]}", *lines, "", ""]
        writer.write("\r\n".join(head).encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")), answer
        if answer.startswith(b"HTTP/1.1 200"):
            await asyncio.wait_for(reader.readuntil(b"data:"), 60)
        return reader, writer


def cookies(browser: Browser, path: str) -> str:
    found = [f"{name}={value}" for (name, scope), value in browser.cookies.items() if path.startswith(scope)]
    return f"Cookie: {'; '.join(found)}"


UPGRADE = ("Connection: upgrade", "Upgrade: websocket")


async def websocket(whole: Whole, name: str, right: str) -> Socket:
    return await whole.open(f"/user/{name}/ws", *UPGRADE, right)


async def stream(whole: Whole, browser: Browser) -> Socket:
    await browser.get("/hub/home")
    return await whole.open(
        "/hub/api/events", cookies(browser, "/hub/api"), "Connection: close", f"X-XSRFToken: {browser.xsrf}"
    )


async def is_cut(socket: Socket) -> None:
    with suppress(ConnectionError):
        await asyncio.wait_for(socket[0].read(), 60)
    socket[1].close()


async def is_alive(socket: Socket) -> None:
    socket[1].write(b"alive")
    assert await asyncio.wait_for(socket[0].readexactly(5), 60) == b"alive"
    socket[1].close()


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    state = StateDirectory.open(str(tmp_path / "state"))
    store = Store(state.database, clock=utc_now)
    await store.open()
    ways = {"plain": Plain(allow_all=True, admin_users={"root"})}
    plan: Any = SimpleNamespace(state=state, authenticators=ways, sessions=SessionSettings())
    web, port = bind_unused_port(address="127.0.0.1")
    settings = ProxySettings(
        token=state.api_token,
        ticket_keys=(state.key("tickets"),),
        state_file=tmp_path / "routes.json",
        public_port=0,
        api_port=0,
    )
    async with running(App(serve=echo)) as app:
        tokens = HubTokens(f"http://127.0.0.1:{port}")
        proxy = Proxy(settings, tunnels={}, token_checker=tokens, clock=utc_now)
        await proxy.start()
        routes = ProxyClient(f"http://127.0.0.1:{proxy.api_port}", state.api_token)
        deeds = AuditStore(store)
        audit = AuditTrail(deeds, utc_now)
        owning = Owning((), ManagedKeys(Keys(store), state.vault.current), utc_now)
        people = make_people(plan, store, Revocations(store, routes, utc_now), owning, audit)
        services = WebServices(FakeHub(Clock()), people, utc_now, state.key("tickets"), audit, deeds)
        # Nothing but a word of its end closes a stream within an hour.
        server = HTTPServer(make_app(services, WebSettings(poll=3600.0, keep_alive=3600.0)), xheaders=True)
        server.add_socket(web)
        world = World(proxy, Clock(), None, [])  # type: ignore[arg-type]
        world.clock = utc_now  # type: ignore[assignment]
        world.route("/", port)
        for name in ("ann", "bob"):
            world.route(f"/user/{name}", app.port, owner=name)
        try:
            yield Whole(world, ways, audit, people)
        finally:
            server.stop()
            await server.close_all_connections()
            await proxy.close()
            await routes.close()
            await store.close()


async def token(browser: Browser, days: str) -> str:
    await browser.get("/hub/token")
    await browser.post("/hub/token", note="a program", days=days)
    found = re.search(r'id="fresh-token">(bh_[\w-]+)<', browser.text)
    assert found, browser.text
    return f"Authorization: token {found[1]}"


async def signed_out(whole: Whole, ann: Browser) -> None:
    del whole
    await ann.get("/hub/home")
    assert (await ann.post("/hub/logout")).code == 303


async def ended_by_an_admin(whole: Whole, ann: Browser) -> None:
    del ann
    root = await whole.signed_in("root")
    await root.get("/hub/admin/people/ann")
    handle = re.findall(r'name="end" value="([0-9a-f]+)"', root.text)
    assert len(handle) == 1
    assert (await root.post("/hub/admin/people/ann", end=handle[0])).code == 303


async def ended_by_an_admins_program(whole: Whole, ann: Browser) -> None:
    del ann
    root = await whole.signed_in("root")
    name, _, value = (await token(root, "1")).partition(": ")
    answer = await Browser(whole).ask("DELETE", "/hub/api/users/ann/sessions", headers={name: value})  # type: ignore[arg-type]
    assert answer.body == b'{"ended": 1}'


async def signed_out_elsewhere(whole: Whole, ann: Browser) -> None:
    del ann
    elsewhere = await whole.signed_in("ann")
    await elsewhere.get("/hub/settings/sessions")
    assert (await elsewhere.post("/hub/settings/sessions", what="others")).code == 303


How = Callable[[Whole, Browser], Awaitable[None]]


@pytest.mark.parametrize("how", [signed_out, ended_by_an_admin, ended_by_an_admins_program, signed_out_elsewhere])
async def test_everything_of_a_session_closes_and_nothing_else(whole: Whole, how: How) -> None:
    ann, bob = await whole.signed_in("ann"), await whole.signed_in("bob")
    bound, free = await token(ann, "session"), await token(ann, "30")
    ticket = cookies(ann, "/user/ann/ws")
    dying = [
        await websocket(whole, "ann", ticket),
        await websocket(whole, "ann", bound),
        await stream(whole, ann),
        await whole.open("/hub/api/events", "Connection: close", bound),
    ]
    living = [await websocket(whole, "ann", free), await websocket(whole, "bob", cookies(bob, "/user/bob/ws"))]
    await how(whole, ann)
    await asyncio.gather(*(is_cut(socket) for socket in dying))
    for right in (ticket, bound):
        assert (await whole.world.get("/user/ann/x", right))[0] == 403
    assert (await whole.world.get("/hub/api/user", bound))[0] == 403
    assert (await whole.world.get("/hub/api/user", free))[0] == 200
    for socket in living:
        await is_alive(socket)


async def test_who_may_not_any_more_is_out_of_their_notebook(whole: Whole) -> None:
    """No page of the hub is opened; the trail says why they are out."""
    ann = await whole.signed_in("ann")
    dying = [await websocket(whole, "ann", cookies(ann, "/user/ann/ws")), await stream(whole, ann)]
    whole.ways["plain"].blocked_users = {"ann"}
    await whole.people.look_after(["ann", "bob"])
    await asyncio.gather(*(is_cut(socket) for socket in dying))
    done = whole.audit._waiting[-1]
    assert (done.kind, done.user, done.by) == ("session ended", "ann", "hub")
    whole.people.refresher._admin(SimpleNamespace(name="root", admin=False, way="plain"))
    done = whole.audit._waiting[-1]
    assert (done.kind, done.user, done.by) == ("admin taken", "root", "hub")
