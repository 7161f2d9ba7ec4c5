"""What the demo leaves behind: nothing. All of it, in a browser: tests/e2e/test_demo.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from batchhub.app.demo import _stop_all
from batchhub.app.hub import Hub
from batchhub.core.model import UserName


async def test_the_directories_of_all_runs_go_not_the_newest_s_alone(tmp_path: Path) -> None:
    runs = [SimpleNamespace(name="", alive=False, directory=str(tmp_path / name)) for name in ("new", "old", "older")]
    runs.append(SimpleNamespace(name="", alive=False, directory=""))
    for run in runs[:-1]:
        Path(run.directory).mkdir()

    async def servers_of(_user: str) -> list[Any]:
        return [SimpleNamespace(server=runs[0])]

    async def runs_of(_user: str, _name: str, limit: int) -> list[Any]:
        return runs[:limit]

    hub = SimpleNamespace(service=SimpleNamespace(servers_of=servers_of), store=SimpleNamespace(runs_of=runs_of))
    await _stop_all(cast("Hub", hub), UserName("ann"))
    assert list(tmp_path.iterdir()) == []
