"""A real OpenSSH sshd on loopback, with its own host key, and its own user keys for accounts of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncssh
import psutil

from tests.needs import need_program, need_root
from tests.ports import free_port


class Sshd:
    """Runs from construction to :meth:`close`. ``accounts`` may sign in with ``client_key``; ``extra`` are more lines of its configuration."""

    host = "127.0.0.1"

    def __init__(self, accounts: Sequence[str] = (), extra: Sequence[str] = (), pam: str = "") -> None:
        """``pam``: the lines of a PAM service of its own, by which passwords and codes are checked."""
        program = need_program("sshd", "openssh-server")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.me = pwd.getpwuid(os.geteuid()).pw_name
        self.directory = Path(tempfile.mkdtemp(prefix="batchhub-sshd-"))
        self.directory.chmod(0o755)  # sshd reads authorized keys as the account
        self.port = free_port()
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.client_key = str(self.directory / "client_key")
        self._write("client_key", key.export_private_key().decode(), 0o600)
        self.new_host_key()
        self.public = key.export_public_key().decode()
        (self.directory / "keys").mkdir(mode=0o755)
        for name in {self.me, *accounts}:
            self.allow(name)
        ours = (
            ("UsePAM yes", *(["PAMServiceName " + self.directory.name] if _names_service(program) else ()))
            if pam
            else ()
        )
        self._write("config", self._config((*ours, *extra)), 0o644)
        self.log: list[str] = []
        self._service = Path("/etc/pam.d") / self.directory.name if pam else None
        if self._service is not None:
            need_root()
            self._service.write_text(pam)
            if not _names_service(program):
                # Before OpenSSH 9.8 the service has the name by which sshd was started.
                link = self.directory / self.directory.name
                link.symlink_to(program)
                program = str(link)
        self._program = program
        self._start()

    def new_host_key(self) -> None:
        """Another one, from the next start on."""
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._write("host_key", host_key.export_private_key().decode(), 0o600)
        self.host_public = host_key.export_public_key().decode().strip()
        self.known_hosts = f"[{self.host}]:{self.port} {self.host_public}\n"

    def allow(self, account: str) -> None:
        """Let an account sign in with ``client_key``."""
        self._write(f"keys/{account}", self.public, 0o644)

    def forbid(self, account: str) -> None:
        """No longer."""
        (self.directory / "keys" / account).unlink()

    def sessions(self) -> list[psutil.Process]:
        """sshd's children, one for each connection."""
        return _children(self._process.pid)

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Meanwhile no connection of now answers anything, though all stay open; new ones are served."""
        processes = [process for each in self.sessions() for process in (each, *_children(each.pid))]
        stopped = [process for process in processes if _is_sshd(process)]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                process.resume()

    def cut(self) -> None:
        """Kill every connection, as a reboot of the login node would."""
        _kill_sshds(_below(self._process.pid))

    def stop(self) -> None:
        """Stop listening; connections live on."""
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(0.1)

    def power_off(self) -> None:
        """Stop listening, and kill every connection."""
        connections = self.sessions()
        self.stop()
        _kill_sshds([process for child in connections for process in (*_below(child.pid), child)])

    def restart(self) -> None:
        """Listen on the same port again."""
        self._start()

    def close(self) -> None:
        """End it and its connections."""
        if self._process.poll() is None:
            self.cut()
            self.stop()
        if self._service is not None:
            self._service.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        config = str(self.directory / "config")
        ready = threading.Event()
        self._process = subprocess.Popen(
            [self._program, "-D", "-e", "-f", config], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, args=(self._process, ready), daemon=True)
        self._reader.start()
        if not ready.wait(20) or self._process.poll() is not None:
            raise RuntimeError("sshd did not start: " + "".join(self.log))

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.log.append(line)
                if "Server listening" in line:
                    ready.set()
        ready.set()

    def _config(self, extra: Sequence[str]) -> str:
        lines = [
            *extra,  # sshd takes the first value of each
            f"Port {self.port}",
            f"ListenAddress {self.host}",
            f"HostKey {self.directory}/host_key",
            f"AuthorizedKeysFile {self.directory}/keys/%u",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "LogLevel VERBOSE",
        ]
        return "\n".join(lines) + "\n"

    def _write(self, name: str, text: str, mode: int) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)


@contextlib.contextmanager
def accounts(shells: dict[str, str]) -> Iterator[dict[str, Path]]:
    """Accounts of this machine (name -> login shell) for as long as the block runs; their homes. Those that exist are kept."""
    need_root()
    with contextlib.ExitStack() as held:
        yield {name: held.enter_context(_account(name, shell)) for name, shell in shells.items()}


@contextlib.contextmanager
def _account(name: str, shell: str) -> Iterator[Path]:
    """One of them. Workers of a test run may use the same at one time: the first makes it, the last removes it."""
    with (Path(tempfile.gettempdir()) / f"batchhub-account-{name}").open("a+") as users:
        while True:
            fcntl.flock(users, fcntl.LOCK_SH)
            if _at_home(name):
                break
            fcntl.flock(users, fcntl.LOCK_EX)
            if not _at_home(name):
                # One that a killed run left behind, without its home.
                account_tool("userdel", "-f", name, check=False)
                place = tempfile.mkdtemp(prefix="batchhub-home-")
                Path(place).chmod(0o755)
                # '*' is no password; '!', which useradd would set, is a locked account to sshd.
                account_tool("useradd", "-m", "-d", f"{place}/{name}", "-s", shell, "-p", "*", name)
                users.truncate(0)
                users.write(place)
                users.flush()
        try:
            yield Path(pwd.getpwnam(name).pw_dir)
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                users.seek(0)
                if place := users.read():
                    account_tool("userdel", "-f", "-r", name, check=False)
                    shutil.rmtree(place, ignore_errors=True)
                    users.truncate(0)


def _children(pid: int) -> list[psutil.Process]:
    """psutil's own reads every process there is, and leaves out some when the kernel's time of the boot, in whole seconds, has just changed."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(child)))
    return found


def _below(pid: int) -> list[psutil.Process]:
    return [process for child in _children(pid) for process in (child, *_below(child.pid))]


def _kill_sshds(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if _is_sshd(process):
                process.send_signal(signal.SIGKILL)


def _is_sshd(process: psutil.Process) -> bool:
    return process.name().startswith(("sshd", "batchhub-sshd"))


def _names_service(program: str) -> bool:
    """Whether sshd can be told its PAM service (OpenSSH 9.8 and newer)."""
    said = subprocess.run([program, "-V"], check=False, capture_output=True, text=True, timeout=20)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stdout + said.stderr)
    return found is not None and (int(found[1]), int(found[2])) >= (9, 8)


def account_tool(*argv: str, stdin: str = "", check: bool = True) -> None:
    """useradd, chpasswd and the like, tried again while another process has locked the accounts: they do not wait for each other."""
    for attempt in range(100):
        done = subprocess.run(argv, check=False, input=stdin, text=True, capture_output=True, timeout=60)
        if "lock" not in done.stderr or attempt == 99:
            break
        time.sleep(0.1)
    if check and done.returncode:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}): {done.stderr}")


def _at_home(name: str) -> bool:
    """Whether there is such an account, with its home."""
    try:
        return Path(pwd.getpwnam(name).pw_dir).is_dir()
    except KeyError:
        return False
