"""Which ends a site's hook was told of: by SQLite and PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

import pytest

from batchhub.core.errors import NotFound
from batchhub.core.model import Phase, ServerId
from batchhub.store.telling import Telling


async def test_ends_that_nobody_was_told_of(store, make, clock) -> None:
    telling = Telling(store)
    since = clock.now
    old, told, untold, alive = [await store.add_server(make(name=name)) for name in ("old", "told", "untold", "alive")]
    for row, minutes in ((old, -1), (told, 1), (untold, 2)):
        at = since + timedelta(minutes=minutes)
        await store.update(row.id, lambda it, at=at: replace(it, phase=Phase.ENDED, since=at, ended=at), kind="phase")
    assert [row.id for row in await telling.untold(since)] == [told.id, untold.id]
    await telling.told(told.id, "")
    assert [row.id for row in await telling.untold(since)] == [untold.id]
    assert [event.kind for event in await store.events_of(told.id)] == ["requested", "phase", "post_stop"]
    assert (await store.server(alive.id)).phase is Phase.REQUESTED
    with pytest.raises(NotFound):
        await telling.told(ServerId("nosuchserver"), "")
