"""How servers end, with a real JupyterLab in a real job: who computes in silence stays, who is idle goes, and kernels get to their end."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import re
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from batchhub.auth.dictionary import hash_password
from tests.e2e.parts import HubUnderTest, python_config, wait_until
from tests.e2e.test_subdomains import end_jobs
from tests.needs import missing

ME = getpass.getuser()
PASSWORD = "a lantern in the window"
IDLE = 20
SILENT = """
import atexit, time
from pathlib import Path
atexit.register(Path({atexit!r}).touch)
try:
    while True:
        time.sleep(1)
finally:
    Path({done!r}).touch()
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubUnderTest]:
    if importlib.util.find_spec("jupyterlab") is None:
        missing("JupyterLab is not installed: pip install jupyterlab")
    (tmp_path / "queue").mkdir(mode=0o700)
    cluster = {
        "scheduler": "local",
        "scheduler_options": {"python": sys.executable, "spool": str(tmp_path / "queue")},
        "python": sys.executable,
        "node_address": "127.0.0.1",
        "environment": {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    }
    profile = {
        "name": "lab",
        "arguments": ["--allow-root"] if os.geteuid() == 0 else [],
        "fields": {"memory": {"default": "512M"}},
        "idle_timeout": IDLE,
    }
    config = {
        "BatchHub.authenticator_class": "dictionary",
        "DictionaryAuthenticator.users": {ME: hash_password(PASSWORD)},
        "BatchHub.clusters": {"here": cluster},
        "BatchHub.profiles": [profile],
        "Culling.cull_every": 1.0,
        "Starting.stop_grace": 60.0,
        "Watching.fast": 0.5,
        "Watching.slow": 2.0,
    }
    running = HubUnderTest(tmp_path, python_config(config))
    try:
        running.start()
        yield running
    finally:
        running.stop()
        end_jobs(tmp_path / "queue")


class Me:
    """Signed in, as a browser would be."""

    def __init__(self, hub: HubUnderTest) -> None:
        self.hub = hub
        self.session = requests.Session()
        page = self.session.get(f"{hub.url}/hub/login", timeout=30).text
        form = {"username": ME, "password": PASSWORD, "_xsrf": self._token(page)}
        page = self.session.post(f"{hub.url}/hub/login", data=form, timeout=60).text
        self.session.headers["X-XSRFToken"] = self._token(page)

    def _token(self, page: str) -> str:
        found = re.search(r'name="_xsrf" value="([^"]+)"', page)
        assert found, page
        return found[1]

    def server(self, name: str, method: str = "GET") -> dict[str, Any]:
        answer = self.session.request(method, f"{self.hub.url}/hub/api/users/{ME}/servers/{name}", json={}, timeout=60)
        assert answer.status_code < 300, answer.text
        return dict(answer.json()) if answer.content else {}

    def start(self, name: str) -> None:
        self.server(name, "POST")
        wait_until(lambda: self.server(name)["phase"] == "ready", 120, f"{name} is ready\n{self.hub.logs()}")

    def run(self, name: str, code: str) -> None:
        """Start a kernel that runs this, and turn away when it has begun."""
        base = f"{self.hub.url}/user/{ME}/{name}"
        # A server is told as ready a moment before the proxy has its route.
        lab = {"url": f"{base}/lab", "headers": {"Accept": "text/html"}, "timeout": 60}
        wait_until(lambda: self.session.get(**lab).status_code == 200, 60, "JupyterLab's page")
        made = self.session.post(f"{base}/api/kernels", json={"name": "python3"}, timeout=60)
        assert made.status_code == 201, made.text
        head = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "s", "username": ME}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = {
            "channel": "shell",
            "header": {**head, "version": "5.3", "date": ""},
            "parent_header": {},
            "metadata": {},
            "content": content,
            "buffers": [],
        }
        cookie = "; ".join(f"{each.name}={each.value}" for each in self.session.cookies if each.path != "/hub/")
        url = f"{base.replace('http', 'ws')}/api/kernels/{made.json()['id']}/channels"
        with connect(url, additional_headers={"Cookie": cookie}, origin=self.hub.url, open_timeout=60) as channels:
            channels.send(json.dumps(message))
            while json.loads(channels.recv(timeout=60))["msg_type"] != "execute_input":
                pass


def test_the_idle_go_the_silent_stay_and_kernels_get_to_their_end(hub: HubUnderTest, tmp_path: Path) -> None:
    me, done, atexit = Me(hub), tmp_path / "done", tmp_path / "atexit"
    me.start("busy")
    me.run("busy", SILENT.format(done=str(done), atexit=str(atexit)))
    began = datetime.fromisoformat(me.server("busy")["last_activity"])
    me.start("idle")
    gone = wait_until(lambda: me.server("idle")["stopped"] and me.server("idle"), 120, f"idle is ended\n{hub.logs()}")
    assert gone["outcome"] == "stopped"
    assert gone["detail"].startswith("Not used for ")

    def still_used() -> bool:
        return datetime.fromisoformat(me.server("busy")["last_activity"]) - began > timedelta(seconds=2 * IDLE)

    wait_until(still_used, 240, f"busy is found to be in use though it says nothing\n{hub.logs()}")
    assert me.server("busy")["ready"]
    assert not done.exists()

    me.server("busy", "DELETE")
    wait_until(lambda: me.server("busy")["stopped"], 120, f"busy is ended\n{hub.logs()}")
    assert done.exists(), "its `finally` was reached"
    assert atexit.exists()
    with sqlite3.connect(next(hub.state.glob("*.sqlite"))) as database:
        found = database.execute("SELECT told IS NOT NULL, cancel_tried, outcome, exit_code FROM servers").fetchall()
    assert found == [(1, None, "stopped", 0)] * 2, "both ended when told, no job was cancelled"
