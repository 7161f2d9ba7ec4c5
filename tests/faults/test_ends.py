"""How a job ends by what was done to it, told to the person in words: limits, memory, somebody else's hand."""

import pytest

from batchhub.core.model import Outcome, Phase
from batchhub.core.words import OUTCOMES
from tests.faults.sites import ALL, SLURM, Site
from tests.faults.world import World

everywhere = pytest.mark.parametrize("world", ALL, ids=str, indirect=True)


@pytest.mark.parametrize(
    ("how", "outcome"),
    [("time_out", Outcome.TIMED_OUT), ("exhaust_memory", Outcome.OUT_OF_MEMORY), ("cancel", Outcome.CANCELLED)],
    ids=["walltime", "memory", "cancelled outside"],
)
@pytest.mark.parametrize(
    ("world", "purged"),
    # Torque keeps no records: of a job that it has forgotten nobody knows why it ended.
    [(site, purged) for purged in (False, True) for site in ALL if site.records or not purged],
    ids=lambda value: str(value) if isinstance(value, Site) else "purged" if value else "kept",
    indirect=["world"],
)
async def test_ended_by_the_scheduler_or_from_outside(world: World, how: str, outcome: Outcome, purged: bool) -> None:
    row = await world.ready()
    if purged:
        world.fake.configure(min_job_age=0.0, clean_period=0.0)
    getattr(world.fake, how)(row.job_id)
    await world.over(row.job_id)
    ended = await world.until_phase(Phase.ENDED, seconds=2)
    assert ended.outcome is outcome
    view = await world.view()
    assert view.status.sentence.startswith(OUTCOMES[outcome])
    assert view.status.silent_since is None
    assert "start 1 on" in ended.log_tail
    assert not world.routed()
    for _ in range(2):  # and it stays so
        await world.tick(100)
    assert await world.row() == ended
    assert world.orders() == (1, 0)


@everywhere
async def test_cancelled_outside_while_it_waited(world: World) -> None:
    row = await world.queued()
    world.fake.cancel(row.job_id)
    ended = await world.until_phase(Phase.ENDED, seconds=2)
    assert ended.outcome is Outcome.CANCELLED
    assert world.orders() == (1, 0)


@everywhere
async def test_a_cancel_that_the_scheduler_swallowed_is_given_again(world: World) -> None:
    """Exit status 0 and an error text, and nothing done: the job is seen alive and cancelled once more."""
    await world.ready()
    world.fake.fault("ok_with_error_text", command=world.site.cancel, times=1)
    await world.stop()
    await world.tick(2)
    assert (await world.row()).phase is Phase.STOPPING
    assert world.orders() == (1, 1)
    ended = await world.until_phase(Phase.ENDED, seconds=16)
    assert ended.outcome is Outcome.STOPPED
    submits, cancels = world.orders()
    assert submits == 1
    assert cancels >= 2, "once more at least: a busy machine's cluster takes a while for it, in which it is told again"


@everywhere
async def test_a_submit_of_which_nothing_came_is_given_again_once_nobody_knows_it(world: World) -> None:
    """Exit status 0, an error text and no id: it is looked for by name, and only then submitted anew."""
    world.fake.fault("ok_with_error_text", command=world.site.submit, times=1)
    row = await world.start()
    assert (row.phase, row.job_id) == (Phase.REQUESTED, None)
    assert "something did not work" in (await world.view()).status.detail
    await world.until_phase(Phase.READY, seconds=30)
    assert world.orders() == (2, 0)
    assert len(world.fake.jobs()) == 1


async def test_a_refusal_is_told_in_the_schedulers_words(make_world) -> None:
    world = await make_world(SLURM)
    words = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
    world.fake.fault("refuse", command="sbatch", code=1, text=words)
    await world.start()
    row = await world.until_phase(Phase.ENDED)
    assert row.outcome is Outcome.REFUSED
    assert "Job violates accounting/QOS policy" in (await world.view()).status.detail
    assert world.orders() == (1, 0)
