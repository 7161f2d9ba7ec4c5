"""The tunnel that is none: TCP, or a Unix socket on this machine. For a hub on the cluster's own network.

A socket's path is the job's word, and the proxy may run as an account that can open more sockets than the job's owner. So what listens
there has to be the owner's own process.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint
from batchhub.core.ports import H
from batchhub.tunnel.endpoint import check_endpoint


@dataclass(frozen=True, slots=True)
class DirectSettings:
    """``connect_timeout`` in seconds."""

    connect_timeout: float = 10.0


class DirectTunnel:
    """:class:`~batchhub.core.ports.Tunnel` without an intermediary. An asyncio transport is a Stream as it is."""

    kind = "direct"

    def __init__(self, settings: DirectSettings | None = None) -> None:
        self._settings = settings or DirectSettings()
        self._connects = self._failures = 0

    async def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        """Connect. Raises TunnelError."""
        check_endpoint(endpoint)
        try:
            made = await self._connect(handler, endpoint, user)
        except TunnelError:
            self._failures += 1
            raise
        self._connects += 1
        return made

    async def _connect(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        loop = asyncio.get_running_loop()
        # asyncio calls the methods of asyncio.Protocol, which a StreamHandler has; it does not ask for the class.
        factory = cast("Callable[[], asyncio.Protocol]", handler)
        target = f"the socket {endpoint.socket}" if endpoint.socket else f"{endpoint.host} port {endpoint.port}"
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                if endpoint.socket:
                    _, made = await loop.create_unix_connection(factory, sock=await _socket_of(user, endpoint.socket))
                else:
                    _, made = await loop.create_connection(factory, endpoint.host, endpoint.port)
        except TimeoutError as error:
            raise TunnelError(f"{target} did not answer within {self._settings.connect_timeout:g} s.") from error
        except ConnectionRefusedError as error:
            raise TunnelError(f"{target} refused the connection: nothing listens there.") from error
        except socket.gaierror as error:
            raise TunnelError(f"The name {endpoint.host} cannot be resolved: {error.strerror or error}.") from error
        except OSError as error:
            words = os.strerror(error.errno) if error.errno else str(error)
            raise TunnelError(f"{target} cannot be reached: {words}.") from error
        return cast("H", made)

    def state(self) -> Mapping[str, str]:
        """Nothing is kept open."""
        return {}

    def counters(self) -> Mapping[str, int]:
        """Streams that were opened (``connects``) and not (``failures``) since the start."""
        return {"connects": self._connects, "failures": self._failures}

    async def close(self) -> None:
        """Nothing is kept open."""


async def _socket_of(user: str, path: str) -> socket.socket:
    """A connection to this socket, on which a process of the user's listens. Raises OSError, or TunnelError when it is another's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, path)
        # unix(7): for a client, the credentials of whoever called listen(2).
        _, uid, _ = struct.unpack("3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid != await asyncio.to_thread(_uid, user):
            raise TunnelError(f"What listens on the socket {path} is no process of {user}.")
    except BaseException:
        made.close()
        raise
    return made


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
