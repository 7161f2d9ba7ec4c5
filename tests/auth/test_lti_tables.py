"""What a site says of the platforms it believes."""

import pytest

from batchhub.auth.lti_tables import check_username_key, frames_of, read_consumers, read_platforms
from batchhub.core.errors import ConfigError

ISSUER = "https://lms.example.org"
TABLE = {
    "client_id": "c1",
    "authorization_endpoint": f"{ISSUER}/auth",
    "jwks_url": f"{ISSUER}/jwks",
    "deployment_ids": ["1"],
}


def test_one_platform():
    (found,) = read_platforms({ISSUER: TABLE}, "platforms")
    assert (found.issuer, found.client_id, found.deployment_ids) == (ISSUER, "c1", {"1"})
    assert (found.source.title, found.source.prefix, found.source.trusts_email) == ("lms.example.org", "", False)
    assert found.source.frame_origins == (ISSUER,)


def test_several_clients_of_one_issuer():
    """Canvas: every institution in its cloud has the same issuer."""
    tables = [{**TABLE, "prefix": "a-"}, {**TABLE, "client_id": "c2", "prefix": "b-"}]
    found = read_platforms({"https://canvas.instructure.com": tables}, "platforms")
    assert [one.client_id for one in found] == ["c1", "c2"]
    assert frames_of([one.source for one in found]) == ("https://canvas.instructure.com", ISSUER)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"client_id": ""}, r"\['client_id'\] must be a text; it is missing"),
        ({"client_id": 7}, r"\['client_id'\] must be a text"),
        ({"deployment_ids": []}, r"\['deployment_ids'\] is missing"),
        ({"deployment_ids": "1"}, r"\['deployment_ids'\] must be a list"),
        ({"deployment_ids": [1]}, r"\['deployment_ids'\] must be a list of texts"),
        ({"jwks_url": "http://lms.example.org/jwks"}, r"\['jwks_url'\] is .* must begin with https"),
        ({"authorization_endpoint": "lms"}, r"\['authorization_endpoint'\] is .* must begin with https"),
        ({"jwks_uri": "x"}, "'jwks_uri' is no setting; did you mean 'jwks_url'"),
        ({"zzz": "x"}, "'zzz' is no setting; there are client_id"),
        ({"prefix": "A"}, r"\['prefix'\] is 'A'"),
        ({"prefix": "-a"}, r"\['prefix'\] is '-a'"),
        ({"trusts_email": "yes"}, r"\['trusts_email'\] must be True or False"),
        ({"admin_roles": "x"}, r"\['admin_roles'\] must be a list"),
        ({"frame_origins": ["https://lms.example.org/x"]}, r"\['frame_origins'\] holds"),
        ({"frame_origins": ["http://lms.example.org"]}, r"\['frame_origins'\] holds"),
        ({"frame_origins": ["https://a.example; script-src *"]}, r"\['frame_origins'\] holds"),
        ({"frame_origins": ["*"]}, r"\['frame_origins'\] holds"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(ConfigError, match=r"platforms\['https://lms.example.org'\].*" + words):
        read_platforms({ISSUER: {**TABLE, **changes}}, "platforms")


@pytest.mark.parametrize("value", [{}, {"": TABLE}, {ISSUER: []}, {ISSUER: "x"}, {ISSUER: [TABLE, TABLE]}], ids=str)
def test_no_table_of_platforms(value):
    with pytest.raises(ConfigError):
        read_platforms(value, "platforms")


@pytest.mark.parametrize(("one", "other"), [("", ""), ("", "b-"), ("a-", "a-"), ("a", "a-")])
def test_two_platforms_people_are_kept_apart(one, other):
    value = {ISSUER: {**TABLE, "prefix": one}, "https://other.example": {**TABLE, "prefix": other}}
    with pytest.raises(ConfigError, match="could have the same name"):
        read_platforms(value, "platforms")


def test_frames_of_a_whole_domain_or_of_nobody():
    table = {**TABLE, "frame_origins": ["https://*.instructure.com", "http://localhost:8080"]}
    (found,) = read_platforms({ISSUER: table}, "platforms")
    assert found.source.frame_origins == ("https://*.instructure.com", "http://localhost:8080")
    (found,) = read_platforms({ISSUER: {**TABLE, "frame_origins": []}}, "platforms")
    assert found.source.frame_origins == ()


def test_an_issuer_that_is_no_address_is_no_frame():
    (found,) = read_platforms({"moodle; script-src *": TABLE}, "platforms")
    assert found.source.frame_origins == (ISSUER,)


def test_consumers():
    found = read_consumers(
        {"k": {"secret_file": "/s", "prefix": "k-"}, "l": {"secret_file": "/t", "prefix": "l-"}}, "c"
    )
    assert found["k"].secret_file == "/s"
    assert found["k"].source.frame_origins == ()
    for value in (
        {},
        {"": {"secret_file": "/s"}},
        {"k" * 256: {"secret_file": "/s"}},
        {"k": {}},
        {"k": {"secret": "s"}},
    ):
        with pytest.raises(ConfigError):
            read_consumers(value, "c")


@pytest.mark.parametrize("key", ["", "name", "custom.", "Sub", "email"])
def test_keys_that_make_no_name(key):
    sources = [one.source for one in read_platforms({ISSUER: TABLE}, "platforms")]
    with pytest.raises(ConfigError, match="username_key"):
        check_username_key(key, sources, "c.X.username_key")


def test_an_address_of_a_platform_that_checks_it():
    sources = [one.source for one in read_platforms({ISSUER: {**TABLE, "trusts_email": True}}, "platforms")]
    check_username_key("email", sources, "c.X.username_key")
