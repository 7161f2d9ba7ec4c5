"""The scheduler cannot be asked, or says nothing that can be believed: nothing changes, and the page says since when."""

from datetime import datetime, timedelta

import pytest

from batchhub.core.errors import Unreachable
from batchhub.core.model import Outcome, Phase, Truth
from batchhub.core.ports import Completed
from tests.faults.sites import ALL, THREE, Site
from tests.faults.world import ALICE, BOB, World

everywhere = pytest.mark.parametrize("world", ALL, ids=str, indirect=True)
SILENT = "The scheduler does not answer at the moment; nothing changes until it does."
TEN_MINUTES = 3 * [200.0]


# Torque's and openlava's clients wait as PBS's and LSF's do; what they print is read by parsers of their own.
UNANSWERED = [(site, fault) for fault in ("down", "hang", "slow") for site in THREE]
UNREADABLE = [(site, fault) for fault in ("garbage", "ok_with_error_text") for site in ALL]


@pytest.mark.parametrize(("world", "fault"), [*UNANSWERED, *UNREADABLE], ids=str, indirect=["world"])
async def test_ten_minutes_without_an_answer_change_nothing(world: World, fault: str) -> None:
    alice = await world.ready(ALICE)
    bob = await world.queued(BOB)
    orders = world.orders()
    world.fake.fault(fault, **({"seconds": 60} if fault == "slow" else {}))
    if fault in {"hang", "slow"} or (fault == "down" and world.site.bin == "lsf"):  # whose clients wait for ever
        world.impatient()
    since = world.clock()
    first: dict[str, datetime] = {}
    for pause in TEN_MINUTES:
        await world.tick(pause)
        for row in (alice, bob):
            assert await world.row(row.user) == row
            view = await world.view(row.user)
            assert view.status.silent_since is not None
            assert view.status.silent_since == first.setdefault(row.user, view.status.silent_since)
            assert "nothing changes until it does" in view.status.sentence
        assert world.routed(ALICE)
    assert all(since <= at <= world.clock() - timedelta(seconds=400) for at in first.values())
    assert SILENT in view.status.sentence
    assert (await world.service.health())["cluster hpc"].startswith("silent since")

    world.open_partition()  # bob's job starts where nobody sees it
    world.fake.clear_faults()
    world.patient()
    await world.tick()
    assert await world.row(ALICE) == alice
    assert (await world.view(ALICE)).status.silent_since is None
    await world.until_phase(Phase.READY, BOB)
    assert (await world.row(ALICE)).phase is Phase.READY
    assert world.orders() == orders == (2, 0)


@everywhere
async def test_ten_minutes_of_half_answers_change_nothing(world: World) -> None:
    """What the half holds may be true; of the rest nothing is known, neither by the list nor by half a record."""
    rows = [await world.ready(ALICE), await world.queued(BOB)]
    orders = world.orders()
    world.fake.fault("truncated")
    since = world.clock()
    for pause in (2, 250, 250, 250, 250):
        await world.tick(pause)
        assert [await world.row(row.user) for row in rows] == rows
        assert world.routed(ALICE)
    for row in rows:
        seen = world.poller.newest(row.id)
        assert seen is not None
        silent = (await world.view(row.user)).status.silent_since
        assert silent is None if seen.truth is Truth.SEEN else since <= silent <= world.clock() - timedelta(seconds=900)
    world.fake.clear_faults()
    await world.tick()
    assert [await world.row(row.user) for row in rows] == rows
    assert {(await world.view(row.user)).status.silent_since for row in rows} == {None}
    assert world.orders() == orders == (2, 0)


@everywhere
async def test_what_was_wanted_during_the_silence_is_done_after_it(world: World) -> None:
    await world.ready(ALICE)
    world.fake.fault("down", kind="refused")
    await world.tick(60)
    await world.stop(ALICE)
    await world.start(BOB)  # a submit that nobody answers
    for pause in TEN_MINUTES:
        await world.tick(pause)
        assert (await world.row(ALICE)).phase is not Phase.ENDED
        assert (await world.row(BOB)).phase is Phase.REQUESTED
        assert "is being cancelled" in (await world.view(ALICE)).status.sentence
        assert "answer is awaited" in (await world.view(BOB)).status.sentence
    assert world.fake.count(world.site.submit) == 2
    world.fake.clear_faults()
    alice = await world.until_phase(Phase.ENDED, ALICE, 20)
    assert alice.outcome is Outcome.STOPPED
    await world.until_phase(Phase.READY, BOB, 20)
    assert [job.state for job in world.fake.jobs()] == ["CANCELLED", "RUNNING"]
    assert world.fake.count(world.site.submit) == 3


@everywhere
async def test_a_submit_whose_answer_is_lost_in_the_silence_is_found_and_not_repeated(world: World) -> None:
    world.fake.fault("created_but_timeout", command=world.site.submit, times=1, how="error")
    row = await world.start()
    assert (row.phase, row.job_id) == (Phase.REQUESTED, None)
    world.fake.fault("down", kind="refused")
    for pause in TEN_MINUTES:
        await world.tick(pause)
        assert (await world.row()).phase is Phase.REQUESTED
    world.fake.clear_faults()
    await world.until_phase(Phase.READY, seconds=20)
    assert world.orders() == (1, 0)


@everywhere
async def test_a_banner_before_every_answer_is_no_obstacle(world: World) -> None:
    world.fake.fault("banner")
    alice = await world.ready(ALICE)
    await world.queued(BOB)
    assert alice.host in {"n1", "n2"}
    assert (await world.view(ALICE)).status.silent_since is None
    await world.stop(BOB)
    row = await world.until_phase(Phase.ENDED, BOB)
    assert row.outcome is Outcome.STOPPED
    world.ring(alice, 3)
    await world.over(alice.job_id)
    row = await world.until_phase(Phase.ENDED, ALICE)
    assert (row.outcome, row.exit_code) == (Outcome.FAILED, 3)
    assert world.orders() == (2, 1)


@pytest.mark.parametrize("site", ALL, ids=str)
async def test_an_answer_that_is_cut_anywhere_says_nothing_false(make_world, site: Site) -> None:
    """Of every beginning of a true answer: what is read from it is true, and no job is gone."""
    world = await make_world(site)
    await world.ready(ALICE)
    await world.queued(BOB)
    jobs = [(await world.row(user)).job_id for user in (ALICE, BOB)]
    done = await world.transport.run(world.dialect.status(jobs))
    whole = world.dialect.read_status(done, jobs).jobs
    assert set(whole) == set(jobs)
    for end in range(len(done.out)):
        try:
            listing = world.dialect.read_status(Completed(done.code, done.out[:end], done.err), jobs)
        except Unreachable:
            continue
        assert not listing.gone
        for job, report in listing.jobs.items():
            assert (report.state, report.host) == (whole[job].state, whole[job].host), done.out[:end]
