"""A site's own functions around servers: what they are told, what they may add and refuse, and what goes wrong in one."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchhub.app.hooks import Hooks, SiteHooks, plan_hooks
from batchhub.config.traits import BatchHub
from batchhub.core.additions import Additions
from batchhub.core.errors import ConfigError, Denied, HubError, Unreachable
from batchhub.core.model import Outcome, Person, Server, ServerId, UserName

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECRET = "token-of-ann"
SERVER = Server(
    ServerId("abcdefghij22"), UserName("ann"), "big", "hpc", "lab", "ann_hpc", NOW, NOW, options={"cores": 2}
)
ANN = Person(UserName("ann"), True, ("physics",), "oidc")


class People:
    """What the hub keeps of ann, unless it is changed."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = {"token": SECRET}
        self.made: list[Hooks] = []
        self.ends: dict[str, str] = {}
        self.ended: tuple[Server, ...] = ()

    async def person(self, name: UserName) -> Person | None:
        return ANN if name == "ann" else None

    async def of(self, name: UserName) -> dict[str, Any] | None:
        return self.state if name == "ann" else None

    async def told(self, server_id: ServerId, words: str) -> None:
        self.ends[server_id] = words

    async def untold(self, since: datetime) -> tuple[Server, ...]:
        return tuple(server for server in self.ended if server.id not in self.ends and server.since >= since)

    def hooks(self, **hooks: Any) -> Hooks:
        self.made.append(Hooks(SiteHooks(**hooks), self.person, self.of, self))
        return self.made[-1]

    async def add(self, **hooks: Any) -> Additions:
        return await self.hooks(**hooks).additions(SERVER)


@pytest.fixture
async def people():
    made = People()
    yield made
    for hooks in made.made:
        await hooks.close()


async def test_what_a_start_is_described_by(people) -> None:
    seen = []

    def hook(spawn):
        seen.append((spawn, threading.current_thread() is threading.main_thread()))
        return {"environment": {"A": spawn.person.groups[0]}, "files": {"note": spawn.auth_state["token"]}}

    assert await people.add(pre_spawn=hook) == Additions({"A": "physics"}, {"note": SECRET.encode()})
    (spawn, on_the_loop) = seen[0]
    assert not on_the_loop, "what blocks holds up nobody"
    assert (spawn.person, spawn.server_name, spawn.profile, spawn.cluster) == (ANN, "big", "lab", "hpc")
    assert (spawn.account, spawn.options, spawn.server_id) == ("ann_hpc", {"cores": 2}, SERVER.id)
    assert SECRET not in repr(spawn)
    with pytest.raises(FrozenInstanceError):
        spawn.account = "root"


async def test_an_async_one_and_none(people) -> None:
    async def hook(spawn):
        await asyncio.sleep(0)
        return Additions({"A": "1"})

    assert (await people.add(pre_spawn=hook)).environment == {"A": "1"}
    assert not await people.add(pre_spawn=lambda _: None)
    assert (await people.add(pre_spawn=functools.partial(hook))).environment == {"A": "1"}
    assert not await people.add()


async def test_auth_state_becomes_additions_and_a_start_s_word_counts(people) -> None:
    def by_state(person, state):
        return {"environment": {"A": state["token"], "B": person.name}}

    both = {"auth_state": by_state, "pre_spawn": lambda _: {"environment": {"B": "later"}}}
    assert (await people.add(**both)).environment == {"A": SECRET, "B": "later"}
    people.state = None
    assert (await people.add(**both)).environment == {"B": "later"}, "where nothing is kept, nothing is asked"


@pytest.mark.parametrize("error", [Denied("Quota of ann is used up."), Unreachable("The licence server is away.")])
async def test_a_refusal_in_the_sites_own_words(people, error) -> None:
    def hook(spawn):
        raise error

    with pytest.raises(type(error), match=str(error)):
        await people.add(pre_spawn=hook)


def fails(spawn):
    raise KeyError(spawn.auth_state["token"])


async def exits(spawn):
    raise SystemExit(spawn.auth_state["token"])


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (fails, "failed"),
        (exits, "failed"),
        (lambda spawn: sys.exit(3), "failed"),
        (lambda spawn: next(group for group in spawn.person.groups if group == "none"), "failed"),
        (lambda spawn: 7, "failed"),
        # What the form checked is not changed behind it.
        (lambda spawn: spawn.options.update(cores=99), "failed"),
        (lambda spawn: {"environment": {"BATCHHUB_X": spawn.auth_state["token"]}}, "failed"),
        (lambda spawn: {"files": {"../x": spawn.auth_state["token"]}}, "failed"),
    ],
)
async def test_what_goes_wrong_refuses_the_start_and_is_in_the_log_alone(people, hook, words, caplog) -> None:
    with pytest.raises(Denied, match=words) as caught:
        await people.add(pre_spawn=hook)
    assert SECRET not in str(caught.value)
    assert "pre_spawn_hook" in caplog.text
    assert SERVER.options == {"cores": 2}


async def test_one_that_takes_too_long_refuses_it(people, caplog) -> None:
    async def never(spawn):
        await asyncio.Event().wait()

    leave = threading.Event()
    for hook in (never, lambda _: leave.wait(30)):
        with pytest.raises(Denied, match="took too long"):
            await people.add(pre_spawn=hook, deadline=0.01)
    leave.set()
    assert "did not end within 0.01 seconds" in caplog.text


async def test_the_end_is_told_and_nobody_waits(people, caplog) -> None:
    caplog.set_level(logging.ERROR)
    told: asyncio.Queue[Any] = asyncio.Queue()

    async def hook(stop):
        await told.put(stop)
        if stop.exit_code:
            raise ValueError("oops")

    hooks = people.hooks(post_stop=hook)
    hooks.ended(replace(SERVER, outcome=Outcome.FAILED, exit_code=3, words="It failed."))
    hooks.ended(replace(SERVER, id=ServerId("abcdefghij23"), user=UserName("eve"), outcome=Outcome.COMPLETED))
    first, second = await told.get(), await told.get()
    assert (first.person, first.outcome, first.exit_code, first.words) == (ANN, Outcome.FAILED, 3, "It failed.")
    assert (second.person, second.server_name) == (Person(UserName("eve")), "big")
    await quiet(hooks)
    assert "post_stop_hook failed for server abcdefghij22" in caplog.text
    assert people.ends == {"abcdefghij22": "It failed; the hub's log says why.", "abcdefghij23": ""}
    people.hooks().ended(SERVER)


async def quiet(hooks: Hooks) -> None:
    while hooks._tasks._tasks:
        await asyncio.sleep(0)


def servers(number: int) -> tuple[Server, ...]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    ids = (f"abcdefghij{letters[at // 26]}{letters[at % 26]}" for at in range(number))
    return tuple(replace(SERVER, id=ServerId(one)) for one in ids)


async def test_what_a_hub_that_died_told_nobody_of_the_next_one_tells(people) -> None:
    known, lost, old = servers(3)
    people.ended = (known, lost, replace(old, since=NOW - timedelta(hours=2)))
    begun: asyncio.Queue[str] = asyncio.Queue()
    go = asyncio.Event()

    async def hook(stop):
        await begun.put(stop.server_id)
        await go.wait()

    dies = people.hooks(post_stop=hook)
    dies.ended(known)
    dies.ended(known)
    go.set()
    await quiet(dies)
    assert begun.qsize() == 1
    go.clear()
    dies.ended(lost)
    await begun.get()
    await begun.get()
    await dies.close()
    go.set()
    after = people.hooks(post_stop=hook)
    await after.catch_up(NOW - timedelta(hours=1))
    await quiet(after)
    assert (begun.get_nowait(), begun.qsize()) == (lost.id, 0)
    await after.catch_up(NOW - timedelta(hours=1))
    await quiet(after)
    assert begun.empty()
    await people.hooks().catch_up(NOW)


async def test_a_time_out_of_the_hooks_own_is_a_failure_with_its_traceback(people, caplog) -> None:
    """Such as a socket's, long before ours: the log must say where."""

    def hook(spawn):
        raise TimeoutError("licence server")

    async def on_the_loop(spawn):
        raise TimeoutError("allocation server")

    for one in (hook, on_the_loop):
        with pytest.raises(Denied, match="failed"):
            await people.add(pre_spawn=one)
    assert "licence server" in caplog.text
    assert "allocation server" in caplog.text
    assert "did not end within" not in caplog.text


async def test_of_many_ends_at_once_none_is_forgotten(people, monkeypatch) -> None:
    monkeypatch.setattr("batchhub.auth.blocking.WAITING_LIMIT", 5)
    told: list[str] = []
    hooks = people.hooks(post_stop=lambda stop: told.append(stop.server_id))
    for number in range(20):
        hooks.ended(replace(SERVER, id=ServerId(f"server{number}")))
    while hooks._tasks._tasks:
        await asyncio.sleep(0)
    assert sorted(told) == sorted(f"server{number}" for number in range(20))


@pytest.mark.parametrize("name", ["pre_spawn_hook", "post_stop_hook", "auth_state_hook"])
def test_a_hook_is_a_function(name) -> None:
    with pytest.raises(ConfigError, match=f"c.BatchHub.{name} must be a function, not str"):
        plan_hooks(BatchHub(**{name: "x"}))
    assert plan_hooks(BatchHub(**{name: print}, hook_timeout=5)).deadline == 5


async def test_only_our_errors_come_out(people) -> None:
    with pytest.raises(HubError):
        await people.add(auth_state=lambda person: None)
