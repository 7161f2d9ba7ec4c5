"""The Slurm dialect against real Slurm: its commands, run as people on the lab's login node."""

import fnmatch
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.core.errors import CommandNotFound, Conflict, Denied, SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JobId, JobReport, JobState
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.schedulers.slurm import Slurm
from tests.lab.cluster import SERVICE, SlurmLab

pytestmark = pytest.mark.cluster

# What a person may have in the login profile; every one of these breaks a naive question.
NUISANCES = {
    "SQUEUE_FORMAT": "%j",
    "SQUEUE_STATES": "SUSPENDED",
    "SQUEUE_SORT": "i",
    "SLURM_TIME_FORMAT": "relative",
    "SBATCH_PARTITION": "nope",
    "SACCT_FORMAT": "JobName",
    "SINFO_FORMAT": "%n",
    "SLURM_EXIT_ERROR": "0",
    "TZ": "Asia/Tokyo",
}


class Cluster:
    """The dialect with the simplest of transports."""

    def __init__(self, lab: SlurmLab, slurm: Slurm) -> None:
        self.lab, self.slurm = lab, slurm

    def run(self, command: Command, user: str = SERVICE) -> Completed:
        env = {**self.lab.env, "HOME": pwd.getpwnam(user).pw_dir, **NUISANCES}
        kept = {
            name: value
            for name, value in env.items()
            if any(fnmatch.fnmatchcase(name, keep) for keep in command.keep)
            or not any(fnmatch.fnmatchcase(name, gone) for gone in command.unset)
        }
        done = self.lab.run_as(user, command.argv, command.stdin, env={**kept, **command.env}, timeout=command.deadline)
        return Completed(done.returncode, done.stdout, done.stderr)

    def submit(self, name: str, script: str, user: str = "alice") -> JobId:
        request = JobRequest(name, str(self.directory(name, user)), "#!/bin/sh\n" + script, user)
        return self.slurm.read_submit(self.run(self.slurm.submit(request), user))

    def directory(self, name: str, user: str) -> Path:
        """A fresh one; an earlier run of the tests may have left its own."""
        directory = Path(pwd.getpwnam(user).pw_dir) / "lab-jobs" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for path in (directory.parent, directory):
            shutil.chown(path, user, user)
        return directory

    def log(self, name: str, user: str = "alice") -> str:
        return (Path(pwd.getpwnam(user).pw_dir) / "lab-jobs" / name / "job.log").read_text()

    def see(self, job: JobId) -> JobReport:
        listing = self.slurm.read_status(self.run(self.slurm.status([job])), [job])
        assert not listing.bad_rows
        return listing.jobs[job]

    def wait(self, job: JobId, *states: JobState, seconds: float = 30) -> JobReport:
        self.lab.wait_until(lambda: self.see(job).state in states, seconds, f"job {job} to be {states}")
        return self.see(job)

    def cancel(self, job: JobId, user: str = "alice") -> None:
        for command in self.slurm.cancel([job]):
            self.slurm.read_cancel(self.run(command, user))


@pytest.fixture
def cluster(slurm_lab: SlurmLab) -> Iterator[Cluster]:
    yield Cluster(slurm_lab, Slurm(sacct=False))
    slurm_lab.cancel_all()


def test_a_job_from_submit_to_its_end(cluster: Cluster) -> None:
    before = cluster.lab.admin("squeue", "-h", "--states=all", "-o", "%i").split()
    job = cluster.submit(
        "bh-life", "#SBATCH --job-name=other --output=/nowhere/x --time=5\nhostname; sleep 3; exit 3\n"
    )
    assert job not in before
    seen = cluster.wait(job, JobState.RUNNING)
    assert (seen.user, seen.partition, seen.host) == ("alice", "debug", seen.nodes[0])
    assert seen.host in cluster.lab.nodes
    assert seen.time_limit is not None
    assert seen.time_limit.total_seconds() == 300
    assert seen.time_left is not None
    assert 0 < seen.time_left.total_seconds() <= 300
    assert seen.submitted is not None
    assert seen.started is not None
    # The controller's clock is this machine's: the times are real ones, whatever zone and format the person likes.
    assert abs(seen.started.timestamp() - os.path.getmtime(cluster.lab.root / "log/slurmctld")) < 60
    found = cluster.slurm.read_find(cluster.run(cluster.slurm.find("bh-life", "alice")))
    assert [one.id for one in found] == [job]
    assert cluster.slurm.read_find(cluster.run(cluster.slurm.find("bh-life", "bob"))) == []
    ended = cluster.wait(job, JobState.FAILED)
    assert ended.ended is not None
    assert ended.reason == "NonZeroExitCode"
    assert cluster.log("bh-life") == f"{seen.host}\n"
    command = cluster.slurm.accounting([job])
    assert command is not None
    shown = cluster.slurm.read_accounting(cluster.run(command), [job])[job]
    assert (shown.state, shown.exit_code, shown.started) == (JobState.FAILED, 3, seen.started)


def test_percent_signs_in_the_directory(cluster: Cluster) -> None:
    directory = cluster.directory("50%j %u", "alice")
    request = JobRequest("bh-percent", str(directory), "#!/bin/sh\npwd\n", "alice")
    job = cluster.slurm.read_submit(cluster.run(cluster.slurm.submit(request), "alice"))
    cluster.wait(job, JobState.COMPLETED)
    assert (directory / "job.log").read_text() == f"{directory}\n"


def test_our_environment_does_not_reach_the_job(cluster: Cluster) -> None:
    job = cluster.submit("bh-env", "env\n")
    cluster.wait(job, JobState.COMPLETED)
    names = {line.partition("=")[0] for line in cluster.log("bh-env").splitlines()}
    assert not {"SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "LC_ALL"} & names


def test_waiting_jobs(cluster: Cluster) -> None:
    held = cluster.submit("bh-held", "#SBATCH --hold\n")
    closed = cluster.submit("bh-closed", "#SBATCH -p closed\n")
    hog = cluster.submit("bh-hog", "#SBATCH -N 2 -n 32 -t 2\nsleep 100\n", "bob")
    cluster.wait(hog, JobState.RUNNING)
    waiting = cluster.submit("bh-wait", "#SBATCH -n 16 -t 1\nsleep 100\n")
    assert cluster.see(held).state is JobState.HELD
    assert (cluster.see(closed).state, cluster.see(closed).reason) == (JobState.PENDING, "PartitionDown")
    cluster.lab.wait_until(lambda: cluster.see(waiting).estimated_start is not None, 20, "an estimated start")
    seen = cluster.see(waiting)
    assert (seen.state, seen.started, seen.nodes, seen.host) == (JobState.PENDING, None, (), "")
    # All at once, ids nobody knows among them.
    jobs = [held, closed, hog, waiting, JobId("999998"), JobId("999999")]
    listing = cluster.slurm.read_status(cluster.run(cluster.slurm.status(jobs)), jobs)
    assert set(listing.jobs) == set(jobs[:4])
    assert not listing.gone
    assert listing.jobs[hog].nodes == cluster.lab.nodes


def test_gone_is_said_of_a_single_unknown_job(cluster: Cluster) -> None:
    jobs = [JobId("999999")]
    listing = cluster.slurm.read_status(cluster.run(cluster.slurm.status(jobs)), jobs)
    assert listing.gone == {"999999"}
    command = cluster.slurm.accounting(jobs)
    assert command is not None
    assert cluster.slurm.read_accounting(cluster.run(command), jobs) == {}


@pytest.mark.parametrize(
    ("directive", "words"),
    [
        ("--partition=nope", "invalid partition specified: nope"),
        ("--time=30-00", "Requested time limit is invalid"),
        ("--time=soon", "Invalid --time specification"),
        ("--nodes=50", "More processors requested than permitted"),
        ("--mem=900G", "Memory specification can not be satisfied"),
        ("--gres=gpu:v100:1", "Requested node configuration is not available"),
        ("--gres=quantum:1", "Invalid generic resource"),
        ("--constraint=nope", "Invalid feature specification"),
        ("--reservation=nope", "Requested reservation is invalid"),
        ("--frobnicate", "unrecognized option"),
    ],
)
def test_refusals(cluster: Cluster, directive: str, words: str) -> None:
    with pytest.raises(SubmitRejected, match=words):
        cluster.submit("bh-refused", f"#SBATCH {directive}\n")
    assert cluster.slurm.read_find(cluster.run(cluster.slurm.find("bh-refused", "alice"))) == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", "Batch script is empty"),
        ("\n", "whitespace"),
        ("x\n", "batch script"),
        ("#!/bin/sh\r\n", "DOS line breaks"),
    ],
)
def test_scripts_that_are_none(cluster: Cluster, script: str, words: str) -> None:
    done = cluster.run(cluster.slurm.submit(JobRequest("bh-x", "/tmp", script, "alice")), "alice")
    with pytest.raises(SubmitRejected, match=words):
        cluster.slurm.read_submit(done)


def test_a_submit_whose_answer_is_lost_is_found_by_name(cluster: Cluster) -> None:
    job = cluster.submit("bh-lost", "sleep 60\n")
    with pytest.raises(SubmitAmbiguous):
        cluster.slurm.read_submit(Completed(None, timed_out=True))
    (found,) = cluster.slurm.read_find(cluster.run(cluster.slurm.find("bh-lost", "alice")))
    assert found.id == job
    assert found.state in {JobState.PENDING, JobState.RUNNING}


def test_cancel(cluster: Cluster) -> None:
    running = cluster.submit("bh-c1", "sleep 100\n")
    cluster.wait(running, JobState.RUNNING)
    waiting = cluster.submit("bh-c2", "#SBATCH --hold\n")
    with pytest.raises(Denied):
        cluster.cancel(running, "bob")
    for job in (running, waiting, running, JobId("999999")):
        cluster.cancel(job)
    assert cluster.wait(running, JobState.CANCELLED).started is not None
    never_ran = cluster.wait(waiting, JobState.CANCELLED)
    assert (never_ran.started, never_ran.nodes) == (None, ())


def test_a_signal_ends_the_script(cluster: Cluster) -> None:
    job = cluster.submit("bh-sig", "kill -9 $$\n")
    cluster.wait(job, JobState.FAILED)
    command = cluster.slurm.accounting([job])
    assert command is not None
    assert cluster.slurm.read_accounting(cluster.run(command), [job])[job].signal == 9


def test_requeue(cluster: Cluster) -> None:
    job = cluster.submit("bh-requeue", "echo started; sleep 100\n")
    first = cluster.wait(job, JobState.RUNNING)
    cluster.lab.requeue(job)
    states: list[JobState] = []

    def runs_again() -> bool:
        seen = cluster.see(job)
        states.append(seen.state)
        return seen.state is JobState.RUNNING and seen.started != first.started

    cluster.lab.wait_until(runs_again, 60, "the requeued job to run again")
    assert not any(state.terminal for state in states), "on its way it never looked ended"
    assert any(state.waiting for state in states)
    cluster.lab.wait_until(lambda: cluster.log("bh-requeue").count("started\n") == 2, 10, "both runs in one log")


def test_preemption_moves_the_job(cluster: Cluster) -> None:
    job = cluster.submit("bh-low", "#SBATCH -p low -n 16\nsleep 100\n")
    first = cluster.wait(job, JobState.RUNNING)
    cluster.lab.preempt(first.host)
    states: list[JobState] = []

    def runs_elsewhere() -> bool:
        seen = cluster.see(job)
        states.append(seen.state)
        return seen.state is JobState.RUNNING and seen.host != first.host

    cluster.lab.wait_until(runs_elsewhere, 60, "the preempted job to run on the other node")
    assert set(states) <= {
        JobState.RUNNING,
        JobState.COMPLETING,
        JobState.PENDING,
        JobState.REQUEUED,
        JobState.PREEMPTED,
    }


def test_a_node_fails(cluster: Cluster) -> None:
    job = cluster.submit("bh-node", "#SBATCH --no-requeue\nsleep 100\n")
    host = cluster.wait(job, JobState.RUNNING).host
    cluster.lab.set_node(host, "down")
    try:
        assert cluster.wait(job, JobState.NODE_FAIL).host == host
    finally:
        cluster.lab.resume_nodes()


def test_the_time_limit(cluster: Cluster) -> None:
    job = cluster.submit("bh-limit", "#SBATCH -t 10\nsleep 100\n")
    cluster.wait(job, JobState.RUNNING)
    cluster.lab.admin("scontrol", "update", f"jobid={job}", "endtime=now")
    assert cluster.wait(job, JobState.TIMEOUT, seconds=90).ended is not None


def test_inspect(cluster: Cluster) -> None:
    queues = {
        q.name: q for q in cluster.slurm.read_inspect([cluster.run(command) for command in cluster.slurm.inspect()])
    }
    assert list(queues) == ["debug", "long", "low", "high", "closed"]
    debug = queues["debug"]
    assert (debug.default, debug.open, debug.nodes, debug.max_cores, debug.max_memory_mib) == (True, True, 2, 16, 16000)
    assert (debug.max_gpus, debug.gpu_types, debug.free_cores) == (2, ("a100",), 32)
    assert debug.max_walltime is not None
    assert debug.max_walltime.total_seconds() == 3600
    assert queues["low"].max_walltime is None
    assert [name for name, queue in queues.items() if not queue.open] == ["closed"]


def test_a_missing_installation(cluster: Cluster) -> None:
    slurm = Slurm(bin_dir="/nowhere/bin")
    command = slurm.status([JobId("1")])
    done = cluster.lab.run_as("alice", ["sh", "-c", 'exec "$@"', "sh", *command.argv])
    with pytest.raises(CommandNotFound):
        slurm.read_status(Completed(done.returncode, done.stdout, done.stderr), [JobId("1")])


def test_a_controller_that_is_down_says_nothing_about_jobs(cluster: Cluster) -> None:
    job = cluster.submit("bh-down", "sleep 100\n")
    cluster.wait(job, JobState.RUNNING)
    cluster.lab.stop_controller()
    try:
        reads: list[Callable[[], object]] = [
            lambda: cluster.see(job),
            lambda: cluster.slurm.read_find(cluster.run(cluster.slurm.find("bh-down", "alice"))),
            lambda: cluster.cancel(job),
            lambda: cluster.slurm.read_inspect([cluster.run(command) for command in cluster.slurm.inspect()]),
        ]
        for read in reads:
            with pytest.raises(Unreachable):
                read()
        with pytest.raises(SubmitAmbiguous, match="Unable to contact slurm controller"):
            cluster.submit("bh-down2", "sleep 1\n")
    finally:
        cluster.lab.start_controller()
    assert cluster.see(job).state is JobState.RUNNING


def test_accounting(slurm_lab_accounting: SlurmLab) -> None:
    lab = slurm_lab_accounting
    cluster = Cluster(lab, Slurm())
    failed = cluster.submit("bh-acc1", "exit 3\n")
    killed = cluster.submit("bh-acc2", "kill -9 $$\n")
    held = cluster.submit("bh-acc3", "#SBATCH --hold\n")
    running = cluster.submit("bh-acc4", "sleep 100\n")
    for job in (failed, killed):
        cluster.wait(job, JobState.FAILED)
    cluster.wait(running, JobState.RUNNING)
    cluster.cancel(held)
    jobs = [failed, killed, held, running, JobId("999999")]

    def ask() -> dict[JobId, JobReport]:
        command = cluster.slurm.accounting(jobs)
        assert command is not None
        return dict(cluster.slurm.read_accounting(cluster.run(command), jobs))

    lab.wait_until(
        lambda: {r.state for r in ask().values()} == {JobState.FAILED, JobState.CANCELLED, JobState.RUNNING},
        30,
        "records",
    )
    found = ask()
    assert set(found) == set(jobs[:4])
    assert (found[failed].exit_code, found[failed].signal) == (3, None)
    assert found[killed].signal == 9
    assert (found[held].started, found[held].nodes) == (None, ())
    assert found[held].raw_state.startswith("CANCELLED by ")
    assert found[running].host in lab.nodes
    assert found[failed].started == cluster.see(failed).started, "squeue and sacct mean the same time"
    # A run that was requeued, and the newest record of it.
    lab.requeue(running)
    lab.wait_until(lambda: ask()[running].state.waiting, 30, "the requeued run in accounting")
    cluster.cancel(running)
    lab.stop_slurmdbd()
    try:
        with pytest.raises(Unreachable):
            ask()
        assert cluster.see(failed).state is JobState.FAILED, "the queue answers without accounting"
        named = Cluster(lab, Slurm(cluster="lab"))  # --clusters asks slurmdbd where the cluster is
        with pytest.raises(Unreachable):
            named.see(failed)
        with pytest.raises(SubmitAmbiguous):
            named.submit("bh-acc5", "")
    finally:
        lab.start_slurmdbd()
    lab.cancel_all()


def test_a_cluster_by_name(slurm_lab_accounting: SlurmLab) -> None:
    cluster = Cluster(slurm_lab_accounting, Slurm(cluster="lab"))
    job = cluster.submit("bh-named", "#SBATCH --hold\n")
    assert job.endswith(";lab")
    assert cluster.see(job).state is JobState.HELD
    assert [found.id for found in cluster.slurm.read_find(cluster.run(cluster.slurm.find("bh-named", "alice")))] == [
        job
    ]
    cluster.cancel(job)
    cluster.wait(job, JobState.CANCELLED)
    command = cluster.slurm.accounting([job])
    assert command is not None
    cluster.slurm.read_accounting(cluster.run(command), [job])
    assert len(cluster.slurm.read_inspect([cluster.run(command) for command in cluster.slurm.inspect()])) == 5
    with pytest.raises(SubmitRejected, match="other"):
        Cluster(slurm_lab_accounting, Slurm(cluster="other")).submit("bh-other", "")


def test_accounting_that_is_disabled(cluster: Cluster) -> None:
    slurm = Slurm()
    command = slurm.accounting([JobId("1")])
    assert command is not None
    with pytest.raises(Unreachable, match="disabled"):
        slurm.read_accounting(cluster.run(command), [JobId("1")])


def test_more_time_is_the_operators_to_give_and_the_job_knows_its_first_end(cluster: Cluster) -> None:
    job = cluster.submit("bh-more", "#SBATCH --time=5\necho end=$SLURM_JOB_END_TIME\nexec sleep 1000\n")
    seen = cluster.wait(job, JobState.RUNNING)
    assert seen.started is not None
    command = cluster.slurm.extend(job, timedelta(hours=1))
    assert command is not None
    with pytest.raises(Denied, match=f"Access/permission denied for job {job}"):
        cluster.slurm.read_extend(cluster.run(command, "alice"))
    with pytest.raises(Denied, match="Slurm does not permit it"):
        cluster.slurm.read_extend(cluster.run(command, "bob"))
    assert cluster.see(job).time_limit == timedelta(minutes=5)
    cluster.slurm.read_extend(cluster.run(command, "root"))
    assert cluster.see(job).time_limit == timedelta(hours=1)
    cluster.lab.wait_until(lambda: "end=" in cluster.log("bh-more"), 60, "the job says its end")
    said = cluster.log("bh-more").partition("end=")[2].strip()
    # launch.py believes it where it is told (since 22.05), and the start that its script noted elsewhere.
    assert said == "" or abs(int(said) - seen.started.timestamp() - 300) < 60
    cluster.cancel(job)
    cluster.wait(job, JobState.CANCELLED)
    with pytest.raises(Conflict, match="as ended"):
        cluster.slurm.read_extend(cluster.run(command, "root"))
