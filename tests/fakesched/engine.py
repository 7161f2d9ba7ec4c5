"""The test's side of a fake cluster: make it, break it, look at it.

    cluster = Cluster(tmp_path / "cluster").create({"nodes": {"n1": {"cores": 2}}})
    env = cluster.environment("slurm")          # PATH with sbatch, squeue …, and FAKESCHED_DIR
    cluster.fault("down", command="squeue", times=2)
    assert cluster.count("squeue") == 3
    cluster.shutdown()

Commands, supervisors and this object share the cluster's directory only; nothing here needs an event loop or a thread.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from tests.fakesched import life
from tests.fakesched.command import main
from tests.fakesched.store import FINAL, Store, node_address, now

__all__ = ["FAULTS", "Cluster", "main"]

HERE = Path(__file__).resolve().parent
FAULTS = {
    "down": "the daemon cannot be reached; kind='refused' or 'timeout', delay=seconds before the client gives up",
    "accounting_down": "sacct's daemon cannot be reached",
    "slow": "answers after seconds=",
    "hang": "never answers",
    "garbage": "text= with status 0",
    "truncated": "only keep= characters of the answer (default: half)",
    "banner": "text= before the answer",
    "ok_with_error_text": "status 0, nothing on stdout, text= on stderr",
    "refuse": "status code=, text= on stderr",
    "created_but_timeout": "submits create the job, then fail: how='error' or 'hang', delay=",
    "missing_from_listing": "job= is left out of squeue, qstat or bjobs",
    "delayed_start": "submitted jobs wait seconds= before they may start",
    "exit_code": "the status is code= whatever happened",
}


class Cluster:
    """One fake cluster in one directory. Job ids may be given as the dialect prints them (``12``, ``"12.head"``)."""

    def __init__(self, path):
        self.path = Path(path)
        self.store = Store(path)

    def create(self, config=None, **more):
        """Make it anew (an old one in the same place must have been shut down). See ``store.DEFAULTS`` for what there is."""
        self.store.create({**(config or {}), **more})
        return self

    def configure(self, **changes):
        """Change the configuration of a living cluster."""
        self.store.config.update(changes)
        self.store.write_config()
        with self.store.locked() as session:
            session.touch()
            life.schedule(self.store, session)

    def set_partition(self, name, **changes):
        """Change one partition or queue, for example ``state="DOWN"``."""
        parts = [part | (changes if part["name"] == name else {}) for part in self.store.config["partitions"]]
        self.configure(partitions=parts)

    # ------------------------------------------------------------ for running commands

    @staticmethod
    def bin(dialect):
        """The directory with the dialect's executables (``slurm``, ``pbs``, ``lsf``)."""
        return str(HERE / "bin" / dialect)

    def environment(self, dialect, user=None):
        """An environment that finds the executables and this cluster."""
        env = {key: os.environ[key] for key in ("HOME", "LANG", "USER", "LOGNAME", "SHELL") if key in os.environ}
        path = f"{self.bin(dialect)}:{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        env |= {"PATH": path, "FAKESCHED_DIR": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"}
        return env | ({"FAKESCHED_USER": user} if user else {})

    def install(self, dialect, where):
        """Write executables that know this cluster and interpreter without any environment (for sudo, sshd); their directory."""
        folder = Path(where)
        folder.mkdir(parents=True, exist_ok=True)
        for stub in Path(self.bin(dialect)).iterdir():
            text = (
                f"#!{sys.executable} -IS\nimport os, sys; sys.path.insert(0, {str(HERE.parents[1])!r}); "
                f"os.environ['FAKESCHED_DIR'] = {str(self.path)!r}\n"
                f"from tests.fakesched.command import main; sys.exit(main({dialect!r}, {stub.name!r}))\n"
            )
            (folder / stub.name).write_text(text, encoding="utf-8")
            (folder / stub.name).chmod(0o755)
        return str(folder)

    def address(self, node):
        """The loopback address that stands for a node."""
        return node_address(self.store.config, node)

    def addresses(self):
        """Node name -> loopback address."""
        return {name: node_address(self.store.config, name) for name in self.store.config["nodes"]}

    # ------------------------------------------------------------ faults and calls

    def fault(self, name, *, command=None, times=None, **args):
        """Let something go wrong (see ``FAULTS``) for one command, several or all, ``times`` times or until cleared."""
        if name not in FAULTS:
            raise ValueError(f"No such fault: {name}")
        commands = [command] if isinstance(command, str) else command
        if name == "accounting_down":
            name, commands = "down", ["sacct"]
        if "job" in args:
            args["job"] = _seq(args["job"])
        self.store.add_fault({"name": name, "commands": commands and list(commands), "times": times, **args})

    def clear_faults(self, name=None):
        self.store.clear_faults(name)

    def calls(self, command=None):
        """The recorded invocations, oldest first: command, argv, user, time, rc (None: running or killed)."""
        return [SimpleNamespace(**c) for c in self.store.calls() if command in (None, c["command"])]

    def count(self, command):
        return len(self.calls(command))

    # ------------------------------------------------------------ jobs

    def jobs(self):
        """Every job the cluster remembers, by id. ``state`` is Slurm's word in every dialect; ``host`` is the first node or ''."""
        with self.store.locked() as session:
            life.schedule(self.store, session)
            return [_view(job) for job in session.jobs()]

    def job(self, job_id):
        """One job, or None."""
        with self.store.locked() as session:
            life.schedule(self.store, session)
            job = session.get(_seq(job_id))
        return None if job is None else _view(job)

    def insert(self, **record):
        """Put in a job's record as it is, without a process (for a simulated cluster); its id. Missing fields get defaults."""
        return self._insert([record])[0]

    def fill(self, count, **record):
        """Put in many jobs of one kind that have no processes and stay as they are until ordered otherwise; their ids.

        They run on the first node, which is then full for others; with ``state="PENDING"`` they wait, blocked, until :meth:`block` is called with no reason.
        """
        waits = record.get("state") == "PENDING"
        common = {"still": True, "limit": 8 * 3600}
        if waits:
            common |= {"blocked": "Priority", "reason": "Priority"}
        else:
            node = next(iter(self.store.config["nodes"]))
            common |= {"state": "RUNNING", "start": now(), "run": 1, "layout": {node: 1}}
        return self._insert([common | {"name": f"still-{number}"} | record for number in range(count)])

    def _insert(self, records):
        at = now()
        given = {"partition": self.store.config["partitions"][0]["name"], "user": "alice", "uid": 1001, "gid": 1001, "cwd": "/home/alice",
                 "home": "/home/alice", "command": "", "stdout": "/home/alice/slurm-%j.out", "stderr": "", "submit": at, "eligible": at,
                 "tasks": 1, "output": "", "error": "", "output_path": "", "error_path": "", "join": "n", "keep": "n", "resources": [],
                 "variables": [], "submit_arguments": ""}  # fmt: skip
        ids = []
        with self.store.locked() as session:
            for record in records:
                seq = record.get("seq") or session.take_id()
                session.set_meta("next_id", max(session.meta("next_id", 1), seq + 1))
                session.put(life.new_job(**{**given, **record, "seq": seq}))
                ids.append(seq)
            session.touch()
        return ids

    def finish_all(self, job_ids, code=0):
        """:meth:`finish_now` for many running jobs at once."""
        job_ids = list(job_ids)
        with self.store.locked() as session:
            for job_id in job_ids:
                job = session.get(_seq(job_id))
                job.update(order="finish", finish_code=code)
                session.put(job)
            session.touch()
            life.schedule(self.store, session)
        for job_id in job_ids:
            self.store.wake(_seq(job_id))

    def wait(self, job_id, *states, timeout=20.0, restarts=0):
        """Poll until the job is in one of the states (default: ended); the job. AssertionError after ``timeout`` seconds."""
        states = states or FINAL
        end = time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if job is not None and job.state in states and job.restarts >= restarts:
                return job
            if time.monotonic() > end:
                raise AssertionError(f"job {job_id} is {job and (job.state, job.reason)}, not {states}")
            time.sleep(0.02)

    def _order(self, job_id, what, **more):
        with self.store.locked() as session:
            job = session.get(_seq(job_id))
            if job is None:
                raise KeyError(job_id)
            life.order(self.store, session, job, what, **more)
            life.schedule(self.store, session)

    def cancel(self, job_id):
        """As an administrator would."""
        self._order(job_id, "cancel", cancelled_by=0)

    def requeue(self, job_id):
        """Back to the queue with the same id; it starts again, on another node if one is free."""
        self._order(job_id, "requeue")

    def preempt(self, job_id, *, requeue=True):
        """Pushed out by a more important job: requeued, or ended as PREEMPTED."""
        self._order(job_id, "preempt", again=requeue)

    def finish_now(self, job_id, code=0):
        """The job ends by itself, with this exit code."""
        self._order(job_id, "finish", finish_code=code)

    def time_out(self, job_id):
        """The job's time is up now."""
        self._order(job_id, "timeout")

    def exhaust_memory(self, job_id):
        """The job uses more memory than it asked for, and is killed for it."""
        self._order(job_id, "oom")

    def lose(self, job_id):
        """The scheduler forgets the job entirely, its processes are killed."""
        with self.store.locked() as session:
            job = session.get(_seq(job_id))
            if job is None:
                raise KeyError(job_id)
            session.drop(job["seq"])
            session.touch()
        self.store.wake(_seq(job_id))

    def _change(self, job_id, change):
        with self.store.locked() as session:
            job = session.get(_seq(job_id))
            if job is None:
                raise KeyError(job_id)
            change(job)
            session.put(job)
            session.touch()
            life.schedule(self.store, session)
        self.store.wake(_seq(job_id))

    def hold(self, job_id, by="admin"):
        self._change(job_id, lambda job: job.update(held=by))

    def release(self, job_id):
        self._change(job_id, lambda job: job.update(held=""))

    def block(self, job_id, reason):
        """Keep a pending job pending for a reason of your own, such as ``ReqNodeNotAvail, May be reserved for other job``."""
        self._change(job_id, lambda job: job.update(blocked=reason))

    def suspend(self, job_id):
        self._change(job_id, lambda job: job.update(state="SUSPENDED") if job["state"] == "RUNNING" else None)

    def resume(self, job_id):
        self._change(job_id, lambda job: job.update(state="RUNNING") if job["state"] == "SUSPENDED" else None)

    def unknown(self, job_id, *, unknown=True):
        """LSF's UNKWN: the daemon lost the job's host; the job may well run."""
        self._change(job_id, lambda job: job.update(unknown=unknown))

    # ------------------------------------------------------------ nodes

    def fail_node(self, name):
        """The node dies: its jobs are killed at once and requeued, or end as NODE_FAIL where they must not run again."""
        self._node(name, down=True)
        for job in self.jobs():
            if name in job.layout and job.state not in FINAL:
                self._order(job.seq, "node_fail")

    def restore_node(self, name):
        self._node(name, down=False)

    def _node(self, name, *, down):
        if name not in self.store.config["nodes"]:
            raise KeyError(name)
        with self.store.locked() as session:
            names = set(session.meta("down", []))
            session.set_meta("down", sorted(names | {name} if down else names - {name}))
            session.touch()
            life.schedule(self.store, session)

    # ------------------------------------------------------------ end

    def shutdown(self):
        """Kill every supervisor and job process of this cluster, by process id, and forget the faults."""
        if not self.store.exists():
            return
        self.clear_faults()
        with self.store.locked() as session:
            jobs = session.jobs()
            for job in jobs:
                if job["state"] not in FINAL:
                    job.update(state="CANCELLED", end=now(), order=None, ended_by="cancel")
                    session.put(job)
        for job in jobs:
            pid = job["supervisor"]
            if pid and self._is_ours(pid):
                life.signal_family(pid, signal.SIGKILL)
                _kill(pid)
            self.store.wake(job["seq"])

    def _is_ours(self, pid):
        """The process is a supervisor of this cluster still: it holds a FIFO in its directory open."""
        try:
            names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            return False
        return any(name.startswith(f"{self.path.resolve()}/jobs/") for name in names)


def _kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _seq(job_id):
    digits = str(job_id).lstrip("<")
    number = ""
    for letter in digits:
        if not letter.isdigit():
            break
        number += letter
    return int(number)


def _view(job):
    return SimpleNamespace(**job, host=next(iter(job["layout"]), ""), id=str(job["seq"]))
