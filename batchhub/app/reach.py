"""Ways to clusters: the transports of the hub, the tunnels of the proxy."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from batchhub.app.owning import Owning
from batchhub.app.site import load_extension
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import ConfigError
from batchhub.core.ports import Clock, Transport, Tunnel
from batchhub.transport.certificates import Authority, Purpose, Sign, Terms
from batchhub.transport.keyfiles import unusable
from batchhub.transport.local import LocalTransport
from batchhub.transport.nodepools import NodePools
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from batchhub.transport.ssh import SSHTransport
from batchhub.tunnel.chain import ChainSettings, ChainTunnel
from batchhub.tunnel.login import LoginSettings
from batchhub.tunnel.node import NodeTunnelSettings

NONE_READY: Mapping[str, Tunnel] = MappingProxyType({})


def unusable_files(clusters: tuple[ClusterSettings, ...]) -> tuple[str, ...]:
    """What is wrong with the keys and host keys that their tables name, as sentences. A hub starts all the same, for its other clusters' sake."""
    return tuple(
        words
        for cluster in clusters
        if cluster.ssh is not None
        for words in unusable(cluster.ssh, f"cluster {cluster.name!r}, ssh")
    )


def make_transport(
    cluster: ClusterSettings, clock: Clock, authority: Authority | None = None, owning: Owning | None = None
) -> Transport:
    """How the hub runs commands on a cluster. Raises ConfigError if it signs in with certificates and there is no authority.

    ``owning`` knows what people sign in with where that is their own; without it only the service acts there.
    """
    if cluster.transport == "ssh":
        assert cluster.ssh is not None
        sign = _signer(cluster.ssh, authority, Purpose.COMMANDS)
        pool = SSHPool(cluster.ssh, clock, sign=sign, own=owning.own(cluster) if owning is not None else None)
        if owning is not None:
            owning.watch(cluster.name, pool)
        return SSHTransport(cluster.ssh, pool)
    return LocalTransport(cluster.local)


def make_tunnels(
    clusters: tuple[ClusterSettings, ...],
    clock: Clock,
    ready: Mapping[str, Tunnel] = NONE_READY,
    *,
    patience: float = 0.0,
    authority: Authority | None = None,
) -> Mapping[tuple[str, str], Tunnel]:
    """How the proxy reaches the nodes of each cluster, by (cluster, kind). Raises ConfigError.

    ``ready`` are tunnels, by kind, that all clusters share and that the caller has made. ``patience`` is for how many seconds whoever
    opens a stream waits for it (0: for ever); kinds that are tried in order take a little less, so that all their causes are told.
    """
    chain = ChainSettings(seconds=0.9 * patience) if patience else ChainSettings()
    return {
        (cluster.name, cluster.tunnel_kind): _tunnel(cluster, clock, ready, chain, authority) for cluster in clusters
    }


def _signer(ssh: SSHSettings, authority: Authority | None, purpose: Purpose) -> Sign | None:
    """For connections to a login node, or to nodes."""
    if ssh.sign_in != "ca" or authority is None:
        return None
    return authority.signer(Terms(purpose, timedelta(minutes=ssh.certificate_minutes), ssh.certificate_sources))


def _tunnel(
    cluster: ClusterSettings,
    clock: Clock,
    ready: Mapping[str, Tunnel],
    chain: ChainSettings,
    authority: Authority | None,
) -> Tunnel:
    ssh = cluster.ssh
    login = SSHPool(ssh, clock, sign=_signer(ssh, authority, Purpose.TUNNEL)) if ssh is not None else None
    tunnels = {kind: ready.get(kind) or _one(cluster, kind, clock, login, authority) for kind in cluster.tunnel_kinds}
    return next(iter(tunnels.values())) if len(tunnels) == 1 else ChainTunnel(tunnels, chain)


def _one(
    cluster: ClusterSettings, kind: str, clock: Clock, login: SSHPool | None, authority: Authority | None
) -> Tunnel:
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
        sign = _signer(cluster.ssh.for_node("node"), authority, Purpose.TUNNEL)
        nodes = NodePools(cluster.ssh, clock, login, sign)
        tunnel = cls(login, nodes, NodeTunnelSettings(wait, cluster.ssh.node.max_nodes))
    else:
        tunnel = cls(login)
    return tunnel


def ask_directly(request: urllib.request.Request, seconds: float) -> Any:
    """How hub and proxy ask each other: login nodes often set ``http_proxy``, and our tokens must not go there. Raises OSError."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds)
