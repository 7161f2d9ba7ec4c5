"""The tunnel that is none: TCP, or a Unix socket on this machine. For a hub on the cluster's own network."""

from __future__ import annotations

import asyncio
import os
import socket
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

    async def open(self, handler: Callable[[], H], endpoint: Endpoint, user: str) -> H:
        """Connect. Raises TunnelError."""
        del user
        check_endpoint(endpoint)
        loop = asyncio.get_running_loop()
        # asyncio calls the methods of asyncio.Protocol, which a StreamHandler has; it does not ask for the class.
        factory = cast("Callable[[], asyncio.Protocol]", handler)
        target = f"the socket {endpoint.socket}" if endpoint.socket else f"{endpoint.host} port {endpoint.port}"
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                if endpoint.socket:
                    _, made = await loop.create_unix_connection(factory, endpoint.socket)
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

    async def close(self) -> None:
        """Nothing is kept open."""
