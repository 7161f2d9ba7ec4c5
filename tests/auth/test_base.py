"""The pipeline every sign-in takes, and the example of docs/authenticators.md."""

import base64
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler
from traitlets.config import Config
from traitlets.traitlets import TraitError

from batchhub.auth.base import MOST_GROUPS, Authenticator, Identity, safe_name
from batchhub.auth.rules import known_name, never_known, outer_names, problems, sign_in


class Says(Authenticator):
    """Answers what it was told to."""

    answer: object = None
    asked = 0

    async def authenticate(self, handler, data):
        self.asked += 1
        return self.answer


def says(answer, **traits) -> Says:
    made = Says(**traits)
    made.answer = answer
    return made


async def enter(answer, data=None, **traits):
    return await sign_in(says(answer, **traits), None, {} if data is None else data)


async def test_nobody_unless_said() -> None:
    assert await enter("ann") is None
    assert await enter("ann", allow_all=True) == Identity("ann")
    assert await enter("ann", allowed_users={"ann"}) == Identity("ann")
    assert await enter("ann", allowed_users={"bob"}) is None
    assert await enter("ann", admin_users={"ann"}) == Identity("ann", admin=True)
    assert await enter(None, allow_all=True) is None


async def test_blocked_wins() -> None:
    assert await enter("Eve", allow_all=True, admin_users={"eve"}, allowed_users={"eve"}, blocked_users={"eve"}) is None


@pytest.mark.parametrize(
    ("traits", "groups", "may", "admin"),
    [
        ({"allowed_groups": {"hpc"}}, ["hpc"], True, None),
        ({"allowed_groups": {"hpc"}}, ["HPC", "hpc2", "xhpc", "hpc "], False, None),
        ({"allowed_groups": {"hpc"}}, None, False, None),
        ({"allowed_groups": {"hpc"}, "blocked_users": {"ann"}}, ["hpc"], False, None),
        ({"admin_groups": {"staff"}}, ["staff"], True, True),
        ({"admin_groups": {"staff"}, "allow_all": True}, ["hpc"], True, False),
        ({"admin_groups": {"staff"}, "admin_users": {"ann"}}, [], True, True),
        ({"admin_users": {"boss"}, "allow_all": True}, [], True, False),
        ({"allow_all": True}, ["staff"], True, None),
    ],
)
async def test_groups_let_people_in_by_their_exact_name(traits, groups, may, admin) -> None:
    identity = await enter({"name": "ann", "groups": groups}, **traits)
    assert (identity is not None) is may
    if identity is not None:
        assert (identity.admin, identity.groups) == (admin, tuple(groups or ()))


async def test_the_authenticators_own_word_on_admins_goes_before_the_lists() -> None:
    rules = {"allow_all": True, "admin_users": {"ann"}, "admin_groups": {"staff"}}
    assert (await enter({"name": "ann", "groups": ["staff"], "admin": False}, **rules)).admin is False
    assert (await enter({"name": "bob", "admin": True}, **rules)).admin is True


async def test_groups_are_bounded(caplog) -> None:
    groups = [f"g{number}" for number in range(MOST_GROUPS + 1)]
    assert len((await enter({"name": "ann", "groups": groups}, allow_all=True)).groups) == MOST_GROUPS
    assert "more than the 2000 that count" in caplog.text


async def test_a_hook_after_the_rules_may_change_and_refuse() -> None:
    seen = []

    async def hook(authenticator, handler, authentication):
        seen.append((type(authenticator).__name__, authentication["name"]))
        return None if "no" in authentication["groups"] else {**authentication, "groups": ["new"], "admin": True}

    rules = {"allow_all": True, "post_auth_hook": hook}
    assert await enter({"name": "ANN", "groups": []}, **rules) == Identity("ann", True, ("new",))
    assert await enter({"name": "ann", "groups": ["no"]}, **rules) is None
    assert await enter("eve", blocked_users={"eve"}, **rules) is None
    assert seen == [("Says", "ann"), ("Says", "ann")], "those who may not come in are none of its business"
    assert (await enter("ann", allow_all=True, post_auth_hook=lambda a, h, found: found)).name == "ann"


@pytest.mark.parametrize("name", ["eve", "ANN", None, 7])
async def test_a_hook_makes_nobody_somebody_else(name, caplog) -> None:
    hook = {"post_auth_hook": lambda authenticator, handler, found: {**found, "name": name}}
    assert await enter("ann", allow_all=True, blocked_users={"eve"}, **hook) is None
    assert "refused by post_auth_hook" in caplog.text


def test_a_hook_is_a_function() -> None:
    with pytest.raises(TraitError, match="must be a function, not str"):
        Says(post_auth_hook="hook")


@given(
    inner=st.dictionaries(st.sampled_from("abc"), st.sampled_from("abcd"), max_size=3),
    prefix=st.sampled_from(["", "x-", "a"]),
    name=st.sampled_from("abcd"),
)
def test_the_way_back_from_a_name_is_right(inner, prefix, name) -> None:
    made = Says(username_map=inner, username_prefix=prefix)
    known = known_name(made, name)
    if name in inner.values() and name not in inner:
        assert known is None, "the name is somebody else's"
        return
    assert name in outer_names(made, known)
    assert all(known_name(made, outer) == known for outer in outer_names(made, known))
    assert outer_names(made, "elsewhere-" + known) in {(), ("elsewhere-" + known,)}


async def test_a_name_that_the_map_gives_away_is_nobody_elses(caplog) -> None:
    traits = {"username_map": {"octo-ann": "ann"}, "allow_all": True}
    assert await enter("octo-ann", **traits) == Identity("ann")
    assert await enter("Ann", **traits) is None, "whoever is called ann over there is another person"
    assert "'Ann' is the name that username_map gives to somebody else" in caplog.text
    assert await enter("bob", **traits) == Identity("bob")
    both = {"username_map": {"ann@example.org": "ann", "ann": "ann"}, "allow_all": True}
    assert await enter("ann", **both) == Identity("ann"), "unless the site says that they are one"


def test_nobody_beyond_ascii_becomes_somebody_in_it() -> None:
    letters = [chr(code) for code in range(128, 0x110000) if chr(code).lower().isascii()]
    assert letters == ["\N{KELVIN SIGN}"], "Unicode has another"
    assert known_name(says(None), "\N{KELVIN SIGN}im") is None, "nor Kim"


async def test_normalised_then_mapped_then_validated() -> None:
    traits = {"username_map": {"ann@example.org": "ann"}, "username_pattern": "[a-z]+", "allowed_users": {"ann"}}
    assert await enter("ANN@Example.org", **traits) == Identity("ann")
    assert await enter("bob@example.org", **(traits | {"allow_all": True})) is None
    assert await enter("ann1", username_pattern="[a-z]+", allow_all=True) is None, "the whole name"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "-rf",
        "a/b",
        "a b",
        "a\nb",
        "a\0",
        "é",
        "a%2f",
        "a?b",
        "a#b",
        "a:b",
        "a\\b",
        "$(id)",
        "a;b",
        "x" * 129,
    ],
)
async def test_names_that_nobody_has(name) -> None:
    assert not safe_name(name)
    assert await enter(name, allow_all=True) is None
    assert await enter("x", allow_all=True, username_map={"x": name}) is None, "nor by mapping"


@pytest.mark.parametrize("name", ["ann", "a.b-c_d", "ann@example.org", "1000", "x" * 128, ".a", "a+b"])
def test_names_people_have(name) -> None:
    assert safe_name(name)
    assert known_name(says(None), name) == name


@pytest.mark.parametrize("name", [None, 7, b"ann", "x" * 256])
async def test_an_answer_that_is_no_name(name) -> None:
    assert await enter({"name": name}, allow_all=True) is None
    assert await enter({}, allow_all=True) is None


@pytest.mark.parametrize(
    "data",
    [
        {"username": "x" * 256, "password": "p"},
        {"username": "a\0nn", "password": "p"},
        {"username": "a\nnn", "password": "p"},
        {"username": "ann", "password": "é" * 600},
        {"username": "ann", "password": "p" * 10_000_000},
        {"username": "ann", "password": "p\0q"},
        {"username": "ann", "password": "\ud800"},
        {"username": ["ann"], "password": "p"},
        {"username": "ann", "password": None},
    ],
)
async def test_bounded_before_anybody_looks(data) -> None:
    made = says("ann", allow_all=True)
    assert await sign_in(made, None, data) is None
    assert made.asked == 0


async def test_a_whole_answer() -> None:
    answer = {"name": "Ann", "admin": False, "groups": ["g1", "g2", "g1"], "auth_state": {"token": "hush"}}
    got = await enter(answer, admin_users={"ann"})
    assert (got.name, got.admin, got.groups, dict(got.auth_state)) == ("ann", False, ("g1", "g2"), {"token": "hush"})
    assert "hush" not in repr(got)


@pytest.mark.parametrize("more", [{"admin": "yes"}, {"groups": "staff"}, {"groups": [1]}])
async def test_a_mistaken_authenticator_is_an_error(more) -> None:
    with pytest.raises(TypeError, match="Says"):
        await enter({"name": "ann", **more}, allow_all=True)


async def test_rules_may_be_async() -> None:
    class Slow(Says):
        async def check_allowed(self, username, authentication=None):
            return authentication["groups"] == ["staff"] and username == "ann"

        async def check_blocked_users(self, username, authentication=None):
            return username != "eve"

    for answer, good in (({"name": "ann", "groups": ["staff"]}, True), ("ann", False), ("eve", False)):
        made = Slow()
        made.answer = answer
        assert (await sign_in(made, None, None) is not None) is good
        assert problems(made) == (), "who decides in code needs no list"


def test_entries_of_tables_that_nobody_has() -> None:
    """In a table of accounts: the person would silently get the account that the template makes."""
    github = says(None, username_prefix="gh-", username_map={"a.smith": "Ann"})
    names = ("ann", "Ann", "gh-ann", "gh-Ann", "gh-Eve")
    assert never_known(names, [github]) == ("ann", "Ann", "gh-Eve")
    assert never_known(names, [github, says(None)]) == ("Ann", "gh-Eve")


def test_problems_are_sentences() -> None:
    assert "Nobody can sign in" in problems(says(None))[0]
    assert "Nobody can sign in" in problems(says(None, allowed_users={"eve"}, blocked_users={"eve"}))[0]
    assert problems(says(None, allow_all=True)) == ()
    assert problems(says(None, admin_users={"ann"})) == ()
    assert "'Ann'" in problems(says(None, blocked_users={"Ann"}, allow_all=True))[0]
    assert "nobody's name" in problems(says(None, allowed_users="ann, bob"))[0]
    prefixed = problems(says(None, username_prefix="gh-", allow_all=True, blocked_users={"eve", "gh-Bob", "gh-cat"}))
    assert ["begin with 'gh-'" in prefixed[0], "known here as 'gh-bob'" in prefixed[1], len(prefixed)] == [
        True,
        True,
        2,
    ]
    mapped = problems(says(None, username_map={"Ann@x": "Ann", "b@x": "bob"}, allow_all=True, blocked_users={"Ann"}))
    assert ["looked for there as 'ann@x'" in one for one in mapped] == [True]
    assert "keeps nobody out" in problems(says(None, allowed_users={"ann"}, allow_all=True))[0]


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(TraitError, match="not a regular expression"):
        says(None, username_pattern="[a-")


async def test_the_base_class_lets_nobody_in() -> None:
    with pytest.raises(NotImplementedError):
        await sign_in(Authenticator(allow_all=True), None, {})


async def test_the_log_holds_no_password(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    await enter("../x", {"username": "../x", "password": "hunter2"}, allow_all=True)
    await enter("ann", {"username": "ann", "password": "hunter2"})
    assert "not allowed" in caplog.text
    assert "hunter2" not in caplog.text


# ---------------------------------------------------------------- the documented example


class Accounts(RequestHandler):
    def get(self) -> None:
        given = self.request.headers.get("Authorization", "")
        if given != "Basic " + base64.b64encode(b"ann:right").decode():
            self.send_error(403)
            return
        self.add_header("X-Group", "staff")
        self.add_header("X-Group", "physics")

    def log_exception(self, *args) -> None:
        pass


async def test_the_example_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "authenticators.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "(Authenticator):" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    space: dict[str, object] = {}
    exec(compile(code, "docs/authenticators.md", "exec"), space)
    listening, port = bind_unused_port()
    server = HTTPServer(Application([("/check", Accounts)], log_function=lambda handler: None))
    server.add_socket(listening)
    url = f"http://127.0.0.1:{port}/check"
    made = space["WebAuthenticator"](config=Config({"WebAuthenticator": {"url": url, "allow_all": True}}))
    try:
        assert await sign_in(made, None, {"username": "ann", "password": "right"}) == Identity(
            "ann", groups=("staff", "physics")
        )
        assert await sign_in(made, None, {"username": "ann", "password": "wrong"}) is None
    finally:
        server.stop()
        await server.close_all_connections()


async def test_one_written_for_jupyterhub() -> None:
    from traitlets import Dict, default

    class Ported(Authenticator):  # nothing but the import was changed
        passwords = Dict(config=True)

        @default("allow_all")
        def _allow_all(self):
            return True

        def normalize_username(self, username):
            username = super().normalize_username(username)
            return username.partition("@")[0]

        async def authenticate(self, handler, data):
            if self.passwords.get(data["username"]) == data["password"]:
                return data["username"]
            self.log.warning("no")
            return None

        def check_allowed(self, username, authentication=None):
            return super().check_allowed(username, authentication)

    made = Ported(
        config=Config({"Ported": {"passwords": {"Ann@x": "p"}, "username_map": {"ann": "annie"}}}), parent=None
    )
    assert await sign_in(made, None, {"username": "Ann@x", "password": "p"}) == Identity("annie")
    assert await sign_in(made, None, {"username": "Ann@x", "password": "q"}) is None
