"""PBS's commands (OpenPBS 23.06's words by default, Torque's on request): qstat, qselect, qdel, qalter, qrerun, pbsnodes."""

import json
import time

from tests.fakesched import life, pbs_submit
from tests.fakesched.command import parse
from tests.fakesched.pbs_submit import clock, job_id, read_id, server_name, walltime
from tests.fakesched.store import FINAL, now

TIMEOUT_HOW = "hang"
plan = pbs_submit.plan
after_run = pbs_submit.after_run
USAGE = """usage:\x20
qstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format | -w] [-D delim] [ job_identifier... | destination... ]
qstat [-a|-i|-r|-H|-T] [-J] [-t] [-u user] [-n] [-s] [-G|-M] [-1] [-w]
\t[ job_identifier... | destination... ]
qstat -Q [-f] [-F format] [-D delim] [ destination... ]
qstat -q [-G|-M] [ destination... ]
qstat -B [-f] [-F format] [-D delim] [ server_name... ]
qstat --version"""


def down(call, fault):
    """Observed on OpenPBS 23.06.06 with its server stopped. ``kind="timeout"`` is what PBS does not have: it hangs."""
    if fault.get("kind") == "timeout":
        from tests.fakesched.command import hang

        hang()
    config = call.config
    call.err("Connection refused")
    host = server_name(config)
    match call.name:
        case "qstat":
            if "json" in call.argv:
                call.out_parts.append(skeleton(config) + "\n}")
            call.err(f"qstat: cannot connect to server {host} (errno=15010)")
            return 255
        case "pbsnodes":
            call.err(f"pbsnodes: cannot connect to server {host}, error=15010")
            return 1
        case "qdel":
            call.err(f"qdel: cannot connect to server {config['pbs_server']} (errno=15010)")
        case _:
            call.err(f"{call.name}: cannot connect to server {config['pbs_server']} (errno=15010)")
    return 162


def created_but_timeout(call):
    call.err("qsub: Premature end of message")
    return 183


# ---------------------------------------------------------------- JSON, as PBS writes it


def quote(config, text):
    text = str(text)
    if config["pbs_version"] < "20.0.2":  # neither quotes nor backslashes are escaped
        return f'"{text}"'
    return json.dumps(text, ensure_ascii=False)


def is_number(text):
    """What strtod accepts in full; PBS leaves a leading zero alone."""
    body = text.lstrip("+-")
    if not body or "_" in body or body != body.strip() or (body[0] == "0" and body[1:2].isdigit()):
        return False
    try:
        float(body)
    except ValueError:
        return False
    return True


def scalar(config, value):
    if isinstance(value, int):
        return str(value)
    if config["pbs_version"] <= "23.06.06" and is_number(value):
        return value
    return quote(config, value)


def render(config, value, depth):
    """A value: text, number, list of pairs (an object) or tuple (an array)."""
    pad = "    " * depth
    if isinstance(value, list):
        lines = [f"{pad}    {quote(config, key)}:{render(config, part, depth + 1)}" for key, part in value]
        return "{\n" + ",\n".join(lines) + ("\n" if lines else "") + pad + "}"
    if isinstance(value, tuple):
        return "[\n" + ",\n".join(f"{pad}    {quote(config, part)}" for part in value) + f"\n{pad}]"
    return scalar(config, value)


def skeleton(config):
    return f'{{\n    "timestamp":{int(now())},\n    "pbs_version":"{config["pbs_version"]}",\n    "pbs_server":"{server_name(config)}"'


def document(config, name, entries):
    """The whole document. Without entries it ends without a newline, as observed."""
    if not entries:
        return skeleton(config) + "\n}"
    return skeleton(config) + f',\n    "{name}":' + render(config, entries, 1) + "\n}\n"


def flat(entries):
    """The pairs of an entry with dotted names, as -f and -F dsv show them."""
    for key, value in entries:
        if key == "Variable_List":
            yield key, ",".join(f"{k}={v}" for k, v in value)
        elif isinstance(value, list):
            yield from ((f"{key}.{name}", str(part)) for name, part in value)
        elif isinstance(value, tuple):
            yield key, ", ".join(value)
        else:
            yield key, str(value)


def fold(key, value):
    """One attribute of ``qstat -f``: a line of at most 79 characters, continued after newline and tab, at commas where there are some."""
    line, lines = f"    {key} = ", []
    room = 79
    if key == "Variable_List":
        parts = value.split(",")
        for number, part in enumerate(parts):
            text = part + ("," if number < len(parts) - 1 else "")
            if len(line) + len(text) > room and line.strip():
                lines.append(line)
                line = "\t"
                room = 72
            line += text
        return "\n".join([*lines, line])
    text = line + value
    while len(text) > room:
        lines.append(text[:room])
        text = "\t" + text[room:]
        room = 73
    return "\n".join([*lines, text])


# ---------------------------------------------------------------- jobs


def state_letter(config, job):
    state = job["state"]
    if state in FINAL:
        return "C" if config["torque"] else "F"
    if state == "PENDING":
        return "H" if job["held"] else "W" if job["begin"] and job["eligible"] > now() else "Q"
    return {"SUSPENDED": "S", "COMPLETING": "E"}.get(state, "R")


def exit_status(job, *, torque):
    if job["state"] == "TIMEOUT":
        return -11 if torque else -29
    if job["state"] == "OUT_OF_MEMORY":
        return -10 if torque else -27
    if job["ended_by"] == "cancel":
        return 271
    if job["state"] == "NODE_FAIL":
        return -20
    if job["reason"] == "JobLaunchFailure":
        return -1
    return job["exit_signal"] + 128 if job["exit_signal"] else job["exit_code"]


def substate(config, job):
    if job["state"] in FINAL:
        return (
            91
            if job["ended_by"] == "cancel" or job["state"] == "NODE_FAIL"
            else 93
            if exit_status(job, torque=False)
            else 92
        )
    return {"Q": 10, "H": 20, "W": 30, "S": 43, "E": 51}.get(state_letter(config, job), 42)


def vnodes(job, layout=None):
    memory = f":mem={job['memory'] * 1024}kb" if job["memory"] else ""
    gpus = f":ngpus={job['gpus']}" if job["gpus"] else ""
    return "+".join(f"({node}:ncpus={count}{memory}{gpus})" for node, count in (layout or job["layout"]).items())


def exec_host(job):
    return "+".join(f"{node}/0*{count}" if count > 1 else f"{node}/0" for node, count in job["layout"].items())


def comment(config, job):
    if job["state"] == "PENDING" or (job["state"] in FINAL and not job["start"]):
        words = _waiting(config, job)
        return (f"{words} and terminated" if words else "") if job["state"] in FINAL else words
    when = time.strftime("%a %b %d at %H:%M", time.localtime(job["start"]))
    base = f"Job run at {when} on {vnodes(job)}"
    if job["ended_by"] == "cancel" or job["order"] == "cancel":
        return f"{base} and terminated by {job.get('cancelled_name') or 'root'}@{server_name(config)}"
    if job["state"] not in FINAL:
        return base
    if job["state"] == "TIMEOUT":
        return f"{base} and exceeded resource walltime"
    if job["state"] == "OUT_OF_MEMORY":
        return f"{base} and exceeded resource mem"
    return f"{base} and failed" if exit_status(job, torque=False) else f"{base} and finished"


def _waiting(config, job):
    part = life.partition(config, job["partition"])
    if job["held"] or job["begin"]:
        return ""
    if part is None or part["state"] in ("DOWN", "INACTIVE"):
        return "Not Running: Queue not started."
    total = sum(config["nodes"][n]["cores"] for n in part["nodes"])
    if job["cores"] > max(config["nodes"][n]["cores"] for n in part["nodes"]) and job["nodes_wanted"] == 1:
        return f"Can Never Run: Insufficient amount of resource: ncpus (R: {job['cores']} A: {total} T: {total})"
    if job["blocked"]:
        return f"Not Running: {job['blocked']}"
    return "Not Running: Not enough free nodes available"


def attributes(config, job):
    """A job's attributes in the order in which PBS prints them."""
    host = server_name(config)
    mtime = job["end"] or job["start"] or job["submit"]
    letter = state_letter(config, job)
    started = job["start"] is not None and (job["state"] != "PENDING")
    spent = int((job["end"] or now()) - job["start"]) if started else 0
    usage = [
        ("cpupercent", 0),
        ("cput", "00:00:00"),
        ("mem", "0kb"),
        ("ncpus", job["cores"]),
        ("vmem", "0kb"),
        ("walltime", walltime(spent)),
    ]
    out = [("Job_Name", job["name"]), ("Job_Owner", f"{job['user']}@{host}")]
    out += [("resources_used", usage)] if started else []
    out += [
        ("job_state", letter),
        ("queue", job["partition"]),
        ("server", host),
        ("Checkpoint", "u"),
        ("ctime", clock(job["submit"])),
    ]
    out += [("Error_Path", job["error_path"])]
    out += [("exec_host", exec_host(job)), ("exec_vnode", vnodes(job))] if started else []
    out += [("Hold_Types", "u" if job["held"] else "n"), ("Join_Path", job["join"]), ("Keep_Files", job["keep"])]
    out += [("Mail_Points", "a"), ("mtime", clock(mtime)), ("Output_Path", job["output_path"])]
    out += [("Priority", 0), ("qtime", clock(job["submit"])), ("Rerunable", str(job["requeue"]))]
    out += [("Resource_List", [tuple(pair) for pair in job["resources"]])]
    out += [("stime", clock(job["start"]))] if started else []
    out += [("obittime", clock(job["end"]))] if started and job["state"] in FINAL else []
    out += [("session_id", job["pid"])] if started and job["pid"] else []
    out += [("jobdir", job["home"])] if started else []
    out += [("substate", substate(config, job)), ("Variable_List", [tuple(pair) for pair in job["variables"]])]
    words = comment(config, job)
    out += [("comment", words)] if words else []
    out += [("etime", clock(job["submit"]))]
    out += [("run_count", job["run"])] if job["run"] else []
    if started and job["state"] in FINAL:
        out += [("Stageout_status", 1), ("Exit_status", exit_status(job, torque=config["torque"]))]
    out += [("Account_Name", job["account"])] if job["account"] else []
    out += [("Submit_arguments", job["submit_arguments"])]
    out += [("history_timestamp", int(job["end"]))] if job["state"] in FINAL else []
    return [*out, ("project", "_pbs_project_default"), ("Submit_Host", host)]


def gone(config, job):
    """Out of qstat's sight even with -x."""
    if job["state"] not in FINAL:
        return False
    if config["torque"]:
        return now() - job["end"] > config["keep_completed"]
    return not config["history"]


# ---------------------------------------------------------------- qstat


def _bad(call, status=2):
    def letter(what):
        usage = USAGE if call.name == "qstat" else f"usage: {call.name} ..."
        call.fail(f"{call.name}: invalid option -- '{what}'\n{usage}", status)

    return letter, letter


def qstat(call):
    if "--version" in call.argv:
        call.out(f"pbs_version = {call.config['pbs_version']}")
        return 0
    short = {letter: (letter, False) for letter in "fQBxtawnsrHEpqiGM1J"} | {key: (key, True) for key in "FDu"}
    opts = parse(call.argv, short, {}, *_bad(call))
    form = opts.get("F")
    if form and "f" not in opts:
        call.fail(f"qstat: conflicting options.\n{USAGE}", 2)
    if form and form not in ("json", "dsv"):
        call.fail(USAGE, 2)
    if "Q" in opts:
        return _queues(call, opts)
    if "B" in opts:
        return _server(call, opts)
    config = call.config
    torque_xml = config["torque"] and "x" in opts
    if "x" in opts and not config["history"] and not config["torque"]:
        for word in opts.args or [""]:
            call.err(f"qstat: PBS is not configured to maintain job history {word}".rstrip())
        if form == "json":
            call.out_parts.append(document(config, "Jobs", []))
        return 0
    jobs, status = _select(call, opts)
    if "u" in opts:
        users = opts["u"].split(",")
        _alternate(call, [job for job in jobs if job["user"] in users])
    elif "a" in opts or "n" in opts or "s" in opts:
        _alternate(call, jobs)
    elif torque_xml:
        call.out_parts.append(_xml(config, jobs))
    elif form == "json":
        entries = [(job_id(config, job), attributes(config, job)) for job in jobs]
        call.out_parts.append(document(config, "Jobs", entries))
    elif form == "dsv":
        mark = opts.get("D", "|")
        for job in jobs:
            pairs = [f"{key}={value}" for key, value in flat(attributes(config, job))]
            call.out(mark.join([f"Job Id: {job_id(config, job)}", *pairs]))
    elif "f" in opts:
        wide = "w" in opts or "1" in opts
        for job in jobs:
            pairs = flat(attributes(config, job))
            call.out(f"Job Id: {job_id(config, job)}")
            call.out("\n".join(f"    {k} = {v}" if wide else fold(k, v) for k, v in pairs) + "\n")
    else:
        _table(call, jobs, wide="w" in opts, failed_first=bool(status) and call.err_parts and not jobs)
    return status


def _select(call, opts):
    """The jobs asked for and the status that the last error leaves."""
    config = call.config
    known = {job["seq"]: job for job in call.snapshot() if not gone(config, job)}
    history = "x" in opts or "H" in opts or config["torque"]
    queues = {part["name"] for part in config["partitions"]}
    if not opts.args:
        return [job for job in known.values() if history or job["state"] not in FINAL], 0
    found, status = [], 0
    for word in opts.args:
        if word in queues:
            found += [
                job for job in known.values() if job["partition"] == word and (history or job["state"] not in FINAL)
            ]
            continue
        seq = read_id(config, word)
        if seq is None:
            kind = "illegally formed job identifier:" if word[:1].isdigit() else "Unknown queue destination"
            call.err(f"qstat: {kind} {word}")
            status = 1 if word[:1].isdigit() else 170
        elif seq not in known:
            error = " Error" if config["torque"] else ""
            call.err(f"qstat: Unknown Job Id{error} {word if '.' in word else f'{word}.' + config['pbs_server']}")
            status = 153
        elif known[seq]["state"] in FINAL and not history:
            full = job_id(config, known[seq])
            call.err(f"qstat: {full} Job has finished, use -x or -H to obtain historical job information")
            status = 35
        else:
            found.append(known[seq])
    return found, status


def _cut(text, width):
    return text if len(text) <= width else text[: width - 1] + "*"


def _table(call, jobs, *, wide, failed_first):
    if not jobs:
        return
    sizes = (29, 15, 15, 15) if wide else (16, 16, 16, 16)
    a, b, c, d = sizes
    if not failed_first:
        gap = "  "
        call.out(f"{'Job id':<{a}}{gap}{'Name':<{b}} {'User':<{c}}  Time Use S Queue")
        call.out(f"{'-' * a}  {'-' * b} {'-' * c}  -------- - {'-' * (d if wide else 5)}")
    for job in jobs:
        used = walltime(0) if job["start"] else "0"
        name, user, queue = _cut(job["name"], b - (not wide)), _cut(job["user"], c), _cut(job["partition"], d)
        key = _cut(job_id(call.config, job), a)
        call.out(f"{key:<{a}}  {name:<{b}} {user:<{c}}  {used:>8} {state_letter(call.config, job)} {queue:<{d}}")


def _alternate(call, jobs):
    if not jobs:
        return
    call.out(f"\n{call.config['pbs_server']}: ")
    call.out(" " * 60 + "Req'd  Req'd   Elap")
    call.out("Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time")
    call.out("--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----")
    for job in jobs:
        limit = walltime(job["limit"])[:-3] if job["limit"] else "  -- "
        memory = f"{job['memory']}mb" if job["memory"] else "  --  "
        spent = walltime(int((job["end"] or now()) - job["start"]))[:-3] if job["start"] else "  -- "
        session = job["pid"] if job["start"] and job["pid"] else "  --  "
        call.out(
            f"{_cut(job_id(call.config, job), 15):<15} {_cut(job['user'], 8):<8} {_cut(job['partition'], 8):<8} {_cut(job['name'], 10):<10} "
            f"{session:>6} {job['nodes_wanted']:>3} {job['cores']:>3} {memory:>6} {limit:>5} {state_letter(call.config, job)} {spent}"
        )


def _xml(config, jobs):
    """Torque's ``qstat -x``: one line, times in seconds since the epoch."""

    def tag(name, value):
        text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"<{name}>{text}</{name}>"

    out = "<Data>"
    for job in jobs:
        parts = [tag("Job_Id", job_id(config, job))]
        for key, value in attributes(config, job):
            name = "exit_status" if key == "Exit_status" else key
            if key in ("ctime", "mtime", "qtime", "etime", "stime", "obittime"):
                times = {"stime": job["start"], "obittime": job["end"], "mtime": job["end"] or job["start"]}
                parts.append(
                    tag(
                        {"stime": "start_time", "obittime": "comp_time"}.get(key, key),
                        int(times.get(key) or job["submit"]),
                    )
                )
            elif key == "Variable_List":
                parts.append(tag(name, ",".join(f"{k}={v}" for k, v in value)))
            elif isinstance(value, list):
                parts.append(f"<{name}>" + "".join(tag(k, v) for k, v in value) + f"</{name}>")
            else:
                parts.append(tag(name, value))
        out += f"<Job>{''.join(parts)}</Job>"
    return out + "</Data>\n"


# ---------------------------------------------------------------- queues, server, nodes


def _counts(config, jobs):
    letters = [state_letter(config, job) for job in jobs]
    pairs = zip(("Transit", "Queued", "Held", "Waiting", "Running", "Exiting", "Begun"), "TQHWREB", strict=True)
    return "".join(f"{word}:{letters.count(letter)} " for word, letter in pairs)


def _queue(config, part, jobs):
    live = [job for job in jobs if job["partition"] == part["name"] and job["state"] not in FINAL]
    out = [("queue_type", part["kind"]), ("total_jobs", len(live)), ("state_count", _counts(config, live))]
    if part["users"] is not None:
        out += [("acl_user_enable", "True"), ("acl_users", ",".join(part["users"]))]
    if part["groups"] is not None:
        out += [("acl_group_enable", "True"), ("acl_groups", ",".join(part["groups"]))]
    most = [("mem", f"{part['max_memory']}mb")] if part["max_memory"] else []
    most += [("ncpus", part["max_cores"])] if part["max_cores"] else []
    most += [("walltime", walltime(part["max_time"] * 60))] if part["max_time"] is not None else []
    out += [("resources_max", most)] if most else []
    if part["default_time"] is not None:
        out += [("resources_default", [("walltime", walltime(part["default_time"] * 60))])]
    out += [("max_queued", f"[u:PBS_GENERIC={part['max_queued']}]")] if part["max_queued"] else []
    busy = [job for job in live if job["layout"]]
    if busy:
        out += [
            ("resources_assigned", [("mem", "0mb"), ("ncpus", sum(j["cores"] for j in busy)), ("nodect", len(busy))])
        ]
    out += [("route_destinations", ",".join(part["destinations"]))] if part["kind"] == "Route" else []
    out += [
        ("enabled", str(part["state"] not in ("DRAIN", "INACTIVE"))),
        ("started", str(part["state"] not in ("DOWN", "INACTIVE"))),
    ]
    return out


def _queues(call, opts):
    config, status = call.config, 0
    jobs = call.snapshot()
    parts = {part["name"]: part for part in config["partitions"]}
    names = []
    for word in opts.args or list(parts):
        if word in parts:
            names.append(word)
        else:
            call.err(f"qstat: Unknown queue {word}")
            status = 170
    entries = [(name, _queue(config, parts[name], jobs)) for name in names]
    if opts.get("F") == "json":
        call.out_parts.append(document(config, "Queue", entries))
    elif "f" in opts:
        for name, pairs in entries:
            call.out(f"Queue: {name}")
            call.out("\n".join(fold(key, value) for key, value in flat(pairs)) + "\n")
    else:
        call.out("Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type")
        call.out("---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----")
        for name, pairs in entries:
            some = dict(pairs)
            count = [part.partition(":")[2] for part in some["state_count"].split()]
            yes = {"True": "yes", "False": " no"}
            call.out(
                f"{name:<16} {0:>5} {some['total_jobs']:>5} {yes[some['enabled']]} {yes[some['started']]} "
                f"{count[1]:>5} {count[4]:>5} {count[2]:>5} {count[3]:>5} {count[0]:>5} {count[5]:>5} {some['queue_type'][:4]}"
            )
    return status


def _server(call, opts):
    config = call.config
    live = [job for job in call.snapshot() if job["state"] not in FINAL]
    default = next(part["name"] for part in config["partitions"] if part["default"])
    pairs = [
        ("server_state", "Active"),
        ("server_host", server_name(config)),
        ("scheduling", "True"),
        ("total_jobs", len(live)),
        ("state_count", _counts(config, live)),
        ("default_queue", default),
        ("query_other_jobs", "True"),
        ("resources_default", [("ncpus", 1)]),
        ("default_chunk", [("ncpus", 1)]),
        ("scheduler_iteration", 600),
        ("node_fail_requeue", 310),
        ("max_array_size", 10000),
        ("pbs_version", config["pbs_version"]),
        ("eligible_time_enable", "False"),
    ]
    pairs += [("job_history_enable", "True")] if config["history"] else []
    entries = [(config["pbs_server"], pairs)]
    if opts.get("F") == "json":
        call.out_parts.append(document(config, "Server", entries))
    else:
        call.out(f"Server: {config['pbs_server']}")
        call.out("\n".join(fold(key, value) for key, value in flat(pairs)) + "\n")
    return 0


def pbsnodes(call):
    short = {letter: (letter, False) for letter in "avxlSj"} | {"F": ("F", True), "D": ("D", True), "s": ("s", True)}
    opts = parse(call.argv, short, {"version": ("version", False)}, *_bad(call))
    config = call.config
    with call.store.locked() as session:
        life.schedule(call.store, session)
        broken = set(session.meta("down", []))
        live = [job for job in session.jobs(active=True) if job["layout"]]
    entries, status = [], 0
    names = list(config["nodes"]) if "a" in opts or ("x" in opts and not opts.args) else opts.args
    if config["torque"] and "x" in opts:
        call.out_parts.append(_nodes_xml(config, [name for name in names if name in config["nodes"]], live, broken))
        return 0
    for name in names:
        if name in config["nodes"]:
            entries.append((name, _node(config, name, live, broken)))
        elif opts.get("F"):
            entries.append((name, [("Error", "Unknown node ")]))
        else:
            call.err(f"Node: {name},  Error: Unknown node ")
            status = 1
    if opts.get("F") == "json":
        call.out_parts.append(document(config, "nodes", entries))
        return status
    for name, pairs in entries:
        call.out(name)
        call.out("\n".join(f"     {key} = {value}" for key, value in flat(pairs)) + "\n")
    return status


def _nodes_xml(config, names, live, broken):
    """Torque's ``pbsnodes -x``: a line for all, each job once for each core it holds."""
    out = ""
    for name in names:
        spec = config["nodes"][name]
        held = [job_id(config, job) for job in live for _ in range(job["layout"].get(name, 0))]
        state = "down" if name in broken else "job-exclusive" if len(held) >= spec["cores"] else "free"
        jobs = f"<jobs>{','.join(f'{slot}/{full}' for slot, full in enumerate(held))}</jobs>" if held else ""
        known = f"<properties>{','.join(spec['features'])}</properties>" if spec["features"] else ""
        out += f"<Node><name>{name}</name><state>{state}</state><np>{spec['cores']}</np>{known}<ntype>cluster</ntype>{jobs}"
        out += (
            f"<status>totmem={spec['memory'] * 1024}kb,ncpus={spec['cores']}</status><gpus>{spec['gpus']}</gpus></Node>"
        )
    return f"<Data>{out}</Data>\n"


def _node(config, name, live, broken):
    spec = config["nodes"][name]
    here = [job for job in live if name in job["layout"]]
    busy = sum(job["layout"][name] for job in here)
    state = "down" if name in broken else "job-busy" if busy >= spec["cores"] else "free"
    have = [("arch", "linux"), ("host", name), ("mem", f"{spec['memory'] * 1024}kb"), ("ncpus", spec["cores"])]
    have += [("ngpus", spec["gpus"])] if spec["gpus"] else []
    out = [("Mom", f"{name}.{config['pbs_domain']}"), ("ntype", "PBS"), ("state", state), ("pcpus", spec["cores"])]
    out += [("jobs", tuple(job_id(config, job) for job in here))] if here else []
    taken = [("mem", f"{sum(job['memory'] for job in here) * 1024}kb"), ("ncpus", busy)] if here else []
    taken += [("ngpus", sum(job["gpus"] for job in here))] if here and spec["gpus"] else []
    out += [("resources_available", [*have, ("vnode", name)]), ("resources_assigned", taken)]
    out += [("comment", "node down: communication closed")] if name in broken else []
    return [*out, ("resv_enable", "True"), ("sharing", "default_shared"), ("license", "l")]


# ---------------------------------------------------------------- qselect, qdel, qalter, qrerun


def qselect(call):
    short = {letter: (letter, True) for letter in "uNsqAlPr"} | {letter: (letter, False) for letter in "xHTJp"}
    opts = parse(call.argv, short, {}, *_bad(call))
    config = call.config
    if "x" in opts and not config["history"]:
        call.err("qselect: PBS is not configured to maintain job history")
        return 0
    for job in call.snapshot():
        if gone(config, job) or (job["state"] in FINAL and "x" not in opts and not config["torque"]):
            continue
        keep = "u" not in opts or job["user"] in [word.partition("@")[0] for word in opts["u"].split(",")]
        keep = keep and ("N" not in opts or job["name"] == opts["N"])
        keep = keep and ("q" not in opts or job["partition"] == opts["q"])
        if keep and ("s" not in opts or state_letter(config, job) in opts["s"]):
            call.out(job_id(config, job))
    return 0


def _each(call, words, act):
    """Do one thing to each id; the last error's status."""
    config, status = call.config, 0
    for word in words:
        seq = read_id(config, word)
        if seq is None:
            call.err(f"{call.name}: illegally formed job identifier: {word}")
            status = 1
            continue
        with call.store.locked() as session:
            job = session.get(seq)
            if job is None or gone(config, job) or seq in call.hidden():
                call.err(f"{call.name}: Unknown Job Id {word}")
                status = 153
                if call.name == "qdel" and len(words) > 1:
                    break  # the server may die of such a list; it answers no more of it either way
            elif job["state"] in FINAL:
                call.err(f"{call.name}: Job has finished {job_id(config, job)}")
                status = 35
            elif job["user"] != call.user and not call.is_admin:
                call.err(f"{call.name}: Unauthorized Request  {job_id(config, job)}")
                status = 159
            else:
                status = act(session, job) or status
                life.schedule(call.store, session)
    if call.name == "qdel" and status == 153 and len(words) > 1 and config.get("qdel_list_crashes"):
        call.store.add_fault({"name": "down", "commands": None, "times": None})  # OpenPBS 23.06.06 dumps core
    return status


def qdel(call):
    opts = parse(call.argv, {"W": ("W", True), "x": ("x", False), "m": ("m", True)}, {}, *_bad(call))

    def act(session, job):
        if job["state"] == "COMPLETING":
            call.err(f"qdel: Request invalid for state of job {job_id(call.config, job)}")
            return 168
        life.order(call.store, session, job, "cancel", cancelled_by=call.uid, cancelled_name=call.user)
        return 0

    return _each(call, opts.args, act)


def qalter(call):
    opts = parse(call.argv, {"l": ("l", True), "N": ("N", True), "W": ("W", True)}, {}, *_bad(call))

    def act(session, job):
        for word in opts.get("l", "").split(","):
            key, _, text = word.partition("=")
            if key != "walltime":
                continue
            seconds = pbs_submit.seconds(text)
            if seconds is None:
                call.err("qalter: Illegal attribute or resource value Resource_List.walltime")
                return 166
            running = job["state"] != "PENDING"
            if running and seconds > (job["limit"] or 0) and not call.is_admin:
                call.err(f"qalter: Unauthorized Request  {job_id(call.config, job)}")
                return 159
            job["limit"] = seconds
            if running:
                job["limit_end"] = job["start"] + seconds / 60 * call.config["seconds_per_minute"]
            job["resources"] = [pair for pair in job["resources"] if pair[0] != "walltime"] + [
                ["walltime", walltime(seconds)]
            ]
        job["name"] = opts.get("N", job["name"])
        session.put(job)
        call.store.wake(job["seq"])
        return 0

    return _each(call, opts.args, act)


def qrerun(call):
    opts = parse(call.argv, {"W": ("W", True)}, {}, *_bad(call))

    def act(session, job):
        if not call.is_admin:
            call.err(f"qrerun: Unauthorized Request  {job_id(call.config, job)}")
            return 159
        life.order(call.store, session, job, "requeue")
        return 0

    return _each(call, opts.args, act)


COMMANDS = {
    "qsub": pbs_submit.qsub,
    "qstat": qstat,
    "qselect": qselect,
    "qdel": qdel,
    "qalter": qalter,
    "qrerun": qrerun,
    "pbsnodes": pbsnodes,
}
