"""Real container engines for tests: podman as root and as an ordinary account, and a Docker daemon of the test's own.

The image holds no file of anybody's: empty directories, in which the machine's own /usr is mounted read-only. Where a machine still has the
old cgroup hierarchies beside the new one, podman sees the new one alone, in a mount namespace of its own, and limits nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.needs import missing, need_program, need_root
from tests.sshd import accounts

IMAGE = "localhost/batchhub-test:1"
FLAVOURS = ("podman", "docker")
PERSON = "bhbox" + os.environ.get("PYTEST_XDIST_WORKER", "")
"""Each worker of a test run has an account of its own, as it makes and removes it."""
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
OLD_CGROUPS = not Path("/sys/fs/cgroup/cgroup.controllers").exists()


@dataclass(frozen=True)
class Engine:
    """One that answers. ``directives`` are what this machine needs of every container, ``options`` the dialect's own settings."""

    flavour: str
    program: str
    home: Path
    directives: tuple[str, ...]
    options: dict[str, object] = field(default_factory=dict)
    limits: bool = False
    """Whether memory limits are kept here."""
    before: tuple[str, ...] = ()
    """What a rootless engine's commands are run by: its account, without the old cgroup hierarchies."""

    def run(self, *words: str) -> str:
        """Past the hub, as an administrator would."""
        place = [f"--host={self.options['engine']}"] if "engine" in self.options else []
        argv = [*self.before, self.program, *place, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _image(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in ("usr", "etc", "tmp", "home", "proc", "sys", "dev", "run", "work"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, target in LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry, io.BytesIO())
    path.chmod(0o644)
    return path


def _limits() -> tuple[str, ...]:
    """podman asks for more open files than a machine may permit its root."""
    return (f"--ulimit=nofile={_hard('Max open files')}", f"--ulimit=nproc={_hard('Max processes')}")


def _hard(name: str) -> str:
    row = next(line for line in Path("/proc/self/limits").read_text().splitlines() if line.startswith(name))
    value = row[26:].split()[1]
    return "4096:4096" if value == "unlimited" else f"{min(int(value), 4096)}:{min(int(value), 4096)}"


@contextlib.contextmanager
def podman(directory: Path, account: str = "") -> Iterator[Engine]:
    """podman with a storage of its own, as root or as ``account``."""
    need_root()
    path = need_program("podman", "podman")
    need_program("crun", "crun")
    need_program("conmon", "conmon")
    if account:
        need_program("newuidmap", "uidmap")
    with accounts({PERSON: "/bin/bash"}) as homes:
        home = homes[PERSON]
        place = home / "e" if account else directory / "e"
        place.mkdir()
        if account:
            shutil.chown(place, account, account)
        wrapper = place / "podman"
        outside, before = _around(account)
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([*outside, *_own(path, place)])} "$@"\n')
        wrapper.chmod(0o755)
        image = _image((home if account else directory) / "image.tar")
        directives = ("--volume=/usr:/usr:ro", *_limits(), *(["--cgroups=disabled"] if OLD_CGROUPS else []))
        options = {"program": str(wrapper), "rootless": bool(account), "image": IMAGE}
        engine = Engine("podman", str(wrapper), home, directives, options, before=before)
        try:
            engine.run("import", str(image), IMAGE)
            yield engine
        finally:
            with contextlib.suppress(AssertionError):
                engine.run("rm", "--all", "--force", "--time=0")
                if account:
                    # Ends the process that holds its user namespace, which would keep the account's number.
                    engine.run("system", "migrate")


def _own(path: str, place: Path) -> list[str]:
    """podman with a storage of its own: nothing of this machine's is seen or changed."""
    kept = [f"--{name}={place}/{part}" for name, part in (("root", "storage"), ("runroot", "run"), ("tmpdir", "tmp"))]
    return [path, "--runtime=crun", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", *kept]


def _around(account: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What podman's own program is run by, and what each of a rootless engine's commands is run by.

    A new mount namespace for each is enough: podman keeps nothing in one.
    """
    bind = 'mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup && exec "$@"'
    alone = ("unshare", "-m", "--propagation", "private", "sh", "-c", bind, "sh") if OLD_CGROUPS else ()
    if not account:
        return alone, ()
    where = pwd.getpwnam(account).pw_dir
    person = ("setpriv", f"--reuid={account}", f"--regid={account}", "--init-groups")
    return (), (*alone, *person, "env", f"HOME={where}", f"XDG_RUNTIME_DIR={where}/e")


@contextlib.contextmanager
def docker(directory: Path) -> Iterator[Engine]:
    """A Docker daemon on a socket in ``directory``."""
    need_root()
    path, daemon = need_program("docker", "docker.io"), need_program("dockerd", "docker.io")
    socket = directory / "docker.sock"
    argv = [
        daemon,
        f"--data-root={directory}/data",
        f"--exec-root={directory}/exec",
        f"--pidfile={directory}/docker.pid",
        f"--host=unix://{socket}",
        "--storage-driver=vfs",
        "--bridge=none",
        *(f"--{name}=false" for name in ("iptables", "ip6tables", "ip-forward", "ip-masq")),
    ]
    log = directory / "dockerd.log"
    with accounts({PERSON: "/bin/bash"}) as homes, log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, start_new_session=True)
        options = {"engine": f"unix://{socket}", "image": IMAGE}
        engine = Engine("docker", path, homes[PERSON], ("--volume=/usr:/usr:ro",), options, limits=True)
        try:
            _wait_for(process, socket, log)
            engine.run("import", str(_image(directory / "image.tar")), IMAGE)
            yield engine
        finally:
            _end(process, engine, directory)


def _wait_for(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + 60
    while not socket.exists() or "API listen on" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            missing(f"dockerd does not start here: {log.read_text(errors='replace')[-300:]}")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes], engine: Engine, directory: Path) -> None:
    with contextlib.suppress(AssertionError):
        if left := engine.run("ps", "--all", "--quiet"):
            engine.run("rm", "--force", *left.split())
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for row in Path("/proc/mounts").read_text().splitlines():
        # Docker leaves the mount of the machine's own network namespace behind.
        if (place := row.split()[1]).startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", place], check=False)
