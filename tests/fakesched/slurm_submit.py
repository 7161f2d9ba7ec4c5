"""sbatch: options from the command line, the environment and the script, every refusal a configuration can express; and how a job runs."""

import json
import os
import sys

from tests.fakesched import life
from tests.fakesched.command import parse
from tests.fakesched.store import now

SHORT = {
    "p": ("partition", True), "t": ("time", True), "J": ("job-name", True), "n": ("ntasks", True), "c": ("cpus-per-task", True),
    "N": ("nodes", True), "A": ("account", True), "q": ("qos", True), "o": ("output", True), "e": ("error", True), "D": ("chdir", True),
    "H": ("hold", False), "Q": ("quiet", False), "C": ("constraint", True), "w": ("nodelist", True), "x": ("exclude", True),
    "d": ("dependency", True), "a": ("array", True), "G": ("gpus", True), "b": ("begin", True), "M": ("clusters", True), "W": ("wait", False),
    "V": ("version", False), "i": ("input", True), "v": ("verbose", False), "k": ("no-kill", False), "s": ("oversubscribe", False),
}  # fmt: skip
LONG = {name: (name, takes) for name, takes in SHORT.values()} | {
    name: (name, takes)
    for takes, names in (
        (True, ("mem mem-per-cpu mem-per-gpu gres gpus-per-node gpus-per-task export export-file comment reservation signal wrap mail-type "
               "mail-user ntasks-per-node open-mode nice licenses tmp cpus-per-gpu gpu-bind get-user-env deadline time-min priority")),
        (False, "parsable requeue no-requeue test-only exclusive"),
    )
    for name in names.split()
}  # fmt: skip
SBATCH_ENV = {
    "PARTITION": "partition", "TIMELIMIT": "time", "ACCOUNT": "account", "JOB_NAME": "job-name", "QOS": "qos", "OUTPUT": "output",
    "ERROR": "error", "REQUEUE": "requeue", "NO_REQUEUE": "no-requeue", "EXPORT": "export", "RESERVATION": "reservation",
    "CONSTRAINT": "constraint", "GRES": "gres", "GPUS": "gpus", "MEM_PER_NODE": "mem", "MEM_PER_CPU": "mem-per-cpu", "WAIT": "wait",
    "EXCLUSIVE": "exclusive", "CLUSTERS": "clusters",
}  # fmt: skip
FAILED = "sbatch: error: Batch job submission failed: "
UNITS = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def parse_time(text):
    """Seconds, rounded up to whole minutes; None where Slurm would not understand, "" for no limit."""
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return 0
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) > 3 or (dash and not days.isdigit()):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        h, m, s = ([*numbers, 0, 0])[:3]
    else:
        h, m, s = {1: (0, numbers[0], 0), 2: (0, *numbers)[:3], 3: tuple(numbers)}[len(numbers)]
    seconds = int(days or 0) * 86400 + h * 3600 + m * 60 + s
    return -(-seconds // 60) * 60


def memory(text):
    unit = text[-1:].upper() if not text[-1:].isdigit() else ""
    number = text[: len(text) - len(unit)]
    if unit not in UNITS or not number.isdigit():
        return None
    return int(int(number) * UNITS[unit])


def expand(text):
    """``n[1-2,07],g1`` -> n1 n2 n07 g1."""
    names, depth, word = [], 0, ""
    for letter in text + ",":
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            names += _expand_one(word) if word else []
            word = ""
        else:
            word += letter
    return names


def _expand_one(word):
    stem, bracket, rest = word.partition("[")
    if not bracket:
        return [word]
    inside, _, tail = rest.partition("]")
    found = []
    for part in inside.split(","):
        low, dash, high = part.partition("-")
        numbers = range(int(low), int(high) + 1) if dash else [int(low)]
        found += [
            f"{stem}{number:0{len(low)}}{end}" for number in numbers for end in (_expand_one(tail) if tail else [""])
        ]
    return found


# ---------------------------------------------------------------- reading what was asked


def _unknown(call):
    def letter(what):
        call.fail(f"sbatch: invalid option -- '{what}'\nTry \"sbatch --help\" for more information", 255)

    def name(what):
        call.fail(f"sbatch: unrecognized option '--{what}'\nTry \"sbatch --help\" for more information", 255)

    return letter, name


def _script(call, opts):
    if "wrap" in opts:
        return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{opts['wrap']}\n".encode()
    if opts.args:
        path = os.path.join(opts.get("chdir", ""), opts.args[0]) if not os.path.exists(opts.args[0]) else opts.args[0]
        try:
            with open(path, "rb") as text:
                data = text.read()
        except OSError:
            call.fail(f"sbatch: error: Unable to open file {opts.args[0]}", 1)
    else:
        data = sys.stdin.buffer.read()
    _check_script(call, data)
    return data


def _check_script(call, data):
    if not data:
        call.fail("sbatch: error: Batch script is empty!", 1)
    if not data.strip():
        call.fail("sbatch: error: Batch script contains only whitespace!", 1)
    if not data.startswith(b"#!"):
        call.fail(
            "sbatch: error: This does not look like a batch script.  The first\n"
            "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
            "sbatch: error: For instance: #!/bin/sh",
            1,
        )
    if b"\0" in data:
        call.fail(
            "sbatch: error: The Slurm controller does not allow scripts that\n"
            "sbatch: error: contain a NULL character '\\0'.",
            1,
        )
    if b"\r\n" in data:
        call.fail(
            "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
            "sbatch: error: instead of expected UNIX line breaks (\\n).",
            1,
        )


def words(text):
    """A directive's words, with quotes as in a shell; imports nothing unless it must."""
    if '"' in text or "'" in text or "\\" in text:
        import shlex

        return shlex.split(text, comments=True)
    return text.partition(" #")[0].split()


def directives(data, mark):
    """The words of the directives, up to the first line that is a command."""
    found = []
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        if line.startswith(mark):
            found += words(line[len(mark) :])
        elif line.strip() and not line.startswith("#"):
            break
    return found


def options(call):
    cli = parse(call.argv, SHORT, LONG, *_unknown(call))
    if cli.get("version"):
        return cli, b""
    script = _script(call, cli)
    merged = parse(directives(script, "#SBATCH "), SHORT, LONG, *_unknown(call))
    for name, key in SBATCH_ENV.items():
        if f"SBATCH_{name}" in os.environ:
            merged[key] = os.environ[f"SBATCH_{name}"]
    if "requeue" in cli or "no-requeue" in cli:
        merged.pop("requeue", None)
        merged.pop("no-requeue", None)
    merged.update(cli)
    merged.args = cli.args
    return merged, script


def _number(call, opts, key, default):
    text = str(opts.get(key, default))
    if not text.isdigit() or text == "0":
        call.fail(f'sbatch: error: Invalid numeric value "{text}" for --{key}.', 1)
    return int(text)


def _gpus(call, opts):
    wanted = 0
    for part in opts.get("gres", "").split(","):
        if not part:
            continue
        bits = part.removeprefix("gres:").removeprefix("gres/").split(":")
        if bits[0] != "gpu":
            call.fail("sbatch: error: Invalid generic resource (gres) specification", 1)
        wanted = max(wanted, int(bits[-1]) if bits[-1].isdigit() else 1)
    for key in ("gpus", "gpus-per-node", "gpus-per-task"):
        if key in opts:
            last = opts[key].split(":")[-1]
            wanted = max(wanted, int(last) if last.isdigit() else 1)
    return wanted


def _shape(call, opts):
    """Cores, nodes, memory (MB for one node) and GPUs; client-side checks."""
    if len({"mem", "mem-per-cpu", "mem-per-gpu"} & set(opts)) > 1:
        call.fail("sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.", 1)
    seconds = None
    if "time" in opts:
        seconds = parse_time(opts["time"])
        if seconds is None:
            call.fail("sbatch: error: Invalid --time specification", 255)
    nodes = str(opts.get("nodes", "1")).split("-")[0]
    if not nodes.isdigit():
        call.fail(f'sbatch: error: "{opts["nodes"]}" is not a valid node count', 255)
    tasks = _number(call, opts, "ntasks", 1)
    if "ntasks-per-node" in opts and "ntasks" not in opts:
        tasks = _number(call, opts, "ntasks-per-node", 1) * int(nodes)
    each = _number(call, opts, "cpus-per-task", 1)
    amount = 0
    for key in ("mem", "mem-per-cpu"):
        if key in opts:
            value = memory(opts[key])
            if value is None:
                call.fail(f"sbatch: error: Invalid --{key} specification", 255)
            amount = value * (tasks * each if key == "mem-per-cpu" else 1)
    return {
        "cores": max(tasks * each, int(nodes)),
        "tasks": tasks,
        "cpus_per_task": each if "cpus-per-task" in opts else None,
        "nodes_wanted": int(nodes),
        "spread": "nodes" not in opts and tasks > 1,
        "memory": amount,
        "gpus": _gpus(call, opts),
        "limit": seconds,
    }


# ---------------------------------------------------------------- the controller's part


def _begin(call, opts):
    text = opts.get("begin", "")
    if not text:
        return 0
    number = text.removeprefix("now+")
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    scale = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}.get(number[len(digits) :][:1])
    if not text.startswith("now") or (text != "now" and (not digits.isdigit() or scale is None)):
        call.fail(f"Invalid time specification (pos=0): {text}\nsbatch: error: Invalid --begin specification", 255)
    return now() + (int(digits) * scale if text != "now" else 0)


def _partitions(call, opts):
    config = call.config
    text = opts.get("partition") or next(part["name"] for part in config["partitions"] if part["default"])
    found = []
    for name in text.split(","):
        part = life.partition(config, name)
        if part is None:
            call.fail(
                f"sbatch: error: invalid partition specified: {text}\n{FAILED}Invalid partition name specified", 1
            )
        found.append(part)
    return text, found


def _check_access(call, opts, parts):
    config = call.config
    account = opts.get("account", "")
    allowed = config["accounts"]
    if isinstance(allowed, dict):
        allowed = allowed.get(call.user, [])
    bad = bool(account) and allowed is not None and account not in allowed
    bad = bad or any(part["accounts"] is not None and account not in part["accounts"] for part in parts)
    if bad:
        call.fail(f"{FAILED}Invalid account or account/partition combination specified", 1)
    if opts.get("qos", config["qos"][0]) not in config["qos"]:
        call.fail(f"{FAILED}Invalid qos specification", 1)
    if any(part["users"] is not None and call.user not in part["users"] for part in parts):
        call.fail(f"{FAILED}User's group not permitted to use this partition", 1)
    if any(part["state"] in ("DRAIN", "INACTIVE") for part in parts):
        call.fail(f"{FAILED}Required partition not available (inactive or drain)", 1)
    if opts.get("reservation"):
        call.fail(f"{FAILED}Requested reservation is invalid", 1)


def _check_limits(call, job, parts):
    longest = [part["max_time"] for part in parts]
    if job["limit"] is None:
        first = parts[0]
        default = first["default_time"] if first["default_time"] is not None else first["max_time"]
        job["limit"] = None if default is None else default * 60
    elif job["limit"] == 0:
        job["limit"] = None
        if longest[0] is not None:
            call.fail(f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", 1)
    elif None not in longest and job["limit"] > max(longest) * 60 and call.config["enforce_part_limits"]:
        call.fail(f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", 1)


def _check_nodes(call, job, parts, opts):
    nodes = call.config["nodes"]
    names = {name for part in parts for name in part["nodes"]}
    if job["nodes_wanted"] > len(names):
        call.fail(f"{FAILED}Node count specification invalid", 1)
    total = sum(nodes[name]["cores"] for name in names)
    most = max(nodes[name]["cores"] for name in names)
    if job["cores"] > (total if job["spread"] or job["nodes_wanted"] > 1 else most):
        call.fail(f"{FAILED}More processors requested than permitted", 1)
    known = {feature for spec in nodes.values() for feature in spec["features"]}
    if not set(job["features"]) <= known:
        call.fail(f"{FAILED}Invalid feature specification", 1)
    if not set(job["hosts_asked"]) <= set(nodes):
        call.fail(f"{FAILED}Invalid node name specified", 1)
    if any("gpu" in opts.get(key, "") for key in ("gres",)) and not any(spec["gpus"] for spec in nodes.values()):
        call.fail("sbatch: error: Invalid generic resource (gres) specification", 1)
    if job["memory"] > max(nodes[name]["memory"] for name in names):
        call.err("sbatch: error: Memory specification can not be satisfied")
        return False
    return job["gpus"] <= max(nodes[name]["gpus"] for name in names)


def _dependency(call, session, text):
    """A word that keeps the job pending, for the kinds of dependency that a test may want."""
    if not text:
        return ""
    for part in text.replace("?", ",").split(","):
        for number in part.split(":")[1:]:
            other = session.get(int(number.split("+")[0])) if number.split("+")[0].isdigit() else None
            if other is None and call.config["slurm_version"] >= "23.02":
                call.fail(f"{FAILED}Job dependency problem", 1)
            if other is not None and other["state"] not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
                return "Dependency"
    return ""


def _absolute(opts, cwd):
    return {key: os.path.join(cwd, opts[key]) for key in ("output", "error") if key in opts and opts[key] != "none"}


def sbatch(call):
    opts, script = options(call)
    if opts.get("version"):
        call.out(f"slurm-wlm {call.config['slurm_version']}")
        return 0
    shape = _shape(call, opts)
    if "array" in opts:
        call.fail(f"{FAILED}Invalid job array specification", 1)  # the fake has no arrays
    call.go_to(opts.get("clusters"))
    text, parts = _partitions(call, opts)
    _check_access(call, opts, parts)
    cwd = os.path.join(os.getcwd(), opts.get("chdir", ""))
    cwd = cwd.rstrip("/") or "/"
    files = _absolute(opts, cwd)
    file = opts.args[0] if opts.args else ""
    begin = _begin(call, opts)
    job = life.new_job(
        **shape,
        dialect="slurm",
        name=opts.get("job-name") or (os.path.basename(file) if file else "wrap" if "wrap" in opts else "sbatch"),
        partition=text,
        account=opts.get("account", ""),
        qos=opts.get("qos", call.config["qos"][0]),
        comment=opts.get("comment", ""),
        features=[word for word in opts.get("constraint", "").replace("&", ",").split(",") if word],
        hosts_asked=expand(opts.get("nodelist", "")),
        hosts_excluded=expand(opts.get("exclude", "")),
        cwd=cwd,
        command=os.path.abspath(file) if file else "",
        stdout=files.get("output", os.path.join(cwd, "slurm-%j.out")),
        stderr=files.get("error", ""),
        append=opts.get("open-mode") == "append",
        arguments=opts.args[1:],
        held="user" if "hold" in opts else "",
        requeue="no-requeue" not in opts,
        eligible=begin,
        begin=bool(begin),
        umask=_umask(),
    )
    _check_limits(call, job, parts)
    possible = _check_nodes(call, job, parts, opts)
    if opts.get("test-only"):
        return _test_only(call, job, parts, possible)
    with call.store.locked() as session:
        job["blocked"] = _dependency(call, session, opts.get("dependency", ""))
        if not possible:
            _leave_record(call, session, job)
        else:
            job = call.submit(job, script, _environment(opts), session)
    if not possible:
        call.fail(f"{FAILED}Requested node configuration is not available", 1)
    suffix = opts.get("clusters") or os.environ.get("SLURM_CLUSTERS")
    if opts.get("quiet"):
        return 0
    if opts.get("parsable"):
        call.out(f"{job['seq']};{suffix}" if suffix else str(job["seq"]))
    else:
        call.out(f"Submitted batch job {job['seq']}" + (f" on cluster {suffix}" if suffix else ""))
    return 0


def _leave_record(call, session, job):
    """Slurm keeps a FAILED job of such a refusal, with an id that nobody is told."""
    at = now()
    job.update(
        seq=session.take_id(), submit=at, eligible=at, end=at, state="FAILED", reason="BadConstraints", exit_code=1
    )
    job.update(user=call.user, uid=call.uid, gid=os.getgid())
    session.put(job)


def _test_only(call, job, parts, possible):
    import time

    with call.store.locked() as session:
        seq = session.take_id()
    if not possible:
        call.fail("allocation failure: Requested node configuration is not available", 1)
    form = os.environ.get("SLURM_TIME_FORMAT") or "%Y-%m-%dT%H:%M:%S"
    when = time.strftime(form, time.localtime())
    node = parts[0]["nodes"][0]
    stray = " a" if call.config["slurm_version"] >= "25.05" else ""
    call.err(
        f"sbatch: Job {seq} to start at {when}{stray} using {job['cores']} processors on nodes {node} in partition {parts[0]['name']}"
    )
    return 0


def _umask():
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def _environment(opts):
    """What --export leaves of the submission environment."""
    env = dict(os.environ)
    kept = {key: value for key, value in env.items() if key.startswith(("SLURM_", "FAKESCHED_")) or key == "HOME"}
    export = opts.get("export", "ALL")
    if export in ("ALL", True, ""):
        return env
    if export in ("NONE", "NIL"):
        return kept | {"SLURM_EXPORT_ENV": "NONE", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    base = env if "ALL" in export.split(",") else kept | {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    for item in export.split(","):
        name, eq, value = item.partition("=")
        if name in ("ALL", "NONE"):
            continue
        if eq:
            base.setdefault(name, value)
        elif name in env:
            base[name] = env[name]
    return base


# ---------------------------------------------------------------- running


def pattern(job, text):
    """%j, %x, %u, %N and the like in a file name."""
    host = next(iter(job["layout"]), "") or next(iter(job["last_nodes"]), "")
    seq = str(job["seq"])
    values = {"j": seq, "A": seq, "J": seq, "x": job["name"], "u": job["user"], "N": host, "n": "0", "t": "0", "s": "batch", "a": "4294967294", "%": "%"}  # fmt: skip
    out, at = "", 0
    while at < len(text):
        if text[at] != "%":
            out += text[at]
            at += 1
            continue
        stop = at + 1
        while stop < len(text) and text[stop].isdigit():
            stop += 1
        letter = text[stop : stop + 1]
        pad = int(text[at + 1 : stop] or 0)
        out += values[letter].zfill(pad) if letter in values else text[at : stop + 1]
        at = stop + 1
    return out


def plan(store, job):
    """How the supervisor starts the script: on its first node, in the working directory, with the submission environment."""
    with open(store.job_file(job["seq"], "env.json"), encoding="utf-8") as text:
        env = json.load(text)
    nodes = list(job["layout"])
    listed = ",".join(nodes)
    shown = str(job["seq"])
    start = int(job["start"])
    env |= life.node_variables(store, job) | {
        "SLURM_JOB_ID": shown,
        "SLURM_JOBID": shown,
        "SLURM_JOB_NAME": job["name"],
        "SLURM_JOB_USER": job["user"],
        "SLURM_JOB_UID": str(job["uid"]),
        "SLURM_JOB_ACCOUNT": job["account"],
        "SLURM_JOB_PARTITION": job["partition_used"],
        "SLURM_JOB_QOS": job["qos"],
        "SLURM_JOB_NODELIST": listed,
        "SLURM_NODELIST": listed,
        "SLURM_JOB_NUM_NODES": str(len(nodes)),
        "SLURM_NNODES": str(len(nodes)),
        "SLURM_JOB_CPUS_PER_NODE": ",".join(str(count) for count in job["layout"].values()),
        "SLURM_CPUS_ON_NODE": str(job["layout"][nodes[0]]),
        "SLURM_NTASKS": str(job["tasks"]),
        "SLURM_NPROCS": str(job["tasks"]),
        "SLURM_TASKS_PER_NODE": str(job["tasks"]),
        "SLURMD_NODENAME": nodes[0],
        "SLURM_SUBMIT_DIR": job["cwd"],
        "SLURM_SUBMIT_HOST": store.config["submit_host"],
        "SLURM_CLUSTER_NAME": store.config["name"],
        "SLURM_RESTART_COUNT": str(job["restarts"]),
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_LOCALID": "0",
        "TMPDIR": env.get("TMPDIR", "/tmp"),
        "ENVIRONMENT": "BATCH",
    }
    if store.config["slurm_version"] >= "23.02":
        env["SLURM_JOB_START_TIME"] = str(start)
        env["SLURM_JOB_END_TIME"] = str(start + (job["limit"] or 365 * 86400))
    if job["cpus_per_task"]:
        env["SLURM_CPUS_PER_TASK"] = str(job["cpus_per_task"])
    if job["memory"]:
        env["SLURM_MEM_PER_NODE"] = str(job["memory"])
    if job["gpus"]:
        env["CUDA_VISIBLE_DEVICES"] = env["SLURM_JOB_GPUS"] = ",".join(str(n) for n in range(job["gpus"]))
    if not job["restarts"]:
        del env["SLURM_RESTART_COUNT"]
    script = store.job_file(job["seq"], "script")
    out = pattern(job, job["stdout"])
    return {
        "file": script,
        "argv": [script, *job["arguments"]],
        "env": env,
        "cwd": job["cwd"],
        "stdout": out,
        "stderr": pattern(job, job["stderr"]) if job["stderr"] else out,
        "append": job["append"] or bool(job["restarts"]),
        "umask": job["umask"],
    }
