"""Launches from a course through the hub's own pages: LTI 1.3 and 1.1 by a platform that keeps to the specifications, and by one that cheats."""

import hmac
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tornado.httpclient import HTTPResponse

from batchhub.auth.lti11 import LTI11Authenticator
from batchhub.auth.lti13 import LTI13Authenticator
from batchhub.core.hosts import read_origin
from batchhub.web.ports import WebSettings
from tests.lti_platform import CLAIM, IN_COURSE, SECRET, Platform, address, public, rsa_key
from tests.web.fakes import Browser, Clock, open_site

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "cross-site"}
TOP = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site"}
IN_FRAME = {**TOP, "Sec-Fetch-Dest": "iframe"}


class Recording13(LTI13Authenticator):
    """Keeps the last answer."""

    async def authenticate(self, handler, data):
        self.last = await super().authenticate(handler, data)
        return self.last


class Recording11(LTI11Authenticator):
    async def authenticate(self, handler, data):
        self.last = await super().authenticate(handler, data)
        return self.last


class Hub:
    """A hub with both ways, a platform, and what a browser does between them."""

    def __init__(self, directory: Path, settings: WebSettings | None = None, **more) -> None:
        clock = Clock()
        self.platform = Platform(clock)
        secret = directory / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        self.way = Recording13(
            platforms={self.platform.issuer: self.platform.table(**more)}, allow_all=True, clock=clock
        )
        consumers = {"campus": {"secret_file": str(secret), "title": "Campus", "prefix": "c-"}}
        self.old = Recording11(consumers=consumers, allow_all=True, clock=clock)
        self.clock = clock
        self.site = open_site(settings or WebSettings(), more={"lti13": self.way, "lti11": self.old})
        self.site.clock.now = clock.now
        self.browser = self.site.browser()
        self.launch = f"{self.site.url}/hub/lti13/oauth_callback"
        self.launch11 = f"{self.site.url}/hub/lti/launch"
        self.platform.redirects.add(self.launch)
        self.platform.target = self.launch

    def later(self, seconds: float) -> None:
        self.clock.now += timedelta(seconds=seconds)
        self.site.clock.now = self.clock.now

    async def begin(self, hint="hint-ann", browser: Browser | None = None, **changes) -> dict[str, str]:
        """To the platform's page: what it is asked."""
        fields = {**self.platform.initiation(hint), **changes}
        answer = await (browser or self.browser).ask("GET", address("hub/lti13/oauth_login", fields), headers=TOP)
        assert answer.code == 303, answer.body
        assert answer.headers["Location"].startswith(f"{self.platform.issuer}/auth?")
        return dict(parse_qsl(urlsplit(answer.headers["Location"]).query, keep_blank_values=True))

    async def post(self, fields, browser: Browser | None = None) -> HTTPResponse:
        browser = browser or self.browser
        return await browser.ask("POST", "hub/lti13/oauth_callback", body=urlencode(fields), headers={**TOP, **FORM})

    async def round(self, hint="hint-ann") -> HTTPResponse:
        where, fields = self.platform.authorize(await self.begin(hint))
        assert where == self.launch
        return await self.post(fields)

    async def launched11(self, fields, *, pressed=True, body="", path="hub/lti/launch") -> HTTPResponse:
        own = (
            {"Origin": self.site.url, "Sec-Fetch-Site": "same-origin"} if pressed else {"Origin": self.platform.issuer}
        )
        return await self.browser.ask("POST", path, body=body or urlencode(fields), headers={**TOP, **FORM, **own})

    async def refused(self, answer, words="", code=403) -> None:
        assert answer.code == code, answer.body
        self.browser.has(words)
        assert not any(name == "batchhub-session" for name, _ in self.browser.cookies)
        assert not self.site.store.sessions

    async def close(self) -> None:
        self.site.server.stop()
        await self.site.server.close_all_connections()
        await self.platform.close()
        self.way.close()


@pytest_asyncio.fixture
async def hub(tmp_path) -> AsyncIterator[Hub]:
    opened = Hub(tmp_path)
    yield opened
    await opened.close()


# ------------------------------------------------------------------ 1.3: what is right


async def test_from_a_course_to_the_servers(hub):
    answer = await hub.round()
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/home")
    assert (await hub.browser.get("hub/home")).code == 200
    assert hub.way.last["name"] == "ann7"
    assert hub.way.last["groups"] == ("course:42", "course:42:learner")
    assert hub.way.last["admin"] is None, "an administrator of the school is nobody special here"
    assert hub.way.last["auth_state"]["lti"][f"{CLAIM}context"]["label"] == "PHYS101"
    assert not any(name.startswith("batchhub-away") for name, _ in hub.browser.cookies)


async def test_the_platform_may_begin_with_a_form(hub):
    body = urlencode(hub.platform.initiation())
    answer = await hub.browser.ask("POST", "hub/lti13/oauth_login", body=body, headers={**TOP, **FORM})
    assert answer.code == 303
    answer = await hub.browser.ask("GET", answer.headers["Location"], headers=TOP)
    query = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    assert (await hub.post(hub.platform.authorize(query)[1])).code == 303


async def test_the_session_that_was_there_ends(hub):
    """The browser does not bring it along with the form that the platform's page posts, but did when it left."""
    await hub.browser.get("hub/login")
    assert (await hub.browser.post("hub/login", username="bob", password="bob"[::-1])).code == 303
    (bobs,) = hub.site.store.sessions
    query = await hub.begin()
    assert "batchhub-session" not in str(query)
    hub.browser.cookies.pop(("batchhub-session", "/hub/"))
    assert (await hub.post(hub.platform.authorize(query)[1])).code == 303
    assert bobs not in hub.site.store.sessions
    assert len(hub.site.store.sessions) == 1
    assert hub.site.revoked == [bobs], "and the proxy is told"


async def test_the_cookie_that_crosses_sites(hub):
    """Only it does; the session's stays lax."""
    answer = await hub.browser.ask("GET", address("hub/lti13/oauth_login", hub.platform.initiation()), headers=TOP)
    (line,) = answer.headers.get_list("Set-Cookie")
    assert line.startswith("batchhub-away-")
    assert all(word in line for word in ("SameSite=None", "Secure", "HttpOnly", "Path=/hub/", "Max-Age=900"))
    query = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    answer = await hub.post(hub.platform.authorize(query)[1])
    lines = answer.headers.get_list("Set-Cookie")
    assert [line for line in lines if line.startswith("batchhub-session=") and "SameSite=Lax" in line]


async def test_the_cookie_that_crosses_sites_is_the_hosts_own(tmp_path):
    """Where servers have hosts of their own, so that none of them sets it for the hub."""
    hub = Hub(tmp_path, settings=WebSettings(origin=read_origin("https://hub.test"), secure_cookies="always"))
    answer = await hub.browser.ask("GET", address("hub/lti13/oauth_login", hub.platform.initiation()), headers=TOP)
    (line,) = answer.headers.get_list("Set-Cookie")
    assert line.startswith("__Host-batchhub-away-")
    assert all(word in line for word in ("SameSite=None", "Secure", "HttpOnly", "Path=/;"))
    query = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    answer = await hub.post(hub.platform.authorize(query)[1])
    assert answer.code == 303
    assert any(line.startswith("__Host-batchhub-session=") for line in answer.headers.get_list("Set-Cookie"))
    await hub.close()


async def test_teachers_names_and_groups(hub):
    assert (await hub.round("hint-tom")).code == 303
    assert hub.way.last["name"].startswith("x-"), "the id holds what no name does"
    assert hub.way.last["groups"] == ("course:42", "course:42:instructor")


@pytest.mark.parametrize(
    ("key", "name"),
    [("email", "ann@example.org"), ("lis_person_sourcedid", "sis-ann7"), ("custom.login", "ann7-login")],
)
async def test_other_names(hub, key, name):
    source = hub.way._platforms[0].source
    object.__setattr__(source, "trusts_email", True)
    hub.way.username_key = key
    assert (await hub.round()).code == 303
    assert hub.way.last["name"] == name


async def test_a_name_that_is_not_said(hub):
    hub.way.username_key = "custom.unknown"  # comes back as "$User.username", for everybody
    await hub.refused(await hub.round(), "Your learning platform knows you, but this hub does not let you in")


async def test_only_a_course_comes_in(hub):
    hub.way.allow_all, hub.way.allowed_groups = False, {"course:42:instructor"}
    await hub.refused(await hub.round())
    assert (await hub.round("hint-tom")).code == 303


async def test_admins_by_a_role_only_where_the_site_says_so(tmp_path):
    hub = Hub(tmp_path, admin_roles=[f"{IN_COURSE}#Instructor"])
    assert (await hub.round("hint-tom")).code == 303
    assert hub.way.last["admin"] is True
    assert (await hub.round()).code == 303
    assert hub.way.last["admin"] is False
    await hub.close()


@pytest.mark.parametrize(
    ("target", "leads"),
    [
        ("/hub/lti13/oauth_callback?profile=lab&cores=4", "/hub/spawn?profile=lab&cores=4"),
        ("/hub/spawn?profile=lab", "/hub/spawn?profile=lab"),
        ("/?profile=lab", "/hub/spawn?profile=lab"),
        ("/hub/lti13/oauth_callback?next=/hub/spawn?profile=lab", "/hub/spawn?profile=lab"),
        ("/hub/lti13/oauth_callback?next=https://evil.example/", "/hub/home"),
        ("/hub/lti13/oauth_callback?next=//evil.example/", "/hub/home"),
        ("/hub/lti13/oauth_callback?profile=", "/hub/home"),
        ("", "/hub/home"),
        ("/hub/user-redirect/lab/tree/x.ipynb", "/hub/user-redirect/lab/tree/x.ipynb"),
        ("/hub/logout", "/hub/home"),
        ("//evil.example", "/hub/home"),
        ("/\\evil.example", "/hub/home"),
        ("/hub/%2e%2e/%2e%2e//evil.example", "/hub/home"),
    ],
)
async def test_a_link_leads_into_the_hub(hub, target, leads):
    hub.platform.target = hub.site.url + target
    assert (await hub.round()).headers["Location"] == leads


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/hub/spawn",
        "//evil.example/hub/spawn",
        "javascript:alert(1)",
        "{}.evil.example/hub/spawn",
        "http://me@{host}/hub/token",
        "http://[bad/hub/token",
        "/\t/evil.example",
    ],
)
async def test_a_link_leads_nowhere_else(hub, target):
    hub.platform.target = target.format(hub.site.url, host=urlsplit(hub.site.url).netloc)
    assert (await hub.round()).headers["Location"] == "/hub/home"


async def test_the_signed_address_counts_and_not_the_first(hub):
    query = await hub.begin(target_link_uri=f"{hub.site.url}/hub/token")
    answer = await hub.post(hub.platform.authorize(query)[1])
    assert answer.headers["Location"] == "/hub/home"


async def test_elliptic_curves_are_good_too(hub):
    hub.platform.key = ec.generate_private_key(ec.SECP256R1())
    hub.platform.keys = {"keys": [public(hub.platform.key, "first")]}
    assert (await hub.round()).code == 303


async def test_a_new_key_of_the_platform_is_fetched(hub):
    assert (await hub.round()).code == 303
    hub.platform.key, hub.platform.kid = rsa_key(1), "second"
    hub.platform.keys["keys"].append(public(rsa_key(1), "second"))
    hub.later(31)
    assert (await hub.round()).code == 303
    assert hub.platform.asked.count("jwks") == 2


async def test_the_platform_is_told_where_to_find_us(hub):
    found = json.loads((await hub.browser.get("hub/lti13/config")).body)
    assert found["oidc_initiation_url"] == f"{hub.site.url}/hub/lti13/oauth_login"
    assert found["redirect_uris"] == [found["target_link_uri"]] == [hub.launch]
    assert json.loads((await hub.browser.get("hub/lti13/jwks")).body) == {"keys": []}
    assert found["public_jwk_url"] == f"{hub.site.url}/hub/lti13/jwks"


# ------------------------------------------------------------------ 1.3: in a frame


@pytest.mark.parametrize("headers", [IN_FRAME, {}], ids=["framed", "silent"])
async def test_from_a_frame_it_begins_in_a_tab_of_its_own(hub, headers):
    answer = await hub.browser.ask("GET", address("hub/lti13/oauth_login", hub.platform.initiation()), headers=headers)
    assert answer.code == 200
    assert not any(name.startswith("batchhub-away") for name, _ in hub.browser.cookies)
    hub.browser.has('target="_blank"', "Open in a new tab")
    policy = answer.headers["Content-Security-Policy"]
    assert f"frame-ancestors {hub.platform.issuer};" in policy or policy.endswith(
        f"frame-ancestors {hub.platform.issuer}"
    )
    assert "default-src 'self'" in policy
    assert "X-Frame-Options" not in answer.headers
    again = hub.browser.text.split('href="/hub/lti13/oauth_login?')[1].split('"')[0].replace("&amp;", "&")
    answer = await hub.browser.ask(
        "GET", f"hub/lti13/oauth_login?{again}", headers={**headers, "Sec-Fetch-Dest": "document"}
    )
    query = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    assert (await hub.post(hub.platform.authorize(query)[1])).code == 303


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"}, 403), ({"Sec-Fetch-Dest": "iframe"}, 200)],
    ids=["image", "frame"],
)
async def test_another_sites_page_cannot_fill_the_browser_with_cookies(hub, headers, code):
    """Each begun sign-in is one, and they come along with other sites' requests; a few hundred, and the hub refuses all that browser sends."""
    fields = {**hub.platform.initiation(), "pressed": "1"}
    answer = await hub.browser.ask("GET", address("hub/lti13/oauth_login", fields), headers={**TOP, **headers})
    assert answer.code == code
    assert not any(name.startswith("batchhub-away") for name, _ in hub.browser.cookies)


async def test_no_other_page_can_be_framed(hub):
    for path in ("hub/login", "hub/lti13/config", "hub/home"):
        answer = await hub.browser.get(path)
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


async def test_the_framed_page_holds_what_it_was_given_as_text(hub):
    fields = {**hub.platform.initiation(), "login_hint": '"><script>alert(1)</script>', "other": "x" * 100}
    await hub.browser.ask("GET", address("hub/lti13/oauth_login", fields), headers=IN_FRAME)
    assert "<script>alert" not in hub.browser.text
    assert "xxxx" not in hub.browser.text, "only the fields of a login are kept"


# ------------------------------------------------------------------ 1.3: attacks


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": "\ud800"},
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["hub-client", "another"]},
        {"azp": "another"},
        {"exp": 1_700_000_000},
        {"exp": None},
        {"iat": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {f"{CLAIM}deployment_id": "another"},
        {f"{CLAIM}deployment_id": None},
        {f"{CLAIM}deployment_id": ["deployment 1"]},
        {f"{CLAIM}version": "1.1"},
        {f"{CLAIM}version": None},
        {f"{CLAIM}message_type": None},
        {f"{CLAIM}message_type": ["LtiResourceLinkRequest"]},
        {f"{CLAIM}roles": None},
        {f"{CLAIM}roles": "Instructor"},
        {f"{CLAIM}roles": [{"a": 1}]},
        {f"{CLAIM}resource_link": None},
        {f"{CLAIM}resource_link": {}},
        {f"{CLAIM}resource_link": "link"},
        {f"{CLAIM}target_link_uri": None},
        {f"{CLAIM}context": {"title": "without an id"}},
        {f"{CLAIM}context": ["42"]},
        {f"{CLAIM}custom": "x"},
    ],
    ids=str,
)
async def test_messages_that_are_not_for_us(hub, claims):
    hub.platform.claims = claims
    await hub.refused(await hub.round(), "Your learning platform knows you, but this hub does not let you in")


async def test_the_log_says_which_deployment_it_is(hub, caplog):
    """Which is what has to be written into the configuration, at most platforms' first launch."""
    hub.platform.claims = {f"{CLAIM}deployment_id": "2:8865aa05"}
    await hub.refused(await hub.round())
    assert "deployment_id: '2:8865aa05' is not one of this site's" in caplog.text


async def test_without_roles_one_is_in_the_course_and_nothing_more(hub):
    hub.platform.claims = {f"{CLAIM}roles": []}
    assert (await hub.round()).code == 303
    assert hub.way.last["groups"] == ("course:42",)


@pytest.mark.parametrize(
    "half", ["sub", f"{CLAIM}target_link_uri", f"{CLAIM}roles", f"{CLAIM}context", "email", "name"]
)
async def test_half_a_character(hub, half):
    """JSON can spell what no text can hold; nobody falls over it."""
    text = "\ud800"
    hub.platform.claims = {half: {f"{CLAIM}roles": [text], f"{CLAIM}context": {"id": text}}.get(half, text)}
    answer = await hub.round()
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/home")
    assert all(group.isascii() for group in hub.way.last["groups"])


@pytest.mark.parametrize("kind", ["LtiDeepLinkingRequest", "LtiSubmissionReviewRequest", "Anything"])
async def test_other_messages_are_refused_in_words(hub, kind):
    hub.platform.claims = {f"{CLAIM}message_type": kind}
    words = "Add it to your course as an external tool" if "Deep" in kind else "it can do nothing else"
    await hub.refused(await hub.round(), words, code=400)


async def test_unsigned(hub):
    hub.platform.head, hub.platform.sign = {"alg": "none"}, lambda _: b""
    await hub.refused(await hub.round())


async def test_signed_with_the_public_key(hub):
    pem = (
        rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    hub.platform.head, hub.platform.sign = {"alg": "HS256"}, lambda text: hmac.digest(pem, text, "sha256")
    await hub.refused(await hub.round())


@pytest.mark.parametrize(
    "head", [{"alg": "RS512"}, {"alg": "PS256"}, {"alg": "ES256"}, {"crit": ["x"], "x": 1}], ids=str
)
async def test_other_algorithms(hub, head):
    hub.platform.head = head
    await hub.refused(await hub.round())


async def test_signed_by_somebody_else(hub):
    """With the platform's key id; with one of their own; with the key in the token itself."""
    hub.platform.key = rsa_key(1)
    await hub.refused(await hub.round())
    hub.platform.kid = "theirs"
    await hub.refused(await hub.round())
    hub.platform.head = {"jwk": public(rsa_key(1), "theirs"), "jku": "https://evil.example/jwks"}
    await hub.refused(await hub.round())
    assert hub.platform.asked.count("jwks") == 1, "an unknown key has the list fetched again twice a minute at most"


async def test_keys_that_are_somewhere_else_or_without_end(hub):
    hub.platform.elsewhere = "/other"
    await hub.refused(await hub.round(), "Campus does not tell its keys now", code=503)
    hub.platform.elsewhere, hub.platform.padding = "", 2 << 20
    await hub.refused(await hub.round(), "please try again", code=503)
    hub.platform.padding, hub.platform.status = 0, 503
    await hub.refused(await hub.round(), "please try again", code=503)
    assert "other" not in hub.platform.asked
    hub.platform.status, hub.platform.keys = 200, {"keys": "none"}
    await hub.refused(await hub.round())


async def test_another_browsers_launch(hub):
    """Login CSRF: somebody is made to post the attacker's launch."""
    attacker = hub.site.browser()
    _, fields = hub.platform.authorize(await hub.begin(browser=attacker))
    await hub.begin()
    await hub.refused(await hub.post(fields), "not begun in this browser")
    assert (await hub.post(fields, attacker)).code == 303


async def test_a_launch_is_good_once(hub):
    """Also for who has kept its cookie."""
    query = await hub.begin()
    cookies, (_, fields) = dict(hub.browser.cookies), hub.platform.authorize(query)
    assert (await hub.post(fields)).code == 303
    thief = hub.site.browser()
    for seconds, words in ((0, "knows you, but this hub does not let you in"), (901, "or it took too long")):
        thief.cookies = dict(cookies)
        hub.later(seconds)
        assert (await hub.post(fields, thief)).code == 403
        thief.has(words)


async def test_anothers_message_with_ones_own_state(hub):
    """A launch that was read on its way is of no use in a sign-in of one's own: the nonce is another."""
    victim = hub.site.browser()
    _, theirs = hub.platform.authorize(await hub.begin(browser=victim))
    mine = await hub.begin()
    await hub.refused(await hub.post({**theirs, "state": mine["state"]}))


@pytest.mark.parametrize("fields", [{}, {"state": "x"}, {"id_token": "a.b.c"}, {"state": "", "id_token": "é"}], ids=str)
async def test_nonsense_is_posted(hub, fields):
    await hub.refused(await hub.post(fields), "not begun in this browser")


@pytest.mark.parametrize("token", ["", "x", "a.b", "..", "e30.e30.", "\u00fc.x.y", "9" * 40000], ids=lambda t: t[:9])
async def test_nonsense_instead_of_a_token(hub, token):
    query = await hub.begin()
    await hub.refused(await hub.post({"state": query["state"], "id_token": token}))


async def test_a_field_that_comes_twice(hub):
    _, fields = hub.platform.authorize(await hub.begin())
    await hub.refused(await hub.post([*fields.items(), ("id_token", "x")]), "is there 2 times; once is right", code=400)


async def test_the_platform_says_no(hub):
    _, fields = hub.platform.authorize(await hub.begin("hint-nobody"))
    assert fields["error"] == "login_required"
    await hub.refused(await hub.post(fields), "Campus did not sign you in")


@pytest.mark.parametrize(
    "changes", [{"iss": "https://evil.example"}, {"client_id": "another"}, {"login_hint": ""}, {"login_hint": "x" * 5000}],
    ids=lambda changes: str(changes)[:30],
)  # fmt: skip
async def test_platforms_that_are_not_registered(hub, changes):
    fields = {**hub.platform.initiation(), **changes}
    answer = await hub.browser.ask("GET", address("hub/lti13/oauth_login", fields), headers=TOP)
    assert answer.code == 400
    assert "Location" not in answer.headers
    assert not any(name.startswith("batchhub-away") for name, _ in hub.browser.cookies)


async def test_the_platform_need_not_say_its_client_id(hub):
    query = await hub.begin(client_id="")
    assert query["client_id"] == "hub-client"


async def test_a_launch_ends_at_its_own_address(hub):
    """Neither way back takes the other's answers."""
    query = await hub.begin()
    token = hub.platform.authorize(query)[1]["id_token"]
    answer = await hub.browser.get(f"hub/oauth_callback?state={query['state']}&id_token={quote(token)}")
    await hub.refused(answer, "not begun in this browser")
    assert (await hub.browser.get("hub/oauth_login?way=lti13&iss=" + quote(hub.platform.issuer))).code == 403


async def test_over_plain_http_from_elsewhere(hub):
    for path, method in (
        ("hub/lti13/oauth_login?iss=x", "GET"),
        ("hub/lti13/oauth_callback", "POST"),
        ("hub/lti/launch", "POST"),
    ):
        answer = await hub.browser.ask(
            method, path, body="a=b" if method == "POST" else None, headers={**FORM, "Host": "hub.example.org"}
        )
        await hub.refused(answer, "over https only")


async def test_where_no_course_leads(site):
    browser = site.browser()
    for path in ("hub/lti13/oauth_login", "hub/lti13/oauth_callback", "hub/lti/launch"):
        assert (await browser.ask("POST", path, body="a=b", headers={**TOP, **FORM})).code == 404


async def test_the_addresses_typed_by_hand(hub):
    for path in ("hub/lti13/oauth_login", "hub/lti13/oauth_callback", "hub/lti/launch"):
        assert (await hub.browser.get(path)).code == 400
        hub.browser.has("Please open the hub from your course")
    await hub.browser.get("hub/login")
    hub.browser.has("Sign in")
    assert "oauth_login?way=lti" not in hub.browser.text


async def test_the_log_holds_no_token(hub, caplog):
    caplog.set_level("DEBUG")
    query = await hub.begin()
    _, fields = hub.platform.authorize(query)
    hub.platform.claims = {"aud": "another"}
    await hub.post(fields)
    await hub.round()
    assert fields["id_token"] not in caplog.text
    assert query["nonce"] not in caplog.text


# ------------------------------------------------------------------ 1.1


async def test_a_signed_form_asks_first_and_then_signs_in(hub):
    fields = hub.platform.launch11(hub.launch11)
    answer = await hub.launched11(fields, pressed=False)
    assert answer.code == 200
    hub.browser.has("Ann Example (Campus)", "Continue", "Übung 1 & more = 100 %")
    assert not hub.site.store.sessions
    answer = await hub.launched11(fields)
    assert (answer.code, answer.headers["Location"]) == (303, "/hub/home")
    assert hub.old.last["name"] == "c-ann7"
    assert hub.old.last["groups"] == ("course:c-42", "course:c-42:learner")
    assert "oauth_signature" not in hub.old.last["auth_state"]["lti"]


async def test_the_page_that_asks_may_be_in_a_frame_of_named_pages_only(tmp_path):
    hub = Hub(tmp_path)
    fields = hub.platform.launch11(hub.launch11)
    answer = await hub.launched11(fields, pressed=False)
    assert answer.headers["X-Frame-Options"] == "DENY", "no page was named"
    await hub.close()


async def test_by_a_script_of_another_page_nobody_is_signed_in(hub):
    """Origin and Sec-Fetch-Site have to agree that the button of our own page was pressed."""
    fields = urlencode(hub.platform.launch11(hub.launch11))
    for headers in (
        {"Origin": hub.platform.issuer, "Sec-Fetch-Site": "same-origin"},
        {"Origin": hub.site.url, "Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
    ):
        answer = await hub.browser.ask("POST", "hub/lti/launch", body=fields, headers={**TOP, **FORM, **headers})
        assert answer.code == 200
        assert not hub.site.store.sessions


async def test_a_signed_form_is_good_once(hub):
    fields = hub.platform.launch11(hub.launch11)
    assert (await hub.launched11(fields)).code == 303
    hub.site.store.sessions.clear()
    hub.browser.cookies.clear()
    await hub.refused(await hub.launched11(fields), "Please open it from your course again")


@pytest.mark.parametrize(
    "changed", ["user_id", "roles", "context_id", "custom_login", "oauth_nonce", "resource_link_id"]
)
async def test_a_changed_field(hub, changed):
    fields = hub.platform.launch11(hub.launch11)
    await hub.refused(await hub.launched11({**fields, changed: "x"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"oauth_timestamp": "1772357399"},  # 09:29:59 of that day is 10 minutes before
        {"oauth_timestamp": "4000000000"},
        {"oauth_timestamp": "-1"},
        {"oauth_timestamp": None},
        {"oauth_nonce": None},
        {"oauth_nonce": "n" * 300},
        {"oauth_version": "2.0"},
        {"oauth_token": "t"},
        {"oauth_signature_method": "PLAINTEXT"},
        {"oauth_signature_method": "HMAC-SHA256"},
        {"lti_version": "LTI-2p0"},
        {"lti_message_type": "ContentItemSelectionRequest"},
        {"resource_link_id": None},
        {"user_id": None},
        {"user_id": ""},
        {"roles": None},
        {"context_id": "4" * 300},
    ],
    ids=str,
)
async def test_forms_that_are_rightly_signed_and_no_launch(hub, changes):
    hub.later(600)
    await hub.refused(await hub.launched11(hub.platform.launch11(hub.launch11, **changes)))
    assert (await hub.launched11(hub.platform.launch11(hub.launch11))).code == 303, "the same without the change"


async def test_signed_with_nothing_or_by_nobody(hub):
    right = hub.platform.launch11(hub.launch11)
    for fields in (
        hub.platform.launch11(hub.launch11, secret=""),
        hub.platform.launch11(hub.launch11, secret=SECRET + "x"),
        hub.platform.launch11(hub.launch11, key="another"),
        hub.platform.launch11(hub.launch11, key=""),
        hub.platform.launch11("http://evil.example/hub/lti/launch"),
        {**right, "oauth_signature": ""},
        {**right, "oauth_signature": "\u00fc"},
        {name: value for name, value in right.items() if name != "oauth_signature"},
        {"oauth_consumer_key": "campus"},
    ):
        await hub.refused(await hub.launched11(fields))
        await hub.refused(await hub.launched11(fields, pressed=False))


async def test_parameters_that_come_twice(hub):
    fields = hub.platform.launch11(hub.launch11)
    body = urlencode(fields) + "&user_id=root"
    await hub.refused(await hub.launched11(fields, body=body), "is there 2 times", code=400)
    url = f"{hub.launch11}?user_id=root"
    await hub.refused(await hub.launched11(hub.platform.launch11(url), path="hub/lti/launch?user_id=root"))
    await hub.refused(await hub.launched11(fields, path="hub/lti/launch?x=1"), "open it from your course again")


async def test_the_signed_address_is_the_public_one(hub):
    """Behind a front end that ends TLS, the form was signed for https and the public name."""
    hub.site.server.xheaders = True
    fields = hub.platform.launch11("https://hub.example.org/hub/lti/launch")
    public = {"Host": "hub.example.org", "X-Forwarded-Proto": "https", "Origin": "https://hub.example.org"}
    headers = {**TOP, **FORM, **public, "Sec-Fetch-Site": "same-origin"}
    answer = await hub.browser.ask("POST", "hub/lti/launch", body=urlencode(fields), headers=headers)
    assert answer.code == 303
    assert "Secure" in next(line for line in answer.headers.get_list("Set-Cookie") if "batchhub-session" in line)


async def test_addresses_as_jupyterhub_had_them(hub):
    path = "hub/lti/launch?custom_next=/hub/user-redirect/lab"
    fields = hub.platform.launch11(f"{hub.site.url}/{path}")
    assert (await hub.launched11(fields, path=path)).headers["Location"] == "/hub/user-redirect/lab"


@pytest.mark.parametrize("moodle", [False, True])
async def test_a_link_with_a_profile(hub, moodle):
    """In the address, which the signature covers; some platforms post its parameters as well."""
    path = "hub/lti/launch?profile=lab"
    url = f"{hub.site.url}/{path}"
    fields = {**hub.platform.launch11(url), **({"profile": "lab"} if moodle else {})}
    assert (await hub.launched11(fields, path=path)).headers["Location"] == "/hub/spawn?profile=lab"


@pytest.mark.parametrize(
    ("after", "leads"),
    [
        ("/hub/spawn?profile=lab", "/hub/spawn?profile=lab"),
        ("https://evil.example/", "/hub/home"),
        ("//evil", "/hub/home"),
    ],
)
async def test_a_custom_parameter_leads_on(hub, after, leads):
    fields = hub.platform.launch11(hub.launch11, custom_next=after)
    assert (await hub.launched11(fields)).headers["Location"] == leads


async def test_guessing_is_slowed_down(hub):
    """By address: the key is everybody's of a platform, so nobody can use up its attempts."""
    wrong = hub.platform.launch11(hub.launch11, secret="a guess")
    codes = [(await hub.launched11(wrong, pressed=index % 2 == 0)).code for index in range(61)]
    assert codes[:60] == [403] * 60
    assert codes[60] == 429
