"""A PostgreSQL server that is stopped, hangs, or lets two transactions stand in each other's way."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from batchhub.core.errors import StoreUnavailable
from batchhub.store import Store
from tests.postgres import running


@pytest.fixture
def away():
    """A server of this test's own."""
    with running() as postgres, postgres.database() as url:
        yield postgres, url


async def back(store: Store) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                return await store.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def test_stopped_and_started_again(away, clock, make) -> None:
    postgres, url = away
    store = Store(url, clock=clock)
    await store.open()
    row = await store.add_server(make())
    postgres.stop()
    for asked in (store.server(row.id), store.update(row.id, lambda it: replace(it, host="n1")), store.ping()):
        with pytest.raises(StoreUnavailable) as caught:
            await asked
        assert "hub0" in str(caught.value)
    postgres.start()
    await back(store)
    assert await store.server(row.id) == row
    await store.close()


async def test_one_that_hangs_is_not_waited_for(away, clock, make) -> None:
    """More are asked than there are threads: all have an answer, and the threads are free again when the server is."""
    postgres, url = away
    store = Store(url, clock=clock, patience=2.0)
    await store.open()
    row = await store.add_server(make())
    await asyncio.gather(*(store.server(row.id) for _ in range(20)))
    postgres.pause()
    try:
        async with asyncio.timeout(60):
            asked = [store.server(row.id) for _ in range(20)]
            asked += [store.update(row.id, lambda it: replace(it, host="n1")) for _ in range(20)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert store._door.waiting == 0
    finally:
        postgres.resume()
    await back(store)
    assert (await store.update(row.id, lambda it: replace(it, host="n2"))).host == "n2"
    await store.close()


async def test_deadlocked_transactions_are_tried_again(postgres_url, clock) -> None:
    """Two that take the same two rows in opposite order: PostgreSQL ends one of them, which is then done anew."""
    store = Store(postgres_url, clock=clock)
    await store.open()
    for name in ("ann", "bob"):
        await store.get_or_create_user(name)
    both, tries = asyncio.Event(), []
    loop, ready = asyncio.get_running_loop(), []

    def cross(session, first: str, second: str) -> None:
        tries.append(first)
        lock = text("SELECT id FROM users WHERE name = :name FOR UPDATE")
        session.execute(lock, {"name": first})
        if len(tries) <= 2:
            ready.append(first)
            if len(ready) == 2:
                loop.call_soon_threadsafe(both.set)
            asyncio.run_coroutine_threadsafe(both.wait(), loop).result(60)
        session.execute(lock, {"name": second})

    await asyncio.gather(store.write(cross, "ann", "bob"), store.write(cross, "bob", "ann"))
    assert len(tries) == 3
    await store.close()


async def test_two_hubs_make_the_same_person(postgres_url, clock, make) -> None:
    stores = [Store(postgres_url, clock=clock) for _ in range(2)]
    for store in stores:
        await store.open()
    for number in range(20):
        name = f"user{number}"
        made = await asyncio.gather(*(store.get_or_create_user(name, login=True) for store in stores * 2))
        assert {user.name for user in made} == {name}
        await asyncio.gather(*(store.add_server(make(f"new{number}", str(turn))) for turn, store in enumerate(stores)))
    assert len(await stores[0].users(limit=1000)) == 40
    for store in stores:
        await store.close()
