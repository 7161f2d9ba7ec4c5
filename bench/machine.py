"""The machine under the benchmark: processes pinned to a core, what they use, and under what conditions.

Everything is read from ``/proc`` (proc(5)), so this is for Linux.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
HERTZ = os.sysconf("SC_CLK_TCK")


class Unfit(Exception):
    """A figure that must not be reported: something failed while it was taken."""


# ---------------------------------------------------------------- cores and processes


def two_cores() -> tuple[int, int] | None:
    """The proxy's core and the load's; None on a machine with one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else None


def program(name: str) -> str | None:
    """A program's path; daemons stand in /usr/sbin, which few people have in their PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def raise_file_limit() -> int:
    """As many open files as we may have, and our children with us; the limit now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    if wanted < 65536 and os.geteuid() == 0:
        wanted = 65536
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, with this checkout importable, and without a proxy of the machine's between the parts."""
    own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**own, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(more or {})}


def pin(core: int, *, patient: bool = False) -> Callable[[], None]:
    """What a child does before its program starts.

    ``patient``: it does not interrupt its neighbours on the core when it could go on (SCHED_BATCH, sched(7)). Load and application share one, and
    would otherwise take turns at every message; the proxy would wait for them, by chance more or less.
    """

    def before() -> None:
        os.sched_setaffinity(0, {core})
        if patient:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    return before


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    core: int,
    ports: Sequence[int],
    more: Mapping[str, str] | None = None,
    *,
    wait: float = 20.0,
    patient: bool = False,
) -> Iterator[int]:
    """A process on this core, from when it listens on these loopback ports; its id. Raises Unfit when it does not, or ends too early."""
    process = subprocess.Popen(
        argv,
        env=environment(more),
        stdout=subprocess.DEVNULL,
        preexec_fn=pin(core, patient=patient),  # noqa: PLW1509 - one thread
    )
    try:
        for port in ports:
            _await_port(process, port, wait)
        yield process.pid
        if process.poll() is not None:
            raise Unfit(f"{argv[0]} ended in the middle of a measurement, with status {process.returncode}.")
    finally:
        _end(process)


def _await_port(process: subprocess.Popen[bytes], port: int, wait: float) -> None:
    ends = time.monotonic() + wait
    while True:
        if process.poll() is not None:
            raise Unfit(f"{process.args!r} did not start: status {process.returncode}.")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > ends:
                raise Unfit(f"{process.args!r} does not listen on port {port}.") from None
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family[1:]:  # children that outlived their parent
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------- what they use


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:  # grows while it is walked
        found.extend(parents.get(one, ()))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu(pid: int) -> float:
    """Seconds of processor time that a process and all below it have used."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            total += sum(map(int, _stat(one)[11:13]))
    return total / HERTZ


def memory(pid: int) -> int:
    """Bytes of a process and all below it; a page that n of them share counts 1/n in each (PSS)."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += sum(1024 * int(size) for size in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
    return total


def all_busy() -> float:
    """Seconds that the cores together have spent in programs, or were taken away by the machine's host; without interrupts."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[i]) for i in (0, 1, 2, 7)) / HERTZ


def own_busy() -> float:
    """Of these, the seconds of this program and all it has started, whether they live or not."""
    ended = sum(map(int, _stat(os.getpid())[13:15])) / HERTZ
    return cpu(os.getpid()) + ended


@dataclass(slots=True)
class Meter:
    """What processes used while the block ran: ``cpu`` seconds of these, and ``others``, how many cores' worth of work was not ours."""

    pids: Sequence[int]
    seconds: float = 0.0
    cpu: float = 0.0
    others: float = 0.0

    def __enter__(self) -> Self:
        self._read(-1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read(1.0)
        self.others = max(0.0, self.others / self.seconds)

    def _read(self, sign: float) -> None:
        self.seconds += sign * time.monotonic()
        self.cpu += sign * sum(map(cpu, self.pids))
        self.others += sign * (all_busy() - own_busy())


# ---------------------------------------------------------------- conditions


def said(argv: Sequence[str], pattern: str) -> str:
    """What a program says of its version."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else ""


def installed(*names: str) -> dict[str, str]:
    """Versions of Python distributions."""
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def conditions() -> dict[str, object]:
    """Where and when: what every report begins with."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251 - a program of its own
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count() or 1,
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **installed("uvloop", "asyncssh", "tornado")},
    }


PYTHON = sys.executable
