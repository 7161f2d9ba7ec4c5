"""Who is who on a cluster."""

from __future__ import annotations

import getpass
import pwd
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.config.clusters import ClusterSettings, read_clusters
from batchhub.core.errors import ConfigError, Denied


def cluster(**more: Any) -> ClusterSettings:
    (found,) = read_clusters({"hpc": {"title": "The HPC", **more}})
    return found


def test_the_table_is_exact_and_comes_first() -> None:
    found = cluster(account="u_{username}", accounts={"ann": "asmith"})
    assert [found.account_of(name) for name in ("ann", "anna", "an", "Ann")] == ["asmith", "u_anna", "u_an", "u_Ann"]


def test_nobody_else_gets_an_account_that_the_table_gives() -> None:
    found = cluster(accounts={"ann": "bob"})
    assert found.account_of("ann") == "bob"
    with pytest.raises(Denied, match="The account bob on The HPC is another person's"):
        found.account_of("bob")


SSH = {"host": "login1", "known_hosts": "/k", "service_username": "hub"}
PERSONAL = {**SSH, "service_username": ""}


@pytest.mark.parametrize(
    "how",
    [
        {"local": {"sudo": True}},
        {"scheduler": "docker"},
        {"scheduler": "podman", "scheduler_options": {"rootless": False}},
        {"transport": "ssh", "ssh": SSH},
        {"transport": "ssh", "ssh": {**SSH, "service_username": "Hub", "wide_accounts": True}},
        {"transport": "ssh", "ssh": {**SSH, "service_username": "x-hub", "username": "x-{username}"}},
        {"transport": "ssh", "ssh": {**SSH, "sudo": True}},
        {"transport": "ssh", "ssh": {**PERSONAL, "sudo": True}},
        {"transport": "ssh", "ssh": {**SSH, "sign_in": "ca"}},
        {"transport": "ssh", "ssh": {**PERSONAL, "sign_in": "ca"}},
        {"transport": "ssh", "ssh": {**SSH, "sign_in": "session"}, "scheduler": "kubernetes"},
    ],
)
def test_whoever_is_called_as_the_service_is_not_the_service(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """Signing in by a provider at which everybody chooses a name, as "hub": their jobs would read the hub's keys."""
    monkeypatch.setattr(getpass, "getuser", lambda: "hub")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="hub"))
    found = cluster(**how)
    with pytest.raises(Denied, match="The account hub on The HPC is the hub's own"):
        found.account_of("hub")
    assert found.owner_of("hub") is None
    assert found.account_of("ann") == "ann"
    said = cluster(**how, accounts={"zoe": "hub"})
    assert (said.account_of("zoe"), said.owner_of("hub")) == ("hub", "zoe")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"scheduler": "podman", "scheduler_options": {"rootless": True}},
        {"transport": "ssh", "ssh": PERSONAL},
        {"transport": "ssh", "ssh": {**SSH, "sign_in": "managed"}},
    ],
)
def test_a_hub_of_ones_own_and_whoever_proves_it_is_oneself(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "hub")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="hub"))
    assert cluster(**how).account_of("hub") == "hub"


def test_capitals_make_no_other_account() -> None:
    """Directories find "Smith" and "smith" alike."""
    found = cluster(local={"wide_accounts": True}, accounts={"ann": "Smith"})
    for name in ("smith", "SMITH", "Smith"):
        with pytest.raises(Denied, match="is another person's"):
            found.account_of(name)


def test_without_a_template_those_of_the_table_alone() -> None:
    found = cluster(account="", accounts={"ann": "asmith"})
    assert found.account_of("ann") == "asmith"
    with pytest.raises(Denied, match="ben has no account on The HPC"):
        found.account_of("ben")


@given(
    st.from_regex(r"[a-z_][a-z0-9_.-]{0,20}", fullmatch=True),
    st.sampled_from(["{username}", "u_{username}", "{username}x"]),
)
def test_the_way_back(name: str, template: str) -> None:
    found = cluster(account=template, accounts={"ann": "asmith"})
    try:
        account = found.account_of(name)
    except Denied:
        return
    assert found.owner_of(account) == name


def test_nobodys_accounts() -> None:
    found = cluster(account="u_{username}", accounts={"ann": "asmith"})
    assert [found.owner_of(account) for account in ("asmith", "u_ben", "u_ann", "ben", "u_", "root")] == [
        "ann",
        "ben",
        None,  # ann's is another
        None,
        None,
        None,
    ]
    assert cluster(account="", accounts={"ann": "asmith"}).owner_of("ben") is None
    twice = cluster(account="{username}-{username}")
    assert (twice.owner_of("a-a"), twice.owner_of("a-b")) == (None, None)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"account": "shared"}, "must hold {username}"),
        ({"account": ""}, "must hold {username}"),
        ({"account": "shared", "accounts": {"ann": "a"}}, "must hold {username}"),
        ({"accounts": {"ann": "root"}}, "accounts of 'ann': Commands are not run as root"),
        ({"accounts": {"ann": "-x"}}, "accounts of 'ann': '-x' is not an account"),
        ({"accounts": {"ann": "a b"}}, "is not an account"),
        ({"accounts": {"ann": ""}}, "is not an account"),
        ({"accounts": {"ann": "Smith"}}, "is not an account"),
        ({"accounts": {"ann": 7}}, "is not of type str"),
        ({"accounts": {"a/b": "a"}}, "is not a name that the hub has"),
        ({"accounts": {"": "a"}}, "is not a name that the hub has"),
        ({"accounts": {"ann": "a", "ben": "a"}}, "'ann' and 'ben' would both be 'a'"),
        (
            {"local": {"wide_accounts": True}, "accounts": {"ann": "A", "ben": "a"}},
            "'ann' and 'ben' would both be 'a'",
        ),
    ],
)
def test_tables_that_cannot_be(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster(**more)
    assert words in str(caught.value)


def test_wide_names_where_the_transport_lets_them_pass() -> None:
    assert cluster(local={"wide_accounts": True}, accounts={"ann": "Smith@HPC"}).account_of("ann") == "Smith@HPC"
    ssh = {"host": "login1", "known_hosts": "/k", "wide_accounts": True}
    assert cluster(transport="ssh", ssh=ssh, accounts={"ann": "Smith"}).account_of("ann") == "Smith"


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,2}", fullmatch=True)


@given(st.dictionaries(NAMES, NAMES), st.sampled_from(["{username}", "x{username}", ""]), NAMES, NAMES)
def test_no_two_people_are_the_same_account(table: dict[str, str], template: str, one: str, other: str) -> None:
    try:
        found = cluster(account=template, accounts=table)
        accounts = [found.account_of(name) for name in (one, other)]
    except (ConfigError, Denied):
        return
    assert one == other or accounts[0] != accounts[1]
