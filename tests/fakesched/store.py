"""Where a fake cluster keeps itself: one directory, shared by processes of several users.

``config.json`` (what the cluster is), ``state.db`` (jobs; SQLite under one file lock), ``faults.json`` (what is to go wrong),
``calls.log`` (who called what), ``jobs/SEQ/`` (script, environment, a FIFO that wakes the job's supervisor).
Nothing here knows a scheduler's dialect.
"""

import fcntl
import json
import os
import sqlite3
import time
from contextlib import closing, contextmanager

DEFAULTS = {
    "name": "fake",
    "nodes": {"n1": {"cores": 4}, "n2": {"cores": 4}},
    "partitions": [{"name": "cpu", "default": True, "max_time": 1440, "default_time": 60}],
    # life of a job, in seconds
    "start_delay": 0.0,
    "completing": 0.0,
    "kill_wait": 2.0,
    "requeue_delay": 0.3,
    "min_job_age": 300.0,
    "accounting_delay": 0.0,
    "seconds_per_minute": 60.0,  # how long a minute of a time limit really takes
    "simulate": False,  # no processes: jobs only change state (for thousands of jobs)
    "simulate_seconds": None,
    "first_id": 1,
    "users": [],  # accounts the name service knows beside this machine's
    "admins": ["root"],
    "login_shell": True,  # PBS: start the job through a login shell
    "node_path": "/usr/local/bin:/usr/bin:/bin",
    # Slurm
    "accounts": None,  # None: any account will do
    "qos": ["normal"],
    "enforce_part_limits": True,
    "slurm_version": "22.05.8",
    "clusters": {},  # other clusters that slurmdbd knows: name -> its fake's directory
    "accounting": True,
    # PBS
    "pbs_server": "head",
    "pbs_domain": "cluster.test",
    "pbs_version": "23.06.06",
    "history": True,
    "torque": False,
    "keep_completed": 300.0,
    # LSF
    "lsf": "lsf",  # or "openlava"
    "lsf_unit": "KB",
    "clean_period": 3600.0,
    "lsb_mod_all_jobs": False,
    "submit_host": "head",
}
NODE = {"cores": 4, "memory": 16000, "gpus": 0, "gpu_type": "a100", "features": []}
PARTITION = {
    "nodes": None,
    "default": False,
    "max_time": None,
    "default_time": None,
    "state": "UP",
    "users": None,
    "accounts": None,
    "groups": None,
    "hidden": False,
    "max_cores": None,
    "max_queued": None,
    "max_memory": None,
    "kind": "Execution",
    "destinations": [],
    "priority": 30,
    "description": "",
}
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY")


def complete(config):
    """The configuration with every default filled in."""
    full = DEFAULTS | config
    nodes = full["nodes"]
    if not isinstance(nodes, dict):
        nodes = {name: {} for name in nodes}
    full["nodes"] = {name: NODE | part for name, part in nodes.items()}
    parts = [PARTITION | part for part in full["partitions"]]
    for part in parts:
        part["nodes"] = list(full["nodes"]) if part["nodes"] is None else part["nodes"]
    if not any(part["default"] for part in parts):
        parts[0]["default"] = True
    full["partitions"] = parts
    return full


def node_address(config, name):
    """The loopback address that stands for a node: 127.0.1.11 for the first, and so on."""
    number = (1 << 8) + 11 + list(config["nodes"]).index(name)
    return f"127.0.{number >> 8}.{number & 255}"


class Session:
    """The jobs, while the lock is held."""

    def __init__(self, db, config):
        self.db = db
        self.config = config

    def meta(self, key, default=None):
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set_meta(self, key, value):
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def take_id(self):
        seq = self.meta("next_id", self.config["first_id"])
        self.set_meta("next_id", seq + 1)
        return seq

    def get(self, seq):
        row = self.db.execute("SELECT body FROM jobs WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else json.loads(row[0])

    def jobs(self, *, active=None):
        """All jobs, or those not yet ended, in the order of their ids."""
        where = "" if active is None else f"WHERE active = {int(active)}"
        return [json.loads(row[0]) for row in self.db.execute(f"SELECT body FROM jobs {where} ORDER BY seq")]

    def by_name(self, name):
        return [json.loads(r[0]) for r in self.db.execute("SELECT body FROM jobs WHERE name = ? ORDER BY seq", (name,))]

    def put(self, job):
        active = int(job["state"] not in FINAL)
        values = (job["seq"], active, job["name"], json.dumps(job))
        self.db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", values)

    def drop(self, seq):
        self.db.execute("DELETE FROM jobs WHERE seq = ?", (seq,))

    def touch(self):
        """Something changed that may let another job start."""
        self.set_meta("due", 0)


class Store:
    """One fake cluster's directory."""

    def __init__(self, path):
        self.path = os.fspath(path)
        self._config = None

    def file(self, *parts):
        return os.path.join(self.path, *parts)

    @property
    def config(self):
        if self._config is None:
            with open(self.file("config.json"), encoding="utf-8") as text:
                self._config = json.load(text)
        return self._config

    def exists(self):
        return os.path.exists(self.file("config.json"))

    def create(self, config):
        """Make the directory anew. Everybody may write in it: commands and jobs run as several users."""
        mask = os.umask(0)
        try:
            os.makedirs(self.path, exist_ok=True)
            os.chmod(self.path, 0o777)
            for name in ("state.db", "state.db-journal"):
                if os.path.exists(self.file(name)):
                    os.unlink(self.file(name))
            for name in ("jobs", "mail"):
                os.makedirs(self.file(name), mode=0o777, exist_ok=True)
            for name, text in (("lock", ""), ("calls.log", ""), ("faults.json", "[]")):
                with open(self.file(name), "w", encoding="utf-8") as out:
                    out.write(text)
                os.chmod(self.file(name), 0o666)
            self._config = complete(config)
            self.write_config()
            with closing(sqlite3.connect(self.file("state.db"))) as db:
                db.execute("CREATE TABLE jobs (seq INTEGER PRIMARY KEY, active INTEGER, name TEXT, body TEXT)")
                db.execute("CREATE INDEX jobs_active ON jobs (active)")
                db.execute("CREATE INDEX jobs_name ON jobs (name)")
                db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
                db.commit()
            os.chmod(self.file("state.db"), 0o666)
        finally:
            os.umask(mask)

    def write_config(self):
        _replace(self.file("config.json"), json.dumps(self._config, indent=1))

    @contextmanager
    def locked(self):
        """The jobs, for one holder at a time; what was changed is saved at the end."""
        with open(self.file("lock"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._config = None  # it may have been changed since: a job's supervisor lives for long
            with closing(sqlite3.connect(self.file("state.db"), timeout=30)) as db:
                db.execute("PRAGMA synchronous = OFF")
                yield Session(db, self.config)
                db.commit()

    # ------------------------------------------------------------ faults

    @contextmanager
    def _faults(self):
        with open(self.file("faults.json"), "r+", encoding="utf-8") as text:
            fcntl.flock(text, fcntl.LOCK_EX)
            faults = json.load(text)
            before = json.dumps(faults)
            yield faults
            after = json.dumps(faults)
            if after != before:
                text.seek(0)
                text.write(after)
                text.truncate()

    def add_fault(self, fault):
        with self._faults() as faults:
            faults.append(fault)

    def clear_faults(self, name=None):
        with self._faults() as faults:
            faults[:] = [] if name is None else [fault for fault in faults if fault["name"] != name]

    def take_faults(self, command, *, passive=("missing_from_listing",)):
        """The faults that hit this call of ``command``; those with a count are counted down."""
        if os.path.getsize(self.file("faults.json")) <= 2:
            return {}
        with self._faults() as faults:
            hits = {}
            for fault in faults:
                if fault["commands"] is not None and command not in fault["commands"]:
                    continue
                if fault["name"] in passive and command not in ("squeue", "qstat", "bjobs"):
                    continue
                if fault["times"] is not None:
                    fault["times"] -= 1
                if fault["name"] in passive:
                    hits.setdefault(fault["name"], []).append(fault)
                else:
                    hits[fault["name"]] = fault
            faults[:] = [fault for fault in faults if fault["times"] is None or fault["times"] > 0]
            return hits

    # ------------------------------------------------------------ calls

    def log_call(self, entry):
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        log = os.open(self.file("calls.log"), os.O_WRONLY | os.O_APPEND)
        try:
            os.write(log, line)
        finally:
            os.close(log)

    def calls(self):
        """Every invocation so far, oldest first; ``rc`` is None while it runs, or when it was killed."""
        found = {}
        with open(self.file("calls.log"), encoding="utf-8") as log:
            for line in log:
                entry = json.loads(line)
                found.setdefault(entry["id"], {"rc": None}).update(entry)
        return list(found.values())

    # ------------------------------------------------------------ jobs' directories

    def job_file(self, seq, *parts):
        return self.file("jobs", str(seq), *parts)

    def wake(self, seq):
        """Tell the job's supervisor, if it has one, to look at its job."""
        try:
            fifo = os.open(self.job_file(seq, "wake"), os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return
        try:
            os.write(fifo, b"!")
        except OSError:
            pass
        finally:
            os.close(fifo)


def _replace(path, text):
    part = f"{path}.{os.getpid()}"
    with open(part, "w", encoding="utf-8") as out:
        out.write(text)
    os.chmod(part, 0o666)
    os.replace(part, path)


def now():
    return time.time()  # noqa: TID251 - these are programs of their own; only here is the clock read
