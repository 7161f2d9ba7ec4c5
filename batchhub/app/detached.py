"""A proxy that outlives the hub: found again if it runs, else started in a session of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from batchhub.app.state import StateDirectory
from batchhub.core.errors import HubError

log = logging.getLogger(__name__)


class ProxyStartError(HubError):
    """The detached proxy did not come up; the sentence holds the end of its log."""


def start_detached(
    state: StateDirectory, arguments: Sequence[str], answers: Callable[[], bool], patience: float = 15.0
) -> int | None:
    """Start ``batchhub proxy`` if none answers; its pid, or ``None`` if one was there already.

    The control API's token reaches it through the shared state directory. Raises ProxyStartError.
    """
    if answers():
        return None
    # The directory is named so that a token in the environment is not taken for stand-alone mode.
    command = [sys.executable, "-m", "batchhub", "proxy", f"--state-dir={state.path}", *arguments]
    with state.proxy_log.open("ab") as output:
        os.fchmod(output.fileno(), 0o600)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ProxyStartError(f"The proxy ended at once:\n{_end_of(state.proxy_log)}")
        if answers():
            state.proxy_pid.write_text(f"{process.pid}\n")
            return process.pid
        time.sleep(0.05)
    process.terminate()
    raise ProxyStartError(f"The proxy did not answer within {patience:.0f} seconds:\n{_end_of(state.proxy_log)}")


def stop_detached(state: StateDirectory) -> int | None:
    """End the proxy that a hub started; its pid, or ``None`` if there is none."""
    pid = _detached(state)
    state.proxy_pid.unlink(missing_ok=True)
    return _signal(pid, signal.SIGTERM)


def reload_detached(state: StateDirectory) -> int | None:
    """Have it become the program that is installed now (:mod:`batchhub.proxy.supervisor`); its pid, or ``None`` if there is none."""
    return _signal(_detached(state), signal.SIGUSR2)


def _detached(state: StateDirectory) -> int | None:
    try:
        pid = int(state.proxy_pid.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    if b"proxy" not in words or not any(b"batchhub" in word for word in words):
        return None  # the number belongs to somebody else by now
    return pid


def _signal(pid: int | None, number: signal.Signals) -> int | None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return pid


def await_end(pid: int, patience: float = 10.0) -> None:
    """Until a proxy this process started is gone: it saves its routes last of all."""
    deadline = time.monotonic() + patience
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)


def _end_of(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-8:])
    except OSError:
        return "(it wrote no log)"
