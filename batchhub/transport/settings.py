"""How a login node is reached by SSH."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field, replace
from typing import Literal

from batchhub.core.errors import ConfigError
from batchhub.transport.certificates import check_sources


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a compute node's sshd is reached through the login node, where that differs. Durations are in seconds.

    Empty values are the login node's: ``known_hosts`` (whose patterns and ``@cert-authority`` lines may name nodes), ``client_keys``,
    ``certificates``, ``username``. ``insecure`` takes any host key of a node, and warns, while the login node's stays verified.
    ``idle_seconds`` is after how long without a channel a connection is closed. ``max_nodes`` bounds the nodes that connections are
    kept to, ``max_handshakes`` the connections being made to all nodes at one time.
    """

    port: int = 22
    known_hosts: str = ""
    insecure: bool = False
    client_keys: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    username: str = ""
    keepalive_interval: float = 5.0
    keepalive_count: int = 2
    connect_timeout: float = 10.0
    idle_seconds: float = 300.0
    max_nodes: int = 2000
    max_handshakes: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"{self.port} is not a port of the nodes' sshd.")
        if self.insecure and self.known_hosts:
            raise ConfigError("The nodes have known_hosts, and insecure too; say one of them.")
        if self.username and "{username}" not in self.username:
            raise ConfigError(f"The SSH user name {self.username!r} for nodes must hold {{username}}.")
        if self.max_nodes < 1 or self.max_handshakes < 1:
            raise ConfigError("max_nodes and max_handshakes of the nodes are at least 1.")
        check_patience("the nodes", self.keepalive_interval, self.keepalive_count, self.connect_timeout)


@dataclass(frozen=True, slots=True)
class SSHSettings:
    """One login node. Durations are in seconds.

    ``known_hosts`` is a path, or the lines themselves; without it only ``insecure`` connects, to anything, and warns.
    ``username`` is the template of the SSH user for a person's account, ``service_username`` the SSH user for questions about
    everybody's jobs (empty: the name of the running process's account). With ``sudo`` every connection is the service's,
    and ``sudo -n -u`` acts as the person. ``client_keys`` and ``certificates`` are paths, in which ``{username}`` may stand; no
    keys means the running account's own ``~/.ssh/id_*``. Keys are not asked of an agent.

    ``sign_in`` says what people's own connections sign in with. ``keys``: ``client_keys``. ``managed``: a key that the hub has made for each person
    and cluster, and that they have added there. ``session``: the password that they signed in to the hub with, or the Kerberos tickets that their browser
    forwarded, as long as they are signed in, for ``pass_through_hours`` at most; ``gss_host`` is the name in the host's own ticket where that is not
    ``host``. With these two ``client_keys`` are the service's alone; ``key_sources`` are the networks that the line to add
    limits a managed key to (the hub's own). ``ca``: instead of keys, a certificate of the hub's authority for each connection, to be used within ``certificate_minutes``, from
    the networks ``certificate_sources`` (none: from anywhere; nodes are reached from the login node, so for them it is not said).

    ``max_sessions`` bounds the commands at one time on one connection, below sshd's MaxSessions (10 by default);
    ``max_handshakes`` people's connections being made at one time, beside the service's, below sshd's MaxStartups (10:30:100 by default).
    ``open_timeout`` is how long a connection may leave the request for a channel unanswered before it is given up, and a tunnel's node or
    application the one for a stream.
    ``idle_seconds`` is after how long without a channel a person's connection is closed.

    A connection is dead when nothing has come from it for ``keepalive_interval`` * (``keepalive_count`` + 1), and everything on it then ends
    with an error: 15 s unless said otherwise. An interval of 0 finds out never. Tunnels use the service's connection, or with
    ``tunnel_as_user`` the person's own. ``node`` is for tunnels that go on to the nodes' sshd.
    """

    host: str
    port: int = 22
    known_hosts: str = ""
    insecure: bool = False
    client_keys: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    username: str = "{username}"
    service_username: str = ""
    sudo: bool = False
    sudo_path: str = "sudo"
    path: str = ""
    wide_accounts: bool = False
    keepalive_interval: float = 5.0
    keepalive_count: int = 2
    connect_timeout: float = 15.0
    open_timeout: float = 10.0
    idle_seconds: float = 300.0
    max_sessions: int = 8
    max_handshakes: int = 4
    tunnel_as_user: bool = False
    sign_in: Literal["keys", "ca", "session", "managed"] = "keys"
    pass_through_hours: float = 12.0
    gss_host: str = ""
    key_sources: tuple[str, ...] = ()
    certificate_minutes: float = 5.0
    certificate_sources: tuple[str, ...] = ()
    node: NodeSettings = field(default_factory=NodeSettings)

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-"):
            raise ConfigError("A login node needs a host name.")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"{self.port} is not a port of {self.host}.")
        if not self.known_hosts and not self.insecure:
            raise ConfigError(
                f"known_hosts is needed for {self.host}: a path, or lines as `ssh-keyscan {self.host}` prints them."
            )
        if "{username}" not in self.username and not self.sudo:
            raise ConfigError(f"The SSH user name {self.username!r} for {self.host} must hold {{username}}.")
        if self.max_sessions < 1 or self.max_handshakes < 1:
            raise ConfigError(f"max_sessions and max_handshakes of {self.host} are at least 1.")
        if self.tunnel_as_user and self.sudo:
            raise ConfigError(
                f"tunnel_as_user of {self.host} needs people's own connections, and with sudo there are none."
            )
        self._check_sign_in()
        check_patience(self.host, self.keepalive_interval, self.keepalive_count, self.connect_timeout)

    def _check_sign_in(self) -> None:
        if not 1 <= self.certificate_minutes <= 60:
            raise ConfigError(
                f"certificate_minutes of {self.host} is from 1 to 60; it has to last for signing in only."
            )
        check_sources(self.certificate_sources)
        check_sources(self.key_sources, "key_sources")
        if self.key_sources and self.sign_in != "managed":
            raise ConfigError(f"key_sources of {self.host} means nothing without sign_in = 'managed'.")
        if self.gss_host and self.sign_in != "session":
            raise ConfigError(f"gss_host of {self.host} means nothing without sign_in = 'session'.")
        keys = (*self.client_keys, *self.certificates, *self.node.client_keys, *self.node.certificates)
        if self.sign_in == "ca" and keys:
            raise ConfigError(
                f"sign_in of {self.host} is 'ca', and there are client_keys or certificates too; say one of them."
            )
        if self.sign_in != "ca" and self.certificate_sources:
            raise ConfigError(f"certificate_sources of {self.host} means nothing without sign_in = 'ca'.")
        if self.personal:
            self._check_personal(keys)

    def _check_personal(self, keys: tuple[str, ...]) -> None:
        how = f"sign_in of {self.host} is {self.sign_in!r}: "
        if self.sudo:
            raise ConfigError(f"{how}with sudo nobody has a connection of their own to sign in on; say one of them.")
        if self.tunnel_as_user:
            raise ConfigError(f"{how}the proxy, which makes the tunnels, has no such secret; tunnel_as_user cannot be.")
        if any("{username}" in path for path in keys):
            raise ConfigError(f"{how}client_keys and certificates are the service's own, and hold no {{username}}.")
        if self.sign_in == "session" and self.insecure:
            raise ConfigError(
                f"{how}with insecure people's passwords would go to whoever answers; known_hosts is needed."
            )
        if not 0 < self.pass_through_hours <= 24 * 14:
            raise ConfigError(f"{how}pass_through_hours is {self.pass_through_hours:g}; up to 336 are possible.")

    @property
    def personal(self) -> bool:
        """Whether people's own connections sign in with something that is theirs."""
        return self.sign_in in {"session", "managed"}

    def identity(self, user: str | None) -> str:
        """The SSH user for an account that was checked; the empty text is the running account's name."""
        if user is None or self.sudo:
            return self.service_username
        return self.username.replace("{username}", user)

    def is_service(self, account: str, *, lent: bool) -> bool:
        """Whether acting as this account would be acting as the service, by what is the service's and nothing of the person's own.

        ``lent``: the service acts for everybody there. A hub that has keys and names no service is taken for one person's, whose account the
        process has.
        """
        if self.personal and not lent:
            return False
        alone = self.sign_in == "keys" and not self.sudo and not lent
        service = self.service_username or ("" if alone else getpass.getuser())
        whom = account if self.sudo else self.identity(account)
        return bool(service) and whom.casefold() == service.casefold()

    def for_node(self, host: str) -> SSHSettings:
        """The settings of a compute node's sshd, on which everybody is themselves. Raises ConfigError."""
        node = self.node
        return replace(
            self,
            host=host,
            port=node.port,
            known_hosts="" if node.insecure else node.known_hosts or self.known_hosts,
            insecure=node.insecure or (self.insecure and not node.known_hosts),
            client_keys=node.client_keys or self.client_keys,
            certificates=node.certificates or self.certificates,
            username=node.username or self.username,
            sudo=False,
            certificate_sources=(),
            keepalive_interval=node.keepalive_interval,
            keepalive_count=node.keepalive_count,
            connect_timeout=node.connect_timeout,
            idle_seconds=node.idle_seconds,
            max_handshakes=node.max_handshakes,
        )


def check_patience(whose: str, interval: float, count: int, connect: float) -> None:
    """Durations and counts that can work. Raises ConfigError."""
    if interval < 0 or count < 1:
        raise ConfigError(f"keepalive_interval of {whose} is 0 (off) or more, and keepalive_count at least 1.")
    if connect <= 0:
        raise ConfigError(f"connect_timeout of {whose} is more than 0 s.")
