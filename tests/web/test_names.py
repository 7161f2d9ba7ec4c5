"""Names from outside, on every path into the hub: an address makes nobody, and only whoever signed in under a name that the rules took acts under it.

The paths are those of the route table, so one that is added is tried as well.
"""

import json
import re
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.auth.base import Authenticator, safe_name
from batchhub.auth.rules import known_name, outer_names
from batchhub.web.app import _routes
from batchhub.web.links import Links
from tests.web.fakes import Site

HOSTILE = ["eve", "ANN", "-rf", "..", "ann\n", "ann bob", "a/b", "é", "{{7*7}}", "ann;id", "x" * 200, "\u202eann"]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def paths(name: str) -> list[str]:
    """Every address of the route table that names somebody, with this name in it."""
    found = []
    for spec in _routes(SimpleNamespace(links=Links("/", None))):
        pattern = spec.regex.pattern.removesuffix("$")
        if "([^/]+)" not in pattern or "/jobs/" in pattern:
            continue
        plain = pattern.replace("(?:server|servers/([^/]+))", "server").replace("(?:/([^/]+))?/?", "")
        plain = plain.replace("/sessions/([^/]+)", "/sessions/abc")
        plain = plain.replace("(/.*)?", "/lab").replace("\\", "")
        assert plain.count("(") == 1, f"how is {pattern} called?"
        found.append(plain.replace("([^/]+)", quote(name, safe="")))
    return found


def test_the_table_is_read_right() -> None:
    found = paths("ann")
    assert {"/hub/spawn/ann", "/hub/api/users/ann", "/hub/api/users/ann/server", "/hub/user/ann/lab"} <= set(found)
    assert all(re.fullmatch(r"[/a-z-]+", path) for path in found)


@pytest.mark.parametrize("who", ["root", "ann"])
async def test_no_address_makes_anybody_or_acts_for_somebody_else(site: Site, who: str) -> None:
    browser = await site.signed_in(who)
    await browser.get("/hub/home")
    before = set(site.store.people)
    body = json.dumps({"profile": "lab", "cores": "4"})
    for name in HOSTILE:
        for path in paths(name):
            for method in METHODS:
                headers = {
                    "X-XSRFToken": browser.xsrf,
                    "Sec-Fetch-Site": "same-origin",
                    "Content-Type": "application/json",
                }
                sent = None if method in {"GET", "DELETE"} else body
                answer = await browser.ask(method, path, body=sent, headers=headers)
                assert answer.code == 204 or 300 <= answer.code < 500, f"{method} {path}: {answer.code}"
    assert set(site.store.people) == before
    assert {call[1] for call in site.hub.calls if call[0] == "spawn"} <= {who}
    assert not site.hub.rows


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_sign_in_makes_only_names_that_the_rules_take(site: Site, name: str) -> None:
    browser = site.browser()
    await browser.get("/hub/login")
    await browser.post("/hub/login", username=name, password=name[::-1])
    assert all(safe_name(known) and known == known.lower() for known in site.store.people)


class Anybody(Authenticator):
    async def authenticate(self, handler, data):
        return data["username"]


@given(
    name=st.text(max_size=300),
    prefix=st.sampled_from(["", "x-"]),
    pattern=st.sampled_from(["", "[a-z]+", "x-[a-z0-9]+"]),
    mapped=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
def test_whatever_comes_a_known_name_is_safe_and_has_its_way_back(name, prefix, pattern, mapped) -> None:
    made = Anybody(username_prefix=prefix, username_pattern=pattern, username_map=mapped)
    known = known_name(made, name)
    if known is None:
        return
    assert safe_name(known)
    assert known.startswith(prefix)
    assert not pattern or re.fullmatch(pattern, known)
    assert made.normalize_username(name) in outer_names(made, known)
