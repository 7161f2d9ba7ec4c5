"""People are asked about again: what a page, a token and a start meet when their sign-in does not hold any more."""

import json

import pytest

from batchhub.auth.base import Authenticator
from batchhub.core.errors import Unreachable
from tests.web.fakes import Browser, Site, open_site


class Changing(Authenticator):
    """The password is the name backwards; what a refresh answers is the test's."""

    answer: object = True

    async def authenticate(self, handler, data):
        return data["username"] if data["password"] == data["username"][::-1] else None

    async def refresh_user(self, user, handler=None):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def way() -> Changing:
    return Changing(allow_all=True)


@pytest.fixture
async def site(way):
    made = open_site(more={"plain": way}, without=["link"])
    yield made
    made.server.stop()
    await made.server.close_all_connections()


async def token_of(site: Site, browser: Browser) -> str:
    await browser.get("/hub/token")
    answer = await browser.post("/hub/token", note="robot", days="30")
    assert answer.code == 200, browser.text
    return next(word for word in browser.text.replace("<", " ").replace(">", " ").split() if word.startswith("bh_"))


async def test_a_page_leads_to_the_sign_in_page_and_back(site, way) -> None:
    browser, other = await site.signed_in("ann"), await site.signed_in("ann")
    bob = await site.signed_in("bob")
    assert (await browser.get("/hub/home")).code == 200
    way.answer = False
    assert (await browser.get("/hub/home")).code == 200, "it was asked a moment ago"
    site.clock.later(minutes=5)
    answer = await browser.get("/hub/token?a=b")
    assert (answer.code, answer.headers["Location"]) == (302, "/hub/login?next=%2Fhub%2Ftoken%3Fa%3Db")
    assert len(site.revoked) == 2, "all their sessions, and the proxy is told"
    way.answer = True
    assert (await other.get("/hub/home")).code == 302
    assert (await bob.get("/hub/home")).code == 200
    site.clock.later(seconds=1)
    again = await site.signed_in("ann")
    assert (await again.get("/hub/home")).code == 200


async def test_admins_lose_the_right_at_the_next_refresh(site, way) -> None:
    way.admin_users = {"ann"}
    browser = await site.signed_in("ann")
    assert (await browser.get("/hub/admin")).code == 200
    way.admin_users = {"somebody-else"}
    site.clock.later(minutes=5)
    assert (await browser.get("/hub/admin")).code == 403
    way.admin_groups = {"staff"}
    site.clock.later(minutes=5)
    assert (await browser.get("/hub/admin")).code == 403
    way.answer = {"groups": ["staff"]}
    site.clock.later(minutes=5)
    assert (await browser.get("/hub/admin")).code == 200


async def test_a_start_by_form_leads_to_the_sign_in_page(site, way) -> None:
    browser = await site.signed_in("ann")
    await browser.get("/hub/spawn/ann?profile=lab")
    way.answer = False
    site.clock.later(minutes=1)
    answer = await browser.post("/hub/spawn/ann", profile="lab", cores="4", memory="8", walltime="4h")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/login?next=%2Fhub%2Fspawn%2Fann")
    assert ("spawn", "ann") not in [call[:2] for call in site.hub.calls if isinstance(call, tuple)]
    assert len(site.revoked) == 1


async def test_a_start_by_token_is_refused_in_words(site, way) -> None:
    token = await token_of(site, await site.signed_in("ann"))
    bearer = {"Authorization": f"token {token}"}
    way.answer = False
    site.clock.later(minutes=1)
    script = site.browser()
    body = json.dumps({"profile": "lab", "cores": "4"})
    sent = {**bearer, "Content-Type": "application/json"}
    answer = await script.ask("POST", "/hub/api/users/ann/server", body=body, headers=sent)
    assert answer.code == 403
    assert "Please sign in again." in json.loads(answer.body)["message"]
    assert not site.hub.rows
    site.clock.later(minutes=10)
    answer = await script.ask("GET", "/hub/api/user", headers=bearer)
    assert answer.code == 403, "nothing else either, until they have signed in"
    way.answer = True
    await site.signed_in("ann")
    assert (await script.ask("GET", "/hub/api/user", headers=bearer)).code == 200


async def test_a_provider_that_is_down_signs_nobody_out(site, way) -> None:
    browser = await site.signed_in("ann")
    way.answer = Unreachable("down")
    site.clock.later(minutes=30)
    assert (await browser.get("/hub/home")).code == 200
    site.clock.later(minutes=31)
    answer = await browser.get("/hub/home")
    assert answer.code == 503
    browser.has("Nobody can be asked now")
    assert (await browser.get("/hub/logout")).code in {200, 302}, "the way out stays open"
    assert site.revoked == []
    way.answer = True
    site.clock.later(seconds=30)
    assert (await browser.get("/hub/home")).code == 200


async def test_scripts_are_told_without_a_detour(site, way) -> None:
    browser = await site.signed_in("ann")
    await browser.get("/hub/home")
    way.answer = False
    site.clock.later(minutes=5)
    answer = await browser.get("/hub/api/user", Sec_Fetch_Mode="cors", X_XSRFToken=browser.xsrf)
    assert answer.code == 403
