"""A job's supervisor: waits for the job's turn, runs it, ends it at its time limit, records how it ended, leaves nothing running."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from batchhub.localqueue.spool import Spool, lock_is_held, read_json, write_json

LOOK = 0.1
"""Seconds between two looks for free slots; only the first in line looks."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Cancelled(BaseException):
    """SIGTERM while waiting in line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, as submit read it. ``walltime`` is in seconds, ``slots`` the machine's.

    ``grace`` is in seconds, between SIGTERM and SIGKILL.
    """

    number: int
    nprocs: int
    walltime: float | None
    slots: int
    cwd: str
    output: str
    interpreter: tuple[str, ...]
    grace: float = 10.0


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names a process for ever (proc(5), field 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def parent_of(pid: int) -> int | None:
    """The parent process (proc(5), field 4)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])


def interpreter_of(script: bytes) -> tuple[str, ...]:
    """The program of a script's first line; /bin/sh without one."""
    first = script.split(b"\n", 1)[0].decode("utf-8", "replace")
    words = tuple(shlex.split(first[2:])) if first.startswith("#!") else ()
    return words or ("/bin/sh",)


class Supervisor:
    """Looks after one job, in a process of its own. ``waiting`` is the descriptor of the lock to let go when the job begins."""

    def __init__(self, spool: Spool, plan: Plan, waiting: int) -> None:
        self.spool, self.plan, self.waiting = spool, plan, waiting
        self.directory = spool.directory(plan.number)
        self.child: subprocess.Popen[bytes] | None = None
        self.cancelled = False
        self.timed_out = False
        self.libc: Any = ctypes.CDLL(None)

    def register(self) -> None:
        """Say who we are; from here on the job can be cancelled."""
        signal.signal(signal.SIGTERM, self._on_term)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        pid = os.getpid()
        write_json(self.directory / "supervisor.json", {"pid": pid, "ticks": start_ticks(pid)})

    def run(self) -> None:
        """Wait, run, record."""
        # A process that its parent left behind becomes ours, and does not outlive the job.
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._wait_for_turn()
            if self.cancelled:
                raise Cancelled
        except Cancelled:
            self._end("cancelled", reason="cancelled while it waited")
            return
        try:
            self._begin()
        except OSError as error:
            self._end("failed", code=127, reason=f"{error.filename}: {error.strerror}")
            return
        self._watch()

    def _on_term(self, _number: int, _frame: object) -> None:
        self.cancelled = True
        if self.child is None:
            raise Cancelled

    # ------------------------------------------------------------ waiting

    def _wait_for_turn(self) -> None:
        """First come, first served: sleep on the lock of the job before ours, then look for slots."""
        while (before := self._last_waiting_before()) is not None:
            with contextlib.suppress(OSError):
                fd = os.open(self.spool.directory(before) / "waiting", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH)
                finally:
                    os.close(fd)
        over: set[int] = set()
        while self._used(over) + self.plan.nprocs > self.plan.slots:
            time.sleep(LOOK)

    def _last_waiting_before(self) -> int | None:
        for number in reversed([n for n in self.spool.numbers() if n < self.plan.number]):
            if lock_is_held(self.spool.directory(number) / "waiting"):
                return number
        return None

    def _used(self, over: set[int]) -> int:
        """Slots of the running jobs; ``over`` collects those that need no second look."""
        used = 0
        for number in self.spool.numbers():
            if number >= self.plan.number or number in over:
                continue
            entry = self.spool.entry(number)
            if entry is None or entry.over:
                over.add(number)
            elif entry.state == "running":
                used += max(1, entry.nprocs)
        return used

    # ------------------------------------------------------------ running

    def _begin(self) -> None:
        started = time.time()  # noqa: TID251 -- a program of its own: this is its clock
        environment = {**os.environ, "LOCALQUEUE_JOB_ID": self.spool.id(self.plan.number)}
        environment["LOCALQUEUE_NPROCS"] = str(self.plan.nprocs)
        output = os.open(self.plan.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.child = subprocess.Popen(
                [*self.plan.interpreter, str(self.directory / "script")],
                cwd=self.plan.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._prepare,  # noqa: PLW1509 -- this process has one thread
            )
        finally:
            os.close(output)
        child = self.child.pid
        write_json(self.directory / "run.json", {"started": started, "pid": child, "ticks": start_ticks(child)})
        os.close(self.waiting)
        if self.cancelled:
            self._signal(signal.SIGTERM)

    def _prepare(self) -> None:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    def _signal(self, number: int) -> None:
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)

    def _watch(self) -> None:
        """Wait for the end; SIGTERM when cancelled or out of time, SIGKILL after a grace."""
        assert self.child is not None
        # Blocked from here on, so that none is missed between looking and waiting; sigtimedwait takes them.
        wanted = {signal.SIGCHLD, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        began = time.monotonic()
        limit = self._limit(began)
        kill_at: float | None = None
        while self.child.poll() is None:
            now = time.monotonic()
            if kill_at is None:
                if limit is not None and now >= limit:
                    limit = self._limit(began)  # it may have been given more time
                self.timed_out = limit is not None and now >= limit and not self.cancelled
                if self.cancelled or self.timed_out:
                    self._signal(signal.SIGTERM)
                    self._signal(signal.SIGCONT)
                    kill_at = now + self.plan.grace
            elif now >= kill_at:
                self._kill_all()
                kill_at = now + self.plan.grace
            due = kill_at if kill_at is not None else limit
            came = signal.sigtimedwait(wanted, 3600.0 if due is None else max(0.0, due - now))
            self.cancelled = self.cancelled or (came is not None and came.si_signo == signal.SIGTERM)
        self._kill_all()
        self._record(self.child.returncode)

    def _limit(self, began: float) -> float | None:
        """When its time is up, by the monotonic clock, with what it has been given since."""
        walltime = self.spool.limit(self.plan.number, self.plan.walltime)
        return None if walltime is None else began + walltime

    def _kill_all(self) -> None:
        """SIGKILL for everything that descends from us; what was orphaned has become our child."""
        self._signal(signal.SIGKILL)
        for _ in range(100):
            left = descendants(os.getpid())
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                for pid in left:
                    if self.child is None or pid != self.child.pid:
                        with contextlib.suppress(ChildProcessError):
                            os.waitpid(pid, os.WNOHANG)
            if self.child is not None:
                self.child.poll()
            time.sleep(0.01)

    # ------------------------------------------------------------ the end

    def _record(self, status: int) -> None:
        code, number = (status, None) if status >= 0 else (None, -status)
        if self.timed_out:
            limit = self.spool.limit(self.plan.number, self.plan.walltime)
            self._end("timeout", code, number, f"it reached its time limit of {limit:g} seconds")
        elif self.cancelled:
            self._end("cancelled", code, number, "cancelled while it ran")
        else:
            self._end("completed" if status == 0 else "failed", code, number)

    def _end(self, state: str, code: int | None = None, number: int | None = None, reason: str = "") -> None:
        ended = time.time()  # noqa: TID251
        write_json(
            self.directory / "end.json",
            {"state": state, "code": code, "signal": number, "ended": ended, "reason": reason},
        )


def descendants(root: int) -> list[int]:
    """The processes below ``root``."""
    parents = {int(name): parent_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
    found: list[int] = []
    level = {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level and pid not in found}
        found.extend(level)
    return found


def detach(supervisor: Supervisor, keep: set[int]) -> None:
    """Go on as the supervisor in a process of its own; returns in the caller once the job can be cancelled."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        _supervise(supervisor, tell, keep)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)


def _supervise(supervisor: Supervisor, tell: int, keep: set[int]) -> NoReturn:
    """In the child: leave the session, hold nothing of the caller's open, look after the job."""
    code = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            fd = int(name)
            if fd > 2 and fd not in keep | {tell}:
                with contextlib.suppress(OSError):
                    os.close(fd)
        os.chdir("/")
        os.umask(0o077)
        supervisor.register()
        os.write(tell, b"1")
        os.close(tell)
        supervisor.run()
        code = 0
    finally:
        os._exit(code)


def cancel(spool: Spool, number: int) -> bool:
    """Tell a job's supervisor to end it; ``False`` if nothing was there to end. Raises PermissionError."""
    directory = spool.directory(number)
    for name in ("supervisor.json", "run.json"):  # the job itself is left only where the supervisor was killed
        found = read_json(directory / name) or {}
        pid, ticks = found.get("pid"), found.get("ticks")
        if not isinstance(pid, int) or pid <= 1 or ticks is None or start_ticks(pid) != ticks:
            continue
        if os.geteuid() == 0 and directory.lstat().st_uid != Path(f"/proc/{pid}").stat().st_uid:
            continue  # root does not signal a process on the word of somebody who does not own it
        with contextlib.suppress(ProcessLookupError):
            if name == "run.json":
                os.killpg(pid, signal.SIGTERM)
            else:
                os.kill(pid, signal.SIGTERM)
            return True
    return False
