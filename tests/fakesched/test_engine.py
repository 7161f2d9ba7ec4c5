"""The engine through Slurm's commands: jobs really run, end, move and suffer."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakesched.command import compress
from tests.fakesched.engine import Cluster
from tests.fakesched.slurm_submit import expand, parse_time

SLEEP = "#!/bin/sh\nexec sleep 60\n"


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path / "cluster").create(
        {"nodes": {"n1": {"cores": 2}, "n2": {"cores": 2}}, "kill_wait": 0.3, "requeue_delay": 0.0}
    )
    yield made
    made.shutdown()


@pytest.fixture
def run(cluster, tmp_path):
    def command(*argv, stdin="", user=None, timeout=30):
        env = cluster.environment("slurm", user) | {"HOME": str(tmp_path)}
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=timeout, check=False
        )

    return command


@pytest.fixture
def sbatch(run):
    def submit(script=SLEEP, *argv):
        done = run("sbatch", "--parsable", *argv, stdin=script)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def test_every_executable_is_a_real_file():
    for dialect in ("slurm", "pbs", "lsf"):
        for program in Path(Cluster.bin(dialect)).iterdir():
            assert program.stat().st_mode & 0o777 == 0o755
            assert program.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")


def test_a_job_runs_on_its_node_and_its_outcome_is_kept(cluster, sbatch, tmp_path):
    job = sbatch("#!/bin/sh\necho $SLURM_JOB_ID $HOSTNAME $FAKESCHED_NODE_ADDRESS; pwd; exit 3\n", "-J", "x")
    ended = cluster.wait(job)
    assert (ended.state, ended.exit_code, ended.reason, ended.last_nodes) == ("FAILED", 3, "NonZeroExitCode", ["n1"])
    assert (tmp_path / f"slurm-{job}.out").read_text() == f"{job} n1 127.0.1.11\n{tmp_path}\n"


def test_cores_are_limited_and_the_queue_is_first_in_first_out(cluster, sbatch):
    jobs = [sbatch(SLEEP, "-c", "2") for _ in range(4)]
    assert [cluster.job(job).state for job in jobs] == ["RUNNING", "RUNNING", "PENDING", "PENDING"]
    assert [cluster.job(job).reason for job in jobs[2:]] == ["Resources", "Priority"]
    cluster.finish_now(jobs[1])
    cluster.wait(jobs[2], "RUNNING")
    assert cluster.job(jobs[2]).host == "n2"
    assert cluster.job(jobs[1]).state == "COMPLETED"


def test_the_time_limit_kills_what_ignores_it(cluster, sbatch, tmp_path):
    cluster.configure(seconds_per_minute=0.5)
    job = sbatch("#!/bin/sh\ntrap '' TERM\n(setsid sleep 61 & echo $! > pid; sleep 62)\nsleep 63\n", "-t", "1")
    assert cluster.wait(job).state == "TIMEOUT"
    assert not alive(int((tmp_path / "pid").read_text()))


def test_requeue_moves_to_another_node_with_the_same_id(cluster, sbatch, tmp_path):
    job = sbatch("#!/bin/sh\necho $SLURMD_NODENAME >> where\nexec sleep 60\n", "-c", "2")
    first = cluster.wait(job, "RUNNING")
    cluster.requeue(job)
    second = cluster.wait(job, "RUNNING", restarts=1)
    assert (first.host, second.host, second.id, second.run) == ("n1", "n2", job, 2)
    assert [row["state"] for row in second.rows] == ["REQUEUED"]


def test_preemption_requeues_or_ends(cluster, sbatch):
    one, two = sbatch(), sbatch()
    cluster.preempt(one)
    cluster.preempt(two, requeue=False)
    assert cluster.wait(two).state == "PREEMPTED"
    assert cluster.wait(one, "RUNNING", restarts=1).rows[0]["state"] == "PREEMPTED"


def test_a_node_fails(cluster, sbatch):
    again, never = sbatch(), sbatch(SLEEP, "--no-requeue")
    cluster.fail_node("n1")
    assert cluster.wait(never).state == "NODE_FAIL"
    assert cluster.wait(again, "RUNNING", restarts=1).host == "n2"
    cluster.restore_node("n1")


def test_hold_suspend_and_lose(cluster, sbatch, run):
    cluster.configure(start_delay=0.2)
    job = sbatch()
    cluster.hold(job)
    assert cluster.job(job).reason == "JobHeldAdmin"
    cluster.release(job)
    pid = cluster.wait(job, "RUNNING").pid or cluster.wait(job, "RUNNING").pid
    while pid is None:
        pid = cluster.job(job).pid
    cluster.suspend(job)
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)
    cluster.resume(job)
    cluster.lose(job)
    assert cluster.job(job) is None
    while alive(pid):
        time.sleep(0.01)
    assert run("squeue", "-h", "-j", job).returncode == 1
    assert run("sacct", "-X", "-n", "-P", "-j", job).stdout == ""


def test_jobs_survive_their_caller_and_shutdown_ends_them(cluster, sbatch):
    job = cluster.wait(sbatch(), "RUNNING")
    assert os.getsid(job.supervisor) != os.getsid(0)
    cluster.shutdown()
    for _ in range(500):
        if not alive(job.supervisor):
            break
        time.sleep(0.01)
    assert not alive(job.supervisor)


def test_calls_are_recorded(cluster, run):
    run("squeue", "-h", user="alice")
    run("squeue", "-j", "abc")
    assert cluster.count("squeue") == 2
    assert next((call.user, call.argv, call.rc) for call in cluster.calls("squeue")) == ("alice", ["-h"], 0)
    assert cluster.calls()[1].rc == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"name": "down"}, (1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")),
        (
            {"name": "down", "kind": "timeout"},
            (1, "", "slurm_load_jobs error: Socket timed out on send/recv operation\n"),
        ),
        ({"name": "garbage", "text": "@@@"}, (0, "@@@\n", "")),
        ({"name": "ok_with_error_text", "text": "squeue: error: x"}, (0, "", "squeue: error: x\n")),
        ({"name": "banner", "text": "Welcome\n"}, (0, "Welcome\n1|RUNNING\n", "")),
        ({"name": "truncated", "keep": 3}, (0, "1|R", "")),
        ({"name": "exit_code", "code": 9}, (9, "1|RUNNING\n", "")),
        ({"name": "missing_from_listing", "job": "1"}, (0, "", "")),
    ],
)
def test_faults(cluster, run, sbatch, fault, expected):
    sbatch()
    cluster.fault(**fault, times=1)
    assert cluster.jobs()[0].state == "RUNNING"
    done = run("squeue", "-h", "-o", "%i|%T")
    assert (done.returncode, done.stdout, done.stderr) == expected
    assert run("squeue", "-h", "-o", "%i|%T").stdout == "1|RUNNING\n"


def test_hanging_and_slow_commands(cluster, run):
    cluster.fault("hang", command="squeue")
    with pytest.raises(subprocess.TimeoutExpired):
        run("squeue", timeout=0.7)
    assert cluster.calls("squeue")[0].rc is None
    assert run("sinfo").returncode == 0
    cluster.clear_faults()
    cluster.fault("slow", command="squeue", seconds=0.3)
    before = time.monotonic()
    assert run("squeue").returncode == 0
    assert time.monotonic() - before >= 0.3


def test_created_but_timeout(cluster, run):
    cluster.fault("created_but_timeout", times=1)
    done = run("sbatch", "--parsable", "-J", "unique", stdin=SLEEP)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    assert run("squeue", "-h", "-n", "unique", "-o", "%i").stdout == "1\n"
    cluster.fault("created_but_timeout", how="hang", times=1)
    with pytest.raises(subprocess.TimeoutExpired):
        run("sbatch", stdin=SLEEP, timeout=0.7)
    assert cluster.wait(2, "RUNNING").host


def test_delayed_start_starts_by_itself(cluster, sbatch, tmp_path):
    cluster.fault("delayed_start", seconds=0.5, times=1)
    job = sbatch("#!/bin/sh\ntouch started\nsleep 60\n")
    assert cluster.job(job).state == "PENDING"
    for _ in range(1000):
        if (tmp_path / "started").exists():  # nobody asked the scheduler meanwhile
            break
        time.sleep(0.01)
    assert (tmp_path / "started").exists()


def test_many_callers_at_once(cluster, tmp_path):
    env = cluster.environment("slurm")
    argv = ["sbatch", "--parsable", "--wrap", "true", "-o", "/dev/null"]
    running = [subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(12)]
    ids = sorted(int(process.communicate()[0]) for process in running)
    assert ids == list(range(1, 13))
    assert {cluster.wait(job).state for job in ids} == {"COMPLETED"}


def test_simulated_jobs_need_no_process(cluster, run):
    cluster.configure(simulate=True)
    assert run("sbatch", "--parsable", stdin=SLEEP).stdout == "1\n"
    assert (cluster.job(1).state, cluster.job(1).supervisor) == ("RUNNING", None)
    assert run("scancel", "1").returncode == 0
    assert cluster.job(1).state == "CANCELLED"


def test_installed_stubs_need_no_environment(cluster, tmp_path):
    folder = cluster.install("slurm", tmp_path / "bin")
    done = subprocess.run([f"{folder}/squeue", "-h"], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_words():
    assert compress(["n1", "n2", "n3", "g1"]) == "g1,n[1-3]"
    assert compress(["n01", "n02", "n7"]) == "n[01-02,7]"
    assert compress(["login"]) == "login"
    assert expand("n[01-02,7],g1") == ["n01", "n02", "n7", "g1"]
    assert [parse_time(text) for text in ("90", "1:30", "1:00:00", "1-0", "2-1:30", "x")] == [
        5400,
        120,
        3600,
        86400,
        178200,
        None,
    ]


# ---------------------------------------------------------------- thousands of jobs


@pytest.mark.parametrize(
    ("dialect", "config", "question", "words"),
    [
        ("slurm", {}, ["squeue", "-h", "-t", "all", "-o", "%i %T", "--jobs={}"], ("RUNNING", "PENDING")),
        ("pbs", {}, ["qstat", "-f", "-F", "json"], ('"job_state":"R"', '"job_state":"Q"')),
        ("pbs", {"torque": True}, ["qstat", "-x"], ("<job_state>R<", "<job_state>Q<")),
        ("lsf", {}, ["bjobs", "-u", "all", "-a", "-noheader", "-o", "jobid stat delimiter='^'"], ("^RUN", "^PEND")),
        ("lsf", {"lsf": "openlava"}, ["bjobs", "-u", "all", "-a", "-w"], (" RUN ", " PEND ")),
    ],
    ids=["slurm", "pbs", "torque", "lsf", "openlava"],
)
def test_thousands_of_jobs_without_processes(tmp_path, dialect, config, question, words):
    """They are asked about in one command that names each of them, and answered for."""
    cluster = Cluster(tmp_path / "cluster").create(config)
    ids = [str(seq) for seq in (*cluster.fill(2500), *cluster.fill(500, state="PENDING"))]
    named = [question[-1].format(",".join(ids))] if dialect == "slurm" else [question[-1], *ids]
    argv = [*question[:-1], *named]
    done = subprocess.run(
        argv, capture_output=True, text=True, env=cluster.environment(dialect), timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    running, waiting = words
    assert (done.stdout.count(running), done.stdout.count(waiting)) == (2500, 500)


def test_a_job_without_a_process_obeys_all_the_same(cluster, sbatch):
    running, waiting = cluster.fill(1)[0], cluster.fill(1, state="PENDING")[0]
    assert (cluster.job(running).state, cluster.job(waiting).reason) == ("RUNNING", "Priority")
    cluster.finish_all([running], code=3)
    assert (cluster.job(running).state, cluster.job(running).exit_code) == ("FAILED", 3)
    cluster.cancel(waiting)
    assert cluster.job(waiting).state == "CANCELLED"
    other = cluster.fill(1)[0]
    cluster.requeue(other)
    assert cluster.wait(other, "RUNNING", restarts=1).still
    assert cluster.wait(sbatch("#!/bin/sh\nexit 0\n")).state == "COMPLETED"
