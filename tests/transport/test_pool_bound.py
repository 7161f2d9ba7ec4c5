"""A thousand browsers come back at once, each to another node: connections are made a few at a time, and all get their turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from batchhub.core.errors import TunnelError, Unreachable
from batchhub.core.model import Endpoint
from batchhub.transport import pool as module
from batchhub.transport.credentials import Refusal
from batchhub.transport.pool import NodePools, SSHPool
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
