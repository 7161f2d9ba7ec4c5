"""The queue's command line. Answers are JSON lines on stdout; exit status 0 done, 1 refused, 2 wrong use, 3 the spool cannot be used."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

from batchhub.localqueue.spool import Entry, Spool, SpoolProblem
from batchhub.localqueue.supervisor import Plan, Supervisor, cancel, detach, interpreter_of

REFUSED, SPOOL = 1, 3
MAX_SCRIPT = 1024 * 1024
MAX_WALLTIME = 366 * 86400
_NAME = re.compile(r"[A-Za-z0-9_.+@-]{1,100}")


class Refused(Exception):
    """The job will not be taken; a sentence."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="localqueue", description="Batch jobs on this machine.")
    top.add_argument(
        "--spool", type=Path, help="the spool directory (default: /var/spool/batchhub if it is there, else one's own)"
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    submit = verbs.add_parser("submit", help="read a script from stdin, print its job's id")
    _job_options(submit)
    submit.add_argument("--chdir", type=Path, default=None, help="where it starts")
    submit.add_argument("--output", default="/dev/null", help="where its output is appended, relative to --chdir")
    submit.add_argument("--slots", type=int, default=0, help="slots of this machine (default: its processors)")
    submit.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    for verb, text in (("status", "one line for each id"), ("cancel", "end jobs")):
        verbs.add_parser(verb, help=text).add_argument("ids", nargs="+", metavar="ID")
    extend = verbs.add_parser("extend", help="give a job more time")
    extend.add_argument("--walltime", type=float, required=True, help="seconds in all")
    extend.add_argument("ids", nargs="+", metavar="ID")
    find = verbs.add_parser("find", help="jobs of a name, newest first")
    find.add_argument("--name", required=True)
    find.add_argument("--user", default="")
    live = verbs.add_parser("live", help="jobs that have not ended whose name begins so, newest first")
    live.add_argument("--prefix", default="")
    verbs.add_parser("info", help="slots and load").add_argument("--slots", type=int, default=0)
    return top


def _job_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("--name", default=None)
    to.add_argument("--nprocs", type=int, default=None)
    to.add_argument("--walltime", type=float, default=None, help="seconds")


def directives(script: str) -> argparse.Namespace:
    """Options from ``#LOCAL`` lines before the first command. Raises Refused."""
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#LOCAL "):
            words += shlex.split(line[7:])
        elif line.strip() and not line.startswith("#"):
            break
    reader = argparse.ArgumentParser(prog="#LOCAL", exit_on_error=False, add_help=False)
    _job_options(reader)
    try:
        found, unknown = reader.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise Refused(f"in a #LOCAL line: {error}") from error
    if unknown:
        raise Refused(f"unknown option {unknown[0]!r} in a #LOCAL line")
    return found


def machine_slots(asked: int) -> int:
    """Slots: what the administrator says, or the processors this process may use."""
    return asked if asked > 0 else len(os.sched_getaffinity(0))


def submit(spool: Spool, options: argparse.Namespace, script: bytes) -> str:
    """Take a job in. The command line wins over the script's lines. Raises Refused."""
    try:
        text = script.decode("utf-8")
        interpreter = interpreter_of(script)
    except ValueError as error:
        raise Refused("the script is not UTF-8 text with a readable first line") from error
    if not text.strip() or "\0" in text or len(script) > MAX_SCRIPT:
        raise Refused("the script is empty, too long or no text")
    inside = directives(text)
    nprocs = options.nprocs or inside.nprocs or 1
    walltime = options.walltime or inside.walltime
    name = options.name or inside.name or "job"
    slots = machine_slots(options.slots)
    if not _NAME.fullmatch(name):
        raise Refused(f"{name[:40]!r} cannot be a job's name")
    if not 1 <= nprocs <= slots:
        raise Refused(f"{nprocs} slots were asked for; this machine has {slots}")
    if walltime is not None and not 0 < walltime <= MAX_WALLTIME:
        raise Refused(f"a time limit of {walltime:g} seconds cannot be")
    cwd = str((options.chdir or Path.cwd()).absolute())
    now = time.time()  # noqa: TID251 -- a program of its own: this is its clock
    spool.purge(now)
    job: dict[str, object] = {"name": name, "nprocs": nprocs, "walltime": walltime, "submitted": now}
    number, alive, waiting = spool.create(job, script)
    plan = Plan(number, nprocs, walltime, slots, cwd, os.path.join(cwd, options.output), interpreter, options.grace)  # noqa: PTH118
    detach(Supervisor(spool, plan, waiting), {alive, waiting})
    return spool.id(number)


def shown(spool: Spool, entry: Entry) -> dict[str, object]:
    """A job for the answer."""
    return {
        "id": spool.id(entry.number),
        "state": entry.state,
        "name": entry.name,
        "user": entry.user,
        "host": os.uname().nodename,
        "nprocs": entry.nprocs,
        "walltime": entry.walltime,
        "submitted": entry.submitted,
        "started": entry.started,
        "ended": entry.ended,
        "code": entry.code,
        "signal": entry.signal,
        "reason": entry.reason,
    }


def status_of(spool: Spool, job: str) -> dict[str, object]:
    """One id's answer: ``unknown`` is a word about this spool's own ids, ``foreign`` is none about another's."""
    number = spool.number(job)
    if number is None:
        return {"id": job, "state": "foreign"}
    entry = spool.entry(number)
    return {"id": job, "state": "unknown"} if entry is None else shown(spool, entry)


def cancel_one(spool: Spool, job: str) -> dict[str, object]:
    """Cancel one job and say what was done."""
    number = spool.number(job)
    if number is None:
        return {"id": job, "done": "foreign"}
    entry = spool.entry(number)
    if entry is None:
        return {"id": job, "done": "unknown"}
    if entry.over and entry.state != "lost":  # of a lost job processes may be left
        return {"id": job, "done": "over"}
    try:
        return {"id": job, "done": "cancelled" if cancel(spool, number) else "over"}
    except PermissionError:
        return {"id": job, "done": "denied"}


def extend_one(spool: Spool, job: str, walltime: float) -> dict[str, object]:
    """Give one job more time and say what was done. Its supervisor looks at its limit again when the time it knew of is up."""
    number = spool.number(job)
    entry = None if number is None else spool.entry(number)
    if number is None or entry is None:
        return {"id": job, "done": "foreign" if number is None else "unknown"}
    if entry.over:
        return {"id": job, "done": "over"}
    if entry.walltime is None or walltime < entry.walltime:
        return {"id": job, "done": "unlimited" if entry.walltime is None else "less"}
    try:
        if spool.directory(number).lstat().st_uid != os.geteuid():
            return {"id": job, "done": "denied"}
        spool.set_limit(number, walltime)
    except PermissionError:
        return {"id": job, "done": "denied"}
    entry = spool.entry(number)
    return {"id": job, "done": "over" if entry is None or entry.over else "extended"}


def info(spool: Spool, asked: int) -> dict[str, object]:
    """The machine and its load."""
    slots = machine_slots(asked)
    entries = [entry for entry in spool.entries() if not entry.over]
    used = sum(entry.nprocs for entry in entries if entry.state == "running")
    return {
        "version": 1,
        "spool": str(spool.path),
        "host": os.uname().nodename,
        "slots": slots,
        "free": max(0, slots - used),
        "running": sum(entry.state == "running" for entry in entries),
        "pending": sum(entry.state == "pending" for entry in entries),
    }


def answer(options: argparse.Namespace) -> list[dict[str, object]]:
    """Do what was asked; the lines to print."""
    spool = Spool(options.spool)
    if options.verb == "submit":
        return [{"id": submit(spool, options, sys.stdin.buffer.read(MAX_SCRIPT + 1))}]
    if options.verb == "status":
        return [status_of(spool, job) for job in options.ids]
    if options.verb == "cancel":
        return [cancel_one(spool, job) for job in options.ids]
    if options.verb == "extend":
        if not 0 < options.walltime <= MAX_WALLTIME:
            raise Refused(f"a time limit of {options.walltime:g} seconds cannot be")
        return [extend_one(spool, job, options.walltime) for job in options.ids]
    if options.verb == "info":
        return [info(spool, options.slots)]
    if options.verb == "live":
        entries = [entry for entry in spool.entries() if not entry.over and entry.name.startswith(options.prefix)]
        return [shown(spool, entry) for entry in reversed(entries)]
    found = [entry for entry in spool.entries() if entry.name == options.name and options.user in {"", entry.user}]
    return [shown(spool, entry) for entry in reversed(found)]


def main() -> int:
    """Run one command."""
    options = parser().parse_args()
    try:
        lines = answer(options)
    except Refused as refused:
        print(f"localqueue: refused: {refused}", file=sys.stderr)  # noqa: T201
        return REFUSED
    except (SpoolProblem, OSError) as problem:
        print(f"localqueue: {problem}", file=sys.stderr)  # noqa: T201
        return SPOOL
    for line in lines:
        print(json.dumps(line))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
