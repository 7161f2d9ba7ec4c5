"""Tokens that somebody made up, borrowed, or kept too long."""

import hmac
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from batchhub.auth.id_tokens import ALGORITHMS, LIMIT, BadToken, Expected, UnknownKey, read_id_token, read_keys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
T = int(NOW.timestamp())
KEY = RSAKey.generate_key(2048, {"kid": "one"})
OTHER = RSAKey.generate_key(2048, {"kid": "one"})
ISSUER = "https://id.example.org"
EXPECTED = Expected(ISSUER, "hub", "n-1", "access")
GOOD = {"iss": ISSUER, "sub": "s-1", "aud": "hub", "exp": T + 300, "iat": T, "nonce": "n-1"}


def published(*keys):
    return read_keys({"keys": [key.as_dict(private=False) for key in keys]})


def signed(claims=GOOD, key=KEY, alg="RS256", kid: str | None = "one"):
    header = {"alg": alg} if kid is None else {"alg": alg, "kid": kid}
    return jwt.encode(header, claims, key, registry=jws.JWSRegistry(algorithms=["none", "HS256", *ALGORITHMS]))


def refused(text, words, keys=None, expected=EXPECTED, error=BadToken):
    with pytest.raises(error, match=words):
        read_id_token(text, published(KEY) if keys is None else keys, expected, NOW)


def test_a_good_one():
    assert read_id_token(signed(), published(KEY), EXPECTED, NOW)["sub"] == "s-1"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 renamed it; providers go on to use it
@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("PS256", KEY),
        ("ES256", ECKey.generate_key("P-256", {"kid": "one"})),
        ("ES384", ECKey.generate_key("P-384", {"kid": "one"})),
        ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "one"})),
        ("Ed25519", OKPKey.generate_key("Ed25519", {"kid": "one"})),
    ],
)
def test_other_signatures_with_public_keys(alg, key):
    assert read_id_token(signed(key=key, alg=alg), published(key), EXPECTED, NOW)["sub"] == "s-1"


def test_one_key_needs_no_name():
    assert read_id_token(signed(kid=None), published(KEY), EXPECTED, NOW)
    refused(signed(kid=None), "several keys", published(KEY, RSAKey.generate_key(2048, {"kid": "two"})))


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_unsigned():
    refused(signed(key=OctKey.import_key("x"), alg="none"), "'none', which proves nothing")


@pytest.mark.parametrize("public", [KEY.as_pem(private=False), KEY.as_der(private=False)], ids=["pem", "der"])
def test_signed_with_the_public_key_as_a_password(public):
    """joserfc would not even make such a token."""
    head = urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
    body = signed().split(".")[1]
    mac = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    forged = f"{head}.{body}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    refused(forged, "'HS256', which proves nothing")


def test_symmetric_private_and_encryption_keys_are_not_the_providers():
    secret = OctKey.import_key("a-secret-of-a-secret-of-a-secret", {"kid": "one"})
    crypt = RSAKey.import_key({**KEY.as_dict(private=False), "use": "enc"})
    assert published(secret, crypt) == []
    assert read_keys({"keys": [KEY.as_dict(private=True)]}) == []
    refused(signed(), "does not list", published(secret, crypt), error=UnknownKey)


def test_anothers_signature_by_the_same_name():
    refused(signed(key=OTHER), "signature does not hold")


def test_a_key_that_is_not_listed():
    refused(signed(kid="new"), "does not list", error=UnknownKey)


def test_a_key_without_a_name_may_have_been_replaced():
    """So the list is fetched again; with a name, the same name is the same key."""
    refused(signed(key=OTHER, kid=None), "signature does not hold", error=UnknownKey)


def test_one_with_every_group_of_a_person():
    claims = {**GOOD, "groups": [f"group-{number:04}" for number in range(5000)]}
    assert len(read_id_token(signed(claims), published(KEY), EXPECTED, NOW)["groups"]) == 5000


def test_changed_after_it_was_signed():
    head, _, tail = signed().split(".")
    _, body, _ = signed({**GOOD, "sub": "root"}).split(".")
    refused(f"{head}.{body}.{tail}", "signature does not hold")


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"iss": "https://id.example.org/"}, "iss"),
        ({"iss": "https://id.example.org.evil.example"}, "iss"),
        ({"iss": None}, "iss"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "x" * 256}, "sub"),
        ({"aud": "other"}, "aud"),
        ({"aud": ["other"]}, "aud"),
        ({"aud": "hubs"}, "aud"),
        ({"aud": {"hub": 1}}, "aud"),
        ({"aud": ["hub", "other"]}, "azp"),
        ({"aud": ["hub", "other"], "azp": "other"}, "azp"),
        ({"azp": "other"}, "azp"),
        ({"exp": T - 61}, "exp"),
        ({"exp": "9999999999"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"iat": T + 61}, "iat"),
        ({"iat": None}, "iat"),
        ({"nbf": T + 61}, "nbf"),
        ({"nonce": "n-2"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "at_hash"),
        ({"at_hash": 1}, "at_hash"),
    ],
)
def test_claims_that_do_not_fit(claims, words):
    refused(signed({**GOOD, **claims}), f"^{words}:")


@pytest.mark.parametrize("since", [T - 361, None, "0", True])
def test_who_gave_their_password_too_long_ago(since):
    """The page was told so by the browser, which may have left it out."""
    aged = replace(EXPECTED, max_age=300)
    refused(signed({**GOOD, "auth_time": since}), "^auth_time:", expected=aged)
    assert read_id_token(signed({**GOOD, "auth_time": T - 359}), published(KEY), aged, NOW)


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "nonce"])
def test_claims_that_are_missing(name):
    refused(signed({key: value for key, value in GOOD.items() if key != name}), f"^{name}:")


def test_shared_with_others_and_ours():
    claims = {**GOOD, "aud": ["hub", "other"], "azp": "hub", "exp": T - 59}
    assert read_id_token(signed(claims), published(KEY), EXPECTED, NOW)


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "....", "é.é.é", "x" * (LIMIT + 1), "e30.e30.e30"])
def test_what_is_no_token(text):
    refused(text, "too long|not a signed token|proves nothing")


def test_a_header_that_must_be_understood():
    header = '{"alg":"RS256","kid":"one","crit":["exp"],"exp":1}'
    _, body, tail = signed().split(".")
    refused(f"{urlsafe_b64encode(header.encode()).decode().rstrip('=')}.{body}.{tail}", "signature does not hold")


@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": [{}] * 101}])
def test_lists_of_keys_that_are_none(document):
    with pytest.raises(BadToken):
        read_keys(document)
