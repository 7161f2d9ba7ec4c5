"""Signing in with the cluster account through the sign-in page, at a real sshd with a second factor."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import expect

from batchhub.app.doors import _door
from batchhub.auth.base import Place
from batchhub.auth.ssh import SSHAuthenticator
from batchhub.auth.throttle import ThrottleSettings
from batchhub.transport.settings import SSHSettings
from tests.codes import NAME, PASSWORD, Codes, account, login_node
from tests.questions import Questioner, Round
from tests.sshd import Sshd
from tests.transport.conftest import until
from tests.web.fakes import KEY, START, Browser, Site, open_site
from tests.web.test_browser import chromium, tab

__all__ = ["chromium"]
ASKED = "batchhub-asked-"


class Doors:
    """The one login node of a test."""

    def __init__(self, server: Any) -> None:
        self.settings = SSHSettings(server.host, server.port, server.known_hosts)

    def of_cluster(self, cluster: str) -> Any:
        return _door(self.settings)

    of_host = None


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Sshd, Codes]]:
    with account(), login_node() as served:
        yield served


def way_to(server: Any, **traits: Any) -> SSHAuthenticator:
    way = SSHAuthenticator(cluster="hpc", allow_all=True, **traits)
    way.settle(Place("127.0.0.1", KEY, lambda: START, doors=Doors(server)))
    return way


async def opened(way: SSHAuthenticator, keep: Any = None) -> AsyncIterator[Site]:
    site = open_site(more={"ssh": way}, without=("plain", "link"), keep=keep)
    yield site
    way.close()
    site.server.stop()
    await site.server.close_all_connections()


@pytest_asyncio.fixture
async def site(node: tuple[Sshd, Codes]) -> AsyncIterator[Site]:
    async for site in opened(way_to(node[0])):
        yield site


@pytest.fixture
def codes(node: tuple[Sshd, Codes]) -> Codes:
    return node[1]


async def begin(site: Site, password: str = PASSWORD, name: str = NAME) -> tuple[Browser, str]:
    """A browser that sees the second question, and the question's state."""
    browser = site.browser()
    await browser.get("hub/login?next=/hub/token")
    answer = await browser.post("hub/login", username=name, password=password, next="/hub/token")
    assert answer.code == 200, answer.body
    browser.has("One-time password", name)
    return browser, state_of(browser)


def state_of(browser: Browser) -> str:
    return browser.text.split('name="asked" value="')[1].split('"')[0]


async def answered(browser: Browser, state: str, code: str) -> int:
    return (await browser.post("hub/login/answer", asked=state, answer=code, next="/hub/token", username=NAME)).code


async def test_password_then_code(site: Site, codes: Codes) -> None:
    browser, state = await begin(site)
    assert PASSWORD not in browser.text
    assert (await browser.get("hub/home")).code == 302, "nobody yet"
    answer = await browser.post("hub/login/answer", asked=state, answer=codes.next(), next="/hub/token")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/token")
    await browser.get("hub/home")
    browser.has(NAME)
    assert not any(name.startswith(ASKED) for name, _ in browser.cookies)


async def test_what_was_brought_is_kept_for_its_session(node: tuple[Sshd, Codes]) -> None:
    """For clusters that are reached by it; nothing is kept before the last step, nor of a sign-in that failed."""
    kept: list[Any] = []
    server, codes = node
    async for site in opened(way_to(server), lambda *what: kept.append(what)):
        browser, state = await begin(site)
        assert kept == []
        assert await answered(browser, state, codes.next()) == 303
        ((user, session, brought),) = kept
        assert (user, brought.password) == (NAME, PASSWORD)
        assert session in site.store.sessions
        assert PASSWORD not in repr(kept)
        browser, state = await begin(site)
        assert await answered(browser, state, "000000") == 403
        assert len(kept) == 1
        site.clock.now += timedelta(hours=1)


async def test_a_wrong_code_begins_anew(site: Site, codes: Codes) -> None:
    browser, state = await begin(site)
    assert await answered(browser, state, "000000") == 403
    browser.has("not right. Please begin again.", NAME)
    assert await answered(browser, state, codes.next()) == 403, "a question is good once"
    browser.has("not begun in this browser")


async def test_wrong_password_and_nobody_read_the_same(site: Site) -> None:
    said = []
    for name in (NAME, "bht-nobody", "root"):
        browser = site.browser()
        await browser.get("hub/login")
        answer = await browser.post("hub/login", username=name, password="wrong")
        if answer.code == 200:  # PAM asks everybody for a code
            await answered(browser, state_of(browser), "1")
        said.append("is not right" in browser.text)
    assert said == [True, True, True]


async def test_another_browser_cannot_answer(site: Site, codes: Codes) -> None:
    first, state = await begin(site)
    second, other = await begin(site)
    code = codes.next()
    assert await answered(second, state, code) == 403
    stranger = site.browser()
    await stranger.get("hub/login")
    assert await answered(stranger, state, code) == 403
    stranger.has("not begun in this browser")
    assert await answered(first, state, code) == 303, "nothing of it was used up"
    # A cookie under another question's name is not that question's.
    cookie = next(value for (name, _), value in second.cookies.items() if name.startswith(ASKED))
    forged = site.browser()
    await forged.get("hub/login")
    for name, path in list(second.cookies):
        if name.startswith(ASKED):
            forged.cookies[name, path] = cookie[:-4] + "AAAA"
    assert await answered(forged, other, code) == 403


async def test_a_cookie_of_this_kind_is_no_way_back_from_elsewhere(site: Site) -> None:
    browser, state = await begin(site)
    for (name, path), value in list(browser.cookies.items()):
        browser.cookies[name.replace(ASKED, "batchhub-away-"), path] = value
    query = urlencode({"state": state, "username": NAME, "password": PASSWORD})
    assert (await browser.get(f"hub/oauth_callback?{query}")).code == 403
    browser.has("not begun in this browser")


async def test_a_replayed_answer(site: Site, codes: Codes) -> None:
    """Even with the cookie that went with it, which the browser was told to drop."""
    browser, state = await begin(site)
    kept = dict(browser.cookies)
    good = codes.next()
    assert await answered(browser, state, good) == 303
    thief = site.browser()
    thief.cookies, thief.xsrf = kept, browser.xsrf
    await thief.get("hub/login")
    assert await answered(thief, state, good) == 403
    thief.has("begin again")


async def test_without_the_pages_own_token_nothing_is_answered(site: Site, codes: Codes) -> None:
    browser, state = await begin(site)
    browser.xsrf = ""
    assert await answered(browser, state, codes.next()) == 403
    browser.has("did not come from it")


@pytest.mark.parametrize("fields", [{}, {"asked": ""}, {"asked": "x" * 5000}, {"answer": "x" * 1025}])
async def test_nonsense(site: Site, fields: dict[str, str]) -> None:
    browser, _ = await begin(site)
    assert (await browser.post("hub/login/answer", **fields)).code in {400, 403}
    assert (await browser.get("hub/login/answer")).headers["Location"] == "/hub/login"


async def test_guesses_at_the_code_are_counted_as_guesses_at_the_account(site: Site) -> None:
    burst = ThrottleSettings().account.burst
    codes_seen = 0
    for _ in range(burst // 2):
        browser, state = await begin(site)
        assert await answered(browser, state, "000000") == 403
        codes_seen += 1
    browser = site.browser()
    await browser.get("hub/login")
    assert (await browser.post("hub/login", username=NAME, password=PASSWORD)).code == 429
    assert codes_seen == burst // 2
    site.clock.now += timedelta(hours=1)


async def test_a_flood_of_half_open_sign_ins() -> None:
    with Questioner([Round([("Code: ", False)], ["1"])]) as server:
        way = way_to(server, most_open=5)
        async for site in opened(way):
            for index in range(20):
                browser = site.browser()
                await browser.get("hub/login")
                assert (await browser.post("hub/login", username=f"u{index}", password="x")).code == 200
            await until(lambda: server.connections <= 5)
            state = state_of(browser)
            assert (await browser.post("hub/login/answer", asked=state, answer="1")).code == 303, "the newest goes on"


async def test_a_question_is_text() -> None:
    nasty = '<script>alert(1)</script><b style="x">'
    with Questioner([Round([(nasty, True)], ["1"], nasty, nasty)]) as server:
        async for site in opened(way_to(server)):
            browser = site.browser()
            await browser.get("hub/login")
            await browser.post("hub/login", username="ann", password="x")
            browser.has(nasty)
            assert "<script>alert" not in browser.text
            assert "<b " not in browser.text


@pytest.mark.browser
async def test_in_a_browser_by_keyboard(site: Site, codes: Codes, chromium: Any) -> None:
    async with tab(chromium, site) as page:
        await page.goto("/hub/login")
        await page.keyboard.type(NAME)
        await page.keyboard.press("Tab")
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("One-time password (OATH)")).to_be_focused()
        await expect(page.get_by_text(f"Signing in as {NAME}")).to_be_visible()
        await page.keyboard.type(codes.next())
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Your servers")).to_be_visible()
