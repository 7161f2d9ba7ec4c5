"""The lead on a real PostgreSQL server, and what a former leader may still do; one hub alone on a SQLite file."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batchhub.core.errors import ConfigError, NotLeading, StoreUnavailable
from batchhub.core.model import JobId, JobReport, JobState, Observation, Truth
from batchhub.store import LeaderLock, SoleHub, Store

CHILD = """
import asyncio, sys
from datetime import UTC, datetime
from batchhub.store import LeaderLock

async def main():
    lock = LeaderLock(sys.argv[1], "child", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    print(await lock.acquire(), flush=True)
    while True:
        await asyncio.sleep(1)
        await lock.confirm()

asyncio.run(main())
"""


async def taken(lock: LeaderLock) -> int:
    async with asyncio.timeout(120):
        while (epoch := await lock.acquire()) is None:
            await asyncio.sleep(0.1)
    return epoch


@pytest.fixture
async def pg_store(postgres_url, clock):
    made = Store(postgres_url, clock=clock)
    await made.open()
    yield made
    await made.close()


async def test_one_of_two_leads(pg_store, postgres_url, clock) -> None:
    first, second = (LeaderLock(postgres_url, name, clock) for name in ("first", "second"))
    assert await pg_store.leader() is None
    with pytest.raises(NotLeading):
        await second.confirm()
    assert await first.acquire() == 1
    assert await second.acquire() is None
    await first.confirm()
    found = await pg_store.leader()
    assert (found.epoch, found.holder, found.since, found.leads) == (1, "first", clock.now, True)
    await first.release()
    assert (await pg_store.leader()).leads is False
    assert await taken(second) == 2
    await first.close()
    await second.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_leader_that_dies_or_hangs_loses_the_lead(pg_store, postgres_url, clock, number) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        postgres_url,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    lock = LeaderLock(postgres_url, "other", clock)
    try:
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"1\n"
        assert await lock.acquire() is None
        child.send_signal(number)
        assert await taken(lock) == 2
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        await lock.close()


async def test_a_former_leader_writes_nothing(pg_store, postgres_url, clock, make) -> None:
    row = await pg_store.add_server(make())
    epochs: dict[str, int | None] = {"old": None, "new": None}
    old, new = (pg_store.led_by(lambda name=name: epochs[name]) for name in epochs)
    lock, other = LeaderLock(postgres_url, "old", clock), LeaderLock(postgres_url, "new", clock)
    with pytest.raises(NotLeading):
        await old.update(row.id, lambda it: replace(it, host="n0"))
    epochs["old"] = await lock.acquire()
    await old.update(row.id, lambda it: replace(it, host="n1"))
    await lock.release()
    epochs["new"] = await taken(other)
    with pytest.raises(NotLeading, match="Another hub leads"):
        await old.update(row.id, lambda it: replace(it, host="n2"))
    await new.update(row.id, lambda it: replace(it, words="By the new one."))
    assert (await old.server(row.id)).host == "n1", "reading is everybody's"
    await lock.close()
    await other.close()


async def test_a_lead_on_a_database_that_hangs(postgres, pg_store, postgres_url, clock) -> None:
    lock = LeaderLock(postgres_url, "one", clock)
    lock.DEADLINE = 1.0
    assert await lock.acquire() == 1
    postgres.pause()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(StoreUnavailable):
                await lock.confirm()
    finally:
        postgres.resume()
    lock.DEADLINE = 60.0
    assert await taken(lock) == 2
    await lock.close()


def test_a_file_is_one_hubs(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    first, second = SoleHub(url), SoleHub(url)
    first.claim()
    with pytest.raises(ConfigError, match=r"hub\.sqlite; with SQLite there can be one"):
        second.claim()
    first.release()
    second.claim()
    second.release()
    shared = "postgresql://hub@localhost/hub"
    for url in (shared, shared, "sqlite://", "sqlite://"):
        SoleHub(url).claim()


async def test_what_the_leader_saw(store, make, clock) -> None:
    row, other = await store.add_server(make()), make("bob")
    report = JobReport(
        JobId("7"),
        JobState.PENDING,
        "PD",
        "a\0b",
        nodes=("n1", "n2"),
        estimated_start=clock.now,
        time_limit=clock.now - clock.now.replace(hour=1),
        exit_code=0,
    )
    seen = Observation(Truth.SEEN, clock.now, report)
    await store.save_sightings({row.id: seen, other.id: seen})
    found = await store.sightings([row.id, other.id])
    assert found == {row.id: replace(seen, report=replace(report, reason="a\ufffdb"))}
    gone = Observation(Truth.GONE, clock.later(minutes=1))
    await store.save_sightings({row.id: gone})
    assert await store.sightings([row.id]) == {row.id: gone}
    assert await store.sightings([]) == {}


async def test_what_is_known_of_clusters(store, clock) -> None:
    await store.watch_clusters(["c1"], clock.now)
    await store.note_cluster("c1", clock.now, "no route to host", None)
    assert await store.watched_clusters(clock.now) == frozenset()
    await store.watch_clusters(["c1", "c2"], clock.later(seconds=5))
    assert await store.watched_clusters(clock.now.replace(hour=0)) == {"c1", "c2"}
    word = (await store.cluster_words())["c1"]
    assert (word.silent_word, word.answered_at) == ("no route to host", None)
    assert word.silent_since is not None


async def test_news(store, make) -> None:
    assert (await store.newest_event(), await store.news(0)) == (0, ())
    row = await store.add_server(make(), by="root")
    last = await store.newest_event()
    await store.update(row.id, lambda it: replace(it, host="n1"), kind="phase")
    (news,) = await store.news(last)
    assert (news.server_id, news.user, news.by) == (row.id, "ann", "hub")
    assert len(await store.news(0, limit=1)) == 1
