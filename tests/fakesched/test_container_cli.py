"""The fake engine by the dialects' own commands: what ``tests/engines`` sees of the real ones, the fake must show too."""

import subprocess
from pathlib import Path

import pytest

from batchhub.core.errors import SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobState
from batchhub.core.ports import Completed, JobRequest
from batchhub.schedulers.container import Docker, Podman
from tests.fakesched.engine import Cluster

NEVER = JobId("0" * 64)


@pytest.fixture(params=["podman", "docker"])
def box(request, tmp_path):
    made = Cluster(tmp_path / "cluster").create({"nodes": {"box": {"cores": 4}}, "users": ["ann"], "kill_wait": 0.3})
    dialect = {"podman": Podman, "docker": Docker}[request.param](image="lab:1", stop_seconds=1)

    def run(command):
        env = made.environment(request.param, "hub")
        done = subprocess.run(command.argv, capture_output=True, text=True, env=env, timeout=60, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)

    yield made, dialect, run
    made.shutdown()


def asked(tmp_path: Path, script: str, user: str = "ann") -> JobRequest:
    (tmp_path / "job.sh").write_text(script)
    return JobRequest("bh-abcdefghijkl", str(tmp_path), script, user)


def test_the_life_of_a_container(box, tmp_path) -> None:
    cluster, dialect, run = box
    request = asked(tmp_path, "#!/bin/bash\n#CONTAINER --cpus=1 --network=host --walltime=600\nexec sleep 600\n")
    job = dialect.read_submit(run(dialect.submit(request)))
    (found,) = dialect.read_find(run(dialect.find(request.name, "ann")))
    (live,) = dialect.read_tagged(run(dialect.tagged("bh-")), "bh-")
    listing = dialect.read_status(run(dialect.status([job, NEVER])), [job, NEVER])
    assert {found.id, live.id} == {job}
    assert (listing.jobs[job].state, listing.jobs[job].user, listing.gone) == (JobState.RUNNING, "ann", {NEVER})
    (seen,) = cluster.jobs()
    assert seen.user == "ann"
    with pytest.raises(SubmitAmbiguous, match="already in use"):
        dialect.read_submit(run(dialect.submit(request)))
    cluster.suspend(seen.id)
    assert dialect.read_status(run(dialect.status([job])), [job]).jobs[job].state is JobState.SUSPENDED
    cluster.resume(seen.id)
    for command in dialect.cancel([NEVER, job]):
        dialect.read_cancel(run(command))
    cluster.wait(seen.id, "CANCELLED")
    assert dialect.read_status(run(dialect.status([job])), [job]).jobs[job].state is JobState.CANCELLED
    assert dialect.read_tagged(run(dialect.tagged("bh-")), "bh-") == ()
    (queue,) = dialect.read_inspect([run(command) for command in dialect.inspect()])
    assert queue.max_cores == 4


def test_refusals_leave_nothing(box, tmp_path) -> None:
    cluster, dialect, run = box
    for request, words in (
        (asked(tmp_path, "#!/bin/bash\n#CONTAINER --image=nosuch:1\n"), "nosuch:1"),
        (asked(tmp_path, "#!/bin/bash\n", "root"), "is root"),
    ):
        with pytest.raises(SubmitRejected, match=words):
            dialect.read_submit(run(dialect.submit(request)))
    assert not cluster.jobs()


def test_faults_say_nothing(box, tmp_path) -> None:
    cluster, dialect, run = box
    job = dialect.read_submit(run(dialect.submit(asked(tmp_path, "#!/bin/bash\nexit 3\n"))))
    for fault in ("down", "garbage", "truncated", "ok_with_error_text"):
        cluster.fault(fault, command=dialect.name, times=1)
        with pytest.raises(Unreachable):
            dialect.read_status(run(dialect.status([job])), [job])
    cluster.fault("down")
    with pytest.raises(SubmitAmbiguous):
        dialect.read_submit(run(dialect.submit(asked(tmp_path, "#!/bin/bash\n"))))
    cluster.clear_faults()
    (seen,) = cluster.jobs()
    cluster.wait(seen.id)
    report = dialect.read_status(run(dialect.status([job])), [job]).jobs[job]
    assert (report.state, report.exit_code) == (JobState.FAILED, 3)
