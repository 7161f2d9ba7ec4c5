"""The audit trail on real databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from batchhub.core.deeds import Deed, DeedKind, DeedScope, deed
from batchhub.store.audit import AuditStore


@pytest.fixture
def audit(store) -> AuditStore:
    return AuditStore(store)


async def test_deeds_come_back_as_they_were_newest_first(audit, clock) -> None:
    first = deed(clock.now, DeedKind.SIGN_IN, "ann", address="192.0.2.7", words="by pam; Firefox on Linux")
    later = deed(clock.later(minutes=1), DeedKind.SESSION_ENDED, "ann", by="root", words="all 2")
    await audit.add([first])
    await audit.add([later, Deed(clock.now, "of a newer hub", "bob", "bob")])
    await audit.add([])
    found = await audit.find(DeedScope(), 10)
    assert [line.deed for line in found][1:] == [later, first]
    assert [line.number for line in found] == sorted((line.number for line in found), reverse=True)


async def test_filters_and_pages(audit, clock) -> None:
    await audit.add([deed(clock.later(seconds=1), DeedKind.SIGN_IN, name) for name in ("ann", "bob", "ann")])
    await audit.add([deed(clock.later(seconds=1), DeedKind.STOPPED_FOR, "bob", by="ann")])

    async def names(limit: int = 10, **scope: object) -> list[str]:
        return [f"{line.deed.by}→{line.deed.user}" for line in await audit.find(DeedScope(**scope), limit)]

    assert await names(user="ann") == ["ann→bob", "ann→ann", "ann→ann"]
    assert await names(user="bob", kind=DeedKind.SIGN_IN) == ["bob→bob"]
    assert await names(user="eve") == []
    assert await names(since=clock.now) == ["ann→bob"]
    newest = await audit.find(DeedScope(), 2)
    assert await names(before=newest[-1].number) == ["bob→bob", "ann→ann"]


async def test_old_ones_go_in_portions_whoever_they_are_about(audit, clock) -> None:
    await audit.add([deed(clock.now, DeedKind.ADMIN_TAKEN, f"gone{number}", by="root") for number in range(5)])
    await audit.add([deed(clock.later(days=2), DeedKind.SIGN_IN, "ann")])
    edge = clock.now - timedelta(days=1)
    assert [await audit.prune(edge, 3) for _ in range(3)] == [3, 2, 0]
    assert [line.deed.user for line in await audit.find(DeedScope(), 10)] == ["ann"]
