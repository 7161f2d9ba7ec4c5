"""PAM with real accounts on this machine."""

import asyncio
import logging
import os
import secrets
import sys
import threading
from pathlib import Path

import pytest

from batchhub.auth.base import Identity, sign_in
from batchhub.auth.pam import PAMAuthenticator
from batchhub.core.errors import ConfigError, TooMany, Unreachable
from tests.needs import missing, need_program, need_root
from tests.sshd import account_tool

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
    run("useradd", "--no-create-home", "--shell", "/bin/sh", name)
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
    assert await enter(pam, account, PASSWORD) == Identity(account)
    assert await enter(pam, account.upper(), PASSWORD) == Identity(account), "normalised before PAM is asked"
    for password in ("wrong", "", PASSWORD + "x", PASSWORD[:-1], PASSWORD + "\0x"):
        assert await enter(pam, account, password) is None
    assert await enter(pam, "nosuchaccount", PASSWORD) is None
    assert account in caplog.text
    assert PASSWORD not in caplog.text


async def test_the_service_login_as_well(pam, account) -> None:
    if not Path("/etc/pam.d/login").exists():
        missing("no PAM service login: apt-get install login")
    login = PAMAuthenticator(allow_all=True)
    assert await enter(login, account, PASSWORD) == Identity(account)
    login.close()


async def test_locked(pam, account) -> None:
    run("usermod", "--lock", account)
    assert await enter(pam, account, PASSWORD) is None
    run("usermod", "--unlock", account)
    assert await enter(pam, account, PASSWORD) is not None


async def test_expired(pam, account) -> None:
    run("usermod", "--expiredate", "2020-01-01", account)
    assert await enter(pam, account, PASSWORD) is None
    careless = PAMAuthenticator(service=account, allow_all=True, check_account=False)
    assert await enter(careless, account, PASSWORD) is not None, "what the account check is for"
    careless.close()


async def test_password_must_be_changed(pam, account) -> None:
    run("chage", "-d", "0", account)
    assert await enter(pam, account, PASSWORD) is None


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
    made.close()


def test_sessions_stay_closed() -> None:
    with pytest.raises(ConfigError, match="open_sessions"):
        PAMAuthenticator(open_sessions=True)
