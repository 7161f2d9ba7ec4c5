"""Kubernetes by ``kubectl`` on the login node: each server is a pod that is never restarted.

The pod's manifest is YAML in the script's ``#POD`` lines, so that it is an administrator's template as any scheduler's directives are; what runs
in the pod is the script. Requests go to the API as they are (``--raw``): no discovery, no cache in somebody's home, one request each, and
an answer that can be told whole from cut.

Whoever may create pods in a namespace can run as anybody there. So only the service's account has a kubeconfig: every command is its own, and the
pod runs as the person's uid and groups, looked up on the login node.

Sources: kubernetes.io/docs, "Pod Lifecycle" (phases, reasons), "API Concepts" (lists, resourceVersion, status reasons); reading is in
:mod:`batchhub.schedulers.kubernetes_read`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import yaml  # type: ignore[import-untyped]

from batchhub.core.errors import (
    BadInput,
    ConfigError,
    Conflict,
    Denied,
    SubmitAmbiguous,
    SubmitRejected,
    Unreachable,
)
from batchhub.core.model import JobId, JobReport, Listing, QueueInfo
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.schedulers import base, kubernetes_read
from batchhub.schedulers.container_read import REFUSED
from batchhub.schedulers.kubernetes_read import ACCOUNT, MANAGED

PROGRAM = "kubectl"
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_CONTEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,252}")
_PATH = re.compile(r"[A-Za-z0-9_./+-]{1,400}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,399}")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?")
_DIRECTIVE = re.compile(r"#POD(-MERGE)?(?: (.*))?")
_WHO = frozenset({"runAsUser", "runAsGroup", "runAsNonRoot"})
_UID, _GID, _GROUPS = "@BATCHHUB-UID@", "@BATCHHUB-GID@", "@BATCHHUB-GROUPS@"
_LIVE = "status.phase!=Succeeded,status.phase!=Failed"
_REQUEST = 15
"""Seconds that kubectl gives the API for one answer."""

# $1 the account, $2 where pods are made, $3 hours, $4 the namespace, $5 the label; the manifest comes on stdin. JSON cannot hold the three
# words in quotes as a part of a longer text: a quote in a text is written with a backslash.
_SUBMIT = """account=$1 place=$2 keep=$3 namespace=$4 label=$5; shift 5
refuse() { printf '%s%s\\n' '@REFUSED@' "$1" >&2; exit 77; }
uid=$(id -u -- "$account") && gid=$(id -g -- "$account") && groups=$(id -G -- "$account") || refuse "the login node does not know the account $account"
[ "$uid" -gt 0 ] && [ "$gid" -gt 0 ] || refuse "the account $account is root on the login node"
list=
for group in $groups; do [ "$group" = 0 ] || list=$list${list:+,}$group; done
pod=$(sed -e "s/\\"@UID@\\"/$uid/g; s/\\"@GID@\\"/$gid/g; s/\\"@GROUPS@\\"/$list/g")
for left in 3 2 1 0; do
    said=$(printf '%s\\n' "$pod" | "$@" create --raw "$place?fieldValidation=Strict" -f - 2>&1 >&3); code=$?
    # Of pods that are made at the same moment their quota lets one pass; the API makes none of the others, and says that one should try again.
    case $said in *"cannot be fulfilled on resourcequotas"*) ;; *) break ;; esac
    [ "$code" != 0 ] && [ "$left" != 0 ] || break
    sleep 0.5
done 3>&1
[ -z "$said" ] || printf '%s\\n' "$said" >&2
[ "$code" = 0 ] || exit "$code"
# Pods that ended long ago; whether that works is nobody's business now, and nobody waits for it. Not at each of a class's starts: the list is long.
(
    umask 077; stamp=$HOME/.batchhub/cleaned.$namespace
    [ -z "$(find "$stamp" -mmin -10)" ] || exit
    mkdir -p "$HOME/.batchhub"; touch "$stamp"
    oldest=$(date -u -d "-$keep hours" +%Y-%m-%dT%H:%M:%SZ) || exit
    "$@" get pods --namespace="$namespace" --selector="$label" --field-selector=status.phase!=Running,status.phase!=Pending,status.phase!=Unknown \\
        -o 'jsonpath={range .items[*]}{.metadata.creationTimestamp} {.metadata.name}{"\\n"}{end}' |
        while read -r made name; do
            if [ "$(printf '%s\\n%s\\n' "$made" "$oldest" | sort | head -n 1)" = "$made" ]; then "$@" delete --raw "$place/$name"; fi
        done
) </dev/null >/dev/null 2>&1 &
exit 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """The dialect.

    ``namespace`` is where pods are made, ``image`` for templates that name none. ``kubeconfig`` and ``context`` choose cluster and credentials: with
    an empty ``context`` it is whichever is current in that file. ``kubectl`` is the command. ``keep_hours``: ended pods are removed when
    they were made that long ago. The deadlines are in seconds, for each command.
    """

    namespace: str = "batchhub"
    image: str = ""
    kubeconfig: str = ""
    context: str = ""
    kubectl: str = PROGRAM
    keep_hours: int = 168
    status_deadline: float = 30.0
    submit_deadline: float = 60.0

    def __post_init__(self) -> None:
        for name, value, pattern, what in (
            ("namespace", self.namespace, _LABEL, "name of a namespace"),
            ("image", self.image or "x", _IMAGE, "name of a container image"),
            ("kubeconfig", self.kubeconfig or "x", _PATH, "path of a file"),
            ("context", self.context or "x", _CONTEXT, "name of a context"),
            ("kubectl", self.kubectl, _PATH, "name or path of a program"),
        ):
            if not pattern.fullmatch(value) or value.startswith("-"):
                raise ConfigError(f"scheduler_options.{name}: {value[:80]!r} is not the {what}.")
        if not 1 <= self.keep_hours <= 24 * 366:
            raise ConfigError("scheduler_options.keep_hours is 1 to 8784.")
        if min(self.status_deadline, self.submit_deadline) <= 0:
            raise ConfigError("scheduler_options: deadlines are seconds and must be above 0.")

    @property
    def name(self) -> str:
        """``kubernetes``."""
        return "kubernetes"

    # ------------------------------------------------ commands

    def _argv(self, *words: str) -> tuple[str, ...]:
        chosen = [
            *((f"--kubeconfig={self.kubeconfig}",) if self.kubeconfig else ()),
            *((f"--context={self.context}",) if self.context else ()),
        ]
        return (self.kubectl, *chosen, f"--request-timeout={_REQUEST}s", *words)

    def _command(self, *argv: str, stdin: str = "", deadline: float = 0.0) -> Command:
        return Command(
            argv,
            stdin=stdin,
            env=base.PLAIN_ENV,
            unset=("KUBECTL_*", "KUBERNETES_*"),
            deadline=deadline or self.status_deadline,
            as_service=True,
        )

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def _list(self, **selectors: str) -> Command:
        chosen = {"labelSelector": MANAGED.replace(":", "="), **selectors}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in chosen.items())
        return self._command(*self._argv("get", "--raw", f"{self._pods}?{query}"))

    def submit(self, request: JobRequest) -> Command:
        """``create``. Raises BadInput for a manifest that is none."""
        if not _LABEL.fullmatch(request.name) or not _ACCOUNT.fullmatch(request.user):
            raise BadInput(f"{request.name[:60]!r} of {request.user[:60]!r} cannot be a pod's name and account.")
        pod = _owned(_manifest(request.script), request, self.image)
        try:
            manifest = json.dumps(pod, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInput(f"#POD: a value is nothing that JSON has (a date? put it in quotes): {error}.") from error
        text = _SUBMIT
        for place, value in (("@REFUSED@", REFUSED), ("@UID@", _UID), ("@GID@", _GID), ("@GROUPS@", _GROUPS)):
            text = text.replace(place, value)
        words = (request.user, self._pods, str(self.keep_hours), self.namespace, MANAGED.replace(":", "="))
        return self._command(
            "/bin/sh",
            "-c",
            text,
            "batchhub",
            *words,
            *self._argv(),
            stdin=manifest + "\n",
            deadline=self.submit_deadline,
        )

    def read_submit(self, done: Completed) -> JobId:
        """The pod's name. Raises SubmitRejected, SubmitAmbiguous, CommandNotFound."""
        base.require_command(done, self.kubectl)
        said = kubernetes_read.words(done)
        if done.code not in {0, None} and not done.truncated:
            refused = [line.removeprefix(REFUSED) for line in done.err.splitlines() if line.startswith(REFUSED)]
            if refused:
                raise SubmitRejected(base.shorten(refused[-1]))
            if kubernetes_read.made_nothing(done):
                raise SubmitRejected(said)
        if done.code == 0 and not done.truncated:
            report = kubernetes_read.report(kubernetes_read.document(done.out))
            if report is not None:
                return report.id
        raise SubmitAmbiguous(f"Kubernetes did not say whether it took the pod: {said}")

    def find(self, name: str, user: str) -> Command:
        """The list, narrowed to this name."""
        del user
        if not _LABEL.fullmatch(name):
            raise BadInput(f"{name[:60]!r} is not a pod's name.")
        return self._list(fieldSelector=f"metadata.name={name}")

    def read_find(self, done: Completed) -> Sequence[JobReport]:
        """It, if it is there; ended ones stay for ``keep_hours``. Raises Unreachable."""
        pods, bad = kubernetes_read.pods(done, self.kubectl)
        if bad:
            raise Unreachable("Kubernetes described a pod in a way that cannot be read.")
        return tuple(pods)

    def status(self, jobs: Sequence[JobId]) -> Command:
        """One list of all pods of ours that have not ended, however many are asked for; of one alone, whatever has become of it.

        Ended ones are kept for a week: with them the answer would soon be longer than is read. One that is missing from the list is asked for alone
        (:mod:`batchhub.control.endings`). Raises BadInput for no ids.
        """
        ids = base.check_ids(jobs, _LABEL)
        return self._list(fieldSelector=f"metadata.name={ids[0]}" if len(ids) == 1 else _LIVE)

    def read_status(self, done: Completed, jobs: Sequence[JobId]) -> Listing:
        """What was seen. A pod that is not in a whole list is missing, and gone once the next list does not hold it either. Raises Unreachable."""
        pods, bad = kubernetes_read.pods(done, self.kubectl)
        asked = set(jobs)
        seen = {pod.id: pod for pod in pods if pod.id in asked}
        # With a row that cannot be read nobody knows which pod it was about.
        unread = frozenset(asked - seen.keys()) if bad else frozenset()
        return Listing(seen, frozenset(), tuple(bad), unread)

    def accounting(self, jobs: Sequence[JobId]) -> Command | None:
        """There are no records apart: an ended pod can be asked for alone until it is removed."""
        base.check_ids(jobs, _LABEL)
        return None

    def read_accounting(self, done: Completed, jobs: Sequence[JobId]) -> Mapping[JobId, JobReport]:
        """The same rows as in a status answer. Raises Unreachable."""
        return self.read_status(done, jobs).jobs

    def tagged(self, prefix: str) -> Command:
        """The same list."""
        del prefix
        return self._list(fieldSelector=_LIVE)

    def read_tagged(self, done: Completed, prefix: str) -> Sequence[JobReport]:
        """The live ones. Raises Unreachable."""
        pods, _ = kubernetes_read.pods(done, self.kubectl)
        return tuple(pod for pod in pods if pod.name.startswith(prefix) and pod.user and not pod.state.terminal)

    def cancel(self, jobs: Sequence[JobId]) -> Sequence[Command]:
        """``delete``, one at a time: it answers at once, and the pod has ``terminationGracePeriodSeconds`` to end in."""
        return tuple(
            self._command(*self._argv("delete", "--raw", f"{self._pods}/{job}")) for job in base.check_ids(jobs, _LABEL)
        )

    def read_cancel(self, done: Completed) -> None:
        """Return if it will be gone, or is. Raises Unreachable or Denied."""
        base.require_answer(done, self.kubectl)
        reason = kubernetes_read.reason_of(done)
        if done.code == 0 or reason == "NotFound":
            return
        if reason == "Forbidden":
            raise Denied(f"Kubernetes does not let the hub's account delete it: {kubernetes_read.words(done)}")
        raise Unreachable(f"Kubernetes did not delete the pod: {kubernetes_read.words(done)}")

    def extend(self, job: JobId, walltime: timedelta) -> Command | None:
        """Not to be had: the API lets ``activeDeadlineSeconds`` of a pod be made less, never more."""
        del job, walltime
        return None

    def read_extend(self, done: Completed) -> None:
        """Never asked."""
        del done
        raise Conflict("A pod's time cannot be made longer.")

    def inspect(self) -> Sequence[Command]:
        """Ask for the nodes, which the service's account need not be allowed to see."""
        return (self._command(*self._argv("get", "--raw", "/api/v1/nodes")),)

    def read_inspect(self, done: Sequence[Completed]) -> Sequence[QueueInfo]:
        """One queue, ``kubernetes``: nobody may ask for more than the largest node has, where nodes may be seen. Raises Unreachable."""
        if len(done) != 1:
            raise Unreachable("Kubernetes was asked one question.")
        if done[0].code != 0 and kubernetes_read.reason_of(done[0]) == "Forbidden":
            return (QueueInfo("kubernetes", default=True),)
        return (kubernetes_read.size(done[0], self.kubectl),)


def _manifest(script: str) -> dict[str, Any]:
    """The pod of a script's ``#POD`` lines, with the profile's own laid over it. Raises BadInput."""
    lines: list[str] = []
    over: list[str] = []
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if (found := _DIRECTIVE.fullmatch(line)) is not None:
            (over if found[1] else lines).append(found[2] or "")
    pod = _mapping("\n".join(lines), "#POD")
    for text in over:
        pod = _merged(pod, _mapping(text, "#POD-MERGE"))
    return pod


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: this is not YAML: {base.shorten(str(error), 200)}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{where}: a mapping is expected.")
    return found


def _merged(base_value: Any, over: Any) -> Any:
    """JSON merge patch (RFC 7386): mappings are joined, ``null`` takes away, anything else replaces."""
    if not isinstance(over, dict):
        return over
    known = dict(base_value) if isinstance(base_value, dict) else {}
    for key, value in over.items():
        if value is None:
            known.pop(key, None)
        else:
            known[key] = _merged(known.get(key), value)
    return known


def _owned(pod: dict[str, Any], request: JobRequest, image: str) -> dict[str, Any]:
    """The pod as BatchHub makes it, whatever the template says of these things. Raises BadInput."""
    spec = pod.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if pod.get("apiVersion") != "v1" or pod.get("kind") != "Pod" or not isinstance(spec, dict):
        raise BadInput("#POD: apiVersion: v1, kind: Pod and a spec are expected.")
    if not isinstance(containers, list) or not containers or not all(isinstance(one, dict) for one in containers):
        raise BadInput("#POD: spec.containers: a list of containers is expected.")
    first = spec.get("initContainers") or []
    if not isinstance(first, list) or not all(isinstance(one, dict) for one in first):
        raise BadInput("#POD: spec.initContainers: a list of containers is expected.")
    for container in [*first, *containers]:
        container["image"] = container.get("image") or image  # a form's field may be left empty
        if not _IMAGE.fullmatch(str(container["image"])):
            raise BadInput(
                f"image: {str(container['image'])[:80]!r} is not the name of a container image; the administrator sets scheduler_options.image, or "
                "the template names one."
            )
    _check_identity([*first, *containers])
    metadata, security = _dict(pod.get("metadata")), _dict(spec.get("securityContext"))
    key, value = MANAGED.split(":")
    return {
        **pod,
        "metadata": {
            **{name: part for name, part in metadata.items() if name not in {"namespace", "generateName"}},
            "name": request.name,
            "labels": {**_dict(metadata.get("labels")), key: value},
            "annotations": {**_dict(metadata.get("annotations")), ACCOUNT: request.user},
        },
        "spec": {
            **spec,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                **security,
                "runAsUser": _UID,
                "runAsGroup": _GID,
                "runAsNonRoot": True,
                "supplementalGroups": [_GROUPS],
            },
        },
    }


def _check_identity(containers: Sequence[dict[str, Any]]) -> None:
    """A container's own word about whom it runs as would count more than the pod's. Raises BadInput."""
    for container in containers:
        if found := sorted(_WHO & _dict(container.get("securityContext")).keys()):
            raise BadInput(
                f"#POD: securityContext.{found[0]} of container {str(container.get('name'))[:60]!r}: all of a pod runs as its person; leave it out."
            )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
