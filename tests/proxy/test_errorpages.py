"""Errors in stand-alone mode: configurable-http-proxy's statuses, with pages from an address, from a directory, or our own."""

import asyncio
import contextlib
import socket
import struct
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from batchhub.core.errors import BadInput
from batchhub.proxy import errorpages
from batchhub.proxy.settings import ErrorPages, Limits
from tests.proxy.harness import App, Request, read_request, running, statuses, world

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/x-page\r\nX-Own: no\r\nContent-Length: 4\r\n\r\npage"
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")


@contextlib.contextmanager
def closed_port():
    """A port that refuses."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_a_page_from_an_address(tmp_path: Path) -> None:
    async with running(App(answer=PAGE)) as source:
        target = f"http://127.0.0.1:{source.port}/hub/error/"
        with closed_port() as port:
            async with world(tmp_path, standalone=True, error_pages=ErrorPages(target)) as w:
                w.route("/dead", port)
                status, headers, body = await w.get("/none/%C3%A9?x=1&y=%20")
                assert (status, headers["content-type"], body) == (404, "text/x-page", b"page")
                assert "x-own" not in headers
                status, _, body = await w.get("/dead/x", method="POST", body=b"data")
                assert (status, body) == (503, b"page")
                status, headers, body = await w.get("/none", method="HEAD")
                assert (status, headers["content-length"], body) == (404, "4", b"")
        asked = [urlsplit(request.target) for request in source.requests]
        assert [each.path for each in asked] == ["/hub/error/404", "/hub/error/503", "/hub/error/404"]
        assert parse_qs(asked[0].query) == {"url": ["/none/%C3%A9?x=1&y=%20"]}
        assert parse_qs(asked[1].query) == {"url": ["/dead/x"]}
        assert all(request.header("cookie") is None for request in source.requests)


async def test_the_connection_goes_on_after_a_page(tmp_path: Path) -> None:
    async with (
        running(App(answer=PAGE)) as source,
        world(tmp_path, standalone=True, error_pages=ErrorPages(f"http://127.0.0.1:{source.port}")) as w,
    ):
        post = b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
        last = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert statuses(await w.raw(post + post + last)) == [404, 404, 404]


async def test_a_source_that_fails_is_no_error_of_its_own(tmp_path: Path) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npa")

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (errorpages.MAX_PAGE + 1))
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    for serve in (break_off, large):
        async with (
            running(App(serve=serve)) as source,
            world(tmp_path, standalone=True, error_pages=ErrorPages(f"http://127.0.0.1:{source.port}")) as w,
        ):
            status, _, body = await w.get("/none")
            assert status == 404
            assert b"No route leads to this address." in body
    with closed_port() as port:
        async with world(tmp_path, standalone=True, error_pages=ErrorPages(f"http://127.0.0.1:{port}")) as w:
            assert (await w.get("/none"))[0] == 404


async def test_a_source_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errorpages, "PATIENCE", 0.05)
    asked: list[Request] = []
    ended = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    async with (
        running(App(serve=hang)) as source,
        world(tmp_path, standalone=True, error_pages=ErrorPages(f"http://127.0.0.1:{source.port}")) as w,
    ):
        status, _, body = await w.get("/none")
        assert (status, len(asked)) == (404, 1)
        assert b"No route leads to this address." in body
        await asyncio.wait_for(ended.wait(), 5)  # its connection is let go


async def test_a_client_that_leaves_while_the_page_is_fetched(tmp_path: Path) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await go.wait()
        writer.write(PAGE)
        await writer.drain()

    async with (
        running(App(serve=wait)) as source,
        world(tmp_path, standalone=True, error_pages=ErrorPages(f"http://127.0.0.1:{source.port}")) as w,
    ):
        _, writer = await w.connect()
        writer.write(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
        await arrived.wait()
        reset = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
        while w.proxy.context.clients:
            await asyncio.sleep(0.005)
        go.set()
        assert (await w.get("/_chp_healthz"))[0] == 200


async def test_pages_from_a_directory(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "404.html").write_text("four")
    (pages / "error.html").write_text("any")
    with closed_port() as port:
        async with world(tmp_path, standalone=True, error_pages=ErrorPages(directory=pages)) as w:
            w.route("/dead", port)
            status, headers, body = await w.get("/none")
            assert (status, headers["content-type"], body) == (404, "text/html; charset=utf-8", b"four")
            assert (await w.get("/dead"))[::2] == (503, b"any")
            (pages / "error.html").unlink()
            status, _, body = await w.get("/dead")
            assert (status, b"does not answer" in body) == (503, True)


async def test_without_a_source_nothing_is_told_of_hub_or_target(tmp_path: Path) -> None:
    with closed_port() as port:
        async with world(tmp_path, standalone=True) as w:
            w.route("/", port)
            for path in ("/", "/user/a"):
                status, headers, body = await w.get(path)
                assert status == 503
                assert "refresh" not in headers
                assert b"hub" not in body.lower()
                assert str(port).encode() not in body


async def test_an_upgrade_gets_the_status_alone(tmp_path: Path) -> None:
    async with running(App(answer=PAGE)) as source:
        with closed_port() as port:
            pages = ErrorPages(f"http://127.0.0.1:{source.port}")
            async with world(tmp_path, standalone=True, error_pages=pages) as w:
                w.route("/dead", port)
                for path, status in (("/none", 404), ("/dead", 503)):
                    lines = "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *WEBSOCKET, "", ""])
                    answer = await w.raw(lines.encode() + b"GET /_chp_healthz HTTP/1.0\r\n\r\n")
                    assert answer.startswith(b"HTTP/1.1 %d " % status)
                    assert b"\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n" in answer
        assert source.requests == []


async def test_a_target_that_breaks_off_or_takes_too_long_is_503(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"nonsense\r\n\r\n")

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    limits = Limits(tick=0.02, response_time=0.1)
    for serve in (hang_up, nonsense, hang):
        async with running(App(serve=serve)) as app, world(tmp_path, standalone=True, limits=limits) as w:
            w.route("/a", app.port)
            assert (await w.get("/a"))[0] == 503


async def test_an_address_that_is_none_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        async with world(tmp_path, standalone=True, error_pages=ErrorPages("nonsense")):
            pass
