"""Paths have one form, and the longest prefix of whole segments wins."""

import posixpath
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput
from batchhub.core.routes import RouteTable, canonical_path, route_key


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/a//b///c", "/a/b/c"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/../../x", "/x"),
        ("/user/alice/%2e%2e/bob/", "/user/bob/"),
        ("/user/alice/.%2E/bob", "/user/bob"),
        ("/a//../b", "/b"),
        ("/%7ealice/%41", "/~alice/A"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/a%252e%252e/b", "/a%252e%252e/b"),
        ("/user/a@b/x", "/user/a@b/x"),
        ("/user/a%40b/x", "/user/a%40b/x"),
        ("/caf\u00e9", "/caf%C3%A9"),
        ('/a"<>[]^`{|}', "/a%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
        ("/a.b/..c/...", "/a.b/..c/..."),
        ("/.hidden", "/.hidden"),
        ("/a;x=1/b,c", "/a;x=1/b,c"),
    ],
)
def test_canonical(raw: str, text: str) -> None:
    assert canonical_path(raw).text == text
    assert canonical_path(raw.encode()) == canonical_path(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"a",
        b"*",
        b"http://x/",
        b"/a\x00",
        b"/a%00",
        b"/a%0d%0a",
        b"/a%7f",
        b"/a\x7f",
        b"/a b",
        b"/a\tb",
        b"/a\\b",
        b"/a#b",
        b"/a?b",
        b"/%",
        b"/%4",
        b"/%zz",
        b"/%u0041",
        b"/%ff",
        b"/\xff",
        b"/%c0%ae%c0%ae/",
        b"/%ed%a0%80",
        b"/user/alice/..%2f..%2fuser/bob/",
        b"/user/alice/..%5c..%5cuser/bob/",
        b"/user/alice/x%2f..%2f..%2fbob",
        b"/user/alice/%2e%2e%2fbob",
        b"/a%2f.",
        b"/user/alice/..;/bob/",
        b"/user/alice/..;x=1/bob/",
        b"/user/alice/..%3b/bob/",
    ],
)
def test_refused(raw: bytes) -> None:
    with pytest.raises(BadInput):
        canonical_path(raw)


def test_segments_are_decoded_and_a_slash_in_one_is_no_separator() -> None:
    assert canonical_path("/user/a%40b/caf%C3%A9/").segments == ("user", "a@b", "caf\u00e9", "")
    assert canonical_path("/user/a%2Fx").segments == ("user", "a/x")


def table(*paths: str) -> RouteTable[str]:
    routes: RouteTable[str] = RouteTable()
    for path in paths:
        routes.add(path, f"to {route_key(path)}")
    return routes


def found(routes: RouteTable[str], path: str) -> str | None:
    match = routes.match(canonical_path(path).segments)
    return match and match[0]


def test_longest_prefix_of_whole_segments() -> None:
    routes = table("/", "/user/a", "/user/a/lab/", "/user/a@b")
    assert [
        found(routes, path)
        for path in (
            "/",
            "/user",
            "/user/a",
            "/user/a/",
            "/user/ab",
            "/user/a/x",
            "/user/a/lab",
            "/user/a/labs",
            "/user/a/lab/x",
            "/user/a%40b/",
            "/user/a%2Flab",
            "/user/%61/",
            "/user//a",
            "/user/b/../a/x",
        )
    ] == [
        "/",
        "/",
        "/user/a",
        "/user/a",
        "/",
        "/user/a",
        "/user/a/lab",
        "/user/a",
        "/user/a/lab",
        "/user/a@b",
        "/",
        "/user/a",
        "/user/a",
        "/user/a",
    ]


def test_keys_add_get_delete() -> None:
    routes = table("user/a/", "/")
    assert [key for key, _ in routes.all()] == ["/user/a", "/"]
    assert routes.get("/user/a") == routes.get("/user/a/") == "to /user/a"
    assert routes.get("/user") is None
    assert not routes.delete("/user")
    assert routes.delete("/user/a/")
    assert not routes.delete("/user/a")
    assert found(routes, "/user/a") == "/"
    assert len(routes) == 1
    assert routes._root.children == {}, "empty branches are pruned"


def test_deleting_keeps_what_lies_below_and_beside() -> None:
    routes = table("/a", "/a/b", "/a/b/c", "/a/d")
    routes.delete("/a/b")
    assert found(routes, "/a/b/c/x") == "/a/b/c"
    assert found(routes, "/a/b/x") == "/a"
    routes.delete("/a/b/c")
    assert found(routes, "/a/d/x") == "/a/d"
    assert list(routes._root.children["a"].children) == ["d"]


def test_no_route() -> None:
    assert table().match(("x",)) is None


# ---------------------------------------------------------------- properties

NAMES = st.sampled_from(
    ["user", "alice", "bob", "hub", "a b", "x/y", "caf\u00e9", "100%", "..", ".", "", "..;", "\u202e"]
)
SPELL = st.sampled_from(["plain", "all", "lower"])


@st.composite
def paths(draw: st.DrawFn) -> str:
    parts = []
    for name in draw(st.lists(NAMES, max_size=7)):
        how = draw(SPELL)
        text = "".join(
            char
            if how == "plain" and char.isascii() and char not in " %"
            else "".join(f"%{byte:02X}" for byte in char.encode())
            for char in name
        )
        parts.append(text.lower() if how == "lower" else text)
    return "/" + "/".join(parts)


def rfc3986(path: str) -> str:
    """An independent normaliser: decode everything an eager server would decode, then resolve."""
    plain = unquote(path)
    resolved = posixpath.normpath("/" + plain.lstrip("/"))
    return resolved + "/" if resolved != "/" and re.search(r"(/|/\.|/\.\.)$", plain) else resolved


@given(paths())
def test_what_is_matched_is_what_any_upstream_sees(path: str) -> None:
    routes = table("/", "/user", "/user/alice", "/user/bob", "/user/alice/bob", "/hub")
    try:
        form = canonical_path(path)
    except BadInput:
        return
    assert canonical_path(form.text) == form
    assert re.fullmatch(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*", form.text)
    assert "//" not in form.text
    match = routes.match(form.segments)
    assert match is not None
    prefix = "" if match[0] == "/" else match[0]
    # A strict reader (escaped slashes stay) and an eager one (all is decoded first) both stay below the route.
    for seen in (posixpath.normpath(form.text), rfc3986(form.text)):
        assert seen == prefix or seen.startswith(prefix + "/")


@given(st.binary(max_size=40))
def test_never_another_error_and_always_one_form(tail: bytes) -> None:
    try:
        form = canonical_path(b"/" + tail)
    except BadInput:
        return
    assert canonical_path(form.text) == form


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("abc"), max_size=4))))
def test_table_against_a_plain_model(steps: list[tuple[bool, list[str]]]) -> None:
    routes: RouteTable[int] = RouteTable()
    model: dict[str, int] = {}
    for number, (add, parts) in enumerate(steps):
        key = "/" + "/".join(parts)
        if add:
            routes.add(key, number)
            model[key] = number
        else:
            assert routes.delete(key) == (model.pop(key, None) is not None)
        assert dict(routes.all()) == model
        below = ["a", "b", "a", "c", "b"]
        best = max(
            (k for k in model if k == "/" or below[: k.count("/")] == k[1:].split("/")),
            key=lambda k: len(k.strip("/")),
            default=None,
        )
        assert routes.match(below) == (None if best is None else (best, model[best]))
