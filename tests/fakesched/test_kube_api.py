"""The Kubernetes dialect by the real ``kubectl``, against the fake API."""

import subprocess
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from batchhub.core.errors import CommandNotFound, Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobState
from batchhub.core.ports import Completed, JobRequest
from batchhub.job.render import SAMPLE, Renderer
from batchhub.schedulers.kubernetes import Kubernetes
from tests.fakesched.engine import Cluster
from tests.fakesched.kube_api import KubeApi
from tests.needs import need_program

NEVER = JobId("bh-neverneverxx")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    kubectl = need_program("kubectl", "kubernetes-client")
    path = tmp_path_factory.mktemp("kube")
    cluster = Cluster(path / "cluster").create({"nodes": {"n1": {"cores": 8}}, "users": ["ann"], "kill_wait": 0.3})
    api = KubeApi(cluster).start()
    dialect = Kubernetes(image="lab:1", kubeconfig=str(api.kubeconfig), context="fake", kubectl=kubectl)

    def run(command):
        # Nothing of this machine's: neither somebody's kubeconfig nor a cache in a home.
        env = cluster.environment("kubernetes", "hub") | {"HOME": str(path / "home"), **command.env}
        done = subprocess.run(
            command.argv, input=command.stdin, capture_output=True, text=True, env=env, timeout=60, check=False
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    yield cluster, api, dialect, run
    api.stop()
    cluster.shutdown()


@pytest.fixture
def asked(site, tmp_path):
    """Makes a request for a pod whose script is ``body``, by the template."""
    site[1].tell()

    def make(name, body="sleep 600", **changes):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        context = replace(
            SAMPLE, job_name=name, directory=str(directory), homedir=str(tmp_path), username="ann", command=body, gpus=0
        )
        script = Renderer().render("kubernetes", replace(context, **changes))
        (directory / "job.sh").write_text(script)
        return JobRequest(name, str(directory), script, "ann")

    return make


def seen(site, job):
    _, _, dialect, run = site
    return dialect.read_status(run(dialect.status([job])), [job])


def until(site, job, *states):
    end = time.monotonic() + 60
    while True:
        report = seen(site, job).jobs[job]
        if report.state in states:
            return report
        assert time.monotonic() < end, report
        time.sleep(0.05)


def test_the_life_of_a_pod(site, asked) -> None:
    cluster, api, dialect, run = site
    request = asked("bh-aaaaaaaaaaaa")
    job = dialect.read_submit(run(dialect.submit(request)))
    assert job == "bh-aaaaaaaaaaaa"
    report = until(site, job, JobState.RUNNING)
    assert (report.user, report.host, report.time_limit) == ("ann", "127.0.0.1", timedelta(hours=8))
    listing = dialect.read_status(run(dialect.status([job, NEVER])), [job, NEVER])
    assert listing.jobs.keys() == {job}
    assert [pod.id for pod in dialect.read_find(run(dialect.find(job, "ann")))] == [job]
    assert dialect.read_find(run(dialect.find(NEVER, "ann"))) == ()
    assert [pod.id for pod in dialect.read_tagged(run(dialect.tagged("bh-")), "bh-")] == [job]
    (kept,) = [one for one in cluster.jobs() if one.name == job]
    security = kept.pod["spec"]["securityContext"]
    assert security == {"runAsUser": 20000, "runAsGroup": 20000, "runAsNonRoot": True, "supplementalGroups": [20000]}
    with pytest.raises(SubmitAmbiguous, match="already exists"):
        dialect.read_submit(run(dialect.submit(request)))
    (queue,) = dialect.read_inspect([run(command) for command in dialect.inspect()])
    assert (queue.max_cores, queue.max_memory_mib) == (8, 16000)
    for command in dialect.cancel([NEVER, job]):
        dialect.read_cancel(run(command))
    end = time.monotonic() + 60
    while seen(site, job).jobs:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert {method for method, _ in api.requests()} == {"GET", "POST", "DELETE"}


def test_ends(site, asked) -> None:
    _, _, dialect, run = site
    for name, body, seconds, state, code in (
        ("bh-baaaaaaaaaaa", "exit 3", 60, JobState.FAILED, 3),
        ("bh-caaaaaaaaaaa", "sleep 600", 1, JobState.TIMEOUT, 124),
    ):
        request = asked(name, f"sh -c '{body}'", walltime=timedelta(seconds=seconds))
        job = dialect.read_submit(run(dialect.submit(request)))
        report = until(site, job, state)
        assert report.exit_code == code
        assert report.ended is not None
        assert not dialect.read_status(run(dialect.status([job, NEVER])), [job, NEVER]).jobs, "asked for alone"


def test_refusals_carry_kubernetes_words_and_leave_nothing(site, asked) -> None:
    _, api, dialect, run = site
    request = asked("bh-daaaaaaaaaaa")
    misspelt = replace(request, script=request.script.replace("enableServiceLinks", "enableServicelinks"))
    with pytest.raises(SubmitRejected, match="strict decoding error: unknown field"):
        dialect.read_submit(run(dialect.submit(misspelt)))
    api.tell(quota="batch, used: pods=10, limited: pods=10")
    with pytest.raises(SubmitRejected, match="exceeded quota: batch"):
        dialect.read_submit(run(dialect.submit(request)))
    api.tell()
    with pytest.raises(SubmitRejected, match="is root"):
        dialect.read_submit(run(dialect.submit(replace(request, user="root"))))
    other = replace(dialect, namespace="other")
    with pytest.raises(SubmitRejected, match=r'namespaces "other" not found'):
        other.read_submit(run(other.submit(request)))
    assert dialect.read_find(run(dialect.find(request.name, "ann"))) == ()


def test_a_quota_that_is_written_by_several_is_tried_again(site, asked) -> None:
    _, api, dialect, run = site
    api.tell(conflicts=1)
    request = asked("bh-iaaaaaaaaaaa")
    assert dialect.read_submit(run(dialect.submit(request))) == request.name
    dialect.read_cancel(run(dialect.cancel([JobId(request.name)])[0]))


def test_an_image_that_cannot_be_had_is_a_start_that_does_not_end(site, asked) -> None:
    _, api, dialect, run = site
    api.tell(missing_images=["nosuch:1"])
    request = asked("bh-eaaaaaaaaaaa", options={"image": "nosuch:1"})
    job = dialect.read_submit(run(dialect.submit(request)))
    report = seen(site, job).jobs[job]
    assert (report.state, report.reason) == (JobState.RUNNING, "ImagePullBackOff: Back-off pulling image")
    assert (report.host, report.started is None) == ("", False)
    for command in dialect.cancel([job]):
        dialect.read_cancel(run(command))


def test_faults_say_nothing_of_any_pod(site, asked) -> None:
    _, api, dialect, run = site
    request = asked("bh-faaaaaaaaaaa")
    faults = [
        {"status": 503, "reason": "ServiceUnavailable", "message": "apiserver not ready"},
        {"status": 429, "reason": "TooManyRequests", "message": "too many"},
        {"status": 401, "reason": "Unauthorized", "message": "Unauthorized"},
        {"cut": 40},
        {"more": True},
    ]
    for fault in faults:
        api.tell(**fault)
        with pytest.raises(Unreachable):
            seen(site, NEVER)
        if "status" in fault and fault["status"] != 429:  # which kubectl itself tries again
            with pytest.raises(SubmitAmbiguous):
                dialect.read_submit(run(dialect.submit(request)))
            with pytest.raises(Unreachable):
                dialect.read_cancel(run(dialect.cancel([NEVER])[0]))
    api.tell(status=403, reason="Forbidden", message="pods is forbidden")
    with pytest.raises(Unreachable):
        seen(site, NEVER)
    with pytest.raises(Denied):
        dialect.read_cancel(run(dialect.cancel([NEVER])[0]))
    assert dialect.read_inspect([run(dialect.inspect()[0])])[0].max_cores is None
    api.tell()
    away = replace(dialect, kubeconfig="/nosuch/kubeconfig")
    with pytest.raises(Unreachable):
        away.read_status(run(away.status([NEVER])), [NEVER])
    missing = replace(dialect, kubectl="/nosuch/kubectl")
    with pytest.raises(CommandNotFound):
        missing.read_status(run_missing(missing), [NEVER])


def run_missing(dialect):
    """As the transport's shell would."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@"', "sh", *dialect.status([NEVER]).argv], capture_output=True, text=True, check=False
    )
    return Completed(done.returncode, done.stdout, done.stderr)


def test_pods_that_ended_long_ago_are_removed_now_and_then(site, asked) -> None:
    cluster, api, dialect, run = site
    end = time.monotonic() + 60
    job = dialect.read_submit(run(dialect.submit(asked("bh-gaaaaaaaaaaa", "true"))))
    until(site, job, JobState.COMPLETED)
    with cluster.store.locked() as session:
        (record,) = session.by_name(job)
        session.put({**record, "made": record["submit"] - 169 * 3600})
    while not (lists := [path for _, path in api.requests() if "Pending" in path]):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(lists) == 1, "for all the submits so far"
    api.kubeconfig.parents[1].joinpath("home/.batchhub/cleaned.batchhub").unlink()
    live = dialect.read_submit(run(dialect.submit(asked("bh-haaaaaaaaaaa"))))
    while job in seen(site, job).jobs:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert live in seen(site, live).jobs
