"""The part of Kubernetes' API that ``kubectl`` and the dialect use, on the fake cluster's engine: a program for loopback.

    api = KubeApi(cluster).start()           # api.kubeconfig is for kubectl --kubeconfig
    api.tell(status=503); api.tell(); api.stop()

A pod is a job that takes no core; its container's command runs on this machine as it is: there is no image, nothing is mounted or confined. Answers are
made as the API documents them (kubernetes.io/docs/reference/kubernetes-api): PodList with resourceVersion, Status objects for refusals, discovery.
``kube.json`` says what is to go wrong; :meth:`KubeApi.tell` writes it.
"""

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path

from tests.fakesched import container, life
from tests.fakesched.store import FINAL, Store, now

NAMESPACE = "batchhub"
PHASES = {"PENDING": "Pending", "COMPLETED": "Succeeded"}
REASONS = {"TIMEOUT": "DeadlineExceeded", "NODE_FAIL": "NodeLost", "PREEMPTED": "Evicted"}
POD_FIELDS = {
    "volumes", "containers", "restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "nodeSelector", "tolerations", "hostNetwork",
    "automountServiceAccountToken", "securityContext", "enableServiceLinks", "priorityClassName", "runtimeClassName", "nodeName", "affinity",
}  # fmt: skip
RESOURCES = [
    {
        "name": "pods",
        "singularName": "pod",
        "namespaced": True,
        "kind": "Pod",
        "verbs": ["create", "delete", "get", "list"],
        "shortNames": ["po"],
    }
]


class KubeApi:
    """The test's side: a process of its own, told of faults by a file."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.file = Path(cluster.path) / "kube.json"
        self.process = None

    def start(self):
        self.tell()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakesched.kube_api", str(self.cluster.path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        port = int(self.process.stdout.readline())
        self.kubeconfig = Path(self.cluster.path) / "kubeconfig"
        entry = {"cluster": {"server": f"http://127.0.0.1:{port}"}, "name": "fake"}
        context = {"context": {"cluster": "fake", "user": "hub", "namespace": NAMESPACE}, "name": "fake"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [entry],
            "contexts": [context],
            "current-context": "fake",
        }
        self.kubeconfig.write_text(json.dumps({**config, "users": [{"name": "hub", "user": {}}]}))
        return self

    def tell(self, **what):
        """``status``, ``text``, ``cut``, ``hang``, ``conflicts``; ``conditions``: pod name -> status fields."""
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(what))
        part.replace(self.file)

    def requests(self):
        """(method, path) of every request that was about pods, oldest first."""
        return [tuple(call["argv"]) for call in self.cluster.store.calls() if call["command"] == "kube-api"]

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
            self.process.stdout.close()


class Api(http.server.BaseHTTPRequestHandler):
    """One request. A single thread: jobs are forked off it."""

    def handle_one(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = self.body()
        told = json.loads((Path(self.server.store.path) / "kube.json").read_text())
        found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+))?", url.path)
        if found:
            self.server.store.log_call(
                {
                    "id": f"{time.monotonic_ns()}",
                    "command": "kube-api",
                    "argv": [self.command, self.path],
                    "user": "",
                    "time": now(),
                }
            )
        if "hang" in told:
            time.sleep(60)
        if "status" in told and url.path != "/version":
            return self.refuse(
                told["status"], told.get("reason", "InternalError"), told.get("message", "an error on the server")
            )
        if found is None:
            return self.elsewhere(url.path)
        namespace, name = found.groups()
        self.told = told
        if self.command == "POST":
            return self.create(namespace, body, query)
        if self.command == "DELETE":
            return self.delete(name)
        return self.one(name) if name else self.list(query)

    do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - names of http.server

    def body(self):
        """kubectl sends a manifest from its input in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # ------------------------------------------------------------ answers

    def answer(self, value, status=200, cut=None):
        text = json.dumps(value).encode()
        text = text[:cut] if cut is not None else text
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, status, reason, message):
        self.answer(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": status,
            },
            status,
        )

    def elsewhere(self, path):
        resources = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": RESOURCES}
        node = next(iter(self.server.store.config["nodes"].values()))
        has = {"cpu": str(node["cores"]), "memory": f"{node['memory']}Mi", "pods": "110"}
        nodes = {
            "kind": "NodeList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": "7"},
            "items": [{"spec": {}, "status": {"allocatable": has}}],
        }
        known = {
            "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.4"},
            "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": resources,
            "/api/v1/nodes": nodes,
        }
        if path in known:
            return self.answer(known[path])
        return self.refuse(404, "NotFound", "the server could not find the requested resource")

    # ------------------------------------------------------------ pods

    def create(self, namespace, body, query):
        try:
            pod = json.loads(body)
        except ValueError:
            return self.refuse(400, "BadRequest", "the object provided is unrecognized (must be of type Pod)")
        spec, metadata = pod.get("spec", {}), pod.get("metadata", {})
        if namespace != NAMESPACE:
            return self.refuse(404, "NotFound", f'namespaces "{namespace}" not found')
        unknown = set(spec) - POD_FIELDS
        if unknown and query.get("fieldValidation") == "Strict":
            return self.refuse(
                400,
                "BadRequest",
                f'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.{min(unknown)}"',
            )
        security = spec.get("securityContext", {})
        numbers = [security.get("runAsUser"), security.get("runAsGroup"), *security.get("supplementalGroups", [])]
        if not all(type(number) is int and number > 0 for number in numbers):
            return self.refuse(
                400, "BadRequest", f"json: cannot unmarshal into Go struct field PodSecurityContext: {numbers}"
            )
        name = metadata["name"]
        image = spec["containers"][0].get("image")
        if not image:
            return self.refuse(422, "Invalid", f'Pod "{name}" is invalid: spec.containers[0].image: Required value')
        config = self.server.store.config
        if "quota" in self.told:
            return self.refuse(403, "Forbidden", f'pods "{name}" is forbidden: exceeded quota: {self.told["quota"]}')
        if self.server.conflicts < self.told.get("conflicts", 0):
            self.server.conflicts += 1
            words = 'Operation cannot be fulfilled on resourcequotas "people": the object has been modified; please apply your changes to the latest version and try again'
            return self.refuse(409, "Conflict", words)
        uid = numbers[0] - container.FIRST_UID
        with self.server.store.locked() as session:
            if session.by_name(name):
                return self.refuse(409, "AlreadyExists", f'pods "{name}" already exists')
            limit = spec.get("activeDeadlineSeconds")
            record = life.new_job(
                name=name, cores=0, partition=config["partitions"][0]["name"], pod=pod, limit=limit, command=spec["containers"][0]["command"],
                user=config["users"][uid] if 0 <= uid < len(config["users"]) else str(numbers[0]), uid=os.getuid(), gid=os.getgid(), cwd="/",
            )  # fmt: skip
            if image in self.told.get("missing_images", []):
                record["held"] = "image"
            job = life.submit(self.server.store, session, record, b"", {})
        life.detach(self.server.store, job["seq"], sys.modules[__name__])
        return self.answer(self.shown(job), 201)

    def list(self, query):
        with self.server.store.locked() as session:
            life.schedule(self.server.store, session)
            jobs = session.jobs()
        items = [self.shown(job) for job in jobs if not job.get("removed")]
        key, _, value = query.get("labelSelector", "").partition("=")
        items = [pod for pod in items if not key or pod["metadata"]["labels"].get(key) == value]
        for part in filter(None, query.get("fieldSelector", "").split(",")):
            path, unlike, value = re.fullmatch(r"([a-z.]+)(!?=)(.*)", part).groups()
            first, second = path.split(".")
            items = [pod for pod in items if (pod[first].get(second) == value) == (unlike == "=")]
        found = {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(int(now() * 1000))},
            "items": items,
        }
        if self.told.get("more"):
            found["metadata"]["continue"] = "abc"
        self.answer(found, cut=self.told.get("cut"))

    def named(self, name):
        with self.server.store.locked() as session:
            return next((job for job in session.by_name(name) if not job.get("removed")), None)

    def one(self, name):
        job = self.named(name)
        return self.refuse(404, "NotFound", f'pods "{name}" not found') if job is None else self.answer(self.shown(job))

    def delete(self, name):
        """A live pod is asked to end and is gone when it has; an ended one is gone at once."""
        job = self.named(name)
        if job is None:
            return self.refuse(404, "NotFound", f'pods "{name}" not found')
        with self.server.store.locked() as session:
            if job["state"] in FINAL:
                session.drop(job["seq"])
            else:
                record = session.get(job["seq"])
                record["deleted"] = now()
                session.put(record)
                life.order(self.server.store, session, record, "cancel")
        return self.answer(self.shown(job))

    def shown(self, job):
        """The pod with its status. One that was deleted and has ended is there no more: its row goes with the next look."""
        pod, state = job["pod"], job["state"]
        if job.get("deleted") and state in FINAL:
            with self.server.store.locked() as session:
                session.drop(job["seq"])
        phase = PHASES.get(state, "Failed" if state in FINAL else "Running")
        metadata = {
            **pod["metadata"],
            "namespace": NAMESPACE,
            "uid": f"0-{job['seq']}",
            "creationTimestamp": _time(job.get("made") or job["submit"]),
        }
        if job.get("deleted"):
            metadata["deletionTimestamp"] = _time(job["deleted"])
        status = {"phase": phase}
        if state == "PENDING" and job["held"] == "image":
            status |= {"conditions": [{"type": "PodScheduled", "status": "True"}], "startTime": _time(job["submit"])}
            pod = {**pod, "spec": {**pod["spec"], "nodeName": "n1"}}
            waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
            status["containerStatuses"] = [{"name": "server", "state": {"waiting": waiting}}]
        elif state == "PENDING":
            message = "0/3 nodes are available: 3 Insufficient cpu."
            status["conditions"] = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            ]
        else:
            status |= {"startTime": _time(job["start"]), "podIP": "127.0.0.1", "hostIP": "127.0.0.1"}
        if phase == "Running":
            status["containerStatuses"] = [{"name": "server", "state": {"running": {"startedAt": _time(job["start"])}}}]
        if state in FINAL and job["start"]:
            code = (
                container.CODES.get(state)
                if state not in {"FAILED", "COMPLETED"}
                else job["exit_code"] or (128 + job["exit_signal"] if job["exit_signal"] else 0)
            )
            over = {"exitCode": code or 0, "startedAt": _time(job["start"]), "finishedAt": _time(job["end"])}
            over["reason"] = (
                "OOMKilled" if state == "OUT_OF_MEMORY" else "Completed" if phase == "Succeeded" else "Error"
            )
            status["containerStatuses"] = [{"name": "server", "state": {"terminated": over}}]
            if state in REASONS:
                status["reason"] = REASONS[state]
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": {**pod["spec"], "nodeName": "n1"} if job["start"] else pod["spec"],
            "status": status,
        }

    def log_message(self, *args):
        """Silence."""


def _time(seconds):
    return None if not seconds else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------- the engine's dialect

plan, after_run = container.plan, container.after_run


def main(path):
    with http.server.HTTPServer(("127.0.0.1", 0), Api) as server, contextlib.suppress(KeyboardInterrupt):
        server.store, server.conflicts = Store(path), 0
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
