"""Questions in threads: what nobody waits for is not asked, and no answer ends more than its question."""

import asyncio
import threading

import pytest

from batchhub.auth import blocking
from batchhub.auth.blocking import Blocking
from batchhub.core.errors import TooMany


@pytest.fixture
def one():
    made = Blocking("test", threads=1)
    yield made
    made.close()


async def test_a_question_that_nobody_waits_for_any_more_is_not_asked(one, monkeypatch) -> None:
    """Else a slow directory is asked again for everybody who was told to try again, and counts their password twice."""
    monkeypatch.setattr(blocking, "WAITING_LIMIT", 2)
    leave, asked = threading.Event(), []
    slow = asyncio.create_task(one.ask(leave.wait, 60))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await one.ask(lambda: asked.append("in time?"), 0)
    await asyncio.sleep(0)
    assert one._waiting == 1, "its place is free"
    last = asyncio.create_task(one.ask(lambda: asked.append("last"), 60))
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await one.ask(leave.wait, 60)
    leave.set()
    await asyncio.gather(slow, last)
    assert asked == ["last"]


@pytest.mark.parametrize("error", [StopIteration("x"), SystemExit(3), KeyboardInterrupt(), TimeoutError("its own")])
async def test_an_answer_that_no_future_carries_is_an_error_like_others(one, error) -> None:
    """``next(...)`` without a default is a usual mistake, and ``sys.exit`` must not end the hub."""

    def question() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__) as caught:
        await one.ask(question, 5)
    assert caught.value.__cause__ is error
