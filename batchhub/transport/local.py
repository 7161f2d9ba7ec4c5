"""A transport for a hub that runs on the login node itself: commands as oneself, or as the user by sudo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from batchhub.core.errors import Denied, Unreachable
from batchhub.core.ports import Command
from batchhub.transport.answer import BANNER_LIMIT, Answer, Bounded, read_answer
from batchhub.transport.files import CommandTransport
from batchhub.transport.shell import check_account, encode, script, sudo

_GRACE = 1.0
"""Seconds between TERM and KILL at the deadline, and for output that is still open when the command has ended."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Whom to act as, and how.

    ``sudo``: act as users by ``sudo -n -u``. ``path``: directories put in front of PATH. ``wide_accounts``: let upper case and
    ``@`` pass in account names.
    """

    sudo: bool = False
    sudo_path: str = "/usr/bin/sudo"
    path: str = ""
    wide_accounts: bool = False


class LocalTransport(CommandTransport):
    """:class:`~batchhub.core.ports.Transport` on this machine."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._self = running_account()
        self._place = socket.gethostname()
        super().__init__(self._place)
        self._running: set[asyncio.SubprocessTransport] = set()

    async def close(self) -> None:
        """Kill what still runs."""
        for process in list(self._running):
            _signal(process.get_pid(), signal.SIGKILL)

    async def _execute(self, command: Command, data: bytes, user: str | None) -> Answer:
        fence = f"batchhub-{secrets.token_hex(16)}"
        text = script(command, fence, command.deadline, self._settings.path)
        argv = self._argv(text, user)
        capture = _Capture(command.output_limit + BANNER_LIMIT)
        try:
            transport = await _start(capture, argv)
        except OSError as error:
            raise Unreachable(f"{argv[0]} cannot be run on {self._place}: {error.strerror or error}.") from error
        self._running.add(transport)
        try:
            timed_out = await self._wait(transport, capture, data, command.deadline)
        finally:
            self._running.discard(transport)
            if transport.get_returncode() is None:
                _signal(transport.get_pid(), signal.SIGKILL)
            transport.close()
        code = transport.get_returncode()
        raw = Answer(
            code=None if timed_out or code is None or code < 0 else code,
            out=capture.out.value(),
            err=capture.err.value(),
            timed_out=timed_out,
            truncated=capture.out.more or capture.err.more,
        )
        return read_answer(raw, fence, command.output_limit, f"{user or self._self} on {self._place}")

    def _argv(self, text: str, user: str | None) -> tuple[str, ...]:
        if user is None or user == self._self:
            return ("/bin/sh", "-c", text)
        if not self._settings.sudo:
            raise Denied(f"Commands on {self._place} are run as {self._self} only, not as {user[:64]!r}.")
        return sudo(check_account(user, self._settings.wide_accounts), text, self._settings.sudo_path)

    @staticmethod
    async def _wait(process: asyncio.SubprocessTransport, capture: _Capture, data: bytes, deadline: float) -> bool:
        """Feed it and wait; whether the deadline came first."""
        stdin = cast("asyncio.WriteTransport", process.get_pipe_transport(0))
        stdin.write(data)
        stdin.write_eof()
        await asyncio.wait({capture.exited}, timeout=deadline)
        timed_out = not capture.exited.done()
        if timed_out:
            # TERM first: sudo passes it on to a command that is in another process group, but it cannot pass KILL on.
            _signal(process.get_pid(), signal.SIGTERM)
            await asyncio.wait({capture.exited}, timeout=_GRACE)
            _signal(process.get_pid(), signal.SIGKILL)
        # A child left in the background may hold the outputs open for ever; the command has ended all the same.
        await asyncio.wait({capture.closed}, timeout=_GRACE)
        return timed_out


class _Capture(asyncio.SubprocessProtocol):
    """Collects what a process says, within bounds."""

    def __init__(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.out, self.err = Bounded(limit), Bounded(limit)
        self.exited: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        (self.out if fd == 1 else self.err).add(data)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.closed.done():
            self.closed.set_result(None)


def running_account() -> str:
    """The name of the account that runs this."""
    return pwd.getpwuid(os.geteuid()).pw_name


async def _start(capture: _Capture, argv: Sequence[str]) -> asyncio.SubprocessTransport:
    """Start it in a session of its own, which makes a process group that can be killed as one. Raises OSError."""
    words = (encode(part) for part in argv)
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(lambda: capture, *words, start_new_session=True)
    )
    try:
        transport, _ = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio itself would kill the first process alone, and then wait for as long as any of its children holds the pipes.
        starting.add_done_callback(_discard)
        await asyncio.wait({starting})
        raise
    return transport


def _discard(starting: asyncio.Future[tuple[asyncio.SubprocessTransport, _Capture]]) -> None:
    """Nobody wants what was started."""
    if not starting.cancelled() and starting.exception() is None:
        transport, _ = starting.result()
        _signal(transport.get_pid(), signal.SIGKILL)
        transport.close()


def _signal(pid: int, number: signal.Signals) -> None:
    """To the process group. One that is gone is right; one of sudo's that we may not signal ends by its own ``timeout``."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
