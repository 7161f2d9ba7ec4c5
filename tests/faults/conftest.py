"""Worlds, one for each test and scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from batchhub.store import schema
from tests.faults.sites import Site
from tests.faults.world import World, new_database

Make = Callable[..., Awaitable[World]]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "hub.sqlite"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def make_world(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Make a world of a site; its cluster's jobs are ended with the test."""
    made: list[World] = []

    async def make(site: Site, *, directives: str = "", **options: Any) -> World:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        new_database(tmp_path, empty_database)
        world = World(tmp_path, site, options=options, directives=directives)
        made.append(world)
        await world.open()
        return world

    yield make
    for world in made:
        await world.close()


@pytest.fixture
async def world(request: pytest.FixtureRequest, make_world: Make) -> World:
    """A world of the site that the test is parametrised with (``indirect``)."""
    return await make_world(request.param)
