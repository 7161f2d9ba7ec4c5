"""Where jobs dial in at the proxy, for clusters with ``reverse`` tunnels.

Planned alike by the hub, which tells jobs, and by the proxy, which listens.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from batchhub.app.site import Site
from batchhub.app.state import StateDirectory
from batchhub.config import traits
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.handshake import DialIn
from batchhub.core.model import Server
from batchhub.core.ports import Clock
from batchhub.job.offers import KeyPair, key_pair, offer_key
from batchhub.transport.reverse import ReverseGate

KIND = "reverse"


@dataclass(frozen=True, slots=True)
class Dialling:
    """The address to listen on, the proxy's own key, the directory its processes share, and the address each cluster's jobs dial."""

    listen: tuple[str, int]
    key: KeyPair
    directory: Path
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=lambda: MappingProxyType({}))

    def gate(self, clock: Clock) -> ReverseGate:
        """The server of one process, to be started with the listening socket."""
        return ReverseGate(self.key.private, self.directory, clock)


def plan_dialling(proxy: traits.Proxy, state: StateDirectory, site: Site) -> Dialling | None:
    """From the traits; ``None`` when no cluster needs it. Raises ConfigError."""
    clusters = [cluster for cluster in site.clusters if KIND in cluster.tunnel_kinds]
    if not clusters:
        return None
    if not proxy.reverse_port:
        raise ConfigError(
            f"cluster {clusters[0].name!r}: for a tunnel of kind 'reverse' the proxy needs a port that its jobs can dial: set "
            f"c.Proxy.reverse_port (it is {proxy.reverse_port})."
        )
    key = key_pair(state.key("reverse"))
    addresses = {cluster.name: _address(cluster, proxy, key) for cluster in clusters}
    return Dialling((proxy.reverse_ip, proxy.reverse_port), key, state.path / "offers", MappingProxyType(addresses))


def _address(cluster: ClusterSettings, proxy: traits.Proxy, key: KeyPair) -> tuple[str, int]:
    host = cluster.reverse_host or proxy.reverse_host or socket.getfqdn()
    port = cluster.reverse_port or proxy.reverse_port
    if not cluster.reverse_host and not proxy.reverse_host and host.partition(".")[0] == "localhost":
        raise ConfigError(
            f"cluster {cluster.name!r}: this machine does not know its own name, so set c.Proxy.reverse_host to the one that jobs dial."
        )
    try:
        DialIn(host, port, "x", key.public, cluster.reverse_ssh).check()
    except BadInput as error:
        raise ConfigError(f"cluster {cluster.name!r}, tunnel 'reverse': {error}") from error
    return host, port


class DialInBuilder:
    """What jobs' files hold of it. ``key`` is what jobs' keys are derived from; ``dialling`` is ``None`` where no cluster needs it."""

    def __init__(self, key: bytes, dialling: Dialling | None) -> None:
        self._key = key
        self._dialling = dialling

    @property
    def wanted(self) -> bool:
        """Whether any cluster needs it."""
        return self._dialling is not None

    def document(self, server: Server, cluster: ClusterSettings) -> DialIn | None:
        """For ``launch.json``."""
        if self._dialling is None or cluster.name not in self._dialling.addresses:
            return None
        host, port = self._dialling.addresses[cluster.name]
        alone = cluster.tunnel_kinds == (KIND,)
        return DialIn(host, port, server.id, self._dialling.key.public, cluster.reverse_ssh, needed=alone)

    def keys(self, server: Server) -> KeyPair | None:
        """The key of the server's generation; ``None`` where its cluster has no use for one."""
        if self._dialling is None or server.cluster not in self._dialling.addresses:
            return None
        return offer_key(self._key, server.id, server.generation)
