"""Sign-ins that wait for an answer: bounded, each good once."""

import pytest

from batchhub.auth.halfopen import Half, HalfOpen
from batchhub.core.errors import TooMany


class Talk:
    """Only hung up or not."""

    def __init__(self) -> None:
        self.ended = False

    async def answer(self, answers):
        raise NotImplementedError

    def close(self) -> None:
        self.ended = True


def waiting(held: HalfOpen, address: str) -> tuple[str, Talk]:
    held.begin()
    talk = Talk()
    ticket = held.keep(Half(talk, "ann", address))
    held.done()
    return ticket, talk


def test_a_ticket_is_good_once() -> None:
    held = HalfOpen(3)
    ticket, talk = waiting(held, "a")
    assert len(held) == 1
    half = held.take(ticket)
    assert half is not None
    assert half.talk is talk
    assert len(held) == 1, "its step is under way"
    held.done()
    assert held.take(ticket) is None
    assert held.take("nosuch") is None
    assert len(held) == 0
    assert ticket not in repr(held)


def test_a_flood_pushes_out_its_own() -> None:
    held = HalfOpen(10)
    honest, _ = waiting(held, "2001:db8::1")
    first = waiting(held, "192.0.2.9")
    flood = [first, *(waiting(held, "192.0.2.9") for _ in range(50))]
    assert len(held) == 10
    assert [talk.ended for _, talk in flood] == [True] * 42 + [False] * 9
    assert held.take(honest) is not None
    held.done()


def test_nobody_is_pushed_out_while_they_are_asked() -> None:
    held = HalfOpen(2)
    held.begin()
    held.begin()
    with pytest.raises(TooMany):
        held.begin()
    held.done()
    held.begin()


def test_what_has_ended_by_itself_takes_no_place() -> None:
    held = HalfOpen(2)
    _, ended = waiting(held, "a")
    kept, talk = waiting(held, "a")
    ended.close()
    waiting(held, "b")
    assert not talk.ended
    assert held.take(kept) is not None


def test_the_end_of_the_hub() -> None:
    held = HalfOpen(2)
    talks = [waiting(held, "a")[1] for _ in range(2)]
    held.close()
    assert all(talk.ended for talk in talks)
