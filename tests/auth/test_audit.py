"""The audit trail: a line at once, a row soon, neither without end, and nobody waits."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from batchhub.auth.audit import AuditSettings, AuditTrail, Thinning
from batchhub.auth.throttle import Rate
from batchhub.core.deeds import Deed, DeedKind, deed
from batchhub.core.errors import StoreUnavailable

SETTINGS = AuditSettings(again=0.0)


class Rows:
    """A database that can be away, or never answer."""

    def __init__(self) -> None:
        self.rows: list[Deed] = []
        self.away = 0
        self.stuck = False

    async def add(self, deeds: Sequence[Deed]) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        if self.away:
            self.away -= 1
            raise StoreUnavailable("The database does not answer.")
        self.rows += deeds


@asynccontextmanager
async def keeping(rows: Rows, clock, settings: AuditSettings = SETTINGS) -> AsyncIterator[AuditTrail]:
    trail = AuditTrail(rows, clock, settings)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(trail.keep(), name="audit")
        await asyncio.sleep(0)
        yield trail
        await trail.close()
        task.cancel()


async def test_a_line_of_json_at_once_and_a_row_soon(clock, caplog) -> None:
    rows = Rows()
    with caplog.at_level(logging.INFO, "batchhub.audit"):
        async with keeping(rows, clock) as trail:
            trail.note(
                DeedKind.REFUSED, "ann\nroot signed in", by="", address="192.0.2.7", words="the password is wrong"
            )
            (record,) = caplog.records
    said = json.loads(record.getMessage())
    assert said == {
        "time": "2026-03-01T12:00:00+00:00",
        "kind": "sign-in refused",
        "user": r"ann\nroot signed in",
        "by": "",
        "address": "192.0.2.7",
        "words": "the password is wrong",
    }
    assert [row.user for row in rows.rows] == [r"ann\nroot signed in"]


async def test_a_database_that_is_away_gets_them_later_in_order(clock, caplog) -> None:
    rows = Rows()
    rows.away = 3
    async with keeping(rows, clock) as trail:
        for name in ("ann", "bob", "eve"):
            trail.note(DeedKind.SIGN_IN, name)
            await asyncio.sleep(0)
        while len(rows.rows) < 3:
            await asyncio.sleep(0)
    assert [row.user for row in rows.rows] == ["ann", "bob", "eve"]
    assert "wait for the database" in caplog.text


async def test_what_memory_cannot_hold_is_counted(clock) -> None:
    rows = Rows()
    trail = AuditTrail(rows, clock, replace(SETTINGS, waiting=3))
    for number in range(10):
        trail.note(DeedKind.SIGN_IN, f"u{number}")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(trail.keep(), name="audit")
        while len(rows.rows) < 3:
            await asyncio.sleep(0)
        await trail.close()
        task.cancel()
    assert [row.kind for row in rows.rows] == ["sign-in"] * 3 + ["left out"]
    assert rows.rows[-1].words.startswith("7 deeds are in the log alone")


async def test_the_hubs_end_is_not_held_up_by_a_database_that_never_answers(clock) -> None:
    rows = Rows()
    rows.stuck = True
    async with keeping(rows, clock, replace(SETTINGS, patience=0.0)) as trail:
        trail.note(DeedKind.SIGN_IN, "ann")
    assert rows.rows == []


async def test_nothing_is_waited_for_if_it_never_ran(clock) -> None:
    await AuditTrail(Rows(), clock, replace(SETTINGS, patience=60.0)).close()


async def test_a_flood_of_refusals_is_a_few_rows_and_a_summary_a_minute(clock) -> None:
    rows = Rows()
    async with keeping(rows, clock, replace(SETTINGS, refused=Rate(5, 60.0))) as trail:
        for number in range(300):
            trail.note(DeedKind.REFUSED, f"guess{number}", by="", address=f"192.0.2.{number % 3}")
        while len(rows.rows) < 5:
            await asyncio.sleep(0)
        clock.later(seconds=61)
        trail.note(DeedKind.HUB_STARTED, by="hub")
        while len(rows.rows) < 7:
            await asyncio.sleep(0)
    assert [row.user for row in rows.rows[:5]] == [f"guess{number}" for number in range(5)]
    summary = next(row for row in rows.rows if "more since" in row.words)
    assert summary.kind == DeedKind.REFUSED
    assert summary.words == "and 295 more since 12:00:00 UTC, of 295 names, from 3 addresses; each is in the log"


@pytest.mark.parametrize("kind", [DeedKind.SIGN_IN, DeedKind.TOKEN_MADE, DeedKind.ENTRY_REFUSED])
def test_what_people_do_with_themselves_is_bounded_each_by_themselves(clock, kind: DeedKind) -> None:
    thinning = Thinning(replace(SETTINGS, own=Rate(3, 60.0)))
    assert [thinning.admit(deed(clock.now, kind, "ann")) for _ in range(5)] == [True] * 3 + [False] * 2
    assert thinning.admit(deed(clock.now, kind, "bob"))
    assert thinning.admit(deed(clock.later(minutes=1), kind, "ann"))
    (rest,) = thinning.summaries(clock.now)
    assert rest.words == "and 2 more since 12:00:00 UTC, of 1 name, from 1 address; each is in the log"
    assert thinning.summaries(clock.now) == []


def test_what_admins_do_to_others_always_has_its_row(clock) -> None:
    thinning = Thinning(replace(SETTINGS, own=Rate(1, 60.0), refused=Rate(1, 60.0)))
    done = [deed(clock.now, DeedKind.STOPPED_FOR, "ann", by="root") for _ in range(500)]
    assert all(thinning.admit(one) for one in done)


def test_the_summary_does_not_grow_without_end(clock) -> None:
    thinning = Thinning(replace(SETTINGS, refused=Rate(1, 1e6)))
    for number in range(3001):
        thinning.admit(deed(clock.now, DeedKind.REFUSED, f"guess{number}", by=""))
    (rest,) = thinning.summaries(clock.now)
    assert "3000 more" in rest.words
    assert "of 1000 or more names" in rest.words
