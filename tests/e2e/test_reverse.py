"""From the form to a kernel on a node that nobody can reach: its job dials in at the proxy."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.e2e.parts import HubUnderTest, Person, browser, jupyter_for_everybody, python_config, wait_until
from tests.lab.cluster import SlurmLab
from tests.lab.network import blocked, way_out

pytestmark = [pytest.mark.cluster, pytest.mark.browser, pytest.mark.sshd]


@pytest.fixture
def site(slurm_lab: SlurmLab, tmp_path: Path) -> Iterator[tuple[HubUnderTest, SlurmLab]]:
    """A hub that reaches the login node's sshd, and one node that reaches the hub and is reached by nobody."""
    lab, node = slurm_lab, slurm_lab.nodes[0]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with way_out(lab, node) as address, blocked(lab, node):
        cluster = {
            "title": "Test cluster",
            "transport": "ssh",
            "tunnel": "reverse",
            "reverse_host": address,
            "prologue": f"export PATH={jupyter_for_everybody()}:$PATH",
            "ssh": lab.way_in(tmp_path, "alice"),
        }
        fields = {"partition": {}, "cores": {"max": 16}, "memory": {"default": "300M", "min": 64}, "walltime": {}}
        config = python_config(
            {
                "BatchHub.authenticator_class": "pam",
                "PAMAuthenticator.allowed_users": {"alice"},
                "BatchHub.clusters": {"hpc": cluster},
                "BatchHub.profiles": [
                    {"name": "lab", "title": "JupyterLab", "fields": fields, "directives": [f"-w {node}"]}
                ],
                "Proxy.reverse_port": port,
                "Proxy.workers": 2,
            }
        )
        hub = HubUnderTest(tmp_path, config, prefix=lab.in_hub_namespace([]), host=lab.hub_host)
        try:
            hub.start()
            yield hub, lab
        finally:
            hub.stop()
            lab.cancel_all()


def restart_proxy(hub: HubUnderTest) -> None:
    process = hub._processes.pop("proxy")
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)
    hub.start()


def ask(hub: HubUnderTest, cookies: dict[str, str]) -> int:
    """A request to the notebook, on a connection of its own."""
    return requests.get(f"{hub.url}/user/alice/api", cookies=cookies, timeout=120).status_code


def test_from_the_form_to_a_kernel(site) -> None:
    hub, lab = site
    with browser() as chromium:
        alice = Person(chromium, hub)
        alice.sign_in("alice", lab.password["alice"])
        alice.open_form()
        alice.submit(walltime="20m")
        alice.see_lab()
        alice.new_notebook()
        alice.compute("import socket; print(40 + 2, socket.gethostname())", f"42 {lab.nodes[0]}")

        name = lab.admin("squeue", "-h", "-o", "%j").strip().removeprefix("bh-")
        directory = Path(pwd.getpwnam("alice").pw_dir, ".batchhub/jobs", name)
        log = directory / "job.log"
        key = (directory / "offer_key").read_text()
        assert (directory / "offer_key").stat().st_mode & 0o777 == 0o600
        seen = "".join(path.read_text() for path in hub.directory.glob("*.log")) + log.read_text()
        seen += subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
        assert f"-l {name}" in seen
        for line in key.split("\n")[1:-2]:
            assert line not in seen

        # Each of the proxy's workers reaches the job, in whichever it landed; and so it is after a reload.
        opened: list[str] = []
        alice.page.on("websocket", lambda socket: opened.append(socket.url))
        cookies = alice.cookies()
        proxy = psutil.Process(hub._processes["proxy"].pid)
        former = set(proxy.children())
        assert [ask(hub, cookies) for _ in range(10)] == [200] * 10
        proxy.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(set(proxy.children()) - former) >= 2, 30, f"new workers\n{hub.logs()}")
        assert [ask(hub, cookies) for _ in range(10)] == [200] * 10
        alice.compute("print(6 * 7, 'after a reload')", "42 after a reload")
        assert opened == [], "the kernel's WebSocket was opened again, so it had been cut"

        # The proxy starts anew: it knows the offer, and the job dials again by itself.
        restart_proxy(hub)
        wait_until(lambda: ask(hub, cookies) == 200, 60, f"the job dials in again\n{log.read_text()}")
        alice.stop_server()
        wait_until(lambda: not lab.admin("squeue", "-h", "-o", "%i"), 30, "the job is cancelled")
        wait_until(lambda: not (directory / "offer_key").exists(), 20, "the launcher removed the key")
        wait_until(lambda: not list((hub.state / "offers").glob("*.sock")), 20, "the job's door is gone")
