"""The Kubernetes dialect. Pods are written as the API documents them; what the real kubectl says is in tests/fakesched/test_kube_api.py."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.control.steps import step
from batchhub.core.errors import (
    BadInput,
    CommandNotFound,
    ConfigError,
    Conflict,
    Denied,
    SubmitAmbiguous,
    SubmitRejected,
    TemplateProblem,
    Unreachable,
)
from batchhub.core.lifecycle import Limits, Sight
from batchhub.core.model import (
    JobId,
    JobState,
    Listing,
    Observation,
    Outcome,
    Phase,
    QueueInfo,
    Server,
    ServerId,
    Truth,
    UserName,
)
from batchhub.core.ports import Completed, Dialect, JobRequest
from batchhub.core.words import describe
from batchhub.job.render import SAMPLE, Renderer
from batchhub.schedulers.container_read import REFUSED
from batchhub.schedulers.kubernetes import Kubernetes
from batchhub.schedulers.kubernetes_read import quantity

S = JobState
KUBE = Kubernetes(image="lab:1")
ONE, TWO = JobId("bh-abcdefghijkl"), JobId("bh-mnopqrstuvwx")
AT = "2026-11-28T09:00:00Z"
POD = '#!/bin/bash\n#POD {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a"}]}}\n'


def pod(
    name: str = ONE, phase: str = "Running", *, meta: Any = None, spec: Any = None, **status: Any
) -> dict[str, Any]:
    known = {"podIP": "10.1.2.3", "startTime": AT} if phase != "Pending" else {}
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": AT,
            "annotations": {"batchhub/account": "alice"},
            **(meta or {}),
        },
        "spec": {"nodeName": "n7", "activeDeadlineSeconds": 3600, **(spec or {})},
        "status": {"phase": phase, **known, **status},
    }


def over(code: int, reason: str = "Error") -> list[dict[str, Any]]:
    ended = {"exitCode": code, "reason": reason, "startedAt": AT, "finishedAt": "2026-11-28T10:00:00Z"}
    return [{"name": "server", "state": {"terminated": ended}}]


def disrupted(reason: str) -> list[dict[str, Any]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


def listed(*pods: Any, **metadata: Any) -> Completed:
    found = {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "12", **metadata},
        "items": list(pods),
    }
    return Completed(0, json.dumps(found))


BEGAN = datetime(2026, 11, 28, 9, tzinfo=UTC)
ROW = Server(
    ServerId("abcdefghijkl"),
    UserName("alice"),
    "",
    "pods",
    "lab",
    "alice",
    BEGAN,
    BEGAN,
    phase=Phase.STARTING,
    job_id=ONE,
    submit_tried=BEGAN,
    started=BEGAN,
)
"""Whose job is :func:`pod`."""


def refusal(reason: str, text: str = "no") -> Completed:
    return Completed(1, "", f"Error from server ({reason}): {text}\n")


def request(script: str = POD, **changes: str) -> JobRequest:
    fields = {"name": ONE, "directory": "/home/alice/.batchhub/jobs/x", "script": script, "user": "alice"}
    return JobRequest(**{**fields, **changes})


# ---------------------------------------------------------------- settings and commands


def test_it_is_a_dialect() -> None:
    dialect: Dialect = KUBE
    assert dialect.name == "kubernetes"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"namespace": "../default"}, "namespace"),
        ({"namespace": ""}, "namespace"),
        ({"image": "a b"}, "image"),
        ({"kubeconfig": "a b"}, "kubeconfig"),
        ({"kubeconfig": "-x"}, "kubeconfig"),
        ({"context": "--as=admin"}, "context"),
        ({"kubectl": ""}, "kubectl"),
        ({"keep_hours": 0}, "keep_hours"),
        ({"submit_deadline": 0.0}, "deadlines"),
    ],
)
def test_senseless_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Kubernetes(**options)


def test_questions() -> None:
    chosen = Kubernetes(kubeconfig="/etc/k", context="prod", kubectl="/opt/kubectl", namespace="ns")
    head = ("/opt/kubectl", "--kubeconfig=/etc/k", "--context=prod", "--request-timeout=15s")
    pods = "/api/v1/namespaces/ns/pods"
    ours = f"{pods}?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dbatchhub&fieldSelector="
    # Ended pods of a week would make the answer longer than is read: they are asked for by name, one by one.
    live = (*head, "get", "--raw", f"{ours}status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed")
    alone = (*head, "get", "--raw", f"{ours}metadata.name%3D{ONE}")
    assert chosen.status([ONE, TWO]).argv == chosen.tagged("bh-").argv == live
    assert chosen.find(ONE, "a").argv == chosen.status([ONE]).argv == chosen.status([ONE, ONE]).argv == alone
    assert [command.argv for command in chosen.cancel([ONE, TWO])] == [
        (*head, "delete", "--raw", f"{pods}/{ONE}"),
        (*head, "delete", "--raw", f"{pods}/{TWO}"),
    ]
    assert chosen.accounting([ONE]) is None
    assert chosen.extend(ONE, timedelta(hours=1)) is None
    with pytest.raises(Conflict):
        chosen.read_extend(Completed(0))


def test_only_the_service_speaks_to_the_api() -> None:
    """Who may make pods in a namespace may run there as anybody."""
    commands = [
        KUBE.submit(request()),
        KUBE.find(ONE, "alice"),
        KUBE.status([ONE]),
        KUBE.tagged("bh-"),
        *KUBE.cancel([ONE]),
        *KUBE.inspect(),
    ]
    assert {command.runs_as("alice") for command in commands} == {None}


@pytest.mark.parametrize("job", ["", "../nodes/x", "a/b", "a?b", "A", "-x", "x" * 64])
def test_what_is_no_pod_s_name(job: str) -> None:
    for ask in (KUBE.status, KUBE.cancel, KUBE.accounting):
        with pytest.raises(BadInput):
            ask([JobId(job)])
    with pytest.raises(BadInput):
        KUBE.find(job, "alice")
    with pytest.raises(BadInput):
        KUBE.submit(request(name=job))
    with pytest.raises(BadInput):
        KUBE.status([])


# ---------------------------------------------------------------- manifests


def manifest(script: str, **changes: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(KUBE.submit(request(script, **changes)).stdin)
    return found


def test_the_template_s_pod() -> None:
    made = manifest(Renderer().render("kubernetes", SAMPLE))
    spec = made["spec"]
    (container,) = spec["containers"]
    amount = {"cpu": "4", "memory": "8192Mi", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": amount, "limits": amount}
    assert container["command"] == ["/bin/bash", f"{SAMPLE.directory}/job.sh"]
    assert container["image"] == "lab:1"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["activeDeadlineSeconds"] == 28800
    assert spec["volumes"] == [{"name": "home", "hostPath": {"path": "/home/alice", "type": "Directory"}}]


def test_what_batchhub_sets_whatever_the_template_says() -> None:
    script = (
        "#!/bin/bash\n"
        "#POD {apiVersion: v1, kind: Pod, metadata: {name: other, namespace: kube-system, generateName: x, labels: {a: b}}, spec: {\n"
        "#POD   restartPolicy: Always, automountServiceAccountToken: true, securityContext: {runAsUser: 0, runAsNonRoot: false, fsGroup: 5},\n"
        "#POD   containers: [{name: a, image: own:2}]}}\n"
    )
    made = manifest(script)
    assert made["metadata"] == {
        "name": ONE,
        "labels": {"a": "b", "app.kubernetes.io/managed-by": "batchhub"},
        "annotations": {"batchhub/account": "alice"},
    }
    assert made["spec"]["restartPolicy"] == "Never"
    assert made["spec"]["automountServiceAccountToken"] is False
    security = made["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["fsGroup"]) == (True, 5)
    assert "0" not in str(security["runAsUser"])
    assert made["spec"]["containers"][0]["image"] == "own:2"


@pytest.mark.parametrize("setting", ["runAsUser: 0", "runAsGroup: 0", "runAsNonRoot: false"])
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_no_container_of_it_is_anybody_else(setting: str, kind: str) -> None:
    """What a container says of itself counts more than what its pod says (PodSecurityContext)."""
    own = f"{kind}: [{{name: b, securityContext: {{{setting}, readOnlyRootFilesystem: true}}}}]"
    script = f"#!/bin/bash\n#POD {{apiVersion: v1, kind: Pod, spec: {{containers: [{{name: a}}], {own}}}}}\n"
    with pytest.raises(BadInput, match=setting.partition(":")[0]):
        KUBE.submit(request(script))
    assert manifest(script.replace(f"{setting}, ", ""))["spec"][kind][0]["image"] == "lab:1"


def test_a_profile_s_own_part_is_laid_over_the_pod() -> None:
    over_it = ("{spec: {priorityClassName: high, enableServiceLinks: null, nodeSelector: {gpu: a100}}}",)
    made = manifest(Renderer().render("kubernetes", replace(SAMPLE, directives=over_it)))
    assert made["spec"]["priorityClassName"] == "high"
    assert made["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "a100", "gpu": "a100"}
    assert "enableServiceLinks" not in made["spec"]
    assert made["spec"]["activeDeadlineSeconds"] == 28800


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "#POD a: [",
        "#POD - a",
        "#POD {apiVersion: v1, kind: Job, spec: {}}",
        "#POD {apiVersion: v1, kind: Pod}",
        "#POD {apiVersion: v1, kind: Pod, spec: {containers: []}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {containers: [a]}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {containers: [{image: -x}]}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {containers: [{image: [a]}]}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {containers: [{name: a}], initContainers: {name: a}}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {containers: [{name: a}], initContainers: [{image: -x}]}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {day: 2026-11-28, containers: [{name: a}]}}",
        "#POD {apiVersion: v1, kind: Pod, spec: {day: .nan, containers: [{name: a}]}}",
        "#POD !!python/object/apply:os.system [id]",
        "echo\n" + POD,
        POD + "#POD-MERGE a b",
        POD + "#POD-MERGE {a: b} {c: d}",
    ],
)
def test_manifests_that_are_none(lines: str) -> None:
    with pytest.raises(BadInput, match=r"#POD|image"):
        KUBE.submit(request(f"#!/bin/bash\n{lines}\n"))


def test_no_image_at_all() -> None:
    empty = Renderer().render("kubernetes", replace(SAMPLE, options={"image": ""}))
    assert manifest(empty)["spec"]["containers"][0]["image"] == "lab:1"
    with pytest.raises(BadInput, match=r"scheduler_options\.image"):
        Kubernetes().submit(request())


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30))
def test_a_form_s_value_is_one_value_or_refused(text: str) -> None:
    """It can neither be another part of the pod, nor a word that the submit's script would fill in with a number of its own."""
    try:
        script = Renderer().render("kubernetes", replace(SAMPLE, options={"image": text}, gpus=0))
        made = manifest(script)
    except (BadInput, TemplateProblem):
        return
    assert made["spec"]["containers"][0]["image"] == (text or "lab:1")
    plain = manifest(Renderer().render("kubernetes", replace(SAMPLE, options={"image": "x"}, gpus=0)))
    plain["spec"]["containers"][0]["image"] = text or "lab:1"
    assert made == plain


# ---------------------------------------------------------------- submits


def test_read_submit() -> None:
    assert (
        KUBE.read_submit(Completed(0, json.dumps(pod(phase="Pending")), "Warning: would violate PodSecurity\n")) == ONE
    )
    with pytest.raises(SubmitRejected, match=r"^the account alice is root"):
        KUBE.read_submit(Completed(77, "", f"{REFUSED}the account alice is root on the login node\n"))
    for reason in ("BadRequest", "Forbidden", "Invalid", "NotFound"):
        with pytest.raises(SubmitRejected, match=r"^exceeded quota: a$"):
            KUBE.read_submit(refusal(reason, "exceeded quota: a"))
    for line in (
        'Error from server: admission webhook "validate.kyverno.svc-fail" denied the request: \n\nresource Pod/batchhub/x was blocked\n',
        'Error from server (Conflict): Operation cannot be fulfilled on resourcequotas "people": the object has been modified\n',
    ):
        with pytest.raises(SubmitRejected, match=r"Pod/batchhub/x was blocked|has been modified"):
            KUBE.read_submit(Completed(1, "", line))
    with pytest.raises(CommandNotFound):
        KUBE.read_submit(Completed(127, "", "/bin/sh: 1: kubectl: not found\n"))
    whole = json.dumps(pod(phase="Pending"))
    for done in (
        refusal("AlreadyExists", 'pods "bh-x" already exists'),
        refusal("Timeout"),
        refusal("Conflict", "the object has been modified"),
        refusal("InternalError", 'failed calling webhook "validate": context deadline exceeded'),
        refusal("TooManyRequests"),
        refusal("Unauthorized"),
        Completed(
            1, "", "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?\n"
        ),
        Completed(1, "", "error: You must be logged in to the server (Unauthorized)\n"),
        Completed(None, whole, timed_out=True),
        Completed(0, whole, truncated=True),
        Completed(0, whole[:-5]),
        Completed(0, "[]"),
        Completed(0, ""),
    ):
        with pytest.raises(SubmitAmbiguous):
            KUBE.read_submit(done)


# ---------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("row", "state", "reason"),
    [
        (
            pod(
                phase="Pending",
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
                ],
            ),
            S.PENDING,
            "Unschedulable: 0/3 nodes",
        ),
        (pod(phase="Pending", spec={"nodeName": None}), S.PENDING, ""),
        (pod(phase="Pending"), S.RUNNING, ""),
        (
            pod(phase="Pending", containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}]),
            S.RUNNING,
            "ContainerCreating",
        ),
        (
            pod(
                phase="Pending",
                containerStatuses=[{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}],
            ),
            S.RUNNING,
            "ImagePullBackOff: Back-off",
        ),
        (
            pod(
                phase="Pending",
                initContainerStatuses=[{"state": {"waiting": {"reason": "ErrImagePull"}}}],
                containerStatuses=[{"state": {"waiting": {"reason": "PodInitializing"}}}],
            ),
            S.RUNNING,
            "ErrImagePull",
        ),
        (pod(phase="Pending", meta={"deletionTimestamp": AT}), S.COMPLETING, ""),
        (pod(), S.RUNNING, ""),
        (pod(podIP=None), S.RUNNING, ""),
        (pod(podIP="evil.example"), S.RUNNING, ""),
        (pod(meta={"deletionTimestamp": AT}), S.COMPLETING, ""),
        (pod(meta={"deletionTimestamp": AT}, conditions=disrupted("PreemptionByScheduler")), S.COMPLETING, ""),
        # Nobody ends it there: it is shown so for as long as the node is away, and its owner is not to wait for that.
        (pod(meta={"deletionTimestamp": AT}, reason="NodeLost"), S.NODE_FAIL, "NodeLost"),
        (
            pod(meta={"deletionTimestamp": AT}, conditions=disrupted("DeletionByTaintManager")),
            S.NODE_FAIL,
            "DeletionByTaintManager",
        ),
        (pod(phase="Succeeded", containerStatuses=over(0, "Completed")), S.COMPLETED, ""),
        (pod(phase="Failed", containerStatuses=over(3)), S.FAILED, "Error"),
        (pod(phase="Failed", containerStatuses=[*over(0, "Completed"), *over(3)]), S.FAILED, "Error"),
        (pod(phase="Failed", initContainerStatuses=over(1, "StartError")), S.FAILED, "StartError"),
        # A process in it ran out of memory, and the container did well all the same (kubernetes/kubernetes#104454).
        (pod(phase="Succeeded", containerStatuses=over(0, "OOMKilled")), S.COMPLETED, ""),
        (pod(phase="Failed", containerStatuses=over(137, "OOMKilled")), S.OUT_OF_MEMORY, "OOMKilled"),
        (
            pod(
                phase="Failed",
                reason="DeadlineExceeded",
                message="Pod was active on the node longer",
                containerStatuses=over(143),
            ),
            S.TIMEOUT,
            "DeadlineExceeded: Pod was active on the node longer",
        ),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on memory."),
            S.FAILED,
            "Evicted: The node was low on memory.",
        ),
        (pod(phase="Failed", conditions=disrupted("PreemptionByScheduler")), S.PREEMPTED, "PreemptionByScheduler"),
        (pod(phase="Failed", conditions=disrupted("EvictionByEvictionAPI")), S.PREEMPTED, "EvictionByEvictionAPI"),
        (pod(phase="Failed", conditions=disrupted("DeletionByTaintManager")), S.NODE_FAIL, "DeletionByTaintManager"),
        (pod(phase="Failed", reason="NodeLost"), S.NODE_FAIL, "NodeLost"),
        (pod(phase="Failed", reason="Terminated", message="node shutdown"), S.NODE_FAIL, "Terminated: node shutdown"),
        (pod(phase="Failed", reason="UnexpectedAdmissionError"), S.FAILED, "UnexpectedAdmissionError"),
        (pod(phase="Unknown"), S.UNKNOWN, ""),
        (pod(phase="Levitating"), S.UNKNOWN, ""),
    ],
)
def test_states(row: dict[str, Any], state: JobState, reason: str) -> None:
    report = KUBE.read_status(listed(row), [ONE]).jobs[ONE]
    assert (report.state, report.reason, report.user) == (state, reason, "alice")


def test_what_is_known_of_a_pod() -> None:
    running = [{"name": "server", "state": {"running": {"startedAt": "2026-11-28T09:00:30Z"}}}]
    report = KUBE.read_status(listed(pod(containerStatuses=running)), [ONE]).jobs[ONE]
    assert (report.host, report.nodes, report.time_limit) == ("10.1.2.3", ("n7",), timedelta(hours=1))
    # Its deadline counts from when the node took it, whenever its image was there, and its start is no other once it runs.
    assert report.started == datetime(2026, 11, 28, 9, tzinfo=UTC)
    assert report.submitted == datetime(2026, 11, 28, 9, tzinfo=UTC)
    killed = KUBE.read_status(listed(pod(phase="Failed", containerStatuses=over(137))), [ONE]).jobs[ONE]
    assert (killed.exit_code, killed.signal, killed.ended) == (None, 9, datetime(2026, 11, 28, 10, tzinfo=UTC))
    odd = pod(
        phase="Failed",
        meta={"creationTimestamp": "2026", "annotations": "x"},
        spec={"activeDeadlineSeconds": "60"},
        startTime="2026-11-28T09:00:00",
        containerStatuses=[7, {"state": {"terminated": {"exitCode": "3"}}}],
        conditions="none",
    )
    report = KUBE.read_status(listed(odd), [ONE]).jobs[ONE]
    assert (report.submitted, report.started, report.time_limit, report.exit_code) == (None, None, None, None)
    assert report.user == ""


def test_what_never_comes_up_is_given_up_and_says_why() -> None:
    """An image that cannot be had, a home that cannot be mounted: on a node for ever, as far as Kubernetes is concerned."""
    row, at = ROW, BEGAN
    waiting = [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}]
    for containers, word in ((waiting, "ImagePullBackOff: Back-off pulling image"), ([], "")):
        taken = pod(phase="Pending", startTime=AT, containerStatuses=containers)
        report = KUBE.read_status(listed(taken), [ONE]).jobs[ONE]
        seen = Observation(Truth.SEEN, at, report)
        limits = Limits(start_timeout=timedelta(minutes=5))
        assert describe(row, seen, None, at).detail == word
        assert step(row, seen, at + timedelta(minutes=4), limits)[1].saw is Sight.RUNNING
        after, decision = step(row, seen, at + timedelta(minutes=6), limits)
        assert decision.give_up
        assert after.words.endswith(f"What held it up: {word}" if word else "the job was cancelled.")


def test_a_pod_on_a_lost_node_has_its_time_to_end_and_no_more() -> None:
    away = pod(meta={"deletionTimestamp": AT}, conditions=disrupted("DeletionByTaintManager"))
    report = KUBE.read_status(listed(away), [ONE]).jobs[ONE]
    row, at = replace(ROW, phase=Phase.STOPPING), BEGAN
    seen = Observation(Truth.SEEN, at, report)
    limits = Limits(requeue_grace=timedelta(seconds=60))
    assert step(row, seen, at + timedelta(seconds=59), limits)[1].saw is Sight.ENDING
    after, decision = step(row, seen, at + timedelta(seconds=61), limits)
    assert (decision.saw, after.outcome) == (Sight.FINISHED, Outcome.NODE_FAILURE)


def test_a_pod_that_a_whole_list_does_not_hold_is_missing() -> None:
    """No more: a list says nothing of a pod in so many words, and one damaged letter of a name would end somebody's server."""
    listing = KUBE.read_status(listed(pod(), pod("other")), [ONE, TWO])
    assert (set(listing.jobs), listing.gone, listing.unread) == ({ONE}, frozenset(), frozenset())
    assert KUBE.read_status(listed(), [ONE]) == Listing({})
    spoiled = KUBE.read_status(listed(pod(), {"metadata": {}}), [ONE, TWO])
    assert (set(spoiled.jobs), spoiled.gone, spoiled.unread) == ({ONE}, frozenset(), {TWO})
    assert len(spoiled.bad_rows) == 1


@pytest.mark.parametrize(
    "done",
    [
        listed(pod(), **{"continue": "abc"}),
        listed(resourceVersion=""),
        Completed(0, listed(pod()).out[:-2]),
        Completed(0, ""),
        Completed(0, "null"),
        Completed(0, "[1]"),
        Completed(0, listed(pod()).out.replace("PodList", "NodeList")),
        Completed(0, listed(pod()).out.replace('"v1"', '"v2"')),
        Completed(0, '{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": null}'),
        Completed(0, listed(pod()).out, truncated=True),
        Completed(None, listed(pod()).out, timed_out=True),
        Completed(1, listed(pod()).out, ""),
        refusal("Forbidden", "pods is forbidden"),
        refusal("NotFound", "the server could not find the requested resource"),
        Completed(1, "", "Unable to connect to the server: dial tcp: lookup api: no such host\n"),
        Completed(1, "", 'error: context "prod" does not exist\n'),
    ],
)  # fmt: skip
def test_what_is_not_an_answer(done: Completed) -> None:
    with pytest.raises(Unreachable):
        KUBE.read_status(done, [ONE])
    with pytest.raises(Unreachable):
        KUBE.read_find(done)
    with pytest.raises(Unreachable):
        KUBE.read_tagged(done, "bh-")


def test_find_and_tagged() -> None:
    (found,) = KUBE.read_find(listed(pod()))
    assert found.id == ONE
    assert KUBE.read_find(listed()) == ()
    with pytest.raises(Unreachable):
        KUBE.read_find(listed({"metadata": {"name": ONE}}))
    whole = listed(
        pod(), pod("other"), pod(TWO, "Succeeded"), pod("bh-nobodys", meta={"annotations": None}), {"metadata": {}}
    )
    assert [one.id for one in KUBE.read_tagged(whole, "bh-")] == [ONE]
    assert KUBE.read_accounting(whole, [TWO])[TWO].state is S.COMPLETED


def test_cancel() -> None:
    KUBE.read_cancel(Completed(0, json.dumps(pod())))
    KUBE.read_cancel(refusal("NotFound", f'pods "{ONE}" not found'))
    with pytest.raises(Denied):
        KUBE.read_cancel(refusal("Forbidden", "pods is forbidden"))
    for done in (refusal("InternalError"), Completed(None, timed_out=True), Completed(1, "", "connection refused\n")):
        with pytest.raises(Unreachable):
            KUBE.read_cancel(done)


def test_the_largest_node() -> None:
    def nodes(*rows: Any) -> Completed:
        return Completed(
            0, json.dumps({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": rows})
        )

    big = {"status": {"allocatable": {"cpu": "31850m", "memory": "131072000Ki", "nvidia.com/gpu": "4"}}}
    small = {"status": {"allocatable": {"cpu": "8", "memory": "16Gi"}}}
    away = {"spec": {"unschedulable": True}, "status": {"allocatable": {"cpu": "128", "memory": "1Ti"}}}
    expected = QueueInfo("kubernetes", default=True, max_cores=31, max_memory_mib=128000, max_gpus=4, nodes=2)
    assert KUBE.read_inspect([nodes(big, small, away)]) == (expected,)
    unknown = QueueInfo("kubernetes", default=True)
    assert KUBE.read_inspect([nodes(away)]) == (unknown,)
    assert KUBE.read_inspect([refusal("Forbidden", "nodes is forbidden")]) == (unknown,)
    for done in ([], [refusal("InternalError")], [listed()]):
        with pytest.raises(Unreachable):
            KUBE.read_inspect(done)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4),
        ("3920m", 3.92),
        ("1.5", 1.5),
        ("2Ki", 2048),
        ("3M", 3e6),
        ("1e3", None),
        ("", None),
        (4, None),
        ("-1", None),
    ],
)
def test_quantities(text: object, number: float | None) -> None:
    assert quantity(text) == number
