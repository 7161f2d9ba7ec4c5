"""Queues, limits and free resources of a PBS or Torque site, for the form. A wrong guess here costs a refusal, never a job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from batchhub.core.errors import Unreachable
from batchhub.core.model import QueueInfo
from batchhub.core.ports import Completed
from batchhub.schedulers.base import parse_duration, parse_int, require_answer, shorten, words_of
from batchhub.schedulers.pbs_jobs import text_of
from batchhub.schedulers.pbs_read import Record, Records, read_full_text, read_json, read_xml
from batchhub.schedulers.pbs_words import require_qstat

_SIZE = re.compile(r"(\d{1,18})(?:\.\d+)?([kmgtp]?)(b|w)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
# Only these words leave a node usable for a new job; ``job-busy`` is one with nothing free now.
_USABLE = frozenset({"free", "job-busy", "busy", "job-sharing", "job-exclusive", "resv-exclusive"})
_FULL = frozenset({"job-exclusive", "resv-exclusive", "busy"})
# No resource for GPUs is built in; these are the names sites give it.
_GPU_NAMES = ("ngpus", "naccelerators", "gpus")


@dataclass(frozen=True, slots=True)
class _Node:
    """What one node offers. ``queue`` is the only one it serves, if any; memory in MiB."""

    queue: str
    usable: bool
    cores: int
    free: int
    memory: int | None
    gpus: int
    gpu_type: str = ""


def read_pbs_site(done: Sequence[Completed]) -> Sequence[QueueInfo]:
    """The answers to ``qstat -Q``, ``pbsnodes -a`` and ``qstat -B``, all JSON. Raises Unreachable if the queues cannot be read."""
    if not done:
        raise Unreachable("The queues were not asked for.")
    require_qstat(done[0])
    queues = read_json(done[0].out, "Queue")
    nodes = _optional(done, 1, "nodes")
    server = _optional(done, 2, "Server")
    return _queues(queues, [_pbs_node(node) for node in nodes.found.values() if text_of(node, "state")], server)


def read_torque_site(done: Sequence[Completed]) -> Sequence[QueueInfo]:
    """The answers to ``qstat -Q -f`` (text), ``pbsnodes -x`` (XML) and ``qstat -B -f`` (text). Raises Unreachable."""
    if not done:
        raise Unreachable("The queues were not asked for.")
    require_qstat(done[0])
    queues = read_full_text(done[0].out, "Queue")
    nodes = Records({})
    if len(done) > 1 and _answered(done[1], "pbsnodes"):
        try:
            nodes = read_xml(done[1].out, "Node", "name")
        except Unreachable:
            nodes = Records({})
    server = read_full_text(done[2].out, "Server") if len(done) > 2 and _answered(done[2], "qstat") else Records({})
    return _queues(queues, [_torque_node(node) for node in nodes.found.values()], server)


def read_size(text: str) -> int | None:
    """A PBS size (``7388kb``, ``64gb``, ``4mw`` with words of eight bytes, plain bytes) in MiB, rounded down."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    size: int = int(found[1]) * 1024 ** _POWER[found[2].lower()] * (8 if (found[3] or "").lower() == "w" else 1)
    return size // 1024**2


def _answered(done: Completed, program: str) -> bool:
    try:
        require_answer(done, program)
    except Unreachable:
        return False
    return done.code == 0 and not words_of(done.err, program)


def _optional(done: Sequence[Completed], at: int, section: str) -> Records:
    """A document the queues can do without."""
    if len(done) <= at or not _answered(done[at], "pbs"):
        return Records({})
    try:
        return read_json(done[at].out, section)
    except Unreachable:
        return Records({})


def _queues(queues: Records, nodes: Sequence[_Node], server: Records) -> Sequence[QueueInfo]:
    if not queues.present or not queues.found:
        raise Unreachable("The scheduler named no queue.")
    facts: Record = next(iter(server.found.values()), {})
    owned = {node.queue for node in nodes if node.queue}
    return [
        _queue(name, record, [node for node in nodes if node.queue == (name if name in owned else "")], facts)
        for name, record in queues.found.items()
    ]


def _queue(name: str, record: Record, nodes: Sequence[_Node], server: Record) -> QueueInfo:
    usable = [node for node in nodes if node.usable]
    per_job = [record, server]
    routes = text_of(record, "queue_type").lower().startswith("r")
    if routes:  # it has no nodes of its own: the queues it leads to have
        usable, nodes = [], []
    return QueueInfo(
        name=shorten(name, 64),
        default=text_of(server, "default_queue").partition("@")[0] == name,
        open=_true(record, "enabled")
        and _true(record, "started")
        and not _true(record, "from_route_only", missing=False),
        max_walltime=_least(_walltime(part, "resources_max") for part in per_job),
        default_walltime=_walltime(record, "resources_default") or _walltime(server, "resources_default"),
        max_cores=_least(
            [
                _most(node.cores for node in usable),
                *(parse_int(text_of(part, "resources_max", "ncpus")) for part in per_job),
            ]
        ),
        max_memory_mib=_least(
            [
                _most(node.memory for node in usable),
                *(read_size(text_of(part, "resources_max", "mem")) for part in per_job),
            ]
        ),
        max_gpus=_least([_most(node.gpus for node in usable), *(_gpus(part, "resources_max") for part in per_job)]),
        gpu_types=tuple(dict.fromkeys(node.gpu_type for node in usable if node.gpu_type)),
        nodes=len(usable) if nodes else None,
        free_cores=sum(node.free for node in usable) if nodes else None,
    )


def _pbs_node(record: Record) -> _Node:
    cores = parse_int(text_of(record, "resources_available", "ncpus") or text_of(record, "pcpus")) or 0
    used = parse_int(text_of(record, "resources_assigned", "ncpus")) or 0
    words = frozenset(text_of(record, "state").replace(" ", "").split(","))
    return _Node(
        queue=text_of(record, "queue"),
        usable=words <= _USABLE,
        cores=cores,
        free=0 if words & _FULL else max(cores - used, 0),
        memory=read_size(text_of(record, "resources_available", "mem")),
        gpus=_gpus(record, "resources_available") or 0,
        gpu_type=shorten(
            text_of(record, "resources_available", "gpu_model") or text_of(record, "resources_available", "gpu_type"),
            40,
        ),
    )


def _torque_node(record: Record) -> _Node:
    cores = parse_int(text_of(record, "np")) or 0
    words = frozenset(text_of(record, "state").replace(" ", "").split(","))
    memory = re.search(r"(?:^|,)physmem=(\d+[a-z]*)", text_of(record, "status"))
    return _Node(
        queue="",
        usable=words <= _USABLE,
        cores=cores,
        free=0 if words & _FULL else max(cores - _torque_slots(text_of(record, "jobs")), 0),
        memory=read_size(memory[1]) if memory else None,
        gpus=parse_int(text_of(record, "gpus")) or 0,
    )


def _torque_slots(jobs: str) -> int:
    """Slots in use: ``0/12.srv,1/12.srv`` (Torque 4), ``0-3/12.srv,5/13.srv`` (5 and later)."""
    slots = 0
    for low, high in re.findall(r"(?:^|[,\s])(\d{1,6})(?:-(\d{1,6}))?(?=[/,])", jobs):
        slots += max(int(high or low) - int(low) + 1, 0)
    return slots


def _gpus(record: Record, group: str) -> int | None:
    counts = (parse_int(text_of(record, group, name)) for name in _GPU_NAMES)
    return next((count for count in counts if count is not None), None)


def _walltime(record: Record, group: str) -> timedelta | None:
    return parse_duration(text_of(record, group, "walltime"), alone=timedelta(seconds=1))


def _true(record: Record, name: str, *, missing: bool = True) -> bool:
    text = text_of(record, name)
    return text.lower() in {"true", "t", "1", "y"} if text else missing


_Amount = TypeVar("_Amount", int, timedelta)


def _least(values: Iterable[_Amount | None]) -> _Amount | None:
    """The smallest that is said at all."""
    return min((value for value in values if value is not None), default=None)


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
