"""After 101 bytes pass as they come, both ways."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from batchhub.proxy.book import EndSession
from tests.proxy.harness import App, parse, read_head, running, ticket_cookie, world

ASK = b"GET /s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n"


async def test_websocket_with_a_real_client_and_server(tmp_path: Path) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with (
        serve(echo, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("kernel.v1")], max_size=None) as server,
        world(tmp_path) as w,
    ):
        w.route("/user/alice", server.sockets[0].getsockname()[1], owner="alice")
        cookie = {"Cookie": ticket_cookie().partition(": ")[2]}
        url = f"ws://127.0.0.1:{w.proxy.public_port}/user/alice/ws"
        async with connect(
            url, additional_headers=cookie, subprotocols=[websockets.Subprotocol("kernel.v1")], max_size=None
        ) as socket:
            assert socket.subprotocol == "kernel.v1"
            for message in ("x", b"\x00" * 3_000_000, "é" * 1000):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.ping()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 403
        with pytest.raises(websockets.InvalidStatus):
            await connect(url, additional_headers=cookie, origin=websockets.Origin("https://evil.example"))


async def test_any_protocol_early_bytes_and_half_close(tmp_path: Path) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_head(reader)
        assert request.header("connection") == "Upgrade"
        assert request.header("upgrade") == "My-Protocol"
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: My-Protocol\r\nX-A: b\r\n\r\nhello "
        )
        data = await reader.read()
        writer.write(data[::-1])
        writer.write_eof()

    async with running(App(serve=app)) as a, world(tmp_path) as w:
        w.route("/", a.port)
        reader, writer = await w.connect()
        writer.write(ASK % b"My-Protocol" + b"\r\nearly")
        assert await reader.readuntil(b"\r\n\r\n") == (
            b"HTTP/1.1 101 Switching Protocols\r\nX-A: b\r\nConnection: Upgrade\r\nUpgrade: My-Protocol\r\n\r\n"
        )
        writer.write(b" later")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b"hello retal ylrae"
        writer.close()
        for _ in range(200):
            if not w.proxy.context.clients:
                break
            await asyncio.sleep(0.01)
        assert not w.proxy.context.clients


async def test_an_application_that_will_not_upgrade(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        status, _, body = parse(await w.raw(ASK % b"websocket" + b"Connection: close\r\n\r\n"))
        assert (status, body) == (200, b"ok")


async def test_unroutable_and_unreachable_upgrades(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert (await w.raw(ASK % b"websocket" + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        w.route("/s", 1)
        assert (await w.raw(ASK % b"websocket" + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_the_end_of_a_session_closes_its_open_websockets_and_no_other(tmp_path: Path) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)

    async with running(App(serve=app)) as a, world(tmp_path) as w:
        w.route("/s", a.port, owner="alice")
        open_ones = []
        for session in ("s1", "s2"):
            reader, writer = await w.connect()
            writer.write(ASK % b"websocket" + ticket_cookie(session=session, path="/s/").encode() + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            open_ones.append((reader, writer))
        await w.proxy.change(EndSession("s1", w.clock()))
        with suppress(ConnectionError):
            assert await asyncio.wait_for(open_ones[0][0].read(), 5) == b""
        open_ones[1][1].write(b"alive")
        assert await open_ones[1][0].readexactly(5) == b"alive"
        for _, writer in open_ones:
            writer.close()
