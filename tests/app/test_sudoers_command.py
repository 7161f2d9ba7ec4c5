"""``batchhub sudoers``: from the site's configuration to a file."""

from __future__ import annotations

import getpass

import pytest

SSH = {"host": "login1", "known_hosts": "/k", "sudo": True, "service_username": "hub", "username": ""}
LOCAL = {"scheduler": "local", "transport": "local", "local": {"sudo": True}}


def clusters(**tables: object) -> dict[str, object]:
    return {"BatchHub__clusters": tables}


def test_the_service_account_is_the_clusters(inside) -> None:
    inside.config(**clusters(hpc={"transport": "ssh", "ssh": SSH}, other={"scheduler": "local"}))
    done = inside("sudoers", "--group=people")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "hub ALL = (BATCHHUB_PEOPLE) NOPASSWD: BATCHHUB_SCRIPT"
    assert "Runas_Alias BATCHHUB_PEOPLE = %people, !root, !#0, !hub, !%root, !%sudo, " in done.stdout


def test_here_it_is_whoever_asks_and_root_has_to_say_one(inside, monkeypatch) -> None:
    inside.config(**clusters(here=LOCAL))
    monkeypatch.setattr(getpass, "getuser", lambda: "svc")
    assert "\nsvc ALL = " in inside("sudoers", "--group=people").stdout
    assert "\nhub ALL = " in inside("sudoers", "--group=people", "--service=hub").stdout
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    refused = inside("sudoers", "--group=people")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_which_groups_are_left_out(inside) -> None:
    inside.config(**clusters(here=LOCAL))
    done = inside("sudoers", "--group=people", "--service=hub", "--without=ops, dba")
    assert "= %people, !root, !#0, !hub, !%ops, !%dba\n" in done.stdout


@pytest.mark.parametrize(
    ("tables", "words", "sentence"),
    [
        ({"here": LOCAL}, [], "--group=NAME"),
        ({"here": {"scheduler": "local"}}, ["--group=people"], "No cluster has sudo = true"),
        ({"here": {"scheduler": "local"}}, ["--group=p", "--cluster=here"], "'here' does not use sudo"),
        ({"a": LOCAL, "b": LOCAL}, ["--group=people"], "Several clusters use sudo: a, b."),
        ({"a": LOCAL}, ["--group=ALL", "--service=hub"], "'ALL' is not the name of a group"),
        ({"a": LOCAL}, ["--group=p", "--service=A"], "'A' is not the name of an account"),
    ],
)
def test_what_cannot_be_printed(inside, tables: dict[str, object], words: list[str], sentence: str) -> None:
    inside.config(**clusters(**tables))
    done = inside("sudoers", *words)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert done.stdout == ""
