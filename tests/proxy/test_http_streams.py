"""Bytes as they come: after 101 in both directions, events one by one, and connections that one side has ended."""

import asyncio
from pathlib import Path

import pytest

from batchhub.proxy.settings import Limits
from tests.proxy.harness import App, read_head, read_request, running, statuses, until, world

ASK = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

# ---------------------------------------------------------------- upgrades


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: v1.kernel, x.y;z=1\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Protocol: v1.kernel\r\n\r\n"


async def test_a_websockets_own_headers_are_untouched_both_ways(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        app.requests.append(await read_head(reader))
        writer.write(SWITCH % b"websocket" + b"\x81\x02hi")
        writer.write(await reader.read())

    app = App(serve=serve)
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(UPGRADE)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head == (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Protocol: v1.kernel\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert await reader.readexactly(4) == b"\x81\x02hi"
        for line in UPGRADE.split(b"\r\n")[4:9]:
            assert line + b"\r\n" in app.requests[0].raw
        assert b"\r\nUpgrade: WebSocket\r\n" in app.requests[0].raw
        writer.write(bytes(range(256)))
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == bytes(range(256))
        writer.close()


@pytest.mark.parametrize("protocol", [b"tcp", b"SPDY/3.1", b"x-shell/2"])
async def test_any_protocol_with_bytes_right_behind_both_heads(tmp_path: Path, protocol: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_head(reader)
        assert (request.header("upgrade"), request.header("connection")) == (protocol.decode(), "Upgrade")
        writer.write(SWITCH % protocol + b"HTTP/1.1 200 OK\r\n\r\n")
        assert await reader.readexactly(5) == b"GET /"
        writer.write(await reader.readexactly(5))
        await reader.read()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: " + protocol + b"\r\n\r\nGET /")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(19) == b"HTTP/1.1 200 OK\r\n\r\n"
        writer.write(b"\x00raw\n")
        assert await reader.readexactly(5) == b"\x00raw\n"
        writer.close()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nno", b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"]
)
async def test_a_refused_upgrade_is_an_answer_like_any_other(tmp_path: Path, framing: bytes) -> None:
    refusal = b"HTTP/1.1 426 Upgrade Required\r\n" + framing
    async with running(App(answer=refusal)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await w.raw(UPGRADE + LAST % b"next")
        assert statuses(answer) == [426, 426]
        assert answer.count(b"no") == 2
        assert [request.target for request in app.requests] == ["/ws", "/next"]
        assert app.requests[1].header("upgrade") is None


async def test_bytes_behind_an_upgrade_that_is_refused_are_a_request_or_nothing(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, limits=Limits(linger=0.05, tick=0.02)) as w:
        w.route("/", app.port)
        assert statuses(await w.raw(UPGRADE + b"\x81\x02hi\x00")) == [200, 400]
        assert len(app.requests) == 1


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
        b"Connection: upgrade\r\n",
        b"Upgrade: websocket\r\n",
    ],
)
async def test_other_upgrades_are_not_asked_for(tmp_path: Path, lines: bytes) -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with running(App(answer=switched)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await w.raw(b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n" + LAST % b"")
        assert statuses(answer) == [502, 502], "an application that switches unasked is not followed"
        assert app.requests[0].header("upgrade") is None
        assert app.requests[0].header("connection") is None


@pytest.mark.parametrize("end", ["client", "application"])
async def test_each_direction_of_a_raw_stream_ends_by_itself(tmp_path: Path, end: str) -> None:
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(SWITCH % b"tcp")
        if end == "application":
            writer.write(b"bye")
            writer.write_eof()
            assert await reader.read() == b"later"
            heard.set()
        else:
            assert await reader.read() == b"bye"
            writer.write(b"later")

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(UPGRADE)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        if end == "application":
            assert await asyncio.wait_for(reader.read(), 5) == b"bye"
            writer.write(b"later")
            writer.write_eof()
            await asyncio.wait_for(heard.wait(), 5)
        else:
            writer.write(b"bye")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b"later"
        writer.close()
        await until(lambda: not w.proxy.context.clients)


# ---------------------------------------------------------------- streams and half-closed connections


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 30\r\n"])
async def test_each_event_arrives_before_the_next_is_written(tmp_path: Path, version: bytes, framing: bytes) -> None:
    step = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n")
        for number in range(3):
            await step.wait()
            step.clear()
            event = b"data: %03d\n" % number
            writer.write(b"a\r\n" + event + b"\r\n" if b"chunked" in framing else event)
        await writer.drain()
        await step.wait()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/" + version + b"\r\nHost: x\r\n\r\n")
        assert b"event-stream" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        for number in range(3):
            step.set()
            await asyncio.wait_for(reader.readuntil(b"data: %03d\n" % number), 5)
        writer.close()


async def test_a_client_that_ends_within_its_body_made_no_request(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"half")
        begun.set()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(5)
        ended.set()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for framing in (b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
            begun.clear()
            ended.clear()
            reader, writer = await w.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing)
            await asyncio.wait_for(begun.wait(), 5)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            await asyncio.wait_for(ended.wait(), 5)


async def test_pipelined_requests_of_a_client_that_sends_no_more_are_all_answered(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(ASK % b"a" + ASK % b"b" + ASK % b"c")
        writer.write_eof()
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200, 200, 200]
        writer.close()
