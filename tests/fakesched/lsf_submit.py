"""bsub: options and refusals; and how an LSF job runs: in the submission directory and environment, with a report in its output."""

import json
import os
import sys
import time

from tests.fakesched import life
from tests.fakesched.store import now

VALUES = {"J", "q", "n", "W", "M", "R", "o", "e", "oo", "eo", "P", "G", "L", "cwd", "outdir", "m", "w", "b", "t", "u", "sp", "app", "sla",
          "Jd", "c", "D", "F", "v", "E", "Ep", "i", "is", "wt", "wa", "U", "g", "a", "We", "env", "gpu", "S", "C", "p", "T"}  # fmt: skip
FLAGS = {"H", "r", "rn", "x", "K", "N", "B", "I", "Is", "Ip", "V", "h", "XF", "ul"}
LSF_ONLY = {"env", "gpu", "cwd", "outdir", "Jd", "We", "rn", "XF"}
REFUSED = ". Job not submitted."
TO_MB = {"KB": 1 / 1024, "MB": 1, "GB": 1024, "TB": 1048576}


def words_of(text):
    """Words, with quotes as in a shell."""
    if not set(text) & set("'\"\\"):
        return text.split()
    import shlex

    return shlex.split(text)


def read_minutes(text):
    """``-W [hours:]minutes[/host]``; None where LSF would not understand."""
    parts = text.partition("/")[0].split(":")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]) * 60 + int(parts[1]) if len(parts) == 2 else int(parts[0])


def _parse(call, argv):
    """Options up to the first word that is none; openlava takes ``-env x`` for ``-e nv`` and runs ``x``, as getopt does."""
    openlava = call.config["lsf"] == "openlava"
    flags = FLAGS - LSF_ONLY if openlava else FLAGS
    values = VALUES - LSF_ONLY if openlava else VALUES
    found, todo = {}, list(argv)
    while todo and todo[0].startswith("-") and len(todo[0]) > 1:
        word = todo.pop(0)[1:]
        if word in flags:
            found[word] = True
        elif word in values:
            found[word] = todo.pop(0) if todo else ""
        elif word[0] in values and len(word) > 1:
            found[word[0]] = word[1:]
        else:
            call.fail(f"bsub: illegal option -- {word}\n{REFUSED}", 255)
    return found, todo


def _options(call):
    cli, command = _parse(call, call.argv)
    if "V" in cli:
        return cli, "", ""
    if command:
        text = " ".join(command)
        return cli, f"#!/bin/sh\n{text}\n", text
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    found = {}
    for line in text.splitlines():
        if line.startswith("#BSUB"):
            part, rest = _parse(call, words_of(line[5:].partition(" #")[0]))
            found |= part
            if rest:
                call.fail(f"bsub: illegal option -- {rest[0]}\n{REFUSED}", 255)
    if not text.strip():
        call.fail(f"No command is specified{REFUSED}", 255)
    script = text if text.startswith("#!") else f"#!/bin/sh\n{text}"
    return found | cli, script, ";".join(text.rstrip("\n").split("\n"))


def _queue(call, opts):
    config = call.config
    asked = opts.get("q") or os.environ.get("LSB_DEFAULTQUEUE") or ""
    names = asked.split() or [next(part["name"] for part in config["partitions"] if part["default"])]
    part = life.partition(config, names[0])
    if part is None:
        call.fail(f"{names[0]}: No such queue{REFUSED}", 255)
    if part["users"] is not None and call.user not in part["users"]:
        call.fail(f"{names[0]}: User cannot use the queue{REFUSED}", 255)
    if part["state"] in ("DRAIN", "INACTIVE"):
        call.fail(f"{names[0]}: Queue has been closed{REFUSED}", 255)
    return part, bool(asked)


def _memory(call, opts):
    """``-M`` in megabytes: the number's own unit (LSF 10.1.0.2) or LSF_UNIT_FOR_LIMITS."""
    text = opts.get("M", "")
    if not text:
        return 0
    number = text.rstrip("KMGTBkmgtb")
    unit = text[len(number) :].upper() or call.config["lsf_unit"]
    unit = unit if unit.endswith("B") else unit + "B"
    if not number.isdigit() or unit not in TO_MB or (call.config["lsf"] == "openlava" and number != text):
        call.fail(f"{text}: MEMLIMT value should be a positive integer{REFUSED}", 255)
    return int(int(number) * TO_MB[unit])


def _limit(call, opts, part):
    minutes = part["default_time"] if part["default_time"] is not None else part["max_time"]
    if "W" in opts:
        minutes = read_minutes(opts["W"])
        if minutes is None:
            call.fail(f"{opts['W']}: Bad RUNLIMIT specification{REFUSED}", 255)
    if minutes is not None and part["max_time"] is not None and minutes > part["max_time"]:
        call.fail(f"RUNLIMIT: Cannot exceed queue's hard limit(s){REFUSED}", 255)
    return None if minutes is None else minutes * 60


def _shape(call, opts, part):
    text = str(opts.get("n", "1")).split(",")[0]
    if not text.isdigit() or text == "0":
        call.fail(f"{text}: The number of processors must be a positive integer{REFUSED}", 255)
    nodes = call.config["nodes"]
    cores = int(text)
    one_host = "span[hosts=1]" in opts.get("R", "").replace(" ", "")
    have = [nodes[name]["cores"] for name in part["nodes"]]
    if cores > (max(have) if one_host else sum(have)) or (part["max_cores"] and cores > part["max_cores"]):
        call.fail(f"Too many processors requested{REFUSED}", 255)
    if opts.get("R", "").count("[") != opts.get("R", "").count("]"):
        call.fail(f"Bad resource requirement syntax{REFUSED}", 255)
    asked = [name for name in opts.get("m", "").split() if name]
    for name in asked:
        if name not in nodes:
            call.fail(f"{name}: Bad host name, host group name or cluster name{REFUSED}", 255)
    memory = _memory(call, opts)
    if part["max_memory"] and memory > part["max_memory"]:
        call.fail(f"MEMLIMIT: Cannot exceed queue's hard limit(s){REFUSED}", 255)
    gpus = 0
    for piece in opts.get("gpu", "").split(":"):
        key, _, value = piece.partition("=")
        if key == "num":
            gpus = int(value.partition("/")[0])
    return {"cores": cores, "spread": not one_host and cores > 1, "hosts_asked": asked, "memory": memory, "gpus": gpus}


def _environment(opts):
    """What ``-env`` leaves; the whole submission environment by default."""
    env = dict(os.environ)
    text = opts.get("env")
    if text is None:
        return env
    base = {key: value for key, value in env.items() if key.startswith("FAKESCHED_")} | {
        "PATH": "/usr/local/bin:/usr/bin:/bin"
    }
    for item in (part.strip() for part in text.split(",")):
        name, eq, value = item.partition("=")
        if item == "all":
            base = dict(env)
        elif item.startswith("~"):
            base.pop(item[1:], None)
        elif eq:
            base[name] = value.strip("'")
        elif name in env:
            base[name] = env[name]
    return base


def bsub(call):
    opts, script, command = _options(call)
    config = call.config
    if opts.get("V"):
        call.err(
            "OpenLava 4.0dev4, Nov 22 2026"
            if config["lsf"] == "openlava"
            else "IBM Spectrum LSF Standard 10.1.0.13, Apr 15 2022"
        )
        return 0
    name = opts.get("J")
    if name is not None and ("[" in name or len(name) > 4094 or (config["lsf"] == "openlava" and len(name) > 511)):
        call.fail(f"Bad job name{REFUSED}", 255)  # the fake has no arrays
    if "w" in opts:
        _dependency(call, opts["w"])
    part, asked = _queue(call, opts)
    home = os.environ.get("HOME", "/")
    cwd = os.path.join(os.getcwd(), opts.get("cwd", ""))
    job = life.new_job(
        **_shape(call, opts, part),
        dialect="lsf",
        name=name if name is not None else command.partition(";")[0][:60],
        partition=part["name"],
        limit=_limit(call, opts, part),
        account=opts.get("P", "default"),
        comment=opts.get("Jd", ""),
        held="user" if "H" in opts else "",
        requeue="r" in opts,
        cwd=cwd.rstrip("/") or "/",
        home=home,
        command=command,
        output=opts.get("oo") or opts.get("o") or "",
        error=opts.get("eo") or opts.get("e") or "",
        overwrite="oo" in opts,
        overwrite_error="eo" in opts,
        umask=0o22,
    )
    job = call.submit(job, script.encode("utf-8", "surrogateescape"), _environment(opts))
    if not os.environ.get("BSUB_QUIET"):
        call.out(f"Job <{job['seq']}> is submitted to {'' if asked else 'default '}queue <{part['name']}>.")
    return 0


def _dependency(call, text):
    number = "".join(letter for letter in text if letter.isdigit())
    with call.store.locked() as session:
        if number and session.get(int(number)) is None:
            call.fail(f"{number}: No matching job found{REFUSED}", 255)


# ---------------------------------------------------------------- running


def _pattern(job, text):
    return text.replace("%J", str(job["seq"])).replace("%I", "0")


def _target(job, text, default):
    path = os.path.join(job["cwd"], _pattern(job, text))
    return os.path.join(path, default) if os.path.isdir(path) else path


def plan(store, job):
    """How the supervisor starts the script: in the submission directory, with the submission environment and LSF's variables."""
    with open(store.job_file(job["seq"], "env.json"), encoding="utf-8") as text:
        env = json.load(text)
    config = store.config
    slots = [node for node, count in job["layout"].items() for _ in range(count)]
    counts = " ".join(f"{node} {count}" for node, count in job["layout"].items())
    script = store.job_file(job["seq"], "script")
    hostfile = store.job_file(job["seq"], "hostfile")
    with open(hostfile, "w", encoding="utf-8") as out:
        out.writelines(f"{slot}\n" for slot in slots)
    env |= life.node_variables(store, job) | {
        "HOME": job["home"],
        "LSB_JOBID": str(job["seq"]),
        "LSB_JOBINDEX": "0",
        "LSB_JOBNAME": job["name"],
        "LSB_QUEUE": job["partition"],
        "LSB_HOSTS": " ".join(slots),
        "LSB_MCPU_HOSTS": f"{counts} ",
        "LSB_DJOB_HOSTFILE": hostfile,
        "LSB_DJOB_NUMPROC": str(len(slots)),
        "LSB_MAX_NUM_PROCESSORS": str(len(slots)),
        "LSB_SUB_HOST": config["submit_host"],
        "LSB_JOBFILENAME": script,
        "LSB_EFFECTIVE_RSRCREQ": "",
        "LSB_PROJECT_NAME": job["account"],
        "LSFUSER": job["user"],
        "LS_SUBCWD": job["cwd"],
    }
    if job["gpus"]:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in range(job["gpus"]))
    direct = env.get("LSB_STDOUT_DIRECT", "").upper() == "Y" and job["output"]
    out = _target(job, job["output"], f"{job['seq']}.out") if direct else store.job_file(job["seq"], "out")
    err = out
    if job["error"]:
        err = _target(job, job["error"], f"{job['seq']}.err") if direct else store.job_file(job["seq"], "err")
    return {
        "file": script,
        "argv": [script],
        "env": env,
        "cwd": job["cwd"],
        "stdout": out,
        "stderr": err,
        "umask": 0o22,
        "append": bool(direct),
    }


def _outcome(job, ended, order):
    if order == "cancel":
        return "Exited with exit code 130.", "Exited"
    if order == "timeout":
        return "TERM_RUNLIMIT: job killed after reaching LSF run time limit.\nExited with exit code 140.", "Exited"
    code = ended["code"] or (ended["signal"] and ended["signal"] + 128)
    return (f"Exited with exit code {code}.", "Exited") if code else ("Successfully completed.", "Done")


def _report(config, job, ended, order):
    words, subject = _outcome(job, ended, order)
    node = next(iter(job["layout"]))
    name = config["name"]
    lines = [
        f"Sender: LSF System <lsfadmin@{node}>",
        f"Subject: Job {job['seq']}: <{job['name']}> in cluster <{name}> {subject}",
        "",
        f"Job <{job['name']}> was submitted from host <{config['submit_host']}> by user <{job['user']}> in cluster <{name}> at {time.ctime(job['submit'])}",
        f"Job was executed on host(s) <{node}>, in queue <{job['partition']}>, as user <{job['user']}> in cluster <{name}> at {time.ctime(job['start'])}",
        f"<{job['home']}> was used as the home directory.",
        f"<{job['cwd']}> was used as the working directory.",
        f"Started at {time.ctime(job['start'])}",
        f"Terminated at {time.ctime(now())}",
        f"Results reported at {time.ctime(now())}",
        "",
        "Your job looked like:",
        "",
        "-" * 60,
        "# LSBATCH: User input",
        job["command"].replace(";", "\n"),
        "-" * 60,
        "",
        words,
        "",
        "Resource usage summary:",
        "",
        "    CPU time :                                   0.00 sec.",
        "",
        "The output (if any) follows:",
        "",
        "",
    ]
    return "\n".join(lines).encode()


def after_run(store, job, ended, order):
    """The report and the output go to the file of ``-o``, or to the user's mail."""
    target = _target(job, job["output"], f"{job['seq']}.out") if job["output"] else store.file("mail", job["user"])
    spool = store.job_file(job["seq"], "out")
    body = b""
    if os.path.exists(spool):
        with open(spool, "rb") as text:
            body = text.read()
    tail = (
        f"\n\nPS:\n\nRead file <{_pattern(job, job['error'])}> for stderr output of this job.\n\n"
        if job["error"]
        else "\n"
    )
    _put(target, _report(store.config, job, ended, order) + body + tail.encode(), "wb" if job["overwrite"] else "ab")
    spooled = store.job_file(job["seq"], "err")
    if job["error"] and os.path.exists(spooled):
        with open(spooled, "rb") as text:
            _put(_target(job, job["error"], f"{job['seq']}.err"), text.read(), "wb" if job["overwrite_error"] else "ab")


def _put(path, data, mode):
    try:
        with open(path, mode) as out:
            out.write(data)
    except OSError:
        return
