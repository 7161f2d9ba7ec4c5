"""The life of jobs: who starts when and where, and one supervisor process for each job that runs.

Scheduling is done by whoever holds the lock (a command, a supervisor, a test); there is no daemon. A supervisor is forked
by the submit command, as the user, in a session of its own: it waits for its turn, runs the script, enforces the time
limit, carries out orders (cancel, requeue, …) left in the job's record, and ends with its job.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import time

from tests.fakesched.store import FINAL, Store, node_address, now

ALIVE = ("RUNNING", "SUSPENDED", "COMPLETING")
HEARTBEAT = 5.0
KILLS = ("cancel", "requeue", "preempt", "node_fail", "timeout", "oom", "finish", "lose")


# ---------------------------------------------------------------- scheduling (under the lock)


def used(session, live=None):
    """Cores and GPUs in use on each node."""
    cores = dict.fromkeys(session.config["nodes"], 0)
    gpus = dict.fromkeys(session.config["nodes"], 0)
    for job in session.jobs(active=True) if live is None else live:
        if job["state"] in ALIVE:
            for node, count in job["layout"].items():
                cores[node] = cores.get(node, 0) + count
                gpus[node] = gpus.get(node, 0) + job["gpus"]
    return cores, gpus


def partition(config, name):
    return next((part for part in config["partitions"] if part["name"] == name), None)


def _layout(job, candidates, free, nodes):
    """node -> cores for the job, or nothing where it does not fit now."""
    wanted = job["nodes_wanted"]
    if wanted <= 1:
        for node in candidates:
            if free[node] >= job["cores"]:
                return {node: job["cores"]}
        if job["cores"] <= max((nodes[n]["cores"] for n in candidates), default=0) or not job["spread"]:
            return {}
        wanted = len(candidates)
    each = -(-job["cores"] // wanted) if job["nodes_wanted"] > 1 else None
    layout, left = {}, job["cores"]
    for node in candidates:
        take = min(free[node], each or left, left)
        if take > 0 and (each is None or free[node] >= min(each, left)):
            layout[node] = take
            left -= take
    return layout if left == 0 and len(layout) >= job["nodes_wanted"] else {}


def _place(session, job, name, *, free, free_gpus, down):
    nodes = session.config["nodes"]
    part = partition(session.config, name)
    fits = [
        n
        for n in part["nodes"]
        if n not in down
        and nodes[n]["memory"] >= job["memory"]
        and free_gpus[n] >= job["gpus"]
        and set(job["features"]) <= set(nodes[n]["features"])
        and (not job["hosts_asked"] or n in job["hosts_asked"])
        and n not in job["hosts_excluded"]
    ]
    fits.sort(key=lambda n: n in job["last_nodes"])  # after a requeue: another node, if there is one
    return _layout(job, fits, free, nodes)


def _start(session, job, name, layout, at):
    job.update(
        state="RUNNING",
        reason="None",
        partition_used=name,
        layout=layout,
        start=at,
        end=None,
        order=None,
        pid=None,
        configuring_until=at + session.config.get("configuring", 0.0),
        run=job["run"] + 1,
    )
    if job["limit"] is not None:
        job["limit_end"] = at + job["limit"] / 60 * session.config["seconds_per_minute"]


def without_process(config, job):
    """Whether the job is a record alone: in a simulated cluster, or put in by :meth:`Cluster.fill`."""
    return config["simulate"] or job["still"]


def _simulated_end(session, job, at):
    """Whether the job's time has come; then it is settled."""
    span = session.config["simulate_seconds"]
    if job["order"]:
        settle(session, job, {"code": 0, "signal": 15}, job["order"])
    elif job.get("limit_end") and at >= job["limit_end"]:
        settle(session, job, {"code": 0, "signal": 15}, "timeout")
    elif span is not None and at >= job["start"] + span:
        settle(session, job, {"code": 0, "signal": 0}, None)
    else:
        return False
    return True


def _why_not(config, job, parts):
    if job["held"]:
        return "JobHeldAdmin" if job["held"] == "admin" else "JobHeldUser"
    states = [part["state"] for part in parts]
    if all(state == "DOWN" for state in states):
        return "PartitionDown"
    if all(state in ("INACTIVE", "DRAIN") for state in states):
        return "PartitionInactive"
    limits = [part["max_time"] for part in parts]
    if None not in limits and job["limit"] is not None and job["limit"] > max(limits) * 60:
        return "PartitionTimeLimit"
    if job["blocked"]:
        return job["blocked"]
    return ""


def schedule(store, session):
    """Let jobs start, in the order of their ids; wake the supervisors of those that may. Cheap when nothing is due."""
    at, config = now(), session.config
    if at < session.meta("due", 0):
        return
    due = at + 3600.0
    live = session.jobs(active=True)
    for job in [job for job in live if job["state"] in ALIVE and without_process(config, job)]:
        if _simulated_end(session, job, at):
            session.put(job)
        span = config["simulate_seconds"]
        if job["state"] in ALIVE:
            due = min(due, job["start"] + span if span is not None else due, job.get("limit_end") or due)
    live = [job for job in live if job["state"] not in FINAL]
    down = set(session.meta("down", []))
    cores, gpus = used(session, live)
    free = {n: spec["cores"] - cores[n] for n, spec in config["nodes"].items()}
    free_gpus = {n: spec["gpus"] - gpus[n] for n, spec in config["nodes"].items()}
    full = set()
    for job in live:
        if job["state"] != "PENDING":
            continue
        names = [name for name in job["partition"].split(",") if partition(config, name)]
        reason = _why_not(config, job, [partition(config, name) for name in names])
        if not reason and job["eligible"] > at:
            reason = "BeginTime" if job["restarts"] or job["begin"] else "None"
            due = min(due, job["eligible"])
        if reason:
            _set_reason(session, job, reason)
            continue
        for name in names:
            if name in full or partition(config, name)["state"] != "UP":
                continue
            layout = _place(session, job, name, free=free, free_gpus=free_gpus, down=down)
            if layout:
                _start(session, job, name, layout, at)
                for node, count in layout.items():
                    free[node] -= count
                    free_gpus[node] -= job["gpus"]
                session.put(job)
                store.wake(job["seq"])
                span = config["simulate_seconds"]
                due = min(due, at + span if span is not None else due, job.get("limit_end") or due)
                break
        else:
            _set_reason(session, job, "Priority" if full & set(names) else "Resources")
            full.update(names)
    session.set_meta("due", due)


def _set_reason(session, job, reason):
    if job["reason"] != reason:
        job["reason"] = reason
        session.put(job)


def settle(session, job, ended, order):
    """A run is over: write its row and decide what becomes of the job."""
    at = now()
    config = session.config
    row = {"start": job["start"], "end": at, "layout": job["layout"], "partition_used": job["partition_used"]}
    job["last_nodes"] = list(job["layout"])
    again = (order == "requeue" or (order in ("preempt", "node_fail") and job["requeue"])) and job["again"]
    job["exit_code"], job["exit_signal"] = ended["code"], ended["signal"]
    if again:
        state = {"requeue": "REQUEUED", "preempt": "PREEMPTED", "node_fail": "NODE_FAIL"}[order]
        job["rows"].append(row | {"state": state, "exit_code": 0, "exit_signal": 0})
        job.update(state="PENDING", reason="BeginTime", layout={}, start=None, end=None, order=None, pid=None)
        job.update(restarts=job["restarts"] + 1, eligible=at + config["requeue_delay"], limit_end=None, begin=False)
        if job.pop("hold_next", None):
            job["held"] = "user"
    else:
        job["end"] = at
        job["state"], job["reason"] = _verdict(job, ended, order)
        if order == "finish":
            job["exit_code"], job["exit_signal"] = job.pop("finish_code", 0), 0
            job["state"] = "COMPLETED" if job["exit_code"] == 0 else "FAILED"
            job["reason"] = "None" if job["exit_code"] == 0 else "NonZeroExitCode"
        job["ended_by"] = order
        job["order"] = None
    session.touch()


SIGNAL_WORDS = {1: "Hangup", 2: "Interrupt", 6: "Aborted", 9: "Killed", 11: "Segmentation fault", 15: "Terminated"}


def _verdict(job, ended, order):
    if order in ("cancel", "requeue", "lose"):
        return "CANCELLED", "None"
    if order == "timeout":
        return "TIMEOUT", "TimeLimit"
    if order == "oom":
        return "OUT_OF_MEMORY", "OutOfMemory"
    if order == "preempt":
        return "PREEMPTED", "None"
    if order == "node_fail":
        return "NODE_FAIL", "NodeDown"
    if ended.get("launch_failed"):
        return "FAILED", "JobLaunchFailure"
    if ended["signal"]:
        word = SIGNAL_WORDS.get(ended["signal"], "Unknown signal")
        return "FAILED", f"RaisedSignal:{ended['signal']}({word})"
    return ("FAILED", "NonZeroExitCode") if ended["code"] else ("COMPLETED", "None")


def order(store, session, job, what, **more):
    """Leave an order for the job's supervisor; a job that does not run obeys at once."""
    job.update(more)
    if job["state"] in FINAL:
        return
    if job["state"] == "PENDING":
        if what in ("cancel", "preempt", "lose", "finish"):
            job.update(state="CANCELLED", end=now(), order=None, ended_by="cancel")
            session.touch()
        session.put(job)
        store.wake(job["seq"])
        return
    if what == "lose" or job["order"] is None:
        job["order"] = what
    session.put(job)
    if without_process(session.config, job):
        session.touch()
        schedule(store, session)
    store.wake(job["seq"])


# ---------------------------------------------------------------- processes


def _family(root):
    """The process ids that descend from ``root``, without itself."""
    children = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] != b"Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.append(child)
            todo.append(child)
    return found


def signal_family(root, number):
    family = _family(root)
    for pid in family:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return family


class Supervisor:
    """Carries one job from PENDING to its end. Runs in its own process."""

    def __init__(self, store, seq, dialect):
        self.store = store
        self.seq = seq
        self.dialect = dialect
        self.me = os.getpid()
        self.main = 0
        self.status = None
        self.order = None
        self.kill_at = None

    def run(self):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: no descendant escapes by detaching
        self.fifo = os.open(self.store.job_file(self.seq, "wake"), os.O_RDWR | os.O_NONBLOCK)
        self.ear, mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        with self.store.locked() as session:
            job = session.get(self.seq)
            if job is None:
                return
            job["supervisor"] = self.me
            session.put(job)
        while (job := self.wait_for_start()) is not None:
            if not self.one_run(job):
                return

    def listen(self, timeout):
        """Wait for a word or a child's end. False when the cluster itself is gone."""
        try:
            ready, _, _ = select.select([self.fifo, self.ear], [], [], max(0.0, min(timeout, HEARTBEAT)))
        except InterruptedError:
            ready = []
        for fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)
        return self.store.exists()

    def wait_for_start(self):
        while True:
            with self.store.locked() as session:
                schedule(self.store, session)
                job = session.get(self.seq)
                due = session.meta("due", 0)
            if job is None or job["state"] in FINAL:
                return None
            if job["state"] == "RUNNING":
                return job
            if not self.listen(
                min(due, max(job["eligible"], now() + 0.01) if not job["held"] else due) - now() + 0.002
            ):
                return None

    def one_run(self, job):
        """Run the script once. True when the job is to run again."""
        self.status, self.order, self.kill_at = None, None, None
        failed = self.launch(job)
        deadline = job.get("limit_end")
        while self.status is None and not failed:
            wait = min(t for t in (deadline, self.kill_at, now() + HEARTBEAT) if t is not None) - now()
            if not self.listen(wait):
                signal_family(self.me, signal.SIGKILL)
                return False
            self.reap()
            if self.status is None:
                deadline = self.look(deadline)
        signal_family(self.me, signal.SIGKILL)
        self.reap_all()
        ended = {"code": 0, "signal": 0, "launch_failed": True} if failed else self.ended()
        return self.finish(ended)

    def launch(self, job):
        """Start the script; True when that failed."""
        plan = self.dialect.plan(self.store, job)
        report, write = os.pipe2(os.O_CLOEXEC)
        self.main = os.fork()
        if self.main == 0:
            _exec(plan, write)
        os.close(write)
        word = os.read(report, 10)
        os.close(report)
        with self.store.locked() as session:
            record = session.get(self.seq)
            if record is not None:
                record["pid"] = self.main
                session.put(record)
        return bool(word)

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.main:
                self.status = status

    def reap_all(self):
        for _ in range(200):
            self.reap()
            if not _family(self.me):
                return
            time.sleep(0.01)

    def look(self, deadline):
        """Obey the record: orders, a changed limit, the limit itself, a KILL that is due."""
        with self.store.locked() as session:
            job = session.get(self.seq)
        at = now()
        if job is None or job["order"] == "lose":
            signal_family(self.me, signal.SIGKILL)
            return deadline
        deadline = job.get("limit_end")
        if self.order is None and job["order"] in KILLS:
            self.start_kill(job["order"])
        elif self.order is None and deadline is not None and at >= deadline:
            with self.store.locked() as session:
                job = session.get(self.seq)
                job["order"] = "timeout"
                session.put(job)
            self.start_kill("timeout")
        elif self.order is None and job["order"] is None:
            stopped = job["state"] == "SUSPENDED"
            if stopped != getattr(self, "stopped", False):
                signal_family(self.me, signal.SIGSTOP if stopped else signal.SIGCONT)
                self.stopped = stopped
            for number in job["signals"]:
                signal_family(self.me, number)
            if job["signals"]:
                with self.store.locked() as session:
                    job = session.get(self.seq)
                    job["signals"] = []
                    session.put(job)
        if self.kill_at is not None and at >= self.kill_at:
            signal_family(self.me, signal.SIGKILL)
            self.kill_at = at + 1.0
        return None if self.order else deadline

    def start_kill(self, what):
        self.order = what
        if what in ("node_fail", "oom"):
            signal_family(self.me, signal.SIGKILL)
            return
        signal_family(self.me, signal.SIGCONT)
        signal_family(self.me, signal.SIGTERM)
        self.kill_at = now() + self.store.config["kill_wait"]

    def ended(self):
        if os.WIFSIGNALED(self.status):
            return {"code": 0, "signal": os.WTERMSIG(self.status)}
        return {"code": os.WEXITSTATUS(self.status), "signal": 0}

    def finish(self, ended):
        with self.store.locked() as session:
            job = session.get(self.seq)
            if job is None or job["order"] == "lose":
                session.drop(self.seq)
                session.touch()
                schedule(self.store, session)
                return False
            what = self.order or job["order"]
            job["order"] = what
            delay = session.config["completing"]
            if delay:
                job["state"] = "COMPLETING"
                session.put(job)
        if what in (None, "cancel", "timeout", "oom", "finish"):
            self.dialect.after_run(self.store, job, ended, what)
        if delay:
            time.sleep(delay)
        with self.store.locked() as session:
            job = session.get(self.seq)
            if job is None:
                return False
            settle(session, job, ended, what)
            session.put(job)
            schedule(self.store, session)
            return job["state"] not in FINAL


def _exec(plan, report):
    """In the child: become the job's script. A word on the pipe says that it failed."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.setsid()
        os.umask(plan.get("umask", 0o022))
        os.chdir(plan["cwd"])
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        mode = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if plan.get("append") else os.O_TRUNC)
        out = os.open(plan["stdout"], mode, plan.get("mode", 0o644))
        os.dup2(out, 1)
        err = out if plan["stderr"] == plan["stdout"] else os.open(plan["stderr"], mode, plan.get("mode", 0o644))
        os.dup2(err, 2)
        os.closerange(3, report)
        os.closerange(report + 1, 256)
        os.execve(plan["file"], plan["argv"], plan["env"])
    except BaseException:
        os.write(report, b"failed")
    finally:
        os._exit(127)


def detach(store, seq, dialect):
    """Fork the job's supervisor: a session of its own, no open file of ours, not our child."""
    if os.fork():
        os.wait()
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 1024)
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        Supervisor(Store(store.path), seq, dialect).run()
    except BaseException as error:
        import traceback

        with open(store.job_file(seq, "supervisor.log"), "a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
    finally:
        os._exit(0)


def new_job(**values):
    """A job's record with everything it must have."""
    job = {
        "name": "job",
        "state": "PENDING",
        "reason": "None",
        "cores": 1,
        "nodes_wanted": 1,
        "spread": False,
        "memory": 0,
        "gpus": 0,
        "features": [],
        "hosts_asked": [],
        "hosts_excluded": [],
        "limit": None,
        "begin": False,
        "held": "",
        "blocked": "",
        "still": False,
        "layout": {},
        "last_nodes": [],
        "partition_used": "",
        "start": None,
        "end": None,
        "restarts": 0,
        "run": 0,
        "rows": [],
        "requeue": True,
        "again": True,
        "order": None,
        "ended_by": None,
        "pid": None,
        "supervisor": None,
        "signals": [],
        "exit_code": 0,
        "exit_signal": 0,
        "account": "",
        "qos": "normal",
        "comment": "",
    }
    return job | values


def submit(store, session, job, script, env):
    """Put a new job in the queue and write what it needs. The caller then calls :func:`detach` outside the lock."""
    seq = session.take_id()
    at = now()
    job.update(seq=seq, submit=at, eligible=max(job.get("eligible") or 0, at + session.config["start_delay"]))
    if not session.config["simulate"]:
        mask = os.umask(0)
        try:
            os.mkdir(store.job_file(seq), 0o755)
            os.mkfifo(store.job_file(seq, "wake"), 0o666)
        finally:
            os.umask(mask)
        _write(store.job_file(seq, "script"), script, 0o700)
        _write(store.job_file(seq, "env.json"), json.dumps(env).encode(), 0o600)
    session.put(job)
    session.touch()
    schedule(store, session)
    return session.get(seq)


def _write(path, data, mode):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as out:
        out.write(data)


def node_variables(store, job):
    """What every job finds, whatever the dialect: where it is."""
    node = next(iter(job["layout"]))
    return {"HOSTNAME": node, "FAKESCHED_NODE_ADDRESS": node_address(store.config, node), "FAKESCHED_DIR": store.path}
