"""The whole path on a real Slurm cluster: the hub reaches the login node by SSH and nothing else, people sign in with PAM."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from playwright.sync_api import expect

from batchhub.core.handshake import server_token, start_token
from tests.e2e.parts import HubUnderTest, Person, browser, jupyter_for_everybody, python_config, wait_until
from tests.lab.cluster import SlurmLab

pytestmark = [pytest.mark.cluster, pytest.mark.browser]


@pytest.fixture
def site(running_site):
    """The running site, as quiet afterwards as before: the next test does not inherit this one's jobs."""
    hub, lab = running_site
    yield hub, lab
    lab.cancel_all()
    lab.resume_nodes()
    wait_until(lambda: not live_servers(hub), 60, f"every server has ended\n{hub.logs()}")


def live_servers(hub: HubUnderTest) -> int:
    """How many servers the hub's own database calls alive."""
    with contextlib.closing(sqlite3.connect(f"file:{hub.state / 'batchhub.sqlite'}?mode=ro", uri=True)) as database:
        return int(database.execute("select count(*) from servers where phase != 'ended'").fetchone()[0])


@pytest.fixture(scope="module")
def running_site(slurm_lab_accounting: SlurmLab, tmp_path_factory: pytest.TempPathFactory):
    """A hub in a network of its own, whose only neighbour is the login node's sshd."""
    lab = slurm_lab_accounting
    directory = tmp_path_factory.mktemp("slurm-hub")
    cluster = {
        "title": "Test cluster",
        "scheduler": "slurm",
        "transport": "ssh",
        "prologue": f"export PATH={jupyter_for_everybody()}:$PATH",
        "ssh": {**lab.way_in(directory, "alice", "bob"), "known_hosts": lab.host_key_line},
    }
    fields = {
        "partition": {},
        "cores": {"max": 16},
        "memory": {"default": "300M", "min": 64},
        "walltime": {"default": "20m"},
        "account": {},
        "reservation": {},
    }
    config = python_config(
        {
            "BatchHub.authenticator_class": "pam",
            "Watching.slow": 5.0,
            "Watching.ceiling": 10.0,
            "PAMAuthenticator.allowed_users": {"alice", "bob"},
            "PAMAuthenticator.admin_users": {"bob"},
            "BatchHub.clusters": {"hpc": cluster},
            "BatchHub.profiles": [{"name": "lab", "title": "JupyterLab", "fields": fields}],
        }
    )
    hub = HubUnderTest(directory, config, prefix=lab.in_hub_namespace([]), host=lab.hub_host)
    try:
        hub.start()
        yield hub, lab
    finally:
        hub.stop()
        lab.cancel_all()


def jobs(lab: SlurmLab) -> dict[str, str]:
    """Job id -> state, of all jobs that have not ended."""
    out = lab.admin("squeue", "-h", "-o", "%i %T")
    return dict(line.split() for line in out.splitlines())


def job_directory(hub: HubUnderTest, user: str) -> Path:
    """The job directory of the person's newest server here: in their home there are those of other labs as well."""
    with contextlib.closing(sqlite3.connect(f"file:{hub.state / 'batchhub.sqlite'}?mode=ro", uri=True)) as database:
        newest = "select directory from servers where user_name = ? order by seq desc limit 1"
        return Path(database.execute(newest, (user,)).fetchone()[0])


def test_from_sign_in_to_a_kernel_on_a_node_nobody_else_can_reach(site) -> None:
    hub, lab = site
    with browser() as chromium:
        alice = Person(chromium, hub)
        alice.sign_in("alice", lab.password["alice"])
        alice.open_form()
        alice.submit(walltime="25m")
        alice.page.wait_for_url("**/hub/spawn-pending/alice")
        expect(alice.page.get_by_text("Queued", exact=True).first).to_be_visible()
        alice.see_lab()
        alice.new_notebook()
        alice.compute("import os, socket; print(1+1, os.environ['SLURM_JOB_USER'], socket.gethostname())", "2 alice")

        directory = job_directory(hub, "alice")
        number = next(iter(jobs(lab)))
        connection = json.loads((directory / "connection.json").read_text())
        node = lab.job(number)["BatchHost"]
        address, port = lab.node_addresses[node], connection["port"]

        # The hub's network has no way to the notebook's port …
        dial = f"import socket; socket.create_connection(({address!r}, {port}), timeout=3)"
        outside = subprocess.run(
            lab.in_hub_namespace([sys.executable, "-c", dial]), capture_output=True, text=True, check=False
        )
        assert outside.returncode != 0
        assert re.search("unreachable|timed out", outside.stderr)
        # … and on the cluster, where the port is open, another user is refused without the secret.
        ask = f"import urllib.request; urllib.request.urlopen('http://{address}:{port}/user/alice/api/contents', timeout=5)"
        stranger = lab.run_as("bob", ["/usr/bin/python3", "-c", ask])
        assert "403" in stranger.stderr
        for name in ("secrets.json", "token", "job.sh", "job.log", "connection.json"):
            assert lab.run_as("bob", ["cat", str(directory / name)]).returncode != 0, name

        # Another person, even an admin, does not enter by URL.
        bob = Person(chromium, hub)
        bob.sign_in("bob", lab.password["bob"])
        answer = bob.page.goto(f"{hub.url}/user/alice/lab")
        assert answer is not None
        assert answer.status == 403
        reply = bob.page.request.get(f"{hub.url}/user/alice/api/contents")
        assert reply.status == 403
        forged = {"batchhub-access": bob.cookies().get("batchhub-access", "x"), "batchhub-session": "x"}
        plain = requests.get(f"{hub.url}/user/alice/api/contents", cookies=forged, timeout=5, allow_redirects=False)
        assert plain.status_code in {302, 303, 403}
        assert requests.get(f"{hub.url}/user/alice/api/contents", timeout=5, allow_redirects=False).status_code in {
            302,
            403,
        }

        no_secret_is_seen(hub, lab, directory, number, more=[*alice.secrets(), lab.password["alice"]], urls=alice.urls)

        # Nor the other way round, once the other has a server too.
        bob.open_form()
        bob.submit(walltime="10m", cores="1")
        bob.see_lab()
        for path in ("lab", "api/contents", "../bob/lab", "%2e%2e/bob/lab"):
            assert alice.page.request.get(f"{hub.url}/user/bob/{path}", max_redirects=0).status == 403, path
        assert alice.page.request.get(f"{hub.url}/user/alice/../bob/api/contents", max_redirects=0).status == 403
        bob.stop_server()

        # An admin sees it, and its owner stops it.
        bob.page.goto(f"{hub.url}/hub/admin")
        expect(bob.page.get_by_text("alice").first).to_be_visible()
        alice.stop_server()
        wait_until(lambda: not jobs(lab), 30, "the job is cancelled")
        expect(alice.page.get_by_text("Stopped").first).to_be_visible(timeout=120_000)
    exit_record = directory / "exit.json"
    wait_until(exit_record.exists, 20, "the launcher recorded its end")


def no_secret_is_seen(
    hub: HubUnderTest, lab: SlurmLab, directory: Path, number: str, *, more: list[str], urls: list[str]
) -> None:
    """Grep what other people, schedulers and logs can see for every secret of this server."""
    key = bytes.fromhex((hub.state / "servers.key").read_text().strip())
    run = server_token(key, directory.name, 1)
    nonce = json.loads((directory / "connection.json").read_text())["nonce"]
    assert (directory / "token").read_text() == start_token(run, nonce), (
        "searching for something that is not the secret"
    )
    secrets = [run, start_token(run, nonce), *more]
    secrets += [path.read_text().strip() for path in hub.state.glob("*.key")]
    seen = {
        "ps": subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout,
        "squeue": lab.admin("squeue", "-h", "-o", "%all"),
        "scontrol": lab.admin("scontrol", "show", "job", "-dd", number),
        "batch script": lab.admin("scontrol", "write", "batch_script", number, "-"),
        "sacct": lab.admin("sacct", "-n", "-P", "-o", "ALL"),
        "job.sh": (directory / "job.sh").read_text(),
        "job.log": (directory / "job.log").read_text(),
        "launch.json": (directory / "launch.json").read_text(),
        "connection.json": (directory / "connection.json").read_text(),
        "hub and proxy logs": "".join(path.read_text() for path in hub.directory.glob("*.log")),
        "slurm's logs": lab.log_ends(),
        "URLs of requests and WebSockets": "\n".join(urls),
    }
    assert any(url.startswith("ws://") and "/channels" in url for url in urls), (
        "the kernel's WebSocket was not among the URLs"
    )
    for where, text in seen.items():
        assert text.strip(), f"{where} is empty: nothing was searched"
        for secret in secrets:
            assert len(secret) >= 12
            assert secret not in text, f"a secret is in {where}"
    for name in ("secrets.json", "token"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_refusals_and_limits_are_told_at_the_form(site) -> None:
    hub, lab = site
    with browser() as chromium:
        bob = Person(chromium, hub)
        bob.sign_in("bob", lab.password["bob"])
        bob.open_form()
        # Limits: at the fields, all at once, before anything is submitted.
        bob.submit(cores="999", walltime="banana", memory="lots")
        expect(bob.page.get_by_text("is not a time; write it as").first).to_be_visible()
        expect(bob.page.get_by_text("is not an amount of memory").first).to_be_visible()
        expect(bob.page.locator("[name=cores]")).to_have_value("999")
        # The scheduler's own words.
        bob.submit(cores="1", walltime="10m", memory="300M", account="no-such-account")
        expect(bob.page.get_by_text("Invalid account or account/partition combination specified").first).to_be_visible()
        expect(bob.page.locator("[name=account]")).to_have_value("no-such-account")
        bob.submit(account="", reservation="no-such-reservation")
        expect(bob.page.get_by_text("Requested reservation is invalid").first).to_be_visible()
    assert jobs(lab) == {}


def test_a_closed_partition_waits_with_its_reason_and_can_be_cancelled(site) -> None:
    hub, lab = site
    with browser() as chromium:
        bob = Person(chromium, hub)
        bob.sign_in("bob", lab.password["bob"])
        bob.open_form()
        # The form offers what is open, and this partition is not: the one chosen closes after the form was shown.
        expect(bob.page.locator("[name=partition] option[value=closed]")).to_have_count(0)
        lab.admin("scontrol", "update", "PartitionName=long", "State=DOWN")
        bob.submit(partition="long", walltime="10m", cores="1")
        bob.page.wait_for_url("**/hub/spawn-pending/bob")
        expect(bob.page.get_by_text("The partition is closed for new starts").first).to_be_visible(timeout=120_000)
        expect(bob.page.get_by_text("PartitionDown").first).to_be_visible()
        lab.admin("scontrol", "update", "PartitionName=long", "State=UP")
        bob.page.get_by_role("button", name="Cancel").first.click()
        wait_until(lambda: not jobs(lab), 30, "the job is cancelled")


def test_the_hub_is_killed_and_started_again_while_a_kernel_computes(site) -> None:
    hub, lab = site
    for node in lab.nodes[1:]:
        lab.set_node(node, "drain")
    try:
        with browser() as chromium:
            alice = Person(chromium, hub)
            alice.sign_in("alice", lab.password["alice"])
            alice.open_form()
            alice.submit(cores="16", walltime="15m")
            alice.see_lab()
            alice.new_notebook()
            alice.compute("x = 41; print('first', x)", "first 41")
            # A second server has to wait: all cores of the one open node are taken.
            lab_page, alice.page = alice.page, alice.context.new_page()
            alice.open_form("alice/second")
            alice.submit(cores="2", walltime="15m")
            alice.page.wait_for_url("**/hub/spawn-pending/alice/second")
            wait_until(lambda: sorted(jobs(lab).values()) == ["PENDING", "RUNNING"], 20, "one runs, one waits")
            before = jobs(lab)
            alice.page = lab_page
            opened: list[str] = []
            lab_page.on("websocket", lambda socket: opened.append(socket.url))

            hub.kill_hub()
            alice.compute("print('while the hub is dead', x + 1)", "while the hub is dead 42")
            hub.start()
            alice.compute("print('after', x + 2)", "after 43")
            assert opened == [], "the kernel's WebSocket was opened again, so it had been cut"

            waiting = alice.context.new_page()
            waiting.goto(f"{hub.url}/hub/spawn-pending/alice/second")
            expect(waiting.get_by_text("waits in the queue").first).to_be_visible(timeout=120_000)
            assert jobs(lab) == before, "something was submitted or cancelled"
            # The pending job is followed: it gets its place and comes up.
            for node in lab.nodes[1:]:
                lab.admin("scontrol", "update", f"nodename={node}", "state=resume")
            waiting.wait_for_url("**/user/alice/second/**", timeout=120_000)
            waiting.wait_for_selector("#jp-main-dock-panel", timeout=120_000)
            assert set(jobs(lab)) == set(before)
    finally:
        for node in lab.nodes[1:]:
            lab.admin("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def test_a_controller_that_is_away_changes_nothing(site) -> None:
    hub, lab = site
    with browser() as chromium:
        bob = Person(chromium, hub)
        bob.sign_in("bob", lab.password["bob"])
        bob.open_form()
        bob.submit(walltime="15m", cores="1")
        bob.see_lab()
        bob.new_notebook()
        before = jobs(lab)
        lab.stop_controller()
        stopped = time.monotonic()
        try:
            home = bob.context.new_page()
            home.goto(f"{hub.url}/hub/home")
            expect(home.get_by_text("The scheduler does not answer at the moment").first).to_be_visible(timeout=120_000)
            # Ten minutes of it, by the hub's clock, are in tests/lab/test_faults_real.py.
            wait_until(lambda: time.monotonic() - stopped > 20, 20, "it is asked several times")
            bob.compute("print('still', 6 * 7)", "still 42")
            home.reload()
            expect(home.get_by_text("Ready").first).to_be_visible()
            expect(home.get_by_text("The scheduler does not answer at the moment").first).to_be_visible()
        finally:
            lab.start_controller()
        assert jobs(lab) == before
        expect(home.get_by_text("The scheduler does not answer at the moment")).to_have_count(0, timeout=120_000)
        bob.compute("print('after', 6 * 7)", "after 42")
        bob.stop_server()
        wait_until(lambda: not jobs(lab), 60, "the job is cancelled")


def test_a_job_cancelled_outside_and_a_requeued_one_are_told_as_what_they_are(site) -> None:
    hub, lab = site
    with browser() as chromium:
        alice = Person(chromium, hub)
        alice.sign_in("alice", lab.password["alice"])
        alice.open_form()
        alice.submit(walltime="15m", cores="1")
        alice.see_lab()
        (number,) = jobs(lab)
        first = job_directory(hub, "alice")
        secret = (first / "token").read_text()
        lab.admin("scontrol", "requeuehold", number)
        page = alice.context.new_page()
        page.goto(f"{hub.url}/hub/home")
        expect(page.get_by_text("put back by the scheduler").first).to_be_visible(timeout=120_000)
        lab.admin("scontrol", "release", number)
        page.goto(f"{hub.url}/hub/spawn-pending/alice")
        page.wait_for_url("**/user/alice/**", timeout=120_000)
        page.wait_for_selector("#jp-main-dock-panel", timeout=120_000)
        assert set(jobs(lab)) == {number}
        assert (first / "token").read_text() != secret
        lab.run_as("alice", ["scancel", number])
        page.goto(f"{hub.url}/hub/home")
        expect(page.get_by_text("cancelled from outside the hub").first).to_be_visible(timeout=120_000)
