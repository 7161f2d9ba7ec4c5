"""Listening sockets: bound once, handed to worker processes and kept over a reload; and how many files a process may open."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchhub.core.errors import ConfigError
from batchhub.proxy.settings import ProxySettings

BACKLOG = 1024
TRAFFIC = ("public", "redirect", "dial_in")
"""The purposes whose sockets are the workers'."""
RESERVED_FILES = 128
"""Files of a worker that are no connections: its sockets, logs, SSH connections, the clients that are told to come again."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a Unix socket, or a host (empty: every address) and a port (0: any that is free)."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        return str(self.path or f"{self.host or '*'}:{self.port}")


def addresses(settings: ProxySettings) -> Mapping[str, Address]:
    """What the settings ask for, by purpose. The control API is first: a second proxy fails on it before it takes a client."""
    found = {
        "api": Address(settings.api_host, settings.api_port, settings.api_socket),
        "public": Address(settings.public_host, settings.public_port, settings.public_socket),
    }
    if settings.redirect is not None:
        found["redirect"] = Address(settings.public_host, settings.redirect.port)
    if settings.dial_in is not None:
        found["dial_in"] = Address(*settings.dial_in)
    if settings.metrics is not None:
        found["metrics"] = Address(settings.metrics.host, settings.metrics.port, settings.metrics.socket)
    return found


class Listeners:
    """The sockets by purpose."""

    def __init__(self) -> None:
        self._sockets: dict[str, tuple[Address, list[socket.socket]]] = {}

    def open(self, wanted: Mapping[str, Address]) -> None:
        """Listen where it is wanted, and no longer anywhere else. What is open already stays as it is.

        Raises ConfigError if that cannot be; then what was bound here is closed again.
        """
        fresh: dict[str, tuple[Address, list[socket.socket]]] = {}
        for purpose, address in wanted.items():
            known = self._sockets.get(purpose)
            if known is not None and known[0] == address:
                continue
            try:
                fresh[purpose] = address, _bind(address)
            except OSError as error:
                for _, sockets in fresh.values():
                    _close(sockets)
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ConfigError(f"The proxy cannot listen on {address}: {reason}.") from error
        for purpose in list(self._sockets):
            if purpose not in wanted or purpose in fresh:
                _close(self._sockets.pop(purpose)[1])
        self._sockets.update(fresh)

    def __getitem__(self, purpose: str) -> Sequence[socket.socket]:
        """The sockets for one purpose; none if it is not wanted."""
        return self._sockets.get(purpose, (None, ()))[1]

    def port(self, purpose: str) -> int:
        """The port, once it is known; 0 for a Unix socket."""
        name = self[purpose][0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def shown(self, purpose: str) -> str:
        """Where that is, for people."""
        known = self._sockets.get(purpose)
        if known is None:
            return "nothing"
        return str(replace(known[0], port=self.port(purpose)))

    def files(self, *purposes: str) -> list[int]:
        """The sockets' descriptors."""
        return [each.fileno() for purpose in purposes for each in self[purpose]]

    def copies(self, purpose: str) -> list[socket.socket]:
        """The same sockets under descriptors of their own, for somebody who will close them."""
        return [each.dup() for each in self[purpose]]

    def write(self) -> dict[str, object]:
        """As JSON, for a process that inherits the descriptors."""
        return {
            purpose: {
                "host": address.host,
                "port": address.port,
                "path": str(address.path or ""),
                "files": [each.fileno() for each in sockets],
            }
            for purpose, (address, sockets) in self._sockets.items()
        }

    def read(self, content: Mapping[str, Mapping[str, object]]) -> None:
        """Take over what another process wrote."""
        for purpose, entry in content.items():
            files = entry["files"]
            if not isinstance(files, list):
                raise TypeError("files")
            path = str(entry["path"])
            address = Address(str(entry["host"]), int(str(entry["port"])), Path(path) if path else None)
            self._sockets[purpose] = address, inherited(files)

    def inherit(self, *, wanted: bool) -> None:
        """Whether a program that this process becomes gets the sockets."""
        for _, sockets in self._sockets.values():
            for each in sockets:
                each.set_inheritable(wanted)

    def close(self) -> None:
        """Listen no more."""
        for address, sockets in self._sockets.values():
            _close(sockets)
            if address.path is not None:
                address.path.unlink(missing_ok=True)
        self._sockets.clear()


def inherited(files: Sequence[int]) -> list[socket.socket]:
    """Sockets from descriptors that were left to this process; nobody else inherits them."""
    found = [socket.socket(fileno=number) for number in files]
    for each in found:
        each.set_inheritable(False)
        each.setblocking(False)
    return found


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _bind(address: Address) -> list[socket.socket]:
    if address.path is not None:
        return [_bind_unix(address.path)]
    found: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            each = socket.socket(family, kind, protocol)
            found.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                each.bind((where[0], port, *where[2:]))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET6 and len(found) > 1:
                    found.pop().close()  # a name with an IPv6 address on a machine without IPv6
                    continue
                raise
            port = port or int(each.getsockname()[1])
            each.listen(BACKLOG)
            each.setblocking(False)
    except OSError:
        _close(found)
        raise
    return found


def _bind_unix(path: Path) -> socket.socket:
    """As the umask says, everybody may connect. A socket that a former process left is replaced; a file of another kind is not."""
    if path.exists() or path.is_symlink():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


# ---------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class Room:
    """How many clients a process has room for: ``files`` it may open, ``connections`` that the limits allow."""

    files: int
    connections: int

    @property
    def clients(self) -> int:
        """Each client may need a second connection, to its application."""
        return max(1, min(self.connections, (self.files - RESERVED_FILES) // 2))

    @property
    def wanted_files(self) -> int:
        """What would be enough."""
        return 2 * self.connections + RESERVED_FILES

    @property
    def short(self) -> bool:
        """Whether the files are what is missing."""
        return self.clients < self.connections


def raise_file_limit() -> int:
    """Allow this process, and those it starts, as many files as the system does; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft == hard:
        return soft
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
