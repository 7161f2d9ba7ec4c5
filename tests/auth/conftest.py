"""A clock that moves when told to, and a store in memory."""

from datetime import UTC, datetime, timedelta

import pytest

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Ticking:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def later(self, **delta: float) -> datetime:
        self.now += timedelta(**delta)
        return self.now


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
async def store(tmp_path, clock):
    """The real one: what auth asks of it through its Protocols is part of what is tested."""
    from batchhub.store import Store

    store = Store("sqlite://", clock=clock)
    await store.open()
    for name in ("ann", "bob"):
        await store.get_or_create_user(name)
    yield store
    await store.close()
