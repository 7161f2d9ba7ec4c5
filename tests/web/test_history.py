"""What happened to a server: its page, the same for programs, and the page in a browser."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser as Chromium
from playwright.async_api import async_playwright, expect

from batchhub.core.model import JobId, Outcome, Phase, ServerId
from batchhub.store.values import Event
from batchhub.web.pages.history import shown_options
from tests.needs import need_program
from tests.web.fakes import LAB, RUNNING, START, Browser, Site
from tests.web.test_browser import ARGS, LOOKS, by_password, tab, tab_to

OLD = ServerId("aaaaaaaaaaaa")
OPTIONS = {"partition": "gpu", "cores": 4, "memory": 8192, "walltime": 28800, "exclusive": True, "gone": False}


def trail(server_id: ServerId) -> list[Event]:
    def at(seconds: float, *words: str) -> Event:
        return Event(server_id, START + timedelta(seconds=seconds), *words)

    return [
        at(0, "requested", "lab on tinaroo", "ann"),
        at(1, "submit", "", "hub", "new", "submit"),
        at(2, "submitted", "job 4711", "scheduler", "accepted", ""),
        at(9, "phase", "requested → queued", "scheduler", "waiting: PENDING (Priority)", ""),
        at(70, "phase", "queued → starting; on n017", "scheduler", "running: RUNNING on n017", "reach"),
        at(71, "reach failed", f"The application cannot be reached yet: <b>refused</b> {'y' * 120}", "hub"),
        at(75, "answered", "", "hub", "answers with HTTP 200 on n017", "reach"),
        at(76, "reach worked", "It worked after 1 failed attempt.", "hub"),
        at(76, "phase", "starting → ready", "hub", "answering: RUNNING on n017", "publish"),
    ]


def put(site: Site, user: str = "ann", name: str = "") -> ServerId:
    site.hub.put(
        user,
        name,
        phase=Phase.READY,
        host="n017",
        job_id=JobId("4711"),
        report=RUNNING,
        options=OPTIONS,
        directory=f"/home/{user}/.batchhub/jobs/x",
        submit_tried=START + timedelta(seconds=2),
        started=START + timedelta(seconds=68),
        answered=START + timedelta(seconds=75),
    )
    server = site.hub.rows[user, name]
    site.hub.trails[server.id] = trail(server.id)
    old = replace(
        server,
        id=OLD,
        phase=Phase.ENDED,
        outcome=Outcome.OUT_OF_MEMORY,
        exit_code=137,
        words="OUT_OF_MEMORY",
        log_tail="Killed <script>",
        created=START - timedelta(days=1),
        answered=None,
        ended=START - timedelta(hours=20),
    )
    site.hub.past[user, name] = [old]
    site.hub.trails[OLD] = [Event(OLD, START, "phase", "starting → ended", "scheduler", "finished: OOM", "collect")]
    return server.id


async def test_the_page_of_a_server(site: Site, ann: Browser) -> None:
    server_id = put(site)
    answer = await ann.get("hub/server/ann")
    assert answer.code == 200
    ann.has("Default server", "n017", "4711", "/home/ann/.batchhub/jobs/x", server_id)
    ann.has("Requested", "Submitted", "Started", "Answered", "2026-03-01 09:31:15 UTC", "8h", "gpu", "the scheduler")
    ann.has("Given to the scheduler", "waiting: PENDING (Priority)", "Reaching it failed", "publish")
    assert "&lt;b&gt;refused&lt;/b&gt;" in ann.text
    places = [ann.text.index(f"<strong>{what}") for what in ("Asked for", "Taken by", "The application answers")]
    assert places == sorted(places), "oldest first"
    assert f'href="/hub/server/ann?run={OLD}"' in ann.text
    assert "Out of memory" in ann.text
    site.hub.cut = True
    await ann.get("hub/server/ann")
    ann.has(f"batchhub events {server_id}")


async def test_an_earlier_run(site: Site, ann: Browser) -> None:
    put(site, name="gpu")
    answer = await ann.get(f"hub/server/ann/gpu?run={OLD}")
    assert answer.code == 200
    ann.has("An earlier run", "finished: OOM", "out of memory", "137", "Killed <script>", "OUT_OF_MEMORY")
    assert "<script>" not in ann.text.replace("<script type=", "")
    assert "waiting: PENDING" not in ann.text
    assert 'id="history">' in ann.text, "a page that does not follow along"


async def test_it_is_nobody_elses(site: Site, ann: Browser) -> None:
    put(site, "bob")
    for query in ("", f"?run={OLD}"):
        assert (await ann.get(f"hub/server/bob{query}")).code == 403
        assert "4711" not in ann.text
        answer = await ann.get(f"hub/api/users/bob/server/events{query}")
        assert answer.code in {403, 404}
        assert b"4711" not in answer.body
    assert (await ann.get("hub/server/ann")).code == 404
    put(site)
    assert (await ann.get("hub/server/ann?run=zzzzzzzzzzzz")).code == 404
    assert (await ann.get("hub/server/ann/a%20b")).code == 400
    stranger = site.browser()
    answer = await stranger.get("hub/server/ann")
    assert (answer.code, answer.headers["Location"]) == (302, "/hub/login?next=%2Fhub%2Fserver%2Fann")


async def test_admins_may_look(site: Site) -> None:
    put(site, "bob")
    root = await site.signed_in("root")
    assert (await root.get("hub/server/bob")).code == 200
    root.has("Default server of bob", "Everybody's servers", "waiting: PENDING (Priority)")
    assert 'id="history">' in root.text, "a page that does not follow along"
    await root.get("hub/admin")
    assert 'href="/hub/server/bob"' in root.text


async def test_ways_to_it(site: Site, ann: Browser) -> None:
    put(site)
    await ann.get("hub/home")
    assert 'href="/hub/server/ann"' in ann.text
    site.hub.move("ann", phase=Phase.STARTING)
    await ann.get("hub/spawn-pending/ann")
    assert 'href="/hub/server/ann"' in ann.text
    site.hub.move("ann", phase=Phase.ENDED, outcome=Outcome.FAILED)
    await ann.get("hub/spawn-pending/ann")
    assert 'href="/hub/server/ann"' in ann.text


async def test_the_same_for_programs(site: Site, ann: Browser) -> None:
    server_id = put(site)
    answer = await ann.get("hub/api/users/ann/server/events")
    assert answer.headers["Content-Type"].startswith("application/json")
    said = json.loads(answer.body)
    assert said["run"]["id"] == server_id
    assert said["older_events"] is False
    assert [run["id"] for run in said["runs"]] == [server_id, OLD]
    assert said["runs"][1]["outcome"] == "out of memory"
    assert said["events"][3] == {
        "time": "2026-03-01T09:30:09+00:00",
        "kind": "phase",
        "by": "scheduler",
        "seen": "waiting: PENDING (Priority)",
        "done": "",
        "words": "requested → queued",
    }
    said = json.loads((await ann.get(f"hub/api/users/ann/server/events?run={OLD}")).body)
    assert (said["run"]["id"], len(said["events"])) == (OLD, 1)
    put(site, name="gpu")
    assert (await ann.get("hub/api/users/ann/servers/gpu/events")).code == 200
    assert (await ann.get("hub/api/users/ann/servers/none/events")).code == 404
    assert (await site.browser().get("hub/api/users/ann/server/events")).code == 403


async def test_options_of_a_profile_that_is_no_longer_offered(site: Site) -> None:
    put(site)
    row = site.hub.rows["ann", ""]
    assert ("walltime", "28800") in shown_options(None, row)
    assert ("exclusive", "yes") in shown_options(None, row)
    offered = dict(shown_options(LAB, row))
    assert offered["A whole node for me"]
    assert offered["gone"] == "no"


@pytest_asyncio.fixture
async def chromium():
    path = need_program("chromium", "chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        await browser.close()


@pytest.mark.browser
async def test_by_keyboard_from_home_to_an_earlier_run_and_following_along(site: Site, chromium: Chromium) -> None:
    server_id = put(site)
    async with tab(chromium, site) as page:
        await by_password(page)
        await tab_to(page, "#history-1")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Default server")
        await expect(page.locator(".trail tbody tr")).to_have_count(9)
        await expect(page.locator(".trail time").first).to_have_attribute("data-local", "")
        await tab_to(page, f"#run-{OLD}")
        stopping = Event(server_id, START + timedelta(hours=1), "phase", "ready → stopping", "hub", "running", "cancel")
        site.hub.trails[server_id].append(stopping)
        site.hub.move("ann", phase=Phase.STOPPING)
        await expect(page.locator(".trail tbody tr")).to_have_count(10, timeout=60000)
        await expect(page.locator(".badge").first).to_have_text("Ending")
        await expect(page.locator(f"#run-{OLD}")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("An earlier run.")).to_be_visible()
        await tab_to(page, "#newest")


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
async def test_the_page_fits_its_window(site: Site, chromium: Chromium, look: str, tmp_path: Path) -> None:
    put(site)
    site.hub.past["ann", ""][0] = replace(site.hub.past["ann", ""][0], log_tail="x" * 300)
    async with tab(chromium, site, **LOOKS[look]) as page:
        await by_password(page)
        for address, name in (("/hub/server/ann", "live"), (f"/hub/server/ann?run={OLD}", "earlier")):
            await page.goto(address)
            await expect(page.locator("[data-local]").first).to_be_visible()
            await page.screenshot(path=tmp_path / f"{look}-history-{name}.png", full_page=True)
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} is {wide} pixels too wide"
