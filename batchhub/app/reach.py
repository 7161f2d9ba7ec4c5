"""Ways to clusters: the transports of the hub, the tunnels of the proxy."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from typing import Any

from batchhub.app.site import load_extension
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import ConfigError
from batchhub.core.ports import Clock, Transport, Tunnel
from batchhub.transport.local import LocalTransport
from batchhub.transport.pool import SSHPool
from batchhub.transport.ssh import SSHTransport


def make_transport(cluster: ClusterSettings, clock: Clock) -> Transport:
    """How the hub runs commands on a cluster."""
    if cluster.transport == "ssh":
        assert cluster.ssh is not None
        return SSHTransport(cluster.ssh, SSHPool(cluster.ssh, clock))
    return LocalTransport(cluster.local)


def make_tunnels(clusters: tuple[ClusterSettings, ...], clock: Clock) -> Mapping[tuple[str, str], Tunnel]:
    """How the proxy reaches the nodes of each cluster, by (cluster, kind). Raises ConfigError."""
    return {(cluster.name, cluster.tunnel_kind): _tunnel(cluster, clock) for cluster in clusters}


def _tunnel(cluster: ClusterSettings, clock: Clock) -> Tunnel:
    where = f"cluster {cluster.name!r}, tunnel"
    cls = load_extension("batchhub.tunnels", cluster.tunnel_kind, where)
    if cluster.tunnel_kind == "direct":
        direct: Tunnel = cls()
        return direct
    if cluster.ssh is None:
        raise ConfigError(
            f"{where}: kind {cluster.tunnel_kind!r} goes through a login node; transport = 'ssh' and a table 'ssh' are needed."
        )
    through: Tunnel = cls(SSHPool(cluster.ssh, clock))
    return through


def ask_directly(request: urllib.request.Request, seconds: float) -> Any:
    """How hub and proxy ask each other: login nodes often set ``http_proxy``, and our tokens must not go there. Raises OSError."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds)
