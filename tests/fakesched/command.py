"""What every fake command does, whatever its dialect: count the call, suffer the faults, run, answer.

A dialect module has ``COMMANDS`` (name -> function(call) -> exit status), ``down(call, fault)``,
``created_but_timeout(call, fault)``, ``plan(store, job)`` and ``after_run(store, job, ended, order)``.
"""

import importlib
import os
import pwd
import sys
import time

from tests.fakesched import life
from tests.fakesched.store import Store, now

SUBMITS = ("sbatch", "qsub", "bsub")


class Exit(Exception):
    """Leave the command with this status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Call:
    """One invocation: who asks what, and the answer so far."""

    def __init__(self, store, name, argv):
        self.store = store
        self.name = name
        self.argv = argv
        self.env = os.environ
        self.uid = os.getuid()
        self.user = os.environ.get("FAKESCHED_USER") or user_name(self.uid)
        self.out_parts = []
        self.err_parts = []
        self.faults = {}
        self.started = []

    @property
    def config(self):
        return self.store.config

    @property
    def is_admin(self):
        return self.user in self.config["admins"]

    def out(self, text=""):
        self.out_parts.append(text + "\n")

    def err(self, text=""):
        self.err_parts.append(text + "\n")

    def fail(self, text, status):
        self.err(text)
        raise Exit(status)

    def flush(self):
        for stream, parts in ((1, self.out_parts), (2, self.err_parts)):
            data = "".join(parts).encode("utf-8", "surrogateescape")
            parts.clear()
            while data:
                data = data[os.write(stream, data) :]

    def hidden(self):
        """Ids that a missing_from_listing fault leaves out of this call's answer."""
        return {int(fault["job"]) for fault in self.faults.get("missing_from_listing", ())}

    def snapshot(self):
        """Every job, after letting due jobs start."""
        with self.store.locked() as session:
            life.schedule(self.store, session)
            jobs = session.jobs()
        hidden = self.hidden()
        return [job for job in jobs if job["seq"] not in hidden]

    def submit(self, job, script, env, session=None):
        """Create the job; its supervisor starts when the lock is free. Ids of refused jobs are burned by the caller."""
        delay = self.faults.get("delayed_start")
        if delay:
            job["eligible"] = max(job.get("eligible") or 0, now() + float(delay.get("seconds", 60)))
        job.update(user=self.user, uid=self.uid, gid=os.getgid())
        if session is None:
            with self.store.locked() as own:
                job = life.submit(self.store, own, job, script, env)
        else:
            job = life.submit(self.store, session, job, script, env)
        self.started.append(job["seq"])
        return job

    def go_to(self, cluster):
        """Speak to another cluster from here on (Slurm's ``--clusters``)."""
        if not cluster or cluster == self.config["name"]:
            return
        if cluster not in self.config["clusters"]:
            self.fail(f"{self.name}: error: No cluster '{cluster}' known by database.", 1)
        self.store = Store(self.config["clusters"][cluster])

    def knows_user(self, name):
        """Whether the name service of this host knows the account."""
        if name in self.config["users"] or name == self.user:
            return True
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True


def user_name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def main(dialect_name, name):
    """Run one command to its end: the stubs in ``bin`` call this."""
    where = os.environ.get("FAKESCHED_DIR", "")
    store = Store(where)
    if not where or not store.exists():
        sys.stderr.write(f"{name}: FAKESCHED_DIR does not name a fake cluster\n")
        return 250
    dialect = importlib.import_module(f"tests.fakesched.{dialect_name}")
    call = Call(store, name, sys.argv[1:])
    entry = f"{os.getpid()}.{time.monotonic_ns()}"
    where_run = {"id": entry, "command": name, "argv": call.argv, "user": call.user, "time": now()}
    store.log_call(where_run)
    call.faults = store.take_faults(name)
    try:
        status = run(call, dialect)
    finally:
        call.flush()
        for seq in call.started:
            if not call.store.config["simulate"]:
                life.detach(call.store, seq, dialect)
    store.log_call({"id": entry, "rc": status})
    return status


def run(call, dialect):
    """The faults that come before, the command itself, the faults that come after."""
    faults = call.faults
    if "hang" in faults:
        hang()
    if "slow" in faults:
        time.sleep(float(faults["slow"].get("seconds", 1)))
    if "down" in faults and not (call.name == "sacct" and faults["down"]["commands"] is None):
        time.sleep(float(faults["down"].get("delay", 0)))
        return dialect.down(call, faults["down"])
    if "garbage" in faults:
        call.out(faults["garbage"].get("text", "%&/()= 0x7f\ufffd <<<>>> ||| not what you asked for {"))
        return 0
    if "ok_with_error_text" in faults:
        call.err(faults["ok_with_error_text"].get("text", f"{call.name}: error: something did not work"))
        return 0
    if "refuse" in faults:
        call.err(faults["refuse"].get("text", f"{call.name}: error: refused"))
        return int(faults["refuse"].get("code", 1))
    try:
        status = dialect.COMMANDS[call.name](call)
    except Exit as leave:
        status = leave.status
    return after(call, dialect, status)


def after(call, dialect, status):
    faults = call.faults
    if "created_but_timeout" in faults and call.name in SUBMITS and call.started:
        call.out_parts.clear()
        call.err_parts.clear()
        for seq in call.started:
            if not call.config["simulate"]:
                life.detach(call.store, seq, dialect)
        call.started.clear()
        time.sleep(float(faults["created_but_timeout"].get("delay", 0)))
        if faults["created_but_timeout"].get("how", dialect.TIMEOUT_HOW) == "hang":
            hang()
        status = dialect.created_but_timeout(call)
    if "banner" in faults:
        call.out_parts.insert(0, faults["banner"].get("text", "*** Maintenance on Friday! ***\n"))
    if "truncated" in faults:
        text = "".join(call.out_parts)
        keep = faults["truncated"].get("keep", len(text) // 2)
        call.out_parts[:] = [text[:keep]]
    if "exit_code" in faults:
        status = int(faults["exit_code"]["code"])
    return status


def hang():
    """Never answer."""
    while True:
        time.sleep(3600)


# ---------------------------------------------------------------- option parsing


class Options(dict):
    """Parsed options (long name -> value), ``args`` what is left."""

    args: list


def parse(argv, short, long, bad_short, bad_long, *, repeat=()):
    """A getopt_long of our own, which costs no import.

    ``short`` maps a letter, ``long`` a name, to (key, takes a value). ``bad_short`` and ``bad_long`` are called with what is unknown.
    The first argument that is no option ends the options, as ``--`` does. Values of the keys in ``repeat`` add up, a line for each.
    """

    def keep(key, value):
        found[key] = f"{found[key]}\n{value}" if key in repeat and key in found else value

    found = Options()
    todo = list(argv)
    while todo:
        word = todo[0]
        if word == "--":
            todo.pop(0)
            break
        if word == "-" or not word.startswith("-"):
            break
        todo.pop(0)
        if word.startswith("--"):
            name, eq, value = word[2:].partition("=")
            fits = [name] if name in long else [full for full in long if full.startswith(name)]
            if len(fits) != 1:
                bad_long(name)
                continue
            key, takes = long[fits[0]]
            if takes and not eq:
                value = todo.pop(0) if todo else ""
            keep(key, value if takes else (value or True))
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in short:
                bad_short(letter)
                continue
            key, takes = short[letter]
            if takes:
                keep(key, letters or (todo.pop(0) if todo else ""))
                letters = ""
            else:
                found[key] = True
    found.args = todo
    return found


def compress(names):
    """``n1 n2 n3 g1`` -> ``g1,n[1-3]``, as Slurm writes a list of hosts."""
    groups = {}
    for name in names:
        stem = name.rstrip("0123456789")
        groups.setdefault(stem, []).append(name[len(stem) :])
    parts = []
    for stem in sorted(groups):
        numbers = sorted((n for n in groups[stem] if n), key=lambda n: (int(n), len(n)))
        if "" in groups[stem]:
            parts.append(stem)
        spans = []
        for number in numbers:
            if spans and int(number) == int(spans[-1][1]) + 1 and len(number) >= len(spans[-1][1]):
                spans[-1][1] = number
            else:
                spans.append([number, number])
        texts = [low if low == high else f"{low}-{high}" for low, high in spans]
        if len(numbers) == 1:
            parts.append(stem + numbers[0])
        elif texts:
            parts.append(f"{stem}[{','.join(texts)}]")
    return ",".join(parts)
