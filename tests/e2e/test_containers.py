"""From sign-in to an application in a container or pod and back, by real hub, proxy, SSH and kubectl, with fakesched's engine and API.

``tests/engines`` is about the real engines. What is at stake here: the service alone speaks to the engine, and one that is away changes nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.e2e.parts import wait_until
from tests.e2e.small_site import SECONDS, SmallSite, server_of, small_site
from tests.e2e.test_fakesched import ADA, Program
from tests.fakesched.kube_api import KubeApi
from tests.needs import need_program


def verbs(site: SmallSite) -> Counter[str]:
    """What was asked of the engine, and that nobody but the service asked."""
    calls = [call for call in site.cluster.calls() if call.command != "id"]
    assert {call.user for call in calls} == {"nosuch-hub"}
    return Counter(call.argv[1] if call.argv[0] == "container" else call.argv[0] for call in calls)


def test_from_sign_in_to_an_application_and_back(tmp_path: Path) -> None:
    with small_site("docker", tmp_path, options={"image": "lab:1", "status_deadline": 5.0}) as site:
        site.hub.start()
        ada = Program(site.hub, ADA)
        assert ada.start(cores="1").status_code in {201, 202}
        ada.until("ready")
        (job,) = site.live()
        pid = site.entered(ada)
        for secret in Path(site.login.home(ADA), ".batchhub/jobs").glob("*/token"):
            assert secret.read_text().strip() not in repr(job) + site.hub.logs()
        # The daemon is away: nobody's server ends of that, and its notebook goes on.
        site.cluster.fault("down")
        before = verbs(site)["inspect"]
        wait_until(lambda: verbs(site)["inspect"] > before + 1, SECONDS, "the engine is asked again")
        assert server_of(ada)["phase"] == "ready"
        assert site.entered(ada) == pid
        site.cluster.clear_faults()
        ada.stop()
        wait_until(lambda: not site.live(), SECONDS, f"its container ends\n{site.hub.logs()}")
        assert ada.until("ended")["outcome"] == "stopped"
        asked = verbs(site)
        assert (asked["create"], asked["start"]) == (1, 1)
        assert asked["stop"] >= 1


def test_from_sign_in_to_a_pod_and_back(tmp_path: Path) -> None:
    kubectl = need_program("kubectl", "kubernetes-client")
    options = {
        "image": "lab:1",
        "kubectl": kubectl,
        "kubeconfig": str(tmp_path / "cluster/kubeconfig"),
        "context": "fake",
        "status_deadline": 5.0,
    }
    with small_site("kubernetes", tmp_path, options=options) as site:
        api = KubeApi(site.cluster).start()
        try:
            api.tell(quota="people, used: pods=9, limited: pods=9")
            site.hub.start()
            ada = Program(site.hub, ADA)
            refused = ada.start(cores="1")
            assert "exceeded quota: people" in refused.text + str(server_of(ada))
            assert not site.live()
            api.tell()
            assert ada.start(cores="1").status_code in {201, 202}
            ada.until("ready")
            (job,) = site.live()
            pid = site.entered(ada)
            for secret in Path(site.login.home(ADA), ".batchhub/jobs").glob("*/token"):
                assert secret.read_text().strip() not in repr(job) + site.hub.logs()
            # The API is away: nobody's server ends of that, and its notebook goes on.
            api.tell(status=503, reason="ServiceUnavailable", message="apiserver not ready")
            before = len(api.requests())
            wait_until(lambda: len(api.requests()) > before + 1, SECONDS, "the API is asked again")
            assert server_of(ada)["phase"] == "ready"
            assert site.entered(ada) == pid
            api.tell()
            ada.stop()
            wait_until(lambda: not site.live(), SECONDS, f"its pod ends\n{site.hub.logs()}")
            assert ada.until("ended")["outcome"] == "stopped"
            asked = Counter(method for method, _ in api.requests())
            assert (asked["POST"], asked["DELETE"] >= 1) == (2, True)
            lists = {path for method, path in api.requests() if method == "GET" and "fieldSelector" not in path}
            assert len(lists) == 1, "one question for everybody's servers"
        finally:
            api.stop()
