"""Questions of a server that is neither asyncssh nor OpenSSH, friendly and hostile."""

import pytest

from batchhub.core.asking import MOST_ROUNDS, PROMPT_LIMIT, WORDS_LIMIT, Accepted, Prompt, Question, Refused, Verdict
from batchhub.core.errors import Unreachable
from batchhub.transport.asking import EXPIRED, SSHDoor, SSHTalk
from batchhub.transport.settings import SSHSettings
from tests.questions import Questioner, Round
from tests.transport.conftest import until

PASSWORD = Round([("Password: ", False)], ["sesame"])


async def knock(server: Questioner, password: str = "sesame") -> tuple[SSHTalk, Verdict]:
    return await SSHDoor(SSHSettings(server.host, server.port, server.known_hosts)).knock("ann", password, 30.0)


async def test_rounds() -> None:
    rounds = (
        Round([], None, "Welcome", "Maintenance on Monday."),
        PASSWORD,
        Round([("Where were you born? ", True), ("Code: ", False)], ["Ulm", "123"], "Campus", "Two more things."),
        Round([("Once more: ", False)], ["456"]),
    )
    with Questioner(rounds) as server:
        talk, verdict = await knock(server)
        assert verdict == Question(
            "Campus",
            "Welcome\nMaintenance on Monday.\nTwo more things.",
            (Prompt("Where were you born?", True), Prompt("Code:")),
        )
        assert await talk.answer(["Ulm", "123"]) == Question("", "", (Prompt("Once more:"),))
        assert await talk.answer(["456"]) == Accepted()
        assert server.heard == [(), ("sesame",), ("Ulm", "123"), ("456",)]
        await until(lambda: server.connections == 0)


async def test_the_password_is_one_of_several_answers() -> None:
    with Questioner([Round([("Token: ", False), ("Password: ", False)], ["99", "sesame"])]) as server:
        talk, verdict = await knock(server)
        assert verdict == Question("", "", (Prompt("Token:"),))
        assert await talk.answer(["99"]) == Accepted()


async def test_the_password_is_given_once() -> None:
    """A server that asks for it again, as for a change of it, asks the person."""
    with Questioner([PASSWORD, Round([("Current password: ", False)], ["sesame"])]) as server:
        talk, verdict = await knock(server)
        assert isinstance(verdict, Question)
        assert await talk.answer(["sesame"]) == Accepted()


@pytest.mark.parametrize("text", ["Verification code: ", "One-time password (OATH) for `ann': ", "New password: "])
async def test_another_question_does_not_get_the_password(text: str) -> None:
    with Questioner([Round([(text, False)], ["1"])]) as server:
        talk, verdict = await knock(server)
        assert isinstance(verdict, Question)
        assert server.heard == []
        assert await talk.answer(["1"]) == Accepted()


async def test_what_may_be_seen_never_gets_the_password() -> None:
    with Questioner([Round([("Password: ", True)], ["x"])]) as server:
        _, verdict = await knock(server)
        assert isinstance(verdict, Question)


async def test_password_where_nothing_is_asked_interactively() -> None:
    """Some servers offer keyboard-interactive and then refuse it without a question."""
    with Questioner(password="sesame", methods="keyboard-interactive,password") as server:
        assert (await knock(server))[1] == Accepted()
        assert isinstance((await knock(server, "wrong"))[1], Refused)
        assert server.heard == [("password", "sesame"), ("password", "wrong")]


async def test_a_refused_password_is_not_tried_by_another_method() -> None:
    with Questioner([PASSWORD], password="sesame", methods="keyboard-interactive,password") as server:
        assert isinstance((await knock(server, "wrong"))[1], Refused)
        assert server.heard == [("wrong",)]


async def test_a_password_that_has_to_be_changed() -> None:
    with Questioner(password="other", change=True, methods="password") as server:
        _, verdict = await knock(server)
        assert isinstance(verdict, Refused)
        assert verdict.words == EXPIRED


# ------------------------------------------------------------ hostile ones


async def test_questions_without_end() -> None:
    with Questioner([Round([], None)], endless=True) as server:
        assert isinstance((await knock(server))[1], Refused)
        assert len(server.heard) == MOST_ROUNDS
    with Questioner([Round([("More: ", True)], None)], endless=True) as server:
        talk, verdict = await knock(server)
        rounds = 0
        while isinstance(verdict, Question):
            rounds += 1
            verdict = await talk.answer(["x"])
        assert rounds == MOST_ROUNDS
        assert isinstance(verdict, Refused)


async def test_more_prompts_than_a_page_shows() -> None:
    with Questioner([Round([("Line: ", True)] * 2000, None)]) as server:
        assert isinstance((await knock(server))[1], Refused)
        assert server.heard == []


async def test_text_that_is_too_long_or_no_text() -> None:
    nasty = "a\x1b[2J\x00\x07b\u202ec\u2066" + "x" * 20000
    with Questioner([Round([(nasty, True)], None, nasty, nasty + "\n" * 50)]) as server:
        talk, verdict = await knock(server)
        assert isinstance(verdict, Question)
        assert len(verdict.prompts[0].text) == len(verdict.title) == PROMPT_LIMIT
        assert len(verdict.words) == WORDS_LIMIT
        assert verdict.title.startswith("a[2Jbcx")
        talk.close()
        await talk.wait_closed()


async def test_no_ssh_server_at_all() -> None:
    with Questioner() as server:
        server.__exit__()
        with pytest.raises(Unreachable):
            await knock(server)
