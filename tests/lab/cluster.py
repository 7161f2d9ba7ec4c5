"""A real Slurm cluster on one machine: a controller and login node, compute nodes and the hub, each on its own network.

::

    bhhub namespace            root namespace                         c1, c2 namespaces
    10.78.S.2  ---- veth ----  10.78.S.1:2222 login sshd
                               10.77.S.1      slurmctld  -- bridge --  10.77.S.11, .12  slurmd, sshd

The hub's namespace has no route to 10.77/16 and nothing forwards, so a notebook on a node is reached through the login node's
sshd or not at all. Nodes have their own host names. All files are below one directory, and the machine's own Slurm and munge
configuration is neither read nor touched; outside that directory there are only marked lines in ``/etc/hosts``, one file in
``/etc/sudoers.d`` and the accounts (marked in their comment field, kept).

Labs run in slots (``S``), each with a lock that dies with its process: what a killed run left behind is found by the pids and
start times it recorded, and removed before the slot is used again.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import psutil

from tests.lab import files
from tests.needs import missing, need_program, need_root

BASE = Path("/var/lib/batchhub-lab")
SLOTS = 8
PEOPLE = ("alice", "bob")
SERVICE = "batchhubsvc"
MARK = "BatchHub lab"

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "useradd": "passwd",
    "sudo": "sudo",
}
ACCOUNTING_PROGRAMS = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"}


class LabError(RuntimeError):
    """A part of the lab did not do what it should; the text holds its words or the end of its log."""


class SlurmLab:
    """The cluster, as a context manager.

    ``accounting`` adds MariaDB and slurmdbd (some seconds more). ``passwords`` lets the login sshd take passwords. ``min_job_age``
    is how long, in seconds, the controller remembers an ended job.
    """

    def __init__(self, *, accounting: bool = False, passwords: bool = False, min_job_age: int = 300) -> None:
        self.accounting = accounting
        self.passwords = passwords
        self.min_job_age = min_job_age
        self.login_port = 2222
        self._lock: IO[str] | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------ names and addresses

    def _name(self, slot: int) -> None:
        self.slot = slot
        self.root = BASE / str(slot)
        suffix = str(slot) if slot else ""
        self.nodes = tuple(f"{'s' + suffix if slot else ''}c{number}" for number in (1, 2))
        self.head = f"{'s' + suffix if slot else ''}head"
        self.hub_namespace = f"bhhub{suffix}"
        self.bridge = f"bhbr{slot}"
        self.network = f"10.77.{slot}"
        self.controller_host = f"{self.network}.1"
        self.login_host = f"10.78.{slot}.1"
        self.hub_host = f"10.78.{slot}.2"
        self.node_addresses = {name: f"{self.network}.{11 + number}" for number, name in enumerate(self.nodes)}
        self.conf = self.root / "slurm.conf"
        self.env = {
            "SLURM_CONF": str(self.conf),
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
        }
        self.ports = {name: 16817 + 10 * slot + number for number, name in enumerate(("ctld", "d", "dbd", "sql"))}

    def namespace(self, node: str) -> str:
        """The network namespace of a node."""
        return f"bhlab-{node}"

    @property
    def host_key_line(self) -> str:
        """The login node's line for ``known_hosts``."""
        kind, key = (self.root / "ssh/host_key.pub").read_text().split()[:2]
        return f"[{self.login_host}]:{self.login_port} {kind} {key}"

    @property
    def node_host_key_lines(self) -> list[str]:
        """The nodes' lines for ``known_hosts``, by name and address (port 22; the lab's machines share one host key)."""
        kind, key = (self.root / "ssh/host_key.pub").read_text().split()[:2]
        return [f"{name},{address} {kind} {key}" for name, address in self.node_addresses.items()]

    # ------------------------------------------------------------ life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bring everything up, and wait until both nodes are idle. Skips the test if a program or a right is missing."""
        need_root()
        for program, package in PROGRAMS.items() | (ACCOUNTING_PROGRAMS.items() if self.accounting else set()):
            need_program(program, package)
        self._take_slot()
        try:
            self._clean_up()
            self.root.mkdir(mode=0o755)
            for part in ("log", "pids", "ssh", "keys", "state", "spool", "munge"):
                (self.root / part).mkdir(mode=0o755)
            self._make_accounts()
            self._make_networks()
            self._start_munge()
            self._start_sshds()
            files.write_slurm(self)
            if self.accounting:
                self._start_accounting()
            self.start_controller(wait=False)
            for node in self.nodes:
                self.start_node(node)
            self.wait_until(self.nodes_are_idle, 30, "both nodes to become idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process the lab or its jobs started, by pid, and remove namespaces, addresses and files."""
        if self._lock is None:
            return
        for name in ("slurmctld", *(f"slurmd-{node}" for node in self.nodes)):
            self._stop_daemon(name)
        for name in list(self._daemons):
            self._stop_daemon(name)
        self._clean_up()
        self._lock.close()
        self._lock = None

    def _take_slot(self) -> None:
        BASE.mkdir(mode=0o755, exist_ok=True)
        for slot in range(SLOTS):
            lock = (BASE / f"slot-{slot}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self._lock = lock
            self._name(slot)
            return
        missing(f"all {SLOTS} slots of the Slurm lab are in use on this machine")

    def _clean_up(self) -> None:
        """Remove what this slot holds, whoever left it: first recorded processes, then those inside our namespaces."""
        for record in sorted((self.root / "pids").glob("*")):
            with suppress(psutil.Error, ValueError, OSError):
                pid, born = json.loads(record.read_text())
                process = psutil.Process(pid)
                if abs(process.create_time() - born) < 1:
                    _end([process, *process.children(recursive=True)])
        for name in (*(self.namespace(node) for node in self.nodes), self.hub_namespace):
            if Path(f"/run/netns/{name}").exists():
                pids = run("ip", "netns", "pids", name).split()
                _end([psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))])
                run("ip", "netns", "del", name)
        for link in (self.bridge, f"bhv{self.slot}"):
            if Path(f"/sys/class/net/{link}").exists():
                run("ip", "link", "del", link, check=False)  # it goes by itself, a little after its namespace
        files.mark_hosts(self.slot, {})
        Path(f"/etc/sudoers.d/batchhub-lab-{self.slot}").unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)

    # ------------------------------------------------------------ parts

    def _make_accounts(self) -> None:
        """Ordinary local accounts. One that exists and is not the lab's own is never touched."""
        store = BASE / "passwords.json"
        known: dict[str, str] = json.loads(store.read_text()) if store.exists() else {}
        for user in (*PEOPLE, SERVICE):
            try:
                entry = pwd.getpwnam(user)
            except KeyError:
                run("useradd", "--create-home", "--shell", "/bin/bash", "--comment", MARK, user)
            else:
                if entry.pw_gecos != MARK:
                    missing(f"the account {user} exists and is not the lab's; the lab needs this name")
            if user not in known:
                known[user] = secrets.token_hex(12)
            run("chpasswd", stdin=f"{user}:{known[user]}\n")
        store.touch(mode=0o600)
        store.write_text(json.dumps(known))
        self.password: Mapping[str, str] = known
        rule = f'Defaults:{SERVICE} env_keep += "SLURM_CONF"\n{SERVICE} ALL=({",".join(PEOPLE)}) NOPASSWD: ALL\n'
        sudoers = Path(f"/etc/sudoers.d/batchhub-lab-{self.slot}")
        sudoers.touch(mode=0o440)
        sudoers.write_text(rule)

    def _make_networks(self) -> None:
        try:
            run("ip", "netns", "add", self.hub_namespace)
        except LabError as error:
            missing(f"network namespaces cannot be made here: {error}")
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.controller_host}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for node, address in self.node_addresses.items():
            space, link = self.namespace(node), self.link(node)
            run("ip", "netns", "add", space)
            run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", link, "master", self.bridge, "up")
            self._inside(space, "addr", "add", f"{address}/24", "dev", "eth0")
            self._inside(space, "link", "set", "eth0", "up")
            self._inside(space, "link", "set", "lo", "up")
        outer = f"bhv{self.slot}"
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", self.hub_namespace)
        run("ip", "addr", "add", f"{self.login_host}/24", "dev", outer)
        run("ip", "link", "set", outer, "up")
        self._inside(self.hub_namespace, "addr", "add", f"{self.hub_host}/24", "dev", "eth0")
        self._inside(self.hub_namespace, "link", "set", "eth0", "up")
        self._inside(self.hub_namespace, "link", "set", "lo", "up")
        files.mark_hosts(self.slot, {self.head: self.controller_host, **self.node_addresses})

    def link(self, node: str) -> str:
        """The root namespace's end of a node's cable."""
        return f"bhl{self.slot}-{node}"

    def _inside(self, namespace: str, *argv: str) -> None:
        run("ip", "-n", namespace, *argv)

    def _start_munge(self) -> None:
        home = self.root / "munge"
        key = home / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for path in (home, key):
            shutil.chown(path, "munge", "munge")
        self.munge_socket = home / "socket"
        places = [f"--{name}={home / name}" for name in ("pid-file", "log-file", "seed-file")]
        argv = ["munged", "--foreground", f"--socket={self.munge_socket}", f"--key-file={key}", *places]
        self._spawn("munged", argv, user="munge")
        self.wait_until(self.munge_socket.exists, 10, "munged's socket")

    def _start_sshds(self) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        key = self.root / "ssh/host_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        files.write_sshd(
            self, "login", [f"{self.login_host}:{self.login_port}", f"{self.controller_host}:{self.login_port}"]
        )
        self.start_login_sshd()
        for node, address in self.node_addresses.items():
            files.write_sshd(self, node, [f"{address}:22"])
            self.start_node_sshd(node)

    def _sshd_argv(self, name: str) -> list[str]:
        return [need_program("sshd", "openssh-server"), "-D", "-e", "-f", str(self.root / f"ssh/{name}.conf")]

    def _start_accounting(self) -> None:
        data, socket = self.root / "mysql", self.root / "mysql/socket"
        data.mkdir(mode=0o700)
        shutil.chown(data, "mysql", "mysql")
        options = [f"--datadir={data}", "--user=mysql"]
        run(
            "mariadb-install-db",
            "--no-defaults",
            *options,
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            timeout=120,
        )
        argv = ["mariadbd", "--no-defaults", *options, f"--socket={socket}", f"--pid-file={data}/pid", f"--port={self.ports['sql']}",
                "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
        self._spawn("mariadbd", argv)
        self.wait_until(socket.exists, 60, "mariadbd's socket")
        word = secrets.token_hex(16)
        sql = (
            f"CREATE USER slurm@localhost IDENTIFIED BY '{word}'; CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{word}';"
        )
        sql += "GRANT ALL ON slurm.* TO slurm@localhost; GRANT ALL ON slurm.* TO slurm@'127.0.0.1';"
        run("mariadb", "--no-defaults", f"--socket={socket}", "--user=root", stdin=sql)
        files.write_slurmdbd(self, word)
        self.start_slurmdbd()
        # Accounting knows only registered people, and a controller without state will not start without slurmdbd.
        self.admin("sacctmgr", "-i", "add", "cluster", "lab")
        self.admin("sacctmgr", "-i", "add", "account", "science", "Cluster=lab")
        self.admin("sacctmgr", "-i", "add", "user", ",".join((*PEOPLE, SERVICE)), "Account=science")

    # ------------------------------------------------------------ daemons

    def _spawn(self, name: str, argv: Sequence[str], *, host: str = "", user: str | None = None) -> None:
        if host:
            argv = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, *argv]
        if host in self.nodes:
            # Not "ip netns exec": it mounts a new /sys, and slurmd then finds no cgroups.
            argv = self.in_node(host, argv)
        with (self.root / f"log/{name}").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env | {"SLURM_CONF": str(self.conf)},
                cwd="/",
                user=user,
                group=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            )
        self._daemons[name] = process
        with suppress(psutil.Error):
            (self.root / f"pids/{name}").write_text(
                json.dumps([process.pid, psutil.Process(process.pid).create_time()])
            )

    def _stop_daemon(self, name: str) -> None:
        process = self._daemons.pop(name, None)
        if process is None:
            return
        children = []
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end(children if "sshd" in name else [])
        (self.root / f"pids/{name}").unlink(missing_ok=True)

    def start_controller(self, *, wait: bool = True) -> None:
        """Start slurmctld, and wait until it answers."""
        self._spawn("slurmctld", ["slurmctld", "-D"], host=self.head)
        if wait:
            self.wait_until(lambda: "is UP" in self.admin("scontrol", "ping", check=False), 30, "slurmctld")

    def stop_controller(self) -> None:
        """Commands now say *Unable to contact slurm controller* after some seconds."""
        self._stop_daemon("slurmctld")

    def start_slurmdbd(self) -> None:
        """Start slurmdbd, and wait until it answers."""
        self._spawn("slurmdbd", ["slurmdbd", "-D"])
        self.wait_until(self._dbd_answers, 30, "slurmdbd")

    def _dbd_answers(self) -> bool:
        try:
            self.admin("sacctmgr", "-nP", "show", "cluster", "format=Cluster")
        except LabError:
            return False
        return True

    def stop_slurmdbd(self) -> None:
        """``sacct`` now fails at once; jobs go on."""
        self._stop_daemon("slurmdbd")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._spawn(f"slurmd-{node}", ["slurmd", "-D", "-N", node], host=node)

    def stop_node(self, node: str) -> None:
        """Stop a node's slurmd; its jobs go on."""
        self._stop_daemon(f"slurmd-{node}")

    def start_login_sshd(self) -> None:
        """Start the login node's sshd."""
        self._spawn("sshd-login", self._sshd_argv("login"))
        self._wait_for_sshd("login")

    def stop_login_sshd(self) -> None:
        """Stop it and every connection it has."""
        self._stop_daemon("sshd-login")

    def start_node_sshd(self, node: str) -> None:
        """Start a node's sshd (port 22)."""
        self._spawn(f"sshd-{node}", self._sshd_argv(node), host=node)
        self._wait_for_sshd(node)

    def stop_node_sshd(self, node: str) -> None:
        """Stop it and every connection it has."""
        self._stop_daemon(f"sshd-{node}")

    def _wait_for_sshd(self, name: str) -> None:
        log = self.root / f"log/sshd-{name}"
        started = log.read_text().count("Server listening")
        self.wait_until(lambda: log.read_text().count("Server listening") >= max(started, 1), 10, f"{name}'s sshd")

    # ------------------------------------------------------------ what tests do with it

    def run_as(
        self,
        user: str,
        argv: Sequence[str],
        stdin: str = "",
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node as a person, in the home directory; never checked."""
        entry = pwd.getpwnam(user)
        given = dict(self.env) | {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user, "SHELL": entry.pw_shell}
        return subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
            cwd=entry.pw_dir,
            env=given if env is None else dict(env),
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=os.getgrouplist(user, entry.pw_gid),
        )

    def admin(self, *argv: str, check: bool = True) -> str:
        """Run a command as root on the controller; its standard output."""
        return run(*argv, env=self.env, check=check)

    def authorize(self, user: str, public_key_line: str) -> None:
        """Let this key in as the user, on the login node and the nodes."""
        path = self.root / "keys" / user
        with path.open("a") as keys:
            keys.write(public_key_line.strip() + "\n")
        path.chmod(0o644)

    def way_in(self, directory: Path, *users: str) -> dict[str, Any]:
        """A cluster's ``ssh`` table: the service account and these people are let in with a new key, made in this directory."""
        key, known = directory / "id_ed25519", directory / "known_hosts"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        for user in (*users, SERVICE):
            self.authorize(user, key.with_suffix(".pub").read_text())
        known.write_text("\n".join([self.host_key_line, *self.node_host_key_lines]) + "\n")
        return {
            "host": self.login_host,
            "port": self.login_port,
            "known_hosts": str(known),
            "client_keys": [str(key)],
            "service_username": SERVICE,
        }

    def in_hub_namespace(self, argv: Sequence[str]) -> list[str]:
        """The argv that runs ``argv`` (as root) where the hub is: it reaches the login node and nothing else."""
        return ["nsenter", f"--net=/run/netns/{self.hub_namespace}", *argv]

    def in_node(self, node: str, argv: Sequence[str]) -> list[str]:
        """The argv that runs ``argv`` (as root) in a node's network."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(node)}", *argv]

    def job(self, number: str) -> dict[str, str]:
        """``scontrol show job`` as root, as a dictionary."""
        shown = self.admin("scontrol", "-o", "show", "job", number, check=False)
        return {key: value for key, _, value in (field.partition("=") for field in shown.split())}

    def wait_for_job(self, number: str, *states: str, timeout: float = 60) -> dict[str, str]:
        """Wait until the job is in one of the states."""
        self.wait_until(lambda: self.job(number).get("JobState") in states, timeout, f"job {number} to be {states}")
        return self.job(number)

    def requeue(self, number: str) -> None:
        """Put a running job back into the queue; it starts again after some seconds."""
        self.admin("scontrol", "requeue", number)

    def set_node(self, node: str, state: str, reason: str = "test") -> None:
        """``down``, ``drain``, ``resume``, …"""
        self.admin("scontrol", "update", f"nodename={node}", f"state={state}", f"reason={reason}")

    def resume_nodes(self) -> None:
        """Bring back nodes that were set down or drained; a node may also have come back by itself."""
        for node in self.nodes:
            with suppress(LabError):
                self.set_node(node, "resume")
        self.wait_until(self.nodes_are_idle, 30, "the nodes to come back")

    def set_node_link(self, node: str, *, up: bool) -> None:
        """Pull a node's cable, or put it back."""
        run("ip", "link", "set", self.link(node), "up" if up else "down")

    def set_login_link(self, *, up: bool) -> None:
        """Pull the cable between the hub and the login node, or put it back."""
        run("ip", "link", "set", f"bhv{self.slot}", "up" if up else "down")

    def preempt(self, node: str, user: str = "bob", seconds: int = 300) -> str:
        """Fill a node from partition ``high``: jobs of ``low`` on it are put back into the queue. The new job's id."""
        script = f"#!/bin/sh\nexec sleep {seconds}\n"
        argv = ["sbatch", "--parsable", "-p", "high", "-w", node, "-n", "16", "-t", "10", "-o", "/dev/null"]
        done = self.run_as(user, argv, script)
        if done.returncode:
            raise LabError(done.stderr)
        return done.stdout.strip()

    def cancel_all(self) -> None:
        """Cancel every job, and wait until the nodes are free."""
        for user in (*PEOPLE, SERVICE):
            self.admin("scancel", "-u", user)
        self.wait_until(lambda: not self.admin("squeue", "-h", "-o", "%i"), 30, "all jobs to end")

    def wait_until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll the lab; raises LabError with the logs' ends when it takes too long, or when a daemon has died."""
        deadline = time.monotonic() + seconds
        while not true():
            dead = [name for name, process in self._daemons.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise LabError(f"waited in vain for {what}; dead: {dead}\n{self.log_ends()}")
            time.sleep(0.1)

    def log_ends(self) -> str:
        """The last lines of each daemon's log."""
        logs = sorted((self.root / "log").glob("*"))
        return "\n".join(
            f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:]) for log in logs
        )

    def nodes_are_idle(self) -> bool:
        """Both nodes are up and have no job."""
        states = self.admin("sinfo", "-h", "-N", "-p", "debug", "-o", "%t", check=False).split()
        return states == ["idle"] * len(self.nodes)


def run(
    *argv: str, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True, timeout: float = 60
) -> str:
    """Run a command of the lab's own; its standard output."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    given = {**os.environ, "PATH": path, **(env or {})}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, env=given, timeout=timeout)
    if check and done.returncode:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _end(processes: Sequence[psutil.Process]) -> None:
    """SIGTERM, then SIGKILL for what is left after two seconds."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=2)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=2)
