"""PAM with real accounts on this machine."""

import asyncio
import logging
import os
import secrets
import sys
import threading
from pathlib import Path

import pytest

from batchhub.auth.base import Identity, Place
from batchhub.auth.pam import PAMAuthenticator
from batchhub.auth.rules import sign_in
from batchhub.core.errors import ConfigError, Denied, TooMany, Unreachable
from tests.needs import missing, need_program, need_root
from tests.sshd import account_tool

PLACE = Place("127.0.0.1", bytes(32), lambda: None)
PASSWORD = "correct horse é battery"
# Without the delays of a real one: a wrong password would cost seconds.
SERVICE = "auth required pam_unix.so nodelay nullok\naccount required pam_unix.so\n"


def run(*argv: str, stdin: str = "") -> None:
    account_tool(*argv, stdin=stdin)


@pytest.fixture(scope="module")
def account():
    need_root()
    for program in ("useradd", "userdel", "chpasswd", "usermod", "chage"):
        need_program(program, "passwd")
    if not Path("/etc/pam.d").is_dir():
        missing("no /etc/pam.d: apt-get install libpam-modules")
    name = f"bhtest{secrets.token_hex(3)}"
    service = Path("/etc/pam.d") / name
    # A number of its own: a process that an earlier account left behind would be taken for this one's, which then could not be removed.
    number = str(30000 + secrets.randbelow(20000))
    run("useradd", "--no-create-home", "--shell", "/bin/sh", "--uid", number, name)
    try:
        service.write_text(SERVICE)
        yield name
    finally:
        service.unlink(missing_ok=True)
        run("userdel", name)


@pytest.fixture
def pam(account):
    run("chpasswd", stdin=f"{account}:{PASSWORD}\n")
    run("usermod", "--expiredate", "", account)
    run("chage", "-M", "99999", "-d", "2026-01-01", account)
    made = PAMAuthenticator(service=account, allow_all=True)
    yield made
    made.close()


async def enter(pam, name, password):
    return await sign_in(pam, None, {"username": name, "password": password})


async def test_right_and_wrong(pam, account, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    assert await enter(pam, account, PASSWORD) == Identity(account, groups=(account,))
    assert (await enter(pam, account.upper(), PASSWORD)).name == account, "normalised before PAM is asked"
    for password in ("wrong", "", PASSWORD + "x", PASSWORD[:-1], PASSWORD + "\0x"):
        assert await enter(pam, account, password) is None
    assert await enter(pam, "nosuchaccount", PASSWORD) is None
    assert account in caplog.text
    assert PASSWORD not in caplog.text


async def test_the_service_login_as_well(pam, account) -> None:
    if not Path("/etc/pam.d/login").exists():
        missing("no PAM service login: apt-get install login")
    login = PAMAuthenticator(allow_all=True)
    assert (await enter(login, account, PASSWORD)).name == account
    login.close()


class Known:
    """Somebody who signed in earlier."""

    def __init__(self, name: str) -> None:
        self.name = name


async def may(pam, account):
    return await pam.refresh_user(Known(account)) is not False


@pytest.mark.parametrize("lock", [("usermod", "--lock"), ("passwd", "--lock")])
async def test_a_locked_password_signs_nobody_in(pam, account, lock) -> None:
    run(*lock, account)
    assert await enter(pam, account, PASSWORD) is None
    assert await may(pam, account), "only the password is locked: keys and what is open go on, as with sshd"
    run("usermod", "--unlock", account)
    assert await enter(pam, account, PASSWORD) is not None


@pytest.mark.parametrize("day", ["0", "2020-01-01"])
async def test_an_expired_account_is_out(pam, account, day) -> None:
    assert await may(pam, account)
    run("chage", "-E", day, account)
    assert await enter(pam, account, PASSWORD) is None
    assert not await may(pam, account)
    careless = PAMAuthenticator(service=account, allow_all=True, check_account=False)
    assert await enter(careless, account, PASSWORD) is not None, "what the account check is for"
    assert await may(careless, account)
    careless.close()


async def test_a_password_that_must_be_changed(pam, account) -> None:
    run("chage", "-d", "0", account)
    with pytest.raises(Denied, match="password has expired"):
        await enter(pam, account, PASSWORD)
    assert await enter(pam, account, "wrong") is None, "told to nobody but who knows it"
    assert not await may(pam, account)


async def test_a_password_that_ran_out(pam, account) -> None:
    run("chage", "-M", "30", "-d", "2020-01-01", account)
    with pytest.raises(Denied, match="password has expired"):
        await enter(pam, account, PASSWORD)
    assert not await may(pam, account)


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/sbin/nologin", "/bin/false"])
async def test_an_account_without_a_shell(pam, account, shell, caplog) -> None:
    run("usermod", "--shell", shell, account)
    try:
        assert await enter(pam, account, PASSWORD) is None
        assert "(refuse_nologin)" in caplog.text
        assert not await may(pam, account)
        pam.refuse_nologin = False
        assert await enter(pam, account, PASSWORD) is not None
        assert await may(pam, account)
    finally:
        run("usermod", "--shell", "/bin/sh", account)


async def test_the_accounts_groups_are_the_persons(pam, account) -> None:
    group = f"{account}g"
    run("groupadd", group)
    try:
        pam.allow_all, pam.allowed_groups = False, {group}
        assert await enter(pam, account, PASSWORD) is None
        run("usermod", "--append", "--groups", group, account)
        assert await enter(pam, account, PASSWORD) == Identity(account, groups=(account, group))
        assert await pam.refresh_user(Known(account)) == {"name": account, "groups": [account, group]}
    finally:
        run("groupdel", group)


async def test_an_account_that_is_gone_is_out(pam) -> None:
    assert not await may(pam, "nosuchaccount")
    pam.check_account = False
    assert not await may(pam, "nosuchaccount")


async def test_pam_that_cannot_say_is_no_answer(pam, account) -> None:
    service = Path("/etc/pam.d") / account
    service.write_text("auth required pam_permit.so\naccount required pam_nosuchmodule.so\n")
    try:
        with pytest.raises(Unreachable, match="cannot be asked now"):
            await pam.refresh_user(Known(account))
        with pytest.raises(Unreachable, match="cannot be checked right now"):
            await enter(pam, account, PASSWORD)
    finally:
        service.write_text(SERVICE)


@pytest.mark.parametrize(
    ("number", "raised", "words"),
    [
        (7, None, ""),  # AUTH_ERR
        (10, None, ""),  # USER_UNKNOWN
        (9, Unreachable, ""),  # AUTHINFO_UNAVAIL: the directory behind it is away, or /etc/shadow cannot be read
        (19, Unreachable, "asks for more than a password"),  # CONV_ERR: a code besides
    ],
)
async def test_what_pam_cannot_do_is_not_a_wrong_password(monkeypatch, caplog, number, raised, words) -> None:
    pamela = pytest.importorskip("pamela")

    def refuse(*_args, **_traits) -> None:
        raise pamela.PAMError("no", number)

    monkeypatch.setattr(pamela, "authenticate", refuse)
    made = PAMAuthenticator(allow_all=True)
    if raised is None:
        assert await enter(made, "ann", "p") is None
    else:
        with pytest.raises(raised, match="cannot be checked right now"):
            await enter(made, "ann", "p")
    assert words in caplog.text
    made.close()


async def test_an_account_without_a_password(pam, account) -> None:
    run("usermod", "--password", "", account)
    assert await enter(pam, account, "") is None, "nullok is not for the network"


async def test_root_and_system_accounts(pam, account, caplog) -> None:
    import pwd

    pam.lowest_uid = pwd.getpwnam(account).pw_uid + 1
    assert await enter(pam, account, PASSWORD) is None
    assert "lowest_uid" in caplog.text


async def test_the_hub_process_keeps_its_groups(pam, account) -> None:
    before = os.getgroups()
    assert await enter(pam, account, PASSWORD) is not None
    assert os.getgroups() == before


async def test_many_at_once(pam, account) -> None:
    words = [PASSWORD, "wrong"] * 10
    found = await asyncio.gather(*(enter(pam, account, word) for word in words))
    assert [one is not None for one in found] == [True, False] * 10


async def test_pam_that_hangs(monkeypatch) -> None:
    made = PAMAuthenticator(timeout=0.01)
    leave = threading.Event()
    monkeypatch.setattr(made, "_check", lambda name, password: leave.wait(30) and None)
    with pytest.raises(Unreachable, match="did not answer in time"):
        await made.authenticate(None, {"username": "ann", "password": "p"})
    assert made._blocking._waiting == 1, "the thread is still taken"
    monkeypatch.setattr("batchhub.auth.blocking.WAITING_LIMIT", 1)
    with pytest.raises(TooMany):
        await made.authenticate(None, {"username": "ann", "password": "p"})
    leave.set()
    async with asyncio.timeout(60):
        while made._blocking._waiting:
            await asyncio.sleep(0)
    made.close()


async def test_what_would_be_a_path_is_no_name(monkeypatch) -> None:
    made = PAMAuthenticator(allow_all=True)
    monkeypatch.setattr(made, "_check", lambda *_: pytest.fail("PAM was asked"))
    for name in ("../ann", "/etc/passwd", "ann/x"):
        assert await enter(made, name, "p") is None
    made.close()


async def test_one_at_a_time_if_a_module_needs_it(monkeypatch) -> None:
    made, busy, most = PAMAuthenticator(threads=1), [], []

    def check(name, password):
        busy.append(name)
        threading.Event().wait(0.001)
        most.append(len(busy))
        busy.remove(name)

    monkeypatch.setattr(made, "_check", check)
    await asyncio.gather(*(enter(made, name, "p") for name in "abcdef"))
    assert most == [1] * 6
    made.close()


async def test_an_account_spelt_otherwise(monkeypatch, caplog) -> None:
    pamela = pytest.importorskip("pamela")
    import pwd

    found = pwd.struct_passwd(("Bob", "x", 1000, 1000, "", "/", ""))
    monkeypatch.setattr(pamela, "authenticate", lambda *args, **kwargs: None)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: found)
    made = PAMAuthenticator(allow_all=True)
    assert await enter(made, "bob", "p") is None
    assert "spelt otherwise" in caplog.text
    made.close()


async def test_accepted_but_unknown_here(monkeypatch) -> None:
    pamela = pytest.importorskip("pamela")
    monkeypatch.setattr(pamela, "authenticate", lambda *args, **kwargs: None)
    made = PAMAuthenticator(allow_all=True)
    assert await enter(made, "nosuchaccount", "p") is None
    made.close()


async def test_without_libpam(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pamela", None)
    made = PAMAuthenticator(allow_all=True)
    with pytest.raises(ConfigError, match="libpam"):
        await enter(made, "ann", "p")
    with pytest.raises(ConfigError, match="libpam"):
        made.settle(PLACE)  # the hub does not start
    made.close()


def test_what_nobody_could_sign_in_by_is_said_at_the_start(account, caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO)
    PAMAuthenticator(service=account).settle(PLACE)
    assert not caplog.text
    PAMAuthenticator(service="nosuchservice").settle(PLACE)
    assert "there is no /etc/pam.d/nosuchservice" in caplog.text
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != "/etc/shadow")
    PAMAuthenticator(service=account).settle(PLACE)
    assert "may not read /etc/shadow" in caplog.text


def test_sessions_stay_closed() -> None:
    with pytest.raises(ConfigError, match="open_sessions"):
        PAMAuthenticator(open_sessions=True)
