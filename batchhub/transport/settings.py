"""How a login node is reached by SSH."""

from __future__ import annotations

from dataclasses import dataclass

from batchhub.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SSHSettings:
    """One login node. Durations are in seconds.

    ``known_hosts`` is a path, or the lines themselves; without it only ``insecure`` connects, to anything, and warns.
    ``username`` is the template of the SSH user for a person's account, ``service_username`` the SSH user for questions about
    everybody's jobs (empty: the name of the running process's account). With ``sudo`` every connection is the service's,
    and ``sudo -n -u`` acts as the person. ``client_keys`` and ``certificates`` are paths, in which ``{username}`` may stand; no
    keys means the running account's own ``~/.ssh/id_*``. Keys are not asked of an agent.

    ``max_sessions`` bounds the commands at one time on one connection, below sshd's MaxSessions (10 by default);
    ``max_handshakes`` the connections being made at one time, below sshd's MaxStartups (10:30:100 by default).
    ``open_timeout`` is how long a connection may leave the request for a channel unanswered before it is given up.
    ``idle_seconds`` is after how long without a channel a person's connection is closed.
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
    keepalive_interval: float = 15.0
    keepalive_count: int = 3
    connect_timeout: float = 15.0
    open_timeout: float = 10.0
    idle_seconds: float = 300.0
    max_sessions: int = 8
    max_handshakes: int = 4

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

    def identity(self, user: str | None) -> str:
        """The SSH user for an account that was checked; the empty text is the running account's name."""
        if user is None or self.sudo:
            return self.service_username
        return self.username.replace("{username}", user)
