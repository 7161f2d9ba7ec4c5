"""What the dialects share: small pure helpers for reading what command-line tools print.

Everything a scheduler prints is untrusted text: other users choose job names, reasons and node features. So each helper here is
strict in what it takes, bounded in what it returns, and raises nothing but our own errors. Command lines and the meaning of an
answer stay with each dialect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from types import MappingProxyType

from ClusterShell.RangeSet import RangeSet, RangeSetException

from batchhub.core.errors import BadInput, CommandNotFound, Unreachable
from batchhub.core.model import JobId
from batchhub.core.ports import Completed

SCRUB_SLURM = ("SQUEUE_*", "SINFO_*", "SACCT_*", "SBATCH_*", "SCANCEL_*", "SALLOC_*", "SCONTROL_*", "SLURM_*")
"""Variables that change what Slurm's commands do or print; removed before each of them."""
KEEP_SLURM = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""Variables that say which cluster, or who one is: a site sets them on purpose."""

SCRUB_PBS = ("PBS_DPREFIX", "PBS_O_*", "PBS_QSTAT_EXECONLY", "PBS_DEFAULT", "PBS_SERVER", "PBS_JOBID", "QSTAT_*")
"""The same for PBS and Torque. ``PBS_DEFAULT`` and ``PBS_SERVER`` choose the server; a dialect that has one configured sets it."""

SCRUB_LSF = (
    "LSB_*_FORMAT",
    "LSB_DEFAULTQUEUE",
    "LSB_DEFAULTPROJECT",
    "LSB_DEFAULT_*",
    "LSB_SUB_*",
    "LSB_JOBID",
    "LSB_JOBINDEX",
    "LSB_JOBNAME",
    "BSUB_QUIET",
    "BSUB_QUIET2",
    "BSUB_CHK_RESREQ",
)
"""The same for LSF and openlava."""

PLAIN_ENV: Mapping[str, str] = MappingProxyType({"LC_ALL": "C", "TZ": "UTC", "COLUMNS": "1000"})
"""Set for every question: English text, UTC times, nothing cut to a terminal's width. Never set for a submit, whose
environment some schedulers hand on to the job."""

MAX_NODES = 10_000
"""No job of ours has more nodes; a larger set is a mistake or an attack on our memory."""
MAX_BAD_ROWS = 5

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NODE_PART = re.compile(r"[A-Za-z0-9._-]*(?:\[[0-9,/-]+\][A-Za-z0-9._-]*)*")
_BRACKET = re.compile(r"\[([0-9,/-]+)\]")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
_DURATION = re.compile(r"(?:(\d{1,6})-)?(\d{1,8})(?::(\d{1,3}))?(?::(\d{1,3}))?(?:\.\d+)?", re.ASCII)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")
_LAST_EPOCH = 32_503_680_000  # the year 3000; a larger number is not a time

# What a login shell, ssh or the C library may add to stderr on any machine, whatever the command did.
_NOISE = re.compile(
    r"setlocale|cannot change locale|Setting locale failed|perl: warning|LANGUAGE = |LC_\w+ = |LANG = "
    r"|are supported and installed on your system|Falling back to the standard locale"
    r"|Warning: Permanently added|X11 forwarding|xauth|no job control in this shell|cannot set terminal process group"
    r"|mesg: ttyname failed|stdin: is not a tty|TERM environment variable not set|^Killed by signal \d+\.$"
)


def shorten(text: str, limit: int = 300) -> str:
    """One line for a person: control characters become spaces, at most ``limit`` characters."""
    line = _CONTROL.sub(" ", text[: 4 * limit + 1000]).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def first_line(text: str, limit: int = 300) -> str:
    """The first line that is not blank, made safe by :func:`shorten`."""
    return next((shorten(line, limit) for line in text.splitlines() if line.strip()), "")


def complaints(err: str) -> list[str]:
    """The lines of stderr that may mean something: blank ones and the usual noise of shells and ssh are left out."""
    return [line.strip() for line in err.splitlines() if line.strip() and not _NOISE.search(line)]


def words_of(err: str, program: str, limit: int = 600) -> str:
    """A tool's own words as one sentence: ``program: error: `` prefixes and noise stripped, lines joined with spaces."""
    prefix = re.compile(rf"^(?:\S*/)?{re.escape(program)}: (?:(?:error|fatal|warning|info): )?")
    return shorten(" ".join(prefix.sub("", line) for line in complaints(err)), limit)


def note_bad_row(bad: list[str], row: str) -> None:
    """Keep an unreadable row for the log, if there are not too many already."""
    if len(bad) < MAX_BAD_ROWS:
        bad.append(shorten(row, 120))


def named_in(heads: re.Pattern[str], text: str, jobs: Iterable[JobId]) -> frozenset[JobId]:
    """The jobs that stand where ``heads`` finds an id (group 1) in ``text``, with or without a server's or cluster's name behind it."""
    named = set(heads.findall(text))
    return frozenset(job for job in jobs if job in named or re.split(r"[.;]", job, maxsplit=1)[0] in named)


def require_command(done: Completed, program: str) -> None:
    """Raise CommandNotFound if the shell, sudo or env said that the command is missing or may not be executed.

    127 and 126 are POSIX's exit statuses for that; a tool that exits so by itself writes its own name first. ``sudo`` says it in
    words and exits 1.
    """
    name = os.path.basename(program)  # noqa: PTH119 -- text, not a path of this machine
    spoke = any(line.startswith(f"{name}:") for line in done.err.splitlines())
    told = re.search(rf"(?:^|[\s/'‘:]){re.escape(name)}['’]?: (?:command )?not found", done.err, re.MULTILINE)
    if (done.code in {126, 127} and not spoke) or (done.code not in {0, None} and told):
        said = first_line(done.err) or f"exit status {done.code}"
        raise CommandNotFound(f"The command {shorten(program, 200)} cannot be run on the login node: {said}")


def require_answer(done: Completed, program: str) -> None:
    """Raise Unreachable (or CommandNotFound) if the command did not run to its own end, or its output was cut."""
    require_command(done, program)
    if done.timed_out:
        raise Unreachable(f"{program} did not answer in time.")
    if done.code is None:
        raise Unreachable(f"{program} was killed before it answered.")
    if done.truncated:
        raise Unreachable(f"{program} printed more than the hub is willing to read.")


def check_ids(jobs: Iterable[JobId], pattern: re.Pattern[str]) -> tuple[JobId, ...]:
    """The ids, each once, in their order. Raises BadInput for none (to some tools that means *all jobs*) or an odd one."""
    ids = tuple(dict.fromkeys(jobs))
    if not ids:
        raise BadInput("No job id was given; at least one is needed.")
    for job in ids:
        if not pattern.fullmatch(job):
            raise BadInput(f"{shorten(job, 60)!r} is not a job id of this scheduler.")
    return ids


def chunks(ids: Sequence[JobId], size: int) -> list[tuple[JobId, ...]]:
    """The ids in groups of at most ``size``, for commands that take a while over each."""
    return [tuple(ids[at : at + size]) for at in range(0, len(ids), size)]


def expand_nodes(text: str) -> tuple[str, ...]:
    """The names in a node set (``n[01-03,7],gpu1,r[0-1]n[1-2]x``), in its order, each once.

    The grammar is ClusterShell's without groups and set operators. At most :data:`MAX_NODES` names, counted before anything is
    expanded; raises BadInput for more, or for a set that cannot be read.
    """
    text = text.strip()
    if not text:
        return ()
    parts = _OUTSIDE_BRACKETS.split(text) if len(text) <= 200_000 else ()
    if not parts or not all(part and _NODE_PART.fullmatch(part) for part in parts):
        raise BadInput(f"{shorten(text, 80)!r} is not a set of nodes.")
    if sum(_size_of(part) for part in parts) > MAX_NODES:
        raise BadInput(f"{shorten(text, 80)!r} names more than {MAX_NODES} nodes.")
    try:
        return tuple(dict.fromkeys(name for part in parts for name in _names_of(part)))
    except (RangeSetException, ValueError) as error:
        raise BadInput(f"{shorten(text, 80)!r} is not a set of nodes: {shorten(str(error), 120)}") from error


def _names_of(part: str) -> Iterator[str]:
    """The names of one part, item by item: the first name of a job's set is the node that runs its script."""
    pieces = [[piece] if at % 2 == 0 else _indexes(piece) for at, piece in enumerate(_BRACKET.split(part))]
    return ("".join(choice) for choice in product(*pieces))


def _indexes(bracket: str) -> list[str]:
    return [index for item in bracket.split(",") for index in RangeSet(item).striter()]


def _size_of(part: str) -> int:
    """How many names a part stands for, from above, without making them. Raises BadInput for a malformed bracket."""
    size = 1
    for group in _BRACKET.findall(part):
        count = 0
        for item in group.split(","):
            found = _RANGE.fullmatch(item.partition("/")[0])
            if found is None:
                raise BadInput(f"{shorten(part, 80)!r} is not a set of nodes.")
            low, high = int(found[1]), int(found[2] or found[1])
            count += high - low + 1
            if high < low or count > MAX_NODES:
                raise BadInput(f"{shorten(part, 80)!r} is not a set of at most {MAX_NODES} nodes.")
        size *= count
    return size


def parse_int(text: str) -> int | None:
    """A non-negative decimal number of at most 18 ASCII digits, or ``None``."""
    text = text.strip()
    return int(text) if len(text) <= 18 and text.isascii() and text.isdigit() else None


def parse_epoch(text: str) -> datetime | None:
    """A time: seconds since 1970, or ``YYYY-MM-DDTHH:MM:SS`` taken as UTC. ``None`` for anything else (``N/A``, ``0``)."""
    text = text.strip()
    if _ISO.fullmatch(text):
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
            return None
    seconds = parse_int(text)
    return datetime.fromtimestamp(seconds, UTC) if seconds and seconds < _LAST_EPOCH else None


def parse_duration(text: str, *, alone: timedelta = timedelta(minutes=1), pair: str = "ms") -> timedelta | None:
    """A duration of the forms ``[D-]HH:MM:SS``, ``D-HH[:MM]``, a pair and a number alone; ``None`` for anything else.

    ``alone`` is what a single number counts (Slurm: minutes, PBS: seconds). ``pair`` says what two numbers are without days:
    ``ms`` minutes and seconds (Slurm, PBS), ``hm`` hours and minutes (LSF). Words (``UNLIMITED``, ``NONE``) are ``None``.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    days, numbers = found[1], [int(part) for part in found.groups()[1:] if part is not None]
    if days is None and len(numbers) == 1:
        return numbers[0] * alone
    if days is None and len(numbers) == 2 and pair == "ms":
        return timedelta(minutes=numbers[0], seconds=numbers[1])
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return timedelta(days=int(days or 0), hours=hours, minutes=minutes, seconds=seconds)


def decode_wait(status: int) -> tuple[int | None, int | None]:
    """A ``wait(2)`` status word as (exit code, signal): 768 is (3, None), 9 is (None, 9)."""
    signal = status & 0x7F
    return (None, signal) if signal else ((status >> 8) & 0xFF, None)
