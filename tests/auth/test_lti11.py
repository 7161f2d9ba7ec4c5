"""LTI 1.1 as an authenticator: the signature, settings, secrets."""

import hmac
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.auth import lti11_signature
from batchhub.auth.base import Place
from batchhub.auth.lti11 import WINDOW, LTI11Authenticator, problem_of
from batchhub.auth.lti11_signature import fits, sign
from batchhub.auth.rules import sign_in
from batchhub.core.errors import ConfigError
from tests.lti_platform import SECRET, Platform, signature11

NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
URL = "https://hub.example.org/hub/lti/launch"


class Pace:
    """A clock that a test moves."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Pace()


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def way(clock, secret):
    return LTI11Authenticator(consumers={"campus": {"secret_file": str(secret)}}, allow_all=True, clock=clock)


def launch(clock, **changes):
    return Platform.launch11(_Speaker(clock), URL, **changes)


class _Speaker:
    """As much of a platform as signs: no pages, no port."""

    def __init__(self, clock):
        self.clock = clock


async def come(way, fields, url=URL):
    return await sign_in(way, None, {"fields": fields, "url": url})


def test_the_signature_of_rfc_5849():
    """Section 1.2, its first request, whose signature the RFC prints."""
    fields = {
        "oauth_consumer_key": "dpf43f3p2l4k3l03",
        "oauth_signature_method": "HMAC-SHA1",
        "oauth_timestamp": "137131200",
        "oauth_nonce": "wIjqoS",
        "oauth_callback": "http://printer.example.com/ready",
        "oauth_signature": "74KNZJeDHnMBp0EMJ9ZHt/XKycU=",
    }
    assert fits("https://photos.example.net/initiate", fields, "kd94hf93k423kf44")
    assert fits("HTTPS://PHOTOS.example.net:443/initiate", fields, "kd94hf93k423kf44")
    assert not fits("https://photos.example.net/initiate", fields, "kd94hf93k423kf4")
    assert not fits("https://photos.example.net/initiate/", fields, "kd94hf93k423kf44")


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.dictionaries(_TEXT, _TEXT, max_size=8), _TEXT)
def test_two_readings_of_the_rfc_agree(fields, secret):
    """oauthlib's, and the platform's, which was written by hand."""
    fields.pop("oauth_signature", None)
    assert sign(URL, fields, secret) == signature11(URL, fields, secret)


async def test_good_once(way, clock):
    fields = launch(clock)
    assert (await way.preview(None, {"fields": fields, "url": URL})) == "Ann Example (campus)"
    identity = await come(way, fields)
    assert (identity.name, identity.admin) == ("ann7", None)
    assert await come(way, fields) is None
    clock.now += WINDOW
    assert await come(way, fields) is None, "still in its time"
    clock.now += timedelta(seconds=1)
    assert await come(way, fields) is None, "too old by now"


async def test_from_a_clock_that_is_fast(way, clock):
    """It is remembered for as long as it is good, though that is ten minutes."""
    clock.now += WINDOW
    fields = launch(clock)
    clock.now -= WINDOW
    assert await come(way, fields) is not None
    clock.now += WINDOW + WINDOW
    assert await come(way, fields) is None
    assert problem_of(fields, clock.now, NOW) == ""


async def test_the_same_nonce_at_another_second_is_another(way, clock):
    assert await come(way, launch(clock, oauth_nonce="n")) is not None
    clock.now += timedelta(seconds=1)
    assert await come(way, launch(clock, oauth_nonce="n")) is not None


async def test_what_a_former_process_may_have_taken_is_not_taken(clock, secret):
    """Uses are remembered in memory."""
    fields = launch(clock)
    clock.now += timedelta(seconds=2)
    way = LTI11Authenticator(consumers={"campus": {"secret_file": str(secret)}}, allow_all=True, clock=clock)
    assert await come(way, fields) is None
    fields = launch(clock)
    assert await come(way, fields) is not None
    # Nor does a hub take it that was there all the time and takes over.
    other = LTI11Authenticator(consumers={"campus": {"secret_file": str(secret)}}, allow_all=True, clock=clock)
    clock.now += timedelta(seconds=2)
    other.lead()
    assert await come(other, fields) is None
    assert await come(other, launch(clock)) is not None


async def test_an_unknown_consumer_costs_what_a_known_one_does(way, clock, monkeypatch):
    """One signature is made and compared, by hmac.compare_digest, whoever asks and whatever they send."""
    made, compared = [], []
    compare = hmac.compare_digest

    def sign_too(url, fields, secret):
        made.append(secret)
        return sign(url, fields, secret)

    def compare_too(one, other):
        compared.append((len(one), type(one)))
        return compare(one, other)

    monkeypatch.setattr(lti11_signature, "sign", sign_too)
    monkeypatch.setattr(lti11_signature.hmac, "compare_digest", compare_too)
    for changes in ({}, {"key": "nobody"}, {"secret": "a guess"}):
        await come(way, launch(clock, **changes))
    assert len(made) == len(compared) == 3
    assert made[0] == made[2] == SECRET
    assert made[1] != SECRET
    assert len(made[1]) >= 32
    assert set(compared) == {(28, bytes)}


async def test_a_new_secret_needs_no_restart(way, clock, secret):
    secret.write_text("another secret of the course")
    assert await come(way, launch(clock)) is None
    assert await come(way, launch(clock, secret="another secret of the course")) is not None


async def test_nothing_of_an_unsigned_form_is_told(way, clock, caplog):
    fields = {**launch(clock), "lis_person_name_full": "a stranger", "user_id": "a stranger"}
    assert await way.preview(None, {"fields": fields, "url": URL}) is None
    assert "stranger" not in caplog.text


async def test_the_log_holds_no_secret_and_no_signature(way, clock, caplog):
    caplog.set_level(logging.DEBUG)
    right, wrong = launch(clock), launch(clock, secret="a guess at the secret")
    await come(way, wrong)
    await come(way, right)
    for text in (SECRET, right["oauth_signature"], sign(URL, wrong, SECRET)):
        assert text not in caplog.text
    assert SECRET not in repr(way.__dict__)


async def test_addresses_that_cannot_be_signed(way, clock):
    assert await come(way, launch(clock), "nonsense") is None


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [(0o644, SECRET, "others can read"), (0o600, "short", "at least 16"), (0o600, "", "one line of text")],
)
def test_secrets_that_are_none(secret, mode, text, words):
    secret.write_text(text)
    secret.chmod(mode)
    with pytest.raises(ConfigError, match=r"c\.LTI11Authenticator\.consumers\['campus'\]\['secret_file'\].*" + words):
        LTI11Authenticator(consumers={"campus": {"secret_file": str(secret)}})


def test_settings(way):
    with pytest.raises(ConfigError, match="consumers is empty"):
        LTI11Authenticator()
    with pytest.raises(ConfigError, match="LTI11Authenticator needs https"):
        way.settle(Place("192.0.2.1", bytes(32), lambda: NOW))


def test_without_the_package_the_extra_is_named(secret, monkeypatch):
    monkeypatch.delitem(sys.modules, "batchhub.auth.lti11_signature")
    monkeypatch.setitem(sys.modules, "oauthlib.oauth1.rfc5849", None)
    with pytest.raises(ConfigError, match=r"pip install 'batchhub\[lti\]'"):
        LTI11Authenticator(consumers={"campus": {"secret_file": str(secret)}})


def test_the_page_may_be_framed_by_named_pages(secret):
    table = {"secret_file": str(secret), "frame_origins": ["https://lms.example.org"]}
    assert LTI11Authenticator(consumers={"campus": table}).frames == ("https://lms.example.org",)
