"""A store on a real SQLite file and on a real PostgreSQL server, and servers to put into it."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.model import Server, UserName, new_server_id
from batchhub.store import Store
from tests.postgres import Postgres, postgres

__all__ = ["postgres"]

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


class Ticking:
    """A clock that moves when told to."""

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


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new, empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hub.sqlite'}"
        return
    with request.getfixturevalue("postgres").database() as made:
        yield made


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture
async def store(url: str, clock: Ticking) -> AsyncIterator[Store]:
    store = Store(url, clock=clock)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def make() -> Callable[..., Server]:
    def make(user: str = "ann", name: str = "", **more: Any) -> Server:
        fields: dict[str, Any] = {"cluster": "c1", "profile": "lab", "account": user, "created": NOW, "since": NOW}
        return Server(id=new_server_id(), user=UserName(user), name=name, **(fields | more))

    return make
