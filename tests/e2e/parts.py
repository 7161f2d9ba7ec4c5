"""Parts of the end-to-end tests: a JupyterLab that every account can run, a hub as separate processes, a browser."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.needs import missing, need_program
from tests.ports import free_ports

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SHARED = Path("/var/lib/batchhub-lab")
PATIENCE = 120.0
"""Seconds until a test gives up on a hub or page; nothing waits for it. A machine may be ten times slower than the one it was written on."""

expect.set_options(timeout=PATIENCE * 1000)


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Look often until it is true; fail with ``what`` after ``seconds``, or later: a test is not there to time anything."""
    deadline = time.monotonic() + max(seconds, PATIENCE)
    while True:
        if found := true():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {max(seconds, PATIENCE):g} s: {what}")
        time.sleep(0.05)


def jupyter_for_everybody() -> Path:
    """The ``bin`` directory of a JupyterLab that ordinary accounts can run.

    The tests' own environment may lie in a home that others cannot enter, so one is made from Debian's Python, once a machine.
    """
    python = Path("/usr/bin/python3")
    if not python.exists():
        missing("/usr/bin/python3 is not there: apt-get install python3 python3-venv")
    wanted = ["jupyterlab>=4.2"]
    name = hashlib.sha256(repr((wanted, sys.version_info[:2])).encode()).hexdigest()[:8]
    place = SHARED / f"jupyter-{name}"
    if not (place / ".complete").exists():
        SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
        made = subprocess.run([python, "-m", "venv", "--clear", place], capture_output=True, text=True, check=False)
        if made.returncode:
            missing(f"no virtual environment from {python}: apt-get install python3-venv ({made.stderr[-200:]})")
        subprocess.run([place / "bin/pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
        (place / ".complete").touch()
    return place / "bin"


@contextlib.contextmanager
def browser(*flags: str) -> Iterator[Browser]:
    """A headless Chromium, with more flags if need be. Its own block: playwright keeps an event loop for as long as it is open."""
    path = need_program("chromium", "chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=[*CHROMIUM_FLAGS, *flags])
        try:
            yield opened
        finally:
            opened.close()


class HubUnderTest:
    """A hub and a proxy as a site would run them: two processes, one configuration."""

    def __init__(
        self,
        directory: Path,
        config: str,
        *,
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
        debug: bool = True,
    ) -> None:
        self.directory = directory
        self.debug = debug
        self.state = directory / "state"
        self.config = directory / "batchhub_config.py"
        self.prefix = list(prefix)
        self.host = host
        self.port, self.api_port, self.hub_port = free_ports(3)
        own = f"""
c = get_config()
c.BatchHub.state_dir = {str(self.state)!r}
c.Proxy.ip = {host!r}
c.Proxy.port = {self.port}
c.Proxy.api_port = {self.api_port}
c.Hub.port = {self.hub_port}
c.Starting.first_word = 60.0
"""
        self.config.write_text(own + config)
        self.hub_module = "batchhub"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self, *, proxy: bool = True) -> None:
        """Start what does not run yet and wait until it answers."""
        for name in ("proxy", "hub") if proxy else ("hub",):
            if name not in self._processes:
                self.spawn(name)
        wait_until(self._answers, PATIENCE, f"the hub answers\n{self.logs()}")

    def spawn(self, name: str) -> None:
        """Start ``hub`` or ``proxy``."""
        module = self.hub_module if name == "hub" else "batchhub"
        argv = [*self.prefix, sys.executable, "-m", module, name, f"--config={self.config}"]
        with (self.directory / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [*argv, *(["--debug"] if self.debug else [])],
                stdout=output,
                stderr=output,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )

    def pid(self, name: str) -> int:
        """Of ``hub`` or ``proxy``."""
        return self._processes[name].pid

    def _answers(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.logs()}"
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/hub/api", timeout=2).status_code == 200
        return False

    def forget_dead_hub(self) -> bool:
        """Whether the hub has died, by whatever hand; then it can be started again."""
        process = self._processes.get("hub")
        if process is None or process.poll() is None:
            return False
        del self._processes["hub"]
        return True

    def kill_hub(self) -> None:
        """SIGKILL, as the kernel would."""
        self.kill("hub")

    def kill(self, name: str) -> None:
        """The same to hub or proxy."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)
        self._processes.clear()

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
            for path in sorted(self.directory.glob("*.log"))
        )

    @property
    def hub_log(self) -> str:
        return (self.directory / "hub.log").read_text(errors="replace")


class Person:
    """Somebody in front of a browser."""

    def __init__(self, opened: Browser, hub: HubUnderTest, **context: Any) -> None:
        self.hub = hub
        self.context = opened.new_context(viewport={"width": 1200, "height": 800}, **context)
        self.urls: list[str] = []
        self.context.on("request", lambda request: self.urls.append(request.url))
        self.context.on("page", lambda page: page.on("websocket", lambda socket: self.urls.append(socket.url)))
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)

    def sign_in(self, name: str, password: str) -> None:
        self.page.goto(f"{self.hub.url}/hub/login")
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password", exact=True).fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/hub/home")

    def open_form(self, server: str = "") -> None:
        self.page.goto(f"{self.hub.url}/hub/spawn" + (f"/{server}" if server else ""))

    def submit(self, **values: str) -> None:
        """Fill the form by its fields' names and press Start, once the page is whole: on a busy machine its text is there before its fields."""
        self.page.wait_for_load_state()
        for name, value in values.items():
            field = self.page.locator(f"[name={name}]")
            if field.evaluate("element => element.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.page.get_by_role("button", name="Start").click()

    def see_lab(self) -> None:
        """Wait until JupyterLab is there; a failure shows what the page says instead."""
        try:
            self.page.wait_for_url("**/user/**/lab**", timeout=PATIENCE * 1000)
            self.page.wait_for_selector("#jp-main-dock-panel", timeout=PATIENCE * 1000)
        except Exception as error:
            raise AssertionError(
                f"{self.page.url}\n{self.page.inner_text('body')[:1500]}\n{self.hub.logs()}"
            ) from error

    def new_notebook(self) -> None:
        """A fresh one, whatever an earlier visit left in JupyterLab's workspace."""
        self.page.goto(self.page.url.partition("?")[0].partition("/lab")[0] + "/lab?reset")
        self.page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
        self.page.wait_for_selector(".jp-Notebook .cm-content", timeout=PATIENCE * 1000)
        expect(self.page.get_by_text(re.compile("Python 3.*Idle"))).to_be_visible(timeout=PATIENCE * 1000)

    def compute(self, code: str, answer: str) -> None:
        """Type into the newest cell, run it, and see the answer: the kernel's WebSocket works both ways."""
        self.page.locator(".jp-Notebook .cm-content").last.click()
        self.page.keyboard.type(code)
        self.page.keyboard.press("Shift+Enter")
        expect(self.page.locator(".jp-OutputArea-output").last).to_contain_text(answer, timeout=PATIENCE * 1000)

    def stop_server(self) -> None:
        self.page.goto(f"{self.hub.url}/hub/home")
        self.page.get_by_role("button", name="Stop").first.click()

    def secrets(self) -> list[str]:
        """Every cookie that proves something."""
        found = [value for name, value in self.cookies().items() if name in {"batchhub-session", "batchhub-access"}]
        assert len(found) == 2
        return found

    def cookies(self) -> dict[str, str]:
        return {cookie["name"]: cookie["value"] for cookie in self.context.cookies()}


def python_config(values: Mapping[str, Any]) -> str:
    """Lines of a configuration file."""
    return "\n".join(f"c.{name} = {value!r}" for name, value in values.items()) + "\n"
