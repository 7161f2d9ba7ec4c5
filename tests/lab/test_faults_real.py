"""The faults of issue 4 on real Slurm, with the real control plane: what a row then says, and that nothing was submitted or cancelled for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.handshake import server_token, start_token
from batchhub.core.model import JobState, Outcome, Phase, Server
from batchhub.core.ports import RouteTarget
from tests.lab.cluster import SlurmLab
from tests.lab.faulty import KEY, Plane, ask

pytestmark = [pytest.mark.cluster, pytest.mark.sshd]


@pytest.fixture(scope="module", autouse=True)
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SlurmLab, Plane, Plane]]:
    """Two hubs, with accounting and without, that go away before their jobs end, on a controller that soon forgets those.

    It looks for what to forget once a minute: that passes while the other tests run.
    """
    directory = tmp_path_factory.mktemp("unseen")
    with SlurmLab(accounting=True, min_job_age=2) as lab:
        ssh = lab.way_in(directory, "alice")
        with_accounting, without = (Plane(lab, directory, ssh, sacct=sacct) for sacct in (True, False))
        for plane in (with_accounting, without):
            asyncio.run(_end_unseen(plane))
        yield lab, with_accounting, without
        lab.cancel_all()


async def _end_unseen(plane: Plane) -> None:
    async with plane:
        rows = [await plane.ready(name) for name in ("killed", "limited")]
    killed, limited = (str(row.job_id) for row in rows)
    plane.lab.run_as("alice", ["scancel", killed])
    plane.lab.admin("scontrol", "update", f"jobid={limited}", "endtime=now")


@pytest.fixture(scope="module")
def ssh(slurm_lab: SlurmLab, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return slurm_lab.way_in(tmp_path_factory.mktemp("ssh"), "alice")


@pytest.fixture
async def plane(slurm_lab: SlurmLab, tmp_path: Path, ssh: Mapping[str, Any]):
    async with Plane(slurm_lab, tmp_path, ssh) as made:
        yield made
    slurm_lab.cancel_all()
    slurm_lab.resume_nodes()


def nothing_was_done(plane: Plane, *rows: Server, submits: int = 1) -> None:
    """One job each, and no submit or cancel beside what the person asked for."""
    for row in rows:
        assert plane.jobs(row) == [row.job_id]
    assert (plane.count("sbatch"), plane.count("scancel")) == (submits, 0)


def secret(row: Server) -> str:
    return f"token {start_token(server_token(KEY, row.id, row.generation), row.nonce)}"


def only_its_new_secret_opens(route: RouteTarget | None, before: Server, after: Server) -> None:
    assert route is not None
    assert after.endpoint is not None
    assert (route.endpoint.host, route.endpoint.port) == (after.host, after.endpoint.port)
    assert after.generation == before.generation + 1
    assert after.nonce != before.nonce
    assert route.authorization == secret(after)
    assert ask(route, "/user/alice/") == 200
    assert ask(route, "/user/alice/", secret(before)) == 403


async def test_a_controller_that_is_away_for_ten_minutes_changes_nothing(plane: Plane) -> None:
    running = await plane.ready()
    waiting = await plane.spawn("waits", "held")
    waiting = await plane.until(lambda row: row.phase is Phase.QUEUED, "waits")
    route = plane.route()
    plane.lab.stop_controller()
    try:
        for _ in range(4):
            await plane.tick()
            assert (await plane.row(), await plane.row("waits")) == (running, waiting)
            assert plane.poller.silent_since is not None
            assert "Unable to contact slurm controller" in plane.poller.silent_word
            assert plane.route() == route
            plane.clock.move(150)
        # Somebody starts one meanwhile: nobody knows whether it worked, so it is not tried again before that is known.
        await plane.spawn("new")
        await plane.tick()
        asked = await plane.row("new")
        assert (asked.phase, asked.job_id, asked.submit_count) == (Phase.REQUESTED, None, 1)
    finally:
        plane.lab.start_controller()
    assert route is not None
    assert ask(route, "/user/alice/") == 200, "the notebook never noticed"
    await plane.tick()
    assert (await plane.row(), await plane.row("waits")) == (running, waiting)
    assert plane.poller.silent_since is None
    assert plane.route() == route
    assert plane.jobs(running) == [running.job_id]
    assert plane.jobs(waiting) == [waiting.job_id]
    assert plane.count("scancel") == 0
    # The lost start: absent for three minutes, so it never was, and it is submitted once more.
    assert plane.jobs(asked) == []
    for _ in range(3):
        plane.clock.move(100)
        await plane.tick()
    again = await plane.until(lambda row: row.phase is Phase.READY, "new")
    assert plane.jobs(again) == [again.job_id]
    assert (again.submit_count, plane.count("sbatch"), plane.count("scancel")) == (2, 4, 0)


async def test_a_requeued_job_waits_and_comes_up_again_with_other_secrets(plane: Plane) -> None:
    first = await plane.ready()
    assert first.job_id is not None
    plane.lab.admin("scontrol", "requeuehold", first.job_id)
    queued = await plane.until(lambda row: row.phase is Phase.QUEUED)
    assert (queued.host, queued.endpoint, queued.answered) == ("", None, None)
    assert plane.route() is None
    seen = plane.poller.newest(first.id)
    assert seen is not None
    assert seen.report is not None
    assert seen.report.state is JobState.HELD
    plane.lab.admin("scontrol", "release", first.job_id)
    again = await plane.until(lambda row: row.phase is Phase.READY)
    assert again.job_id == first.job_id
    only_its_new_secret_opens(plane.route(), first, again)
    nothing_was_done(plane, again)


async def test_a_preempted_job_is_followed_to_another_node(plane: Plane) -> None:
    first = await plane.ready(partition="low", cores="16")
    plane.lab.preempt(first.host)
    assert plane.route() is not None
    again = await plane.until(lambda row: row.phase is Phase.READY and row.host != first.host)
    assert again.host in plane.lab.nodes
    only_its_new_secret_opens(plane.route(), first, again)
    nothing_was_done(plane, again)


async def test_a_job_whose_node_is_down_has_failed_with_its_node(plane: Plane) -> None:
    first = await plane.ready(profile="once")
    plane.lab.set_node(first.host, "down")
    # It could still be requeued: for a minute nobody gives it up.
    stopping = await plane.until(lambda row: row.phase is not Phase.READY)
    assert (stopping.phase, stopping.outcome) == (Phase.STOPPING, None)
    assert plane.route() is None
    plane.clock.move(61)
    ended = await plane.until(lambda row: row.phase is Phase.ENDED)
    assert (ended.outcome, ended.words) == (Outcome.NODE_FAILURE, "NODE_FAIL (NodeDown)")
    nothing_was_done(plane, ended)


async def test_walltime_a_cancel_from_outside_and_a_suspension(plane: Plane) -> None:
    limited = await plane.ready("limited")
    cancelled = await plane.ready("cancelled")
    stopped = await plane.ready("stopped")
    assert limited.job_id is not None
    assert cancelled.job_id is not None
    assert stopped.job_id is not None
    plane.lab.admin("scontrol", "update", f"jobid={limited.job_id}", "endtime=now")
    plane.lab.run_as("alice", ["scancel", cancelled.job_id])
    plane.lab.admin("scontrol", "suspend", stopped.job_id)
    ended = await plane.until(lambda row: row.phase is Phase.ENDED, "cancelled")
    assert (ended.outcome, ended.words.split(" ")[0]) == (Outcome.CANCELLED, "CANCELLED")
    assert plane.route("cancelled") is None
    seen = plane.poller.newest(stopped.id)
    assert seen is not None
    assert seen.report is not None
    assert seen.report.state is JobState.SUSPENDED
    assert await plane.row("stopped") == stopped, "it keeps its node, its route and its secret"
    assert plane.route("stopped") is not None
    plane.lab.admin("scontrol", "resume", stopped.job_id)
    timed_out = await plane.until(lambda row: row.phase is Phase.ENDED, "limited")
    assert (timed_out.outcome, timed_out.words) == (Outcome.TIMED_OUT, "TIMEOUT (TimeLimit)")
    assert plane.route("limited") is None
    assert await plane.row("stopped") == stopped
    nothing_was_done(plane, ended, timed_out, stopped, submits=3)


# ---------------------------------------------------------------- ended and forgotten between two looks


@pytest.fixture(scope="module")
def forgotten(unseen: tuple[SlurmLab, Plane, Plane]) -> tuple[Plane, Plane]:
    """The two hubs, once the controller knows nothing of their jobs any more."""
    lab, with_accounting, without = unseen
    deadline = time.monotonic() + 180
    while lab.admin("squeue", "-h", "-t", "all", "-o", "%i"):
        assert time.monotonic() < deadline, "the controller forgets nothing"
        time.sleep(0.5)
    return with_accounting, without


async def test_accounting_tells_how_a_forgotten_job_ended(forgotten: tuple[Plane, Plane]) -> None:
    plane, _ = forgotten
    async with plane:
        killed = await plane.until(lambda row: row.phase is Phase.ENDED, "killed")
        late = await plane.until(lambda row: row.phase is Phase.ENDED, "limited")
    assert (killed.outcome, killed.words.split(" ")[0]) == (Outcome.CANCELLED, "CANCELLED")
    assert late.outcome is Outcome.TIMED_OUT
    assert late.words.startswith("TIMEOUT")
    assert plane.routes.routes == {}
    assert (plane.count("sbatch"), plane.count("scancel")) == (2, 0)


async def test_without_accounting_the_job_s_own_record_tells(forgotten: tuple[Plane, Plane]) -> None:
    """After a minute's patience: the records of a site without accounting are only the controller's, which has forgotten too."""
    _, plane = forgotten
    async with plane:
        await plane.tick()
        assert (await plane.row("killed")).phase is Phase.READY, "missing once is no end"
        plane.clock.move(61)
        for name in ("killed", "limited"):
            ended = await plane.until(lambda row: row.phase is Phase.ENDED, name)
            assert ended.outcome is Outcome.FAILED
            assert ended.words == "stopped by SIGTERM"
    assert plane.routes.routes == {}
    assert (plane.count("sbatch"), plane.count("scancel")) == (2, 0)
