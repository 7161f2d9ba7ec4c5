"""What all OAuth providers share: settings, exact rules, refreshing, and the presets' own ways."""

import contextlib
import os
import sys
from urllib.parse import parse_qs, urlsplit

import pytest

from batchhub.app.state import utc_now
from batchhub.auth.oauth import find_claim, fits
from batchhub.auth.oauth_http import BODY_LIMIT, check_url
from batchhub.auth.oauth_presets import (
    GitHubAuthenticator,
    GitLabAuthenticator,
    GlobusAuthenticator,
    GoogleAuthenticator,
)
from batchhub.auth.oidc import OIDCAuthenticator, merged
from batchhub.auth.rules import sign_in
from batchhub.auth.secretfile import read_secret_file
from batchhub.core.errors import ConfigError, Denied, Unreachable
from tests.openid import LyingProvider

CLIENT = {"client_id": "hub", "client_secret": "hub-secret", "allow_all": True}
CALLBACK = "https://hub.example.org/hub/oauth_callback"


@pytest.fixture
async def provider():
    provider = LyingProvider()
    yield provider
    await provider.close()


@contextlib.contextmanager
def made(cls, provider, **more):
    where = (
        {"github_url": provider.issuer, "github_api_url": provider.issuer + "/api"}
        if cls is GitHubAuthenticator
        else {"issuer": provider.issuer}
    )
    way = cls(**{**CLIENT, **where, **more})
    yield way
    way.close()


async def came_back(way, provider):
    leaving = await way.depart(None, {}, "state", CALLBACK)
    asked = parse_qs(urlsplit(leaving.url).query)
    code = provider.code(asked)
    return await sign_in(way, None, {"code": code, "kept": leaving.keep, "callback": CALLBACK})


def test_settings_that_cannot_work(provider):
    for more, words in [
        ({"client_id": ""}, "client_id is missing"),
        ({"client_secret_file": "/x"}, "only one"),
        ({"username_claim": ""}, "username_claim is empty"),
        ({"allowed_groups": {"physics"}}, "groups_claim does not say"),
        ({"extra_authorize_params": {"state": "x"}}, "the hub's own to set"),
        ({"scope": {"email"}}, "must hold 'openid'"),
        ({"issuer": "http://id.example.org"}, "https://"),
        ({"issuer": ""}, "https://"),
        ({"extra_authorize_params": {"max_age": "1h"}}, "a number of seconds"),
        ({"ca_file": "/nowhere"}, r"c\.OIDCAuthenticator\.ca_file: no certificates can be read from /nowhere"),
        ({"ca_file": __file__}, "no certificates can be read"),
    ]:
        with pytest.raises(ConfigError, match=words), made(OIDCAuthenticator, provider, **more):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.org",
        "ftp://127.0.0.1",
        "https://a:b@id.example.org",
        "https://x/#y",
        "//x",
        "http://127.0.0.1.evil.example",
    ],
)
def test_addresses_that_no_secret_is_sent_to(url):
    with pytest.raises(ConfigError):
        check_url(url, "issuer")


def test_the_extra_is_named_when_it_is_missing(provider, monkeypatch):
    monkeypatch.setitem(sys.modules, "batchhub.auth.oauth_tools", None)
    with pytest.raises(ConfigError, match=r"batchhub\[oidc\]"), made(OIDCAuthenticator, provider):
        pass


def test_a_secret_in_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="0600") as caught:
        read_secret_file(str(file), "it")
    assert "s3cret" not in str(caught.value)
    file.chmod(0o600)
    assert read_secret_file(str(file), "it") == "s3cret"
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "empty").touch(0o600)
    for name in ("pipe", "empty", "none"):
        with pytest.raises(ConfigError):
            read_secret_file(str(tmp_path / name), "it")


@pytest.mark.parametrize(
    ("found", "wanted", "right"),
    [
        ("a", "a", True),
        ("a", ["b", "a"], True),
        (["a", "b"], "b", True),
        (True, True, True),
        ("ab", "a", False),
        ("A", "a", False),
        (1, True, False),
        ("true", True, False),
        (None, None, False),
        (None, "a", False),
        ([], "a", False),
        ({"a": 1}, "a", False),
    ],
)
def test_claims_fit_exactly(found, wanted, right):
    assert fits(found, wanted) is right


def test_claims_inside_of_claims():
    claims = {"realm_access": {"roles": ["a"]}, "https://x.org/groups": ["b"]}
    assert find_claim(claims, "realm_access.roles") == ["a"]
    assert find_claim(claims, "https://x.org/groups") == ["b"]
    assert find_claim(claims, "realm_access.roles.a") is None


def test_verified_says_so_of_the_same_address():
    mail, other = {"email": "a@x.org"}, {"email": "b@x.org"}
    yes = {"email_verified": True}
    assert merged(mail | yes, {})["email_verified"] is True
    assert merged(mail, mail | yes)["email_verified"] is True
    assert merged(mail | {"email_verified": False}, mail | yes)["email_verified"] is False
    assert "email_verified" not in merged(mail, other | yes)
    assert "email_verified" not in merged(yes, other)


async def test_required_claims_hold_for_everybody(provider):
    with made(
        OIDCAuthenticator, provider, required_claims={"affiliation": ["staff", "faculty"]}, admin_users={"ann"}
    ) as way:
        for value in ("student", "staffing", ["alum"], None):
            provider.userinfo["affiliation"] = value
            assert await came_back(way, provider) is None
        provider.userinfo["affiliation"] = ["alum", "staff"]
        assert (await came_back(way, provider)).admin is True


async def test_a_password_of_long_ago(provider):
    """The person takes max_age out of the address on the way to the provider, which then says nothing of it or the truth."""
    with made(OIDCAuthenticator, provider, extra_authorize_params={"max_age": "300"}, enable_auth_state=True) as way:
        assert await came_back(way, provider) is None
        provider.claims = {"auth_time": 1_700_000_000}
        assert await came_back(way, provider) is None
        provider.claims = {"auth_time": int(utc_now().timestamp())}
        state = dict((await came_back(way, provider)).auth_state)
        provider.claims = {"auth_time": 1_700_000_000, "nonce": None}
        assert (await again(way, ended(state)))["name"] == "ann", "a refresh is no sign-in"


async def test_domains_are_stripped_only_where_they_are_ours(provider):
    with made(OIDCAuthenticator, provider, strip_domain="example.org") as way:
        for name in ("root@evil.org", "root@sub.example.org", "root@notexample.org", "root", "@example.org"):
            provider.userinfo["preferred_username"] = name
            assert await came_back(way, provider) is None
        provider.userinfo["preferred_username"] = "Ann@Example.org"
        assert (await came_back(way, provider)).name == "ann"
        way.username_claim, provider.userinfo["attributes"] = "attributes.mail", {"mail": "bob@example.org"}
        assert (await came_back(way, provider)).name == "bob", "inside of a claim, as groups may be"
        way.username_claim, way.strip_domain = "preferred_username", "kit.example"
        assert way.name_of({"preferred_username": "ann@\N{KELVIN SIGN}it.example"}) is None
        assert way.name_of({"preferred_username": "ann@Kit.example"}) == "ann"


class Ann:
    """Somebody who signed in earlier."""

    def __init__(self, state) -> None:
        self.name, self.admin, self.groups, self.state = "ann", False, (), state

    async def get_auth_state(self):
        return self.state


async def again(way, state):
    return await way.refresh_user(Ann(state))


def ended(state):
    """Its access token is good no more."""
    return {**state, "access_token": "ended"}


async def test_refreshing(provider):
    with made(OIDCAuthenticator, provider, groups_claim="groups", enable_auth_state=True) as way:
        state = dict((await came_back(way, provider)).auth_state)
        provider.claims, provider.userinfo["groups"] = {"nonce": None}, ["new"]
        now = await again(way, state)
        assert (now["name"], now["groups"], now["auth_state"]["access_token"]) == ("ann", ["new"], "access-1")
        assert len(provider.forms) == 1, "some providers end an access token, which a job may have, with the next one"
        now = await again(way, ended(state))
        assert (now["name"], now["groups"], now["auth_state"]["access_token"]) == ("ann", ["new"], "access-2")
        assert now["auth_state"]["refresh_token"] == "refresh-1"
        # Without an ID token in the answer, userinfo says it.
        provider.token = {"id_token": None}
        assert (await again(way, ended(state)))["name"] == "ann"
        provider.token = {}
        for lie in ({"sub": "s-2"}, {"iss": "https://evil.example"}, {"aud": "other"}, {"exp": 1}):
            provider.claims = lie
            assert await again(way, ended(state)) is False
        provider.claims = {}
        assert await again(way, {**ended(state), "refresh_token": "revoked"}) is False
        assert await again(way, {**state, "subject": ""}) is False
        assert await again(way, {}) is False
        assert await again(way, None) is False, "what was kept is lost"
        provider.userinfo["sub"] = "s-2"
        assert await again(way, state) is False
        provider.down = True
        with pytest.raises(Unreachable):
            await again(way, state)


async def test_what_only_the_id_token_says(provider):
    """As at Entra ID, whose userinfo knows neither name nor groups; and a claim that userinfo had told is gone when it does not any more."""
    rules = {"groups_claim": "groups", "required_claims": {"role": "staff"}, "enable_auth_state": True}
    with made(OIDCAuthenticator, provider, **rules) as way:
        provider.userinfo = {"sub": "s-1", "role": "staff"}
        provider.claims = {"preferred_username": "ann", "groups": ["old"], "role": "staff"}
        state = dict((await came_back(way, provider)).auth_state)
        provider.claims["groups"] = ["new"]
        assert (await again(way, state))["groups"] == ["new"], "a new ID token was asked for"
        provider.token = {"id_token": None}
        now = await again(way, state)
        assert (now["name"], now["groups"]) == ("ann", ["old"]), "no newer one came"
        assert (await again(way, now["auth_state"]))["groups"] == ["old"]
        unrefreshed = {**state, "refresh_token": ""}
        assert (await again(way, unrefreshed))["groups"] == ["old"]
        del provider.userinfo["role"]
        for one in (state, unrefreshed):
            assert await again(way, one) is False


async def test_groups_in_another_order_are_the_same(provider):
    """So userinfo may tell that one is gone, without a new ID token."""
    rules = {"groups_claim": "access.groups", "allow_all": False, "allowed_groups": {"b"}, "enable_auth_state": True}
    with made(OIDCAuthenticator, provider, **rules) as way:
        provider.claims, provider.userinfo["access"] = {"access": {"groups": ["a", "b"]}}, {"groups": ["b", "a"]}
        state = dict((await came_back(way, provider)).auth_state)
        provider.userinfo["access"] = {"groups": ["a"]}
        assert (await again(way, {**state, "refresh_token": ""}))["groups"] == ["a"]
        assert (await again(way, state))["groups"] == ["a"]
        assert len(provider.forms) == 1


async def test_userinfo_that_says_otherwise_than_the_id_token(provider):
    """The token goes first, at a refresh too: nobody becomes another, or is signed out, for it."""
    with made(OIDCAuthenticator, provider, enable_auth_state=True) as way:
        provider.claims, provider.userinfo["preferred_username"] = {"preferred_username": "ann"}, "ann@example.org"
        state = dict((await came_back(way, provider)).auth_state)
        assert (await again(way, {**state, "refresh_token": ""}))["name"] == "ann"
        assert (await again(way, state))["name"] == "ann"
        assert len(provider.forms) == 2


async def test_a_refresh_token_that_was_used_is_not_used_again(provider):
    """Neither when userinfo falls silent after it, nor when the database does not take what came for it."""
    with made(OIDCAuthenticator, provider, enable_auth_state=True) as way:
        state = ended((await came_back(way, provider)).auth_state)
        provider.token, provider.claims, provider.silent = {"refresh_token": "refresh-2"}, {"nonce": None}, {"userinfo"}
        with pytest.raises(Unreachable):
            await again(way, state)
        provider.silent = set()
        for _ in range(2):
            now = await again(way, state)
            assert (now["auth_state"]["access_token"], now["auth_state"]["refresh_token"]) == ("access-2", "refresh-2")
        assert [form.get("refresh_token") for form in provider.forms] == [None, "refresh-1"]
        provider.good, provider.ended = {"refresh-2"}, {"access-2"}
        await again(way, state)
        assert provider.forms[-1]["refresh_token"] == "refresh-2"


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("userinfo", 404, {}),
        ("userinfo", 302, {}),
        ("token", 403, "<html>Maintenance</html>"),
        ("token", 400, {"error": "temporarily_unavailable"}),
        ("token", 503, {"error": "invalid_grant"}),
    ],
)
async def test_what_is_neither_yes_nor_no_signs_nobody_out(provider, path, status, answer):
    with made(OIDCAuthenticator, provider, enable_auth_state=True) as way:
        state = dict((await came_back(way, provider)).auth_state)
        provider.instead[path] = status, answer
        with pytest.raises(Unreachable):
            await again(way, ended(state) if path == "token" else state)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "ü", "", 7])
async def test_tokens_that_could_not_be_sent(provider, token):
    provider.token = {"access_token": token}
    with made(OIDCAuthenticator, provider) as way, pytest.raises(Unreachable, match="no token that can be used"):
        await came_back(way, provider)


async def test_the_log_says_what_the_provider_says(provider, caplog):
    """Some repeat what they were sent."""
    provider.instead["token"] = 400, {"error": "invalid_grant", "error_description": "unknown: c-1 of hub-secret\n"}
    with made(OIDCAuthenticator, provider) as way:
        assert await came_back(way, provider) is None
        assert r"does not accept it: 400 'invalid_grant: unknown: … of …\n'" in caplog.text
        provider.instead["token"] = 401, {"error": "invalid_client"}
        with pytest.raises(ConfigError, match="this hub's own credentials"):
            await came_back(way, provider)
        away = {"error": "access_denied", "error_description": "AADSTS50105: not assigned", "kept": {}}
        with pytest.raises(Denied):
            await way.authenticate(None, away)
        assert "access_denied: AADSTS50105: not assigned" in caplog.text


async def test_the_log_says_what_is_set_up_wrongly(provider, caplog):
    rules = {"groups_claim": "groups", "allow_all": False, "allowed_groups": {"hpc"}}
    with made(OIDCAuthenticator, provider, **rules) as way:
        provider.userinfo["groups"] = ["/hpc"]
        assert await came_back(way, provider) is None
        assert "not allowed; the groups are ['/hpc']" in caplog.text
        way.username_claim = "upn"
        assert await came_back(way, provider) is None
        assert "no name in upn; there are 'aud, exp, groups, iat, iss, nonce, preferred_username, sub'" in caplog.text
        way.username_claim = "email"
        assert await came_back(way, provider) is None
        assert "email_verified is None" in caplog.text
        provider.claims = {"iss": "https://sts.windows.net/x"}
        assert await came_back(way, provider) is None
        assert "iss: another issuer's, 'https://sts.windows.net/x'" in caplog.text


async def test_groups_that_are_elsewhere_are_said_in_the_log(provider, caplog):
    provider.userinfo["_claim_names"] = {"groups": "src1"}
    with made(OIDCAuthenticator, provider, groups_claim="groups") as way:
        assert (await came_back(way, provider)).groups == ()
    assert "the groups of 's-1' are not in the token but elsewhere" in caplog.text


async def test_why_a_provider_does_not_answer_is_in_the_log(caplog):
    way = OIDCAuthenticator(**CLIENT, issuer="https://127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 does not answer"):
        await way.endpoints()
    way.close()
    assert "Connection refused" in caplog.text


async def test_without_what_was_kept_there_is_nothing_to_ask_with(provider):
    with made(OIDCAuthenticator, provider) as way:
        asked = len(provider.asked)
        assert await again(way, None) is True
        assert len(provider.asked) == asked


async def test_rules_of_the_sign_in_hold_at_a_refresh(provider):
    rules = {"required_claims": {"affiliation": "staff"}, "enable_auth_state": True}
    with made(OIDCAuthenticator, provider, **rules) as way:
        provider.userinfo["affiliation"] = "staff"
        state = dict((await came_back(way, provider)).auth_state)
        provider.userinfo["affiliation"] = "alum"
        assert await again(way, state) is False


async def test_refreshing_without_a_refresh_token(provider):
    provider.token = {"refresh_token": None}
    with made(OIDCAuthenticator, provider, enable_auth_state=True) as way:
        state = dict((await came_back(way, provider)).auth_state)
        assert (await again(way, state))["name"] == "ann"
        assert await again(way, {**state, "access_token": "ended"}) is True, "it says nothing about the person"
        provider.userinfo["sub"] = "s-2"
        assert await again(way, state) is False
        way.use_userinfo = False
        assert await again(way, state) is True, "there is nobody to ask"


async def test_an_answer_without_end_is_not_read(provider):
    provider.userinfo["more"] = "x" * BODY_LIMIT
    with made(OIDCAuthenticator, provider) as way, pytest.raises(Unreachable):
        await came_back(way, provider)
    assert set(provider.encodings) == {""}, "nor is one that could be packed asked for"


async def test_secrets_are_in_no_log_and_no_repr(provider, caplog):
    caplog.set_level("DEBUG")
    with made(OIDCAuthenticator, provider) as way:
        identity = await came_back(way, provider)
        provider.claims = {"aud": "other"}
        assert await came_back(way, provider) is None
    for secret in ("hub-secret", "access-1", "refresh-1", provider.forms[0]["code_verifier"]):
        assert secret not in caplog.text + repr(identity)


@pytest.fixture
def github(provider):
    provider.pages = {
        "api/user": {"id": 7, "login": "Ann", "name": "Ann"},
        "api/user/memberships/orgs": [
            {"state": "active", "organization": {"login": "Physics"}},
            {"state": "pending", "organization": {"login": "chemistry"}},
        ],
        "api/user/teams": [{"slug": "theory", "organization": {"login": "Physics"}}],
        "api/user/emails": [
            {"email": "other@example.org", "verified": True, "primary": False},
            {"email": "ann@example.org", "verified": False, "primary": True},
        ],
    }
    provider.token = {"id_token": None, "refresh_token": None}
    return provider


async def test_github(github):
    with made(GitHubAuthenticator, github, enable_auth_state=True) as way:
        identity = await came_back(way, github)
        assert (identity.name, identity.groups, way.scope) == ("ann", (), set())
        assert (await again(way, identity.auth_state))["name"] == "Ann"
        github.pages["api/user"]["id"] = 8  # the login was given to somebody else
        assert await again(way, identity.auth_state) is False
        assert await again(way, {**identity.auth_state, "access_token": "taken back"}) is False
        assert github.forms[0]["client_secret"] == "hub-secret"


@pytest.mark.parametrize("group", ["physics", "Physics:Theory", "PHYSICS"])
async def test_github_members(github, group):
    with made(GitHubAuthenticator, github, allow_all=False, allowed_groups={group}) as way:
        assert (await came_back(way, github)).groups == ("physics", "physics:theory")
        assert way.scope == {"read:org"}


@pytest.mark.parametrize("group", ["chemistry", "phys", "physics2", "theory", "physics:theory2"])
async def test_github_others(github, group):
    with made(GitHubAuthenticator, github, allow_all=False, allowed_groups={group}) as way:
        assert await came_back(way, github) is None


async def test_github_lists_of_several_pages(github):
    many = [{"state": "active", "organization": {"login": f"org{n}"}} for n in range(100)]
    github.pages["api/user/memberships/orgs"] = many
    with made(GitHubAuthenticator, github, allowed_groups={"org5"}) as way:
        assert "org99" in (await came_back(way, github)).groups
    assert github.asked.count("api/user/memberships/orgs") == 10, "a list without end is read to its tenth page"


async def test_github_mail(github):
    with made(GitHubAuthenticator, github, username_claim="email") as way:
        assert way.scope == {"user:email"}
        assert await came_back(way, github) is None
        github.pages["api/user/emails"][1]["verified"] = True
        assert (await came_back(way, github)).name == "ann@example.org"


async def test_github_that_may_not_tell_teams(github, caplog):
    """A GitHub App without the permission: there are organisations, no teams, and a line in the log."""
    github.instead["api/user/teams"] = 404, {"message": "Not Found"}
    with made(GitHubAuthenticator, github, allowed_groups={"physics"}) as way:
        assert (await came_back(way, github)).groups == ("physics",)
    assert "does not tell user/teams (404)" in caplog.text


@pytest.mark.parametrize(
    ("path", "header"), [("api/user", "X-RateLimit-Remaining: 0"), ("api/user/teams", "Retry-After: 60")]
)
async def test_github_says_too_often_with_403(github, path, header):
    """Which is no word about the person, nor that they are in no team."""
    with made(GitHubAuthenticator, github, allowed_groups={"physics:theory"}, enable_auth_state=True) as way:
        identity = await came_back(way, github)
        github.instead[path], github.headers = (403, {"message": "too often"}), dict([header.split(": ")])
        with pytest.raises(Unreachable):
            await again(way, identity.auth_state)


async def test_github_says_no_with_200(github):
    github.token |= {"access_token": None, "error": "bad_verification_code"}
    with made(GitHubAuthenticator, github) as way:
        assert await came_back(way, github) is None


async def test_gitlab(provider):
    provider.userinfo["groups"] = ["physics/theory", "physics"]
    with made(GitLabAuthenticator, provider, allow_all=False, allowed_groups={"theory"}) as way:
        assert await came_back(way, provider) is None
        way.allowed_groups = {"physics/theory"}
        assert (await came_back(way, provider)).name == "ann"


async def test_google_domains(provider):
    provider.userinfo = {"sub": "s-1", "email": "ann@example.org", "email_verified": True}
    with made(
        GoogleAuthenticator,
        provider,
        allow_all=False,
        hosted_domain={"example.org"},
        allow_hosted_domain=True,
        strip_domain="example.org",
    ) as way:
        for hd in (
            None,
            "notexample.org",
            "example.org.evil.example",
            "evil-example.org",
            "",
            ["example.org"],
            "x.example.org",
        ):
            provider.claims["hd"] = hd
            assert await came_back(way, provider) is None, hd
        provider.claims["hd"] = "example.org"
        assert (await came_back(way, provider)).name == "ann"
        provider.userinfo["email_verified"] = False
        assert await came_back(way, provider) is None
        leaving = await way.depart(None, {}, "state", CALLBACK)
        assert "hd=example.org" in leaving.url


async def test_globus(provider):
    provider.userinfo |= {"preferred_username": "ann@example.edu", "identity_provider": "uuid-1"}
    provider.token = {"other_tokens": [{"resource_server": "groups.api.globus.org", "access_token": "groups-1"}]}
    provider.pages["v2/groups/my_groups"] = [
        {"id": "g-1", "name": "staff", "my_memberships": [{"status": "active"}]},
        {"id": "g-2", "name": "staff", "my_memberships": [{"status": "invited"}]},
    ]
    with made(
        GlobusAuthenticator,
        provider,
        groups_url=provider.issuer,
        allow_all=False,
        allowed_groups={"g-2", "staff"},
        identity_provider={"uuid-1"},
        enable_auth_state=True,
    ) as way:
        assert any("view_my_groups" in one for one in way.scope)
        assert await came_back(way, provider) is None
        way.allowed_groups = {"g-1"}
        identity = await came_back(way, provider)
        assert (identity.name, identity.groups) == ("ann@example.edu", ("g-1",))
        provider.claims, provider.token = {"nonce": None}, {}
        assert (await again(way, identity.auth_state))["groups"] == ["g-1"]
        # After two days that service's token has ended too; it has a refresh token of its own.
        other = {"resource_server": "groups.api.globus.org", "access_token": "ended", "refresh_token": "refresh-1"}
        now = await again(way, {**identity.auth_state, "other_tokens": [other]})
        assert (now["groups"], now["auth_state"]["other_tokens"][0]["access_token"]) == (["g-1"], "access-2")
        assert await again(way, {**identity.auth_state, "other_tokens": [{**other, "refresh_token": ""}]}) is False
        way.identity_provider = {"uuid"}
        assert await came_back(way, provider) is None
