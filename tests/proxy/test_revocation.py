"""What is open ends when its right does: sessions, tokens, and whatever was on its way at that moment."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.model import Endpoint
from batchhub.proxy.book import EndSession, EndToken
from batchhub.proxy.client import ProxyClient
from batchhub.proxy.grants import AGAIN
from batchhub.proxy.tokens import digest_of
from tests.proxy.harness import HOUR, TOKEN, App, World, parse, read_head, running, ticket_cookie, world

BY_TOKEN = "Authorization: token alices"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Any path: a WebSocket's handshake, and then an echo."""
    await read_head(reader)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    while data := await reader.read(100):
        writer.write(data)


Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def handshake(*lines: str) -> bytes:
    own = "".join(f"{line}\r\n" for line in lines)
    return f"GET /user/alice/ws HTTP/1.1\r\nHost: hub.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{own}\r\n".encode()


async def opened(w: World, *lines: str) -> Socket:
    reader, writer = await w.connect()
    writer.write(handshake(*lines))
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 101")
    return reader, writer


async def is_cut(socket: Socket) -> None:
    with suppress(ConnectionError):
        assert await asyncio.wait_for(socket[0].read(), 60) == b""
    socket[1].close()


async def is_alive(socket: Socket) -> None:
    socket[1].write(b"alive")
    assert await asyncio.wait_for(socket[0].readexactly(5), 60) == b"alive"


@asynccontextmanager
async def alices(tmp_path: Path) -> AsyncIterator[World]:
    async with running(App(serve=echo)) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        yield w


async def call(w: World, body: dict[str, Any]) -> int:
    text = json.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", w.proxy.api_port)
    head = f"POST /api/revocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: token {TOKEN}\r\nContent-Length: {len(text)}\r\n\r\n"
    writer.write((head + text).encode())
    answer = await reader.read()
    writer.close()
    return parse(answer)[0]


async def test_a_ticket_renewed_a_moment_before_the_end_is_as_dead(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        w.clock.now += HOUR / 2
        socket = await opened(w, ticket_cookie())
        reader, writer = await w.connect()
        writer.write(handshake(ticket_cookie()))
        fresh = parse(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60))[1]["set-cookie"].partition(";")[0]
        writer.close()
        assert await call(w, {"session": "s1"}) == 204
        await is_cut(socket)
        for cookie in (f"Cookie: {fresh}", ticket_cookie()):
            assert (await w.get("/user/alice/x", cookie))[0] == 403


class SlowTunnel:
    """Opens when it is let."""

    kind = "login"

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = asyncio.Event()
        self.let = asyncio.Event()

    async def open(self, handler: Any, endpoint: Endpoint, user: str) -> Any:
        self.asked.set()
        await self.let.wait()
        return (await asyncio.get_running_loop().create_connection(handler, "127.0.0.1", self.port))[1]

    def state(self) -> dict[str, str]:
        return {}

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("right", [ticket_cookie(), BY_TOKEN])
async def test_what_passed_the_check_and_is_still_on_its_way_is_cut_too(tmp_path: Path, right: str) -> None:
    async with running(App(serve=echo)) as app, world(tmp_path) as w:
        tunnel = SlowTunnel(app.port)
        w.proxy.context.opener.tunnels = {("slow", "login"): tunnel}  # type: ignore[assignment]
        w.route(
            "/user/alice",
            1,
            owner="alice",
            tunnel={"cluster": "slow", "kind": "login", "account": "alice"},
            endpoint={"host": "n1", "port": 4711},
        )
        socket = await w.connect()
        socket[1].write(handshake(right))
        await asyncio.wait_for(tunnel.asked.wait(), 60)
        assert await call(w, {"session": "s1"} if "Cookie" in right else {"token": digest_of("alices")}) == 204
        tunnel.let.set()
        await is_cut(socket)
        assert len(w.proxy.context.grants) == 0


async def test_a_token_that_ended_closes_what_it_opened_and_nothing_else(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        by_token, by_ticket = await opened(w, BY_TOKEN), await opened(w, ticket_cookie())
        assert await call(w, {"token": digest_of("alices")}) == 204
        await is_cut(by_token)
        await is_alive(by_ticket)
        assert (await w.get("/user/alice/x", BY_TOKEN))[0] == 403
        assert len(w.asked) == 1, "though the hub's answer was in memory"
        by_ticket[1].close()


async def test_a_token_that_ends_while_the_hub_is_asked_opens_nothing(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        ended = asyncio.Event()

        async def checker(token: str, path: str) -> str | None:
            await w.proxy.change(EndToken(digest_of(token), w.clock() + HOUR))
            ended.set()
            return "alice"

        w.proxy.context.tokens._ask = checker  # type: ignore[misc]
        assert (await w.get("/user/alice/x", BY_TOKEN))[0] == 403
        assert ended.is_set()


async def test_a_session_ends_by_itself_at_its_latest_end(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        short = await opened(w, ticket_cookie(absolute=w.clock() + timedelta(minutes=30)))
        long = await opened(w, ticket_cookie(session="s2"))
        w.clock.now += timedelta(minutes=30)
        await is_cut(short)
        await is_alive(long)
        w.clock.now += 2 * HOUR
        await is_alive(long)  # its ticket is too old for a new request by now, the session is not over
        long[1].close()


async def test_tokens_are_asked_about_again_while_something_is_open(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        socket = await opened(w, BY_TOKEN)
        answers: list[str | None] = ["alice", None]

        async def checker(token: str, path: str) -> str | None:
            w.asked.append((token, path))
            return answers.pop(0)

        w.proxy.context.tokens._ask = checker  # type: ignore[misc]
        w.clock.now += AGAIN
        async with asyncio.timeout(60):
            while len(w.asked) < 2:
                await asyncio.sleep(0)
        await is_alive(socket)
        w.clock.now += AGAIN
        await is_cut(socket)
        assert w.asked == [("alices", "/user/alice")] * 3


async def test_many_ended_sessions_are_told_in_one_word_and_survive_a_restart(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        socket = await opened(w, ticket_cookie())
        client = ProxyClient(f"http://127.0.0.1:{w.proxy.api_port}", TOKEN)
        end = w.clock() + 12 * HOUR
        await client.revoke_all({f"old{number}": end for number in range(4500)} | {"s1": end})
        await is_cut(socket)
        assert len(w.proxy.context.book.revoked) == 4501
        changes = w.proxy.calls.changes["EndSession"]
        await client.revoke_all({"s1": end, "old7": end - HOUR, "new": end})
        assert w.proxy.calls.changes["EndSession"] == changes + 1, "what is known is not written again"
        await client.revoke_token(digest_of("alices"))
        await client.close()
    async with world(tmp_path) as w:
        assert len(w.proxy.context.book.revoked) == 4502
        assert w.proxy.context.book.revoked["s1"] == end
        w.clock.now = end
        w.proxy.context.book.forget_old()
        assert not w.proxy.context.book.revoked


@pytest.mark.parametrize(
    "body",
    [{"sessions": []}, {"sessions": {"s": 1}}, {"sessions": {"": "2026-05-04"}}, {"sessions": {"s": "x"}}, {"token": "x"}],
)  # fmt: skip
async def test_words_that_cannot_be_read_are_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with world(tmp_path) as w:
        assert await call(w, body) == 400
        assert not w.proxy.context.book.revoked


async def test_ending_twice_is_ending_once(tmp_path: Path) -> None:
    async with alices(tmp_path) as w:
        for _ in range(2):
            await w.proxy.change(EndSession("s1", w.clock() + HOUR))
        assert (await w.get("/user/alice/x", ticket_cookie()))[0] == 403
