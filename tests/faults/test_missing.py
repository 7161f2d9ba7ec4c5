"""A job that a list does not hold: one list proves nothing, and no number of lists is believed against the scheduler's own word."""

import pytest

from batchhub.core.model import Outcome, Phase
from tests.faults.sites import ALL, LSF, PBS, SLURM, TORQUE, Site
from tests.faults.world import ALICE, BOB, World

everywhere = pytest.mark.parametrize("world", ALL, ids=str, indirect=True)


@everywhere
async def test_missing_from_one_list_and_back(world: World) -> None:
    alice = await world.ready(ALICE)
    bob = await world.queued(BOB)
    if (
        world.site is TORQUE
    ):  # has no records: its "Unknown Job Id" is the last word, so it is only left out silently here
        world.fake.fault("truncated", command=world.site.status, times=1, keep=30)
    else:
        world.fake.fault("missing_from_listing", job=alice.job_id, times=1)
    await world.tick()
    assert await world.row(ALICE) == alice
    assert world.routed(ALICE)
    await world.tick()
    assert await world.row(ALICE) == alice
    assert await world.row(BOB) == bob
    assert (await world.view(ALICE)).status.silent_since is None
    assert world.orders() == (2, 0)


async def test_left_out_of_every_list_while_the_records_say_that_it_lives(make_world) -> None:
    """Slurm leaves out what it does not know without a word; asked for alone, it would say so."""
    world = await make_world(SLURM)
    alice = await world.ready(ALICE)
    await world.queued(BOB)
    world.fake.fault("truncated", command="squeue", keep=0)
    for pause in (2, 2, 300, 300, 300, 300, 300):
        await world.tick(pause)
        assert await world.row(ALICE) == alice
        assert world.routed(ALICE)
    assert (await world.view(ALICE)).status.silent_since is not None
    world.fake.clear_faults()
    await world.tick()
    assert (await world.view(ALICE)).status.silent_since is None
    assert world.orders() == (2, 0)


@pytest.mark.parametrize("site", [SLURM, PBS, LSF], ids=str)
async def test_without_records_a_job_that_is_gone_is_called_so_at_the_schedulers_word(make_world, site: Site) -> None:
    """Accounting is absent or down for good; the application's own exit record still tells how it ended."""
    options = {"slurm": {"sacct": False}, "pbs": {"history": False}}.get(site.name, {})
    world = await make_world(site, **options)
    world.fake.configure(accounting=False, history=False, min_job_age=0.0, clean_period=0.0)
    alice = await world.ready(ALICE)
    await world.queued(BOB)
    if site is LSF:
        world.fake.fault("refuse", command="bhist", code=255, text="bhist: System call failed: no such file")
    world.ring(alice, 7)
    await world.over(alice.job_id)
    for _ in range(3):
        await world.tick(2)
    if site is LSF:  # has records, which cannot be read: they get their time
        assert await world.row(ALICE) == alice
        assert (await world.view(ALICE)).status.silent_since is not None
    row = await world.until_phase(Phase.ENDED, ALICE, 30)
    assert (row.outcome, row.exit_code) == (Outcome.FAILED, 7)
    assert row.words == "The application ended with 7."
    assert "start 1 on" in row.log_tail
    assert not world.routed(ALICE)
    assert (await world.row(BOB)).phase is Phase.QUEUED
    assert world.orders() == (2, 0)


@everywhere
async def test_it_ended_between_two_ticks_and_was_purged(world: World) -> None:
    """MinJobAge, keep_completed and CLEAN_PERIOD are over before anybody looks: records or the job's own file tell of the end."""
    world.fake.configure(min_job_age=0.0, keep_completed=0.0, clean_period=0.0)
    alice = await world.ready(ALICE)
    await world.queued(BOB)
    world.ring(alice, 0)
    await world.over(alice.job_id)
    row = await world.until_phase(Phase.ENDED, ALICE, 2)
    assert (row.outcome, row.exit_code) == (Outcome.COMPLETED, 0)
    assert not world.routed(ALICE)
    assert world.orders() == (2, 0)
    if world.site.records:
        assert world.fake.count(world.site.records) >= 1


@everywhere
async def test_it_ended_before_anybody_saw_it_run(world: World) -> None:
    """Submitted, run, ended and purged between two ticks: it is not submitted again."""
    world.fake.configure(min_job_age=0.0, keep_completed=0.0, clean_period=0.0)
    row = await world.start()
    job = await world.job_of(row.id)
    assert job is not None
    world.fake.wait(job.id, "RUNNING", timeout=120)
    await world.until(lambda _: (world.home / f".batchhub/jobs/{row.id}/bell").exists())
    world.ring(await world.row(), 5)
    await world.over(job.id)
    row = await world.until_phase(Phase.ENDED, ALICE, 2)
    assert (row.outcome, row.exit_code) == (Outcome.FAILED, 5)
    assert world.orders() == (1, 0)
