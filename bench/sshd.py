"""A login node on loopback: OpenSSH's sshd with keys of its own, run as whoever runs the benchmark; and ``ssh -L`` through it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Unfit, environment, pin, program, running
from tests.ports import free_port

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/client_key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel FATAL
"""

CIPHER = "aes128-gcm@openssh.com"
"""Ours prefers it; ``ssh`` is measured with its own first choice, and for large bodies with this too."""


@dataclass(frozen=True, slots=True)
class LoginNode:
    """A running sshd, and what it takes to sign in."""

    port: int
    account: str
    key: Path
    known_hosts: str


def missing() -> str:
    """Why there can be no login node; empty if there can."""
    for name, package in (("sshd", "openssh-server"), ("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")):
        if program(name) is None:
            return f"{name} is not installed: apt-get install {package}"
    return ""


@contextlib.contextmanager
def login_node(directory: Path, core: int) -> Iterator[LoginNode]:
    """Run one on this core. Raises Unfit."""
    directory.mkdir()
    for name in ("host_key", "client_key"):
        argv = [program("ssh-keygen") or "", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)]
        subprocess.run(argv, check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd of root separates its privileges
    directory.chmod(0o755)
    directory.parent.chmod(0o755)  # it reads the authorized keys as the account
    port = free_port()
    config = directory / "config"
    config.write_text(CONFIG.format(port=port, directory=directory))
    public = (directory / "host_key.pub").read_text().rsplit(" ", 1)[0]
    with running([program("sshd") or "", "-D", "-e", "-f", str(config)], core, [port], patient=True):
        account = pwd.getpwuid(os.geteuid()).pw_name
        yield LoginNode(port, account, directory / "client_key", f"[127.0.0.1]:{port} {public}\n")


@dataclass(frozen=True, slots=True)
class Forward:
    """A running ``ssh -L``: its local port, its process, its cipher."""

    port: int
    pid: int
    cipher: str


@contextlib.contextmanager
def forward(node: LoginNode, target: int, core: int, directory: Path, cipher: str = "") -> Iterator[Forward]:
    """``ssh -L`` to a port behind the login node, with this cipher or ssh's own choice. Raises Unfit."""
    directory.mkdir()
    hosts, log, port = directory / "known_hosts", directory / "log", free_port()
    hosts.write_text(node.known_hosts)
    argv = [program("ssh") or "", "-v", "-F", "none", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{target}"]
    argv += ["-i", str(node.key), "-p", str(node.port), "-o", f"UserKnownHostsFile={hosts}", "-o", "IdentitiesOnly=yes"]
    argv += ["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", *(["-c", cipher] if cipher else [])]
    argv += [f"{node.account}@127.0.0.1"]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=environment(), stderr=out, stdin=subprocess.DEVNULL, preexec_fn=pin(core))  # noqa: PLW1509
    try:
        ends = time.monotonic() + 20
        while "Entering interactive session" not in (text := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > ends:
                raise Unfit(f"ssh -L did not start: {text[-300:]}")
            time.sleep(0.05)
        found = re.search(r"kex: server->client cipher: (\S+)", text)
        yield Forward(port, process.pid, found[1] if found else "?")
    finally:
        process.terminate()
        process.wait()
