"""The order in which kinds are tried, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import Tunnel
from batchhub.tunnel.chain import ChainSettings, ChainTunnel
from batchhub.tunnel.direct import DirectTunnel
from batchhub.tunnel.login import LoginTunnel
from tests.sshd import Sshd
from tests.tunnel.conftest import Recorder, echo, pool_of, serving

C1 = Endpoint("c1", 8888)


class Road:
    """A kind of tunnel that leads where it is told to, or says why not, or says nothing."""

    def __init__(self, kind: str, words: str = "") -> None:
        self.kind = kind
        self.words = words
        self.stuck = self.closed = False
        self.asked: list[tuple[str, str]] = []

    async def open(self, handler: Callable[[], Any], endpoint: Endpoint, user: str) -> Any:
        self.asked.append((user, endpoint.host or endpoint.offer))
        if self.stuck:
            await asyncio.get_running_loop().create_future()
        if self.words:
            raise TunnelError(self.words)
        return handler()

    def state(self) -> Mapping[str, str]:
        return {f"{self.kind}1": "up"}

    async def close(self) -> None:
        self.closed = True


def chain_of(roads: Sequence[Road], settings: ChainSettings | None = None) -> ChainTunnel:
    return ChainTunnel({road.kind: road for road in roads}, settings)


def tried(*roads: Road) -> str:
    """Who was asked since the last look, in the roads' own order."""
    found = "".join(road.kind for road in roads for _ in road.asked)
    for road in roads:
        road.asked.clear()
    return found


async def test_the_preferred_first_then_what_worked_last_until_it_breaks() -> None:
    a, b, c = Road("a", "no a."), Road("b"), Road("c")
    chain: Tunnel = chain_of((a, b, c))
    assert chain.kind == "a,b,c"
    await chain.open(Recorder, C1, "alice")
    assert tried(a, b, c) == "ab"
    await chain.open(Recorder, C1, "alice")
    assert tried(a, b, c) == "b"
    await chain.open(Recorder, C1, "bob")  # another account knows nothing of it
    assert tried(a, b, c) == "ab"
    await chain.open(Recorder, Endpoint("c2", 1), "alice")
    assert tried(a, b, c) == "ab"
    b.words = "no b."
    await chain.open(Recorder, C1, "alice")
    assert tried(a, b, c) == "abc"
    await chain.open(Recorder, C1, "alice")
    assert tried(a, b, c) == "c"
    assert chain.state() == {"a1": "up", "b1": "up", "c1": "up"}
    await chain.close()
    assert (a.closed, b.closed, c.closed) == (True, True, True)


async def test_a_memory_ends_and_there_are_not_too_many() -> None:
    a, b = Road("a", "no a."), Road("b")
    forgetful = chain_of((a, b), ChainSettings(remember=0.0))
    for _ in range(2):
        await forgetful.open(Recorder, C1, "alice")
        assert tried(a, b) == "ab"
    narrow = chain_of((a, b), ChainSettings(memories=2))
    for user in ("alice", "bob", "carol"):
        await narrow.open(Recorder, C1, user)
    tried(a, b)
    await narrow.open(Recorder, C1, "carol")
    await narrow.open(Recorder, C1, "bob")
    assert tried(a, b) == "bb"
    await narrow.open(Recorder, C1, "alice")
    assert tried(a, b) == "ab"


async def test_every_kind_says_why_and_equal_causes_are_said_once() -> None:
    chain = chain_of(
        (Road("login", "The login node is away."), Road("node", "The login node is away."), Road("x", "No."))
    )
    with pytest.raises(TunnelError) as caught:
        await chain.open(Recorder, Endpoint("", offer="o1"), "alice")
    assert str(caught.value) == "By login and node: The login node is away. By x: No."


async def test_one_that_does_not_answer_leaves_time_for_the_others() -> None:
    a, b, c = Road("a"), Road("b"), Road("c")
    a.stuck = b.stuck = True
    chain = chain_of((a, b, c), ChainSettings(seconds=0.2))
    await chain.open(Recorder, C1, "alice")
    assert tried(a, b, c) == "abc"
    c.stuck = True
    with pytest.raises(TunnelError, match=r"^By c and a and b: c1 did not answer within 0 s\.$"):
        await chain.open(Recorder, C1, "alice")


async def test_who_gives_up_gives_up_all_of_it() -> None:
    a, b = Road("a"), Road("b")
    a.stuck = True
    chain = chain_of((a, b))
    task = asyncio.ensure_future(chain.open(Recorder, C1, "alice"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tried(a, b) == "a"


async def test_real_ones(sshd: Sshd) -> None:
    strict = Sshd(extra=["AllowTcpForwarding no"])
    chain = ChainTunnel({"login": LoginTunnel(pool_of(strict)), "direct": DirectTunnel()})
    try:
        async with serving(echo) as port:
            made = await chain.open(Recorder, Endpoint("127.0.0.1", port), "alice")
            made.stream.write(b"hello")
            await made.until(lambda: made.data == b"hello")
            made.stream.close()
        with pytest.raises(
            TunnelError, match=r"^By direct: 127\.0\.0\.1 port 1 refused .* By login: 127\.0\.0\.1 forbids"
        ):
            await chain.open(Recorder, Endpoint("127.0.0.1", 1), "alice")
        assert chain.counters() == {
            "login/connects": 1,
            "login/failures": 0,
            "login/losses": 0,
            "direct/connects": 1,
            "direct/failures": 1,
        }
    finally:
        await chain.close()
        strict.close()
