"""Slurm's commands: squeue, scancel and sacct; sbatch, sinfo and scontrol are beside it."""

import os

from tests.fakesched import life, slurm_site, slurm_submit
from tests.fakesched.command import compress, parse, user_name
from tests.fakesched.slurm_words import (
    DEFAULT_FORMAT,
    FIELDS,
    LONG_NAMES,
    SHORT,
    exit_pair,
    in_memory,
    line,
    name_format,
    percent_format,
    shown_partition,
    shown_state,
    span,
    stamp,
    unknown,
    used_seconds,
)
from tests.fakesched.store import FINAL, now

TIMEOUT_HOW = "error"
REFUSED = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"
plan = slurm_submit.plan


def after_run(store, job, ended, order):
    """Output was written live; nothing is left to do."""


def down(call, fault):
    """The client's words when the controller (or, for sacct, slurmdbd) cannot be reached; 22.05's, observed."""
    why = TIMED_OUT if fault.get("kind") == "timeout" else REFUSED
    words, status = f"slurm_load_jobs error: {why}", 1
    match call.name, ([*call.argv, "", ""])[:2]:
        case "sbatch", _:
            words = f"sbatch: error: Batch job submission failed: {why}"
        case "sinfo", _:
            words = f"slurm_load_partitions: {why}"
        case "scancel", _ if ids := [a for a in call.argv if a[:1].isdigit()]:
            words = "\n".join(f"scancel: error: Kill job error on job id {one}: {why}" for one in ids)
            status = 140 if fault.get("kind") == "timeout" else 8
        case "sacct", _:
            words = (
                "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to "
                "host:127.0.0.1:6819: Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
                "sacct: error: Problem talking to the database: Connection refused"
            )
        case "scontrol", ["ping", _]:
            call.out(f"Slurmctld(primary) at {call.config['submit_host']} is DOWN")
            call.out("*" * 41 + "\n** RESTORE SLURMCTLD DAEMON TO SERVICE **\n" + "*" * 41)
            return 1
        case "scontrol", ["show", what] if not what.startswith("job"):
            kind = (
                "load_partitions"
                if what.startswith("part")
                else "load_node"
                if what.startswith("node")
                else "load_ctl_conf"
            )
            words = f"slurm_{kind} error: {why}"
        case "scontrol", [verb, one] if verb not in ("show", "-o"):
            words = f"{why} for job {one}"
    call.err(words)
    return status


def created_but_timeout(call):
    call.err(f"sbatch: error: Batch job submission failed: {TIMED_OUT}")
    return 1


# ---------------------------------------------------------------- squeue

SQUEUE_SHORT = {
    "h": ("noheader", False), "o": ("format", True), "O": ("Format", True), "j": ("jobs", True), "u": ("user", True),
    "t": ("states", True), "n": ("name", True), "p": ("partition", True), "r": ("array", False), "a": ("all", False),
    "S": ("sort", True), "M": ("clusters", True), "l": ("long", False), "w": ("nodelist", True), "A": ("account", True),
    "q": ("qos", True), "V": ("version", False),
}  # fmt: skip
SQUEUE_LONG = {name: (name, takes) for name, takes in SQUEUE_SHORT.values()} | {
    "me": ("me", False),
    "start": ("start", False),
    "json": ("json", False),
    "local": ("local", False),
    "federation": ("federation", False),
}


def wanted_states(call, text):
    if text.lower() == "all":
        return set(SHORT)
    found = set()
    for word in text.upper().split(","):
        state = next((long for long, short in SHORT.items() if word in (long, short)), None)
        if state is None:
            call.fail(
                f"squeue: error: Invalid job state specified: {word.lower() if word.isupper() else word}\n"
                f"squeue: error: Valid job states include: {','.join(SHORT)}\n",
                1,
            )
        found.add(state)
    return found


def ids(call, text, words="Invalid job id: "):
    found = []
    for word in text.replace(" ", ",").split(","):
        if not word:
            continue
        base = word.split("_")[0].split("+")[0]
        if not base.isdigit():
            call.fail(f"{call.name}: error: {words}{word}", 1)
        found.append(int(base))
    return found


def squeue(call):
    opts = parse(call.argv, SQUEUE_SHORT, SQUEUE_LONG, *unknown(call))
    if opts.get("version"):
        call.out(f"slurm-wlm {call.config['slurm_version']}")
        return 0
    if opts.get("json"):
        call.fail("squeue: fatal: JSON plugin loading failed.", 1)
    call.go_to(opts.get("clusters"))
    env = os.environ
    asked = ids(call, opts["jobs"]) if "jobs" in opts else None
    states = opts.get("states") or env.get("SQUEUE_STATES")
    chosen = wanted_states(call, states) if states else set(SHORT) - set(FINAL)
    users = [u for u in (opts.get("user") or env.get("SQUEUE_USERS") or "").split(",") if u]
    if opts.get("me"):
        users.append(call.user)
    for name in users:
        if not name.isdigit() and not call.knows_user(name):
            call.err(f"squeue: error: Invalid user: {name}\n")
    jobs = in_memory(call, call.snapshot())
    if asked is not None and len(asked) == 1 and not any(job["seq"] == asked[0] for job in jobs):
        call.fail("slurm_load_jobs error: Invalid job id specified", 1)
    rows = [job for job in jobs if (asked is None or job["seq"] in asked) and shown_state(job) in chosen]
    rows = [job for job in rows if not users or job["user"] in users or str(job["uid"]) in users]
    for key, field in (("name", "name"), ("account", "account"), ("qos", "qos")):
        if key in opts:
            rows = [job for job in rows if job[field] in opts[key].split(",")]
    if "partition" in opts:
        rows = [job for job in rows if set(shown_partition(job).split(",")) & set(opts["partition"].split(","))]
    rows.sort(key=lambda job: (shown_partition(job), SHORT[shown_state(job)], job["seq"]))
    if "Format" in opts:
        pieces = name_format(call, opts["Format"], LONG_NAMES, "squeue")
    else:
        text = opts.get("format") or env.get("SQUEUE_FORMAT") or DEFAULT_FORMAT
        pieces = percent_format(call, text, FIELDS, "squeue")
    if opts.get("clusters") and not opts.get("noheader"):
        call.out(f"CLUSTER: {call.config['name']}")
    if not opts.get("noheader"):
        call.out(line(pieces, lambda key: FIELDS[key][0]))
    for job in rows:
        call.out(line(pieces, lambda key, job=job: FIELDS[key][2](job)))
    return 0


# ---------------------------------------------------------------- scancel


def scancel(call):
    short = {"u": ("user", True), "n": ("name", True), "t": ("state", True), "v": ("verbose", False), "Q": ("quiet", False),
             "s": ("signal", True), "b": ("batch", False), "f": ("full", False), "p": ("partition", True), "M": ("clusters", True)}  # fmt: skip
    opts = parse(call.argv, short, {n: (n, t) for n, t in short.values()} | {"me": ("me", False)}, *unknown(call))
    call.go_to(opts.get("clusters"))
    filters = {key for key in ("user", "name", "state", "partition", "me") if key in opts}
    if not opts.args and not filters:
        call.fail("scancel: error: No job identification provided", 1)
    asked = []
    for word in opts.args:
        if not word.split("_")[0].isdigit():
            call.fail(f"scancel: error: Invalid job id {word}", 1)
        asked.append(int(word.split("_")[0]))
    status = 0
    with call.store.locked() as session:
        jobs = [session.get(seq) for seq in asked] if asked else session.jobs(active=True)
        for number, job in enumerate(jobs):
            if job is None or job["state"] in FINAL:
                if opts.get("verbose"):
                    seq = job["seq"] if job else asked[number]
                    call.err(f"scancel: Terminating job {seq}")
                    call.err(f"scancel: error: Kill job error on job id {seq}: Invalid job id specified")
                continue
            if filters and not _matches(call, job, opts):
                continue
            if job["user"] != call.user and not call.is_admin:
                if not filters:
                    call.err(f"scancel: error: Kill job error on job id {job['seq']}: Access/permission denied")
                    status = 210
                continue
            if opts.get("signal") and opts["signal"].upper() not in ("KILL", "9"):
                job["signals"].append(_signal(opts["signal"]))
                session.put(job)
                call.store.wake(job["seq"])
            else:
                life.order(call.store, session, job, "cancel", cancelled_by=call.uid)
        life.schedule(call.store, session)
    return status


def _signal(word):
    import signal

    word = word.upper().removeprefix("SIG")
    return int(word) if word.isdigit() else int(getattr(signal, f"SIG{word}"))


def _matches(call, job, opts):
    user = call.user if "me" in opts else opts.get("user")
    return (
        (user is None or job["user"] == user)
        and ("name" not in opts or job["name"] == opts["name"])
        and ("state" not in opts or shown_state(job) in wanted_states(call, opts["state"]))
        and ("partition" not in opts or job["partition"] == opts["partition"])
    )


# ---------------------------------------------------------------- sacct


def sacct_state(row):
    if row["state"] == "CANCELLED" and row.get("cancelled_by") is not None:
        return f"CANCELLED by {row['cancelled_by']}"
    return row["state"]


def _sacct_start(row):
    if row["start"]:
        return stamp(row["start"])
    return "Unknown" if row["state"] == "PENDING" else "None"


def _sacct_tres(row):
    if not row["layout"]:
        return ""
    parts = [f"billing={row['cores']}", f"cpu={row['cores']}"] + ([f"gres/gpu={row['gpus']}"] if row["gpus"] else [])
    return ",".join([*parts, f"mem={row['memory'] or 1000}M", f"node={len(row['layout'])}"])


SACCT = {
    "JobID": (12, lambda r: f"{r['seq']}{r['step']}"),
    "JobIDRaw": (12, lambda r: f"{r['seq']}{r['step']}"),
    "JobName": (10, lambda r: r["name"] if not r["step"] else r["step"][1:]),
    "User": (9, lambda r: "" if r["step"] else r["user"]),
    "UID": (6, lambda r: str(r["uid"])),
    "Group": (9, lambda r: user_name(r["gid"])),
    "Account": (10, lambda r: r["account"]),
    "Cluster": (10, lambda r: r["cluster"]),
    "Partition": (10, lambda r: "" if r["step"] else r["partition_used"] or r["partition"]),
    "QOS": (10, lambda r: r["qos"]),
    "State": (10, sacct_state),
    "ExitCode": (8, lambda r: "0:0" if r["state"] in ("CANCELLED", "TIMEOUT") and not r["step"] else exit_pair(r)),
    "DerivedExitCode": (15, lambda r: "0:0"),
    "Submit": (19, lambda r: stamp(r["submit"])),
    "Eligible": (19, lambda r: stamp(r["submit"])),
    "Start": (19, _sacct_start),
    "End": (19, lambda r: stamp(r["end"], "Unknown")),
    "Elapsed": (10, lambda r: span(used_seconds(r), wide=True)),
    "ElapsedRaw": (10, lambda r: str(used_seconds(r))),
    "Timelimit": (10, lambda r: "" if r["step"] else span(r["limit"], wide=True)),
    "TimelimitRaw": (12, lambda r: "UNLIMITED" if r["limit"] is None else str(r["limit"] // 60)),
    "NodeList": (15, lambda r: compress(r["layout"]) or "None assigned"),
    "NNodes": (8, lambda r: str(max(1, len(r["layout"])))),
    "NCPUS": (10, lambda r: str(r["cores"] if r["layout"] else 0)),
    "AllocCPUS": (10, lambda r: str(r["cores"] if r["layout"] else 0)),
    "ReqCPUS": (8, lambda r: str(r["cores"])),
    "ReqMem": (10, lambda r: f"{r['memory'] or 1000}M"),
    "AllocTRES": (10, _sacct_tres),
    "ReqTRES": (10, lambda r: _sacct_tres(r | {"layout": r["layout"] or {"": 1}})),
    "Reason": (
        20,
        lambda r: r["reason"] if r["state"] == "PENDING" or r["reason"].startswith("JobHeld") else "None",
    ),
    "Comment": (14, lambda r: r["comment"]),
    "WorkDir": (30, lambda r: r["cwd"]),
    "MaxRSS": (10, lambda r: ""),
}
SACCT_NAMES = {name.lower(): name for name in SACCT}


def sacct_rows(call, job, *, duplicates, steps):
    """The accounting rows of one job: its earlier runs, and the newest."""
    config = call.config
    late = now() - config["accounting_delay"]
    base = job | {"cluster": config["name"], "step": ""}
    if job["submit"] > late:
        return []
    rows = [base | row for row in job["rows"]]
    if not rows or job["state"] != "PENDING":
        rows.append(base)
    newest = rows[-1]
    if newest["end"] and newest["end"] > late and newest["start"]:
        newest.update(state="RUNNING", end=None, exit_code=0, exit_signal=0)
    if newest["state"] in ("COMPLETING", "SUSPENDED"):
        newest["state"] = "RUNNING" if newest["state"] == "COMPLETING" else "SUSPENDED"
    found = []
    for row in rows if duplicates else rows[-1:]:
        found.append(row)
        if steps and row["start"]:
            state = "CANCELLED" if row["state"] in ("CANCELLED", "TIMEOUT", "REQUEUED", "PREEMPTED") else row["state"]
            found.append(row | {"step": ".batch", "state": state, "cancelled_by": None})
    return found


SACCT_SHORT = {
    "j": ("jobs", True), "X": ("allocations", False), "P": ("parsable2", False), "p": ("parsable", False), "n": ("noheader", False),
    "o": ("format", True), "u": ("user", True), "S": ("starttime", True), "E": ("endtime", True), "s": ("state", True),
    "D": ("duplicates", False), "a": ("allusers", False), "A": ("accounts", True), "M": ("clusters", True), "r": ("partition", True),
}  # fmt: skip


def sacct(call):
    long = {name: (name, takes) for name, takes in SACCT_SHORT.values()} | {
        "name": ("name", True),
        "delimiter": ("delimiter", True),
    }
    opts = parse(call.argv, SACCT_SHORT, long, *unknown(call))
    call.go_to(opts.get("clusters"))
    if not call.config["accounting"]:
        call.fail("Slurm accounting storage is disabled", 1)
    asked = None
    if "jobs" in opts:
        for word in opts["jobs"].split(","):
            if not word.split("_")[0].split(".")[0].isdigit():
                call.fail(f"sacct: fatal: Bad job/step specified: {word}", 1)
        asked = {int(word.split("_")[0].split(".")[0]) for word in opts["jobs"].split(",")}
    text = opts.get("format") or "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"
    names = []
    for word in text.split(","):
        key = word.partition("%")[0].lower()
        if key not in SACCT_NAMES:
            call.fail(f'sacct: fatal: Invalid field requested: "{word}"', 1)
        names.append(SACCT_NAMES[key])
    users = set(opts["user"].split(",")) if "user" in opts else None
    if users is None and asked is None and not opts.get("allusers") and not call.is_admin:
        users = {call.user}
    jobs = [
        job
        for job in call.snapshot()
        if (asked is None or job["seq"] in asked) and (users is None or job["user"] in users)
    ]
    if "name" in opts:
        jobs = [job for job in jobs if job["name"] in opts["name"].split(",")]
    rows = [
        row
        for job in jobs
        for row in sacct_rows(call, job, duplicates="duplicates" in opts, steps="allocations" not in opts)
    ]
    if "state" in opts:
        chosen = {word.upper() for word in opts["state"].split(",")}
        rows = [row for row in rows if {row["state"], SHORT.get(row["state"], "")} & chosen]
    mark = opts.get("delimiter", "|")
    packed = opts.get("parsable2") or opts.get("parsable")
    tail = mark if opts.get("parsable") else ""

    def show(values):
        if packed:
            call.out(mark.join(values) + tail)
        else:
            cells = zip(values, names, strict=True)
            call.out(
                "".join(_cell(value, SACCT[name][0], left=name.startswith("JobID")) + " " for value, name in cells)
            )

    if not opts.get("noheader"):
        show(names)
        if not packed:
            call.out("".join("-" * SACCT[name][0] + " " for name in names))
    for row in rows:
        show([SACCT[name][1](row) for name in names])
    return 0


def _cell(value, width, *, left):
    if len(value) > width:
        value = value[: width - 1] + "+"
    return value.ljust(width) if left else value.rjust(width)


COMMANDS = {
    "sbatch": slurm_submit.sbatch,
    "squeue": squeue,
    "scancel": scancel,
    "sacct": sacct,
    "sinfo": slurm_site.sinfo,
    "scontrol": slurm_site.scontrol,
}
