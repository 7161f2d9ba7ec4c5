"""Every server under a host of its own, in a real browser: the way in, what a notebook's scripts reach from there, and signing out."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest
from playwright.sync_api import Page, expect

from batchhub.auth.dictionary import hash_password
from batchhub.core.hosts import label
from tests.e2e.parts import HubUnderTest, Person, browser, python_config, wait_until
from tests.proxy.certificates import Authority

pytestmark = pytest.mark.browser
ME, PASSWORD = getpass.getuser(), "correct horse"

LISTENS = """
import http.server, json, os, sys
from pathlib import Path

class Application(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Authorization", "")
        if asked != "token " + Path(sys.argv[2]).read_text():
            return self.send_error(403)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>Mine</title><h1>An application</h1>")

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Application).serve_forever()
"""


class HubWithHosts(HubUnderTest):
    """At http://hub.localhost, whose sub-domains Chromium takes for this machine (RFC 6761 section 6.3)."""

    scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://hub.localhost:{self.port}"

    def server(self, name: str = "") -> str:
        return f"{self.scheme}://{label(ME, name)}.hub.localhost:{self.port}"

    def _answers(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.logs()}"
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        address = f"{self.scheme}://127.0.0.1:{self.port}/hub/api"
        with contextlib.suppress(OSError), urlopen(address, timeout=2, context=trust) as answer:
            return bool(answer.status == 200)
        return False


@contextlib.contextmanager
def running(directory: Path, *, secure: bool) -> Iterator[HubWithHosts]:
    """Hub and proxy, with two workers."""
    (directory / "queue").mkdir(mode=0o700)
    (directory / "home").mkdir()
    (directory / "app.py").write_text(LISTENS)
    here = Path(sys.executable).parent
    cluster = {
        "scheduler": "local",
        "scheduler_options": {"python": sys.executable, "spool": str(directory / "queue")},
        "python": sys.executable,
        "node_address": "127.0.0.1",
        "environment": {"PATH": f"{here}:{os.environ['PATH']}", "HOME": str(directory / "home")},
    }
    lab = {"name": "lab", "title": "JupyterLab", "arguments": ["--allow-root"] if os.geteuid() == 0 else []}
    small = {"name": "small", "title": "Something small", "application": "small"}
    applications = {
        "small": {
            "title": "Something small",
            "argv": [sys.executable, str(directory / "app.py"), "{port}", "{token_file}"],
            "guard_path": "{base_url}",
        }
    }
    config = python_config(
        {
            "BatchHub.authenticator_class": "dictionary",
            "DictionaryAuthenticator.users": {ME: hash_password(PASSWORD)},
            "BatchHub.clusters": {"local": cluster},
            "BatchHub.profiles": [lab, small],
            "BatchHub.applications": applications,
            "Proxy.workers": 2,
            "Watching.fast": 0.3,
        }
    )
    if secure:
        chain, key = Authority(directory).sign("hub", "hub.localhost")
        config += python_config({"Proxy.ssl_cert": str(chain), "Proxy.ssl_key": str(key)})
    scheme = "https" if secure else "http"
    made = HubWithHosts(
        directory, f'c.BatchHub.subdomain_host = f"{scheme}://hub.localhost:{{c.Proxy.port}}"\n{config}'
    )
    made.scheme = scheme
    try:
        made.start()
        yield made
    finally:
        made.stop()
        end_jobs(directory / "queue")


def end_jobs(queue: Path) -> None:
    """Jobs outlive hub and proxy, as they should; those that a failed test left are ended with it."""
    for process in psutil.process_iter(["cmdline"]):
        if f"--spool={queue}" in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in [*process.children(recursive=True), process]:
                    one.kill()


def origin(page: Page) -> str:
    """As the page's own scripts have it."""
    return str(page.evaluate("location.origin"))


def started(person: Person, profile: str, name: str = "") -> None:
    person.page.goto(f"{person.hub.url}/hub/spawn/{ME}{f'/{name}' if name else ''}?profile={profile}")
    person.submit()


def stop_all(page: Page, hub: HubWithHosts) -> None:
    """By the buttons, one after the other."""
    page.goto(f"{hub.url}/hub/home")
    buttons = page.get_by_role("button", name="Stop")
    while left := buttons.count():
        buttons.first.click()
        expect(buttons).to_have_count(left - 1)
    wait_until(lambda: page.get_by_text("Stopped as asked").count() == 2, 30, "both have ended")


REACH = """async address => {
  try { const answer = await fetch(address, {credentials: 'include'}); return [answer.status, (await answer.text()).slice(0, 200)] }
  catch (error) { return [0, error.name] }
}"""
"""What a script can read of an address: status and text, or the browser's refusal."""


def test_every_server_at_its_own_host(tmp_path: Path) -> None:
    with running(tmp_path, secure=True) as hub, browser() as chromium:
        person = Person(chromium, hub, ignore_https_errors=True)
        page = person.page
        person.sign_in(ME, PASSWORD)

        # A named server: from the form to its own host, by the hub's own steps.
        started(person, "small", "mine")
        page.wait_for_url(f"{hub.server('mine')}/user/{ME}/mine/", timeout=120_000)
        expect(page.get_by_role("heading")).to_have_text("An application")

        # JupyterLab, at another.
        started(person, "lab")
        person.see_lab()
        assert origin(page) == hub.server()
        page.screenshot(path=tmp_path / "lab.png")
        told = json.loads(page.locator("#jupyter-config-data").inner_text() or "{}")
        assert (told["hubHost"], told["hubPrefix"]) == (hub.url, "/hub/")

        # Nothing of the hub, or of the other server, can be read from there; nor does the hub exist at this host.
        for address in (
            f"{hub.url}/hub/home",
            f"{hub.url}/hub/token",
            f"{hub.url}/hub/api/user",
            hub.server("mine") + f"/user/{ME}/mine/",
        ):
            assert page.evaluate(REACH, address) == [0, "TypeError"]
        for path in ("/hub/home", "/hub/token", "/hub/api/user", "/"):
            assert page.evaluate(REACH, path)[0] == 404
        assert page.evaluate(REACH, f"/user/{ME}/api/status")[0] == 200
        # What needs no answer to do harm is refused too: no token is made.
        post = "address => fetch(address, {method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams({note: 'x', days: '1'})}).then(() => 1, () => 0)"
        page.evaluate(post, f"{hub.url}/hub/token")

        # No cookie of ours is a script's to see, and none is sent to a host it was not made for.
        assert "batchhub" not in page.evaluate("document.cookie")
        found = {(cookie["name"], cookie["domain"]) for cookie in person.context.cookies()}
        assert ("__Host-batchhub-session", "hub.localhost") in found
        hosts = {urlsplit(hub.server(name)).hostname for name in ("", "mine")}
        assert {domain for name, domain in found if name == "batchhub-access"} == hosts
        assert not any(domain.startswith(".") for _, domain in found)
        names = {"__Host-batchhub-session", "batchhub-access", "__Host-batchhub-door"}
        secrets = [cookie["value"] for cookie in person.context.cookies() if cookie["name"] in names]
        assert len(secrets) == 5
        assert not [url for url in person.urls if any(secret in url for secret in secrets)]

        # A cookie for the hub's host can be set from a server's, but none that the hub would look at.
        for name in ("batchhub-session", "__Host-batchhub-session", "__host-batchhub-session"):
            page.evaluate(f"document.cookie = '{name}=evil; Domain=hub.localhost; Path=/; Secure'")
        found = {(cookie["name"], cookie["domain"]) for cookie in person.context.cookies() if cookie["value"] == "evil"}
        assert found == {("batchhub-session", ".hub.localhost")}

        # Old addresses, and the hub's at this host, lead to the right one.
        second = person.context.new_page()
        second.goto(f"{hub.url}/user/{ME}/mine/")
        assert second.url == f"{hub.server('mine')}/user/{ME}/mine/"
        second.goto(f"{hub.server()}/hub/token")
        assert second.url == f"{hub.url}/hub/token"
        expect(second.get_by_text("x", exact=True)).to_have_count(0)
        second.goto(f"{hub.url}/hub/user-redirect/api/status?x=1")
        assert second.url == f"{hub.server()}/user/{ME}/api/status?x=1"

        # Signing out, in another tab: the notebook's open sockets are closed, and nothing is let in any more.
        page.evaluate(
            f"""() => {{
              const one = () => new Promise((open, no) => {{
                const socket = new WebSocket(`wss://${{location.host}}/user/{ME}/api/events/subscribe`);
                window.cut.push(new Promise(closed => {{ socket.onclose = () => closed(true) }}));
                socket.onopen = open; socket.onerror = no;
              }});
              window.cut = [];
              return Promise.all([...Array(8)].map(one));  // as many as land in both workers
            }}"""
        )
        second.goto(f"{hub.url}/hub/home")
        second.get_by_role("button", name="Sign out").click()
        second.wait_for_url("**/hub/login?out=1")
        assert page.evaluate("Promise.all(window.cut)") == [True] * 8
        assert page.evaluate(REACH, f"/user/{ME}/api/status")[0] == 424
        second.screenshot(path=tmp_path / "out.png")

        page.close()

        # Signing in again in the same browser works at once, and leads back to where one was.
        second.goto(f"{hub.server('mine')}/user/{ME}/mine/?x=1")
        second.wait_for_url("**/hub/login?next=*")
        second.get_by_label("Username").fill(ME)
        second.get_by_label("Password", exact=True).fill(PASSWORD)
        second.get_by_role("button", name="Sign in").click()
        second.wait_for_url(f"{hub.server('mine')}/user/{ME}/mine/?x=1")
        stop_all(second, hub)
        person.context.close()


def test_without_scripts_and_without_tls(tmp_path: Path) -> None:
    with running(tmp_path, secure=False) as hub, browser() as chromium:
        person = Person(chromium, hub, java_script_enabled=False)
        page = person.page
        person.sign_in(ME, PASSWORD)
        started(person, "small", "plain")
        page.wait_for_url("**/hub/access?**", timeout=120_000)  # the waiting page reloads itself until it is ready
        expect(page.get_by_role("heading", name="Opening your server")).to_be_visible()
        page.screenshot(path=tmp_path / "enter.png")
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url(f"{hub.server('plain')}/user/{ME}/plain/")
        expect(page.get_by_role("heading")).to_have_text("An application")
        person.stop_server()
        person.context.close()
