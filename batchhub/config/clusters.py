"""Clusters from tables: scheduler, way in, way to the nodes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from batchhub.config.tables import read
from batchhub.core.errors import ConfigError
from batchhub.transport.local import LocalSettings
from batchhub.transport.settings import SSHSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_ADDRESS_TEMPLATE = re.compile(r"[A-Za-z0-9_.:{}-]+")


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """One cluster.

    ``scheduler`` is an entry point of ``batchhub.schedulers``, ``scheduler_options`` are the dialect's own. ``transport`` is how commands
    are run: ``local`` or ``ssh``. ``tunnel`` is how the proxy reaches a notebook: ``login`` or ``direct`` (empty: ``login`` with ssh,
    ``direct`` with local). ``account`` makes a cluster account from ``{username}``.

    ``bind`` is the address an application listens on (empty: every address, or loopback with the local queue). ``ports`` limits its port.
    ``node_address`` makes what the proxy dials from the scheduler's ``{host}``. Where node names mean nothing to the login node,
    ``node_networks`` names the networks in which an address that the job itself reports is believed instead.

    ``python`` runs the launcher in the job (3.6 or newer). ``callback_url`` is the hub's address as seen from a node, if it has one:
    a job then tells where it listens a moment sooner. ``prologue``, ``epilogue`` and ``environment`` are for every job on this cluster.
    """

    name: str
    title: str = ""
    scheduler: str = "slurm"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    transport: Literal["local", "ssh"] = "local"
    local: LocalSettings = field(default_factory=LocalSettings)
    ssh: SSHSettings | None = None
    tunnel: str = ""
    account: str = "{username}"
    bind: Literal["", "127.0.0.1", "0.0.0.0"] = ""  # noqa: S104 - a type
    ports: tuple[int, int] | None = None
    node_address: str = "{host}"
    node_networks: tuple[str, ...] = ()
    python: str = "python3"
    callback_url: str = ""
    prologue: str = ""
    epilogue: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = f"cluster {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{place}: a cluster's name is letters, digits, '_' and '-', at most 40.")
        if self.transport == "ssh" and self.ssh is None:
            raise ConfigError(f"{place}: transport 'ssh' needs a table 'ssh' with at least 'host' and 'known_hosts'.")
        if self.transport == "local" and self.ssh is not None:
            raise ConfigError(f"{place}: there is a table 'ssh', but transport is 'local'; say transport = 'ssh'.")
        if "{username}" not in self.account:
            raise ConfigError(
                f"{place}: account {self.account!r} must hold {{username}}, or everybody would be the same person."
            )
        if not _ADDRESS_TEMPLATE.fullmatch(self.node_address):
            raise ConfigError(f"{place}: node_address {self.node_address!r} is not a host name with {{host}} in it.")
        if self.ports is not None and not 1024 <= self.ports[0] <= self.ports[1] <= 65535:
            raise ConfigError(f"{place}: ports {self.ports!r} are not a range within 1024 to 65535.")
        for network in self.node_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"{place}: node_networks: {error}.") from error

    @property
    def tunnel_kind(self) -> str:
        """The kind in force."""
        return self.tunnel or ("login" if self.transport == "ssh" else "direct")

    @property
    def bind_address(self) -> Literal["127.0.0.1", "0.0.0.0"]:  # noqa: S104 - a type
        """The address in force."""
        return self.bind or ("127.0.0.1" if self.scheduler == "local" else "0.0.0.0")  # noqa: S104 - nodes' networks differ


def read_clusters(tables: Mapping[str, Any]) -> tuple[ClusterSettings, ...]:
    """All clusters, by name. Raises ConfigError."""
    if not isinstance(tables, Mapping):
        raise ConfigError("clusters: a table of tables is expected, one for each cluster.")
    found = []
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"cluster {name!r}: a table is expected.")
        found.append(read(ClusterSettings, {**table, "name": name}, f"cluster {name!r}"))
    return tuple(found)
