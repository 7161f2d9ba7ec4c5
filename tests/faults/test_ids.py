"""Whose job is meant: ids with a cluster, a server or an element in them, ids that a site's wrapper prints, and ids that are used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchhub.core.errors import BadInput
from batchhub.core.model import JobId, Outcome, Phase
from batchhub.schedulers.slurm import Slurm
from tests.faults.sites import LSF, OPENLAVA, PBS, SLURM, THREE, TORQUE, Site
from tests.faults.world import ALICE, BOB, World


async def foreign(world: World, number: str, user: str = "mallory") -> None:
    """A job of this number, of somebody who is not ours."""
    world.fake._change(number, lambda job: job.update(user=user, name="theirs"))


async def test_a_script_sends_its_job_to_another_cluster_of_the_database(make_world) -> None:
    """``123;east``: the same number here is another job, of the same person even; it is neither taken for ours nor cancelled."""
    world = await make_world(SLURM, directives="#SBATCH --clusters=east")
    east = world.beside("east")
    own = world.fake.insert(seq=1, user="root", name="own", state="RUNNING", layout={"n2": 1}, start=1795847253.0)
    row = await world.ready(ALICE)
    assert row.job_id == "1;east"
    assert (await world.view(ALICE)).status.silent_since is None
    await world.stop(ALICE)
    ended = await world.until_phase(Phase.ENDED, ALICE, 2)
    assert ended.outcome is Outcome.STOPPED
    assert [job.state for job in east.jobs()] == ["CANCELLED"]
    assert world.fake.job(own).state == "RUNNING"


async def test_jobs_of_two_clusters_are_asked_for_each_at_its_own(make_world) -> None:
    world = await make_world(SLURM)
    east = world.beside("east")
    alice = await world.ready(ALICE)
    world.builder.directives = "#SBATCH --clusters=east"
    bob = await world.ready(BOB)
    assert (alice.job_id, bob.job_id) == ("1", "1;east")
    before = world.fake.count("squeue")
    await world.tick()
    assert world.fake.count("squeue") == before + 2
    world.ring(bob, 0)
    assert (await world.until_phase(Phase.ENDED, BOB, 2)).outcome is Outcome.COMPLETED
    assert (await world.row(ALICE)) == alice
    assert [job.state for job in east.jobs()] == ["COMPLETED"]


def test_a_federations_numbers_mean_the_same_job_everywhere() -> None:
    slurm, job = Slurm(), JobId(f"{(1 << 26) + 5};east")
    for argv in (slurm.status([job]).argv, *(command.argv for command in slurm.cancel([job]))):
        assert not any("clusters" in word for word in argv)
    assert "--clusters=east" in slurm.status([JobId("5;east")]).argv
    assert "--clusters=west" in Slurm(cluster="west").status([JobId("5")]).argv
    assert [command.argv[1:] for command in slurm.cancel([JobId("5;east"), JobId("5"), JobId("6;east")])] == [
        ("--clusters=east", "5", "6"),
        ("5",),
    ]
    with pytest.raises(BadInput, match="several Slurm clusters"):
        slurm.status([JobId("5;east"), JobId("5")])


@pytest.mark.parametrize(
    ("site", "job", "asked"),
    [
        (SLURM, "123_4", "123_4"),
        (SLURM, "123+1", "123+1"),
        (SLURM, "123_4;east", "123_4"),
        (PBS, "123[4].head", "123[4].head"),
        (TORQUE, "123[4].head", "123[4].head"),
        (LSF, "123[4]", "123[4]"),
        (OPENLAVA, "123[4]", "123[4]"),
    ],
    ids=str,
)
def test_an_element_is_never_broadened_to_its_array(site: Site, job: str, asked: str) -> None:
    dialect = site.make("/opt/bin")
    (cancel,) = dialect.cancel([JobId(job)])
    assert cancel.argv[-1] == asked
    assert "123" not in cancel.argv
    assert dialect.status([JobId(job)]).argv[-1].removeprefix("--jobs=") == asked
    for nothing in ("", "0", "all", "*", "123[", "-u", "123 124"):
        if nothing == "0" and site.bin != "lsf":  # only to LSF is 0 everybody's
            continue
        with pytest.raises(BadInput):
            dialect.cancel([JobId(nothing)])


WRAPPERS = {
    "slurm": '#!/bin/sh\necho "Your project has 12 core-hours left."\n{real} "$@"\n',
    "pbs": '#!/bin/sh\necho "Using queue cpu"\n{real} "$@" | sed "s/$/.cluster.test/"\n',
    "lsf": '#!/bin/sh\necho "Job 7 of 12 this month"\n{real} "$@"\necho "See job <99> for help"\n',
}


@pytest.mark.parametrize("site", THREE, ids=str)
async def test_what_a_sites_own_submit_command_prints(make_world, site: Site) -> None:
    """A wrapper that says more, or names the server in full: the job is followed, found and cancelled all the same."""
    world = await make_world(site)
    command = Path(world.bin_dir, site.submit)
    real = command.rename(command.with_name(f"{site.submit}.real"))
    # A command of fakesched knows itself by the name that is written in it.
    command.write_text(WRAPPERS[site.bin].format(real=real))
    command.chmod(0o755)
    await world.ready()
    await world.stop()
    ended = await world.until_phase(Phase.ENDED, seconds=2)
    assert ended.outcome is Outcome.STOPPED
    assert [job.state for job in world.fake.jobs()] == ["CANCELLED"]
    assert world.orders() == (1, 1)


@pytest.mark.parametrize("site", THREE, ids=str)
async def test_a_strangers_job_under_our_number_is_not_ours(make_world, site: Site) -> None:
    """The scheduler was set up anew and counts from 1 again: the stranger's job is no sight of ours, and is left alone."""
    world = await make_world(site)
    row = await world.ready(ALICE)
    await foreign(world, row.job_id)
    await world.tick()
    assert (await world.row(ALICE)).phase is Phase.READY
    ended = await world.until_phase(Phase.ENDED, ALICE, 60)
    assert ended.outcome is Outcome.FAILED
    assert not world.routed(ALICE)
    assert world.orders() == (1, 0)
    assert [job.state for job in world.fake.jobs()] == ["RUNNING"]
