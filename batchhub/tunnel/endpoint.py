"""What may be dialled. An endpoint comes from a file that a user's job wrote. Pure."""

from __future__ import annotations

import re

from batchhub.core.errors import TunnelError
from batchhub.core.model import Endpoint

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_ADDRESS6 = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,15})?")

SOCKET_LIMIT = 107
"""Bytes of a Unix socket's path (unix(7): sun_path is 108 with its final zero)."""


def check_endpoint(endpoint: Endpoint) -> None:
    """Whether this can be a place to connect to. Raises TunnelError.

    That the host is one of the job's nodes is for whoever knows the job.
    """
    if endpoint.socket:
        path = endpoint.socket
        if not path.startswith("/") or not path.isprintable() or len(path.encode("utf-8", "replace")) > SOCKET_LIMIT:
            raise TunnelError(f"{path[:120]!r} is not the path of a Unix socket.")
        if endpoint.host and not _host(endpoint.host):
            raise TunnelError(f"{endpoint.host[:120]!r} is not a host's name or address.")
        return
    if not _host(endpoint.host):
        raise TunnelError(f"{endpoint.host[:120]!r} is not a host's name or address.")
    if not 1 <= endpoint.port <= 65535:
        raise TunnelError(f"{endpoint.port} is not a port of {endpoint.host}.")


def _host(host: str) -> bool:
    return bool(_NAME.fullmatch(host) or (":" in host and _ADDRESS6.fullmatch(host)))
