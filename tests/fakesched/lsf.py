"""LSF's commands: bjobs, bkill, bhist, bqueues, bhosts, bmod, bparams; Spectrum LSF 10.1's or, with ``lsf: openlava``, openlava's words."""

import json
import os
import time

from tests.fakesched import life, lsf_submit
from tests.fakesched.lsf_submit import read_minutes, words_of
from tests.fakesched.store import FINAL, now

TIMEOUT_HOW = "error"
plan = lsf_submit.plan
after_run = lsf_submit.after_run
TERMS = {
    "timeout": ("TERM_RUNLIMIT", "job killed after reaching LSF run time limit"),
    "oom": ("TERM_MEMLIMIT", "job killed after reaching LSF memory usage limit"),
    "preempt": ("TERM_PREEMPT", "job killed after preemption"),
    "node_fail": ("TERM_ZOMBIE", "job killed by LSF because its host is unavailable"),
}
BJOBS_USAGE = """Usage: bjobs [-h] [-V] [-w |-l] [-W] [-a] [-d] [-p] [-s] [-r] [-g job_group]
             [-A] [-m host_name] [-q queue_name] [-u user_name | -u all]
             [-P project_name] [-N host_spec] [-J name_spec] [-UF] [-WL|-WP|-WF] [-noheader]
             [jobId | "jobId[idxList]" ...]"""


def down(call, fault):
    """mbatchd does not answer: the client says so again and again, for ever, unless the site bounds its tries."""
    if fault.get("kind") == "refused" or fault.get("tries"):
        call.err("Connection refused by server" + (". Job not submitted." if call.name == "bsub" else ""))
        return 255
    if fault.get("kind") == "timeout":
        from tests.fakesched.command import hang

        hang()
    while True:
        call.err("batch system daemon not responding ... still trying")
        call.flush()
        time.sleep(float(fault.get("every", 10)))


def created_but_timeout(call):
    call.err(
        "Failed in an LSF library call: Failed in sending/receiving a message: Connection reset by peer. Job not submitted."
    )
    return 255


# ---------------------------------------------------------------- words for a job


def status(job):
    if job.get("unknown"):
        return "UNKWN"
    state = job["state"]
    if state == "PENDING":
        return "PSUSP" if job["held"] else "PEND"
    if state == "COMPLETED":
        return "DONE"
    if state in FINAL:
        return "EXIT"
    return "SSUSP" if state == "SUSPENDED" else "RUN"


def exit_code(job):
    if job["state"] == "TIMEOUT":
        return 140
    if job["ended_by"] in ("cancel", "oom", "preempt", "node_fail"):
        return 130
    return job["exit_signal"] + 128 if job["exit_signal"] else job["exit_code"]


def term(job):
    if job["ended_by"] == "cancel":
        owner = job.get("cancelled_by") == job["uid"]
        return (
            ("TERM_OWNER", "job killed by owner")
            if owner
            else ("TERM_ADMIN", "job killed by root or LSF administrator")
        )
    return TERMS.get(job["ended_by"] or "", ("", ""))


def stamp(seconds, mark=""):
    if not seconds:
        return "-"
    form = "%b %e %H:%M:%S %Y" if os.environ.get("LSB_DISPLAY_YEAR", "").upper() == "Y" else "%b %e %H:%M"
    return time.strftime(form, time.localtime(seconds)) + mark


def hosts(config, job, *, short=False):
    """``2*n1:n2`` in LSF 10, ``n1:n1:n2`` in openlava."""
    if config["lsf"] == "openlava":
        return ":".join(node for node, count in job["layout"].items() for _ in range(count))
    return ":".join(f"{count}*{node}" if count > 1 and not short else node for node, count in job["layout"].items())


def finish(job):
    if job["state"] in FINAL:
        return stamp(job["end"])
    if job["start"] and job["limit"] is not None and job["layout"]:
        return stamp(job["start"] + job["limit"], " L")
    return "-"


def time_left(job):
    if job["state"] in FINAL or not job["layout"] or job["limit"] is None:
        return "-"
    rest = max(0, int(job["start"] + job["limit"] - now()))
    return f"{rest // 3600}:{rest % 3600 // 60} L"


PENDING = {
    "Resources": "Job slot limit reached",
    "Priority": "Job slot limit reached",
    "PartitionDown": "The queue is inactivated by the administrator",
    "PartitionInactive": "The queue is inactivated by the administrator",
    "JobHeldUser": "The job was suspended by the user while pending",
    "JobHeldAdmin": "The job was suspended by LSF admin or root while pending",
    "BeginTime": "New job is waiting for scheduling",
    "None": "New job is waiting for scheduling",
}


def pending_reason(config, job):
    if job["state"] != "PENDING":
        return ""
    word = PENDING.get(job["reason"], job["reason"])
    if job["reason"] in ("Resources", "Priority", "PartitionDown", "PartitionInactive"):
        count = len(life.partition(config, job["partition"])["nodes"])
        return f"{word}: {count} host{'s' if count > 1 else ''};"
    return f"{word};"


def seconds_run(job):
    return int((job["end"] or now()) - job["start"]) if job["start"] and job["layout"] else 0


def started(job):
    return job["start"] if job["layout"] else None


# name: (heading, aliases, value)
FIELDS = {
    "jobid": ("JOBID", ("id",), lambda c, j: str(j["seq"])),
    "jobindex": ("JOBINDEX", (), lambda c, j: "0"),
    "stat": ("STAT", (), lambda c, j: status(j)),
    "user": ("USER", (), lambda c, j: j["user"]),
    "queue": ("QUEUE", (), lambda c, j: j["partition"]),
    "job_name": ("JOB_NAME", ("name",), lambda c, j: j["name"]),
    "job_description": ("JOB_DESCRIPTION", ("description",), lambda c, j: j["comment"]),
    "proj_name": ("PROJ_NAME", ("proj", "project"), lambda c, j: j["account"]),
    "command": ("COMMAND", ("cmd",), lambda c, j: j["command"]),
    "exit_code": ("EXIT_CODE", (), lambda c, j: str(exit_code(j) or "") if j["state"] in FINAL else ""),
    "exit_reason": ("EXIT_REASON", (), lambda c, j: ": ".join(term(j)) if j["state"] in FINAL and term(j)[0] else ""),
    "from_host": ("FROM_HOST", (), lambda c, j: c["submit_host"]),
    "first_host": ("FIRST_HOST", (), lambda c, j: next(iter(j["layout"]), "")),
    "exec_host": ("EXEC_HOST", (), hosts),
    "nexec_host": ("NEXEC_HOST", (), lambda c, j: str(len(j["layout"]) or "")),
    "alloc_slot": ("ALLOC_SLOT", (), hosts),
    "nalloc_slot": ("NALLOC_SLOT", (), lambda c, j: str(j["cores"]) if j["layout"] else ""),
    "slots": ("SLOTS", (), lambda c, j: str(j["cores"]) if j["layout"] else ""),
    "submit_time": ("SUBMIT_TIME", (), lambda c, j: stamp(j["submit"])),
    "start_time": ("START_TIME", (), lambda c, j: stamp(started(j))),
    "finish_time": ("FINISH_TIME", (), lambda c, j: finish(j)),
    "estimated_start_time": ("ESTIMATED_START_TIME", ("estart_time",), lambda c, j: ""),
    "time_left": ("TIME_LEFT", (), lambda c, j: time_left(j)),
    "run_time": ("RUN_TIME", (), lambda c, j: f"{seconds_run(j)} second(s)"),
    "runtimelimit": ("RUNTIMELIMIT", ("rtlimit",), lambda c, j: f"{j['limit'] / 60:.1f}" if j["limit"] else ""),
    "pend_reason": ("PEND_REASON", (), pending_reason),
    "pend_time": ("PEND_TIME", (), lambda c, j: str(int((started(j) or now()) - j["submit"]))),
    "memlimit": ("MEMLIMIT", (), lambda c, j: f"{j['memory']} M" if j["memory"] else ""),
    "mem": ("MEM", (), lambda c, j: ""),
    "max_mem": ("MAX_MEM", (), lambda c, j: ""),
    "cpu_used": ("CPU_USED", (), lambda c, j: "0.0 second(s)"),
    "%complete": ("%COMPLETE", (), lambda c, j: ""),
    "gpu_num": ("GPU_NUM", ("gnum",), lambda c, j: str(j["gpus"] or "")),
    "exec_home": ("EXEC_HOME", (), lambda c, j: j["home"] if j["layout"] else ""),
    "exec_cwd": ("EXEC_CWD", (), lambda c, j: j["cwd"] if j["layout"] else ""),
    "sub_cwd": ("SUB_CWD", (), lambda c, j: j["cwd"]),
    "output_file": ("OUTPUT_FILE", (), lambda c, j: j["output"]),
    "error_file": ("ERROR_FILE", (), lambda c, j: j["error"]),
    "kill_reason": ("KILL_REASON", (), lambda c, j: ""),
    "suspend_reason": ("SUSPEND_REASON", (), lambda c, j: ""),
    "job_group": ("JOB_GROUP", ("group",), lambda c, j: ""),
    "application": ("APPLICATION", ("app",), lambda c, j: ""),
    "dependency": ("DEPENDENCY", (), lambda c, j: ""),
    "exception_status": ("EXCEPTION_STATUS", ("except_stat",), lambda c, j: ""),
}
ALIASES = {alias: name for name, (_, aliases, _) in FIELDS.items() for alias in (name, *aliases)}


# ---------------------------------------------------------------- bjobs


def _parse(call, flags, values):
    """LSF's own style: a dash and a word. openlava knows letters only, as getopt does."""
    found, rest, todo = {}, [], list(call.argv)
    while todo:
        word = todo.pop(0)
        if not word.startswith("-") or word == "-":
            rest.append(word)
        elif word[1:] in flags:
            found[word[1:]] = True
        elif word[1:] in values:
            found[word[1:]] = todo.pop(0) if todo else ""
        else:
            usage = BJOBS_USAGE if call.name == "bjobs" else f"Usage: {call.name} [-h] [-V] ..."
            call.fail(f"{call.name}: invalid option -- '{word[1:2]}'\n{usage}", 255)
    return found, rest


def bjobs(call):
    openlava = call.config["lsf"] == "openlava"
    flags = {"w", "l", "a", "d", "p", "s", "r", "W", "A", "UF", "WL", "WP", "WF", "noheader", "h", "V"}
    values = {"u", "J", "q", "m", "P", "g", "N"}
    if not openlava:
        flags |= {"json", "X", "x", "hms"}
        values |= {"o"}
    opts, rest = _parse(call, flags, values)
    if "V" in opts:
        call.err("OpenLava 4.0dev4, Nov 22 2026" if openlava else "IBM Spectrum LSF Standard 10.1.0.13, Apr 15 2022")
        return 0
    if "h" in opts:
        call.fail(BJOBS_USAGE, 255)
    chosen, missing, bad = _choose(call, opts, rest)
    form = opts.get("o") or (os.environ.get("LSB_BJOBS_FORMAT", "") if not openlava else "")
    if "json" in opts:
        if not form:
            call.fail("The -json option is only valid with the -o option.", 255)
        _json(call, form, chosen, missing)
        return 255 if missing or not chosen else 0
    if chosen:
        if form:
            _formatted(call, form, chosen, header="noheader" not in opts)
        elif "l" in opts or "UF" in opts:
            for number, job in enumerate(chosen):
                call.out(
                    ("-" * 78 if number else "")
                    + "\n" * bool(number)
                    + "\n".join(_long(call, job, unfold="UF" in opts))
                )
        else:
            _table(call, chosen, header="noheader" not in opts, wide=bool({"w", "W"} & set(opts)))
    for seq in missing:
        call.err(f"Job <{seq}> is not found")
    if not chosen and not missing and not bad:
        call.err(_nothing(call, opts))
    return 255 if missing or bad or not chosen else 0


def _nothing(call, opts):
    if "J" in opts:
        return f"Job <{opts['J']}> is not found"
    if "d" in opts:
        return "No DONE/EXIT job found"
    if "a" in opts and call.config["lsf"] != "openlava":
        return "No job found"
    if "p" in opts:
        return "No pending job found"
    return "No unfinished job found"


def _choose(call, opts, rest):
    edge = now() - call.config["clean_period"]
    known = [job for job in call.snapshot() if job["state"] not in FINAL or (job["end"] or 0) > edge]
    wanted, bad = [], False
    for word in rest:
        number = word.partition("[")[0]
        if not number.isdigit():
            call.err(f"{word}: Illegal job ID.")
            bad = True
        elif number != "0":
            wanted.append(int(number))
    if wanted or bad:
        there = {job["seq"]: job for job in known}
        found = [there[seq] for seq in wanted if seq in there]
        return found, [seq for seq in wanted if seq not in there], bad
    users = opts.get("u", call.user).split()
    name = opts.get("J")
    rows = [
        job
        for job in known
        if ("all" in users or job["user"] in users)
        and ("q" not in opts or job["partition"] == opts["q"])
        and (name is None or job["name"] == name or (name.endswith("*") and job["name"].startswith(name[:-1])))
    ]
    if "d" in opts:
        rows = [job for job in rows if job["state"] in FINAL]
    elif "a" not in opts:
        rows = [job for job in rows if job["state"] not in FINAL]
    if "p" in opts:
        rows = [job for job in rows if job["state"] == "PENDING"]
    if "r" in opts:
        rows = [job for job in rows if status(job) == "RUN"]
    return rows, [], False


def _fields(call, form):
    """The fields and the delimiter of a ``-o`` text."""
    names, mark = [], None
    for word in words_of(form):
        key, _, value = word.partition("=")
        if key == "delimiter":
            mark = value.strip("'\"")
            continue
        name, _, width = word.lower().partition(":")
        if name not in ALIASES:
            call.fail(f"{word}: Illegal field name", 255)
        names.append((ALIASES[name], int(width or 0)))
    return names, mark


def _formatted(call, form, jobs, *, header):
    names, mark = _fields(call, form)

    def show(values):
        if mark is not None:
            cells = [value[: abs(width)] if width else value for value, (_, width) in zip(values, names, strict=True)]
            call.out(mark.join(cells))
            return
        cells = []
        for value, (_, width) in zip(values, names, strict=True):
            size = abs(width) or 10
            cells.append(value.rjust(size) if width < 0 else value.ljust(size))
        call.out(" ".join(cells).rstrip() + " ")

    if header:
        show([FIELDS[name][0] for name, _ in names])
    for job in jobs:
        show([FIELDS[name][2](call.config, job) or "-" for name, _ in names])


def _json(call, form, jobs, missing):
    names, _ = _fields(call, form)

    def text(value):
        return json.dumps(value, ensure_ascii=False).replace("/", "\\/")

    records = []
    for job in jobs:
        pairs = [(FIELDS[name][0], FIELDS[name][2](call.config, job)) for name, _ in names]
        records.append([(key, "" if value == "-" else value) for key, value in pairs])
    records += [[("JOBID", str(seq)), ("ERROR", f"Job <{seq}> is not found")] for seq in missing]
    parts = [
        "    {\n" + ",\n".join(f'      "{key}":{text(value)}' for key, value in record) + "\n    }"
        for record in records
    ]
    body = ",\n".join(parts) + ("\n" if parts else "")
    call.out(f'{{\n  "COMMAND":"bjobs",\n  "JOBS":{len(records)},\n  "RECORDS":[\n{body}  ]\n}}')


HEADER = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"


def _table(call, jobs, *, header, wide):
    config = call.config
    if header:
        call.out(HEADER)
    for job in jobs:
        when = time.strftime("%b %e %H:%M", time.localtime(job["submit"]))
        name = job["name"]
        places = hosts(config, job)
        if wide:
            shown, more = places or "   -", []
        else:
            shown, *more = places.split(":")
            name = name if len(name) <= 10 else "*" + name[-9:]
        user = job["user"] if wide else job["user"][:7]
        tail = "" if wide else "  "
        call.out(
            f"{job['seq']:<7} {user:<7} {status(job):<5} {job['partition']:<10} {config['submit_host']:<11} {shown:<11} {name:<10} {when}{tail}"
        )
        for host in more:
            call.out(" " * 45 + host)


# ---------------------------------------------------------------- the long forms


def fold(text):
    """A line of 79 characters; what follows is indented by 21. A space at the first break is lost, as observed."""
    first, rest = text[:79], text[79:]
    rest = rest.removeprefix(" ")
    lines = [first]
    while rest:
        lines.append(" " * 21 + rest[:58])
        rest = rest[58:]
        rest = rest.removeprefix(" ")
    return lines


def _when(seconds):
    return time.strftime("%a %b %e %H:%M:%S", time.localtime(seconds))


def _heading(config, job, *, unfold, with_queue=True):
    word = "Job Id" if config["lsf"] == "openlava" and not unfold else "Job"
    where = f", Status <{status(job)}>, Queue <{job['partition']}>" if with_queue else ""
    return f"{word} <{job['seq']}>, Job Name <{job['name']}>, User <{job['user']}>, Project <{job['account']}>{where}, Command <{job['command']}>"


def _files(job):
    out = f", Output File <{job['output']}>" if job["output"] else ""
    return out + (f", Error File <{job['error']}>" if job["error"] else "")


def _cwd(job):
    home = job["home"].rstrip("/")
    return "$HOME" + job["cwd"][len(home) :] if home and (job["cwd"] + "/").startswith(home + "/") else job["cwd"]


def _end_line(job):
    what = f"{_when(job['end'])}: "
    if not job["start"]:
        return what + "Exited"
    if job["state"] == "COMPLETED":
        return what + "Done successfully. The CPU time used is 0.0 seconds.\n"
    reason, words = term(job)
    if reason:
        signal = "exit code 140" if reason == "TERM_RUNLIMIT" else "exit code 130"
        return f"{what}Exited with {signal}. The CPU time used is 0.0 seconds.\n{_when(job['end'])}: Completed <exit>; {reason}: {words}."
    return f"{what}Exited with exit code {exit_code(job)}. The CPU time used is 0.0 seconds.\n"


def _long(call, job, *, unfold):
    config = call.config
    openlava = config["lsf"] == "openlava"
    texts = [_heading(config, job, unfold=unfold)]
    hold = " on hold" if job["held"] else ""
    texts.append(
        f"{_when(job['submit'])}: Submitted from host <{config['submit_host']}>{hold}, CWD <{_cwd(job)}>{_files(job)};"
    )
    limits = ["", " RUNLIMIT", f" {job['limit'] / 60:.1f} min of {config['submit_host']}"] if job["limit"] else []
    after_texts = []
    if job["layout"]:
        home = f", Execution Home <{job['home']}>, Execution CWD <{job['cwd']}>;"
        spots = [node for node, count in job["layout"].items() for _ in range(count)]
        if not openlava:
            begun = f"Started {len(spots)} Task(s) on Host(s) " + " ".join(
                f"<{part}>" for part in hosts(config, job).split(":")
            )
            begun += f", Allocated {len(spots)} Slot(s) on Host(s) " + " ".join(
                f"<{part}>" for part in hosts(config, job).split(":")
            )
        elif len(spots) == 1:
            begun = f"Started on <{spots[0]}>"
        else:
            begun = f"Started on {len(spots)} Hosts/Processors " + " ".join(f"<{spot}>" for spot in spots)
        after_texts.append(f"{_when(job['start'])}: {begun}{home}")
    if job["state"] in FINAL:
        after_texts += _end_line(job).rstrip("\n").split("\n")
    lines = [""]
    for text in texts:
        lines += [text] if unfold else fold(text)
    lines += limits
    for text in after_texts:
        lines += [text] if unfold else fold(text) + ([" " * 21] if len(text) == 79 else [])
    if job["state"] == "PENDING":
        lines += [" PENDING REASONS:", f" {pending_reason(config, job)}"]
    return [*lines, "", *SCHEDULING, ""]


SCHEDULING = [
    " SCHEDULING PARAMETERS:",
    "           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem",
    " loadSched   -     -     -     -       -     -    -     -     -      -      -  ",
    " loadStop    -     -     -     -       -     -    -     -     -      -      -  ",
]


def bhist(call):
    opts, rest = _parse(
        call, {"l", "a", "w", "d", "p", "r", "s", "h", "V", "b"}, {"n", "u", "J", "q", "m", "S", "C", "D", "T"}
    )
    wanted = [int(word.partition("[")[0]) for word in rest if word.partition("[")[0].isdigit()]
    name = opts.get("J")
    jobs = [
        job
        for job in call.snapshot()
        if job["seq"] in wanted or (not wanted and (job["user"] == call.user or "u" in opts))
    ]
    jobs = [job for job in jobs if name is None or job["name"] == name]
    if not jobs:
        call.fail("No matching job found", 255)
    if "l" not in opts:
        call.out("Summary of time in seconds spent in various states:")
        call.out("JOBID   USER    JOB_NAME  PEND    PSUSP   RUN     USUSP   SSUSP   UNKWN   TOTAL")
        for job in jobs:
            call.out(f"{job['seq']:<7} {job['user'][:7]:<7} {job['name'][:9]:<9} " + _spent(job))
        call.out()
        return 0
    for job in jobs:
        call.out("\n".join(_history(call, job)))
    return 0


def _spent(job):
    pend = int((started(job) or job["end"] or now()) - job["submit"])
    run = seconds_run(job)
    return "".join(f"{value:<8}" for value in (pend, 0, run, 0, 0, 0)) + f"{pend + run:<8}"


def _history(call, job):
    config = call.config
    texts = [_heading(config, job, unfold=False, with_queue=False)]
    texts.append(
        f"{_when(job['submit'])}: Submitted from host <{config['submit_host']}> to Queue <{job['partition']}>, CWD <{_cwd(job)}>{_files(job)};"
    )
    if job["layout"]:
        at = _when(job["start"])
        if config["lsf"] == "openlava":
            texts.append(f"{at}: Dispatched to " + " ".join(f"<{node}>" for node in job["layout"]) + ";")
        else:
            texts.append(f"{at}: Dispatched {job['cores']} Task(s) on Host(s) <{hosts(config, job)}>;")
        pid = job["pid"] or 0
        texts.append(f"{at}: Starting (Pid {pid});")
        texts.append(
            f"{at}: Running with execution home <{job['home']}>, Execution CWD <{job['cwd']}>, Execution Pid <{pid}>;"
        )
    if job["state"] in FINAL:
        texts += _end_line(job).rstrip("\n").split("\n")
    lines = [""]
    for text in texts:
        lines += fold(text)
    lines += ["", f"Summary of time in seconds spent in various states by  {_when(now())}"]
    lines.append("  PEND     PSUSP    RUN      USUSP    SSUSP    UNKWN    TOTAL")
    pend = int((started(job) or job["end"] or now()) - job["submit"])
    run = seconds_run(job)
    lines.append("  " + "".join(f"{value:<9}" for value in (pend, 0, run, 0, 0, 0)) + f"{pend + run:<12}")
    return [*lines, ""]


# ---------------------------------------------------------------- bkill, bmod


def bkill(call):
    opts, rest = _parse(call, {"r", "l", "b", "d", "h", "V"}, {"s", "J", "q", "u", "m", "g"})
    result = 0
    with call.store.locked() as session:
        life.schedule(call.store, session)
        wanted = []
        for word in rest or ["0"]:
            number = word.partition("[")[0]
            if not number.isdigit():
                call.err(f"{word}: Illegal job ID.")
                result = 255
            elif number != "0":
                wanted.append(int(number))
            else:
                mine = [job for job in session.jobs(active=True) if job["user"] == call.user]
                found = [job["seq"] for job in mine if "J" not in opts or job["name"] == opts["J"]]
                wanted += found
                if not found:
                    call.err("No matching job found" if "J" not in opts else f"Job <{opts['J']}> is not found")
                    result = 255
        for seq in wanted:
            result = _kill(call, session, seq, opts) or result
        life.schedule(call.store, session)
    return result


def _kill(call, session, seq, opts):
    job = session.get(seq)
    if job is None or (job["state"] in FINAL and now() - job["end"] > call.config["clean_period"]):
        call.err(f"Job <{seq}>: No matching job found")
        return 255
    if job["state"] in FINAL:
        call.err(f"Job <{seq}>: Job has already finished")
        return 255
    if job["user"] != call.user and not call.is_admin:
        call.err(f"Job <{seq}>: User permission denied")
        return 255
    word = opts.get("s", "").upper().removeprefix("SIG")
    if word and word not in ("KILL", "9", "TERM", "15"):
        import signal

        job["signals"].append(int(word) if word.isdigit() else int(getattr(signal, f"SIG{word}")))
        session.put(job)
        call.store.wake(seq)
        call.out(f"Job <{seq}> is being signaled")
        return 0
    life.order(call.store, session, job, "cancel", cancelled_by=call.uid)
    call.out(f"Job <{seq}> is being terminated")
    return 0


def bmod(call):
    opts, rest = _parse(call, {"h", "V"}, {"W", "J", "q", "n", "M", "o", "e"})
    word = rest[0] if rest else ""
    with call.store.locked() as session:
        job = session.get(int(word)) if word.isdigit() else None
        if job is None:
            call.fail(f"{word}: No matching job found. Job not modified.", 255)
        if job["state"] in FINAL:
            call.fail("Job has already finished. Job not modified.", 255)
        if job["user"] != call.user and not call.is_admin:
            call.fail("User permission denied. Job not modified.", 255)
        if job["state"] != "PENDING" and not call.config["lsb_mod_all_jobs"]:
            call.fail("Job parameters cannot be changed now; non-repetitive job is running. Job not modified.", 255)
        if "W" in opts:
            minutes = read_minutes(opts["W"])
            part = life.partition(call.config, job["partition"])
            if minutes is None:
                call.fail(f"{opts['W']}: Bad RUNLIMIT specification. Job not modified.", 255)
            if part["max_time"] is not None and minutes > part["max_time"]:
                call.fail("RUNLIMIT: Cannot exceed queue's hard limit(s). Job not modified.", 255)
            job["limit"] = minutes * 60
            if job["layout"]:
                job["limit_end"] = job["start"] + minutes * call.config["seconds_per_minute"]
        session.put(job)
    call.store.wake(int(word))
    call.out(f"Parameters of job <{word}> are being changed")
    return 0


# ---------------------------------------------------------------- bqueues, bhosts, bparams

QUEUE_STATUS = {"UP": "Open:Active", "DOWN": "Open:Inact", "DRAIN": "Closed:Active", "INACTIVE": "Closed:Inact"}


def _queue_status(config, part):
    text = QUEUE_STATUS[part["state"]]
    return text.replace("Inact", "Inactive") if config["lsf"] == "openlava" else text


def _queue_counts(jobs, name):
    live = [job for job in jobs if job["partition"] == name and job["state"] not in FINAL]
    states = [status(job) for job in live]
    slots = sum(job["cores"] for job in live)
    running = sum(job["cores"] for job, state in zip(live, states, strict=True) if state == "RUN")
    pending = sum(job["cores"] for job, state in zip(live, states, strict=True) if state in ("PEND", "PSUSP"))
    return slots, pending, running, slots - running - pending


def bqueues(call):
    opts, rest = _parse(call, {"w", "l", "noheader", "h", "V", "json"}, {"u", "o", "m"})
    config = call.config
    parts = config["partitions"]
    for name in rest:
        if life.partition(config, name) is None:
            call.fail(f"{name}: No such queue", 255)
    chosen = [part for part in parts if not rest or part["name"] in rest]
    if "u" in opts and opts["u"] != "all":
        chosen = [part for part in chosen if part["users"] is None or opts["u"] in part["users"]]
    chosen.sort(key=lambda part: -part["priority"])
    jobs = call.snapshot()
    if "o" in opts:
        _queue_format(call, opts, chosen, jobs)
        return 0
    if "l" in opts:
        blocks = ["\n".join(_queue_long(config, part, jobs)) for part in chosen]
        call.out(f"\n\n{'-' * 79}\n".join(blocks) + "\n")
        return 0
    if "noheader" not in opts:
        call.out("QUEUE_NAME     PRIO      STATUS      MAX  JL/U JL/P JL/H NJOBS  PEND  RUN  SUSP")
    for part in chosen:
        n, pend, run, susp = _queue_counts(jobs, part["name"])
        most = part["max_queued"] or "-"
        call.out(
            f"{part['name']:<15}{part['priority']:>3}  {_queue_status(config, part):^15}{'-':>5}{most!s:>5}{'-':>5}{'-':>5}"
            f"{n:>6}{pend:>6}{run:>6}{susp:>6} "
        )
    return 0


def _queue_format(call, opts, parts, jobs):
    names, mark = [], " "
    for word in words_of(opts["o"]):
        if word.startswith("delimiter="):
            mark = word.partition("=")[2].strip("'\"")
        else:
            names.append(word.partition(":")[0].lower())
    if "noheader" not in opts:
        call.out(mark.join(name.upper() for name in names))
    for part in parts:
        n, pend, run, susp = _queue_counts(jobs, part["name"])
        values = {"queue_name": part["name"], "description": part["description"] or "-", "priority": part["priority"],
                  "status": _queue_status(call.config, part), "max": "-", "jl_u": part["max_queued"] or "-", "njobs": n, "pend": pend,
                  "run": run, "susp": susp}  # fmt: skip
        call.out(mark.join(str(values.get(name, "-")) for name in names))


def _queue_long(config, part, jobs):
    n, pend, run, susp = _queue_counts(jobs, part["name"])
    state = _queue_status(config, part)
    most = part["max_queued"] or "-"
    lines = [
        "",
        f"QUEUE: {part['name']}",
        f"  -- {part['description'] or 'No description provided.'}",
        "",
        "PARAMETERS/STATISTICS",
    ]
    lines.append("PRIO NICE     STATUS       MAX JL/U JL/P JL/H NJOBS  PEND  RUN  SSUSP USUSP  RSV")
    lines.append(
        f"{part['priority']:>4}   0  {state:^15}   -{'    -' if most == '-' else f'{most:>6}':<6}   -    -"
        f"{n:>6}{pend:>6}{run:>6}{susp:>6}{0:>6}{0:>5}"
    )
    lines += ["", "Interval for a host to accept two jobs is 0 seconds"]
    host = config["submit_host"]
    if part["default_time"] is not None:
        lines += ["", "DEFAULT LIMITS:", f" {'RUNLIMIT':<24}", f" {part['default_time']:.1f} min of {host}".ljust(25)]
    head, body = "", ""
    if part["max_time"] is not None:
        head += f" {'RUNLIMIT':<24}"
        body += f" {part['max_time']:.1f} min of {host}".ljust(25)
    if part["max_cores"] is not None:
        head += f" {'PROCLIMIT' if config['lsf'] == 'openlava' else 'TASKLIMIT':<24}"
        body += f" {part['max_cores']}"
    if head:
        lines += ["", "MAXIMUM LIMITS:", head, body]
    if part["max_memory"] is not None:
        lines += ["", " MEMLIMIT", f" {part['max_memory']} M"]
    lines += ["", "SCHEDULING PARAMETERS", *SCHEDULING[1:], ""]
    lines.append("USERS:  all users" if part["users"] is None else f"USERS:  {' '.join(part['users'])} ")
    system = "OpenLava" if config["lsf"] == "openlava" else "LSF"
    everywhere = set(part["nodes"]) == set(config["nodes"])
    lines.append(
        f"HOSTS:  all hosts used by the {system} system" if everywhere else f"HOSTS:  {' '.join(part['nodes'])} "
    )
    return lines


def bhosts(call):
    opts, rest = _parse(call, {"w", "l", "noheader", "h", "V", "gpu", "json"}, {"o"})
    config = call.config
    for name in rest:
        if name not in config["nodes"]:
            call.fail(f"{name}: Bad host name, host group name or cluster name", 255)
    with call.store.locked() as session:
        life.schedule(call.store, session)
        busy, _ = life.used(session)
        broken = set(session.meta("down", []))
    if "noheader" not in opts:
        call.out("HOST_NAME          STATUS       JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV ")
    for name in sorted(rest or config["nodes"]):
        cores, taken = config["nodes"][name]["cores"], busy[name]
        state = "unavail" if name in broken else "ok" if taken < cores else "closed_Full" if "w" in opts else "closed"
        call.out(f"{name:<18} {state:<14} {'-':>2} {cores:>6} {taken:>6} {taken:>6} {0:>6} {0:>6} {0:>6}")
    return 0


def bparams(call):
    opts, _ = _parse(call, {"l", "h", "V", "a"}, set())
    default = next(part["name"] for part in call.config["partitions"] if part["default"])
    if "l" in opts:
        call.out(f"System default queues for automatic queue selection:\n    DEFAULT_QUEUE = {default}\n")
        call.out(
            f"The amount of time during which finished jobs are kept in core:\n    CLEAN_PERIOD = {int(call.config['clean_period'])} (seconds)\n"
        )
    else:
        call.out(f"Default Queues:  {default}")
        call.out(
            "Job Dispatch Interval:  10 seconds\nJob Checking Interval:  7 seconds\nJob Accepting Interval:  0 seconds"
        )
    return 0


COMMANDS = {
    "bsub": lsf_submit.bsub,
    "bjobs": bjobs,
    "bkill": bkill,
    "bhist": bhist,
    "bmod": bmod,
    "bqueues": bqueues,
    "bhosts": bhosts,
    "bparams": bparams,
}
