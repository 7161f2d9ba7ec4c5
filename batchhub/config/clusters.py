"""Clusters from tables: scheduler, way in, way to the nodes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from batchhub.config.accounts import account_of, check_accounts, owner_of
from batchhub.config.tables import read
from batchhub.core.errors import ConfigError, Denied
from batchhub.core.walltime import read_most
from batchhub.transport.local import LocalSettings, running_account
from batchhub.transport.settings import SSHSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_ADDRESS_TEMPLATE = re.compile(r"[A-Za-z0-9_.:{}-]+")
_URL = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(?:/[^\s?#]*)?")
_KIND = re.compile(r"[A-Za-z0-9_.-]+(?::[A-Za-z0-9_]+)?")
_THROUGH_SSH = frozenset({"login", "node"})
_TO_LOOPBACK = frozenset({"node", "reverse"})
"""They end on the node itself, so an application need not listen anywhere else, and may listen on a Unix socket."""

_ON_THE_SPOT = frozenset({"local", "podman", "docker"})
"""Their jobs run where their commands do, on that machine's own network."""

_BY_SERVICE = frozenset({"podman", "docker", "kubernetes"})
"""The service runs their commands, whoever a job is for: nobody proves to be that account."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """One cluster.

    ``scheduler`` is an entry point of ``batchhub.schedulers``, ``scheduler_options`` are the dialect's own. ``transport`` is how commands
    are run: ``local`` or ``ssh``. ``tunnel`` is how the proxy reaches a notebook: ``login``, ``node``, ``reverse`` or ``direct``, or several, the
    preferred first (empty: ``login`` with ssh, ``direct`` with local). ``account`` makes a cluster account from ``{username}``;
    ``accounts`` says it for single people, exactly, and comes first. With an empty ``account`` nobody else is let in.

    ``bind`` is the address an application listens on (empty: every address, or loopback with the local queue, with containers of the login node
    and where all tunnels end on the node). ``ports`` limits its port.
    ``node_address`` makes what the proxy dials from the scheduler's ``{host}``. Where node names mean nothing to the login node,
    ``node_networks`` names the networks in which an address that the job itself reports is believed instead.

    ``python`` runs the launcher in the job (3.6 or newer). ``callback_url`` is the hub's address as seen from a node, if it has one:
    a job then tells where it listens a moment sooner. ``prologue``, ``epilogue`` and ``environment`` are for every job on this cluster.

    ``reverse_host`` and ``reverse_port``: where this cluster's jobs dial the proxy, if not at ``c.Proxy``'s of the same names. ``reverse_ssh`` is
    OpenSSH's client on the nodes.

    ``extend``: whether people may ask for more time for a job that runs, and as whom the scheduler is asked: ``no``, ``user``, or ``service``, the
    service's account, which then needs the scheduler's operator rights and ``extend_at_most``, the most time a job may have in all (``24h``).
    Empty: ``user`` with the local queue, else ``no``.
    """

    name: str
    title: str = ""
    scheduler: str = "slurm"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    transport: Literal["local", "ssh"] = "local"
    local: LocalSettings = field(default_factory=LocalSettings)
    ssh: SSHSettings | None = None
    tunnel: tuple[str, ...] | str = ""
    account: str = "{username}"
    accounts: Mapping[str, str] = field(default_factory=dict)
    bind: Literal["", "127.0.0.1", "0.0.0.0"] = ""  # noqa: S104 - a type
    ports: tuple[int, int] | None = None
    node_address: str = "{host}"
    node_networks: tuple[str, ...] = ()
    python: str = "python3"
    callback_url: str = ""
    prologue: str = ""
    epilogue: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    reverse_host: str = ""
    reverse_port: int = 0
    reverse_ssh: str = "ssh"
    extend: Literal["", "no", "user", "service"] = ""
    extend_at_most: str = ""

    def __post_init__(self) -> None:
        place = f"cluster {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{place}: a cluster's name is letters, digits, '_' and '-', at most 40.")
        if self.transport == "ssh" and self.ssh is None:
            raise ConfigError(f"{place}: transport 'ssh' needs a table 'ssh' with at least 'host' and 'known_hosts'.")
        if self.transport == "local" and self.ssh is not None:
            raise ConfigError(f"{place}: there is a table 'ssh', but transport is 'local'; say transport = 'ssh'.")
        self._check_tunnel(place)
        wide = self.ssh.wide_accounts if self.ssh is not None else self.local.wide_accounts
        check_accounts(self.account, self.accounts, wide, place)
        if not _ADDRESS_TEMPLATE.fullmatch(self.node_address):
            raise ConfigError(f"{place}: node_address {self.node_address!r} is not a host name with {{host}} in it.")
        if self.callback_url and not _URL.fullmatch(self.callback_url):
            raise ConfigError(f"{place}: callback_url {self.callback_url!r} is not like http://hub.example.org:8081.")
        if self.ports is not None and not 1024 <= self.ports[0] <= self.ports[1] <= 65535:
            raise ConfigError(f"{place}: ports {self.ports!r} are not a range within 1024 to 65535.")
        for network in self.node_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"{place}: node_networks: {error}.") from error
        self._check_extension(place)

    def _check_extension(self, place: str) -> None:
        try:
            most = read_most(self.extend_at_most)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error
        if self.extend == "service" and most is None:
            raise ConfigError(
                f"{place}: extend = 'service' needs extend_at_most, the most time that a job may have in all: a scheduler's own limits do not bind "
                "its operators."
            )

    def _check_tunnel(self, place: str) -> None:
        kinds = self.tunnel_kinds
        if not kinds:
            raise ConfigError(f"{place}: tunnel is an empty list; name one kind, or several in order of preference.")
        for kind in kinds:
            if not _KIND.fullmatch(kind):
                raise ConfigError(
                    f"{place}: tunnel: {kind!r} is not the name of a kind; several are a list: ['login', 'node']."
                )
            if kinds.count(kind) > 1:
                raise ConfigError(f"{place}: tunnel: {kind!r} is named twice.")
            if kind in _THROUGH_SSH and self.ssh is None:
                raise ConfigError(
                    f"{place}: a tunnel of kind {kind!r} goes through the login node; transport = 'ssh' and a table 'ssh' are needed."
                )
        if "node" in kinds and self.ssh is not None:
            if self.ssh.personal:
                raise ConfigError(
                    f"{place}: a tunnel of kind 'node' signs in on nodes as each person, and with sign_in = {self.ssh.sign_in!r} the proxy has nothing to "
                    "do that with: take 'login', 'reverse' or 'direct'."
                )
            self.ssh.for_node("node")

    def account_of(self, name: str) -> str:
        """The cluster account of the hub's ``name``. Raises Denied for whoever has none here, or would be the hub itself by the template."""
        title = self.title or self.name
        account = account_of(self.account, self.accounts, name, title)
        if name not in self.accounts and self._is_hubs(account):
            raise Denied(
                f"The account {account} on {title} is the hub's own; the hub's admins can enter one for {name}."
            )
        return account

    def owner_of(self, account: str) -> str | None:
        """The hub's name whose account it is, if it can be anybody's."""
        name = owner_of(self.account, self.accounts, account)
        return None if name not in self.accounts and self._is_hubs(account) else name

    def _is_hubs(self, account: str) -> bool:
        """A name is easily had at some providers; whoever came by the service's would have its keys, and its rights at the scheduler."""
        by_service = self.scheduler in _BY_SERVICE and not self.scheduler_options.get("rootless")
        if self.ssh is not None:
            return self.ssh.is_service(account, lent=by_service)
        return (self.local.sudo or by_service) and account == running_account()

    @property
    def extended_by(self) -> Literal["no", "user", "service"]:
        """``extend`` in force."""
        return self.extend or ("user" if self.scheduler == "local" else "no")

    @property
    def tunnel_kinds(self) -> tuple[str, ...]:
        """The kinds in force, the preferred first."""
        if isinstance(self.tunnel, tuple):
            return self.tunnel
        return (self.tunnel or ("login" if self.transport == "ssh" else "direct"),)

    @property
    def tunnel_kind(self) -> str:
        """The kinds in force as one name, which routes carry: ``login,node``."""
        return ",".join(self.tunnel_kinds)

    @property
    def reaches_sockets(self) -> bool:
        """Whether an application may listen on a Unix socket: one on a node that a tunnel ends on, or the local queue's own machine's.

        A kind of somebody else's is believed to do what its site starts.
        """
        if any(kind in _TO_LOOPBACK or ":" in kind for kind in self.tunnel_kinds):
            return True
        own = self.transport == "local" if self.ssh is None else self.ssh.tunnel_as_user
        return self.scheduler == "local" and own

    @property
    def bind_address(self) -> Literal["127.0.0.1", "0.0.0.0"]:  # noqa: S104 - a type
        """The address in force."""
        if self.bind:
            return self.bind
        here = self.scheduler in _ON_THE_SPOT or _TO_LOOPBACK.issuperset(self.tunnel_kinds)
        return "127.0.0.1" if here else "0.0.0.0"  # noqa: S104 - nodes' networks differ


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
