"""An application behind a Unix socket in a Slurm job, which knows nothing of its address, by SSH to its node as the person."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from batchhub.auth.dictionary import hash_password
from tests.e2e.parts import HubUnderTest, python_config, wait_until
from tests.lab.cluster import PEOPLE, SlurmLab
from tests.tunnel.front import APPLICATION, UPGRADE

pytestmark = [pytest.mark.cluster, pytest.mark.sshd]

PASSWORD = "a lantern in the window"
WATCH = """
import socket, sys
request, again = sys.stdin.read().split("\\0")
def ask(text):
    made = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
    made.sendall(text.encode())
    return made
kernel = ask(request)
print(kernel.recv(65536).split(b"\\r\\n")[0].decode(), flush=True)
while kernel.recv(65536):
    pass
answer = b""
later = ask(again)
while data := later.recv(65536):
    answer += data
print(answer.decode())
"""
"""Somebody in front of a browser where the hub is: a WebSocket, until it ends, and then a page."""


@pytest.fixture(scope="module")
def hub(slurm_lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubUnderTest]:
    lab, directory = slurm_lab, tmp_path_factory.mktemp("socket-app")
    program = Path(shutil.copy(APPLICATION, lab.root / "socket-application.py"))
    program.chmod(0o644)
    quick = {"keepalive_interval": 1.0, "keepalive_count": 2, "connect_timeout": 4.0}
    ssh = {**lab.way_in(directory, *PEOPLE), "node": quick, **quick}
    small = {
        "title": "Small",
        "socket_argv": ["/usr/bin/python3", str(program), "{socket}"],
        "scheme": "",
        "strip_prefix": True,
    }
    config = {
        "BatchHub.authenticator_class": "dictionary",
        "DictionaryAuthenticator.users": {name: hash_password(PASSWORD) for name in PEOPLE},
        "BatchHub.clusters": {"hpc": {"scheduler": "slurm", "transport": "ssh", "tunnel": "node", "ssh": ssh}},
        "BatchHub.applications": {"small": small},
        "BatchHub.profiles": [{"name": "small", "application": "small", "fields": {"memory": {"default": "200M"}}}],
        "Watching.fast": 0.5,
        "Watching.slow": 0.5,
        "Watching.ceiling": 2.0,
    }
    running = HubUnderTest(directory, python_config(config), prefix=lab.in_hub_namespace([]), host=lab.hub_host)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        lab.cancel_all()


def signed_in(hub: HubUnderTest, name: str) -> requests.Session:
    session = requests.Session()
    page = session.get(f"{hub.url}/hub/login", timeout=120).text
    found = re.search(r'name="_xsrf" value="([^"]+)"', page)
    assert found
    form = {"username": name, "password": PASSWORD, "_xsrf": found[1]}
    answer = session.post(f"{hub.url}/hub/login", data=form, timeout=120)
    assert answer.url.endswith("/hub/home"), answer.text
    found = re.search(r'name="_xsrf" value="([^"]+)"', answer.text)
    assert found
    session.headers["X-XSRFToken"] = found[1]
    return session


def request(hub: HubUnderTest, session: requests.Session, path: str, *lines: str) -> str:
    cookies = "; ".join(f"{each.name}={each.value}" for each in session.cookies if each.path != "/hub/")
    extra = "".join(lines)
    return f"GET {path} HTTP/1.1\r\nHost: {hub.host}:{hub.port}\r\nCookie: {cookies}\r\n{extra}\r\n"


@pytest.fixture(scope="module")
def alice(hub: HubUnderTest) -> Iterator[requests.Session]:
    """Signed in, with a server that is ready and entered once, as a browser would."""
    session = signed_in(hub, "alice")
    server = f"{hub.url}/hub/api/users/alice/server"
    asked = session.post(server, json={}, timeout=120)
    assert asked.status_code in {201, 202}, asked.text

    def ready() -> bool:
        return bool(session.get(server, timeout=120).json()["phase"] == "ready")

    def entered() -> bool:
        # A server is told as ready a moment before the proxy has its route.
        answer = session.get(f"{hub.url}/user/alice/", headers={"Accept": "text/html"}, timeout=120)
        return (answer.status_code, answer.text) == (200, "/ alice")

    wait_until(ready, 60, f"ready\n{hub.logs()}")
    wait_until(entered, 60, f"she is let in\n{hub.logs()}")
    yield session
    assert session.delete(server, timeout=120).status_code in {202, 204}


def test_a_socket_and_a_stripped_prefix(slurm_lab: SlurmLab, hub: HubUnderTest, alice: requests.Session) -> None:
    page = alice.get(f"{hub.url}/user/alice/lab/tree?x=1", timeout=120)
    assert (page.status_code, page.text) == (200, "/lab/tree?x=1 alice")

    # Nobody else on the node has a way to it.
    # In her home there are jobs of other labs as well.
    with contextlib.closing(sqlite3.connect(f"file:{hub.state / 'batchhub.sqlite'}?mode=ro", uri=True)) as database:
        (directory,) = database.execute("select directory from servers order by seq desc limit 1").fetchone()
    connection = json.loads(Path(directory, "connection.json").read_text())
    assert connection["port"] == 0
    found = os.lstat(connection["socket"])
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert slurm_lab.run_as("bob", ["ls", str(Path(connection["socket"]).parent)]).returncode != 0
    assert signed_in(hub, "bob").get(f"{hub.url}/user/alice/", timeout=120).status_code == 403

    # An upgraded connection both ways, beside another one's download.
    with socket.create_connection((hub.host, hub.port), 20) as echo:
        echo.sendall(request(hub, alice, "/user/alice/ws", UPGRADE).encode())
        assert echo.recv(65536).startswith(b"HTTP/1.1 101 ")
        echo.sendall(b"over two hops")
        assert echo.recv(65536) == b"over two hops"


def test_the_login_nodes_cable_is_pulled(slurm_lab: SlurmLab, hub: HubUnderTest, alice: requests.Session) -> None:
    """What runs ends with an error, what is asked then is answered with a page, and all comes back by itself."""
    argv = [sys.executable, "-c", WATCH, hub.host, str(hub.port)]
    with subprocess.Popen(
        slurm_lab.in_hub_namespace(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdin is not None
        assert watch.stdout is not None
        kernel, later = "/user/alice/ws", "/user/alice/x"
        closing = "Connection: close\r\n"
        watch.stdin.write("\0".join((request(hub, alice, kernel, UPGRADE), request(hub, alice, later, closing))))
        watch.stdin.close()
        assert watch.stdout.readline() == "HTTP/1.1 101 Switching Protocols\n"
        slurm_lab.set_login_link(up=False)
        try:
            answer = watch.stdout.read()
        finally:
            slurm_lab.set_login_link(up=True)
    assert answer.startswith("HTTP/1.1 503 ")
    assert re.search(rf"No SSH connection to the node \S+: {re.escape(slurm_lab.login_host)}:2222", answer)

    def back() -> bool:
        return alice.get(f"{hub.url}/user/alice/x", timeout=120).text == "/x alice"

    wait_until(back, 60, f"it works again\n{hub.logs()}")
