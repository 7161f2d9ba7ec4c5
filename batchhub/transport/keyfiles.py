"""Whether the files that a table ``ssh`` names hold what they should: said at start, instead of when somebody waits for a connection."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh

from batchhub.transport.connection import read_known_hosts
from batchhub.transport.settings import SSHSettings


def unusable(settings: SSHSettings, where: str) -> Iterator[str]:
    """A sentence for each that is not, with its setting. A path with ``{username}`` in it is each person's, and not looked at."""
    for table, place in ((settings, where), (settings.node, f"{where}.node")):
        if table.known_hosts:
            yield from _read(f"{place}.known_hosts", table.known_hosts, read_known_hosts)
        for key in table.client_keys:
            yield from _read(f"{place}.client_keys", key, _private_key)
        for certificate in table.certificates:
            yield from _read(f"{place}.certificates", certificate, asyncssh.read_certificate)


def _private_key(path: str) -> None:
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & 0o007:
        raise ValueError(f"others can read or write it (mode {mode:04o}): chmod 600")
    asyncssh.read_private_key(path)


def _read(setting: str, path: str, read: Callable[[str], Any]) -> Iterator[str]:
    if "{username}" in path:
        return
    name = path if "\n" not in path and len(path) < 200 else "the lines"
    try:
        read(path)
    except OSError as error:
        yield f"{setting}: {name} cannot be read: {error.strerror or error}."
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        yield f"{setting}: {name} cannot be used: {error}."
