"""What the hub does in the background: it must live on, whatever its neighbours do."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from batchhub.app import hub as module
from batchhub.app.hub import Hub
from batchhub.control.tasks import Tasks
from batchhub.core.errors import StoreUnavailable, Unreachable


def a_hub(**parts: Any) -> Hub:
    """A hub of only these parts."""
    made = Hub.__new__(Hub)
    made._tasks = Tasks("hub")
    for name, part in parts.items():
        setattr(made, name, part)
    return made


async def test_people_with_servers_are_looked_after_whatever_the_database_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked: list[set[str]] = []
    answers: list[Any] = [StoreUnavailable("The database does not answer."), [SimpleNamespace(user="ann")] * 2]

    async def live_servers() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def look_after(names: set[str]) -> None:
        looked.append(names)

    async def sleep(_seconds: float) -> None:
        if not answers:
            raise asyncio.CancelledError

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    hub = a_hub(store=SimpleNamespace(live_servers=live_servers), _people=SimpleNamespace(look_after=look_after))
    with pytest.raises(asyncio.CancelledError):
        await hub._look_after_people()
    assert looked == [{"ann"}]
    assert "tried again in a minute" in caplog.text


async def test_authenticators_are_told_once_that_peoples_pages_come_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the lead is had, and not before the proxy knows."""
    done: list[str] = []
    answers: list[Any] = [Unreachable("no"), None, None]

    async def lead(_address: str, *, led: bool) -> None:
        done.append(f"proxy told, {led}")
        if answer := answers.pop(0):
            raise answer

    async def sleep(_seconds: float) -> None:
        if not answers:
            raise asyncio.CancelledError

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    way = SimpleNamespace(lead=lambda: done.append("way told"))
    plan = SimpleNamespace(address="127.0.0.1:8081", authenticators={"lti11": way})
    hub = a_hub(routes=SimpleNamespace(lead=lead), _plan=plan, _lock=object())
    with pytest.raises(asyncio.CancelledError):
        await hub._keep_default_route()
    assert done == ["proxy told, True", "proxy told, True", "way told", "proxy told, True"]


async def test_keeping_house_outlives_the_databases_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Store:
        def __init__(self) -> None:
            self.asked = 0
            self.pruned = [1000, 3, 0]

        async def expire_sessions(self, _now: object) -> None:
            self.asked += 1
            if self.asked == 1:
                raise StoreUnavailable("The database does not answer.")

        async def prune_ended(self, _before: object) -> int:
            return self.pruned.pop(0)

    class Deeds:
        def __init__(self) -> None:
            self.pruned = [1000, 3, 0]

        async def prune(self, _before: object) -> int:
            return self.pruned.pop(0)

    store, deeds, done = Store(), Deeds(), asyncio.Event()

    async def sleep(_seconds: float) -> None:
        if store.asked == 2:
            done.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    plan = SimpleNamespace(keep_ended=timedelta(days=1), keep_audit=timedelta(days=1))
    hub = a_hub(store=store, _deeds=deeds, _plan=plan)
    hub._tasks.start(hub._keep_house(), "house")
    await asyncio.wait_for(done.wait(), 60)
    assert store.pruned == []
    assert deeds.pruned == []
    assert "tried again in an hour" in caplog.text
    await hub._tasks.close()
