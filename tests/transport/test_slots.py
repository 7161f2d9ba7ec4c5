"""Whose turn it is."""

import asyncio

from batchhub.transport.slots import Slots


async def test_slots_hand_on_in_order_and_survive_cancelling() -> None:
    slots = Slots(1)
    assert await slots.take()
    order: list[str] = []

    async def one(name: str) -> None:
        assert await slots.take()
        order.append(name)

    tasks = {name: asyncio.ensure_future(one(name)) for name in "abc"}
    await asyncio.sleep(0)
    slots.give()
    tasks["a"].cancel()  # when it was just its turn
    await asyncio.wait({tasks["a"]})
    await tasks["b"]
    assert order == ["b"]
    slots.give()
    await tasks["c"]
    assert (order, slots.used) == (["b", "c"], 1)


async def test_a_limit_that_shrank_grows_again() -> None:
    slots = Slots(8)
    for _ in range(4):
        await slots.take()
    slots.refused()
    assert slots.limit == 3
    slots.refused()
    assert slots.limit == 3
    slots.give()
    slots.refused()
    assert slots.limit == 2
    for _ in range(1000):
        slots.worked()
    assert slots.limit == 8


async def test_closed_slots_send_everybody_away() -> None:
    slots = Slots(1)
    assert await slots.take()
    waiting = [asyncio.ensure_future(slots.take()) for _ in range(3)]
    await asyncio.sleep(0)
    slots.close()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await slots.take()
