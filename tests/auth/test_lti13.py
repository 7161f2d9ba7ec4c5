"""LTI 1.3 as an authenticator: settings; and the launches it takes are those that pylti1p3 takes, whole."""

import sys
from types import SimpleNamespace

import pytest
import pytest_asyncio
from pylti1p3.cookie import CookieService
from pylti1p3.message_launch import MessageLaunch
from pylti1p3.request import Request
from pylti1p3.session import SessionService
from pylti1p3.tool_config import ToolConfDict

from batchhub.app.state import utc_now
from batchhub.auth.base import LoginKind, Place
from batchhub.auth.lti13 import LTI13Authenticator
from batchhub.auth.rules import sign_in
from batchhub.auth.ways import check_ways
from batchhub.core.errors import BadInput, ConfigError
from tests.lti_platform import CLAIM, Platform, public, rsa_key

CALLBACK = "https://hub.example.org/hub/lti13/oauth_callback"
NONCE = "a nonce"


@pytest_asyncio.fixture
async def platform():
    opened = Platform(utc_now)
    opened.target = CALLBACK
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def way(platform):
    made = LTI13Authenticator(platforms={platform.issuer: platform.table()}, allow_all=True)
    yield made
    made.close()


async def signed_in(way, platform, token):
    kept = {"nonce": NONCE, "issuer": platform.issuer, "client_id": platform.client}
    return await sign_in(way, None, {"id_token": token, "state": "s", "kept": kept, "callback": CALLBACK})


class _Request(Request, SessionService, CookieService):
    """pylti1p3's own tool, in memory: what it asks of a web framework."""

    def __init__(self, token):
        self.form = {"id_token": token, "state": "s"}
        self._session = {"lti1p3-nonce-" + NONCE: True}
        self.data_storage = self

    @property
    def session(self):
        return self._session

    def is_secure(self):
        return True

    def get_param(self, key):
        return self.form.get(key)

    def get_cookie(self, name):
        return name

    def set_cookie(self, name, value, exp=3600):
        raise AssertionError

    def check_value(self, key):
        return key in self._session

    def get_value(self, key):
        return self._session.get(key)

    def set_value(self, key, value, exp=None):
        self._session[key] = value


class _Launch(MessageLaunch):
    def _get_request_param(self, key):
        return self._request.get_param(key)


def as_pylti1p3_says(platform, token):
    """Whether the library takes it, and the claims it read."""
    table = {
        "client_id": platform.client,
        "auth_login_url": f"{platform.issuer}/auth",
        "auth_token_url": f"{platform.issuer}/token",
        "key_set_url": f"{platform.issuer}/jwks",
        "key_set": platform.keys,
        "deployment_ids": [platform.deployment],
    }
    request = _Request(token)
    return _Launch(request, ToolConfDict({platform.issuer: [table]}), request, request).get_launch_data()


async def test_the_platform_speaks_as_the_library_expects(way, platform):
    """So that our own reading of the specification, in the platform, is not its only judge."""
    token = platform.token(platform.people["hint-ann"], NONCE)
    claims = as_pylti1p3_says(platform, token)
    identity = await signed_in(way, platform, token)
    assert identity is not None
    assert (identity.name, identity.after) == ("ann7", CALLBACK)
    assert identity.auth_state["lti"] == claims


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "another"}, {"iss": "https://evil.example"}, {"aud": "another"}, {"exp": 1_700_000_000}, {"iat": 4_000_000_000}, {"sub": None},
        {f"{CLAIM}deployment_id": "2"}, {f"{CLAIM}version": "1.1"}, {f"{CLAIM}roles": None}, {f"{CLAIM}resource_link": {}},
        {f"{CLAIM}message_type": "Another"},
    ],
    ids=str,
)  # fmt: skip
async def test_what_the_library_refuses_is_refused(way, platform, changes):
    platform.claims = changes
    token = platform.token(platform.people["hint-ann"], NONCE)
    with pytest.raises(Exception):  # noqa: B017  (it raises any)
        as_pylti1p3_says(platform, token)
    try:
        assert await signed_in(way, platform, token) is None
    except BadInput:
        assert "Another" in str(changes)


async def test_forged_to_the_library_and_to_us(way, platform):
    platform.key = rsa_key(1)
    token = platform.token(platform.people["hint-ann"], NONCE)
    with pytest.raises(Exception):  # noqa: B017  (it raises any)
        as_pylti1p3_says(platform, token)
    assert await signed_in(way, platform, token) is None


async def test_one_platforms_launch_does_not_count_as_anothers(platform):
    """Same client id, same deployment id; keys and issuer are the other's."""
    other = Platform(utc_now)
    other.target, other.key, other.keys = CALLBACK, rsa_key(1), {"keys": [public(rsa_key(1), "first")]}
    way = LTI13Authenticator(
        platforms={platform.issuer: platform.table(prefix="p-"), other.issuer: other.table(prefix="o-")}, allow_all=True
    )
    token = other.token(other.people["hint-ann"], NONCE)
    assert await signed_in(way, platform, token) is None
    other.claims = {"iss": platform.issuer}
    assert await signed_in(way, platform, other.token(other.people["hint-ann"], NONCE)) is None
    assert (await signed_in(way, other, token)).name == "o-ann7"
    assert (await signed_in(way, other, token)) is None, "used"
    way.close()
    await other.close()


async def test_an_issuer_with_several_clients(platform):
    tables = [platform.table(prefix="a-"), platform.table(client_id="second", prefix="b-")]
    way = LTI13Authenticator(platforms={platform.issuer: tables}, allow_all=True)
    query = {**platform.initiation(), "client_id": "second"}
    leaving = await way.depart(None, query, "state", CALLBACK)
    assert "client_id=second" in leaving.url
    assert leaving.keep["client_id"] == "second"
    with pytest.raises(BadInput, match="does not know your learning platform"):
        await way.depart(None, {**query, "client_id": ""}, "state", CALLBACK)
    way.close()


async def test_the_platforms_page_is_asked_as_it_wants(way, platform):
    leaving = await way.depart(None, platform.initiation(), "state", CALLBACK)
    assert NONCE not in leaving.url
    assert leaving.keep["nonce"] in leaving.url
    for word in ("response_type=id_token", "response_mode=form_post", "prompt=none", "scope=openid", "state=state"):
        assert word in leaving.url
    assert "lti_message_hint=link+3%2F%C3%BC" in leaving.url or "lti_message_hint=link%203%2F%C3%BC" in leaving.url


def test_over_plain_http_on_loopback_alone(way):
    def at(address, **more):
        return Place(address, bytes(32), utc_now, **more)

    with pytest.raises(ConfigError, match="LTI13Authenticator needs https"):
        way.settle(at("0.0.0.0"))
    way.settle(at("127.0.0.1"))
    way.settle(at("0.0.0.0", secure=True))


def test_without_the_packages_the_extra_is_named(platform, monkeypatch):
    for name in ("batchhub.auth.lti_tools", "batchhub.auth.lti_claims"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pylti1p3.exception", None)
    with pytest.raises(ConfigError, match=r"pip install 'batchhub\[lti\]'"):
        LTI13Authenticator(platforms={platform.issuer: platform.table()})


def test_nothing_is_believed_unless_named():
    with pytest.raises(ConfigError, match=r"c\.LTI13Authenticator\.platforms is empty"):
        LTI13Authenticator()


def test_an_address_is_a_name_only_where_the_platform_checks_it(platform):
    with pytest.raises(ConfigError, match="trusts_email is not set for Campus"):
        LTI13Authenticator(platforms={platform.issuer: platform.table()}, username_key="email")


async def test_an_admin_by_role_stays_one_between_launches(platform):
    """The list of admins does not know of roles, and would take the right away."""
    table = {**platform.table(), "admin_roles": ["urn:lti:sysrole:ims/lis/SysAdmin"]}
    for made, admin in (
        (LTI13Authenticator(platforms={platform.issuer: table}, admin_users={"boss"}), {"admin": True}),
        (LTI13Authenticator(platforms={platform.issuer: table}, admin_users={"ann"}), True),
        (LTI13Authenticator(platforms={platform.issuer: platform.table()}, admin_users={"boss"}), True),
    ):
        assert await made.refresh_user(SimpleNamespace(name="ann", admin=True)) == admin
        made.close()


def test_one_of_a_kind_is_offered(way, platform):
    other = LTI13Authenticator(platforms={platform.issuer: platform.table()}, username_prefix="b-")
    with pytest.raises(ConfigError, match="only one can be offered"):
        check_ways({"lti13": way, "other": other}, same_people=True)
    assert way.kind is LoginKind.LTI13
