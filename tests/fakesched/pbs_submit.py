"""qsub: options, resources, refusals (status = PBSE code & 255); and how a PBS job runs: login environment, $HOME, output copied at the end."""

import json
import os
import pwd
import shutil
import sys
import time

from tests.fakesched import life
from tests.fakesched.command import parse
from tests.fakesched.slurm_submit import directives
from tests.fakesched.store import now

LETTERS = {letter: (letter, True) for letter in "aAcCejJklmMNopPqrRSuvWd"} | {
    letter: (letter, False) for letter in "fhIVXz"
}
USAGE = """usage: qsub [-a date_time] [-A account_string] [-c interval]
\t[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
\t[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
\t[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
\t[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
\t[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version"""
JOB_WIDE = {"walltime", "cput", "place", "select", "nodes", "software", "pcput", "file", "nice", "pvmem", "pmem"}
CHUNK = {"ncpus", "mem", "ngpus", "vmem", "host", "arch", "mpiprocs", "ompthreads", "vnode", "naccelerators"}
UNITS = {"": 1 / 1048576, "b": 1 / 1048576, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1048576}


def server_name(config):
    return f"{config['pbs_server']}.{config['pbs_domain']}"


def job_id(config, job):
    return f"{job['seq']}.{config['pbs_server']}"


def read_id(config, word):
    """The number in an id; None if it is malformed or another server's."""
    number, _, server = word.partition(".")
    good = number.isdigit() and server in ("", config["pbs_server"], server_name(config))
    return int(number) if good else None


def clock(seconds):
    return time.ctime(seconds)


def walltime(seconds):
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}"


def seconds(text):
    """``HH:MM:SS``, ``MM:SS`` or seconds; None where PBS would not understand."""
    parts = text.split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in parts):
        return None
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return total


def megabytes(text):
    number = text.lower().rstrip("bw").rstrip("kmgt")
    unit = text.lower().removeprefix(number).rstrip("bw")
    if not number.isdigit() or unit not in UNITS:
        return None
    return -(-int(int(number) * UNITS[unit] * 1024) // 1024)


def _bad(call):
    def letter(what):
        call.fail(f"qsub: invalid option -- '{what}'\n{USAGE}", 2)

    return letter, letter


def _bad_directive(call):
    def letter(what):
        call.fail(f"qsub: invalid option -- '{what}'\nqsub: directive error: -{what}", 1)

    return letter, letter


def _options(call):
    cli = parse(call.argv, LETTERS, {"version": ("version", False)}, *_bad(call), repeat=("l", "W"))
    if cli.get("version"):
        return cli, b"", ""
    if "--" in call.argv and cli.args:
        return cli, ("#!/bin/sh\nexec " + " ".join(_quote(word) for word in cli.args) + "\n").encode(), "STDIN"
    name = "STDIN"
    if cli.args:
        name = os.path.basename(cli.args[0])
        try:
            with open(cli.args[0], "rb") as text:
                script = text.read()
        except OSError:
            call.fail("qsub: script file:: No such file or directory", 1)
    else:
        script = sys.stdin.buffer.read()
    mark = cli.get("C") or os.environ.get("PBS_DPREFIX") or "#PBS"
    merged = parse(directives(script, f"{mark} "), LETTERS, {}, *_bad_directive(call), repeat=("l", "W"))
    own = dict(_resources(call, cli.get("l", "")))
    kept = "\n".join(
        part
        for part in _items(merged.get("l", ""))
        if part.partition("=")[0] not in own and not _clash(part.partition("=")[0], own)
    )
    merged.update(cli)
    merged["l"] = "\n".join(part for part in (kept, cli.get("l", "")) if part)
    return merged, script, name


def _clash(name, own):
    return (name in ("select", "nodes") and "ncpus" in own) or (name in ("ncpus", "nodes") and "select" in own)


def _quote(word):
    return "'" + word.replace("'", "'\\''") + "'"


def _items(text):
    return [part for line in text.split("\n") for part in line.split(",") if part]


def _resources(call, text):
    pairs = []
    for part in _items(text):
        key, _, value = part.partition("=")
        if key not in JOB_WIDE | CHUNK:
            call.fail(f"qsub: Unknown resource: {key}", 187)
        pairs.append((key, value))
    return pairs


# ---------------------------------------------------------------- resources


def _chunks(call, text):
    """Nodes, cores on each, memory and GPUs of ``select=2:ncpus=4:mem=8gb`` or ``nodes=2:ppn=4``."""
    count, cores, memory, gpus = 0, 0, 0, 0
    for chunk in text.split("+"):
        first, *rest = chunk.split(":")
        times = int(first) if first.isdigit() else 1
        values = dict(part.partition("=")[::2] for part in (rest if first.isdigit() else [first, *rest]))
        count += times
        cores += times * int(values.get("ncpus") or values.get("ppn") or values.get("mpiprocs") or 1)
        memory = max(memory, _memory(call, values.get("mem", "0")))
        gpus = max(gpus, int(values.get("ngpus") or values.get("gpus") or 0))
    return count, cores, memory, gpus


def _memory(call, text):
    value = megabytes(text)
    if value is None:
        call.fail("qsub: Illegal attribute or resource value Resource_List.mem", 166)
    return value


def _shape(call, opts, part):
    wanted = dict(_resources(call, opts.get("l", "")))
    limit = None
    if "walltime" in wanted:
        limit = seconds(wanted["walltime"])
        if limit is None:
            call.fail("qsub: Illegal attribute or resource value Resource_List.walltime", 166)
    elif part["default_time"] is not None:
        limit = part["default_time"] * 60
    mixed = sorted(CHUNK & set(wanted))
    if "select" in wanted and mixed:
        call.fail(f'qsub: "-lresource=" cannot be used with "select" or "place", resource is: {mixed[0]}', 5)
    if "select" in wanted or "nodes" in wanted:
        count, cores, memory, gpus = _chunks(call, wanted.get("select") or wanted["nodes"])
        select, place = wanted.get("select") or f"{count}:ncpus={cores // count}", wanted.get("place", "free")
    else:
        if not wanted.get("ncpus", "1").isdigit():
            call.fail("qsub: Illegal attribute or resource value Resource_List.ncpus", 166)
        count, cores, gpus = 1, int(wanted.get("ncpus", 1)), int(wanted.get("ngpus", 0))
        memory = _memory(call, wanted.get("mem", "0"))
        select = f"1:ncpus={cores}" + (f":mem={wanted['mem']}" if memory else "") + (f":ngpus={gpus}" if gpus else "")
        place = wanted.get("place", "pack")
    listed = [["mem", wanted.get("mem", f"{memory}mb")]] if memory else []
    listed += (
        [["ncpus", cores]]
        + ([["ngpus", gpus]] if gpus else [])
        + [["nodect", count], ["place", place], ["select", select]]
    )
    listed += [["walltime", walltime(limit)]] if limit is not None else []
    return {
        "cores": cores,
        "nodes_wanted": count,
        "memory": memory,
        "gpus": gpus,
        "limit": limit,
        "resources": listed,
    }


# ---------------------------------------------------------------- refusals


def _refuse(call, text, status, torque=""):
    if call.config["torque"]:
        text = f"submit error ({torque or text.rstrip()} MSG={torque or text.rstrip()})"
    call.fail(f"qsub: {text}", status)


def _queue(call, opts):
    config = call.config
    name = opts.get("q", "").partition("@")[0] or next(part["name"] for part in config["partitions"] if part["default"])
    part = life.partition(config, name)
    if part is None:
        _refuse(call, "Unknown queue", 170)
    if part["users"] is not None and call.user not in part["users"]:
        _refuse(call, "Unauthorized Request ", 159)
    if part["state"] in ("DRAIN", "INACTIVE"):
        _refuse(call, "Queue is not enabled", 173)
    return part


def _check_limits(call, job, part):
    over = part["max_time"] is not None and job["limit"] is not None and job["limit"] > part["max_time"] * 60
    over = over or (part["max_cores"] and job["cores"] > part["max_cores"])
    over = over or (part["max_memory"] and job["memory"] > part["max_memory"])
    if over:
        _refuse(call, "Job violates queue and/or server resource limits", 188, "Job exceeds queue resource limits")


def _check_name(call, opts):
    name = opts.get("N")
    if name is None:
        return
    if len(name) > (15 if call.config["torque"] else 236):
        call.fail("qsub: Job name is too long ", 2)
    if not name or any(letter.isspace() or not letter.isprintable() for letter in name) or name[0] == "-":
        call.fail(f"qsub: illegal -N value\n{USAGE}", 2)


def _variables(call, opts, part):
    env = os.environ
    home = env.get("HOME", "/")
    values = [
        ["PBS_O_HOME", home],
        ["PBS_O_LANG", env.get("LANG", "C.UTF-8")],
        ["PBS_O_LOGNAME", call.user],
        ["PBS_O_PATH", env.get("PATH", "")],
        ["PBS_O_SHELL", env.get("SHELL", "/bin/bash")],
        ["PBS_O_WORKDIR", os.getcwd()],
        ["PBS_O_SYSTEM", "Linux"],
    ]
    listed = opts.get("v", "")
    for item in listed.replace("\\,", "\0").split(","):
        name, eq, value = item.replace("\0", ",").partition("=")
        if not name:
            continue
        if (not eq and name not in env) or '"' in value or "'" in value:
            call.fail("qsub: cannot send environment with the job", 1)
        values.append([name, value if eq else env[name]])
    if "V" in opts and call.config["pbs_version"] != "23.06.06":  # that release's -V exports nothing
        values += [[key, value] for key, value in env.items() if not key.startswith(("PBS_", "FAKESCHED_"))]
    return [*values, ["PBS_O_QUEUE", part["name"]], ["PBS_O_HOST", server_name(call.config)]]


def _path(config, opts, key, default, cwd):
    text = opts.get(key, "")
    host, colon, path = text.partition(":")
    if not colon or "/" in host:
        host, path = server_name(config), text
    if not path or path.endswith("/"):
        path = os.path.join(path, default)
    return f"{host}:{os.path.join(cwd, path)}"


def _later(call, text):
    """The start time of ``-a [[[[CC]YY]MM]DD]hhmm[.SS]``, for the usual lengths."""
    if not text:
        return 0
    body = text.partition(".")[0]
    today = time.strftime("%Y%m%d%H%M", time.localtime())
    if not body.isdigit() or not 4 <= len(body) <= 12:
        call.fail(f"qsub: illegal -a value\n{USAGE}", 2)
    return time.mktime(time.strptime(today[: 12 - len(body)] + body, "%Y%m%d%H%M"))


def qsub(call):
    opts, script, name = _options(call)
    config = call.config
    if opts.get("version"):
        call.out(f"pbs_version = {config['pbs_version']}")
        return 0
    _check_name(call, opts)
    for line in opts.get("W", "").split("\n"):
        kind = line.partition("depend=")[2].partition(":")[0]
        if kind and kind.removeprefix("before").removeprefix("after") not in ("", "ok", "notok", "any", "on"):
            call.fail(f"qsub: illegal -W value\n{USAGE}", 2)
    if "J" in opts:
        call.fail(f"qsub: illegal -J value\n{USAGE}", 2)  # the fake has no arrays
    if config.get("pbs_refuses_root") and call.user == "root":
        _refuse(call, "Bad UID for job execution", 175)
    part = _queue(call, opts)
    asked = part
    while part["kind"] == "Route":
        part = life.partition(config, part["destinations"][0])
    shape = _shape(call, opts, part)
    name = opts.get("N", name)
    cwd = os.getcwd()
    later = _later(call, opts.get("a", ""))
    job = life.new_job(
        **shape,
        dialect="pbs",
        name=name,
        partition=part["name"],
        account=opts.get("A", ""),
        held="user" if "h" in opts else "",
        requeue=opts.get("r", "y") != "n",
        eligible=later,
        begin=later > now(),
        cwd=cwd,
        home=os.environ.get("HOME", "/"),
        join=opts.get("j", "n"),
        keep=opts.get("k", "n"),
        variables=_variables(call, opts, asked),
        submit_arguments=" ".join(call.argv),
        shell=opts.get("S", "").partition("@")[0] or _login_shell(),
        umask=0o77,
    )
    _check_limits(call, job, part)
    with call.store.locked() as session:
        live = [
            one for one in session.jobs(active=True) if one["user"] == call.user and one["partition"] == part["name"]
        ]
        if part["max_queued"] and len(live) >= part["max_queued"]:
            call.fail("qsub: would exceed queue generic's per-user limit", 38)
        number = session.meta("next_id", config["first_id"])
        job["output_path"] = _path(config, opts, "o", f"{name}.o{number}", cwd)
        job["error_path"] = _path(config, opts, "e", f"{name}.e{number}", cwd)
        env = {key: value for key, value in os.environ.items() if key.startswith("FAKESCHED_")}
        job = call.submit(job, script, env, session)
    if "z" not in opts:
        call.out(job_id(config, job))
    return 0


def _login_shell():
    if os.environ.get("FAKESCHED_USER"):
        return os.environ.get("SHELL", "/bin/bash")
    try:
        return pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"
    except KeyError:
        return "/bin/sh"


# ---------------------------------------------------------------- running


def plan(store, job):
    """How the supervisor starts the script: the user's login shell reads it, in $HOME, with PBS's variables only."""
    config = store.config
    with open(store.job_file(job["seq"], "env.json"), encoding="utf-8") as text:
        env = json.load(text)
    node = next(iter(job["layout"]))
    spool = store.job_file(job["seq"])
    hosts = os.path.join(spool, "nodefile")
    with open(hosts, "w", encoding="utf-8") as out:
        out.writelines(f"{name}\n" for name in job["layout"])
    cores = job["layout"][node]
    env |= dict(job["variables"]) | life.node_variables(store, job)
    env |= {
        "HOME": job["home"],
        "LOGNAME": job["user"],
        "USER": job["user"],
        "SHELL": job["shell"],
        "PATH": config["node_path"],
        "ENVIRONMENT": "BATCH",
        "NCPUS": str(cores),
        "OMP_NUM_THREADS": str(cores),
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBID": job_id(config, job),
        "PBS_JOBNAME": job["name"],
        "PBS_JOBDIR": job["home"],
        "PBS_QUEUE": job["partition"],
        "PBS_NODEFILE": hosts,
        "PBS_NODENUM": "0",
        "PBS_TASKNUM": "1",
        "PBS_JOBCOOKIE": "00000000000000000000000000000000",
        "TMPDIR": os.path.join(spool, "tmp"),
    }
    os.makedirs(env["TMPDIR"], mode=0o700, exist_ok=True)
    direct = "d" in job["keep"]
    out = _local(job["output_path"]) if direct else os.path.join(spool, "OU")
    err = out if job["join"] == "oe" else _local(job["error_path"]) if direct else os.path.join(spool, "ER")
    name = os.path.basename(job["shell"])
    return {
        "file": job["shell"],
        "argv": [f"-{name}" if config["login_shell"] else name, os.path.join(spool, "script")],
        "env": env,
        "cwd": job["home"],
        "stdout": out,
        "stderr": err,
        "umask": job["umask"],
        "mode": 0o600,
    }


def _local(path):
    return path.partition(":")[2]


def after_run(store, job, ended, order):
    """Bring the output to where it belongs, as the MoM does at the end; TMPDIR goes."""
    spool = store.job_file(job["seq"])
    if "d" not in job["keep"]:
        pairs = [("OU", job["output_path"])] + ([] if job["join"] == "oe" else [("ER", job["error_path"])])
        for name, path in pairs:
            try:
                shutil.copy(os.path.join(spool, name), _local(path))
            except OSError:
                continue
    shutil.rmtree(os.path.join(spool, "tmp"), ignore_errors=True)
