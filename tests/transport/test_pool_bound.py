"""A thousand browsers come back at once, each to another node: connections are made a few at a time, and all get their turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from batchhub.core.errors import TunnelError, Unreachable
from batchhub.core.model import Endpoint
from batchhub.transport import pool as module
from batchhub.transport.credentials import Password, Proof, Refusal, Unproven
from batchhub.transport.nodepools import NodePools
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import NodeSettings, SSHSettings
from batchhub.tunnel.node import NodeTunnel

AT_ONCE = 32


class Handshake:
    """A connection that is refused after a while; counts how many are under way."""

    now = most = made = 0

    def __init__(self, *_: object) -> None:
        self.alive = False

    async def connect(self, *_: object) -> None:
        Handshake.now += 1
        Handshake.made += 1
        Handshake.most = max(Handshake.most, Handshake.now)
        for _turn in range(3):
            await asyncio.sleep(0)
        Handshake.now -= 1
        raise Unreachable("refused")


async def test_connections_to_a_thousand_nodes_are_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Connection", Handshake)
    node = NodeSettings(insecure=True, max_handshakes=AT_ONCE)
    settings = SSHSettings("login", insecure=True, node=node)
    login = SSHPool(settings, lambda: datetime(2026, 1, 2, tzinfo=UTC))
    tunnel = NodeTunnel(login, NodePools(settings, lambda: datetime(2026, 1, 2, tzinfo=UTC), login))

    async def come_back(number: int) -> None:
        with pytest.raises(TunnelError, match="refused"):
            await tunnel.open(asyncio.Protocol, Endpoint(f"n{number}", 8888), "alice")

    await asyncio.gather(*(come_back(number) for number in range(1000)))
    assert (Handshake.made, Handshake.most) == (1000, AT_ONCE)
    await tunnel.close()


async def test_who_was_refused_is_not_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd's PerSourcePenalties and fail2ban count each refusal against the hub's one address. The service's goes on as after any failure."""

    class Refused(Handshake):
        async def connect(self, *_: object) -> None:
            raise Refusal("login refused the key")

    monkeypatch.setattr(module, "Connection", Refused)
    pool = SSHPool(SSHSettings("login", insecure=True), lambda: datetime(2026, 1, 2, tzinfo=UTC), lambda: 0.0)
    for user, words in (("alice", "next try in 5 s"), (None, "next try in 1 s")):
        for told in ("refused the key", words):
            with pytest.raises(Unreachable, match=told):
                await pool.execute(user, lambda left: "true", b"", 100, 30.0)
    pool.renew("alice")
    with pytest.raises(Unreachable, match=r"refused the key\Z"):
        await pool.execute("alice", lambda left: "true", b"", 100, 30.0)


async def test_a_kdc_that_does_not_answer_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a slow database: what people sign in with is fetched before it is their turn for a handshake."""
    monkeypatch.setattr(module, "Connection", Handshake)
    asked, never = 0, asyncio.Event()

    class Slow:
        async def proof(self, account: str) -> Proof:
            nonlocal asked
            asked += 1
            if account == "quick":
                raise Unproven("quick has nothing")
            await never.wait()
            return Password("sesame")

        async def accepted(self, account: str, proof: Proof) -> None:
            raise AssertionError

        refused = accepted

    settings = SSHSettings("login", known_hosts="login ssh-ed25519 AAAA", sign_in="session", max_handshakes=2)
    pool = SSHPool(settings, lambda: datetime(2026, 1, 2, tzinfo=UTC), own=Slow())
    people = [asyncio.ensure_future(pool.execute(f"p{n}", lambda left: "true", b"", 100, 30.0)) for n in range(10)]
    while asked < 2:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="quick has nothing"):
            await pool.execute("quick", lambda left: "true", b"", 100, 30.0)
    await pool.close()
    for one in await asyncio.gather(*people, return_exceptions=True):
        assert isinstance(one, Unreachable)


class Opened(Handshake):
    """A connection that is up once ``let`` is set."""

    kept, lost, channels, closed = False, None, 0, False
    let: asyncio.Event

    async def connect(self, *_: object) -> None:
        await Opened.let.wait()
        self.alive = True

    def close(self) -> None:
        self.closed = True


async def test_a_connection_that_is_brought_meanwhile_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody signs in, with a second factor it may be, while one without is being made: that is closed, and not left open for nobody."""
    made: list[Opened] = []
    monkeypatch.setattr(module, "Connection", lambda *_: made.append(Opened()) or made[-1])
    Opened.let = asyncio.Event()
    pool = SSHPool(SSHSettings("login", insecure=True), lambda: datetime(2026, 1, 2, tzinfo=UTC))
    opening = asyncio.ensure_future(pool.execute("alice", lambda left: "true", b"", 100, 0.1))
    while not made:
        await asyncio.sleep(0)
    brought: Any = Opened()
    brought.alive = True
    pool.adopt("alice", brought)
    Opened.let.set()
    with pytest.raises(AttributeError, match="execute"):  # it is asked to run the command
        await opening
    assert [one.closed for one in (*made, brought)] == [True, False]
    assert pool.is_up("alice")


async def test_the_service_waits_for_nobodys_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """People's may hang, as they do where sshd's PAM asks an LDAP server that is down. The question about all jobs goes on meanwhile."""
    served: list[Opened] = []

    class Hanging(Opened):
        async def connect(self, identity: str, *_: object) -> None:
            served.append(self)
            if identity:
                await super().connect()
            raise Unreachable("it is the service's turn")

    monkeypatch.setattr(module, "Connection", Hanging)
    Opened.let = asyncio.Event()
    pool = SSHPool(SSHSettings("login", insecure=True, max_handshakes=2), lambda: datetime(2026, 1, 2, tzinfo=UTC))
    people = [asyncio.ensure_future(pool.execute(f"p{n}", lambda left: "true", b"", 100, 30.0)) for n in range(10)]
    while len(served) < 2:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="the service's turn"):
            await pool.execute(None, lambda left: "true", b"", 100, 30.0)
    assert len(served) == 3, "two of the people, and the service"
    await pool.close()
    await asyncio.gather(*people, return_exceptions=True)
