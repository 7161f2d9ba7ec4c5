"""The hub's pages where every server has a host of its own: the way in, addresses, cookies, policies."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from http.cookies import SimpleCookie
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio

from batchhub.core.hosts import read_origin
from batchhub.core.model import Phase
from batchhub.core.tickets import COOKIE_NAME, ENTRY_LIFE, door_of, verify, verify_entry
from batchhub.web.ports import WebSettings
from tests.web.fakes import KEY, Browser, Site, open_site

ORIGIN = read_origin("https://hub.test:8443")
ANN = "https://ann.hub.test:8443"
DOOR = door_of("secret")


async def opened(**changes: object) -> AsyncIterator[Site]:
    site = open_site(WebSettings(poll=0.01, keep_alive=0.05, origin=ORIGIN, secure_cookies="always", **changes))  # type: ignore[arg-type]
    yield site
    site.server.stop()
    await site.server.close_all_connections()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async for one in opened():
        yield one


@pytest_asyncio.fixture
async def ann(site: Site) -> Browser:
    return await site.signed_in("ann")


def access(after: str, at: str = "/user/ann/", door: str = DOOR) -> str:
    return "/hub/access?" + urlencode({"next": after, "at": at, "door": door})


def field(text: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', text)
    assert found, text
    return found[1].replace("&amp;", "&")


async def test_the_way_in_is_a_form_to_the_servers_host(site: Site, ann: Browser) -> None:
    answer = await ann.get(access("/user/ann/lab?x=1&y=2"))
    assert answer.code == 200
    ann.has("Opening your server", "Continue")
    assert f'action="{ANN}/_batchhub/enter"' in ann.text
    assert field(ann.text, "next") == "/user/ann/lab?x=1&y=2"
    now = site.clock()
    entry = verify_entry([KEY], field(ann.text, "entry"), now)
    assert (entry.door, entry.until) == (DOOR, now + ENTRY_LIFE)
    ticket = entry.ticket
    assert (ticket.user, ticket.path, ticket.host) == ("ann", "/user/ann/", "ann.hub.test")
    assert ticket.expires == now + timedelta(hours=12)
    assert ticket.session in site.store.sessions
    assert COOKIE_NAME not in "".join(answer.headers.get_list("Set-Cookie"))
    with pytest.raises(Exception, match="not ours"):
        verify([KEY], field(ann.text, "entry"), now)
    assert ticket.session not in (answer.effective_url or ""), "nothing of it is in an address"


async def test_the_forms_page_may_post_there_and_nowhere_else(ann: Browser) -> None:
    headers = (await ann.get(access("/user/ann/lab"))).headers
    policy = headers["Content-Security-Policy"]
    assert f"form-action {ANN};" in policy
    assert "default-src 'self'" in policy
    assert headers["Referrer-Policy"] == "strict-origin", "else browsers write Origin: null"
    assert headers["Cache-Control"] == "no-store"
    assert "Sign out" not in ann.text, "a form that this page's policy would not let go"


async def test_a_named_server_has_its_own_host_and_ticket(site: Site, ann: Browser) -> None:
    await ann.get(access("/user/ann/big/lab", "/user/ann/big/"))
    entry = verify_entry([KEY], field(ann.text, "entry"), site.clock())
    assert (entry.ticket.path, entry.ticket.host) == ("/user/ann/big/", "ann--big.hub.test")
    assert 'action="https://ann--big.hub.test:8443/_batchhub/enter"' in ann.text


@pytest.mark.parametrize("door", ["", "x", "<script>", "a" * 44, DOOR + "="])
async def test_without_a_door_one_is_sent_to_it_first(ann: Browser, door: str) -> None:
    answer = await ann.get(access("/user/ann/lab?x=1", door=door))
    assert (answer.code, answer.headers["Location"]) == (302, f"{ANN}/user/ann/lab?x=1")


@pytest.mark.parametrize(
    ("after", "at", "code"),
    [
        ("/user/bob/lab", "/user/bob/", 403),
        ("/user/ann/lab", "/user/bob/", 403),
        ("/user/ann/lab", "https://evil.test/", 403),
        ("/user/ann/lab", "/user/ann/big/", 400),
        ("/user/ann/big/lab", "/user/ann/../bob/", 400),
        ("/user/ann/x/lab", "/user/ann/x/y/", 400),
        ("//evil.test/user/ann/", "/user/ann/", 400),
        ("https://evil.test/", "/user/ann/", 400),
        ("/hub/home", "/user/ann/", 400),
        ("", "/user/ann/", 400),
    ],
)
async def test_nobody_is_led_astray(ann: Browser, after: str, at: str, code: int) -> None:
    answer = await ann.get(access(after, at))
    assert answer.code == code
    assert "Location" not in answer.headers
    assert 'id="enter"' not in ann.text


async def test_somebody_not_signed_in_signs_in_first_and_comes_back(site: Site) -> None:
    browser = site.browser()
    address = access("/user/ann/lab")
    answer = await browser.get(address)
    assert answer.headers["Location"] == "/hub/login?next=" + quote(address, safe="")
    await browser.get(answer.headers["Location"])
    answer = await browser.post("hub/login", username="ann", password="nna", next=address)
    assert answer.headers["Location"] == address
    assert (await browser.get(answer.headers["Location"])).code == 200


async def test_a_browser_in_a_circle_is_stopped(ann: Browser) -> None:
    codes = [(await ann.get(access("/user/ann/lab"))).code for _ in range(7)]
    assert codes[:5] == [200] * 5
    assert 500 in codes[5:]


async def test_a_script_is_not_given_an_entry(ann: Browser) -> None:
    assert (await ann.get(access("/user/ann/lab"), Sec_Fetch_Mode="cors")).code == 403
    assert (await ann.get(access("/user/ann/lab"), Sec_Fetch_Mode="no-cors")).code == 403


async def test_cookies_are_the_hosts_own(site: Site) -> None:
    browser = site.browser()
    first = (await browser.get("/hub/login")).headers.get_list("Set-Cookie")
    answer = await browser.post("hub/login", username="ann", password="nna")
    jar: SimpleCookie = SimpleCookie()
    for line in (*first, *answer.headers.get_list("Set-Cookie")):
        jar.load(line)
    assert set(jar) == {"__Host-batchhub-session", "__Host-batchhub-xsrf", "__Host-batchhub-known"}
    for morsel in jar.values():
        assert (morsel["path"], morsel["domain"], bool(morsel["secure"]), bool(morsel["httponly"])) == (
            "/",
            "",
            True,
            True,
        )
    assert (await browser.get("/hub/home")).code == 200
    # A neighbour's page can set a cookie of the plain name for the hub too: nobody looks at it.
    text = browser.cookies.pop(("__Host-batchhub-session", "/"))
    browser.cookies["batchhub-session", "/hub/"] = text
    assert (await browser.get("/hub/home")).code == 302


async def test_signing_out_ends_the_session_and_drops_the_cookie(site: Site, ann: Browser) -> None:
    (session,) = site.store.sessions
    await ann.get("/hub/home")
    answer = await ann.post("/hub/logout")
    assert answer.code == 303
    assert site.revoked == [session]
    assert not ann.cookies.get(("__Host-batchhub-session", "/"))
    again = await ann.get("/hub/login")
    assert again.code == 200
    answer = await ann.post("hub/login", username="ann", password="nna")
    assert answer.code == 303
    assert (await ann.get(access("/user/ann/lab"))).code == 200, "signing in again at once works"


async def test_over_plain_http_names_are_plain() -> None:
    plain = open_site(WebSettings(origin=read_origin("http://hub.localhost:8000")))
    browser = await plain.signed_in("ann")
    assert ("batchhub-session", "/hub/") in browser.cookies
    await browser.get(access("/user/ann/lab"))
    assert 'action="http://ann.hub.localhost:8000/_batchhub/enter"' in browser.text
    plain.server.stop()
    await plain.server.close_all_connections()


async def test_addresses_lead_to_the_servers_host(site: Site, ann: Browser) -> None:
    site.hub.put("ann", phase=Phase.READY)
    site.hub.put("ann", "big", phase=Phase.READY)
    await ann.get("/hub/home")
    assert f'href="{ANN}/user/ann/"' in ann.text
    assert 'href="https://ann--big.hub.test:8443/user/ann/big/"' in ann.text
    for path in ("/hub/spawn-pending/ann", "/hub/spawn/ann"):
        assert (await ann.get(path)).headers["Location"] == f"{ANN}/user/ann/"
    answer = await ann.get("/hub/user-redirect/lab/tree/a%20b?x=1")
    assert answer.headers["Location"] == f"{ANN}/user/ann/lab/tree/a%20b?x=1"
    assert (await ann.get("/hub/user-redirect/")).headers["Location"] == "/hub/home"
    assert (await ann.get("/hub/user-redirect//evil.test/")).headers["Location"] == f"{ANN}/user/ann/"
    stream = await ann.ask("GET", "/hub/api/users/ann/server/progress", headers={"X-XSRFToken": ann.xsrf})
    assert f'"url": "{ANN}/user/ann/"' in stream.body.decode()
    model = await ann.ask("GET", "/hub/api/users/ann/server", headers={"X-XSRFToken": ann.xsrf})
    assert '"url": "/user/ann/"' in model.body.decode()
    assert f'"full_url": "{ANN}/user/ann/"' in model.body.decode()


async def test_other_pages_forms_stay_here_or_lead_to_servers(ann: Browser) -> None:
    for path in ("/hub/home", "/hub/nothing"):
        policy = (await ann.get(path)).headers["Content-Security-Policy"]
        assert "form-action 'self' https://*.hub.test:8443;" in policy
