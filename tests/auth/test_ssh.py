"""What the SSH authenticator makes of an sshd's verdicts. The sshd itself: tests/transport/test_asking.py; with the pages: tests/web/test_ssh.py."""

from datetime import UTC, datetime
from typing import Any

import pytest

from batchhub.auth.base import Asked, Identity, Place
from batchhub.auth.rules import sign_in
from batchhub.auth.ssh import SSHAuthenticator
from batchhub.core.asking import Accepted, Prompt, Question, Refused
from batchhub.core.errors import BadInput, ConfigError, Denied, Unreachable

CODE = Question("", "", (Prompt("Code"),))


class Talk:
    """Says what it is told to."""

    def __init__(self, *verdicts: Any) -> None:
        self.verdicts = list(verdicts)
        self.heard: list[Any] = []
        self.ended = False

    async def answer(self, answers):
        self.heard.append(answers)
        verdict = self.verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def close(self) -> None:
        self.ended = True


class Door:
    host = "login"

    def __init__(self, *verdicts: Any) -> None:
        self.talk = Talk(*verdicts)

    async def knock(self, name, password, seconds):
        return self.talk, await self.talk.answer((name, password))

    def of_cluster(self, cluster):
        return self

    of_host = None


def made(*verdicts: Any, **traits: Any) -> tuple[SSHAuthenticator, Talk]:
    door = Door(*verdicts)
    way = SSHAuthenticator(cluster="hpc", allow_all=True, **traits)
    way.settle(Place("127.0.0.1", b"", lambda: datetime(2026, 1, 1, tzinfo=UTC), doors=door))
    return way, door.talk


async def enter(way: SSHAuthenticator, **data: Any) -> Any:
    return await sign_in(way, None, {"username": "Ann", "password": "sesame", **data})


async def test_in_one_step_and_in_three() -> None:
    way, talk = made(Accepted())
    assert await enter(way) == Identity("ann")
    assert talk.heard == [("ann", "sesame")], "asked about the name that the hub knows"
    way, talk = made(CODE, CODE, Accepted(), username_map={"ann": "annie"})
    asked = await enter(way)
    assert isinstance(asked, Asked)
    again = await enter(way, ticket=asked.ticket, answers=("1",))
    assert isinstance(again, Asked)
    assert again.ticket != asked.ticket
    assert asked.ticket not in repr(asked)
    assert await enter(way, ticket=again.ticket, answers=("2",)) == Identity("annie")
    assert talk.heard[1:] == [["1"], ["2"]]


async def test_a_ticket_is_good_once() -> None:
    way, _ = made(CODE, Refused("no"), Accepted())
    asked = await enter(way)
    assert await enter(way, ticket=asked.ticket, answers=("1",)) is None
    with pytest.raises(Denied, match="begin again"):
        await enter(way, ticket=asked.ticket, answers=("2",))


async def test_no_and_no_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    way, _ = made(Refused("Permission denied"))
    assert await enter(way) is None
    assert "Permission denied" in caplog.text
    way, _ = made(Refused("expired", "Change your password."))
    with pytest.raises(Denied, match="Change your password"):
        await enter(way)
    way, _ = made(Denied("root"))
    assert await enter(way) is None
    way, _ = made(BadInput("no name"))
    assert await enter(way) is None
    assert "sesame" not in caplog.text


async def test_an_answer_that_goes_wrong_hangs_up() -> None:
    for error in (Unreachable("away"), BadInput("too few")):
        way, talk = made(CODE, error)
        asked = await enter(way)
        with pytest.raises(type(error)):
            await enter(way, ticket=asked.ticket, answers=())
        assert talk.ended


async def test_empty_passwords_and_long_answers_reach_nobody() -> None:
    way, talk = made(CODE)
    assert await enter(way, password="") is None
    assert await enter(way, username="") is None
    assert talk.heard == []
    asked = await enter(way)
    for answer in ("x" * 1025, "a\0b", "\udc80"):
        assert await enter(way, ticket=asked.ticket, answers=(answer,)) is None
    assert len(talk.heard) == 1


async def test_the_rules_hold_after_the_last_step() -> None:
    way, _ = made(CODE, Accepted(), blocked_users={"ann"})
    asked = await enter(way)
    assert await enter(way, ticket=asked.ticket, answers=("1",)) is None


def test_settings() -> None:
    with pytest.raises(ConfigError, match="either cluster"):
        SSHAuthenticator().settle(Place("127.0.0.1", b"", lambda: datetime(2026, 1, 1, tzinfo=UTC), doors=Door()))
    with pytest.raises(ConfigError, match="reaches login nodes"):
        SSHAuthenticator(cluster="x").settle(Place("127.0.0.1", b"", lambda: datetime(2026, 1, 1, tzinfo=UTC)))
    with pytest.raises(ConfigError, match="patience"):
        SSHAuthenticator(cluster="x", patience=1)
    with pytest.raises(ConfigError, match="most_open"):
        SSHAuthenticator(cluster="x", most_open=0)


async def test_the_end_of_the_hub_hangs_up() -> None:
    way, talk = made(CODE)
    await enter(way)
    way.close()
    assert talk.ended
