"""Every dialect lists the live jobs of everybody whose names bear the hub's tag, from what the real commands' stand-ins print."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.errors import Unreachable
from batchhub.core.model import JobReport, JobState
from batchhub.core.ports import Command, Completed, Dialect
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm
from tests.fakesched.engine import Cluster
from tests.fakesched.recorded import recorded

OURS, THEIRS = "bh-abcdefghijkl", "bh-mnopqrstuvwx"
CASES: dict[str, tuple[Dialect, str, dict[str, Any]]] = {
    "slurm": (Slurm(), "slurm", {}),
    "pbs": (Pbs(), "pbs", {}),
    "torque": (Torque(), "pbs", {"torque": True}),
    "lsf": (Lsf(), "lsf", {}),
    "openlava": (Lsf(flavour="openlava"), "lsf", {"lsf": "openlava"}),
}


class Case:
    """A dialect and the stand-in that it asks."""

    def __init__(self, name: str, path: Path) -> None:
        self.dialect, self.bin, config = CASES[name]
        config = {"simulate": True, "users": ["alice", "somebody-with-a-long-name"], **config}
        self.cluster = Cluster(path).create(config)

    def run(self, command: Command) -> Completed:
        env = self.cluster.environment(self.bin, "the-hub") | dict(command.env)
        argv = [str(Path(self.cluster.bin(self.bin)) / command.argv[0]), *command.argv[1:]]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)

    def tagged(self) -> list[JobReport]:
        return list(self.dialect.read_tagged(self.run(self.dialect.tagged("bh-")), "bh-"))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = Case(request.param, tmp_path / "cluster")
    yield made
    made.cluster.shutdown()


def test_everybodys_live_jobs_with_the_tag(case: Case) -> None:
    assert case.tagged() == []
    case.cluster.insert(name="bhx", user="alice")
    waiting = case.cluster.insert(name=OURS, user="alice", held="user")
    running = case.cluster.insert(name=THEIRS, user="somebody-with-a-long-name", held="user")
    over = case.cluster.insert(name="bh-yyyyyyyyyyyy", user="alice", held="user")
    case.cluster.cancel(over)
    found = case.tagged()
    assert [(job.id, job.name) for job in found] == [(str(waiting), OURS), (str(running), THEIRS)]
    assert not any(job.state.terminal for job in found)
    # What the listing leaves out of the owner, the status question tells of the same ids.
    ids = [job.id for job in found]
    seen = case.dialect.read_status(case.run(case.dialect.status(ids)), ids).jobs
    users = [job.user or seen[job.id].user for job in found]
    assert users == ["alice", "somebody-with-a-long-name"]


def test_nobody_answered(case: Case) -> None:
    for done in (
        Completed(None, timed_out=True),
        Completed(0, "x", truncated=True),
        Completed(1, "", "Connection refused"),
    ):
        with pytest.raises(Unreachable):
            case.dialect.read_tagged(done, "bh-")


def test_a_row_that_somebody_wrote_into_a_jobs_name_is_at_most_a_hint() -> None:
    """Slurm prints names as they are. The forged row is read like a true one, which is why nothing is done without asking again."""
    honest = f"7\x1fPENDING\x1fmallory\x1f1795381600\x1f{OURS}\n"
    forged = f"8\x1fPENDING\x1fmallory\x1f1795381600\x1fx\n1\x1fRUNNING\x1falice\x1f1795381600\x1f{THEIRS}\n"
    odd = f"nine\x1fPENDING\x1fal\x1fN/A\x1f{OURS}\nbh-\n\x1f\x1f\x1f\x1fbh-\n"
    found = Slurm().read_tagged(Completed(0, honest + forged + odd), "bh-")
    assert [(job.id, job.user, job.name) for job in found] == [("1", "alice", THEIRS), ("7", "mallory", OURS)]


def test_recorded_tables() -> None:
    done = recorded("openpbs", "poll_running_short")
    (job,) = Pbs().read_tagged(Completed(done.rc, done.out, done.err), "po")
    assert (job.id, job.name, job.state, job.user) == ("1000", "poll", JobState.UNKNOWN, "")
    done = recorded("openpbs", "hist_list_x_w")
    assert Pbs().read_tagged(Completed(done.rc, done.out, done.err), "") == (), "they have finished"
    done = recorded("openpbs", "server_down_list")
    with pytest.raises(Unreachable):
        Pbs().read_tagged(Completed(done.rc, done.out, done.err), "")
    done = recorded("openlava", "list_all_wide_uall")
    found = Lsf(flavour="openlava").read_tagged(Completed(done.rc, done.out, done.err), "a")
    assert [(job.id, job.name, job.user) for job in found] == [("234", "a b", "hpcuser")]
