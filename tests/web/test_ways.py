"""Signing in at somebody else's page, as a browser does it, and by what a front end says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import pytest_asyncio

from batchhub.auth.base import Authenticator, Departure, LoginKind
from batchhub.core.errors import Unreachable
from batchhub.web.ports import WebSettings
from tests.web.fakes import Browser, Site, open_site


class Elsewhere(Authenticator):
    """A provider that hands the name back as it was asked to, if its keepsake is there."""

    kind = LoginKind.REDIRECT

    async def depart(self, handler, data, state, callback):
        if data.get("hint") == "down":
            raise Unreachable("The provider does not answer.")
        return Departure(f"https://id.example.org/?state={state}&back={callback}", {"verifier": "secret-verifier"})

    async def authenticate(self, handler, data):
        right = data["kept"]["verifier"] == "secret-verifier" and data["callback"].endswith("/hub/oauth_callback")
        return data.get("name") if right else None


class InFront(Authenticator):
    kind = LoginKind.REQUEST

    async def authenticate(self, handler, data):
        return handler.request.headers.get("Remote-User")


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with opened(more={"elsewhere": Elsewhere(allowed_users={"eve", "zoe"}, login_service="Campus")}) as site:
        yield site


@asynccontextmanager
async def opened(*words: WebSettings, **more: Any) -> AsyncIterator[Site]:
    site = open_site(*words, **more)
    yield site
    site.server.stop()
    await site.server.close_all_connections()


async def leave(browser: Browser, path: str = "hub/oauth_login?way=elsewhere&next=/hub/token") -> str:
    answer = await browser.get(path)
    assert answer.code == 302, answer.body
    there = urlsplit(answer.headers["Location"])
    assert there.hostname == "id.example.org"
    return parse_qs(there.query)["state"][0]


async def test_there_and_back(site: Site) -> None:
    browser = site.browser()
    await browser.get("hub/login?next=/hub/token")
    browser.has("Sign in with Campus")
    state = await leave(browser)
    answer = await browser.get(f"hub/oauth_callback?state={state}&name=Eve")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/token")
    assert (await browser.get("hub/home")).code == 200
    assert not any(name.startswith("batchhub-away") for name, _ in browser.cookies)


async def test_another_browsers_way_back_is_no_way_in(site: Site) -> None:
    """Login CSRF: somebody is sent the attacker's answer, to work in the attacker's account."""
    attacker, victim = site.browser(), site.browser()
    state = await leave(attacker)
    await leave(victim)
    answer = await victim.get(f"hub/oauth_callback?state={state}&name=eve")
    assert answer.code == 403
    victim.has("not begun in this browser")
    assert (await victim.get("hub/home")).code == 302


async def test_an_answer_is_good_once(site: Site) -> None:
    browser = site.browser()
    state = await leave(browser)
    assert (await browser.get(f"hub/oauth_callback?state={state}&name=eve")).code == 303
    assert (await browser.get(f"hub/oauth_callback?state={state}&name=zoe")).code == 403


async def test_two_tabs_at_once(site: Site) -> None:
    browser = site.browser()
    first, second = await leave(browser), await leave(browser)
    assert (await browser.get(f"hub/oauth_callback?state={first}&name=eve")).code == 303
    assert (await browser.get(f"hub/oauth_callback?state={second}&name=eve")).code == 303


@pytest.mark.parametrize(
    "query", ["", "state=", "state=x", "error=access_denied&state=x", "&".join("abcdefghijklmnopqrstuvwxyz")]
)
async def test_nonsense_comes_back(site: Site, query: str) -> None:
    browser = site.browser()
    answer = await browser.get(f"hub/oauth_callback?{query}")
    assert answer.code in {400, 403}
    browser.has("Sign in")


@pytest.mark.parametrize("after", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x"])
async def test_next_leads_nowhere_else(site: Site, after: str) -> None:
    browser = site.browser()
    state = await leave(browser, f"hub/oauth_login?way=elsewhere&next={after}")
    answer = await browser.get(f"hub/oauth_callback?state={state}&name=eve")
    assert answer.headers["Location"] == "/hub/home"


async def test_a_bookmark_too_long_to_be_carried_is_lost_and_the_sign_in_is_not(site: Site) -> None:
    browser = site.browser()
    for after, leads in (("/hub/token?a=" + "b" * 1500, None), ("/hub/token?a=" + '"' * 2000, "/hub/home")):
        state = await leave(browser, f"hub/oauth_login?way=elsewhere&next={quote(after)}")
        answer = await browser.get(f"hub/oauth_callback?state={state}&name=eve")
        assert answer.headers["Location"] == (leads or after)


async def test_known_there_and_not_allowed_here(site: Site) -> None:
    browser = site.browser()
    state = await leave(browser)
    assert (await browser.get(f"hub/oauth_callback?state={state}&name=mallory")).code == 403
    browser.has("Campus knows you, but this hub does not let you in")


async def test_a_provider_that_is_down(site: Site) -> None:
    browser = site.browser()
    assert (await browser.get("hub/oauth_login?way=elsewhere&hint=down")).code == 503
    browser.has("The provider does not answer.")


@pytest.mark.parametrize("way", ["plain", "link", "nosuch"])
async def test_only_ways_that_lead_elsewhere_do(site: Site, way: str) -> None:
    browser = site.browser()
    assert (await browser.get(f"hub/oauth_login?way={way}")).code == 403


async def test_a_password_does_not_reach_another_kind_of_way(site: Site) -> None:
    browser = site.browser()
    await browser.get("hub/login")
    assert (await browser.post("hub/login", way="elsewhere", username="eve", password="x")).code == 403


async def test_the_request_itself_signs_in_and_out_stays_out() -> None:
    async with opened(more={"front": InFront(allow_all=True)}) as site:
        browser = site.browser()
        answer = await browser.get("hub/login?next=/hub/token", Remote_User="Ann")
        assert (answer.code, answer.headers["Location"]) == (303, "/hub/token")
        assert (await browser.get("hub/home")).code == 200
        await browser.post("hub/logout")
        assert (await browser.get("hub/login?out=1", Remote_User="Ann")).code == 200
        assert (await site.browser().get("hub/login")).code == 403


async def test_a_button_is_left_out_where_it_is_the_only_thing() -> None:
    ways = {"elsewhere": Elsewhere(allow_all=True)}
    async with opened(WebSettings(auto_login=True), more=ways, without=("plain", "link")) as site:
        browser = site.browser()
        answer = await browser.get("hub/login?next=/hub/token")
        assert answer.headers["Location"] == "/hub/oauth_login?way=elsewhere&next=%2Fhub%2Ftoken"
        assert (await browser.get("hub/login?out=1")).code == 200
        browser.has("Sign in with Elsewhere")


async def test_two_password_lists_are_told_apart() -> None:
    class Other(Authenticator):
        async def authenticate(self, handler, data):
            return data["username"] if data["password"] == "other" else None

    ways = {"guests": Other(allow_all=True, username_prefix="guest-", login_service="Guests")}
    async with opened(more=ways) as site:
        browser = site.browser()
        await browser.get("hub/login")
        browser.has("Guests")
        assert (await browser.post("hub/login", username="ann", password="other")).code == 403
        assert (await browser.post("hub/login", way="guests", username="ann", password="other")).code == 303
        await browser.get("hub/home")
        browser.has("guest-ann")
