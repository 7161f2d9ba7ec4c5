"""What the API of Kubernetes answers by way of ``kubectl --raw``: lists of pods and nodes as JSON, refusals as one line of kubectl's."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from batchhub.core.errors import Unreachable
from batchhub.core.model import JobId, JobReport, JobState, QueueInfo
from batchhub.core.ports import Completed
from batchhub.schedulers import base

MANAGED = "app.kubernetes.io/managed-by:batchhub"
"""The label of all pods of ours. Those of two hubs belong into two namespaces."""
ACCOUNT = "batchhub/account"
"""An annotation: an account's name may hold what a label may not."""

REFUSALS = frozenset({"BadRequest", "Forbidden", "Invalid", "NotFound", "RequestEntityTooLarge", "UnprocessableEntity"})
"""Reasons (``metav1.StatusReason``) with which the API says that it made nothing. ``AlreadyExists`` is an earlier submit of ours; what is
about time or the server (``Timeout``, ``TooManyRequests``, ``InternalError`` …) says nothing of the pod."""

_REASON = re.compile(r"^Error from server(?: \(([A-Za-z]+)\))?: (.*)$")
_WEBHOOK = re.compile(r'admission webhook "[^"]*" denied the request')
"""What the API says where a webhook gave no reason of its own (pkg/admission/plugin/webhook/errors)."""
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_NOISE = re.compile(r"^(?:Warning: |[EWI]\d{4} )")
_NANO = re.compile(r"\.\d+")
_QUANTITY = re.compile(r"(\d{1,18})(?:\.\d{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    **{f"{unit}i": 2 ** (10 * at) for at, unit in enumerate("KMGTP", 1)},
}

_PREEMPTED = frozenset({"Preempted", "Preempting", "PreemptionByScheduler", "EvictionByEvictionAPI"})
_NODE = frozenset(
    {
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",
        "NodeAffinity",
        "DeletionByTaintManager",
        "DeletionByPodGC",
        "TerminationByKubelet",
    }
)
"""``status.reason`` of a failed pod (pkg/kubelet, pkg/controller), and reasons of the condition ``DisruptionTarget`` (since 1.26). ``Evicted`` is none of
them: the node ran short of memory or disk, often by this very pod, so it failed, in Kubernetes' own words."""


def document(out: str) -> Any:
    """The answer's JSON, or ``None``."""
    try:
        return json.loads(out)
    except (ValueError, RecursionError):
        return None


def reason_of(done: Completed) -> str:
    """The API's reason for a refusal; empty if it is not the API that spoke."""
    for line in done.err.splitlines():
        if found := _REASON.match(line):
            return found[1] or ""
    return ""


def made_nothing(done: Completed) -> bool:
    """Whether the API says that it refused to make anything."""
    for line in done.err.splitlines():
        if found := _REASON.match(line):
            why, said = found[1] or "", found[2]
            return (
                why in REFUSALS or _WEBHOOK.match(said) is not None or (why == "Conflict" and "resourcequotas" in said)
            )
    return False


def words(done: Completed) -> str:
    """Kubernetes' own words."""
    lines = [line for line in done.err.splitlines() if not _NOISE.match(line)]
    text = base.words_of("\n".join(_REASON.sub(r"\2", line) for line in lines), "kubectl")
    return text.removeprefix("error: ") or ("no answer in time" if done.timed_out else f"exit status {done.code}")


def pods(done: Completed, program: str) -> tuple[list[JobReport], list[str]]:
    """The pods of a whole list, and the rows that cannot be read.

    Whole is a list of pods that names the version of the state it shows, and no continuation. Raises Unreachable for anything else.
    """
    reports: list[JobReport] = []
    bad: list[str] = []
    for row in _items(done, program, "PodList"):
        found = report(row)
        if found is None:
            base.note_bad_row(bad, json.dumps(row))
        else:
            reports.append(found)
    return reports, bad


def _items(done: Completed, program: str, kind: str) -> list[Any]:
    base.require_answer(done, program)
    if done.code != 0:
        raise Unreachable(f"Kubernetes did not answer: {words(done)}")
    found = document(done.out)
    metadata = found.get("metadata") if isinstance(found, dict) else None
    items = found.get("items") if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or found.get("kind") != kind or found.get("apiVersion") != "v1":
        raise Unreachable(f"kubectl did not print a {kind}: {base.first_line(done.out, 120) or 'nothing'}")
    if not metadata.get("resourceVersion") or metadata.get("continue") or not isinstance(items, list):
        raise Unreachable("Kubernetes' list is not whole.")
    return items


def report(row: Any) -> JobReport | None:
    """One pod, or ``None`` if it is none that can be read."""
    metadata, status = _part(row, "metadata"), _part(row, "status")
    name, phase = metadata.get("name"), status.get("phase")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(phase, str):
        return None
    began = _time(status.get("startTime"))
    limit = _part(row, "spec").get("activeDeadlineSeconds")
    address = _address(status.get("podIP"))
    base_report = JobReport(
        id=JobId(name),
        state=JobState.UNKNOWN,
        raw_state=base.shorten(phase, 40),
        user=_line(_part(row, "metadata", "annotations").get(ACCOUNT)),
        name=name,
        partition="kubernetes",
        nodes=(node,) if (node := _line(_part(row, "spec").get("nodeName"))) else (),
        submitted=_time(metadata.get("creationTimestamp")),
        time_limit=timedelta(seconds=limit) if type(limit) is int and 0 < limit < 10**9 else None,
    )
    match phase:
        case "Pending" | "Running" if metadata.get("deletionTimestamp"):
            return _leaving(replace(base_report, host=address, started=began), row)
        case "Pending":
            return _pending(base_report, row, began)
        case "Running":
            return replace(base_report, state=JobState.RUNNING, host=address, started=began)
        case "Succeeded" | "Failed":
            return _ended(base_report, row, began)
    return base_report


def _leaving(report: JobReport, row: Any) -> JobReport:
    """On its way out, in the time that it has for that; but on a node that is lost nobody ends it, and it is shown so until the node is back."""
    lost = [word for word in _reasons(row) if word in _NODE]
    if not lost:
        return replace(report, state=JobState.COMPLETING)
    ended = _time(_part(row, "metadata").get("deletionTimestamp"))
    return replace(report, state=JobState.NODE_FAIL, reason=lost[0], ended=ended)


def _reasons(row: Any) -> list[str]:
    """Why the pod as a whole ended or has to."""
    disruptions = [
        _line(condition.get("reason"))
        for condition in _rows(row, "status", "conditions")
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"
    ]
    return [word for word in (_line(_part(row, "status").get("reason")), *disruptions) if word]


def _pending(report: JobReport, row: Any, began: datetime | None) -> JobReport:
    """Waiting for a node, or on one and not yet at work.

    Its deadline counts from when a node took it, so it runs from then on: what never comes up (an image that cannot be had, a home that cannot be
    mounted) is a start that takes too long, and not one that waits for ever.
    """
    for condition in _rows(row, "status", "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return replace(report, state=JobState.PENDING, reason=_why(condition))
    waits = [_part(container, "state", "waiting") for container in _containers(row)]
    reason = next(filter(None, map(_why, waits)), "")
    return replace(report, state=JobState.RUNNING if report.nodes else JobState.PENDING, started=began, reason=reason)


def _why(value: Mapping[str, Any]) -> str:
    return base.shorten(": ".join(filter(None, (_line(value.get("reason")), _line(value.get("message"))))))


def _containers(row: Any) -> list[Mapping[str, Any]]:
    """Those that go first, then the others."""
    return [*_rows(row, "status", "initContainerStatuses"), *_rows(row, "status", "containerStatuses")]


def _ended(report: JobReport, row: Any, began: datetime | None) -> JobReport:
    status = _part(row, "status")
    over = [found for one in _containers(row) if (found := _part(one, "state", "terminated"))]
    # Of several containers, in the order of their names, the first that failed says why the pod did.
    last = next((one for one in over if one.get("exitCode") != 0), over[-1] if over else {})
    code = last.get("exitCode")
    code = code if type(code) is int and 0 <= code <= 255 else None
    why = [*_reasons(row), *filter(None, [_line(last.get("reason"))])]
    state = JobState.COMPLETED if status.get("phase") == "Succeeded" else _failure(frozenset(why))
    message = _line(status.get("message")) or _line(last.get("message"))
    return replace(
        report,
        state=state,
        reason=base.shorten(": ".join([*why[:1], *([message] if message else [])]))
        if state is not JobState.COMPLETED
        else "",
        started=began,
        ended=_time(last.get("finishedAt")),
        exit_code=code if code is not None and code <= 128 else None,
        signal=code - 128 if code is not None and 128 < code <= 128 + 64 else None,
    )


def _failure(why: frozenset[str]) -> JobState:
    if "DeadlineExceeded" in why:
        return JobState.TIMEOUT
    if "OOMKilled" in why:
        return JobState.OUT_OF_MEMORY
    if why & _PREEMPTED:
        return JobState.PREEMPTED
    return JobState.NODE_FAIL if why & _NODE else JobState.FAILED


def size(done: Completed, program: str) -> QueueInfo:
    """The largest node that pods may go to, in each respect. Raises Unreachable."""
    cores, memory, gpus, nodes = 0, 0, 0, 0
    for node in _items(done, program, "NodeList"):
        if _part(node, "spec").get("unschedulable"):
            continue
        has = _part(node, "status", "allocatable")
        nodes += 1
        cores = max(cores, int(quantity(has.get("cpu")) or 0))
        memory = max(memory, int((quantity(has.get("memory")) or 0) // 2**20))
        gpus = max(gpus, int(quantity(has.get("nvidia.com/gpu")) or 0))
    if not nodes:
        return QueueInfo("kubernetes", default=True)
    return QueueInfo(
        "kubernetes", default=True, max_cores=cores or None, max_memory_mib=memory or None, max_gpus=gpus, nodes=nodes
    )


def quantity(value: object) -> float | None:
    """``4``, ``3920m``, ``16397640Ki`` (docs: "Quantity"), or ``None``."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    number = float(value[: len(value) - len(found[2] or "")]) if isinstance(value, str) else 0.0
    return number / 1000 if found[2] == "m" else number * _UNITS[found[2] or ""]


def _part(value: Any, *path: str) -> Mapping[str, Any]:
    """A mapping inside of others; empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _rows(value: Any, *path: str) -> Iterator[Mapping[str, Any]]:
    rows = _part(value, *path[:-1]).get(path[-1])
    return (row for row in (rows if isinstance(rows, list) else []) if isinstance(row, dict))


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""


def _line(value: object) -> str:
    return base.shorten(value, 300) if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(_NANO.sub("", value))
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo is not None else None
