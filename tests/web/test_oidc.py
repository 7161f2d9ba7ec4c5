"""Signing in with OpenID Connect through the hub's own pages: a real provider, and one that cheats."""

import hmac
import re
from base64 import urlsafe_b64encode
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import pytest_asyncio
from joserfc import jws, jwt
from joserfc.jwk import OctKey, RSAKey

from batchhub.app.state import utc_now
from batchhub.auth.oidc import OIDCAuthenticator
from tests.openid import LyingProvider, RealProvider
from tests.web.fakes import Browser, open_site

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Recording(OIDCAuthenticator):
    """Keeps the last answer, of which the hub does not store the secrets yet."""

    async def authenticate(self, handler, data):
        self.last = await super().authenticate(handler, data)
        return self.last


def campus(provider: LyingProvider, **more) -> Recording:
    settings = {
        "issuer": provider.issuer, "client_id": provider.client, "client_secret": provider.secret, "login_service": "Campus", "allow_all": True,
    }  # fmt: skip
    return Recording(**{**settings, **more})


@pytest_asyncio.fixture
async def provider():
    provider = LyingProvider()
    yield provider
    await provider.close()


class Ahead:
    """The time, or a little later."""

    ahead = timedelta()

    def __call__(self):
        return utc_now() + self.ahead


class Hub:
    """A hub with ways to sign in, and what a browser does there."""

    def __init__(self, **ways) -> None:
        self.ways = ways
        self.site = open_site(more=ways)
        self.browser = self.site.browser()

    async def leave(self, way="campus", after="/hub/token"):
        answer = await self.browser.ask("GET", f"hub/oauth_login?way={way}&next={after}", timeout=60)
        assert answer.code == 302, self.browser.text
        return parse_qs(urlsplit(answer.headers["Location"]).query)

    async def back(self, at="hub/oauth_callback", **query):
        return await self.browser.ask("GET", f"{at}?{urlencode(query)}", timeout=60)

    async def round(self, provider: LyingProvider, **query):
        asked = await self.leave()
        return await self.back(state=asked["state"][0], code=provider.code(asked), **query)

    async def is_in(self) -> bool:
        return (await self.browser.get("hub/home")).code == 200


@pytest_asyncio.fixture
async def hub(provider):
    clock = Ahead()
    hub = Hub(campus=campus(provider, groups_claim="groups", clock=clock))
    hub.clock = clock
    yield hub
    hub.site.server.stop()
    await hub.site.server.close_all_connections()
    for way in hub.ways.values():
        way.close()


async def test_there_and_back(hub, provider):
    answer = await hub.round(provider)
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/token")
    assert await hub.is_in()
    assert hub.ways["campus"].last["auth_state"]["refresh_token"] == "refresh-1"


async def test_a_provider_without_a_name_is_called_by_its_host(provider):
    hub = Hub(campus=campus(provider, login_service=""))
    await hub.browser.get("hub/login")
    hub.browser.has("Sign in with 127.0.0.1")
    hub.site.server.stop()
    await hub.site.server.close_all_connections()


async def test_the_page_is_asked_with_a_challenge_and_without_secrets(hub, provider):
    asked = await hub.leave()
    assert asked["response_type"] == ["code"]
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["client_id"] == ["hub"]
    assert asked["redirect_uri"] == [f"{hub.site.url}/hub/oauth_callback"]
    assert asked["scope"] == ["email openid profile"]
    assert len(asked["nonce"][0]) >= 32
    assert "hub-secret" not in str(asked)


async def refused(hub, answer, words="Campus knows you, but"):
    assert answer.code == 403
    hub.browser.has(words)
    assert not await hub.is_in()


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["hub", "another"]},
        {"exp": 1_700_000_000},
        {"iat": 4_000_000_000},
    ],
    ids=lambda claims: next(iter(claims)),
)
async def test_tokens_that_are_not_of_this_sign_in(hub, provider, claims):
    provider.claims = claims
    await refused(hub, await hub.round(provider))


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_unsigned(hub, provider):
    registry = jws.JWSRegistry(algorithms=["none"])
    provider.sign = lambda claims: jwt.encode({"alg": "none"}, claims, OctKey.import_key("x"), registry=registry)
    await refused(hub, await hub.round(provider))


async def test_signed_with_the_public_key(hub, provider):
    def forged(claims):
        head = urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
        text = f"{head}.{provider._sign(claims).split('.')[1]}"
        mac = hmac.digest(provider.key.as_pem(private=False), text.encode(), "sha256")
        return f"{text}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    provider.sign = forged
    await refused(hub, await hub.round(provider))


async def test_no_id_token_at_all(hub, provider):
    provider.token = {"id_token": None}
    await refused(hub, await hub.round(provider))


async def test_another_state(hub, provider):
    asked = await hub.leave()
    answer = await hub.back(state="x" + asked["state"][0][1:] + "x", code=provider.code(asked))
    await refused(hub, answer, "not begun in this browser")
    assert not provider.forms


async def test_a_code_is_good_once(hub, provider):
    """Replayed with the same cookie, and in a sign-in of its own."""
    asked = await hub.leave()
    kept, code = dict(hub.browser.cookies), provider.code(asked)
    assert (await hub.back(state=asked["state"][0], code=code)).code == 303
    hub.browser.cookies = dict(kept)
    await refused(hub, await hub.back(state=asked["state"][0], code=code))
    again = await hub.leave()
    await refused(hub, await hub.back(state=again["state"][0], code=code))


async def test_a_stolen_code_is_of_no_use_in_ones_own_sign_in(hub, provider):
    """The thief's browser has another verifier (PKCE)."""
    victim = await hub.leave()
    code = provider.code(victim)
    thief = await hub.leave()
    await refused(hub, await hub.back(state=thief["state"][0], code=code))
    assert provider.forms[-1]["code"] == code


async def test_the_provider_says_no(hub, provider):
    asked = await hub.leave()
    answer = await hub.back(state=asked["state"][0], error="access_denied", code=provider.code(asked))
    await refused(hub, answer, "Campus did not sign you in.")
    assert not provider.forms


async def test_an_answer_that_names_another_issuer(hub, provider):
    await refused(hub, await hub.round(provider, iss="https://evil.example"))
    assert (await hub.round(provider, iss=provider.issuer)).code == 303


async def test_an_issuer_that_should_be_named_and_is_not(hub, provider):
    provider.about = {"authorization_response_iss_parameter_supported": True}
    await refused(hub, await hub.round(provider))


@pytest_asyncio.fixture
async def two(provider):
    """A hub with two providers, and the second of them. A provider sends its answers to the address that was registered with it."""
    other = LyingProvider()
    hub = Hub(
        campus=campus(provider, username_prefix="c-"),
        guests=campus(other, username_prefix="g-", login_service="Guests"),
    )
    yield hub, other
    hub.site.server.stop()
    await hub.site.server.close_all_connections()
    await other.close()
    for way in hub.ways.values():
        way.close()


async def test_each_of_two_providers_has_an_address_of_its_own(two, provider):
    hub, other = two
    for way, at in (("campus", provider), ("guests", other)):
        asked = await hub.leave(way)
        back = f"hub/oauth_callback/{way}"
        assert asked["redirect_uri"] == [f"{hub.site.url}/{back}"]
        assert (await hub.back(back, state=asked["state"][0], code=at.code(asked))).code == 303
        assert at.forms[-1]["redirect_uri"] == f"{hub.site.url}/{back}"


async def test_two_providers_are_not_mixed_up(two, provider):
    """An answer is taken where its sign-in was to end and nowhere else, and the right provider's token does not open the other way."""
    hub, other = two
    for back in ("hub/oauth_callback/guests", "hub/oauth_callback", "hub/oauth_callback/another"):
        asked = await hub.leave("campus")
        answer = await hub.back(back, state=asked["state"][0], code=provider.code(asked))
        await refused(hub, answer, "not begun in this browser")
    assert not provider.forms
    provider.claims = {"iss": other.issuer}
    asked = await hub.leave("campus")
    await refused(hub, await hub.back("hub/oauth_callback/campus", state=asked["state"][0], code=provider.code(asked)))


async def test_a_provider_of_the_attackers_gets_no_code_of_another(two, provider):
    """Mix-up with a chosen challenge (RFC 9700 section 4.4): PKCE, nonce and the hub's secret do not help, as the hub itself redeems the code."""
    hub, evil = two
    mallory, victim = hub.browser, hub.site.browser()
    hers = await hub.leave("campus")
    hub.browser = victim
    theirs = await hub.leave("guests")
    # The page of the attacker's provider sends the victim on to the campus, which knows them, with mallory's challenge and nonce.
    code, back = provider.code(hers), urlsplit(hers["redirect_uri"][0]).path
    await refused(hub, await hub.back(back, state=theirs["state"][0], code=code), "not begun in this browser")
    assert not evil.forms, "the attacker's provider was given the victim's code, which fits mallory's sign-in"
    assert mallory is not victim


@pytest.mark.parametrize(
    "after", ["https://evil.example", "//evil.example", "/\\evil.example", "/hub/../..//evil.example"]
)
async def test_next_leads_nowhere_else(hub, provider, after):
    asked = await hub.leave(after=after)
    answer = await hub.back(state=asked["state"][0], code=provider.code(asked), next=after)
    assert answer.headers["Location"] == "/hub/home"


async def test_userinfo_about_somebody_else(hub, provider):
    provider.userinfo = {"sub": "s-2", "preferred_username": "root"}
    await refused(hub, await hub.round(provider))


@pytest.mark.parametrize("verified", [False, None, "true", 1])
async def test_an_unverified_address_is_no_name(hub, provider, verified):
    hub.ways["campus"].username_claim = "email"
    provider.userinfo |= {"email": "ann@example.org", "email_verified": verified}
    await refused(hub, await hub.round(provider))
    provider.userinfo["email_verified"] = True
    assert (await hub.round(provider)).code == 303


async def test_verified_is_another_address(hub, provider):
    hub.ways["campus"].username_claim = "email"
    provider.claims = {"email": "root@example.org"}
    provider.userinfo |= {"email": "ann@example.org", "email_verified": True}
    await refused(hub, await hub.round(provider))


@pytest.mark.parametrize(
    "groups", [["astrophysics"], ["physics2"], ["Physics"], "physics,chemistry", [["physics"]], {"physics": 1}, None]
)
async def test_groups_that_only_look_alike(hub, provider, groups):
    way = hub.ways["campus"]
    way.allow_all, way.allowed_groups = False, {"physics"}
    provider.userinfo["groups"] = groups
    await refused(hub, await hub.round(provider))
    provider.userinfo["groups"] = ["chemistry", "physics"]
    assert (await hub.round(provider)).code == 303


async def test_admins_by_group_come_and_go(hub, provider):
    hub.ways["campus"].admin_groups = {"staff"}
    provider.userinfo["groups"] = ["staff"]
    await hub.round(provider)
    assert hub.site.store.people["ann"].admin
    provider.userinfo["groups"] = ["staffing"]
    await hub.round(provider)
    assert not hub.site.store.people["ann"].admin


async def test_new_keys_are_fetched_when_a_token_names_one(hub, provider):
    assert (await hub.round(provider)).code == 303
    provider.key = RSAKey.generate_key(2048, {"kid": "two"})
    provider.listed = [provider.key]
    hub.clock.ahead = timedelta(seconds=31)
    assert (await hub.round(provider)).code == 303
    before = provider.asked.count("keys")
    provider.key = RSAKey.generate_key(2048, {"kid": "three"})
    assert (await hub.round(provider)).code == 403
    assert (await hub.round(provider)).code == 403
    assert provider.asked.count("keys") == before, "an unknown key has the list fetched twice in half a minute"


async def test_a_provider_that_is_down_or_not_who_it_should_be(hub, provider):
    provider.down = True
    assert (await hub.browser.get("hub/oauth_login?way=campus")).code == 503
    provider.down = False
    provider.about = {"issuer": "https://evil.example"}
    assert (await hub.browser.get("hub/oauth_login?way=campus")).code == 500
    provider.about = {"token_endpoint": "http://evil.example/token"}
    assert (await hub.browser.get("hub/oauth_login?way=campus")).code == 500


# The real one.


async def walk(hub, issuer, login):
    """What a browser does at oidc-provider: sign in, consent, come back. The last answer, of the hub."""
    there = Browser(SimpleNamespace(url=issuer, base="/"))
    answer = await hub.browser.ask("GET", "hub/oauth_login?way=campus&next=/hub/token", timeout=60)
    for _ in range(20):
        target = urlsplit(answer.headers["Location"])
        path = f"{target.path}?{target.query}"
        if target.netloc == urlsplit(hub.site.url).netloc:
            hub.way_back = path
            return await hub.browser.ask("GET", path, timeout=60)
        answer = await there.ask("GET", path, timeout=60)
        if answer.code == 200:
            prompt = re.search(r'name="prompt" value="(\w+)"', there.text)[1]
            action = urlsplit(re.search(r'action="([^"]+)"', there.text)[1]).path
            body = urlencode({"prompt": prompt, "login": login, "password": "x"})
            answer = await there.ask("POST", action, body=body, headers=FORM, timeout=60)
    raise AssertionError("the provider goes round and round")


@pytest_asyncio.fixture
async def real(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret/of+some:length%\n")
    secret.chmod(0o600)
    way = Recording(
        issuer="http://127.0.0.1:1",
        client_id="batch hub",
        client_secret_file=str(secret),
        groups_claim="groups",
        allowed_groups={"physics"},
        login_service="Campus",
        enable_auth_state=True,
    )
    hub = Hub(campus=way)
    process = RealProvider("batch hub", "a secret/of+some:length%", f"{hub.site.url}/hub/oauth_callback")
    way.issuer = hub.issuer = await process.start()
    yield hub
    process.close()
    way.close()
    hub.site.server.stop()
    await hub.site.server.close_all_connections()


class Ann:
    """Somebody who signed in earlier."""

    def __init__(self, state) -> None:
        self.name, self.state = "ann", state

    async def get_auth_state(self):
        return self.state


async def test_with_a_real_provider(real):
    answer = await walk(real, real.issuer, "ann")
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/token"), real.browser.text
    assert await real.is_in()
    way = real.ways["campus"]
    assert way.last["groups"] == ["physics"]
    state = way.last["auth_state"]
    again = await way.refresh_user(Ann(state))
    assert (again["name"], again["groups"], again["auth_state"]) == ("ann", ["physics"], state)
    again = await way.refresh_user(Ann({**state, "access_token": "ended"}))
    assert (again["name"], again["groups"]) == ("ann", ["physics"])
    assert again["auth_state"]["access_token"] not in {state["access_token"], "ended"}
    # Its way back is good once, with or without the cookie.
    await real.browser.post("hub/logout")
    assert (await real.browser.ask("GET", real.way_back, timeout=60)).code == 403


async def test_a_real_provider_knows_them_and_the_hub_does_not_let_them_in(real):
    assert (await walk(real, real.issuer, "eve")).code == 403
    real.browser.has("Campus knows you, but")


async def test_a_real_provider_and_an_unverified_address(real):
    way = real.ways["campus"]
    way.username_claim, way.allow_all, way.strip_domain = "email", True, "example.org"
    assert (await walk(real, real.issuer, "eve")).code == 403
    assert (await walk(real, real.issuer, "ann")).code == 303
    assert "ann" in real.site.store.people


async def test_a_real_provider_and_a_wrong_secret(real, tmp_path, caplog):
    (tmp_path / "secret").write_text("another")
    answer = await walk(real, real.issuer, "ann")
    assert answer.code == 500
    real.browser.has("This hub is not set up right")
    assert "does not accept this hub's own credentials" in caplog.text
    assert "another" not in real.browser.text + caplog.text
