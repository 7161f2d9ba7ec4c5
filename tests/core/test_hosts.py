"""Names of sub-domains: valid, stable, one for each server; and what a site may give as the hub's own address."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput
from batchhub.core.hosts import MAX_LABEL, RESERVED, Origin, host_name, label, read_origin

LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
USERS = st.text(min_size=1, max_size=80) | st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True)
SERVERS = st.just("") | st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True) | st.text(max_size=80)


@given(USERS, SERVERS)
@example("xn", "abc")
@example("x", "lab")
@example("-", "")
@example("\ud800", "")
@example("a" * 63, "")
@example("a" * 64, "")
@example("a" * 31, "b" * 30)
@example("a" * 31, "b" * 31)
def test_a_label_is_one_that_dns_and_browsers_take(user: str, server: str) -> None:
    made = label(user, server)
    assert LABEL.fullmatch(made)
    assert len(made) <= MAX_LABEL
    assert made not in RESERVED
    assert made[2:4] != "--", "left to internationalised names"
    assert made == label(user, server)


@given(USERS, SERVERS, USERS, SERVERS)
@example("a", "b", "a--b", "")
@example("a-", "b", "a", "-b")
@example("a", "b-c", "a--b", "c")
@example("ann", "Lab", "ann", "lab")
@example("a\0b", "", "a", "b")
@example("a", "\0b", "a\0", "b")
@example("ann.x", "", "ann-x", "")
@example("www", "", "x-www-suih5yb7bnoztumvkjwx", "")
def test_no_two_servers_share_one(user: str, server: str, other: str, others_server: str) -> None:
    same = (user, server) == (other, others_server)
    assert (label(user, server) == label(other, others_server)) == same


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_is_not_taken(name: str) -> None:
    assert label(name).startswith(f"x-{name}-")


def test_readable_where_it_can_be() -> None:
    assert label("ann") == "ann"
    assert label("ann-lee", "big-memory") == "ann-lee--big-memory"
    assert label("Ann@Example.org", "R.4").startswith("x-ann-example-org-r-4-")
    assert label("\u1234").startswith("x-server-")


def test_labels_stay_as_they_were() -> None:
    """Bookmarks and open notebooks depend on them: a change here moves everybody's servers."""
    assert label("Ann", "Lab.1") == "x-ann-lab-1-bklp2mal7amtg3qcohqc"
    assert label("ab", "big") == "x-ab-big-usu7lq45wv4tryumycxx"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://hub.example.org", Origin("https", "hub.example.org")),
        ("https://Hub.Example.ORG:443", Origin("https", "hub.example.org")),
        ("http://hub.localhost:8000", Origin("http", "hub.localhost", "8000")),
        ("http://hub.localhost:0080", Origin("http", "hub.localhost")),
        ("https://h:8443", Origin("https", "h", "8443")),
    ],
)
def test_origins(text: str, origin: Origin) -> None:
    assert read_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub.example.org",
        "ftp://hub.example.org",
        "https://hub.example.org/",
        "https://hub.example.org/hub",
        "https://user@hub.example.org",
        "https://10.0.0.1",
        "https://[::1]:8000",
        "https://hub..org",
        "https://-hub.org",
        "https://hub_x.org",
        "https://hub.org:0",
        "https://hub.org:70000",
        "https://hub.org?x",
        "https://h\u00fcb.org",
        "https://" + ".".join(["a" * 60] * 4),
        "https://hub.org\n",
    ],
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(BadInput):
        read_origin(text)


def test_addresses() -> None:
    origin = read_origin("https://hub.example.org:8443")
    assert origin.text == "https://hub.example.org:8443"
    assert origin.secure
    assert origin.server("ann", "big") == "https://ann--big.hub.example.org:8443"
    assert origin.server_host("ann") == "ann.hub.example.org"
    assert read_origin("http://hub.localhost").text == "http://hub.localhost"


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("ann.hub.test", True),
        ("a.b.hub.test", True),
        ("ann.hub.test.", True),
        ("hub.test", False),
        ("hub.test.", False),
        ("annhub.test", False),
        ("ann.hub.test.evil", False),
        ("", False),
    ],
)
def test_what_lies_below_the_hub(host: str, covered: bool) -> None:
    assert read_origin("https://hub.test").covers(host) == covered


@pytest.mark.parametrize(
    ("header", "name"),
    [("Hub.test:8000", "hub.test"), ("hub.test", "hub.test"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")],
)
def test_host_headers(header: str, name: str) -> None:
    assert host_name(header) == name
