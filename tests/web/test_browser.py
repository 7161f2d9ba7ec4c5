"""The pages in a real browser, by keyboard alone: sign in, a form with an error, the right form, waiting, the server."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from tornado.web import RequestHandler

from batchhub.core.deeds import DeedKind
from batchhub.core.model import JobId, Outcome, Phase
from tests.needs import need_program
from tests.web.fakes import FAILED, LIMITED, PENDING, RUNNING, START, Site

pytestmark = pytest.mark.browser
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Notebook(RequestHandler):
    """What the proxy would lead to."""

    def get(self) -> None:
        self.finish('<title>Lab</title><link rel="icon" href="data:,"><h1>A notebook</h1>')


@pytest_asyncio.fixture
async def chromium() -> AsyncIterator[Browser]:
    path = need_program("chromium", "chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        await browser.close()


@asynccontextmanager
async def tab(chromium: Browser, site: Site, **options: object) -> AsyncIterator[Page]:
    """A page that fails the test for anything the browser complains about."""
    context = await chromium.new_context(base_url=site.url, **options)  # type: ignore[arg-type]
    page = await context.new_page()
    page.set_default_timeout(10000)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(f"{line.text} {line.location['url']}") if line.type != "log" else None)
    yield page
    await context.close()
    expected = re.compile(r"status of (400|403|404|424) (?!.*/static/)")
    assert not [line for line in said if not expected.search(line)], said


async def by_password(page: Page, name: str = "ann") -> None:
    await page.goto("/hub/login")
    await expect(page.locator("#username")).to_be_focused()
    await page.keyboard.type(name)
    await page.keyboard.press("Tab")
    await page.keyboard.type(name[::-1])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Your servers")).to_be_visible()


async def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, as a person without a mouse does."""
    for _ in range(40):
        if await page.locator(selector).first.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    pytest.fail(f"{selector} cannot be reached with Tab")


async def test_from_sign_in_to_the_server_by_keyboard(site: Site, chromium: Browser) -> None:
    site.server.request_callback.add_handlers(r".*", [(r"/user/ann/", Notebook)])
    async with tab(chromium, site) as page:
        await by_password(page)
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await tab_to(page, 'a[href="/hub/spawn/ann?profile=lab"]')
        await page.keyboard.press("Enter")

        await tab_to(page, "#field-cores")
        await page.keyboard.type("65")
        await page.keyboard.press("Enter")
        await expect(page.locator("#problems")).to_be_focused()
        await expect(page.locator("#problems")).to_contain_text("At most 64")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#field-cores")).to_be_focused()
        await expect(page.locator("#field-cores")).to_have_attribute("aria-invalid", "true")
        await page.keyboard.press("Control+A")
        await page.keyboard.type("4")
        await tab_to(page, "#field-walltime")
        await page.keyboard.press("Control+A")
        await page.keyboard.type("2h")
        await page.keyboard.press("Enter")

        await expect(page).to_have_url(f"{site.url}/hub/spawn-pending/ann")
        await expect(page.locator("[data-show=title]")).to_have_text("Queued")
        site.hub.move("ann", report=PENDING)
        await expect(page.locator("[data-show=detail]")).to_have_text("Resources")
        await expect(page.locator("[data-show=estimated]")).to_have_attribute("datetime", "2026-03-01T09:50:00Z")
        await expect(page.locator(".step[aria-current=step]")).to_have_text("Queued")
        site.hub.move("ann", phase=Phase.STARTING, host="n017")
        await expect(page.locator("[data-show=sentence]")).to_contain_text("n017")
        await expect(page.locator(".step[aria-current=step]")).to_have_text("Starting")
        site.hub.move("ann", phase=Phase.READY)
        await expect(page).to_have_url(f"{site.url}/user/ann/")
        await expect(page.get_by_role("heading")).to_have_text("A notebook")


async def test_after_a_wrong_password_one_types_it_again(site: Site, chromium: Browser) -> None:
    async with tab(chromium, site) as page:
        await page.goto("/hub/login")
        await page.keyboard.type("ann")
        await page.keyboard.press("Tab")
        await page.keyboard.type("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("not right")
        await expect(page.locator("#password")).to_be_focused()
        await page.keyboard.type("nna")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Your servers")).to_be_visible()


async def test_the_last_minutes_run_down_by_the_second(site: Site, chromium: Browser) -> None:
    async with tab(chromium, site) as page:
        await by_password(page)
        left = replace(RUNNING, time_left=timedelta(minutes=5))
        site.hub.put("ann", phase=Phase.READY, host="n017", report=left)
        await expect(page.locator("[data-left]")).to_have_text(re.compile(r"4m \d\ds"))


async def test_a_link_signs_in_and_leaves_no_trace(site: Site, chromium: Browser) -> None:
    async with tab(chromium, site) as page:
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        token = site.links.issue("demo", site.clock())
        await page.goto("/hub/login")  # where the page is open already, another fragment loads nothing
        await page.goto(f"/hub/login#link={token}")
        await expect(page.get_by_role("heading", name="Your servers")).to_be_visible()
        assert not any(token in url for url in seen)
        assert token not in await page.evaluate("location.href")


async def test_a_failure_appears_where_one_waits(site: Site, chromium: Browser) -> None:
    async with tab(chromium, site) as page:
        await by_password(page)
        site.hub.put("ann", phase=Phase.STARTING, job_id=JobId("4711"))
        await page.goto("/hub/spawn-pending/ann")
        await expect(page.locator("[data-show=title]")).to_have_text("Starting")
        site.hub.move("ann", words="Exited at once.", log_tail="jupyter: command not found", **FAILED)
        await expect(page.get_by_role("heading", level=1)).to_have_text("JupyterLab did not start")
        await expect(page.locator(".log")).to_have_text("jupyter: command not found")
        await page.get_by_role("button", name="Start again").click()
        await expect(page.locator("#problems")).to_be_visible()  # nothing was chosen the first time


async def test_home_follows_along(site: Site, chromium: Browser) -> None:
    async with tab(chromium, site) as page:
        await by_password(page)
        site.hub.put("ann", phase=Phase.QUEUED, job_id=JobId("4711"))
        await expect(page.locator(".badge")).to_have_text("Queued")
        await page.locator("#stop-1").focus()
        site.hub.move("ann", phase=Phase.READY, host="n017", report=RUNNING)
        await expect(page.locator(".badge")).to_have_text("Ready")
        await expect(page.locator("[data-left]")).to_have_text("3h 20m")
        await expect(page.locator("#stop-1")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator(".badge")).to_have_text("Stopping")
        site.hub.move("ann", phase=Phase.ENDED, outcome=Outcome.STOPPED)
        await expect(page.locator(".badge")).to_have_text("Stopped")


async def test_a_notebook_page_cannot_act_as_the_hub(site: Site, chromium: Browser) -> None:
    """Same origin, so the browser itself would allow it: reading pages, framing them, holding on to their window."""
    site.server.request_callback.add_handlers(r".*", [(r"/user/ann/", Notebook)])
    site.hub.put("ann", phase=Phase.READY)
    async with tab(chromium, site) as page:
        await by_password(page)
    async with tab(chromium, site) as page:
        await by_password(page)
        await page.goto("/user/ann/")
        code = "path => fetch(path).then(answer => answer.status)"
        for path in ("/hub/home", "/hub/token", "/hub/api/user", "/hub/api/users/ann/server"):
            assert await page.evaluate(code, path) == 403
        post = "path => fetch(path, {method: 'POST', body: new URLSearchParams({note: 'x'})}).then(answer => answer.status)"
        for path in ("/hub/token", "/hub/stop/ann"):
            assert await page.evaluate(post, path) == 403
        async with page.context.expect_page() as opened:
            await page.evaluate("() => { window.other = window.open('/hub/token') }")
        popup = await opened.value
        await expect(popup.get_by_role("heading", name="API tokens")).to_be_visible()
        assert await page.evaluate("() => window.other.closed")
    assert not site.hub.calls


LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.mark.parametrize("look", LOOKS)
async def test_every_page_fits_its_window(site: Site, chromium: Browser, look: str, tmp_path: Path) -> None:
    now = site.clock()
    site.store.people["root"] = await site.store.get_or_create_user("root", admin=True)
    async with tab(chromium, site, **LOOKS[look]) as page:

        async def shoot(name: str) -> None:
            await page.screenshot(path=tmp_path / f"{look}-{name}.png", full_page=True)
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} is {wide} pixels too wide"
            unnamed = await page.evaluate(
                "[...document.querySelectorAll('input:not([type=hidden]), select')].filter(e => !e.labels.length).length"
            )
            assert unnamed == 0

        await page.goto("/hub/login")
        await shoot("login")
        await by_password(page, "root")
        await shoot("home-empty")
        site.hub.put("root", phase=Phase.READY, host="n017", job_id=JobId("4711"), report=RUNNING)
        waiting = {"phase": Phase.QUEUED, "job_id": JobId("4712"), "report": PENDING}
        site.hub.put("root", "big-memory", **waiting)
        site.hub.put(
            "root", "old", words="slurmstepd: error: Detected 1 oom_kill event", job_id=JobId("4709"), **FAILED
        )
        for number in range(4):
            site.hub.put(f"user{number}", phase=Phase.READY, host=f"n01{number}", job_id=JobId(str(9000 + number)))
        await page.goto("/hub/home")
        await expect(page.locator(".server")).to_have_count(3)
        await shoot("home")
        await page.goto("/hub/spawn/root/new?choose=1")
        await shoot("choose")
        await page.goto("/hub/spawn/root/new?profile=lab&cores=99&walltime=9h&memory=lots")
        await shoot("form")
        await page.get_by_role("button", name="Start", exact=True).click()
        await expect(page.locator("#problems")).to_be_focused()
        await shoot("form-errors")
        site.hub.silent = now - timedelta(minutes=4)
        await page.goto("/hub/spawn-pending/root/big-memory")
        await expect(page.locator("[data-show=title]")).to_have_text("Queued")
        await shoot("pending")
        site.hub.silent = None
        long = "\n".join(
            f"[I 2026-03-01 09:{n:02}] a line of the log that is about as wide as lines get" for n in range(30)
        )
        site.hub.move("root", "old", log_tail=long)
        await page.goto("/hub/spawn-pending/root/old")
        await shoot("failed")
        await page.goto("/hub/user/root/old/lab")
        await shoot("stopped")
        await page.goto("/hub/admin?all=1")
        await shoot("admin")
        site.audit.note(DeedKind.REFUSED, "x" * 90, by="", address="2001:db8::" + "1234:" * 5 + "1", words="word " * 70)
        await page.goto("/hub/token")
        await page.locator("#note").fill("nightly run")
        await page.keyboard.press("Enter")
        await expect(page.locator("#fresh-token")).to_be_visible()
        await shoot("token")
        for name in ("settings/sessions", "admin/people", "admin/people/root", "admin/audit"):
            await page.goto(f"/hub/{name}")
            await expect(page.locator("h1")).to_be_visible()
            await shoot(name.replace("/", "-"))
        await page.goto("/hub/nothing")
        await shoot("error")


async def test_a_warning_comes_to_every_open_page_without_a_reload(site: Site, chromium: Browser) -> None:
    site.hub.put("ann", phase=Phase.READY, host="n3", job_id=JobId("4711"), report=LIMITED)
    async with tab(chromium, site) as page:
        await by_password(page)
        home = await page.context.new_page()
        await home.goto("/hub/home")
        await page.goto("/hub/token")
        await expect(page.locator("#endings")).to_be_empty()
        site.hub.move("ann", warned=START + timedelta(minutes=12))
        await expect(page.locator("#endings")).to_contain_text("Your server’s time is up at")
        await expect(page.locator("#endings")).to_contain_text("Save your work.")
        await expect(home.locator(".ending")).to_contain_text("Its time is up at")
        site.hub.offered_times = (timedelta(hours=3), timedelta(hours=5))
        site.hub.move("ann")
        await expect(home.get_by_label("More time for the default server")).to_be_visible()
        await home.get_by_label("More time for the default server").select_option("18000")
        await home.get_by_role("button", name="Ask for it").click()
        await expect(home).to_have_url(re.compile("/hub/home$"))
        assert site.hub.calls[-1] == ("extend", "ann", "", timedelta(hours=5), "ann")
        site.hub.move("ann", warned=None)
        await expect(page.locator("#endings")).to_be_empty()
