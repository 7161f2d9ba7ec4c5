"""Where ``next`` may lead: a table of attacks, and a property."""

from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchhub.auth.redirects import path_here, safe_next

ATTACKS = """
http://evil.example/
https:evil.example
https:/evil.example
HTTPS://evil.example
//evil.example
//evil.example/%2e%2e
///evil.example
////evil.example
/\\evil.example
\\/evil.example
\\\\evil.example
/\\/evil.example
/%5cevil.example
/%5C/evil.example
/%255cevil.example
/%2f/evil.example
/%2fevil.example
/%2F%2Fevil.example
/%252f/evil.example
/%25252f/evil.example
/%2525252525252fevil.example
/.//evil.example
/..//evil.example
/%2e/%2fevil.example
/a/..//evil.example
/a//evil.example
/./evil
/../evil
/a/..;/b
/%2e%2e/etc
/user/ann/%2e%2e/bob
javascript:alert(1)
java\tscript:alert(1)
data:text/html,x
//user@evil.example
//user:pass@evil.example
http://hub@evil.example
@evil.example
evil.example
evil
?next=x
#x
//[::1]/
//evil%E3%80%82example
/／evil.example
／/evil.example
／／evil.example
/%EF%BC%8Fevil.example
/．．/evil
/‥/evil
/hub/login
/hub/login?next=/hub/login
/hub/logout
/hub/logout/
/hub/%6cogout
""".strip().splitlines()
ATTACKS += [
    "", "/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "\t//evil.example", " //evil.example", "/ok\r\nSet-Cookie: x=1",
    "/%09/evil.example", "/%0d%0aSet-Cookie:x", "/a\0b", "/%00", "/\x7f", "/\u2028", "/\u200b/evil", "/\ud800", "/a?x=\n", "/a#\\",
    "/\xa0/evil.example", "/" + "x" * 3000, "\ufeff//evil.example", "/%u002f/evil\\",
]  # fmt: skip

GOOD = [
    "/",
    "/hub/home",
    "/hub/spawn/ann/gpu?profile=big&x=1#top",
    "/user/ann/lab/tree/My%20Notes.ipynb",
    "/user/ann/lab/tree/100%2525.ipynb",
    "/user/ann@example.org/",
    "/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2Fa%2Fb&urlpath=lab%2Ftree%2Fb%2F",
    "/hub/user-redirect/git-pull?repo=https://github.com/a/b&branch=..%2F..",
    "/user/ann/lab/tree/.hidden/..a/a..",
    "/services/x/?q=//y",
    "/user/ann/?token=%0a",
]


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_attacks_lead_home(attack) -> None:
    assert safe_next(attack, "/", "/hub/home") == "/hub/home"


@pytest.mark.parametrize("good", GOOD)
def test_bookmarks_work(good) -> None:
    assert safe_next(good) == good


def test_other_scripts_and_spaces_are_encoded() -> None:
    assert safe_next("/user/ann/tree/día 1.ipynb") == "/user/ann/tree/d%C3%ADa%201.ipynb"


def test_below_the_base() -> None:
    assert safe_next("/jupyter/hub/home", "/jupyter/") == "/jupyter/hub/home"
    for outside in (
        "/",
        "/hub/home",
        "/jupyterx/",
        "/jupyter",
        "/jupyter/../x",
        "/jupyter/%2e%2e/x",
        "/jupyter//x",
        "/jupyter/hub/logout",
    ):
        assert safe_next(outside, "/jupyter/") == "/jupyter/"


def test_nothing() -> None:
    assert safe_next(None) == "/"
    assert safe_next(None, "/x/") == "/x/"
    assert safe_next("", "/x/", "/x/hub/home") == "/x/hub/home"


pieces = st.lists(
    st.sampled_from(
        [
            "/",
            "\\",
            ".",
            "..",
            "%2f",
            "%5c",
            "%2e",
            "%25",
            "%09",
            "\t",
            "\n",
            "@",
            ":",
            "evil.example",
            "http:",
            "?",
            "#",
            ";",
            " ",
            "a",
            "／",
        ]
    )
    | st.text(max_size=3),
    max_size=10,
).map("".join)


@given(pieces)
@example("/" * 5)
def test_never_elsewhere(text) -> None:
    answer = safe_next(text, "/")
    reading = answer
    for _ in range(4):
        joined = urlsplit(urljoin("https://hub.example/hub/login", reading))
        assert (joined.scheme, joined.netloc) == ("https", "hub.example")
        path = reading.partition("#")[0].partition("?")[0]
        assert "//" not in path
        assert "\\" not in path
        reading = unquote(path)
    assert answer.startswith("/")
    assert answer.isascii()
    assert answer.isprintable()
    assert safe_next(answer, "/") in {answer, "/"}


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1, max_size=5))
def test_plain_paths_pass(segments) -> None:
    path = "/" + "/".join(quote(segment) for segment in segments)
    if (
        len(path) <= 2048
        and path not in {"/hub/login", "/hub/logout"}
        and not any(c in "⁄∕／＼" for s in segments for c in s)
    ):
        assert safe_next(path) == path


HERE = "https://hub.example.org"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("https://hub.example.org/hub/spawn?profile=lab#x", "/hub/spawn?profile=lab"),
        ("HTTPS://Hub.Example.org:443/hub/home", "/hub/home"),
        ("https://hub.example.org", "/"),
        ("/hub/home?x", "/hub/home?x"),
        ("//evil.example/", "//evil.example/"),  # for safe_next to refuse
        ("http://hub.example.org/hub/home", ""),
        ("https://hub.example.org:8443/hub/home", ""),
        ("https://hub.example.org.evil.example/hub", ""),
        ("https://hub.example.org@evil.example/hub", ""),
        ("https://ann@hub.example.org/hub", ""),
        ("https://ann:x@hub.example.org/hub", ""),
        ("https://hub.example.org:99999/hub", ""),
        ("https://[hub/hub", ""),
        ("javascript:alert(1)", ""),
        ("hub/home", ""),
        ("", ""),
    ],
)
def test_addresses_that_are_here(address, path):
    assert path_here(address, HERE) == path


@given(st.text())
def test_of_any_address_comes_a_path_of_ours(address):
    assert safe_next(path_here(address, HERE), "/hub/").startswith("/hub/")
