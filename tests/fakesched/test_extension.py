"""More time for a running job, by the dialects' own commands against the fake's executables and their permissions."""

import subprocess
from datetime import timedelta

import pytest

from batchhub.core.errors import Conflict, Denied
from batchhub.core.ports import Completed
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs
from batchhub.schedulers.slurm import Slurm
from tests.fakesched.engine import Cluster

SITE = {
    "nodes": {"n1": {"cores": 4, "memory": 8000}},
    "partitions": [{"name": "work", "default": True, "max_time": 600, "default_time": 30}],
    "simulate": True,
    "admins": ["root", "hubservice"],
}
SUBMIT = {
    "slurm": ("sbatch", "--parsable", "--time=30"),
    "pbs": ("qsub", "-l", "walltime=00:30:00"),
    "lsf": ("bsub", "-W", "30", "-o", "log"),
}


@pytest.fixture(params=["slurm", "pbs", "lsf"])
def site(request, tmp_path):
    made = Cluster(tmp_path / "cluster").create(SITE)
    dialect = {"slurm": Slurm, "pbs": Pbs, "lsf": Lsf}[request.param]()

    def run(argv, user="ann", stdin=""):
        env = made.environment(request.param, user) | {"HOME": str(tmp_path), "TZ": "UTC"}
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    yield made, dialect, run
    made.shutdown()


def start(dialect, run):
    """A job of half an hour that runs."""
    job = dialect.read_submit(run(SUBMIT[dialect.name], stdin="#!/bin/sh\nsleep 1000\n"))
    for _ in range(600):
        if limit(dialect, run, job) is not None:
            return job
    raise AssertionError("it does not run")


def limit(dialect, run, job):
    report = dialect.read_status(run(dialect.status([job]).argv), [job]).jobs[job]
    return report.time_limit if report.state == "running" else None


def test_people_may_not_raise_the_limit_of_what_runs_and_operators_may(site):
    _, dialect, run = site
    job = start(dialect, run)
    assert limit(dialect, run, job) == timedelta(minutes=30)
    command = dialect.extend(job, timedelta(hours=2))
    with pytest.raises(Denied, match="does not permit it: "):
        dialect.read_extend(run(command.argv))
    assert limit(dialect, run, job) == timedelta(minutes=30)
    if dialect.name == "lsf":
        return  # there it is the site's setting, not who asks
    dialect.read_extend(run(command.argv, user="hubservice"))
    assert limit(dialect, run, job) == timedelta(hours=2)


def test_lsf_lets_people_where_the_site_has_said_so(site):
    cluster, dialect, run = site
    if dialect.name != "lsf":
        return
    cluster.configure(lsb_mod_all_jobs=True)
    job = start(dialect, run)
    dialect.read_extend(run(dialect.extend(job, timedelta(hours=2)).argv))
    assert limit(dialect, run, job) == timedelta(hours=2)
    with pytest.raises(Denied, match="hard limit"):
        dialect.read_extend(run(dialect.extend(job, timedelta(hours=20)).argv))


def test_a_job_that_is_over_has_no_more_time(site):
    _, dialect, run = site
    job = start(dialect, run)
    for command in dialect.cancel([job]):
        run(command.argv)
    for _ in range(600):
        if limit_or_gone(dialect, run, job) is None:
            break
    with pytest.raises((Conflict, Denied)):
        dialect.read_extend(run(dialect.extend(job, timedelta(hours=2)).argv))


def limit_or_gone(dialect, run, job):
    listing = dialect.read_status(run(dialect.status([job]).argv), [job])
    report = listing.jobs.get(job)
    return None if report is None or report.state.terminal else report
