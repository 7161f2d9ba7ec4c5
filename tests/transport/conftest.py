"""The transports a file test runs over, and the sshd and accounts they need."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from batchhub.transport.ssh import SSHTransport
from tests.needs import need_program
from tests.sshd import Sshd, accounts

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SHELLS = ("bash", "dash", "tcsh", "fish")


@pytest.fixture
def me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="session")
def people() -> Iterator[dict[str, Path]]:
    """Accounts bht-bash, bht-dash, bht-tcsh, bht-fish, with those login shells; their homes."""
    with accounts({f"bht-{shell}": need_program(shell, shell) for shell in SHELLS}) as homes:
        yield homes


@pytest.fixture(scope="session")
def sshd(people: dict[str, Path]) -> Iterator[Sshd]:
    """An sshd they may sign in to."""
    server = Sshd(tuple(people))
    yield server
    server.close()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something another process does."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def settings_of(server: Sshd, **more: Any) -> SSHSettings:
    values: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "known_hosts": server.known_hosts,
        "client_keys": (server.client_key,),
        **more,
    }
    return SSHSettings(**values)


@asynccontextmanager
async def ssh_transport(server: Sshd, **more: Any) -> AsyncIterator[tuple[SSHTransport, SSHPool]]:
    settings = settings_of(server, **more)
    pool = SSHPool(settings, lambda: NOW, lambda: 0.0)
    transport = SSHTransport(settings, pool)
    try:
        yield transport, pool
    finally:
        await transport.close()
