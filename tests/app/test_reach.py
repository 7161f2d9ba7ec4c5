"""How hub and proxy ask each other."""

from __future__ import annotations

import asyncio
import http.server
import threading
import urllib.request
from contextlib import closing
from datetime import UTC, datetime

import pytest

from batchhub.app.reach import ask_directly, make_tunnels
from batchhub.config.clusters import read_clusters
from batchhub.core.errors import ConfigError, TunnelError
from batchhub.core.model import Endpoint
from batchhub.tunnel.chain import ChainTunnel
from batchhub.tunnel.direct import DirectTunnel
from batchhub.tunnel.login import LoginTunnel
from batchhub.tunnel.node import NodeTunnel

SSH = {"transport": "ssh", "ssh": {"host": "login1", "known_hosts": "login1 ssh-ed25519 AAAA"}}


def utc() -> datetime:
    return datetime(2026, 1, 2, tzinfo=UTC)


async def test_tunnels_by_cluster_and_kind() -> None:
    ready = DirectTunnel()
    clusters = read_clusters(
        {
            "a": SSH,
            "b": {**SSH, "tunnel": "node"},
            "c": {**SSH, "tunnel": ["login", "node", "reverse"]},
            "d": {"tunnel": "reverse"},
            "e": {},
        }
    )
    tunnels = make_tunnels(clusters, utc, {"reverse": ready}, patience=0.001)
    kinds = {"a": "login", "b": "node", "c": "login,node,reverse", "d": "reverse", "e": "direct"}
    assert set(tunnels) == set(kinds.items())
    assert isinstance(tunnels["a", "login"], LoginTunnel)
    assert isinstance(tunnels["b", "node"], NodeTunnel)
    assert isinstance(tunnels["c", "login,node,reverse"], ChainTunnel)
    assert tunnels["d", "reverse"] is ready
    with pytest.raises(TunnelError, match=r"did not answer within 0 s"):  # before the one who opens it would give up
        await tunnels["c", "login,node,reverse"].open(asyncio.Protocol, Endpoint("192.0.2.1", 1), "ann")  # type: ignore[type-var]
    for tunnel in tunnels.values():
        await tunnel.close()


def test_a_kind_that_nobody_has() -> None:
    with pytest.raises(ConfigError, match="cluster 'a', tunnel: 'nod' is not known; did you mean 'node'"):
        make_tunnels(read_clusters({"a": {**SSH, "tunnel": "nod"}}), utc)


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers everybody."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_sites_http_proxy_never_sees_our_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", headers={"Authorization": "token x"})
    with closing(server.socket), ask_directly(request, 10) as answer:
        assert answer.read() == b"hello"
        thread.join(10)
