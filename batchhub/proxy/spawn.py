"""Worker processes as the supervisor starts and buries them. Light to import: the first are started before all else is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

WORKER = "BATCHHUB_PROXY_WORKER"
"""In a worker's environment: the descriptor of its end of the link."""
TAKEOVER = "BATCHHUB_PROXY_TAKEOVER"
"""In the environment of a supervisor that replaced itself: the descriptor of what it left to itself."""
CHECK = "BATCHHUB_PROXY_CHECK"
"""In the environment of a process that shall only say whether it could start."""
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def supervising() -> bool:
    """Whether this is the supervisor, and no worker or trial: what there is once is this process' business."""
    return WORKER not in os.environ and CHECK not in os.environ


@contextmanager
def held_signals() -> Iterator[None]:
    """Signals wait meanwhile; a process started here holds them until it is ready for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """A worker process."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._popen = popen
        self._code: int | None = None

    def ended(self) -> int | None:
        """Its exit status, negative for a signal; ``None`` while it lives."""
        if self._code is not None:
            return self._code
        if self._popen is not None:
            self._code = self._popen.poll()
            return self._code
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self._code = 0
        else:
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """The same, when it has come to that."""
        while (code := self.ended()) is None:
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.ended() is None:
            os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts workers: this very program with the same arguments, so that they read the same configuration."""

    command: tuple[str, ...]

    def start(self, files: Sequence[int]) -> tuple[Child, socket.socket]:
        """A worker that inherits these descriptors, and our end of the link to it."""
        ours, theirs = socket.socketpair()
        environment = {**os.environ, WORKER: str(theirs.fileno())}
        with theirs, held_signals():
            popen = subprocess.Popen(
                self.command, env=environment, pass_fds=(theirs.fileno(), *files), stdin=subprocess.DEVNULL
            )
        ours.setblocking(False)
        return Child(popen.pid, popen), ours
