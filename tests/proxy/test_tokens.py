"""API tokens: asked once, remembered for a moment, forgotten when the hub says so; and how the hub is asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from batchhub.core.errors import Unreachable
from batchhub.proxy import tokens as module
from batchhub.proxy.tokens import KNOWN, UNKNOWN, HubTokens, TokenCache, digest_of
from tests.proxy.harness import NOW, App, read_head, running

PATH = "/user/alice"


class Hub:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.let = asyncio.Event()
        self.let.set()
        self.fault: Exception | None = None

    async def __call__(self, token: str, path: str) -> str | None:
        self.asked.append((token, path))
        await self.let.wait()
        if self.fault is not None:
            raise self.fault
        return "alice" if token.startswith("alices") else None


async def turns(many: int = 5) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def test_many_at_once_ask_once() -> None:
    hub = Hub()
    cache = TokenCache(hub)
    hub.let.clear()
    many = [asyncio.ensure_future(cache.user("alices", PATH, NOW)) for _ in range(50)]
    await turns()
    hub.let.set()
    assert await asyncio.gather(*many) == ["alice"] * 50
    assert hub.asked == [("alices", PATH)]
    assert await cache.user("alices", "/user/alice/lab", NOW) == "alice"
    assert len(hub.asked) == 2, "another server is another question"


@pytest.mark.parametrize(("token", "user", "life"), [("alices", "alice", KNOWN), ("nobodys", None, UNKNOWN)])
async def test_answers_are_remembered_for_a_while(token: str, user: str | None, life: timedelta) -> None:
    hub = Hub()
    cache = TokenCache(hub)
    assert cache.cached(token, PATH, NOW) == (False, None)
    assert await cache.user(token, PATH, NOW) == user
    before = NOW + life - timedelta(seconds=1)
    assert cache.cached(token, PATH, before) == (True, user)
    assert await cache.user(token, PATH, before) == user
    assert len(hub.asked) == 1
    assert not cache.cached(token, PATH, NOW + life)[0]


async def test_a_token_that_ended_opens_nothing_though_the_hub_said_so_a_moment_ago() -> None:
    hub, ended = Hub(), dict[str, datetime]()
    cache = TokenCache(hub, ended)
    assert await cache.user("alices", PATH, NOW) == "alice"
    ended[digest_of("alices")] = NOW
    assert cache.cached("alices", PATH, NOW) == (True, None)
    assert await cache.user("alices", PATH, NOW) is None
    assert len(hub.asked) == 1


async def test_a_token_that_ends_while_the_hub_is_answering_opens_nothing() -> None:
    hub, ended = Hub(), dict[str, datetime]()
    cache = TokenCache(hub, ended)
    hub.let.clear()
    both = [asyncio.ensure_future(cache.user("alices", PATH, NOW)) for _ in range(2)]
    await turns()
    ended[digest_of("alices")] = NOW
    hub.let.set()
    assert await asyncio.gather(*both) == [None, None]


async def test_a_hub_that_is_down_is_an_error_for_all_that_wait_and_not_remembered() -> None:
    hub = Hub()
    cache = TokenCache(hub)
    hub.let.clear()
    hub.fault = Unreachable("The hub does not answer.")
    both = [asyncio.ensure_future(cache.user("alices", PATH, NOW)) for _ in range(2)]
    await turns()
    hub.let.set()
    assert [type(done) for done in await asyncio.gather(*both, return_exceptions=True)] == [Unreachable] * 2
    hub.fault = None
    assert await cache.user("alices", PATH, NOW) == "alice"
    hub.fault = Unreachable("The hub does not answer.")
    assert await cache.user("alices", PATH, NOW + KNOWN / 2) == "alice", "what is known lives out its time"


async def test_one_who_gives_up_does_not_leave_the_others_waiting() -> None:
    hub = Hub()
    cache = TokenCache(hub)
    hub.let.clear()
    first, second = (asyncio.ensure_future(cache.user("alices", PATH, NOW)) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    hub.let.set()
    assert await second == "alice"
    assert len(hub.asked) == 2
    assert first.cancelled()


async def test_memory_and_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    cache = TokenCache(hub, size=8)
    for number in range(100):
        await cache.user(f"t{number}", PATH, NOW)
    assert len(cache._answers) == 8
    assert cache.cached("t99", PATH, NOW)[0]
    monkeypatch.setattr(module, "MOST_FLIGHTS", 2)
    hub.let.clear()
    two = [asyncio.ensure_future(cache.user(f"u{number}", PATH, NOW)) for number in range(2)]
    await turns()
    with pytest.raises(Unreachable, match="Too many"):
        await cache.user("u3", PATH, NOW)
    hub.let.set()
    await asyncio.gather(*two)


def test_tokens_are_known_by_their_hash_alone() -> None:
    assert len(digest_of("s3cret")) == 64
    assert digest_of("\udcff"), "whatever bytes a header held"


# ---------------------------------------------------------------- asking the hub


@asynccontextmanager
async def asking(answer: bytes) -> AsyncIterator[tuple[HubTokens, App]]:
    async with running(App(answer=answer)) as app:
        yield HubTokens(f"http://127.0.0.1:{app.port}"), app


def said(code: str, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (code.encode(), len(body), body)


async def test_the_hub_is_asked_with_the_token_and_the_path() -> None:
    async with asking(said("200 OK", b'{"name": "alice"}')) as (ask, app):
        assert await ask("s3cret", "/user/alice/x&y") == "alice"
        assert app.requests[0].target == "/hub/api/user?server=%2Fuser%2Falice%2Fx%26y"
        assert app.requests[0].header("authorization") == "token s3cret"


@pytest.mark.parametrize("code", ["401 Unauthorized", "403 Forbidden"])
async def test_unknown_tokens(code: str) -> None:
    async with asking(said(code)) as (ask, _):
        assert await ask("t", "/") is None


@pytest.mark.parametrize("body", [b'{"name": 7}', b"{}"])
async def test_an_answer_without_a_name_is_nobody(body: bytes) -> None:
    async with asking(said("200 OK", body)) as (ask, _):
        assert await ask("t", "/") is None


@pytest.mark.parametrize(
    "answer",
    [
        said("500 Oops"),
        said("302 Found"),
        said("200 OK", b"<html>"),
        said("200 OK", b"[]"),
        said("200 OK", b'{"name": "alice"}').replace(b": 17", b": 18"),
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"name": "alice"}',
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"",
        b"nonsense\r\nConnection: close\r\n\r\n",
    ],
)
async def test_any_other_answer_is_none(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HubTokens, "DEADLINE", 0.2)
    async with asking(answer) as (ask, _):
        with pytest.raises(Unreachable):
            await ask("t", "/")


async def test_a_long_answer_is_read_whole() -> None:
    body = b'{"name": "alice", "servers": "%b"}' % (b"x" * 200_000)
    async with asking(said("200 OK", body)) as (ask, _):
        assert await ask("t", "/") == "alice"


async def test_an_endless_answer_is_given_up() -> None:
    body = b'{"name": "alice", "servers": "%b"}' % (b"x" * 2_000_000)
    async with asking(said("200 OK", body)) as (ask, _):
        with pytest.raises(Unreachable):
            await ask("t", "/")


async def test_few_are_asked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HubTokens, "CONCURRENCY", 2)
    let = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await let.wait()
        writer.write(said("403 No"))

    async with running(App(serve=serve)) as app:
        ask = HubTokens(f"http://127.0.0.1:{app.port}")
        many = [asyncio.ensure_future(ask(f"t{number}", "/")) for number in range(6)]
        async with asyncio.timeout(60):
            while app.connections < 2:
                await asyncio.sleep(0)
        await turns(50)
        assert app.connections == 2
        let.set()
        assert await asyncio.gather(*many) == [None] * 6
        assert app.connections == 6


async def test_a_hub_that_is_not_there(unused_tcp_port_factory: Callable[[], int]) -> None:
    ask = HubTokens(f"http://127.0.0.1:{unused_tcp_port_factory()}")
    with pytest.raises(Unreachable, match="does not answer"):
        await ask("t", "/")
