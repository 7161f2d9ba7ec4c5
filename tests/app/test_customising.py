"""A site's additions for one job: who gets what, where it stands, and where no secret does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchhub.app.customising import SiteCustomiser, Sources, check_kept
from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.site import Site, read_site
from batchhub.config.traits import BatchHub
from batchhub.core.additions import Additions
from batchhub.core.customising import Customisation
from batchhub.core.errors import BadInput, ConfigError, Denied
from batchhub.core.model import Server, ServerId, UserName

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
TOKEN = "hunter2-and-a-long-one"
SERVER = Server(
    ServerId("abcdefghij22"),
    UserName("ann"),
    "",
    "hpc",
    "lab",
    "ann_hpc",
    NOW,
    NOW,
    options={"cores": 2, "course": "ml"},
)
HOME = "/home/ann_hpc"
FILES = f"{HOME}/.batchhub/jobs/abcdefghij22/files"


def site(*additions: Any, **cluster: Any) -> Site:
    fields = {"cores": {}, "course": {"pattern": ".*"}, "note": {}}
    profiles = [
        {"name": "lab", "fields": fields, "environment": {"A": "profile", "B": "profile"}},
        {"name": "other", "fields": fields},
    ]
    clusters = {"hpc": {"environment": {"A": "cluster", "C": "cluster"}, **cluster}}
    return read_site(BatchHub(clusters=clusters, profiles=profiles, additions=list(additions)))


class People:
    """What the hub knows, and how often it was asked."""

    def __init__(self, groups: tuple[str, ...] = ("physics",), state: Mapping[str, Any] | None = None) -> None:
        self.known, self.state = groups, {"access_token": TOKEN} if state is None else state
        self.opened = 0
        self.hooked: Additions | Exception = Additions()

    def sources(self) -> Sources:
        async def groups(user: UserName) -> tuple[str, ...]:
            assert user == "ann"
            return self.known

        async def state(user: UserName) -> Mapping[str, Any]:
            assert user == "ann"
            self.opened += 1
            return self.state

        async def hook(server: Server) -> Additions:
            assert server.user == "ann"
            if isinstance(self.hooked, Exception):
                raise self.hooked
            return self.hooked

        return Sources(groups, state, hook)


async def made(*additions: Any, people: People | None = None, server: Server = SERVER) -> Customisation:
    return await SiteCustomiser(site(*additions), (people or People()).sources())(server, HOME)


async def test_every_variable_of_a_template() -> None:
    names = (
        "username",
        "account",
        "groups",
        "profile",
        "cluster",
        "server_name",
        "options",
        "home",
        "directory",
        "files",
        "hub_url",
        "auth_state",
    )
    text = " ".join(f"{{{{ {name}|tojson }}}}" for name in names)
    where = site({"files": {"all": text}}, callback_url="http://hub:8081/")
    added = await SiteCustomiser(where, People().sources())(replace(SERVER, name="big"), HOME + "/")
    found, decoder = [], json.JSONDecoder()
    rest = added.files["all"].decode()
    while rest := rest.lstrip():
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:]
    assert dict(zip(names, found, strict=True)) == {
        "username": "ann",
        "account": "ann_hpc",
        "groups": ["physics"],
        "profile": "lab",
        "cluster": "hpc",
        "server_name": "big",
        "options": {"cores": 2, "course": "ml", "note": ""},
        "home": HOME,
        "directory": FILES.removesuffix("/files"),
        "files": FILES,
        "hub_url": "http://hub:8081",
        "auth_state": {"access_token": TOKEN},
    }


async def test_who_gets_what_and_the_later_one_counts() -> None:
    tables = (
        {"environment": {"A": "everybody", "D": "everybody"}},
        {"groups": ["physics"], "environment": {"D": "physics"}},
        {"groups": ["chemistry"], "environment": {"D": "chemistry"}},
        {"profiles": ["other"], "environment": {"D": "other"}},
        {"users": ["ann"], "secret": True, "environment": {"C": "secret"}},
    )
    people = People()
    people.hooked = Additions({"E": "hook"}, {"h": b"hook"})
    added = await made(*tables, people=people)
    assert (dict(added.plain), dict(added.secret)) == ({"A": "everybody", "D": "physics"}, {"C": "secret", "E": "hook"})
    script = SiteJobBuilder(site(*tables), bytes(32)).build(SERVER, HOME, added).script
    exports = sorted(line for line in script.splitlines() if line.startswith("export ") and "BATCHHUB" not in line)
    assert exports == ["export A=everybody", "export B=profile", "export D=physics"]
    people.hooked = Additions({"D": "hook"})
    assert (await made(*tables, people=people)).secret["D"] == "hook"


async def test_a_secret_is_in_the_secrets_file_and_nowhere_else() -> None:
    tables = (
        {"environment": {"T": "Bearer {{ auth_state.access_token }}", "OPEN": "{{ username }}", "DIR": "{{ files }}"}},
        {"files": {"token": "{{ auth_state.access_token }}\n"}},
    )
    added = await made(*tables)
    files = SiteJobBuilder(site(*tables), bytes(32)).build(SERVER, HOME, added)
    holders = [name for name, data in files.files.items() if TOKEN.encode() in data]
    assert holders == ["files/token", "secrets.json"]
    assert TOKEN not in files.script
    assert list(files.files)[-1] == "secrets.json"
    assert json.loads(files.files["secrets.json"])["env"] == {"T": f"Bearer {TOKEN}", "BATCHHUB_FILES": FILES}
    assert f"export BATCHHUB_FILES={FILES}" in files.script
    assert "export OPEN=ann" in files.script
    assert f"export DIR={FILES}" in files.script
    assert TOKEN not in repr(added)


async def test_without_files_nothing_says_where_they_are() -> None:
    added = await made({"environment": {"A": "x"}})
    files = SiteJobBuilder(site(), bytes(32)).build(SERVER, HOME, added)
    assert "BATCHHUB_FILES" not in files.script
    assert json.loads(files.files["secrets.json"])["env"] == {}


async def test_what_was_kept_is_opened_only_where_it_is_needed() -> None:
    people = People()
    await made(
        {"environment": {"A": "{{ username }}"}},
        {"users": ["bob"], "environment": {"T": "{{ auth_state.x }}"}},
        people=people,
    )
    assert people.opened == 0
    token = "{{ auth_state.access_token }}"
    await made({"environment": {"T": token}}, {"files": {"t": token}}, people=people)
    assert people.opened == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"environment": {"T": "{{ auth_state.id_token }}"}}, "additions[0], variable T: there is no 'id_token' here."),
        (
            {"name": "x", "environment": {"T": "{{ options.course * 5000 }}"}},
            "addition 'x', variable T: it stands in the job's script, and is longer than 4096",
        ),
        (
            {"secret": True, "environment": {"T": "{{ options.course * 20000 }}"}},
            "additions[0]: The variable T must be at most 32768 bytes",
        ),
        ({"files": {"T": "{{ options.course * 200000 }}"}}, "additions[0]: The file T must be at most 262144 bytes"),
        ({"environment": {"T": "{{ groups }}"}}, "a list was printed as a whole"),
        ({"environment": {"T": "{{ groups[5] }}"}}, "additions[0], variable T: "),
    ],
)
async def test_what_only_shows_now_refuses_the_start_in_words(table: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as told:
        await made(table)
    assert words in str(told.value)
    assert TOKEN not in str(told.value)


@pytest.mark.parametrize("value", ["x\nexport EVIL=1", "x\r", "\x1b]0;x\x07", "x\u2028y"])
async def test_nobody_adds_a_line_by_a_group_an_answer_or_a_claim(value: str) -> None:
    for table, people, server in (
        ({"environment": {"T": "{{ groups[0] }}"}}, People((value,)), SERVER),
        ({"files": {"t": "{{ groups|join(' ') }}"}}, People((value,)), SERVER),
        ({"files": {"t": "a {{ options.course }}\n"}}, People(), replace(SERVER, options={"course": value})),
        ({"environment": {"T": "{{ auth_state.name }}"}}, People(state={"name": value}), SERVER),
    ):
        with pytest.raises(BadInput, match="control character"):
            await made(table, people=people, server=server)


@pytest.mark.parametrize(
    "value", ["{{ auth_state.access_token }}", "$(id)", "`id`", "';id;'", '"; id; "', "{files}", "{token}"]
)
async def test_what_somebody_typed_is_text_also_in_the_script(value: str) -> None:
    added = await made(
        {"environment": {"T": "{{ options.course }}"}}, server=replace(SERVER, options={"course": value})
    )
    assert added.plain == {"T": value}
    script = SiteJobBuilder(site(), bytes(32)).build(SERVER, HOME, added).script
    assert TOKEN not in script
    (line,) = [line for line in script.splitlines() if line.startswith("export T=")]
    assert shlex.split(line) == ["export", f"T={value}"]


async def test_a_source_is_read_for_each_start(tmp_path: Path) -> None:
    keytab, conf = tmp_path / "keytab", tmp_path / "conf"
    keytab.write_bytes(b"\x00\xff1")
    conf.write_text("user {{ username }}\n")
    tables = (
        {
            "files": {
                "keytab": {"source": str(keytab)},
                "conf": {"source": str(conf), "template": True},
                "as-is": {"text": "{{", "template": False},
            }
        },
    )
    customise = SiteCustomiser(site(*tables), People().sources())
    assert dict((await customise(SERVER, HOME)).files) == {
        "keytab": b"\x00\xff1",
        "conf": b"user ann\n",
        "as-is": b"{{",
    }
    keytab.write_bytes(b"2")
    conf.write_text("{{ nonsense }}")
    with pytest.raises(ConfigError, match=r"additions\[0\], file conf, line 1: the variable 'nonsense' is not known"):
        await customise(SERVER, HOME)
    conf.unlink()
    with pytest.raises(ConfigError, match="is no file"):
        await customise(SERVER, HOME)


async def test_a_hook_that_refuses_is_heard() -> None:
    people = People()
    people.hooked = Denied("Your project has no hours left.")
    with pytest.raises(Denied, match="no hours left"):
        await made(people=people)


def test_what_nobody_keeps_cannot_be_used(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.write_text("{{ auth_state.access_token }}")
    using = (
        {"environment": {"T": "{{ auth_state.access_token }}"}},
        {"files": {"t": "{{ auth_state.access_token }}"}},
        {"files": {"t": {"source": str(conf), "template": True}}},
    )
    keeping, forgetting = (SimpleNamespace(enable_auth_state=kept) for kept in (True, False))
    for table in using:
        with pytest.raises(
            ConfigError, match=r"additions\[0\], .* [Tt]: it uses auth_state, .*enable_auth_state = True"
        ):
            check_kept(site(table), [forgetting])  # type: ignore[list-item]
        check_kept(site(table), [forgetting, keeping])  # type: ignore[list-item]
    check_kept(site({"environment": {"T": "{{ username }}"}}), [forgetting])  # type: ignore[list-item]


def test_a_look_at_the_script_makes_no_secret() -> None:
    tables = (
        {"groups": ["physics"], "environment": {"D": "{{ username }}", "T": "{{ auth_state.access_token }}"}},
        {"secret": True, "environment": {"A": "secret"}, "files": {"x": "{{ auth_state.access_token }}"}},
    )
    customiser = SiteCustomiser(site(*tables))
    added = customiser.shown(SERVER, HOME, ("physics",))
    script = SiteJobBuilder(site(*tables), bytes(32)).build(SERVER, HOME, added).script
    assert "export D=ann" in script
    assert "export A=" not in script
    assert "export T=" not in script
    assert "BATCHHUB_FILES" in script
    assert (
        "export D="
        not in SiteJobBuilder(site(), bytes(32)).build(SERVER, HOME, customiser.shown(SERVER, HOME, ())).script
    )


def test_the_site_file_and_the_trait_are_one_list(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[clusters.b]\n[[additions]]\nname = "file"\n[additions.environment]\nA = "1"\n')
    found = read_site(BatchHub(site_file=str(file), additions=[{"environment": {"A": "2"}}]))
    assert [rule.where for rule in found.additions] == ["additions[0]", "addition 'file'"]
    file.write_text("[clusters.b]\n[additions]\nenvironment = {}\n")
    with pytest.raises(ConfigError, match=r"additions: a list of tables is expected, each under \[\[additions\]\]"):
        read_site(BatchHub(site_file=str(file)))
