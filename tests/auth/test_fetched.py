"""What a provider says of itself, when many want to know at once."""

import asyncio
from datetime import timedelta

import pytest

from batchhub.auth.fetched import Fetched
from batchhub.core.errors import Unreachable
from tests.store.conftest import Ticking

HOUR, SECONDS = timedelta(hours=1), timedelta(seconds=30)


class Slow:
    """Answers each question when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[str]] = []
        self.clock = Ticking()
        self.fetched = Fetched(self.fetch, self.clock)

    async def fetch(self, url: str) -> str:
        assert url == "https://id.example.org/keys"
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def ask(self, people: int, answer: str | Unreachable, age=HOUR) -> list[str | BaseException]:
        already = len(self.asked)

        async def answered() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            for question in self.asked[already:]:
                question.set_exception(answer) if isinstance(answer, Unreachable) else question.set_result(answer)

        *found, _ = await asyncio.gather(
            *(self.fetched.get("https://id.example.org/keys", age) for _ in range(people)),
            answered(),
            return_exceptions=True,
        )
        return found


async def test_many_share_an_answer_and_its_age_counts() -> None:
    slow = Slow()
    assert await slow.ask(20, "one") == ["one"] * 20
    slow.clock.now += timedelta(seconds=31)
    assert await slow.ask(20, "two") == ["one"] * 20
    assert await slow.ask(20, "two", SECONDS) == ["two"] * 20
    slow.clock.now += HOUR
    assert await slow.ask(1, "three") == ["three"]
    assert len(slow.asked) == 3


async def test_those_who_waited_share_that_there_was_none() -> None:
    """Each asking for themselves would wait for everybody before them."""
    slow = Slow()
    found = await slow.ask(20, Unreachable("It does not answer."))
    assert {(type(one), str(one)) for one in found} == {(Unreachable, "It does not answer.")}
    assert len(slow.asked) == 1
    assert await slow.ask(2, "now") == ["now", "now"], "who comes later asks anew"
    slow.clock.now += HOUR
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(slow.fetched.get("https://id.example.org/keys", HOUR), 0.001)
    assert await slow.ask(1, "after who gave up") == ["after who gave up"]
