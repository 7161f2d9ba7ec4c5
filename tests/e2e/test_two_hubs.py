"""Two hub processes and a proxy on one PostgreSQL database: pages on either, one leads, and every fault leaves exactly one job."""

from __future__ import annotations

import getpass
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from batchhub.auth.dictionary import hash_password
from tests.e2e.parts import HubUnderTest, python_config, wait_until
from tests.fakesched.engine import Cluster
from tests.fakesched.store import FINAL, now
from tests.postgres import Postgres, running

ME = getpass.getuser()
PASSWORD = "two are company"
FORM = {"profile": "files", "partition": "cpu", "cores": "1", "memory": "", "walltime": "20m"}
LONG = 240.0
"""Seconds for what takes some on an idle machine."""


class Two:
    """Both hubs, by name, and what they share."""

    def __init__(self, directory: Path, cluster: Cluster, postgres: Postgres, database: str) -> None:
        self.cluster, self.postgres = cluster, postgres
        config = _config(directory, cluster, database)
        self.first = HubUnderTest(directory, config)
        self.urls = {"a": f"http://127.0.0.1:{self.first.hub_port}"}
        other = HubUnderTest(_made(directory / "b"), "")
        self.urls["b"] = f"http://127.0.0.1:{other.hub_port}"
        self.config = {"a": self.first.config, "b": directory / "b.py"}
        text = self.first.config.read_text().replace(str(self.first.hub_port), str(other.hub_port))
        self.config["b"].write_text(text)
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.session = requests.Session()

    def start(self, name: str) -> None:
        """A hub, or the proxy."""
        config = self.config.get(name, self.first.config)
        argv = [sys.executable, "-m", "batchhub", "proxy" if name == "proxy" else "hub", f"--config={config}"]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*argv, "--debug"], stdout=log, stderr=log, cwd=Path(__file__).parents[2], start_new_session=True
            )
        if name != "proxy":
            self.until(lambda: self.get(name, "/hub/api").status_code == 200, f"hub {name} answers")

    def kill(self, name: str) -> None:
        """As the kernel would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(60)

    def end(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)

    def until(self, true: Any, what: str) -> Any:
        def look() -> Any:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended"
            try:
                return true()
            except requests.RequestException:
                return None

        try:
            return wait_until(look, LONG, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.first.logs()}") from None

    def get(self, name: str, path: str) -> requests.Response:
        url = self.first.url if name == "proxy" else self.urls[name]
        return self.session.get(url + path, timeout=60, allow_redirects=False)

    def leader(self, asked: str) -> str:
        """Which hub leads, as this one says."""
        said = self.get(asked, "/hub/health").json().get("leader", "")
        return next((name for name, url in self.urls.items() if url in said), "")

    def post(self, name: str, page: str, address: str, **fields: str) -> requests.Response:
        """A form on a page of this hub."""
        shown = self.get(name, page)
        assert shown.status_code == 200, (shown.status_code, shown.text)
        (xsrf, *_) = re.findall(r'name="_xsrf" value="([^"]+)"', shown.text)
        return self.session.post(
            self.urls[name] + address, data={"_xsrf": xsrf, **fields}, timeout=120, allow_redirects=False
        )

    def model(self, name: str, server: str) -> dict[str, Any]:
        """A server as this hub's API shows it."""
        path = f"/hub/api/users/{ME}/servers/{server}" if server else f"/hub/api/users/{ME}/server"
        return dict(self.get(name, path).json())

    def live(self) -> list[str]:
        return [job.id for job in self.cluster.jobs() if job.state not in FINAL]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _config(directory: Path, cluster: Cluster, database: str) -> str:
    files = {
        "title": "Files",
        "argv": [sys.executable, "-m", "http.server", "{port}", "--bind", "{ip}"],
        "scheme": "token",
        "strip_prefix": True,
    }
    here = {
        "scheduler": "slurm",
        "scheduler_options": {"bin_dir": cluster.install("slurm", directory / "bin")},
        "bind": "127.0.0.1",
        "node_address": "127.0.0.1",
        "python": sys.executable,
    }
    return python_config(
        {
            "BatchHub.db_url": database,
            "BatchHub.authenticator_class": "dictionary",
            "DictionaryAuthenticator.users": {ME: hash_password(PASSWORD)},
            "BatchHub.clusters": {"here": here},
            "BatchHub.profiles": [{"name": "files", "application": "files", "cluster": "here"}],
            "BatchHub.applications": {"files": files},
        }
    )


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster = Cluster(tmp_path / "cluster").create({"nodes": {"n1": {"cores": 16}}})
    with running() as postgres, postgres.database() as database:
        made = Two(tmp_path, cluster, postgres, database)
        try:
            for name in ("proxy", "a", "b"):
                made.start(name)
            made.until(lambda: made.leader("b") == "a", "the first hub leads, and the other says so")
            answer = made.post("a", "/hub/login", "/hub/login", username=ME, password=PASSWORD)
            assert answer.status_code == 303, answer.text
            yield made
        finally:
            made.end()
            cluster.shutdown()


def spawn(two: Two, by: str, server: str = "") -> None:
    address = f"/hub/spawn/{ME}" + (f"/{server}" if server else "")
    answer = two.post(by, f"{address}?profile=files", address, **FORM)
    assert answer.status_code == 303, answer.text


def test_one_dies_and_the_other_goes_on(two: Two) -> None:
    cluster = two.cluster
    assert ME in two.get("b", "/hub/home").text, "a session of one hub is good on the other"

    # Asked for on the follower, submitted by the leader; it dies while the job is pending.
    cluster.fault("delayed_start", command="sbatch", seconds=100_000, times=1)
    spawn(two, "b")
    (job,) = two.until(two.live, "the leader submits what the follower was asked for")
    two.until(lambda: "Queued" in two.get("b", f"/hub/spawn-pending/{ME}").text, "the follower's page knows it waits")
    two.kill("a")
    two.until(lambda: two.leader("b") == "b", "the other leads")
    two.until(lambda: two.get("proxy", "/hub/api").status_code == 200, "pages come from the one that lives")
    cluster._change(job, lambda it: it.update(eligible=now()))
    two.until(lambda: two.model("b", "").get("ready"), "it becomes ready under the other")
    assert cluster.count("sbatch") == 1
    assert two.live() == [job]

    # The first comes back and follows. The leader dies while a submit is under way: the job is there, its answer is lost.
    two.start("a")
    two.until(lambda: two.leader("a") == "b", "it follows")
    cluster.fault("created_but_timeout", command="sbatch", how="error", delay=60, times=1)
    address = f"/hub/spawn/{ME}/more"
    page = two.get("a", f"{address}?profile=files").text
    (xsrf, *_) = re.findall(r'name="_xsrf" value="([^"]+)"', page)
    fields = {"_xsrf": xsrf, **FORM}
    with pytest.raises(requests.Timeout):
        two.session.post(two.urls["a"] + address, data=fields, timeout=2, allow_redirects=False)
    two.until(lambda: len(two.live()) == 2, "the job is made, the submit command still runs")
    two.kill("b")
    two.until(lambda: two.leader("a") == "a", "the first leads again")
    two.until(lambda: two.model("a", "more").get("ready"), "the job is found by its name")
    assert cluster.count("sbatch") == 2
    assert len(two.live()) == 2

    # Stopped on whichever lives.
    for server, path in (("", ""), ("more", "/more")):
        answer = two.post("a", "/hub/home", f"/hub/stop/{ME}{path}")
        assert answer.status_code == 303, (server, answer.text)
    two.until(lambda: not two.live(), "both are cancelled")


def test_a_leader_that_stood_still_does_nothing_when_it_wakes(two: Two) -> None:
    cluster = two.cluster
    spawn(two, "a")
    two.until(lambda: two.model("b", "").get("ready"), "it runs")
    counts = {name: cluster.count(name) for name in ("sbatch", "scancel")}

    # It leads, and would be the one to start what the other is asked for now.
    os.kill(two.processes["a"].pid, signal.SIGSTOP)
    address = f"/hub/spawn/{ME}/more"
    spawn(two, "b", "more")
    two.until(lambda: two.leader("b") == "b", "the database takes the lead from a hub that says nothing")
    two.until(lambda: two.model("b", "more").get("ready"), f"{address} runs under the other")
    answer = two.post("b", "/hub/home", f"/hub/stop/{ME}")
    assert answer.status_code == 303
    two.until(lambda: len(two.live()) == 1, "the first server is stopped by the other")
    os.kill(two.processes["a"].pid, signal.SIGCONT)
    two.until(lambda: "does not lead any more" in two.log("a"), "it sees that it does not lead")
    two.until(lambda: two.leader("a") == "b", "and says who does")
    two.until(lambda: two.model("a", "more").get("ready"), "its pages know what runs")
    assert cluster.count("sbatch") == counts["sbatch"] + 1
    assert cluster.count("scancel") == counts["scancel"] + 1
    assert "Traceback" not in two.log("a")


def test_a_database_that_is_away(two: Two) -> None:
    """Hanging, then stopped: 503 with a sentence, nothing is done to any job, what runs is served, and all of it heals by itself."""
    cluster = two.cluster
    spawn(two, "a")
    two.until(lambda: two.model("a", "").get("ready"), "it runs")
    headers = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}

    def notebook() -> int:
        return two.session.get(f"{two.first.url}/user/{ME}/", headers=headers, timeout=60).status_code

    two.until(lambda: notebook() == 200, "its owner is let in")
    for away, back in ((two.postgres.pause, two.postgres.resume), (two.postgres.stop, two.postgres.start)):
        before = cluster.count("sbatch"), cluster.count("scancel"), two.live()
        away()
        try:
            for name in ("a", "b", "proxy"):
                # A session that was looked up a moment ago is still believed; what is asked of the database is not to be had.
                answer = two.get(name, "/hub/home")
                assert answer.status_code == 503, (name, answer.status_code, answer.text)
                assert "database" in answer.text
                assert "Traceback" not in answer.text
                assert "Retry-After" in answer.headers
                url = two.first.url if name == "proxy" else two.urls[name]
                assert requests.get(f"{url}/hub/api", timeout=60).status_code == 200, (
                    "what needs no database is answered"
                )
            assert notebook() == 200, "the proxy serves on"
            health = two.get("a", "/hub/health")
            assert health.status_code == 503
        finally:
            back()
        two.until(lambda: two.leader("a") in two.urls and two.leader("b") in two.urls, "one leads again")
        two.until(lambda: two.get("a", "/hub/home").status_code == 200, "pages are back")
        two.until(lambda: two.model("b", "").get("ready"), "it is as it was")
        assert (cluster.count("sbatch"), cluster.count("scancel"), two.live()) == before
    spawn(two, "b", "more")
    two.until(lambda: two.model("b", "more").get("ready"), "new ones start")
    assert cluster.count("sbatch") == 2
    assert "Traceback" not in two.log("a") + two.log("b")
