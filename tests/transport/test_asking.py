"""Signing in at a real sshd with PAM: a password, a code, both, and what goes wrong."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from batchhub.core.asking import Accepted, Question, Refused, Verdict
from batchhub.core.errors import BadInput, Denied, Unreachable
from batchhub.transport.asking import EXPIRED, TOO_LATE, SSHDoor, SSHTalk
from batchhub.transport.settings import SSHSettings
from tests.codes import NAME, PASSWORD, Codes, account, login_node
from tests.sshd import Sshd
from tests.transport.conftest import until


@pytest.fixture(scope="module")
def person() -> Iterator[None]:
    with account():
        yield


@pytest.fixture(scope="module")
def two(person: None) -> Iterator[tuple[Sshd, Codes]]:
    """Password and code, in one conversation; ``password`` alone is not offered."""
    with login_node() as served:
        yield served


def door(server: Sshd, **more: Any) -> SSHDoor:
    return SSHDoor(SSHSettings(server.host, server.port, server.known_hosts, **more))


async def knock(
    server: Sshd, password: str = PASSWORD, name: str = NAME, seconds: float = 30.0
) -> tuple[SSHTalk, Verdict]:
    return await door(server).knock(name, password, seconds)


async def test_a_password_and_a_code(two: tuple[Sshd, Codes], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server, codes = two
    codes.set_password()
    talk, verdict = await knock(server)
    assert isinstance(verdict, Question)
    assert [prompt.shown for prompt in verdict.prompts] == [False]
    assert "One-time password" in verdict.prompts[0].text
    assert not talk.ended
    good = codes.next()
    assert await talk.answer([good]) == Accepted()
    await talk.wait_closed()
    await until(lambda: not server.sessions())
    said = caplog.text + repr(talk) + repr(vars(talk))
    assert PASSWORD not in said
    assert good not in said


async def test_what_is_wrong_is_not_told_apart(two: tuple[Sshd, Codes]) -> None:
    server, codes = two
    verdicts = []
    for name, password, answer in (
        (NAME, PASSWORD, "000000"),
        (NAME, "wrong", codes.next()),
        ("bht-nobody", PASSWORD, "1"),
    ):
        talk, verdict = await knock(server, password, name)
        if isinstance(verdict, Question):
            verdict = await talk.answer([answer])
        assert isinstance(verdict, Refused)
        verdicts.append(verdict.words)
        await talk.wait_closed()
    assert verdicts == ["", "", ""]
    # Each of them was one attempt: a password is not tried again by another method.
    failures = [line for line in server.log if "Failed password" in line]
    assert not failures, failures


async def test_a_code_is_good_once(two: tuple[Sshd, Codes]) -> None:
    server, codes = two
    good = codes.next()
    for expected in (Accepted, Refused):
        talk, _ = await knock(server)
        assert isinstance(await talk.answer([good]), expected)


async def test_a_password_alone(person: None) -> None:
    with login_node("KbdInteractiveAuthentication no", "PasswordAuthentication yes", second=False) as (server, codes):
        assert (await knock(server))[1] == Accepted()
        assert isinstance((await knock(server, "wrong"))[1], Refused)
        assert sum("Failed password" in line for line in server.log) == 1, "asked once"
        codes.set_password(expired=True)
        _, verdict = await knock(server)
        assert verdict == Refused(verdict.why, ""), "an account that has ended is no better than a wrong password"
        codes.set_password()


async def test_first_the_password_then_the_code_as_methods(person: None) -> None:
    methods = "AuthenticationMethods password,keyboard-interactive"
    with login_node(methods, "PasswordAuthentication yes", second=False) as (server, _):
        # Both methods ask the same PAM service here: the second asks for the password again, and is given it.
        assert (await knock(server))[1] == Accepted()
        assert isinstance((await knock(server, "wrong"))[1], Refused)


async def test_a_key_that_nobody_has_is_no_way_in(person: None) -> None:
    with login_node("AuthenticationMethods publickey,keyboard-interactive") as (server, _):
        talk, verdict = await knock(server)
        assert verdict == Refused(verdict.why, "")
        assert talk.ended or await talk.wait_closed() is None


async def test_an_expired_password_is_asked_to_be_changed_in_the_open(person: None) -> None:
    """pam_unix asks for the new one in the same conversation; the page shows what it asks, and the old password is not given twice."""
    with login_node(second=False) as (server, codes):
        codes.set_password(days=10)
        try:
            talk, verdict = await knock(server)
            assert isinstance(verdict, Question)
            assert "expired" in verdict.words or "password" in verdict.prompts[0].text.lower()
            talk.close()
            await talk.wait_closed()
        finally:
            codes.set_password()


async def test_another_host_key_gets_no_password(two: tuple[Sshd, Codes], caplog: pytest.LogCaptureFixture) -> None:
    server, _ = two
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZBZ4y9DpUuSvXf9QOPBnAAe1p3YhJkqZ5WkpZ8xH4m"
    wrong = SSHDoor(SSHSettings(server.host, server.port, f"[{server.host}]:{server.port} {other}\n"))
    before = len(server.log)
    with pytest.raises(Unreachable, match="cannot be asked right now"):
        await wrong.knock(NAME, PASSWORD, 30.0)
    assert "Host key" in caplog.text
    assert "SHA256:" in caplog.text
    assert not [line for line in server.log[before:] if "keyboard-interactive" in line]


async def test_nobody_answers(two: tuple[Sshd, Codes]) -> None:
    server, _ = two
    away = SSHDoor(replace(door(server).settings, port=1, known_hosts=f"[127.0.0.1]:1 {server.host_public}\n"))
    with pytest.raises(Unreachable):
        await away.knock(NAME, PASSWORD, 30.0)


async def test_root_is_not_even_asked_about(two: tuple[Sshd, Codes]) -> None:
    server, _ = two
    before = len(server.log)
    for name, settings in (("root", {}), ("ROOT", {}), ("root@x", {}), ("x", {"username": "root@{username}"})):
        with pytest.raises(Denied):
            await door(server, **settings).knock(name, PASSWORD, 30.0)
    for name in ("", "-oProxyCommand=x", "a b", "a\nb", "a" * 100):
        with pytest.raises(BadInput):
            await door(server).knock(name, PASSWORD, 30.0)
    assert len(server.log) == before


async def test_who_takes_too_long_begins_again(two: tuple[Sshd, Codes]) -> None:
    server, codes = two
    talk, verdict = await knock(server, seconds=1.5)
    assert isinstance(verdict, Question)
    async with asyncio.timeout(20):
        await talk.wait_closed()
    assert talk.ended
    assert await talk.answer([codes.next()]) == Refused("no end in time", TOO_LATE)


async def test_sshd_hangs_up_first(person: None) -> None:
    with login_node("LoginGraceTime 1") as (server, codes):
        talk, verdict = await knock(server)
        assert isinstance(verdict, Question)
        async with asyncio.timeout(20):
            await talk.wait_closed()
        late = await talk.answer([codes.next()])
        assert isinstance(late, Refused)
        assert late.words == TOO_LATE


async def test_another_number_of_answers(two: tuple[Sshd, Codes]) -> None:
    server, _ = two
    talk, _ = await knock(server)
    with pytest.raises(BadInput):
        await talk.answer(["1", "2"])
    talk.close()
    await talk.wait_closed()


def test_words() -> None:
    assert "ssh" in EXPIRED
