"""From sign-in to an application in a container and in a pod, and back, by real hub, proxy, SSH and kubectl, with fakesched's engine and API.

``tests/engines`` is about the real engines. What is at stake here: the service alone speaks to engine and API, and one that is away changes nothing.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.parts import wait_until
from tests.e2e.small_site import SECONDS, SmallSite, server_of, small_site
from tests.e2e.test_fakesched import ADA, Program
from tests.fakesched.engine import Cluster
from tests.fakesched.kube_api import KubeApi
from tests.fakesched.store import FINAL
from tests.needs import need_program


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """A Kubernetes with pods of its own."""
    need_program("kubectl", "kubernetes-client")
    path = tmp_path_factory.mktemp("kube") / "pods"
    cluster = Cluster(path).create({"nodes": {"n1": {"cores": 6}}, "users": [ADA], "kill_wait": 0.3})
    made = KubeApi(cluster).start()
    yield made
    made.stop()
    cluster.shutdown()


@pytest.fixture(scope="module")
def site(api: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSite]:
    """One hub, an engine and Kubernetes."""
    kubectl = need_program("kubectl", "kubernetes-client")
    pods = {
        "image": "lab:1",
        "kubectl": kubectl,
        "kubeconfig": str(api.kubeconfig),
        "context": "fake",
        "status_deadline": 5.0,
    }
    with small_site(
        "docker",
        tmp_path_factory.mktemp("boxes"),
        options={"image": "lab:1", "status_deadline": 5.0},
        beside={"kubernetes": pods},
    ) as site:
        site.hub.start()
        yield site


@pytest.fixture(scope="module")
def ada(site: SmallSite) -> Program:
    """Signed in."""
    return Program(site.hub, ADA)


def verbs(site: SmallSite) -> Counter[str]:
    """What was asked of the engine, and that nobody but the service asked."""
    calls = [call for call in site.cluster.calls() if call.command != "id"]
    assert {call.user for call in calls} == {"nosuch-hub"}
    return Counter(call.argv[1] if call.argv[0] == "container" else call.argv[0] for call in calls)


@contextlib.contextmanager
def started(site: SmallSite, ada: Program, cluster: Cluster, profile: str) -> Iterator[Callable[[], None]]:
    """Her server by this profile; what is called within it sees that she is still let in. Afterwards it is stopped, and its job gone."""

    def live() -> list[object]:
        return [job for job in cluster.jobs() if job.user == ADA and job.state not in FINAL]

    assert ada.start(profile=profile, cores="1").status_code in {201, 202}
    ada.until("ready")
    (job,) = live()
    pid = site.entered(ada)
    for secret in Path(site.login.home(ADA), ".batchhub/jobs").glob("*/token"):
        assert secret.read_text().strip() not in repr(job) + site.hub.logs()

    def still() -> None:
        assert server_of(ada)["phase"] == "ready"
        assert site.entered(ada) == pid

    yield still
    ada.stop()
    wait_until(lambda: not live(), SECONDS, f"its job ends\n{site.hub.logs()}")
    assert ada.until("ended")["outcome"] == "stopped"


def test_a_container(site: SmallSite, ada: Program) -> None:
    with started(site, ada, site.cluster, "small") as still:
        site.cluster.fault("down")
        before = verbs(site)["inspect"]
        wait_until(lambda: verbs(site)["inspect"] > before, SECONDS, "the engine is asked again")
        still()
        site.cluster.clear_faults()
    asked = verbs(site)
    assert (asked["create"], asked["start"], asked["stop"] >= 1) == (1, 1, True)


def test_a_pod(site: SmallSite, ada: Program, api: KubeApi) -> None:
    api.tell(quota="people, used: pods=9, limited: pods=9")
    ada.start(profile="kubernetes", cores="1")  # answered when the submit is, or before
    assert ada.until("ended")["outcome"] == "refused"
    assert "exceeded quota: people" in ada.ending()
    api.tell()
    with started(site, ada, api.cluster, "kubernetes") as still:
        api.tell(status=503, reason="ServiceUnavailable", message="apiserver not ready")
        before = len(api.requests())
        wait_until(lambda: len(api.requests()) > before, SECONDS, "the API is asked again")
        still()
        api.tell()
    asked = Counter(method for method, _ in api.requests())
    assert (asked["POST"], asked["DELETE"] >= 1) == (2, True)
    assert all("fieldSelector" in path for method, path in api.requests() if method == "GET"), "never all of the past"
