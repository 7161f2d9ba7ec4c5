"""The real JupyterHub, unmodified, with our proxy as its configurable-http-proxy."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.parts import wait_until
from tests.needs import missing
from tests.ports import free_port, free_ports

TOKEN = "a-proxy-token-for-this-test"
SERVICE = "a-service-token-for-this-test"
PROXY = [sys.executable, "-m", "batchhub", "proxy"]
USER = "ann@site"  # with a character that the hub escapes in routes
AT = "/user/ann@site"

CONFIG = """
import os
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "{scheme}://127.0.0.1:{hub}"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.last_activity_interval = int(os.environ["LOOK_EVERY"])
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.services = [{{"name": "look", "api_token": "{service}"}}]
c.JupyterHub.load_roles = [{{"name": "look", "scopes": ["proxy", "read:users", "read:servers"], "services": ["look"]}}]
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.command = {command!r}
c.ConfigurableHTTPProxy.api_url = "{scheme}://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.auth_token = "{token}"
c.SimpleLocalProcessSpawner.home_dir_template = "{home}/{{username}}"
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 40
"""


@pytest.fixture(autouse=True)
def _jupyterhub() -> None:
    if find_spec("jupyterhub") is None:
        missing("JupyterHub is not installed: pip install 'jupyterhub>=5'")


class Place:
    """A directory and free ports for one hub."""

    def __init__(self, directory: Path, *, scheme: str = "http", more: str = "") -> None:
        self.directory = directory
        self.public, self.api, self.hub = free_ports(3)
        self.url = f"http://127.0.0.1:{self.public}"
        known = {"public": self.public, "api": self.api, "hub": self.hub, "scheme": scheme, "command": PROXY}
        text = CONFIG.format(token=TOKEN, service=SERVICE, home=directory, python=sys.executable, **known)
        (directory / "jupyterhub_config.py").write_text(text + more)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def process(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "CONFIGPROXY"))}
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.directory, env={**env, "HOME": str(self.directory), **environ}, stdout=log, stderr=log
            )

    @contextmanager
    def running_hub(self, look_every: int = 300) -> Iterator[subprocess.Popen[bytes]]:
        """``look_every`` so many seconds the hub reads and repairs the proxy's routes by itself."""
        process = self.process(sys.executable, "-m", "jupyterhub", LOOK_EVERY=str(look_every))
        try:
            wait_until(lambda: self.answers("/hub/health") or process.poll() is not None, 40, f"the hub\n{self.log}")
            assert process.poll() is None, self.log
            yield process
        finally:
            end(process)

    def answers(self, path: str) -> bool:
        with suppress(OSError):
            return requests.get(self.url + path, timeout=5).ok
        return False

    def routes(self, method: str = "GET", path: str = "", **body: Any) -> Any:
        answer = requests.request(
            method,
            f"http://127.0.0.1:{self.api}/api/routes{path}",
            headers={"Authorization": f"token {TOKEN}"},
            json=body or None,
            timeout=10,
        )
        assert answer.ok, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def ask_hub(self, path: str, method: str = "GET") -> Any:
        answer = requests.request(
            method, f"{self.url}/hub/api{path}", headers={"Authorization": f"token {SERVICE}"}, timeout=30
        )
        assert answer.ok, (answer.status_code, answer.text)
        return answer.json() if answer.content else None


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def no_servers_left(directory: Path) -> Iterator[None]:
    """End the notebook servers that are left when the test fails."""
    try:
        yield
    finally:
        for found in directory.glob("*/.local/share/jupyter/runtime/jpserver-*.json"):
            pid = int(json.loads(found.read_text())["pid"])
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # its kernels see that they have no parent any more, and end
            wait_until(lambda pid=pid: gone(pid), 15, "the notebook server ends")


class Person:
    """Somebody with a browser: cookies, redirects, the page's XSRF token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=120, headers={"Sec-Fetch-Mode": "navigate"}, **more)

    def xsrf(self, path: str) -> str:
        return next(each.value or "" for each in self.session.cookies if each.name == "_xsrf" and each.path == path)

    def sign_in(self, name: str) -> requests.Response:
        self.get("/hub/login")
        form = {"username": name, "password": "x", "_xsrf": self.xsrf("/hub/")}
        return self.session.post(f"{self.url}/hub/login", data=form, timeout=120)

    def start_server(self) -> None:
        self.get("/hub/spawn")
        progress = f"{self.url}/hub/api/users/{USER}/server/progress?_xsrf={self.xsrf('/hub/')}"
        with self.session.get(progress, stream=True, timeout=60) as events:
            said = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith(b"data: ")]
        assert said[-1].get("ready"), said

    def stop_server(self) -> None:
        headers = {"X-XSRFToken": self.xsrf("/hub/")}
        answer = self.session.delete(f"{self.url}/hub/api/users/{USER}/server", headers=headers, timeout=120)
        assert answer.status_code in {202, 204}, answer.text

    def open_kernel(self) -> str:
        headers = {"X-XSRFToken": self.xsrf(f"{AT}/")}
        answer = self.session.post(f"{self.url}{AT}/api/kernels", json={}, headers=headers, timeout=120)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def channel(self, kernel: str) -> AbstractContextManager[ClientConnection]:
        cookies = [each for each in self.session.cookies if each.path in {"/", f"{AT}/"}]
        return connect(
            f"ws{self.url[4:]}{AT}/api/kernels/{kernel}/channels",
            additional_headers={"Cookie": "; ".join(f"{each.name}={each.value}" for each in cookies)},
            origin=self.url,  # type: ignore[arg-type]
            open_timeout=120,
            proxy=None,
        )


def run(channel: ClientConnection, code: str) -> str:
    """The result that the kernel sends over this WebSocket."""
    message = uuid.uuid4().hex
    header = {"msg_id": message, "msg_type": "execute_request", "session": "s", "username": "", "version": "5.3"}
    content = {"code": code, "silent": False}
    channel.send(
        json.dumps({"header": header, "content": content, "parent_header": {}, "metadata": {}, "channel": "shell"})
    )
    while True:
        said = json.loads(channel.recv(timeout=120))
        if said["msg_type"] == "execute_result" and said["parent_header"]["msg_id"] == message:
            return str(said["content"]["data"]["text/plain"])


def test_a_hub_that_starts_the_proxy_itself_with_tls_inside(tmp_path: Path) -> None:
    """``internal_ssl``: the control API and the hub behind the proxy ask for certificates that JupyterHub made."""
    place = Place(tmp_path, scheme="https", more="c.JupyterHub.internal_ssl = True\n")
    with place.running_hub() as hub:
        proxy = int((tmp_path / "jupyterhub-proxy.pid").read_text())
        words = Path(f"/proc/{proxy}/cmdline").read_bytes().split(b"\0")
        assert b"--api-ssl-request-cert" in words
        assert b"--client-ssl-ca" in words
        assert TOKEN.encode() not in b" ".join(words)
        trust = tmp_path / "internal-ssl/proxy-api-ca/proxy-api-ca.crt"
        with pytest.raises(requests.exceptions.ConnectionError):  # no certificate shown
            requests.get(f"https://127.0.0.1:{place.api}/api/routes", verify=str(trust), timeout=120)
        page = Person(place.url).sign_in(USER)
        assert page.ok
        assert "/hub/login" not in page.url
        hub.send_signal(signal.SIGTERM)
        assert hub.wait(20) == 0, place.log
    wait_until(lambda: gone(proxy), 10, "the proxy ends with the hub that started it")
    assert not (tmp_path / "jupyterhub-proxy.pid").exists()


def test_a_person_a_kernel_and_a_hub_that_is_restarted(tmp_path: Path) -> None:
    place = Place(tmp_path, more="c.ConfigurableHTTPProxy.should_start = False\n")
    where = ["--ip=127.0.0.1", f"--port={place.public}", "--api-ip=127.0.0.1", f"--api-port={place.api}"]
    errors = f"--error-target=http://127.0.0.1:{place.hub}/hub/error"
    proxy = place.process(*PROXY, *where, errors, CONFIGPROXY_AUTH_TOKEN=TOKEN)
    try:
        with no_servers_left(tmp_path), ExitStack() as stack:
            follow_a_person(place, stack)
        assert proxy.poll() is None
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(10) == 0
        assert "Traceback" not in place.log
    finally:
        end(proxy)


def follow_a_person(place: Place, stack: ExitStack) -> None:
    person = Person(place.url)
    with place.running_hub(look_every=1):
        assert urlsplit(person.sign_in(USER).url).path.startswith(("/hub/home", "/hub/spawn"))
        person.start_server()
        assert place.routes()[AT]["user"] == USER
        lab = person.get(f"{AT}/lab")  # through the server's OAuth and back
        assert (lab.status_code, urlsplit(lab.url).path) == (200, f"{AT}/lab")
        assert "jupyter-config-data" in lab.text
        kernel = person.open_kernel()
        channel = stack.enter_context(person.channel(kernel))
        assert run(channel, "1+1") == "2"
        used = seen(place.routes()[AT]["last_activity"])
        wait_until(lambda: last_use(place) >= used, 15, "the hub learns from the proxy that the server was used")

    # The hub is away: its own pages are not to be had, the notebook goes on.
    away = person.get("/hub/home")
    assert away.status_code == 503
    assert run(channel, "2+3") == "5"

    with place.running_hub():
        assert run(channel, "3+4") == "7"  # the same WebSocket
        assert AT in place.routes()
        assert person.get(f"{AT}/api/status").status_code == 200
        lost_routes_come_back(place, person)
        assert run(channel, "4+5") == "9"

        # A server that is dead: the hub's page about it, with the proxy's status.
        place.routes("POST", "/user/ghost", target=f"http://127.0.0.1:{free_port()}", jupyterhub=True, user="ghost")
        page = person.get("/user/ghost/lab?x=1")
        assert page.status_code == 503
        assert re.search(r"503\s*:\s*Service Unavailable", page.text), page.text[:2000]
        with pytest.raises(InvalidStatus, match="503"), connect(f"ws{place.url[4:]}/user/ghost/ws", proxy=None):
            pass

        person.stop_server()
        wait_until(lambda: AT not in place.routes(), 30, "the hub takes the stopped server's route away")


def lost_routes_come_back(place: Place, person: Person) -> None:
    place.routes("DELETE", AT)
    elsewhere = person.get(
        f"{AT}/api/status", allow_redirects=False
    )  # without its route, the hub answers for the server
    assert elsewhere.headers["Location"] == f"/hub{AT}/api/status"
    place.routes("POST", "/user/nobody", target="http://127.0.0.1:9", jupyterhub=True)
    place.ask_hub("/proxy", "POST")  # check_routes
    assert AT in place.routes()
    assert "/user/nobody" not in place.routes()
    assert person.get(f"{AT}/api/status").status_code == 200


def seen(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp).astimezone(UTC)


def last_use(place: Place) -> datetime:
    return seen(place.ask_hub(f"/users/{USER}")["servers"][""]["last_activity"])
