"""configurable-http-proxy's forwarding options. What is expected was observed with its version 5.3, but for what docs/proxy.md says differs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchhub.proxy.forward import Forwarding, host_segment, redirected, request_head
from batchhub.proxy.headers import Peer
from batchhub.proxy.target import read_target
from batchhub.proxy.wire import parse_request, parse_response
from tests.proxy.harness import App, parse, read_head, running, world

STRANGER = Peer("9.9.9.9", "http")
FRONT = Peer("10.0.0.1", "http", trusted=True)
SAID = {
    "x-forwarded-for": ["9.9.9.9"],
    "x-forwarded-proto": ["http"],
    "x-forwarded-host": ["hub.test:7"],
    "x-forwarded-port": ["7"],
}
CLAIMS = (
    "X-Forwarded-For: 1.1.1.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 1",
    "X-Real-IP: 1.1.1.1",
    "X-Scheme: https",
    "Forwarded: for=1.1.1.1",
)


def sent(
    options: Forwarding,
    *lines: str,
    path: str = "/user/a/x",
    route: str = "/user/a",
    target: str = "http://127.0.0.1:5",
    peer: Peer = STRANGER,
) -> tuple[str, dict[str, list[str]]]:
    head = parse_request("\r\n".join([f"GET {path}?q HTTP/1.1", "Host: hub.test:7", *lines, "", ""]).encode())
    raw = request_head(head, path, route=route, target=read_target(target), peer=peer, options=options).decode()
    assert raw.endswith("\r\n\r\n")
    first, *rest = raw.removesuffix("\r\n\r\n").split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in rest:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    return first.removeprefix("GET ").removesuffix(" HTTP/1.1"), headers


def test_nothing_chosen() -> None:
    where, headers = sent(Forwarding(), "Cookie: batchhub-session=1; jupyterhub-session-id=2", "Authorization: token x")
    assert where == "/user/a/x?q"
    assert headers == {
        "host": ["hub.test:7"],
        "cookie": ["batchhub-session=1; jupyterhub-session-id=2"],
        "authorization": ["token x"],
        **SAID,
    }


@pytest.mark.parametrize(
    ("options", "route", "path", "where"),
    [
        ({}, "/user/a", "/user/a/x", "/pre/user/a/x?q"),
        ({"prepend_path": False}, "/user/a", "/user/a/x", "/user/a/x?q"),
        ({"include_prefix": False}, "/user/a", "/user/a/x", "/pre/x?q"),
        ({"include_prefix": False}, "/user/a", "/user/a", "/pre/?q"),
        ({"include_prefix": False}, "/user/@b", "/user/%40b/x", "/pre/x?q"),
        ({"include_prefix": False}, "/", "/user/a", "/pre/user/a?q"),
        ({"include_prefix": False, "prepend_path": False}, "/user/a", "/user/a/x/", "/x/?q"),
        ({"include_prefix": False, "host_routing": True}, "/hub.test/user", "/user/x", "/pre/x?q"),
        ({"include_prefix": False, "host_routing": True}, "/hub.test", "/user/x", "/pre/user/x?q"),
    ],
)
def test_paths(options: dict[str, Any], route: str, path: str, where: str) -> None:
    assert sent(Forwarding(**options), route=route, path=path, target="http://127.0.0.1:5/pre/")[0] == where


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://app.test:5", "app.test:5"),
        ("http://app.test:80", "app.test"),
        ("https://app.test", "app.test"),
        ("https://app.test:80", "app.test:80"),
        ("http://[::1]:5", "[::1]:5"),
    ],
)
def test_change_origin(target: str, host: str) -> None:
    headers = sent(Forwarding(change_origin=True), target=target)[1]
    assert headers["host"] == [host]
    assert headers["x-forwarded-host"] == ["hub.test:7"]


def test_a_stranger_is_not_believed() -> None:
    assert sent(Forwarding(), *CLAIMS)[1] == {"host": ["hub.test:7"], **SAID}
    assert sent(Forwarding(x_forward=False), *CLAIMS)[1] == {"host": ["hub.test:7"]}


def test_a_trusted_front_is_believed() -> None:
    headers = sent(Forwarding(), *CLAIMS, peer=FRONT)[1]
    assert headers == {
        "host": ["hub.test:7"],
        "x-forwarded-for": ["1.1.1.1, 10.0.0.1"],
        "x-forwarded-proto": ["https"],
        "x-forwarded-host": ["evil"],
        "x-forwarded-port": ["1"],
        "x-real-ip": ["1.1.1.1"],
        "x-scheme": ["https"],
    }
    # As JupyterHub's documentation sets an nginx up.
    assert sent(Forwarding(), "X-Scheme: https", peer=FRONT)[1]["x-forwarded-proto"] == ["https"]
    # With --no-x-forward what it said goes on as it came, and we add nothing.
    unchanged = sent(Forwarding(x_forward=False), *CLAIMS, peer=FRONT)[1]
    assert unchanged == {"host": ["hub.test:7"], **{k.lower(): [v] for k, v in (line.split(": ") for line in CLAIMS)}}


def test_custom_headers_replace_what_is_there() -> None:
    custom = (("X-Forwarded-Proto", "https"), ("Foo", "bar:baz"), ("host", "over"), ("X-Real-IP", "2"))
    headers = sent(Forwarding(custom_headers=custom), "Foo: theirs", "X-Real-IP: 3", peer=FRONT)[1]
    assert headers["x-forwarded-proto"] == ["https"]
    assert headers["foo"] == ["bar:baz"]
    assert headers["host"] == ["over"]
    assert headers["x-real-ip"] == ["2"]
    assert headers["x-forwarded-for"] == ["10.0.0.1"]


AT_TARGET = "http://app.test:5/next?x#y"


@pytest.mark.parametrize(
    ("options", "status", "location", "seen"),
    [
        ({}, 302, AT_TARGET, AT_TARGET),
        ({"auto_rewrite": True}, 302, AT_TARGET, "http://hub.test:7/next?x#y"),
        ({"auto_rewrite": True}, 302, "HTTP://APP.test:5", "HTTP://hub.test:7"),
        ({"auto_rewrite": True}, 201, AT_TARGET, "http://hub.test:7/next?x#y"),
        ({"auto_rewrite": True}, 303, AT_TARGET, AT_TARGET),
        ({"auto_rewrite": True}, 200, AT_TARGET, AT_TARGET),
        ({"auto_rewrite": True}, 302, "http://app.test/next", "http://app.test/next"),
        ({"auto_rewrite": True}, 302, "http://app.test:5@evil/next", "http://app.test:5@evil/next"),
        ({"auto_rewrite": True}, 302, "/next", "/next"),
        ({"protocol_rewrite": "https"}, 302, AT_TARGET, "https://app.test:5/next?x#y"),
        ({"protocol_rewrite": "https", "auto_rewrite": True}, 307, AT_TARGET, "https://hub.test:7/next?x#y"),
        ({"protocol_rewrite": "https"}, 302, "http://else.where/", "http://else.where/"),
    ],
)
def test_redirects(options: dict[str, Any], status: int, location: str, seen: str) -> None:
    raw = f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    head = redirected(
        parse_response(raw, b"GET"), b"hub.test:7", read_target("http://app.test:5/pre"), Forwarding(**options)
    )
    assert head.headers[0][2].decode() == seen
    assert head.headers[1][2] == b"0"


def test_the_port_that_a_scheme_implies_may_be_left_out() -> None:
    answer = parse_response(b"HTTP/1.1 302 X\r\nLocation: https://app.test:443/n\r\nContent-Length: 0\r\n\r\n", b"GET")
    seen = redirected(answer, b"hub.test", read_target("https://app.test"), Forwarding(auto_rewrite=True))
    assert seen.headers[0][2] == b"https://hub.test/n"


@pytest.mark.parametrize(
    ("host", "segment"),
    [
        (b"one.test", "one.test"),
        (b"One.Test:80", "one.test"),
        (b"[::1]:80", "[::1]"),
        (b"[::1]", "[::1]"),
        (b"", ""),
    ],
)
def test_the_segment_of_a_host(host: bytes, segment: str) -> None:
    assert host_segment(host) == segment


# ---------------------------------------------------------------- through a proxy


async def test_host_routing(tmp_path: Path) -> None:
    async with (
        running(App()) as one,
        running(App()) as rest,
        world(tmp_path, standalone=True, forwarding=Forwarding(host_routing=True)) as w,
    ):
        w.route("/hub.test/user", one.port)
        w.route("/", rest.port)
        await w.get("/user/x")
        await w.get("/other")
        elsewhere = b"GET /user/y HTTP/1.1\r\nHost: two.test:5\r\nConnection: close\r\n\r\n"
        await w.raw(elsewhere)
        assert [request.target for request in one.requests] == ["/user/x"]
        assert [request.target for request in rest.requests] == ["/other", "/user/y"]


async def test_options_take_effect_in_a_stand_alone_proxy_and_in_none_other(tmp_path: Path) -> None:
    options = Forwarding(auto_rewrite=True, include_prefix=False, custom_headers=(("Foo", "bar"),))
    for standalone in (True, False):
        app = App()
        async with running(app), world(tmp_path, standalone=standalone, forwarding=options) as w:
            there = f"http://127.0.0.1:{app.port}/n"
            app.answer = f"HTTP/1.1 302 F\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode()
            w.route("/user/a", app.port)
            _, headers, _ = await w.get("/user/a/x", "Cookie: batchhub-session=1")
            (request,) = app.requests
            assert headers["location"] == ("http://hub.test/n" if standalone else there)
            assert request.target == ("/x" if standalone else "/user/a/x")
            assert request.header("foo") == ("bar" if standalone else None)
            assert request.header("cookie") == ("batchhub-session=1" if standalone else None)


async def test_an_upgrade_is_forwarded_with_the_same_options(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_head(reader)
        assert (request.target, request.header("host")) == ("/ws", f"127.0.0.1:{app.port}")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        writer.write(await reader.readexactly(5))
        await writer.drain()

    options = Forwarding(change_origin=True, include_prefix=False)
    async with running(App(serve=serve)) as app, world(tmp_path, standalone=True, forwarding=options) as w:
        w.route("/user/a", app.port)
        lines = b"GET /user/a/ws HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        answer = await w.raw(lines)
        assert parse(answer)[0] == 101
        assert answer.endswith(b"hello")
