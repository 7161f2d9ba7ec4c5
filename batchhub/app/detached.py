"""A proxy that outlives the hub: found again if it runs, else started in a session of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from batchhub.app.state import StateDirectory
from batchhub.core.errors import HubError

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks whether the proxy lives
_LONGEST_LOOK = 60.0
_GLANCE = 0.2


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


async def keep_detached(
    state: StateDirectory, start: Callable[[], int | None], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Start the proxy again whenever it has died, until cancelled. One that `batchhub stop` ended has left no pid behind, and stays down."""
    pause = _LOOK
    while True:
        await sleep(pause)
        if not _died(state):
            pause = _LOOK
            continue
        await sleep(_GLANCE)
        if not _died(state):
            continue  # in execve(2), of a reload, a process has no command line for a moment
        log.error("the proxy has died, and with it every open connection; it is started again")
        try:
            log.info("the proxy was started again (pid %s)", await asyncio.to_thread(start))
        except (HubError, OSError) as error:
            pause = min(2 * pause, _LONGEST_LOOK)
            log.error("the proxy cannot be started, this is tried again in %.0f seconds: %s", pause, error)  # noqa: TRY400


def _died(state: StateDirectory) -> bool:
    return state.proxy_pid.exists() and _detached(state) is None


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
    if b"proxy" not in words or f"--state-dir={state.path}".encode() not in words:
        return None  # the number belongs to somebody else by now, perhaps to another directory's proxy
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
