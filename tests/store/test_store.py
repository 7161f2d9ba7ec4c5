"""The door: threads, errors, crashes."""

import asyncio
import os
import signal
import sqlite3
import stat
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from batchhub.core.errors import ConfigError, StoreUnavailable
from batchhub.core.model import Phase
from batchhub.store import Store

CHILD = """
import asyncio, sys
from dataclasses import replace
from datetime import UTC, datetime
from batchhub.core.model import JobId, Phase, Server, UserName, new_server_id
from batchhub.store import Store

async def main():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store = Store(sys.argv[1], clock=lambda: now)
    await store.open()
    row = Server(new_server_id(), UserName("ann"), "", "c1", "lab", "ann", now, now)
    await store.add_server(row)
    print(row.id, flush=True)
    count = 0
    while True:
        count += 1
        # Two columns that must agree, and one event for each.
        await store.update(
            row.id, lambda it: replace(it, submit_count=count, job_id=JobId(str(count))), kind="phase", words=str(count)
        )
        print(count, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_whole_transactions(url, clock) -> None:
    for turn in range(3):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CHILD,
            url,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        async with asyncio.timeout(60):
            server_id = (await child.stdout.readline()).decode().strip()
            for _ in range(20 + turn):
                await child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            rest = (await child.stdout.read()).decode().split()
            await child.wait()
        said = int(rest[-1]) if rest else 20 + turn
        store = Store(url, clock=clock)
        await store.open()
        row = await store.server(server_id)
        events = await store.events_of(server_id, 100_000)
        assert row.submit_count >= said, "what was answered is kept"
        assert row.job_id == str(row.submit_count)
        assert len(events) == row.submit_count + 1
        await store.update(server_id, lambda it: replace(it, phase=Phase.ENDED))
        await store.close()


async def test_the_loop_goes_on_while_the_database_is_busy(store, make) -> None:
    row = await store.add_server(make())
    entered, leave = threading.Event(), threading.Event()

    def slow(it):
        entered.set()
        assert leave.wait(30)
        return replace(it, host="n1")

    writing = asyncio.ensure_future(store.update(row.id, slow))
    await asyncio.to_thread(entered.wait, 30)
    # The write is inside its transaction: readers see the value before it and do not wait.
    assert (await store.server(row.id)).host == ""
    leave.set()
    assert (await writing).host == "n1"
    assert (await store.server(row.id)).host == "n1"


async def test_a_cancelled_write_is_whole(store, make) -> None:
    row = await store.add_server(make())
    entered, leave = threading.Event(), threading.Event()

    def slow(it):
        entered.set()
        assert leave.wait(30)
        return replace(it, host="n1")

    writing = asyncio.ensure_future(store.update(row.id, slow, kind="phase"))
    await asyncio.to_thread(entered.wait, 30)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    leave.set()
    after = await store.update(row.id, lambda it: None)
    assert after.host == "n1"
    assert len(await store.events_of(row.id)) == 2


async def test_bounded(url, clock, make) -> None:
    store = Store(url, clock=clock, waiting_limit=2)
    await store.open()
    row = await store.add_server(make())
    leave = threading.Event()
    waiting = [asyncio.ensure_future(store.update(row.id, lambda it: leave.wait(30) and None)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="more than it can answer"):
        await store.server(row.id)
    leave.set()
    await asyncio.gather(*waiting)
    assert await store.server(row.id) == row
    await store.close()


async def test_locked_by_somebody_else(sqlite_url, clock, make, monkeypatch) -> None:
    monkeypatch.setattr("batchhub.store.engine.BUSY_SECONDS", 0)
    store = Store(sqlite_url, clock=clock)
    await store.open()
    row = await store.add_server(make())
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.update(row.id, lambda it: replace(it, host="n1"))
    assert await store.server(row.id) == row
    other.execute("ROLLBACK")
    other.close()
    assert (await store.update(row.id, lambda it: replace(it, host="n1"))).host == "n1"
    await store.close()


async def test_not_a_database(tmp_path, clock) -> None:
    (tmp_path / "hub.sqlite").write_bytes(b"hello " * 1000)
    with pytest.raises(StoreUnavailable):
        await Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", clock=clock).open()
    with pytest.raises(StoreUnavailable, match="cannot be opened for writing: No such file"):
        await Store(f"sqlite:///{tmp_path / 'no' / 'hub.sqlite'}", clock=clock).open()


@pytest.mark.parametrize("bad", ["", "hub.sqlite", "nosuch://x/y"])
def test_an_address_that_cannot_be_read(bad, clock) -> None:
    with pytest.raises(ConfigError, match="sqlite:////"):
        Store(bad, clock=clock)


async def test_a_driver_that_is_not_installed(clock, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        await Store("postgresql+psycopg://hub:hunter2@localhost/hub", clock=clock).open()
    assert "hunter2" not in str(caught.value)


async def test_closed(url, clock, store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.ping()
    await store.open()
    await store.ping()


async def test_in_memory(clock, make) -> None:
    store = Store("sqlite://", clock=clock)
    await store.open()
    row = await store.add_server(make())
    assert await store.live_servers() == (row,)
    await store.close()


async def test_the_file_is_ours_alone_and_in_wal(sqlite_url, clock, make) -> None:
    store = Store(sqlite_url, clock=clock)
    await store.open()
    await store.add_server(make())
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    with store._opened().engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        ]
    assert found == ["wal", 1, 1]
    await store.close()
