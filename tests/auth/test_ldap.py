"""Signing in with a real OpenLDAP server's accounts."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.auth.base import Identity, Place
from batchhub.auth.ldap import LDAPAuthenticator
from batchhub.auth.ldap_text import below, first_value, in_dn, in_filter
from batchhub.auth.ldap_wire import Directory
from batchhub.auth.rules import sign_in
from batchhub.core.errors import ConfigError, Unreachable
from tests.ports import free_port
from tests.proxy.certificates import Authority
from tests.slapd import Slapd, slapd

BASE = "dc=example,dc=org"
NOW = datetime(2026, 5, 4, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    with slapd(tmp_path_factory.mktemp("ldap") / "slapd") as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text("service-secret\n")
    path.chmod(0o600)
    return str(path)


def made(server: Slapd, clock: Callable[[], datetime] = lambda: NOW, **traits: Any) -> LDAPAuthenticator:
    given: dict[str, Any] = {
        "servers": [server.tls],
        "ca_file": str(server.authority.file),
        "allow_all": True,
        "timeout": 30,
    }
    one = LDAPAuthenticator(**(given | traits))
    one.settle(Place("0.0.0.0", bytes(32), clock))
    return one


def templates(server: Slapd, **traits: Any) -> LDAPAuthenticator:
    return made(
        server, **{"user_dns": [f"uid={{username}},ou=people,{BASE}", f"cn={{username}},ou=people,{BASE}"], **traits}
    )


def searching(server: Slapd, secret: str, **traits: Any) -> LDAPAuthenticator:
    given = {"search_base": BASE, "bind_dn": f"cn=hub,{BASE}", "bind_password_file": secret}
    return made(server, **(given | traits))


async def enter(one: LDAPAuthenticator, name: str, password: str) -> Identity | None:
    return await sign_in(one, None, {"username": name, "password": password})


@pytest.fixture(params=["templates", "search"])
def either(request: pytest.FixtureRequest, server: Slapd, secret: str) -> LDAPAuthenticator:
    return templates(server) if request.param == "templates" else searching(server, secret)


async def test_right_and_wrong(either: LDAPAuthenticator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert await enter(either, "ann", "ann-secret") == Identity("ann")
    assert await enter(either, "ann", "bob-secret") is None
    assert await enter(either, "nobody", "ann-secret") is None
    assert "secret" not in caplog.text


async def test_an_empty_password_is_no_bind(either: LDAPAuthenticator) -> None:
    """slapd is told to take unauthenticated binds here, as some servers do."""
    for password in ("", " "):
        assert await enter(either, "ann", password) is None


async def test_the_name_is_the_entrys(either: LDAPAuthenticator) -> None:
    assert await enter(either, "ANN", "ann-secret") == Identity("ann")
    assert await enter(either, " ann ", "ann-secret") == Identity("ann")


INJECTIONS = [
    "*", "a*", "an?", "*)(uid=*", "ann)(uid=*", "ann)(|(uid=*", "ann))(&(uid=ann", "*)(objectClass=*", "ann\\00", "\\61nn", "\\2a",
    "ann,ou=people", "ann,ou=people,dc=example,dc=org", "ann+cn=ann", "ann;", "#616e6e", "ann\\,", "\\", '"ann"', "<ann>", "ann=",
    "uid=ann", ")", "(", "&", "|", "!", "\u0430nn", "ann\u200b",
]  # fmt: skip


@pytest.mark.parametrize("name", INJECTIONS)
async def test_names_that_mean_something_to_a_directory(either: LDAPAuthenticator, name: str) -> None:
    assert await enter(either, name, "ann-secret") is None


async def test_a_name_that_has_to_be_escaped_is_found(either: LDAPAuthenticator) -> None:
    either.username_map = {"o,brien": "obrien"}
    assert await enter(either, "o,brien", "comma-secret") == Identity("obrien")


async def test_nobody_costs_what_a_wrong_password_does(
    server: Slapd, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time must not tell who is in the directory."""
    one, bound = searching(server, secret), Directory.bound
    binds: list[str] = []
    monkeypatch.setattr(Directory, "bound", lambda at, dn, password: binds.append(dn) or bound(at, dn, password))
    for name in ("ann", "nobody", "twin"):
        assert await enter(one, name, "wrong") is None
    assert len(binds) == 3


async def test_two_of_one_name_are_nobody(server: Slapd, secret: str) -> None:
    assert await enter(searching(server, secret), "twin", "twin-secret") is None


async def test_an_alias_is_the_same_person_only_under_a_name_of_theirs(server: Slapd, secret: str) -> None:
    one = searching(server, secret, search_filter="(|(uid={username})(sn={username}))")
    assert await enter(one, "robert", "bob-secret") == Identity("robert"), "uid has both"
    cn = searching(server, secret, name_attribute="cn")
    assert await enter(cn, "robert", "bob-secret") == Identity("bob"), "cn has one"
    assert await enter(searching(server, secret, name_attribute="mail"), "ann", "ann-secret") is None


async def test_groups_that_are_searched_for(server: Slapd, secret: str) -> None:
    rules = {
        "allow_all": False,
        "allowed_groups": {"hpc"},
        "admin_groups": {"hpc-admins"},
        "group_base": f"ou=groups,{BASE}",
    }
    for one in (templates(server, **rules), searching(server, secret, **rules)):
        assert await enter(one, "ann", "ann-secret") == Identity("ann", admin=False, groups=("hpc",))
        assert await enter(one, "bob", "bob-secret") == Identity("bob", admin=True, groups=("hpc", "hpc-admins"))
        assert await enter(one, "eve", "eve-secret") is None, "her group of that name is elsewhere"


async def test_groups_by_member_of(server: Slapd, secret: str) -> None:
    rules = {
        "allow_all": False,
        "allowed_groups": {"hpc", "hpc-admins"},
        "group_base": f"OU=Groups, {BASE}",
        "group_filter": "",
    }
    for one in (templates(server, **rules), searching(server, secret, **rules)):
        assert await enter(one, "ann", "ann-secret") == Identity("ann", groups=("hpc",))
        assert await enter(one, "eve", "eve-secret") is None, "her group of that name is elsewhere"


class Known:
    """Somebody who signed in earlier."""

    def __init__(self, name: str) -> None:
        self.name = name


@contextlib.contextmanager
def changed(server: Slapd, dn: str, change: dict[str, Any]) -> Iterator[None]:
    """The directory is otherwise for a while."""
    ldap3 = pytest.importorskip("ldap3")
    root = ldap3.Connection(server.plain, f"cn=root,{BASE}", "root-secret", auto_bind=True)
    with contextlib.closing(contextlib.ExitStack()) as last:
        last.callback(root.unbind)
        turn = {"add": ldap3.MODIFY_ADD, "delete": ldap3.MODIFY_DELETE}
        back = {"add": "delete", "delete": "add"}
        for how in (turn, {one: turn[back[one]] for one in turn}):
            assert root.modify(dn, {name: [(how[verb], values)] for name, (verb, values) in change.items()}), (
                root.result
            )
            if how is turn:
                yield


async def test_people_are_looked_up_again_without_their_password(server: Slapd, secret: str) -> None:
    rules = {"group_base": f"ou=groups,{BASE}", "bind_dn": f"cn=hub,{BASE}", "bind_password_file": secret}
    for one in (templates(server, **rules), searching(server, secret, **rules)):
        assert await one.refresh_user(Known("bob")) == {"name": "bob", "groups": ["hpc", "hpc-admins"]}
        with changed(server, f"cn=hpc-admins,ou=groups,{BASE}", {"memberUid": ("delete", ["bob"])}):
            assert await one.refresh_user(Known("bob")) == {"name": "bob", "groups": ["hpc"]}
        assert await one.refresh_user(Known("nosuch")) is False
        assert await one.refresh_user(Known("*")) is False


async def test_who_is_no_longer_found_has_to_go(server: Slapd, secret: str) -> None:
    one = searching(server, secret, search_filter="(&(uid={username})(!(employeeType=left)))")
    assert await one.refresh_user(Known("ann")) == {"name": "ann", "groups": []}
    with changed(server, f"uid=ann,ou=people,{BASE}", {"employeeType": ("add", ["left"])}):
        assert await one.refresh_user(Known("ann")) is False
        assert await enter(one, "ann", "ann-secret") is None


async def test_they_are_looked_up_by_the_directorys_name(server: Slapd, secret: str) -> None:
    one = searching(server, secret, username_map={"ann": "chief"}, username_prefix="x-")
    assert await enter(one, "ann", "ann-secret") == Identity("x-chief")
    assert await one.refresh_user(Known("x-chief")) == {"name": "ann", "groups": []}
    assert await one.refresh_user(Known("x-ann")) is False, "ann is somebody else here"
    assert await one.refresh_user(Known("ann")) is False


async def test_where_nobody_can_be_asked_nothing_is_known(server: Slapd, secret: str) -> None:
    assert await templates(server).refresh_user(Known("ann")) is True
    away = searching(server, secret, servers=[f"ldaps://127.0.0.1:{free_port()}"])
    with pytest.raises(Unreachable):
        await away.refresh_user(Known("ann"))


async def test_a_referral_is_not_followed(server: Slapd, secret: str) -> None:
    one = searching(server, secret)
    assert await enter(one, "nosuch", "x") is None
    away = searching(server, secret, search_base=f"ou=elsewhere,{BASE}")
    with pytest.raises(Unreachable):
        await enter(away, "ann", "ann-secret")
    with pytest.raises(BlockingIOError):
        server.trap.accept()


async def test_start_tls(server: Slapd, secret: str) -> None:
    assert await enter(searching(server, secret, servers=[server.plain]), "ann", "ann-secret") == Identity("ann")


async def test_passwords_go_encrypted(tmp_path: Path) -> None:
    with slapd(tmp_path / "strict", simple=128) as strict:
        dns = [f"uid={{username}},ou=people,{BASE}"]
        assert await enter(made(strict, servers=[strict.plain], user_dns=dns), "ann", "ann-secret") == Identity("ann")
        with pytest.raises(Unreachable):
            await enter(made(strict, servers=[strict.plain], user_dns=dns, insecure=True), "ann", "ann-secret")


@pytest.mark.parametrize("kind", ["plain", "tls"])
async def test_a_server_that_cannot_prove_who_it_is_gets_no_password(
    server: Slapd, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = getattr(server, kind)
    wrong = templates(server, servers=[address], ca_file=str(Authority(tmp_path, "other").file))
    with pytest.raises(Unreachable):
        await enter(wrong, "ann", "ann-secret")
    other_name = templates(server, servers=[address.replace("127.0.0.1", "localhost")])
    with pytest.raises(Unreachable):
        await enter(other_name, "ann", "ann-secret")
    assert caplog.text.count("CERTIFICATE_VERIFY_FAILED") + caplog.text.count("certificate verify failed") >= 2
    assert await enter(templates(server, servers=[address], ca_file="", insecure=True), "ann", "ann-secret") is not None


async def test_the_next_server_is_asked_when_one_is_down(server: Slapd, secret: str) -> None:
    one = searching(server, secret, servers=[f"ldaps://127.0.0.1:{free_port()}", server.tls])
    assert await enter(one, "ann", "ann-secret") == Identity("ann")
    with pytest.raises(Unreachable, match="does not answer"):
        await enter(searching(server, secret, servers=[f"ldap://127.0.0.1:{free_port()}"]), "ann", "ann-secret")


async def test_a_server_that_did_not_answer_is_asked_last_for_a_while(
    server: Slapd, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked, opened = [NOW], [], Directory.service
    monkeypatch.setattr(Directory, "service", lambda at, *words: asked.append(at.address.port) or opened(at, *words))
    down = free_port()
    one = searching(server, secret, servers=[f"ldaps://127.0.0.1:{down}", server.tls], clock=lambda: now[0])
    for seconds in (0, 30, 61):
        now[0] = NOW + timedelta(seconds=seconds)
        assert await enter(one, "ann", "ann-secret") == Identity("ann")
    up = asked[1]
    assert asked == [down, up, up, down, up]


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
async def test_a_server_that_says_nothing_holds_up_nobody(server: Slapd, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = templates(server, servers=[f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", server.tls])
        one._directories[0]._seconds = 1  # the other may take its time
        asking = asyncio.create_task(enter(one, "ann", "ann-secret"))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10, "the loop went on"
        assert await asking == Identity("ann")


async def test_the_hubs_own_password_is_wrong(server: Slapd, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "wrong"
    path.write_text("wrong-secret")
    path.chmod(0o600)
    with pytest.raises(Unreachable):
        await enter(searching(server, str(path)), "ann", "ann-secret")
    assert "own account" in caplog.text
    assert "wrong-secret" not in caplog.text


def test_settings_that_cannot_work(server: Slapd, secret: str, tmp_path: Path) -> None:
    for wrong, words in (
        ({"servers": []}, "names no server"),
        ({"servers": ["http://x"]}, "not an address"),
        ({"servers": ["ldaps://a:b@x"]}, "not an address"),
        ({"user_dns": []}, "either user_dns or search_base"),
        ({"search_base": BASE}, "either user_dns or search_base"),
        ({"user_dns": [f"uid=ann,{BASE}"]}, "must hold"),
        ({"user_dns": ["{username}@example.org"]}, "is no DN.*use search_base"),
        ({"user_dns": ["EXAMPLE\\{username}"]}, "is no DN"),
        ({"allowed_groups": {"hpc"}}, "group_base"),
        ({"bind_dn": "cn=x"}, "belong together"),
        ({"timeout": 0}, "at least 1"),
        ({"ca_file": str(tmp_path / "none")}, "ca_file"),
    ):
        with pytest.raises(ConfigError, match=words):
            templates(server, **wrong)
    Path(secret).chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        searching(server, secret)
    Path(secret).chmod(0o600)
    Path(secret).write_text("")
    with pytest.raises(ConfigError, match="one line"):
        searching(server, secret)


@given(st.text(max_size=50))
def test_whatever_the_name_the_texts_hold_it_as_one_value(name: str) -> None:
    from ldap3.utils.dn import parse_dn

    try:
        name.encode()
    except UnicodeEncodeError:
        return
    written = in_filter(name)
    assert not set(written) & set("*()\0&|!")
    plain = name.strip() or "x"
    if plain.isprintable():
        assert first_value(f"uid={in_dn(plain)},ou=x") == plain
        parts = parse_dn(f"uid={in_dn(plain)},ou=x", escape=False)
        assert len(parts) == 2


def test_a_groups_name_in_its_dn() -> None:
    for dn, name in (
        ("cn=hpc,ou=x", "hpc"),
        ("CN = hpc + l=a,ou=x", "hpc"),
        ("cn=a\\,b,ou=x", "a,b"),
        ("cn=a\\2Cb\\+c,ou=x", "a,b+c"),
        ("cn=M\\C3\\BCller,ou=x", "Müller"),
        ("cn=\\ff,ou=x", "\ufffd"),
        ("hpc", ""),
    ):
        assert first_value(dn) == name


def test_below() -> None:
    assert below("cn=a, OU=Groups,dc=x", "ou=groups, dc=x")
    for trap in (
        "cn=hpc+l=a\\,ou=groups,dc=x",
        "cn=hpc\\,ou=groups,dc=x",
        "cn=a\\\\\\,ou=groups,dc=x",
        "cn=a\\2cou=groups,dc=x",
    ):
        assert not below(trap, "ou=groups,dc=x"), "the comma is a part of a name beside the groups"
    assert below("cn=a\\\\,ou=groups,dc=x", "ou=groups,dc=x"), "there it is not"
    for other in ("ou=groups,dc=x", "cn=a,ou=others,dc=x", "cn=a\\,ou=groups,dc=y", "cn=aou=groups,dc=x"):
        assert not below(other, "ou=groups,dc=x")
