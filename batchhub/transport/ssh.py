"""A transport over pooled SSH connections."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from batchhub.core.ports import Command, Completed
from batchhub.transport.answer import BANNER_LIMIT, Answer, read_answer
from batchhub.transport.files import Files
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from batchhub.transport.shell import check_account, encode, line, script, sudo_script

__all__ = ["SSHPool", "SSHSettings", "SSHTransport"]


class SSHTransport:
    """:class:`~batchhub.core.ports.Transport` on a login node. The pool may be shared with tunnels."""

    def __init__(self, settings: SSHSettings, pool: SSHPool) -> None:
        self._settings = settings
        self._pool = pool
        self._files = Files(self._execute, settings.host)

    async def run(self, command: Command, user: str | None = None) -> Completed:
        """Run to the end or the deadline, which covers waiting for the connection. Raises Unreachable."""
        done = await self._execute(command, encode(command.stdin), user)
        return done.completed()

    async def home(self, user: str) -> str:
        """The account's home directory. Raises NotFound where sudo says there is no such account."""
        return await self._files.home(user)

    async def make_directory(self, path: str, user: str) -> None:
        """Make it and its missing parents, each 0700."""
        await self._files.make_directory(path, user)

    async def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> None:
        """Write a file in one step."""
        await self._files.put(path, data, user, mode)

    async def get(self, path: str, user: str, limit: int = 65536) -> bytes:
        """The first ``limit`` bytes. Raises FileMissing."""
        return await self._files.get(path, user, limit)

    async def tail(self, path: str, user: str, limit: int = 8192) -> bytes:
        """The last ``limit`` bytes. Raises FileMissing."""
        return await self._files.tail(path, user, limit)

    def state(self) -> Mapping[str, str]:
        """The pool's connections; no secret."""
        return self._pool.state()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._pool.close()

    async def _execute(self, command: Command, data: bytes, user: str | None) -> Answer:
        settings = self._settings
        fence = f"batchhub-{secrets.token_hex(16)}"
        if user is not None:
            check_account(user, settings.wide_accounts)

        def text(left: float) -> str:
            inner = script(command, fence, left, settings.path)
            if user is not None and settings.sudo:
                inner = sudo_script(user, inner, settings.sudo_path)
            return line(inner)

        limit = command.output_limit + BANNER_LIMIT
        raw = await self._pool.execute(user, text, data, limit, command.deadline)
        who = user or settings.service_username or "the service's user"
        return read_answer(raw, fence, command.output_limit, f"{who} on {settings.host}")
