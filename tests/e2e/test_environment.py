"""The example of ``docs/environment.md``, as it stands there: a real start on the local queue, what the application finds, and who else sees what."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from batchhub.auth.dictionary import hash_password
from tests.e2e.parts import HubUnderTest, python_config, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "environment.md"
NAME, PASSWORD, TOKEN = getpass.getuser(), "a lamp by the door", "eyJhbGciOiJSUzI1NiJ9.a-token-of-hers.c2lnbmF0dXJl"
WAY = f"""
from batchhub.auth.dictionary import DictionaryAuthenticator

class KeycloakAuthenticator(DictionaryAuthenticator):
    async def authenticate(self, handler, data):
        name = await super().authenticate(handler, data)
        return name and {{"name": name, "groups": ["physics", "staff"], "auth_state": {{"access_token": {TOKEN!r}}}}}

c.BatchHub.authenticator_class = KeycloakAuthenticator
"""
HOOKS = """
from pathlib import Path

async def before(spawn):
    words = f"{spawn.person.groups[0]} {spawn.profile} {len(spawn.auth_state)}"
    return {"environment": {"HOOKED": words}, "files": {"hooked": words}}

def after(stop):
    Path(HOME, "after").write_text(f"{stop.person.name} {stop.profile} {stop.outcome}")

c.BatchHub.pre_spawn_hook, c.BatchHub.post_stop_hook = before, after
"""


def example() -> dict[str, Any]:
    found = re.search(r"```toml\n# site\.toml: Spark\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return tomllib.loads(found[1])


@dataclass
class Started:
    """A hub, and the session of somebody who signed in to it."""

    hub: HubUnderTest
    session: requests.Session

    def phase(self) -> str:
        answer = self.session.get(f"{self.hub.url}/hub/api/users/{NAME}/server", timeout=20)
        return str(answer.json()["phase"]) if answer.status_code == 200 else ""

    def ask(self, what: str) -> str:
        """The application, by way of the proxy, as a browser would."""
        url = f"{self.hub.url}/user/{NAME}/{what}"
        said = [requests.Response()]

        def answered() -> bool:
            # A server is told as ready a moment before the proxy has its route.
            said[0] = self.session.get(url, headers={"Accept": "text/html"}, timeout=20)
            return said[0].status_code == 200

        wait_until(answered, 60, f"it answers for {what}")
        return str(said[0].text)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """The page's profile and additions; the cluster is the local queue, and in JupyterLab's place is an application that shows its environment."""
    (tmp_path / "queue").mkdir(mode=0o700)
    site = example()
    assert site["clusters"].keys() == {"hpc"}
    argv = [sys.executable, str(Path(__file__).with_name("small_app.py")), "{ip}", "{port}", "{token_file}"]
    small = {"title": "Small", "argv": argv, "ready_path": "{base_url}api", "guard_path": "{base_url}status"}
    queue = {"spool": str(tmp_path / "queue"), "slots": 4, "python": sys.executable}
    values = {
        "DictionaryAuthenticator.users": {NAME: hash_password(PASSWORD)},
        "BatchHub.clusters": {"hpc": {"scheduler": "local", "scheduler_options": queue}},
        "BatchHub.profiles": site["profiles"],
        "BatchHub.additions": site["additions"],
        "BatchHub.applications": {"jupyterlab": small},
        "Authenticator.enable_auth_state": True,
        "Watching.fast": 0.3,
        "Watching.slow": 0.3,
        "Watching.ceiling": 1.0,
    }
    config = f"HOME = {str(tmp_path / 'home')!r}\n{WAY}{HOOKS}{python_config(values)}"
    # The queue's jobs have the hub's own environment: this test's home is theirs too.
    running = HubUnderTest(tmp_path, config, prefix=["env", f"HOME={tmp_path / 'home'}"])
    (tmp_path / "home").mkdir(mode=0o700)
    made = Started(running, requests.Session())
    try:
        running.start()
        sign_in(running, made.session)
        yield made
    finally:
        with contextlib.suppress(requests.RequestException):
            made.session.delete(f"{running.url}/hub/api/users/{NAME}/server", timeout=20)
            wait_until(lambda: made.phase() in {"ended", ""}, 30, "it ends")
        running.stop()


def sign_in(hub: HubUnderTest, session: requests.Session) -> None:
    found = re.search(r'name="_xsrf" value="([^"]+)"', session.get(f"{hub.url}/hub/login", timeout=60).text)
    assert found
    form = {"username": NAME, "password": PASSWORD, "_xsrf": found[1]}
    answer = session.post(f"{hub.url}/hub/login", data=form, timeout=60)
    found = re.search(r'name="_xsrf" value="([^"]+)"', answer.text)
    assert answer.url.endswith("/hub/home"), answer.text
    assert found
    session.headers["X-XSRFToken"] = found[1]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def reads(argv: list[str]) -> bool:
    """Whether another user of the machine can."""
    return (
        subprocess.run(
            argv, user="nobody", group="nogroup", extra_groups=[], capture_output=True, check=False
        ).returncode
        == 0
    )


def holders(what: bytes) -> dict[str, set[int]]:
    """Which processes show it, in their commands and in their environments."""
    found: dict[str, set[int]] = {"cmdline": set(), "environ": set()}
    for kind, pids in found.items():
        for path in Path("/proc").glob(f"[0-9]*/{kind}"):
            with contextlib.suppress(OSError):
                if what in path.read_bytes():
                    pids.add(int(path.parent.name))
    return found


def test_a_job_of_the_pages_example(started: Started) -> None:
    hub, session = started.hub, started.session
    form = {
        "profile": "spark",
        "executor_memory": "8G",
        "executors": "7",
        "cores": "1",
        "memory": "1G",
        "walltime": "1h",
    }
    answer = session.post(f"{hub.url}/hub/api/users/{NAME}/server", json=form, timeout=120)
    assert answer.status_code in {201, 202}, answer.text
    wait_until(lambda: started.phase() == "ready", 60, f"it is ready\n{hub.logs()}")
    (directory,) = (hub.directory / "home" / ".batchhub" / "jobs").iterdir()

    env = json.loads(started.ask("environment"))
    files = directory / "files"
    assert (env["MASTER"], env["CATALOG_TOKEN"]) == ("spark://spark-physics.example.org:7077", TOKEN)
    assert (env["SPARK_CONF_DIR"], env["BATCHHUB_FILES"]) == (str(files), str(files))
    assert env["AWS_WEB_IDENTITY_TOKEN_FILE"] == str(files / "token")
    assert env["SPARK_DRIVER_MEMORY"] == "819m"
    assert env["SPARK_HOME"] == "/opt/spark"
    assert env["HOOKED"] == (files / "hooked").read_text() == "physics spark 1"
    conf = dict(line.split(None, 1) for line in (files / "spark-defaults.conf").read_text().splitlines() if line)
    assert (conf["spark.app.name"], conf["spark.executor.memory"], conf["spark.cores.max"]) == (NAME, "8192m", "7")
    assert (files / "token").read_text() == TOKEN

    # Who else sees what.
    assert (mode(directory), mode(files)) == (0o700, 0o700)
    assert {mode(path) for path in [*files.iterdir(), directory / "secrets.json", directory / "job.sh"]} == {0o600}
    application = int(started.ask("pid"))
    assert holders(TOKEN.encode()) == {"cmdline": set(), "environ": {application}}
    script = (directory / "job.sh").read_text()
    assert "export MASTER=spark://spark-physics.example.org:7077" in script
    assert "chemistry" not in script
    kept = [path for path in directory.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert {path.relative_to(directory).as_posix() for path in kept} == {"files/token", "secrets.json"}
    elsewhere = [path for place in (hub.state, hub.directory / "queue") for path in place.rglob("*") if path.is_file()]
    assert not [path for path in [*elsewhere, *hub.directory.glob("*.log")] if TOKEN.encode() in path.read_bytes()]
    for page in (f"hub/server/{NAME}", "hub/home", f"hub/api/users/{NAME}", f"hub/spawn/{NAME}"):
        assert TOKEN not in session.get(f"{hub.url}/{page}", timeout=20).text
    if os.geteuid() == 0:
        assert not reads(["cat", str(files / "token")])
        assert not reads(["cat", f"/proc/{application}/environ"])

    # It ends by itself, and then without: the hub's turn is in tests/control/test_customising.py.
    os.kill(application, signal.SIGTERM)
    wait_until(lambda: started.phase() in {"ended", ""}, 60, f"it has ended\n{hub.logs()}")
    wait_until(lambda: not (directory / "secrets.json").exists() and not files.exists(), 60, "its secrets are gone")
    after = hub.directory / "home" / "after"
    wait_until(lambda: after.exists() and after.read_text(), 60, f"the site was told\n{hub.logs()}")
    assert re.fullmatch(rf"{NAME} spark (completed|failed)", after.read_text())
    assert (directory / "job.sh").exists()
    assert (directory / "job.log").exists()
    assert json.loads((directory / "exit.json").read_text())["signal"] == signal.SIGTERM
