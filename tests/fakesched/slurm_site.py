"""scontrol and sinfo: jobs, partitions and nodes in full, and what may be done to a job."""

from tests.fakesched import life, slurm_submit
from tests.fakesched.command import compress, parse, user_name
from tests.fakesched.slurm_submit import parse_time
from tests.fakesched.slurm_words import (
    end_of,
    exit_pair,
    host_of,
    in_memory,
    line,
    name_format,
    percent_format,
    priority,
    shown_partition,
    shown_state,
    span,
    stamp,
    start_of,
    tres,
    unknown,
    used_seconds,
)
from tests.fakesched.store import FINAL, now

# ---------------------------------------------------------------- scontrol


def scontrol(call):
    argv = [word for word in call.argv if word not in ("-o", "--oneliner", "-a", "--all", "-d")]
    one_line = len(argv) != len(call.argv) and ("-o" in call.argv or "--oneliner" in call.argv)
    if not argv:
        return 0
    verb, rest = argv[0].lower(), argv[1:]
    if verb == "show":
        return _show(call, rest, one_line)
    if verb in ("version", "--version"):
        call.out(f"slurm-wlm {call.config['slurm_version']}")
        return 0
    if verb == "ping":
        call.out(f"Slurmctld(primary) at {call.config['submit_host']} is UP")
        return 0
    if verb == "update":
        return _update(call, rest)
    if verb in ("hold", "release", "requeue", "requeuehold", "suspend", "resume"):
        return max([_act(call, verb, word) for item in rest for word in item.split(",")], default=0)
    call.err(f"invalid keyword: {argv[0]}")
    return 1


def _show(call, rest, one_line):
    what = rest[0].lower() if rest else ""
    name = rest[1] if len(rest) > 1 else ""
    if what.startswith("job"):
        return _show_jobs(call, name, one_line)
    if what == "hostnames":
        call.out("\n".join(slurm_submit.expand(name)))
        return 0
    if what.startswith("part"):
        texts = [_partition_text(call, p) for p in call.config["partitions"] if name in ("", p["name"])]
        if not texts:
            call.fail(f"Partition {name} not found", 1)
    elif what.startswith("node"):
        texts = [_node_text(call, n) for n in call.config["nodes"] if name in ("", n)]
        if not texts:
            call.fail(f"Node {name} not found", 1)
    elif what == "config":
        pairs = {"ClusterName": call.config["name"], "MinJobAge": f"{int(call.config['min_job_age'])} sec",
                 "SLURM_VERSION": call.config["slurm_version"], "MessageTimeout": "10 sec",
                 "EnforcePartLimits": "ALL" if call.config["enforce_part_limits"] else "NO"}  # fmt: skip
        call.out(f"Configuration data as of {stamp(now())}")
        for key in sorted(pairs):
            call.out(f"{key:<23} = {pairs[key]}")
        return 0
    else:
        call.err(f"invalid entity:{rest[0] if rest else ''} for keyword:show ")
        return 1
    _print_blocks(call, texts, one_line)
    return 0


def _print_blocks(call, texts, one_line):
    for lines in texts:
        if one_line:
            call.out(" ".join(part.strip() for part in lines if part.strip()))
        else:
            call.out("\n   ".join(lines) + "\n")


def _partition_text(call, part):
    nodes = [call.config["nodes"][n] for n in part["nodes"]]
    cpus, memory, gpus = (sum(node[key] for node in nodes) for key in ("cores", "memory", "gpus"))
    trs = f"cpu={cpus},mem={_mem(memory)},node={len(nodes)},billing={cpus}" + (_gpu_tres(nodes) if gpus else "")
    longest = span(part["max_time"] and part["max_time"] * 60, wide=True)
    default = "NONE" if part["default_time"] is None else span(part["default_time"] * 60, wide=True)
    return [
        f"PartitionName={part['name']}",
        f"AllowGroups={','.join(part['groups'] or []) or 'ALL'} AllowAccounts={','.join(part['accounts'] or []) or 'ALL'} AllowQos=ALL",
        f"AllocNodes=ALL Default={'YES' if part['default'] else 'NO'} QoS=N/A",
        f"DefaultTime={default} DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden={'YES' if part['hidden'] else 'NO'}",
        f"MaxNodes=UNLIMITED MaxTime={longest} MinNodes=0 LLN=NO MaxCPUsPerNode={part['max_cores'] or 'UNLIMITED'}",
        f"Nodes={compress(part['nodes'])}",
        "PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO",
        "OverTimeLimit=NONE PreemptMode=OFF",
        f"State={part['state']} TotalCPUs={cpus} TotalNodes={len(nodes)} SelectTypeParameters=NONE",
        "JobDefaults=(null)",
        f"DefMemPerNode=UNLIMITED MaxMemPerNode={part['max_memory'] or 'UNLIMITED'}",
        f"TRES={trs}",
    ]


def _gpu_tres(nodes):
    kinds = {}
    for node in nodes:
        if node["gpus"]:
            kinds[node["gpu_type"]] = kinds.get(node["gpu_type"], 0) + node["gpus"]
    return f",gres/gpu={sum(kinds.values())}" + "".join(
        f",gres/gpu:{kind}={count}" for kind, count in sorted(kinds.items())
    )


def _mem(megabytes):
    """Slurm's short form: whole kibi-steps as they are, else two digits (``187.50G``)."""
    if megabytes >= 10000 or megabytes % 1024 == 0:
        value = megabytes / 1024
        return f"{value:.0f}G" if megabytes % 1024 == 0 else f"{value:.2f}G"
    return f"{megabytes}M"


def _node_text(call, name):
    usage = Usage(call)
    spec = call.config["nodes"][name]
    busy = usage.cores[name]
    state = {"mix": "MIXED", "alloc": "ALLOCATED", "idle": "IDLE", "down": "DOWN", "down*": "DOWN*"}[usage.state(name)]
    parts = [p["name"] for p in call.config["partitions"] if name in p["nodes"]]
    features = ",".join(spec["features"]) or "(null)"
    return [
        f"NodeName={name} Arch=x86_64 CoresPerSocket={spec['cores']} ",
        f"CPUAlloc={busy} CPUEfctv={spec['cores']} CPUTot={spec['cores']} CPULoad=0.10",
        f"AvailableFeatures={features}",
        f"ActiveFeatures={features}",
        f"Gres={_gres_text(spec)}",
        f"NodeAddr={name} NodeHostName={name} Version={call.config['slurm_version']}",
        f"RealMemory={spec['memory']} AllocMem=0 FreeMem={spec['memory']} Sockets=1 Boards=1",
        f"State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A",
        f"Partitions={','.join(parts)} ",
    ]


def _gres_text(spec):
    return f"gpu:{spec['gpu_type']}:{spec['gpus']}" if spec["gpus"] else "(null)"


def _show_jobs(call, name, one_line):
    jobs = in_memory(call, call.snapshot())
    if name:
        jobs = [job for job in jobs if str(job["seq"]) == name]
        if not jobs:
            call.fail("slurm_load_jobs error: Invalid job id specified", 1)
    elif not jobs:
        call.out("No jobs in the system")
    for job in jobs:
        job["shown"] = shown_state(job)
    _print_blocks(call, [_job_text(call, job) for job in jobs], one_line)
    return 0


def _job_text(call, job):
    head = [f"BatchHost={host_of(job)}"] if job["layout"] else []
    group = user_name(job["gid"])
    return [
        f"JobId={job['seq']} JobName={job['name']}",
        f"UserId={job['user']}({job['uid']}) GroupId={group}({job['gid']}) MCS_label=N/A",
        f"Priority={priority(job)} Nice=0 Account={job['account'] or '(null)'} QOS={job['qos']}",
        f"JobState={job['shown']} Reason={job['reason'].replace(' ', '_')} Dependency=(null)",
        f"Requeue={int(job['requeue'])} Restarts={job['restarts']} BatchFlag=1 Reboot=0 ExitCode={exit_pair(job)}",
        f"RunTime={span(used_seconds(job), wide=True)} TimeLimit={span(job['limit'], wide=True)} TimeMin=N/A",
        f"SubmitTime={stamp(job['submit'])} EligibleTime={stamp(job['eligible'])}",
        f"AccrueTime={stamp(job['submit'])}",
        f"StartTime={stamp(start_of(job), 'Unknown')} EndTime={stamp(end_of(job), 'Unknown')} Deadline=N/A",
        f"SuspendTime=None SecsPreSuspend=0 LastSchedEval={stamp(job['submit'])} Scheduler=Main",
        f"Partition={shown_partition(job)} AllocNode:Sid={call.config['submit_host']}:{job['supervisor'] or 1}",
        f"ReqNodeList={','.join(job['hosts_asked']) or '(null)'} ExcNodeList={','.join(job['hosts_excluded']) or '(null)'}",
        f"NodeList={compress(job['layout'])}",
        *head,
        f"NumNodes={max(1, len(job['layout']))} NumCPUs={job['cores']} NumTasks=1 CPUs/Task={job['cores']} ReqB:S:C:T=0:0:*:*",
        f"TRES={tres(job)}",
        "Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*",
        f"MinCPUsNode={job['cores']} MinMemoryNode={job['memory'] or 1000}M MinTmpDiskNode=0",
        f"Features={'&'.join(job['features']) or '(null)'} DelayBoot=00:00:00",
        "OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)",
        f"Command={job['command'] or '(null)'}",
        f"WorkDir={job['cwd']}",
        f"StdErr={slurm_submit.pattern(job, job['stderr'] or job['stdout'])}",
        "StdIn=/dev/null",
        f"StdOut={slurm_submit.pattern(job, job['stdout'])}",
        "Power=",
        "",
    ]


def _act(call, verb, word):
    if not word.split("_")[0].isdigit():
        call.err(f"Invalid job id specified for job {word}\nslurm_suspend error: Invalid job id specified")
        return 1
    with call.store.locked() as session:
        job = session.get(int(word))
        trouble = _act_trouble(call, verb, job, word)
        if trouble:
            call.err(trouble)
            return 1
        if verb == "hold":
            job["held"] = "admin" if call.is_admin and job["user"] != call.user else "user"
        elif verb == "release":
            job["held"] = ""
        elif verb in ("suspend", "resume"):
            job["state"] = "SUSPENDED" if verb == "suspend" else "RUNNING"
        elif job["state"] in FINAL:
            _revive(session, job)
        else:
            life.order(call.store, session, job, "requeue", hold_next=verb == "requeuehold")
            job = None
        if job is not None:
            session.put(job)
        session.touch()
        life.schedule(call.store, session)
    call.store.wake(int(word))
    return 0


def _act_trouble(call, verb, job, word):
    if job is None:
        return f"Invalid job id specified for job {word}"
    mine = job["user"] == call.user or call.is_admin
    if not mine or (verb in ("suspend", "resume") and not call.is_admin):
        return f"Access/permission denied for job {word}"
    if verb == "release" and job["held"] == "admin" and not call.is_admin:
        return f"Access/permission denied for job {word}"
    if verb in ("requeue", "requeuehold") and job["state"] == "PENDING":
        return f"Job is pending execution for job {word}"
    if verb in ("hold", "release", "suspend", "resume") and job["state"] in FINAL:
        return f"Job/step already completing or completed for job {word}"
    return ""


def _revive(session, job):
    """``scontrol requeue`` of a finished job; it pends, nobody runs it again (its supervisor has ended)."""
    job.update(
        state="PENDING", reason="BeginTime", held="user", restarts=job["restarts"] + 1, layout={}, start=None, end=None
    )


def _update(call, words):
    changes = {word.partition("=")[0].lower(): word.partition("=")[2] for word in words}
    number = changes.pop("jobid", changes.pop("job", ""))
    if not changes:
        call.fail("No changes specified", 1)
    with call.store.locked() as session:
        job = session.get(int(number)) if number.isdigit() else None
        if job is None:
            call.fail(f"Invalid job id specified for job {number}", 1)
        if job["user"] != call.user and not call.is_admin:
            call.fail(f"Invalid user id for job {number}", 1)
        if job["state"] in FINAL:
            call.fail(f"Job has already finished for job {number}", 1)
        if "timelimit" in changes:
            _new_limit(call, session, job, changes["timelimit"])
        for key, field in (
            ("jobname", "name"),
            ("comment", "comment"),
            ("account", "account"),
            ("partition", "partition"),
        ):
            if key in changes:
                job[field] = changes[key]
        session.put(job)
        session.touch()
        life.schedule(call.store, session)
    call.store.wake(int(number))
    return 0


def _new_limit(call, session, job, text):
    sign = text[:1] if text[:1] in ("+", "-") else ""
    seconds = parse_time(text.lstrip("+-"))
    if seconds is None:
        call.fail("Invalid TimeLimit value", 1)
    seconds = {"+": (job["limit"] or 0) + seconds, "-": (job["limit"] or 0) - seconds}.get(sign, seconds)
    part = life.partition(session.config, job["partition"].split(",")[0])
    over = part["max_time"] is not None and seconds > part["max_time"] * 60
    more = job["state"] != "PENDING" and job["limit"] is not None and seconds > job["limit"]
    if (over or more) and not call.is_admin:
        call.fail(f"Access/permission denied for job {job['seq']}", 1)
    job["limit"] = seconds
    if job["start"] and job["state"] != "PENDING":
        job["limit_end"] = job["start"] + seconds / 60 * session.config["seconds_per_minute"]


# ---------------------------------------------------------------- sinfo


class Usage:
    """What is in use on each node."""

    def __init__(self, call):
        with call.store.locked() as session:
            life.schedule(call.store, session)
            self.cores, self.gpus = life.used(session)
            self.down = set(session.meta("down", []))
        self.nodes = call.config["nodes"]

    def state(self, name):
        if name in self.down:
            return "down*"
        busy = self.cores[name]
        return "idle" if not busy else "alloc" if busy >= self.nodes[name]["cores"] else "mix"


LONG_STATES = {"idle": "idle", "mix": "mixed", "alloc": "allocated", "down*": "down*"}
AVAIL = {"UP": "up", "DOWN": "down", "DRAIN": "drain", "INACTIVE": "inact"}
SINFO_HEADS = {
    "P": "PARTITION", "R": "PARTITION", "a": "AVAIL", "l": "TIMELIMIT", "L": "DEFAULTTIME", "D": "NODES", "F": "NODES(A/I/O/T)",
    "C": "CPUS(A/I/O/T)", "c": "CPUS", "m": "MEMORY", "G": "GRES", "f": "AVAIL_FEATURES", "t": "STATE", "T": "STATE", "N": "NODELIST",
    "n": "HOSTNAMES", "E": "REASON", "A": "NODES(A/I)", "s": "JOB_SIZE", "g": "GROUPS", "h": "OVERSUBSCRIBE", "e": "FREE_MEM", "O": "CPU_LOAD",
}  # fmt: skip
SINFO_NAMES = {
    "nodehost": "n", "partition": "R", "partitionname": "R", "statelong": "T", "statecompact": "t", "cpusstate": "C", "memory": "m", "gres": "G",
    "features": "f", "nodelist": "N", "nodes": "D", "available": "a", "time": "l", "defaulttime": "L", "cpus": "c", "nodeai": "A",
    "nodeaiot": "F", "allocmem": "\0alloc", "freemem": "e", "gresused": "\0used",
}  # fmt: skip


def sinfo(call):
    short = {"a": ("all", False), "h": ("noheader", False), "o": ("format", True), "O": ("Format", True), "e": ("exact", False),
             "N": ("Node", False), "p": ("partition", True), "n": ("nodes", True), "M": ("clusters", True), "V": ("version", False),
             "s": ("summarize", False), "l": ("long", False)}  # fmt: skip
    opts = parse(call.argv, short, {n: (n, t) for n, t in short.values()} | {"json": ("json", False)}, *unknown(call))
    if opts.get("version"):
        call.out(f"slurm-wlm {call.config['slurm_version']}")
        return 0
    usage = Usage(call)
    if "Format" in opts:
        pieces = name_format(call, opts["Format"], SINFO_NAMES, "sinfo")
    else:
        pieces = percent_format(call, opts.get("format") or "%9P %.5a %.10l %.6D %.6t %N", SINFO_HEADS, "sinfo")
    letters = {piece[0] for piece in pieces if not isinstance(piece, str)}
    rows = _sinfo_groups(call, usage, opts, letters)
    if not opts.get("noheader"):
        call.out(line(pieces, lambda key: SINFO_HEADS.get(key, key.strip("\0").upper())))
    for part, names in rows:
        call.out(line(pieces, lambda key, part=part, names=names: _sinfo_value(key, part, names, usage)))
    return 0


def _sinfo_groups(call, usage, opts, letters):
    groups = {}
    for part in call.config["partitions"]:
        if "partition" in opts and part["name"] not in opts["partition"].split(","):
            continue
        if not opts.get("all") and (part["hidden"] or (part["users"] is not None and call.user not in part["users"])):
            continue
        for name in part["nodes"]:
            spec = call.config["nodes"][name]
            key = [part["name"]]
            key += [usage.state(name)] if letters & set("tT") else []
            key += [spec["gpus"], spec["gpu_type"]] if "G" in letters else []
            key += [tuple(spec["features"])] if "f" in letters else []
            key += [spec["cores"], spec["memory"]] if opts.get("exact") else []
            key += [name] if opts.get("Node") or "n" in letters else []
            groups.setdefault(tuple(key), (part, []))[1].append(name)
    rows = list(groups.values())
    if opts.get("Node"):
        rows.sort(key=lambda row: row[1])
    return rows


def _plus(values):
    low = min(values)
    return f"{low}+" if max(values) != low else str(low)


def _counts(parts):
    return "/".join(str(part) for part in parts)


def _sinfo_value(key, part, names, usage):
    nodes = [usage.nodes[n] for n in names]
    up = [n for n in names if n not in usage.down]
    busy_nodes = [n for n in up if usage.cores[n]]
    busy = sum(usage.cores[n] for n in up)
    total = sum(node["cores"] for node in nodes)
    gone = sum(usage.nodes[n]["cores"] for n in names if n in usage.down)
    longest = part["max_time"]
    values = {
        "P": lambda: part["name"] + ("*" if part["default"] else ""),
        "R": lambda: part["name"],
        "a": lambda: AVAIL[part["state"]],
        "l": lambda: "infinite" if longest is None else span(longest * 60),
        "L": lambda: "n/a" if part["default_time"] is None else span(part["default_time"] * 60),
        "D": lambda: str(len(names)),
        "F": lambda: _counts([len(busy_nodes), len(up) - len(busy_nodes), len(names) - len(up), len(names)]),
        "A": lambda: _counts([len(busy_nodes), len(up) - len(busy_nodes)]),
        "C": lambda: _counts([busy, total - gone - busy, gone, total]),
        "c": lambda: _plus([node["cores"] for node in nodes]),
        "m": lambda: _plus([node["memory"] for node in nodes]),
        "e": lambda: _plus([node["memory"] for node in nodes]),
        "G": lambda: _gres_text(nodes[0]),
        "f": lambda: ",".join(nodes[0]["features"]) or "(null)",
        "t": lambda: usage.state(names[0]),
        "T": lambda: LONG_STATES[usage.state(names[0])],
        "N": lambda: compress(names),
        "n": lambda: names[0],
        "E": lambda: "none",
        "s": lambda: "1-infinite",
        "g": lambda: ",".join(part["groups"] or []) or "all",
        "h": lambda: "NO",
        "O": lambda: "0.10",
        "\0alloc": lambda: "0",
        "\0used": lambda: f"gpu:{nodes[0]['gpu_type']}:{usage.gpus[names[0]]}" if nodes[0]["gpus"] else "(null)",
    }
    return values[key]()
