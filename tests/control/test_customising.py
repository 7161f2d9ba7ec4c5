"""What is added to a job: made before anything is written, made anew for each start, and gone when the job has ended."""

import json
import shutil
from pathlib import Path

import pytest

from batchhub.core.customising import Customisation
from batchhub.core.errors import BadInput, HubError, StoreUnavailable, SubmitRejected
from batchhub.core.model import JobState, Outcome, Phase, Server
from tests.control.memory import Clock, MemoryCluster, MemoryRoutes
from tests.control.test_reconciler import ALICE, FORM, World
from tests.control.test_reconciler import empty_database as empty_database  # noqa: PLC0414 - a fixture


class Additions:
    """What a site adds now."""

    def __init__(self) -> None:
        self.now = Customisation({"OPEN": "1"}, {"TOKEN": "first"}, {"spark.conf": b"first", "old": b"x"})
        self.error: HubError | None = None
        self.asked: list[tuple[int, str]] = []

    async def __call__(self, server: Server, home: str) -> Customisation:
        self.asked.append((server.generation, home))
        if self.error:
            raise self.error
        return self.now


@pytest.fixture
def additions() -> Additions:
    return Additions()


@pytest.fixture
async def world(tmp_path: Path, empty_database: Path, additions: Additions):
    shutil.copy(empty_database, tmp_path / "hub.sqlite")
    clock = Clock()
    made = World(str(tmp_path / "hub.sqlite"), clock, MemoryCluster(clock), MemoryRoutes(), customise=additions)
    await made.open()
    yield made
    await made.close()


def held(world: World, row: Server) -> dict[str, bytes]:
    """What is in the job's directory, by name."""
    return {
        name.removeprefix(f"{row.directory}/"): data
        for name, data in world.cluster.files.items()
        if name.startswith(row.directory)
    }


async def test_it_is_written_before_the_submit_and_the_secrets_last(world: World, additions: Additions) -> None:
    row = await world.spawn()
    files = held(world, row)
    assert list(files)[-1] == "secrets.json"
    assert (files["files/spark.conf"], files["files/old"]) == (b"first", b"x")
    assert json.loads(files["secrets.json"])["env"] == {"TOKEN": "first"}
    assert additions.asked == [(1, "/home/alice")]


async def test_a_refusal_is_told_in_words_and_nothing_was_written(world: World, additions: Additions) -> None:
    additions.error = BadInput("addition 'spark': there is no 'access_token' here.")
    with pytest.raises(SubmitRejected, match="addition 'spark': there is no 'access_token' here"):
        await world.service.spawn(ALICE, "", "lab", FORM)
    await world.settle()
    row = await world.row()
    assert (row.phase, row.outcome) == (Phase.ENDED, Outcome.REFUSED)
    assert world.cluster.files == {}
    assert world.cluster.count("submit") == 0


async def test_what_cannot_be_asked_now_is_asked_again(world: World, additions: Additions) -> None:
    additions.error = StoreUnavailable("The database does not answer.")
    world.be_brief()
    row = await world.spawn()
    assert (row.phase, row.words) == (Phase.REQUESTED, "The database does not answer.")
    additions.error = None
    world.reconciler.look((row.id,))
    await world.settle()
    row = await world.row()
    assert held(world, row)["files/old"] == b"x"
    assert row.phase is not Phase.ENDED


async def test_a_requeued_job_finds_fresh_ones_and_nothing_of_the_old(world: World, additions: Additions) -> None:
    await world.ready()
    additions.now = Customisation({}, {"TOKEN": "second"}, {"spark.conf": b"second"})
    world.cluster.set(JobState.PENDING)
    row = await world.tick()
    files = held(world, row)
    assert json.loads(files["secrets.json"]) == {"generation": 2, "env": {"TOKEN": "second"}}
    assert {name: data for name, data in files.items() if name.startswith("files/")} == {"files/spark.conf": b"second"}
    assert additions.asked[-1] == (2, "/home/alice")


async def test_a_requeued_job_that_can_be_given_nothing_new_keeps_what_it_had(
    world: World, additions: Additions
) -> None:
    await world.ready()
    before = held(world, await world.row())
    additions.error = BadInput("it needs 'access_token' of your sign-in")
    world.cluster.set(JobState.PENDING)
    row = await world.tick()
    after = held(world, row)
    assert row.phase is Phase.QUEUED
    assert {name: after[name] for name in ("files/spark.conf", "secrets.json")} == {
        name: before[name] for name in ("files/spark.conf", "secrets.json")
    }


@pytest.mark.parametrize("how", ["ended by itself", "stopped", "gone without a record"])
async def test_when_it_has_ended_its_secrets_are_gone_and_the_rest_stays(world: World, how: str) -> None:
    await world.ready()
    if how == "stopped":
        await world.service.stop(ALICE, "", ALICE)
        await world.settle()
    else:
        world.cluster.end(JobState.COMPLETED)
    if how == "gone without a record":
        world.cluster.records.clear()
    for _ in range(8):
        row = await world.tick(20)
    assert row.phase is Phase.ENDED
    assert set(held(world, row)) == {"server.json", "connection.json"}


async def test_a_job_that_the_scheduler_refused_leaves_no_secret(world: World) -> None:
    world.cluster.refuse = "Invalid account"
    with pytest.raises(SubmitRejected):
        await world.service.spawn(ALICE, "", "lab", FORM)
    await world.settle()
    assert set(held(world, await world.row())) == {"server.json"}


async def test_what_cannot_be_removed_now_is_removed_later(world: World) -> None:
    await world.ready()
    world.cluster.end(JobState.COMPLETED)
    world.cluster.files_away = True
    for _ in range(4):
        row = await world.tick()
    assert row.phase is Phase.ENDED
    assert "secrets.json" in held(world, row)
    world.cluster.files_away = False
    world.reconciler.look((row.id,))
    await world.settle()
    assert set(held(world, row)) == {"server.json", "connection.json"}
    asked = world.cluster.count("discard")
    world.reconciler.look((row.id,))
    await world.settle()
    assert world.cluster.count("discard") == asked, "once is enough"
