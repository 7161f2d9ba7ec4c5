"""A transport over pooled SSH connections."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from batchhub.core.ports import Command
from batchhub.transport.answer import BANNER_LIMIT, Answer, read_answer
from batchhub.transport.files import CommandTransport
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from batchhub.transport.shell import check_account, line, script, sudo_script

__all__ = ["SSHPool", "SSHSettings", "SSHTransport"]


class SSHTransport(CommandTransport):
    """:class:`~batchhub.core.ports.Transport` on a login node. The pool may be shared with tunnels."""

    def __init__(self, settings: SSHSettings, pool: SSHPool) -> None:
        self._settings = settings
        self._pool = pool
        super().__init__(settings.host)

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
