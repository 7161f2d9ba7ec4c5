"""podman and docker: the commands that a container engine's dialect uses, on one machine without a queue, in words recorded from the real ones.

A container is a job that is held until it is started; it takes no core from anybody. Its first process runs on this machine as it is: there is
no image and nothing is mounted or confined. ``id`` knows the cluster's users beside this machine's.
"""

import hashlib
import json
import os
from datetime import UTC, datetime

from tests.fakesched import life
from tests.fakesched.command import parse
from tests.fakesched.store import FINAL, now

TIMEOUT_HOW = "hang"
FIRST_UID = 20000
TAKE = (
    "name label entrypoint workdir user group-add userns cpus memory memory-swap mount volume network pull cap-drop security-opt env gpus "
    "device ulimit cgroups pids-limit shm-size format filter time"
)
LONG = {name: (name, True) for name in TAKE.split()} | {
    name: (name, False) for name in ("all", "quiet", "no-trunc", "force")
}
SHORT = {"t": ("time", True), "f": ("force", False), "a": ("all", False), "q": ("quiet", False)}
CODES = {"CANCELLED": 143, "TIMEOUT": 124, "OUT_OF_MEMORY": 137, "NODE_FAIL": 137, "PREEMPTED": 143}
WORDS = {"RUNNING": "running", "SUSPENDED": "paused", "COMPLETING": "removing", "PENDING": "created"}


def down(call, fault):
    """The engine's socket is there, and nobody behind it."""
    del fault
    if call.name == "id":
        return who(call)
    if call.name == "docker":
        call.err("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
        return 1
    call.err(
        "Cannot connect to Podman. Please verify your connection to the Linux system using `podman system connection list`"
    )
    call.err(
        "Error: unable to connect to Podman socket: dial unix /run/podman/podman.sock: connect: connection refused"
    )
    return 125


def created_but_timeout(call):
    """The container is there, the answer is not."""
    return fail(call, "context deadline exceeded")


def fail(call, text):
    call.err(f"Error response from daemon: {text}" if call.name == "docker" else f"Error: {text}")
    return 1 if call.name == "docker" else 125


def hex_id(call, seq):
    return hashlib.sha256(f"{call.store.path}:{seq}".encode()).hexdigest()


def named(call, session, word):
    """The container of this id or name."""
    return next((job for job in session.jobs() if word in (job["name"], hex_id(call, job["seq"]))), None)


# ---------------------------------------------------------------- commands


def engine(call):
    words = [word for word in call.argv if not word.startswith(("--host=", "--url="))]
    if words[:1] == ["container"]:
        words = words[1:]
    verb = VERBS.get(words[0] if words else "")
    if verb is None:
        return fail(call, f"unrecognized command `{call.name} {' '.join(words[:1])}`")
    wrong = []
    options = parse(
        words[1:],
        SHORT,
        LONG,
        wrong.append,
        wrong.append,
        repeat=("label", "filter", "env", "mount", "volume", "group-add"),
    )
    if wrong:
        call.err(f"unknown flag: --{wrong[0]}" if call.name == "docker" else f"Error: unknown flag: --{wrong[0]}")
        return 125
    return verb(call, options)


def create(call, options):
    image, *command = options.args
    if image not in call.config.get("images", ["lab:1"]):
        return fail(call, f"No such image: {image}" if call.name == "docker" else f"{image}: image not known")
    labels = dict(line.partition("=")[::2] for line in options.get("label", "").splitlines())
    uid = options.get("user", "").partition(":")[0]
    argv = [options["entrypoint"], *command] if "entrypoint" in options else command
    with call.store.locked() as session:
        taken = named(call, session, options["name"])
        if taken is not None:
            other = hex_id(call, taken["seq"])
            if call.name == "docker":
                text = f'Conflict. The container name "/{options["name"]}" is already in use by container "{other}".'
            else:
                text = (
                    f'creating container storage: the container name "{options["name"]}" is already in use by {other}.'
                )
            return fail(call, text)
        record = life.new_job(
            name=options["name"], held="created", cores=0, partition=call.config["partitions"][0]["name"], labels=labels, command=argv,
            network=options.get("network", "bridge"), cwd="/", uid=os.getuid(),
        )  # fmt: skip
        job = call.submit(record, b"", {}, session)
        users = call.config["users"]
        if uid.isdigit() and FIRST_UID <= int(uid) < FIRST_UID + len(users):
            job["user"] = users[int(uid) - FIRST_UID]
        session.put(job)
    call.out(hex_id(call, job["seq"]))
    return 0


def start(call, options):
    (word,) = options.args
    with call.store.locked() as session:
        job = named(call, session, word)
        if job is None:
            return unknown(call, word)
        job["held"] = ""
        session.put(job)
        session.touch()
        life.schedule(call.store, session)
    call.store.wake(job["seq"])
    call.out(word)
    return 0


def unknown(call, word):
    text = (
        f"No such container: {word}"
        if call.name == "docker"
        else f'no container with name or ID "{word}" found: no such container'
    )
    return fail(call, text)


def stop(call, options):
    """podman stops none of several if it does not know one."""
    with call.store.locked() as session:
        found = {word: named(call, session, word) for word in options.args}
    missing = [word for word, job in found.items() if job is None]
    if missing and call.name == "podman":
        return unknown(call, missing[0])
    for word, job in found.items():
        if job is not None:
            with call.store.locked() as session:
                life.order(call.store, session, session.get(job["seq"]), "cancel")
            call.out(word)
    for word in missing:
        unknown(call, word)
    return 1 if missing else 0


def remove(call, options):
    (word,) = options.args
    with call.store.locked() as session:
        job = named(call, session, word)
        if job is None:
            return unknown(call, word)
        if job["state"] not in (*FINAL, "PENDING"):
            return fail(
                call,
                f"You cannot remove a running container {word}. Stop the container before attempting removal or force remove",
            )
        session.drop(job["seq"])
    call.store.wake(job["seq"])
    call.out(word)
    return 0


def prune(call, options):
    hours = next(float(line[6:-1]) for line in options["filter"].splitlines() if line.startswith("until="))
    with call.store.locked() as session:
        for job in session.jobs():
            if job["state"] in FINAL and job["submit"] < now() - hours * 3600:
                session.drop(job["seq"])
    return 0


def list_ids(call, options):
    label = options.get("filter", "").removeprefix("label=")
    for job in reversed(call.snapshot()):
        if label in job.get("labels", {}):
            call.out(hex_id(call, job["seq"]))
    return 0


def inspect(call, options):
    jobs = {key: job for job in call.snapshot() for key in (job["name"], hex_id(call, job["seq"]))}
    missing = []
    for word in options.args:
        if word in jobs:
            call.out(shown(call, jobs[word], options["format"]))
        else:
            missing.append(word)
    for at, word in enumerate(reversed(missing)):
        if call.name == "docker":
            call.err(f"Error response from daemon: No such container: {word}")
        else:
            call.err(f"{'Error:' if at == len(missing) - 1 else 'error'} inspecting object: no such container {word}")
    return (1 if call.name == "docker" else 125) if missing else 0


def shown(call, job, template):
    """What the two templates of the dialect come to."""
    status = "exited" if job["state"] in FINAL and job["run"] else WORDS.get(job["state"], "created")
    if template == "{{.State.Status}}":
        return status
    if not template.startswith('{"id":'):
        return template
    code = CODES.get(job["state"]) if job["state"] != "FAILED" else job["exit_code"] or 128 + job["exit_signal"]
    state = {
        "Status": status, "Running": status == "running", "Paused": status == "paused", "Restarting": False, "Dead": False, "Pid": job["pid"] or 0,
        "OOMKilled": job["state"] == "OUT_OF_MEMORY", "ExitCode": (code or 0) if status == "exited" else 0, "Error": "",
        "StartedAt": _time(job["start"]), "FinishedAt": _time(job["end"] if status == "exited" else None),
    }  # fmt: skip
    docker = call.name == "docker"
    return json.dumps({
        "id": hex_id(call, job["seq"]), "name": ("/" if docker else "") + job["name"], "created": _time(job["submit"]), "state": state,
        "labels": job["labels"] or ({} if docker else None), "networks": {job["network"]: {"IPAddress": ""}} if docker else None,
    })  # fmt: skip


def _time(seconds):
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z")


def info(call, options):
    node = next(iter(call.config["nodes"].values()))
    del options
    call.out(f"{node['cores']} {node['memory'] * 2**20}")
    return 0


def who(call):
    """``id -u``, ``-g``, ``-G``, ``-un`` of somebody."""
    option, *rest = call.argv
    name = rest[-1] if rest else call.user
    users = call.config["users"]
    if name not in users:
        os.execv("/usr/bin/id", ["id", *call.argv])
    call.out(name if "n" in option else str(FIRST_UID + users.index(name)))
    return 0


VERBS = {
    "create": create,
    "start": start,
    "stop": stop,
    "rm": remove,
    "prune": prune,
    "ps": list_ids,
    "inspect": inspect,
    "info": info,
}
COMMANDS = {"podman": engine, "docker": engine, "id": who}


# ---------------------------------------------------------------- running


def plan(store, job):
    """The first process, which finds nothing of the caller's environment."""
    log = store.job_file(job["seq"], "log")
    env = {"PATH": store.config["node_path"], **life.node_variables(store, job)}
    program = job["command"][0]
    found = (
        program
        if "/" in program
        else next(
            (f"{place}/{program}" for place in env["PATH"].split(":") if os.path.exists(f"{place}/{program}")), program
        )
    )
    return {"file": found, "argv": job["command"], "env": env, "cwd": "/", "stdout": log, "stderr": log}


def after_run(store, job, ended, order):
    """Nothing: ``inspect`` reads the record."""
    del store, job, ended, order
