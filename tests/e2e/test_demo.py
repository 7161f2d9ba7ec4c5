"""``make demo`` as a newcomer meets it: the printed link, the form, queued, starting, JupyterLab, a kernel, stop, the outcome."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.parts import HubUnderTest, Person, browser, wait_until
from tests.ports import free_port

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.browser


class DemoUnderTest(HubUnderTest):
    """Only its address is of interest; the demo makes the rest."""

    def __init__(self, link: str) -> None:
        self._url = link.partition("/hub/")[0]

    @property
    def url(self) -> str:
        return self._url

    def logs(self) -> str:
        return ""


def watch_titles(page: Page) -> list[str]:
    """What the waiting page's title says, in order, from now on."""
    seen: list[str] = []

    def note(text: str) -> None:
        if text and (not seen or seen[-1] != text):
            seen.append(text)

    page.expose_function("sawTitle", note)
    page.add_init_script(
        """
        document.addEventListener("DOMContentLoaded", () => {
          const title = document.querySelector("[data-show=title]");
          if (!title) return;
          const tell = () => window.sawTitle(title.textContent.trim());
          new MutationObserver(tell).observe(title, {childList: true, characterData: true, subtree: true});
          tell();
        });
        """
    )
    return seen


@pytest.fixture
def demo(tmp_path: Path):
    """The demo's link; it is ended by Ctrl-C, as a person would."""
    port = free_port()
    stamp = Path(sys.prefix, ".demo")
    if not stamp.exists():
        stamp.touch()  # these tests run in an environment that has it all already
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "-s", "demo", f"VENV={sys.prefix}", f"DEMO_ARGS=--no-browser --port={port}"],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, "HOME": str(home), "TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
    try:
        found = wait_until(
            lambda: process.poll() is None and re.search(r"http://\S+#link=\S+", log.read_text()),
            60,
            "the demo prints a link",
        )
        yield found[0], process, log, tmp_path
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def test_the_demo_from_the_printed_link_to_the_outcome(demo) -> None:
    link, process, log, directory = demo
    with browser() as chromium:
        person = Person(chromium, DemoUnderTest(link))
        page = person.page
        page.goto(link)
        page.wait_for_url("**/hub/home")
        page.get_by_role("link", name=re.compile("Start")).first.click()
        page.wait_for_url("**/hub/spawn/**")
        user = page.url.rsplit("/", 1)[1]
        # Another server takes every core first, so that this one has to queue.
        page.goto(f"{person.hub.url}/hub/spawn/{user}/other")
        person.submit(cores=str(os.cpu_count()), walltime="30m")
        page.wait_for_url("**/hub/spawn-pending/**")
        titles = watch_titles(page)
        page.goto(f"{person.hub.url}/hub/spawn/{user}")
        person.submit(cores="1", walltime="30m")
        page.wait_for_url("**/hub/spawn-pending/**")
        wait_until(lambda: page.wait_for_timeout(50) or "Queued" in titles, 20, "the page says that it waits")
        second = person.context.new_page()
        second.goto(f"{person.hub.url}/hub/spawn-pending/{user}/other")
        second.goto(f"{person.hub.url}/hub/home")
        second.locator("form[action*='/stop/'][action$='/other'] button").first.click()
        second.close()
        person.see_lab()
        assert titles[-2:] in (["Queued", "Starting"], ["Starting", "Ready"]), titles
        assert "Starting" in titles
        person.new_notebook()
        person.compute("1+1", "2")
        page.goto(f"{person.hub.url}/hub/home")
        expect(page.get_by_text("Ready").first).to_be_visible()
        expect(page.get_by_text("left").first).to_be_visible()
        # The form asked for half an hour; the embedded queue gives its owner more, and the job learns of it.
        page.get_by_label("More time for the default server").select_option("+ 1h (1h 30m in all)")
        page.get_by_role("button", name="Ask for it").first.click()
        expect(page.get_by_text("Its time was extended to 1h 30m.")).to_be_visible(timeout=30_000)
        expect(page.get_by_text(re.compile(r"1h 2\dm|1h 30m"), exact=True).first).to_be_visible(timeout=30_000)
        assert list(directory.glob("home/.batchhub/jobs/*/end.json"))
        page.get_by_role("button", name="Stop").first.click()
        expect(page.get_by_text("Stopped as asked").first).to_be_visible(timeout=120_000)
        # The link was good once.
        stranger = Person(chromium, DemoUnderTest(link))
        stranger.page.goto(link)
        expect(
            stranger.page.get_by_text(re.compile("used|expired|not right|no longer", re.IGNORECASE)).first
        ).to_be_visible()
        assert "/hub/home" not in stranger.page.url
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) in {0, 130, 2, -signal.SIGINT}
    assert "Traceback" not in log.read_text()
    assert not list(directory.glob("batchhub-demo-*")), "the demo left its directory behind"
    assert not list(directory.glob("home/.batchhub/jobs/*")), "and its jobs' directories"
