"""What the hub may ask of an application through the proxy, and what it may not; and which use of a route counts as an act."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.errors import TunnelError, Unreachable
from batchhub.core.model import Endpoint
from batchhub.core.ports import NO_ANSWER, Answer, Routes, RouteTarget, Use
from batchhub.proxy.client import ProxyClient
from batchhub.proxy.question import MOST_ANSWER
from tests.proxy.harness import NOW, TOKEN, App, World, read_request, running, ticket_cookie, world


@asynccontextmanager
async def hub(w: World) -> AsyncIterator[Routes]:
    client = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}", TOKEN)
    try:
        yield client
    finally:
        await client.close()


def target(app: App, **changes: Any) -> RouteTarget:
    fields = {"cluster": "c1", "kind": "login", "account": "al", "authorization": "token s", **changes}
    return RouteTarget("/user/a b/", Endpoint("127.0.0.1", app.port), "alice", "abc", **fields)


async def test_it_goes_through_the_tunnel_with_the_servers_own_secret_and_no_body(tmp_path: Path) -> None:
    app = App(answer=b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n[{}]")
    async with running(app), world(tmp_path) as w, hub(w) as routes:
        assert await routes.ask(target(app), "/user/a%20b/api/kernels?no_track_activity=1") == Answer(201, b"[{}]")
        assert await routes.ask(target(app), "/user/a%20b/api/shutdown", method="POST") == Answer(201, b"[{}]")
        asked, told = app.requests
        assert asked.line == "GET /user/a%20b/api/kernels?no_track_activity=1 HTTP/1.1"
        assert told.line == "POST /user/a%20b/api/shutdown HTTP/1.1"
        assert (told.header("content-length"), told.header("authorization")) == ("0", "token s")
        assert [account for _, account in w.tunnel.opened] == ["al", "al"]
        stripped = target(app, strip_prefix=True)
        assert (await routes.ask(stripped, "/healthz")).status == 201, "that application knows nothing of the prefix"


async def test_it_is_no_way_to_anything_else(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w, hub(w) as routes:
        for path in (
            "/user/bob/api/shutdown",
            "/user/a%20b/../bob/api/shutdown",
            "/user/a%20b/%2e%2e/bob",
            "/",
            "/user/a",
            "user/a%20b/x",
            "/user/a%20b/x HTTP/1.1\r\nX: y",
            "/user/a%20b/x?y\r\nX: y",
            "/user/a%20b/" + "x" * 3000,
        ):
            with pytest.raises(Unreachable, match="with 400"):
                await routes.ask(target(app), path)
        good = "/user/a%20b/x"
        for method in ("DELETE", "PUT", "get", "GET /x HTTP/1.1\r\nX: y\r\n\r\nPOST"):
            with pytest.raises(Unreachable, match="with 400"):
                await routes.ask(target(app), good, method=method)
        for deadline in (0.0, -1.0, 9.0, 1e9, True):
            with pytest.raises(Unreachable, match="with 400"):
                await routes.ask(target(app), good, deadline=deadline)
        assert app.requests == []
        stranger = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}", "x" * 32)
        with pytest.raises(Unreachable, match="with 403"):
            await stranger.ask(target(app), good)
        await stranger.close()
        assert app.requests == []


async def test_a_long_answer_is_cut_and_one_that_never_comes_waits_for_nobody(tmp_path: Path) -> None:
    answers = {
        "long": b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * 200_000,
        "broken": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        "nonsense": b"SSH-2.0-x\r\n\r\n\r\n",
        "nothing": b"",
    }
    arrived: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = (await read_request(reader)).target.rpartition("/")[2]
        arrived.append(name)
        if name == "silent":
            await asyncio.Event().wait()
        writer.write(answers[name])

    async with running(App(serve=serve)) as app, world(tmp_path) as w, hub(w) as routes:
        long = await routes.ask(target(app), "/user/a%20b/long")
        assert (long.status, len(long.body)) == (200, MOST_ANSWER)
        for name in ("broken", "nonsense", "nothing"):
            assert await routes.ask(target(app), f"/user/a%20b/{name}", method="POST") == NO_ANSWER
        assert await routes.ask(target(app), "/user/a%20b/silent", deadline=0.2) == NO_ANSWER
        assert arrived == ["long", "broken", "nonsense", "nothing", "silent"]
        w.tunnel.fault = "the login node is away"
        with pytest.raises(TunnelError, match="the login node is away"):
            await routes.ask(target(app), "/user/a%20b/long")


async def test_what_an_open_page_asks_by_itself_is_use_and_no_act(tmp_path: Path) -> None:
    cookie = ticket_cookie(path="/user/alice/")
    async with running(App()) as app, world(tmp_path) as w, hub(w) as routes:
        await routes.publish(RouteTarget("/user/alice/", Endpoint("127.0.0.1", app.port), "alice", "abc"))
        w.clock.now = later = NOW.replace(minute=1)
        assert (await w.get("/user/alice/api/kernels", cookie))[0] == 200
        assert (await routes.activity())["/user/alice/"] == Use(later, NOW, "abc")
        w.clock.now = later = NOW.replace(minute=2)
        answer = await w.get("/user/alice/api/contents/x", cookie, method="PUT", body=b"{}")
        assert answer[0] == 200
        assert (await routes.activity())["/user/alice/"] == Use(later, later, "abc")
        app.answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        w.clock.now = NOW.replace(minute=3)
        assert (await w.get("/user/alice/api/contents/x", cookie, method="PUT", body=b"{}"))[0] == 403
        assert (await routes.activity())["/user/alice/"] == Use(later, later, "abc")
