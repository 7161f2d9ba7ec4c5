"""How Slurm writes a job: state words, times, the fields of squeue, and the formats of ``-o`` and ``-O``."""

import os
import time

from tests.fakesched.command import compress, user_name
from tests.fakesched.store import FINAL, now

SHORT = {
    "PENDING": "PD", "RUNNING": "R", "SUSPENDED": "S", "COMPLETED": "CD", "CANCELLED": "CA", "FAILED": "F", "TIMEOUT": "TO",
    "NODE_FAIL": "NF", "PREEMPTED": "PR", "BOOT_FAIL": "BF", "DEADLINE": "DL", "OUT_OF_MEMORY": "OOM", "COMPLETING": "CG",
    "CONFIGURING": "CF", "RESIZING": "RS", "RESV_DEL_HOLD": "RD", "REQUEUED": "RQ", "REQUEUE_FED": "RF", "REQUEUE_HOLD": "RH",
    "REVOKED": "RV", "SIGNALING": "SI", "SPECIAL_EXIT": "SE", "STAGE_OUT": "SO", "STOPPED": "ST",
}  # fmt: skip


# ---------------------------------------------------------------- words for a job


def shown_state(job):
    """The word squeue prints: a flag, where one is set, before the base state."""
    if job["state"] == "RUNNING" and job["order"]:
        return "COMPLETING"
    if job["state"] == "RUNNING" and job.get("configuring_until", 0) > now():
        return "CONFIGURING"
    return job["state"]


def stamp(seconds, none="N/A"):
    if not seconds:
        return none
    form = os.environ.get("SLURM_TIME_FORMAT", "")
    if form in ("", "standard"):
        form = "%Y-%m-%dT%H:%M:%S"
    return time.strftime(form, time.localtime(int(seconds)))


def span(seconds, *, wide=False):
    """``1-02:03:04``; below a day ``2:03:04`` or ``3:04``, or padded as scontrol and sacct do."""
    if seconds is None:
        return "UNLIMITED"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}-{h:02}:{m:02}:{s:02}"
    if wide:
        return f"{h:02}:{m:02}:{s:02}"
    return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


def used_seconds(job):
    if job["start"] is None or job["state"] == "PENDING":
        return 0
    return max(0, int(job["end"] or now()) - int(job["start"]))


def start_of(job):
    if job["state"] == "PENDING":
        return job.get("estimate") or (job["eligible"] if job["reason"] == "BeginTime" else None)
    return job["start"] or job["end"]


def end_of(job):
    if job["state"] in FINAL:
        return job["end"]
    start = start_of(job)
    return start + job["limit"] if start and job["limit"] is not None else None


def left(job):
    if job["limit"] is None:
        return "UNLIMITED"
    rest = job["limit"] - used_seconds(job)
    return span(rest) if rest >= 0 else "0:00"


def nodes_or_reason(job):
    if job["state"] in ("PENDING", "TIMEOUT", "OUT_OF_MEMORY", "FAILED"):
        return f"({job['reason']})"
    return compress(job["layout"])


def shown_partition(job):
    return job["partition"] if job["state"] == "PENDING" else job["partition_used"] or job["partition"].split(",")[0]


def gres(job):
    return f"gres:gpu:{job['gpus']}" if job["gpus"] else "N/A"


def tres(job):
    parts = [
        f"cpu={job['cores']}",
        f"mem={job['memory'] or 1000}M",
        f"node={max(1, len(job['layout']))}",
        f"billing={job['cores']}",
    ]
    return ",".join(parts + ([f"gres/gpu={job['gpus']}"] if job["gpus"] else []))


def wait_status(job):
    return job["exit_signal"] or job["exit_code"] << 8


def exit_pair(job):
    return f"{job['exit_code']}:{job['exit_signal']}"


def priority(job):
    return "0" if job["held"] else str(4294901760 - job["seq"])


def host_of(job):
    return next(iter(job["layout"]), "n/a")


# letter: (heading, -O names, value)
FIELDS = {
    "i": ("JOBID", ("jobarrayid",), lambda j: str(j["seq"])),
    "A": ("JOBID", ("jobid",), lambda j: str(j["seq"])),
    "F": ("ARRAY_JOB_ID", ("arrayjobid",), lambda j: str(j["seq"])),
    "K": ("ARRAY_TASK_ID", ("arraytaskid",), lambda j: "N/A"),
    "T": ("STATE", ("state",), shown_state),
    "t": ("ST", ("statecompact",), lambda j: SHORT[shown_state(j)]),
    "r": ("REASON", ("reason",), lambda j: j["reason"]),
    "R": ("NODELIST(REASON)", ("reasonlist",), nodes_or_reason),
    "N": ("NODELIST", ("nodelist",), lambda j: compress(j["layout"])),
    "B": ("EXEC_HOST", ("batchhost",), host_of),
    "Y": ("SCHEDNODES", ("schednodes",), lambda j: "(null)"),
    "S": ("START_TIME", ("starttime",), lambda j: stamp(start_of(j))),
    "e": ("END_TIME", ("endtime",), lambda j: stamp(end_of(j))),
    "V": ("SUBMIT_TIME", ("submittime",), lambda j: stamp(j["submit"])),
    "L": ("TIME_LEFT", ("timeleft",), left),
    "l": ("TIME_LIMIT", ("timelimit",), lambda j: span(j["limit"])),
    "M": ("TIME", ("timeused",), lambda j: span(used_seconds(j))),
    "C": ("CPUS", ("numcpus",), lambda j: str(j["cores"])),
    "D": ("NODES", ("numnodes",), lambda j: str(max(1, len(j["layout"]), j["nodes_wanted"]))),
    "m": ("MIN_MEMORY", ("minmemory",), lambda j: f"{j['memory'] or 1000}M"),
    "b": ("TRES_PER_NODE", ("tres-per-node", "gres"), gres),
    "u": ("USER", ("username",), lambda j: j["user"]),
    "U": ("UID", ("userid",), lambda j: str(j["uid"])),
    "g": ("GROUP", ("groupname",), lambda j: user_name(j["gid"])),
    "a": ("ACCOUNT", ("account",), lambda j: j["account"] or "(null)"),
    "q": ("QOS", ("qos",), lambda j: j["qos"]),
    "P": ("PARTITION", ("partition",), shown_partition),
    "Q": ("PRIORITY", ("prioritylong",), priority),
    "p": ("PRIORITY", ("priority",), lambda j: "0.99998"),
    "j": ("NAME", ("name",), lambda j: j["name"]),
    "k": ("COMMENT", ("comment",), lambda j: j["comment"] or "(null)"),
    "Z": ("WORK_DIR", ("workdir",), lambda j: j["cwd"]),
    "o": ("COMMAND", ("command",), lambda j: j["command"] or "(null)"),
    "y": ("NICE", ("nice",), lambda j: "0"),
    "f": ("FEATURES", ("feature",), lambda j: "&".join(j["features"]) or "(null)"),
    "n": ("REQ_NODES", ("reqnodes",), lambda j: ",".join(j["hosts_asked"])),
    "x": ("EXC_NODES", ("excnodes",), lambda j: ",".join(j["hosts_excluded"])),
    "E": ("DEPENDENCY", ("dependency",), lambda j: "(null)"),
    "v": ("RESERVATION", ("reservation",), lambda j: "(null)"),
    "w": ("WCKEY", ("wckey",), lambda j: "(null)"),
    "h": ("OVER_SUBSCRIBE", ("oversubscribe",), lambda j: "OK"),
    "c": ("MIN_CPUS", ("mincpus",), lambda j: "1"),
    "\0exit": ("EXIT_CODE", ("exit_code",), lambda j: str(wait_status(j))),
    "\0tres": ("TRES_ALLOC", ("tres-alloc",), tres),
    "\0restart": ("RESTART_COUNT", ("restartcnt",), lambda j: str(j["restarts"])),
}
LONG_NAMES = {name: key for key, (_, names, _) in FIELDS.items() for name in names}
DEFAULT_FORMAT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"


def fill(text, width, right):
    if width:
        text = text.rjust(width) if right else text.ljust(width)
        return text[:width]
    return text


def percent_format(call, text, fields, tool):
    """The pieces of an ``-o`` format: plain strings and (key, width, right)."""
    pieces, at = [], 0
    while at < len(text):
        if text[at] != "%":
            stop = text.find("%", at)
            stop = len(text) if stop < 0 else stop
            pieces.append(text[at:stop])
            at = stop
            continue
        at += 1
        right, digits = False, ""
        while at < len(text) and (text[at] in ".#" or text[at].isdigit()):
            right = right or text[at] == "."
            digits += text[at] if text[at].isdigit() else ""
            at += 1
        letter = text[at : at + 1]
        at += 1
        if letter in fields:
            pieces.append((letter, int(digits or 0), right))
        elif letter:
            call.err(f"{tool}: error: Invalid {'job' if tool == 'squeue' else 'node'} format specification: {letter}")
    return pieces


def name_format(call, text, names, tool):
    """The pieces of an ``-O`` format: ``name``, ``name:20``, ``name:.20``, ``name:|``."""
    pieces = []
    for word in text.split(","):
        name, _colon, rest = word.partition(":")
        right = rest.startswith(".")
        rest = rest[right:]
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        suffix = rest[len(digits) :]
        width = int(digits) if digits else (0 if suffix else 20)
        if name.lower() in names:
            pieces.append((names[name.lower()], width, right))
        else:
            call.err(f"{tool}: error: Invalid job format specification: {name}")
        pieces.append(suffix)
    return pieces


def line(pieces, value):
    return "".join(p if isinstance(p, str) else fill(value(p[0]), p[1], p[2]) for p in pieces)


def unknown(call, status=1):
    def letter(what):
        call.fail(f"{call.name}: invalid option -- '{what}'\nTry \"{call.name} --help\" for more information", status)

    def name(what):
        call.fail(
            f"{call.name}: unrecognized option '--{what}'\nTry \"{call.name} --help\" for more information", status
        )

    return letter, name


def in_memory(call, jobs):
    edge = now() - call.config["min_job_age"]
    return [job for job in jobs if job["state"] not in FINAL or (job["end"] or 0) > edge]
