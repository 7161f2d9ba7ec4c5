"""The control interface answers as configurable-http-proxy's does, and keeps what it is told."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.errors import ConfigError, TunnelError, Unreachable
from batchhub.core.model import Endpoint
from batchhub.core.ports import Routes, RouteTarget, Use
from batchhub.proxy.client import CONCURRENCY, ProxyClient
from batchhub.proxy.server import Proxy
from batchhub.proxy.settings import Redirect
from tests.proxy.harness import NOW, TOKEN, App, World, parse, read_request, running, settings, ticket_cookie, world

STAMP = "2026-05-04T12:00:00.000Z"
TARGET = RouteTarget(
    "/user/alice/", Endpoint("127.0.0.1", 1234), "alice", "abc", "", "c1", "login", "al", "token s3cret"
)


async def call(
    w: World, method: str, path: str, body: Any = None, auth: str | None = f"token {TOKEN}"
) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", w.proxy.api_port)
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(data)}"]
    if auth is not None:
        lines.append(f"Authorization: {auth}")
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
    status, _, answer = parse(await asyncio.wait_for(reader.read(), 5))
    writer.close()
    return status, answer


def routes(answer: tuple[int, bytes]) -> Mapping[str, Any]:
    assert answer[0] == 200
    return json.loads(answer[1])


async def test_the_contract(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        target = {"target": "http://127.0.0.1:9"}
        assert await call(w, "GET", "/api/routes") == (200, b"{}")
        assert await call(w, "POST", "/api/routes/user/a%40b%20c/", {**target, "user": "x", "jupyterhub": True}) == (
            201,
            b"",
        )
        assert await call(w, "POST", "/api/routes", {**target, "hub": True}) == (201, b"")
        assert await call(w, "POST", "/api/routes/x", target) == (201, b"")
        shown = {
            "/user/a@b c": {**target, "user": "x", "jupyterhub": True, "last_activity": STAMP},
            "/": {**target, "hub": True, "last_activity": STAMP},
            "/x": {**target, "last_activity": STAMP},
        }
        assert routes(await call(w, "GET", "/api/routes")) == shown
        assert routes(await call(w, "GET", "/api/routes/")) == shown
        assert routes(await call(w, "GET", "/api/routes/x")) == shown["/x"]
        assert routes(await call(w, "GET", "/api/routes/x/")) == shown["/x"]
        assert routes(await call(w, "GET", "/api/routes/user/a@b%20c")) == shown["/user/a@b c"]
        assert (await call(w, "GET", "/api/routes/user"))[0] == 404
        assert await call(w, "POST", "/api/routes/x", {"target": "http://127.0.0.1:10"}) == (201, b"")
        assert routes(await call(w, "GET", "/api/routes/x"))["target"] == "http://127.0.0.1:10"
        assert await call(w, "DELETE", "/api/routes/x/") == (204, b"")
        assert (await call(w, "DELETE", "/api/routes/x"))[0] == 404
        assert (await call(w, "PUT", "/api/routes/x", target))[0] == 405
        assert (await call(w, "GET", "/api/nothing"))[0] == 404
        assert (await call(w, "GET", "/"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        {},
        {"target": 1},
        {"target": None},
        {"target": "ftp://x"},
        {"target": "http://x:99999"},
        {"target": "http://x:0"},
        {"target": "http://u:p@x"},
        {"target": "http://x/?a"},
        {"target": "http://x", "owner": 1},
        {"target": "http://x", "authorization": "a\r\nB: c"},
        {"target": "http://x", "tunnel": {"cluster": "c"}},
        {"target": "http://x", "endpoint": {"host": "x y", "port": 1}},
        {"target": "http://x", "endpoint": {"host": "x", "port": True}},
        {"target": "http://x", "endpoint": {"host": "x", "socket": "relative"}},
        {"target": "http://x", "endpoint": "x"},
    ],
)
async def test_bad_routes_are_400(tmp_path: Path, body: Any) -> None:
    async with world(tmp_path) as w:
        status, answer = await call(w, "POST", "/api/routes/x", body)
        assert status == 400
        assert json.loads(answer)["message"]
        assert routes(await call(w, "GET", "/api/routes")) == {}


@pytest.mark.parametrize(
    "auth", [None, "", "token", f"Token {TOKEN}", f"Bearer {TOKEN}", f"token {TOKEN}x", f"token  {TOKEN}", "token \xe9"]
)
async def test_without_the_token_nothing(tmp_path: Path, auth: str | None, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as w:
        for method, path in (
            ("GET", "/api/routes"),
            ("POST", "/api/routes/x"),
            ("GET", "/nothing"),
            ("GET", "/api/tunnels"),
        ):
            status, answer = await call(w, method, path, {"target": "http://x"}, auth)
            assert (status, json.loads(answer)["status"]) == (403, 403)
        assert not len(w.proxy.context.book.routes)
    assert caplog.text.count("The control API refused 127.0.0.1 ('/api/routes')") == 1, "once a minute"


async def test_inactive_since(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/old", app.port)
        w.route("/used", app.port)
        w.clock.now += timedelta(minutes=2)
        w.route("/new", app.port)
        await w.get("/used")
        for name in ("inactiveSince", "inactive_since"):
            assert list(routes(await call(w, "GET", f"/api/routes?{name}=2026-05-04T12:01:00Z"))) == ["/old"]
        assert (await call(w, "GET", "/api/routes?inactiveSince=yesterday"))[0] == 400


async def test_an_error_is_no_activity(tmp_path: Path) -> None:
    async with running(App(answer=b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as app, world(tmp_path) as w:
        w.route("/x", app.port)
        w.clock.now += timedelta(minutes=2)
        await w.get("/x")
        assert routes(await call(w, "GET", "/api/routes/x"))["last_activity"] == STAMP


async def test_secrets_are_never_shown(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await call(w, "POST", "/api/routes/x", {"target": "http://x", "authorization": "token s3cret"})
        for path in ("/api/routes", "/api/routes/x"):
            status, answer = await call(w, "GET", path)
            assert status == 200
            assert b"s3cret" not in answer
            assert b'"***"' in answer
        assert "s3cret" not in repr(w.proxy.context.book.routes.get("/x"))
        assert TOKEN not in repr(w.proxy.context.settings)


async def test_routes_and_revocations_survive_a_restart(tmp_path: Path) -> None:
    async with running(App()) as app:
        async with world(tmp_path) as w:
            w.clock.now -= timedelta(hours=1)
            body = {"target": f"http://127.0.0.1:{app.port}", "owner": "alice", "authorization": "token s"}
            assert (await call(w, "POST", "/api/routes/user/alice", body))[0] == 201
            assert (await call(w, "POST", "/api/revocations", {"session": "gone"}))[0] == 204
            assert b'"gone"' in (tmp_path / "state.json").read_bytes(), "before the answer"
            assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
        async with world(tmp_path) as w:
            assert (await w.get("/user/alice/x", ticket_cookie()))[0] == 200
            assert (await w.get("/user/alice/x", ticket_cookie(session="gone")))[0] == 403
            assert routes(await call(w, "GET", "/api/routes/user/alice"))["last_activity"] == STAMP
            assert app.requests[0].header("authorization") == "token s"


async def test_a_change_is_saved_without_being_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert (await call(w, "POST", "/api/routes/x", {"target": "http://x"}))[0] == 201
        for _ in range(500):
            if (tmp_path / "state.json").exists():
                break
            await asyncio.sleep(0.01)
        assert json.loads((tmp_path / "state.json").read_bytes().splitlines()[1])["path"] == "/x"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format":3}', b'{"format":1,"routes":[{}],"revoked":{}}', b'{"format":1,"routes":3}'],
)
async def test_an_unreadable_state_file_is_kept_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    async with world(tmp_path) as w:
        assert routes(await call(w, "GET", "/api/routes")) == {}
    assert (tmp_path / "state.json.unreadable").read_bytes() == content
    assert "cannot be read" in caplog.text


async def test_old_revocations_are_forgotten(tmp_path: Path) -> None:
    async with world(tmp_path, ticket_life=timedelta(hours=1)) as w:
        await call(w, "POST", "/api/revocations", {"session": "gone"})
        assert list(w.proxy.context.book.revoked) == ["gone"]
        w.clock.now += timedelta(hours=1)
        w.proxy.context.book.forget_old()
        assert not w.proxy.context.book.revoked
        for body in ({}, {"session": 1}, {"session": ""}, {"session": "x" * 999}, {"token": "s3cret"}, {"token": None}):
            assert (await call(w, "POST", "/api/revocations", body))[0] == 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": ""}, "token"),
        ({"token": "short"}, "token"),
        ({"ticket_keys": ()}, "ticket key"),
        ({"ticket_keys": (b"x",)}, "ticket key"),
        ({"redirect": Redirect(80, 443)}, "certificate"),
        ({"trusted_proxies": ("nonsense",)}, "trusted_proxies"),
    ],
)
async def test_bad_settings(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    async def nobody(_token: str, _path: str) -> None:
        return None

    with pytest.raises(ConfigError, match=words):
        Proxy(settings(tmp_path, **changes), tunnels={}, token_checker=nobody, clock=lambda: NOW)


async def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(ConfigError, match="cannot listen on"):
            async with world(tmp_path, api_port=w.proxy.api_port):
                pass
        assert not (tmp_path / "state.json").exists(), "the second one writes nothing over the first one's file"


# ---------------------------------------------------------------- the hub's client


async def test_client(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, default_target="http://127.0.0.1:9") as w:
        client = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}/", TOKEN)
        as_port: Routes = client
        target = RouteTarget(
            "/user/a b@c/", Endpoint("127.0.0.1", app.port), "alice", "abc", "lab", "c1", "login", "al", "token s"
        )
        await as_port.publish(target)
        assert await as_port.published() == {"/": "", "/user/a b@c/": "abc"}
        assert await as_port.activity() == {"/": Use(NOW, NOW), "/user/a b@c/": Use(NOW, NOW, "abc")}
        assert await as_port.probe(target, "/user/a/api?x=1") == 200
        assert app.requests[0].target == "/user/a/api?x=1"
        assert app.requests[0].header("authorization") == "token s"
        assert w.tunnel.opened[0][1] == "al"
        w.tunnel.fault = "the login node is away"
        with pytest.raises(TunnelError, match="the login node is away"):
            await as_port.probe(target, "/")
        await as_port.withdraw("/user/a b@c/")
        await as_port.withdraw("/user/a b@c/")
        assert await as_port.published() == {"/": ""}
        await as_port.revoke("s9")
        assert "s9" in w.proxy.context.book.revoked
        await client.close()


async def test_a_route_under_another_host_than_it_should_be_is_nobodys(tmp_path: Path) -> None:
    """The hub puts it in its place then, as it does with a route of an earlier run."""
    async with world(tmp_path) as w:
        target = RouteTarget("/user/alice/", Endpoint("n1", 1), "alice", "abc", host="alice.hub.test")
        asking = [
            ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}/", TOKEN, host_of)
            for host_of in (lambda owner, name: f"{owner}{name}.hub.test", lambda _owner, _name: "")
        ]
        await asking[0].publish(target)
        assert [(await client.published())["/user/alice/"] for client in asking] == ["abc", "abc under another host"]
        for client in asking:
            await client.close()


async def test_probe_of_what_does_not_answer_http(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-x\r\n")

    async with running(App(serve=mute)) as app, world(tmp_path) as w:
        client = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}", TOKEN)
        target = RouteTarget("/x/", Endpoint("127.0.0.1", app.port), "alice", "abc")
        with pytest.raises(TunnelError):
            await client.probe(target, "/")
        refused = RouteTarget("/x/", Endpoint("127.0.0.1", 1), "alice", "abc")
        with pytest.raises(TunnelError, match=r"127\.0\.0\.1:1 cannot be reached"):
            await client.probe(refused, "/")
        await client.close()


async def test_applications_that_hang_hold_up_no_route(tmp_path: Path) -> None:
    """More than the client's places for its other calls are probed, and none answers."""
    arrived = asyncio.Semaphore(0)

    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        arrived.release()
        await asyncio.Event().wait()

    async with running(App(serve=silent)) as app, world(tmp_path) as w:
        client = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}", TOKEN)
        target = RouteTarget("/x/", Endpoint("127.0.0.1", app.port), "alice", "abc")
        probes = [asyncio.ensure_future(client.probe(target, "/")) for _ in range(CONCURRENCY + 5)]
        async with asyncio.timeout(7):
            for _ in probes:
                await arrived.acquire()
            await client.publish(target)
            await client.ping()
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await client.close()


async def test_client_against_nobody_and_with_a_wrong_token(tmp_path: Path) -> None:
    client = ProxyClient("http://127.0.0.1:1", TOKEN)
    with pytest.raises(Unreachable, match="does not answer"):
        await client.publish(TARGET)
    await client.close()
    async with world(tmp_path) as w:
        client = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}", "wrong")
        with pytest.raises(Unreachable, match="403"):
            await client.publish(TARGET)
        await client.close()


async def test_tunnels_state(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        state = routes(await call(w, "GET", "/api/tunnels"))
        assert state == {"tunnels": [{"cluster": "c1", "kind": "login", "state": {"host": "login1", "state": "open"}}]}


async def test_a_proxy_that_stands_alone(tmp_path: Path) -> None:
    target = {"target": "http://127.0.0.1:1"}
    async with world(tmp_path, standalone=True, default_target=target["target"]) as w:
        for path, body in {
            "/user/%40b%20c/": {**target, "user": "b", "server_name": "", "jupyterhub": True},
            "/services/x": {**target, "owner": "", "host": "h"},
        }.items():
            assert (await call(w, "POST", f"/api/routes{path}", body))[0] == 201
        status, answer = await call(w, "POST", "/api/routes/user/alice", {**target, "owner": "alice"})
        assert (status, b"stands alone" in answer) == (400, True)
        found = json.loads((await call(w, "GET", "/api/routes"))[1])
        for route in found.values():
            assert route.pop("last_activity")
        # As configurable-http-proxy 5.3 answers: keys unescaped, fields as they came, nothing added.
        assert found == {
            "/": target,
            "/user/@b c": {**target, "user": "b", "server_name": "", "jupyterhub": True},
            "/services/x": {**target, "owner": "", "host": "h"},
        }
