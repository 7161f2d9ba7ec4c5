"""`batchhub events` as an admin types it, with no hub running."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchhub.core.model import JobId, Phase, Server, ServerId, Trace, UserName
from batchhub.store.store import Store

T0 = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
FIRST, GPU, BOBS = ServerId("aaaaaaaaaaaa"), ServerId("bbbbbbbbbbbb"), ServerId("cccccccccccc")


def database(home: Path) -> str:
    return f"sqlite:///{home / 'state' / 'batchhub.sqlite'}"


async def fill(home: Path) -> None:
    (home / "state").mkdir(mode=0o700)
    moments = iter(T0 + timedelta(seconds=number) for number in range(100))
    store = Store(database(home), clock=lambda: next(moments))
    await store.open()
    for server_id, user, name in ((FIRST, "ann", ""), (GPU, "ann", "gpu"), (BOBS, "bob", "")):
        await store.add_server(Server(server_id, UserName(user), name, "here", "lab", user, T0, T0))
    await store.update(
        FIRST,
        lambda row: replace(row, phase=Phase.QUEUED, job_id=JobId("7")),
        trace=lambda: Trace("phase", "scheduler", "waiting: PENDING (\x1b[31mPriority\x1b]0;gotcha\x07)", ""),
    )
    await store.add_event(GPU, "reach failed", "line one\nline two\r\x9b2J" + "x" * 200)
    await store.close()


@pytest.fixture
def filled(inside):
    inside.config()
    asyncio.run(fill(inside.home))
    return inside


def said(done) -> list[str]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_everybodys(filled) -> None:
    head, *lines = said(filled("events"))
    assert head.split() == ["TIME", "(UTC)", "SERVER", "RUN", "KIND", "BY", "SEEN", "DONE", "WORDS"]
    assert [line.split()[2] for line in lines] == ["ann/", "ann/gpu", "bob/", "ann/", "ann/gpu"]
    assert lines[0].split() == [
        "2026-03-01",
        "09:30:00",
        "ann/",
        FIRST,
        "requested",
        "ann",
        "-",
        "-",
        "lab",
        "on",
        "here",
    ]
    assert lines[3].endswith("requested → queued; job 7")
    assert head.index("BY") == lines[3].index("scheduler")


@pytest.mark.parametrize(
    ("word", "runs"),
    [
        ("ann", {FIRST, GPU}),
        ("ann/", {FIRST}),
        ("ann/gpu", {GPU}),
        (BOBS, {BOBS}),
        ("", {FIRST, GPU, BOBS}),
    ],
)
def test_whose(filled, word: str, runs: set[str]) -> None:
    lines = said(filled("events", "--json", *([word] if word else [])))
    assert {json.loads(line)["run"] for line in lines} == runs


def test_for_programs(filled) -> None:
    found = [json.loads(line) for line in said(filled("events", "--json", "--limit=2"))]
    assert found[0] == {
        "time": "2026-03-01T09:30:00+00:00",
        "user": "ann",
        "server": "",
        "run": FIRST,
        "cluster": "here",
        "job": "7",
        "kind": "phase",
        "by": "scheduler",
        "seen": "waiting: PENDING (\x1b[31mPriority\x1b]0;gotcha\x07)",
        "done": "",
        "words": "requested → queued; job 7",
    }
    assert len(found) == 2


def test_a_schedulers_words_command_no_terminal(filled) -> None:
    for words in (("events",), ("events", "--json")):
        done = filled(*words)
        assert all(letter.isprintable() or letter == "\n" for letter in done.stdout)
    assert "waiting: PENDING ( [31mPriority ]0;gotcha )" in filled("events").stdout
    assert "line one line two 2Jxxx" in filled("events").stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["eve"], "knows no user 'eve'"),
        (["ann/nope"], "no server 'nope' of ann; known: (the default server), gpu"),
        (["bob/gpu"], "no server 'gpu' of bob"),
        (["dddddddddddd"], "neither a user nor a server with the id 'dddddddddddd'"),
        (["ann/a b"], "Server name 'a b'"),
        (["ann", "bob"], "not 2 words"),
        (["--limit=0"], "EventsCommand"),
        (["--limit=lots"], "lots"),
        (["--jason"], "--json"),
    ],
)
def test_what_nobody_knows(filled, words: list[str], sentence: str) -> None:
    done = filled("events", *words)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert done.stdout == ""


def test_a_name_that_is_a_user_and_a_run(filled) -> None:
    async def add() -> None:
        store = Store(database(filled.home), clock=lambda: T0)
        await store.open()
        await store.get_or_create_user(FIRST)
        await store.close()

    asyncio.run(add())
    done = filled("events", FIRST)
    assert f"both a server's id and a user; say {FIRST}/SERVER" in done.stderr


def test_looking_makes_no_database(inside) -> None:
    inside.config()
    done = inside("events")
    assert "There is no database" in done.stderr
    assert not (inside.home / "state" / "batchhub.sqlite").exists()
    done = inside("events", "--BatchHub.db_url=nonsense")
    assert "database address cannot be read" in done.stderr


def test_nothing_happened(inside) -> None:
    inside.config()
    assert inside("db", "upgrade").returncode == 0
    assert said(inside("events")) == ["No events."]


def test_following(shell) -> None:
    shell.config()
    asyncio.run(fill(shell.home))
    process = shell.start("events", "bob", "--follow", "--json")

    def wait_for(count: int) -> list[str]:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            lines = shell.said(process).splitlines()
            if len(lines) >= count:
                return lines
            assert process.poll() is None, lines
            time.sleep(0.05)
        pytest.fail(f"{count} lines did not come")

    wait_for(1)

    async def add() -> None:
        store = Store(database(shell.home), clock=lambda: T0)
        await store.open()
        await store.add_event(GPU, "note", "not bob's")
        await store.add_event(BOBS, "note", "bob's")
        await store.close()

    asyncio.run(add())
    assert json.loads(wait_for(2)[1])["words"] == "bob's"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert len(shell.said(process).splitlines()) == 2
