"""Ways to clusters: the transports of the hub, the tunnels of the proxy."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from batchhub.app.site import load_extension
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import ConfigError
from batchhub.core.ports import Clock, Transport, Tunnel
from batchhub.transport.local import LocalTransport
from batchhub.transport.pool import NodePools, SSHPool
from batchhub.transport.ssh import SSHTransport
from batchhub.tunnel.chain import ChainSettings, ChainTunnel
from batchhub.tunnel.login import LoginSettings
from batchhub.tunnel.node import NodeTunnelSettings

NONE_READY: Mapping[str, Tunnel] = MappingProxyType({})


def make_transport(cluster: ClusterSettings, clock: Clock) -> Transport:
    """How the hub runs commands on a cluster."""
    if cluster.transport == "ssh":
        assert cluster.ssh is not None
        return SSHTransport(cluster.ssh, SSHPool(cluster.ssh, clock))
    return LocalTransport(cluster.local)


def make_tunnels(
    clusters: tuple[ClusterSettings, ...],
    clock: Clock,
    ready: Mapping[str, Tunnel] = NONE_READY,
    *,
    patience: float = 0.0,
) -> Mapping[tuple[str, str], Tunnel]:
    """How the proxy reaches the nodes of each cluster, by (cluster, kind). Raises ConfigError.

    ``ready`` are tunnels, by kind, that all clusters share and that the caller has made. ``patience`` is for how many seconds whoever
    opens a stream waits for it (0: for ever); kinds that are tried in order take a little less, so that all their causes are told.
    """
    chain = ChainSettings(seconds=0.9 * patience) if patience else ChainSettings()
    return {(cluster.name, cluster.tunnel_kind): _tunnel(cluster, clock, ready, chain) for cluster in clusters}


def _tunnel(cluster: ClusterSettings, clock: Clock, ready: Mapping[str, Tunnel], chain: ChainSettings) -> Tunnel:
    login = SSHPool(cluster.ssh, clock) if cluster.ssh is not None else None
    tunnels = {kind: ready.get(kind) or _one(cluster, kind, clock, login) for kind in cluster.tunnel_kinds}
    return next(iter(tunnels.values())) if len(tunnels) == 1 else ChainTunnel(tunnels, chain)


def _one(cluster: ClusterSettings, kind: str, clock: Clock, login: SSHPool | None) -> Tunnel:
    """One kind of tunnel; all of a cluster's share the connections to its login node."""
    where = f"cluster {cluster.name!r}, tunnel"
    cls = load_extension("batchhub.tunnels", kind, where)
    tunnel: Tunnel
    if kind == "direct":
        tunnel = cls()
        return tunnel
    if cluster.ssh is None or login is None:
        raise ConfigError(
            f"{where}: kind {kind!r} goes through a login node; transport = 'ssh' and a table 'ssh' are needed."
        )
    wait = cluster.ssh.open_timeout
    if kind == "login":
        tunnel = cls(login, LoginSettings(cluster.ssh.tunnel_as_user, wait))
    elif kind == "node":
        tunnel = cls(login, NodePools(cluster.ssh, clock, login), NodeTunnelSettings(wait, cluster.ssh.node.max_nodes))
    else:
        tunnel = cls(login)
    return tunnel


def ask_directly(request: urllib.request.Request, seconds: float) -> Any:
    """How hub and proxy ask each other: login nodes often set ``http_proxy``, and our tokens must not go there. Raises OSError."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds)
