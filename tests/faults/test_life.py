"""What schedulers do to a job that goes on: hold, suspend, requeue, preempt, lose its node. Always the same one job."""

import pytest

from batchhub.core.model import Outcome, Phase, Server
from tests.faults.sites import ALL, LSF, SLURM, THREE
from tests.faults.world import World

everywhere = pytest.mark.parametrize("world", ALL, ids=str, indirect=True)
three = pytest.mark.parametrize("world", THREE, ids=str, indirect=True)


async def is_elsewhere(world: World, before: Server) -> None:
    """Ready again: the same job, another start of it on another node, with secrets and a route of its own."""
    row = await world.until(lambda row: row.phase is Phase.READY and row.host != before.host)
    assert (row.id, row.job_id) == (before.id, before.job_id)
    assert row.nonce != before.nonce
    route = world.doors.routes[row.path]
    assert route.endpoint.host == row.host
    assert await world.doors.probe(route, "") == 200
    assert world.orders() == (1, 0)


@everywhere
async def test_held_in_the_queue_and_released(world: World) -> None:
    row = await world.queued()
    world.fake.hold(row.job_id)
    world.open_partition()
    for pause in (2, 300, 300):
        await world.tick(pause)
        assert await world.row() == row
    sentence = (await world.view()).status.sentence
    assert "waits in the queue" in sentence
    if world.site is SLURM:
        assert "put on hold by an administrator" in sentence
    if world.site is LSF:
        assert "It was put on hold." in sentence
    world.fake.release(row.job_id)
    await world.until_phase(Phase.READY)
    assert world.orders() == (1, 0)


@everywhere
async def test_suspended_and_resumed(world: World) -> None:
    row = await world.ready()
    world.fake.suspend(row.job_id)
    for pause in (2, 300, 300):
        await world.tick(pause)
        assert await world.row() == row
    view = await world.view()
    assert (view.status.title, view.status.silent_since) == ("Suspended", None)
    assert "it goes on when it is resumed" in view.status.sentence
    assert world.routed()
    world.fake.resume(row.job_id)
    await world.tick()
    assert await world.row() == row
    assert (await world.view()).status.title == "Ready"
    assert world.orders() == (1, 0)


@three
async def test_suspended_while_it_starts_is_not_given_up(world: World) -> None:
    await world.start()
    job = await world.until(lambda row: row.job_id is not None)
    world.fake.wait(job.job_id, "RUNNING", timeout=120)
    world.fake.suspend(job.job_id)
    for pause in (2, 200, 200, 200):
        await world.tick(pause)
        assert (await world.row()).phase in {Phase.REQUESTED, Phase.STARTING}
    assert (await world.view()).status.title == "Suspended"
    world.fake.resume(job.job_id)
    await world.until_phase(Phase.READY)
    assert world.orders() == (1, 0)


@pytest.mark.parametrize("seen", [True, False], ids=["seen waiting", "unseen"])
@pytest.mark.parametrize(
    ("world", "how"),
    [(site, "requeue") for site in ALL] + [(site, how) for how in ("preempt", "fail_node") for site in THREE],
    ids=str,
    indirect=["world"],
)
async def test_taken_back_and_started_on_another_node(world: World, how: str, seen: bool) -> None:
    """By requeue, preemption or the end of its node; the hub sees it wait in between, or only the new start."""
    row = await world.ready()
    world.fake._change(row.job_id, lambda job: job.update(requeue=True))  # --requeue, -r y, bsub -r
    if seen:
        world.fake.set_partition("cpu", state="DOWN")
    getattr(world.fake, how)(row.host if how == "fail_node" else row.job_id)
    if seen:
        waiting = await world.until_phase(Phase.QUEUED)
        assert waiting.generation == 2
        assert not world.routed()
        assert "put back by the scheduler" in (await world.view()).status.sentence
        world.open_partition()
    else:
        world.fake.wait(row.job_id, "RUNNING", timeout=120, restarts=1)
        await world.tick()
    await is_elsewhere(world, row)


@pytest.mark.parametrize(
    ("how", "outcome"), [("preempt", Outcome.PREEMPTED), ("fail_node", Outcome.NODE_FAILURE)], ids=str
)
@everywhere
async def test_taken_away_for_good(world: World, how: str, outcome: Outcome) -> None:
    row = await world.ready()
    world.fake._change(row.job_id, lambda job: job.update(requeue=False, again=False))
    getattr(world.fake, how)(row.host if how == "fail_node" else row.job_id)
    await world.over(row.job_id)
    ended = await world.until_phase(Phase.ENDED, seconds=20)
    if how == "preempt" and world.site.bin == "pbs":
        outcome = Outcome.FAILED  # PBS tells of a killed job, and not for whom it was killed
    assert ended.outcome is outcome
    assert not world.routed()
    assert world.orders() == (1, 0)


@pytest.mark.parametrize("stop", [False, True], ids=["goes on", "is stopped"])
async def test_lsf_lost_the_node_but_not_the_job(make_world, stop: bool) -> None:
    """UNKWN: the daemon on the node does not answer, the job may well run."""
    world = await make_world(LSF)
    row = await world.ready()
    world.fake.unknown(row.job_id)
    for pause in (2, 300, 300):
        await world.tick(pause)
        assert await world.row() == row
    status = (await world.view()).status
    assert status.silent_since is not None
    assert "says nothing certain about the job" in status.sentence
    assert world.routed()
    if stop:
        await world.stop()
        await world.tick(300)
        assert "is being cancelled" in (await world.view()).status.sentence
        assert world.orders() == (1, 0)
        world.fake.unknown(row.job_id, unknown=False)
        ended = await world.until_phase(Phase.ENDED, seconds=2)
        assert ended.outcome is Outcome.STOPPED
        assert world.orders() == (1, 1)
        return
    world.fake.unknown(row.job_id, unknown=False)
    await world.tick()
    assert await world.row() == row
    assert (await world.view()).status.silent_since is None
    assert world.orders() == (1, 0)
