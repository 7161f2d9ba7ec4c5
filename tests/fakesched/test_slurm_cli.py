"""Slurm's commands against recordings, against the dialect notes' tables, and (client-side errors) against the real sbatch."""

import os
import subprocess

import pytest

from tests.fakesched.engine import Cluster
from tests.fakesched.recorded import ROOT
from tests.fakesched.store import now
from tests.needs import need_program

SCRIPT = "#!/bin/sh\nsleep 60\n"
BULK = "%i|%F|%K|%T|%r|%u|%P|%D|%C|%N|%B|%S|%e|%V|%L|%l|%Q"
FAILED = "sbatch: error: Batch job submission failed: "
SITE = {
    "nodes": {
        **{name: {"cores": 16, "memory": 64000} for name in ("n1", "n2", "n3")},
        "g1": {"cores": 32, "memory": 128000, "gpus": 4, "gpu_type": "a100", "features": ["icelake"]},
    },
    "partitions": [
        {"name": "cpu", "default": True, "nodes": ["n1", "n2", "n3"], "max_time": 1440, "default_time": 60},
        {"name": "gpu", "nodes": ["g1"], "max_time": 720},
        {"name": "down", "max_time": 60, "state": "DOWN"},
        {"name": "staff", "nodes": ["n1"], "users": ["bob"], "max_time": 60, "default_time": 60},
    ],
    "accounts": ["phys"],
    "users": ["alice", "bob"],
    "simulate": True,
}


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path / "cluster").create(SITE)
    yield made
    made.shutdown()


@pytest.fixture
def run(cluster, tmp_path):
    def command(*argv, stdin="", user="alice", **more):
        env = cluster.environment("slurm", user) | {"HOME": str(tmp_path), "TZ": "UTC"} | more
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=30, check=False
        )

    return command


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (
            ["-p", "nope"],
            1,
            f"sbatch: error: invalid partition specified: nope\n{FAILED}Invalid partition name specified",
        ),
        (["-A", "bio"], 1, f"{FAILED}Invalid account or account/partition combination specified"),
        (["-q", "gold"], 1, f"{FAILED}Invalid qos specification"),
        (["-p", "staff"], 1, f"{FAILED}User's group not permitted to use this partition"),
        (["-t", "2-0"], 1, f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)"),
        (["-c", "17"], 1, f"{FAILED}More processors requested than permitted"),
        (["-N", "4"], 1, f"{FAILED}Node count specification invalid"),
        (
            ["--mem=900G"],
            1,
            f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration is not available",
        ),
        (["-p", "gpu", "--gpus=9"], 1, f"{FAILED}Requested node configuration is not available"),
        (["--gres=foo:1"], 1, "sbatch: error: Invalid generic resource (gres) specification"),
        (["-C", "zen9"], 1, f"{FAILED}Invalid feature specification"),
        (["--reservation=r"], 1, f"{FAILED}Requested reservation is invalid"),
        (["-t", "xx"], 255, "sbatch: error: Invalid --time specification"),
        (["--mem=xx"], 255, "sbatch: error: Invalid --mem specification"),
        (
            ["--frobnicate"],
            255,
            "sbatch: unrecognized option '--frobnicate'\nTry \"sbatch --help\" for more information",
        ),
    ],
)
def test_refusals(run, argv, code, words):
    done = run("sbatch", *argv, stdin=SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", words + "\n")


def test_a_refused_job_may_stay_visible(cluster, run):
    run("sbatch", "--mem=900G", "-J", "big", stdin=SCRIPT)
    done = run("squeue", "-h", "-t", "all", "-n", "big", "-o", "%i|%T|%r|%N")
    assert done.stdout == "1|FAILED|BadConstraints|\n"
    fields = "JobID,State,ExitCode,Start,NodeList"
    assert (
        run("sacct", "-X", "-P", "-n", "--name=big", f"--format={fields}").stdout == "1|FAILED|1:0|None|None assigned\n"
    )


def test_submit_answers(cluster, run):
    assert run("sbatch", stdin=SCRIPT).stdout == "Submitted batch job 1\n"
    assert run("sbatch", "--parsable", stdin=SCRIPT).stdout == "2\n"
    assert run("sbatch", "--parsable", "-M", "fake", stdin=SCRIPT).stdout == "3;fake\n"
    assert run("sbatch", "-Q", stdin=SCRIPT).stdout == ""
    done = run("sbatch", "-p", "down", stdin=SCRIPT)
    assert (done.returncode, cluster.job(5).reason) == (0, "PartitionDown")
    done = run("sbatch", "--test-only", stdin=SCRIPT)
    assert done.stderr.startswith("sbatch: Job 6 to start at 2")
    assert done.stderr.endswith(" using 1 processors on nodes n1 in partition cpu\n")


def test_directives_environment_and_command_line(cluster, run):
    script = "#!/bin/sh\n#SBATCH -J 'a name' --time=5\n\n# a comment\n#SBATCH -p gpu\necho\n#SBATCH -p nope\n"
    run("sbatch", stdin=script)
    run("sbatch", stdin=script, SBATCH_TIMELIMIT="7")
    run("sbatch", "-t", "9", "-p", "cpu", stdin=script, SBATCH_TIMELIMIT="7")
    found = [(job.name, job.limit // 60, job.partition) for job in cluster.jobs()]
    assert found == [("a name", 5, "gpu"), ("a name", 7, "gpu"), ("a name", 9, "cpu")]
    assert run("sbatch", stdin=script, SBATCH_PARTITION="nope").returncode == 1


CLIENT_SIDE = [
    ([], ""), ([], "  \n\n"), ([], "echo hi\n"), ([], "#!/bin/sh\r\necho\r\n"), ([], "#!/bin/sh\necho a\0b\n"),
    ([], "#!/bin/sh\n#SBATCH --frobnicate\ntrue\n"), ([], "#!/bin/sh\n#SBATCH -t xx\ntrue\n"), (["nosuch"], ""), (["-Zx"], SCRIPT),
    (["--frobnicate"], SCRIPT), (["--mem=1", "--mem-per-cpu=2"], SCRIPT), (["-n", "x"], SCRIPT), (["-N", "x"], SCRIPT),
    (["--begin=foo"], SCRIPT), (["--gres=foo:1"], SCRIPT), (["--version"], ""),
]  # fmt: skip


def test_client_side_errors_are_the_real_ones(run, tmp_path):
    """sbatch 22.05 notices these before it asks a controller; there is none here."""
    real = need_program("sbatch", "slurm-client")
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=n1\n"
    )
    env = {"PATH": os.path.dirname(real), "SLURM_CONF": str(tmp_path / "slurm.conf")}
    version = subprocess.run([real, "--version"], capture_output=True, text=True, env=env, check=False).stdout
    if " 22.05" not in version:
        pytest.skip(f"the words are 22.05's, this sbatch is {version or 'of no version'}")
    for argv, script in CLIENT_SIDE:
        theirs = subprocess.run(
            ["sbatch", *argv],
            input=script,
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            timeout=30,
            check=False,
        )
        mine = run("sbatch", *argv, stdin=script)
        assert (mine.returncode, mine.stdout, mine.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr), argv


def test_squeue_says_which_ids_it_knows(cluster, run):
    cluster.insert(state="COMPLETED", name="x", start=now() - 5, end=now(), layout={"n1": 1})
    cluster.insert(state="RUNNING", name="y", start=now(), layout={"n1": 1})

    def ask(*argv):
        done = run("squeue", "-h", *argv, "-o", "%i %T")
        return done.returncode, done.stdout, done.stderr

    assert ask("-j", "99") == (1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert ask("-j", "99", "-u", "alice") == (1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert ask("-j", "98,99") == (0, "", "")
    assert ask("-j", "1,2,99") == (0, "2 RUNNING\n", "")
    assert ask("-j", "1") == (0, "", "")
    assert ask("-j", "1", "-t", "all") == (0, "1 COMPLETED\n", "")
    assert ask("-p", "nope") == (0, "", "")
    assert ask("-j", "abc") == (1, "", "squeue: error: Invalid job id: abc\n")
    assert ask("-u", "nosuchuser") == (0, "", "squeue: error: Invalid user: nosuchuser\n\n")
    assert ask("-t", "bogus")[2].startswith(
        "squeue: error: Invalid job state specified: bogus\nsqueue: error: Valid job states include: PENDING,"
    )
    cluster.configure(min_job_age=0)
    assert ask("-j", "1", "-t", "all")[0] == 1


def test_squeue_formats(cluster, run):
    start = 1795381210
    cluster.insert(
        name="a|b\nc",
        state="RUNNING",
        start=start,
        submit=start,
        limit=300,
        layout={"n1": 1, "n2": 1},
        cores=2,
        partition="cpu",
    )
    done = run(
        "squeue",
        "--noheader",
        "--states=all",
        "--user=alice,bob",
        "--format=%i\x1f%T\x1f%N\x1f%B\x1f%S\x1f%e",
        SLURM_TIME_FORMAT="%s",
    )
    assert done.stdout == f"1\x1fRUNNING\x1fn[1-2]\x1fn1\x1f{start}\x1f{start + 300}\n"
    assert run("squeue", "-h", "-o", "%S", "-j", "1").stdout == "2026-11-22T21:00:10\n"
    assert run("squeue", "-h", "-O", "JobID:|,State:|,NodeList:.6").stdout == "1|RUNNING|n[1-2]\n"
    assert run("squeue", "-h", "-O", "JobID,State").stdout == f"{'1':<20}{'RUNNING':<20}\n"
    assert run("squeue", "-h", "-o", "%5T").stdout == "RUNNI\n"
    assert run("squeue", "-h", "-o", "%j").stdout == "a|b\nc\n"
    done = run("squeue", "-h", "-O", "bogus:|")
    assert (done.returncode, done.stderr) == (0, "squeue: error: Invalid job format specification: bogus\n")
    assert run("squeue", "-h", SQUEUE_FORMAT="%u").stdout == "alice\n"


def test_the_default_table_is_slurms(cluster, run):
    at = now()
    common = {"submit": at, "start": at, "end": at, "partition": "cpu", "partition_used": "cpu"}
    cluster.insert(seq=12, name="tocancel", state="CANCELLED", **common)
    cluster.insert(seq=2, name="ok", state="COMPLETED", layout={"n1": 1}, **common | {"start": at - 1.01})
    cluster.insert(
        seq=1, name="fail3", state="FAILED", reason="NonZeroExitCode", layout={"n1": 1}, **common | {"start": at - 1.01}
    )
    cluster.insert(seq=11, name="needall", held="user", partition="cpu")
    listed = [
        "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)",
        "                12       cpu tocancel    alice CA       0:00      1 ",
        "                 2       cpu       ok    alice CD       0:01      1 n1",
        "                 1       cpu    fail3    alice  F       0:01      1 (NonZeroExitCode)",
        "                11       cpu  needall    alice PD       0:00      1 (JobHeldUser)",
    ]
    assert run("squeue", "-t", "all").stdout.splitlines() == listed


def test_partitions_are_shown_as_recorded(run):
    theirs = (ROOT / "slurm" / "22.05" / "showpart.txt").read_text().split("\n\n")
    done = run("scontrol", "show", "partition")
    mine = done.stdout.split("\n\n")
    assert mine[:2] == theirs[:2]
    assert mine[2].splitlines()[8] == theirs[2].splitlines()[8]
    assert run("scontrol", "show", "partition", "-o").stdout.splitlines()[0] == " ".join(
        line.strip() for line in theirs[0].splitlines()
    )


def test_a_job_is_shown_as_recorded(cluster, run):
    theirs = (ROOT / "slurm" / "22.05" / "showjob_all.txt").read_text().split("\n\n")[0].splitlines()
    cluster.insert(seq=12, name="sbatch", limit=3600, restarts=1, held="user")
    mine = run("scontrol", "show", "job", "12").stdout.splitlines()
    keys = [[word.partition("=")[0] for word in line.split()] for line in (*mine, *theirs)]
    assert [k for k in keys[: len(mine)] if k] == [k if k != ["MinCPUsNode", "MinMemoryCPU", "MinTmpDiskNode"] else ["MinCPUsNode", "MinMemoryNode", "MinTmpDiskNode"] for k in keys[len(mine) :] if k]  # fmt: skip
    done = run("scontrol", "show", "job", "99")
    assert (done.returncode, done.stderr) == (1, "slurm_load_jobs error: Invalid job id specified\n")


def test_sinfo(cluster, run):
    cluster.insert(state="RUNNING", start=now(), layout={"n1": 16}, cores=16, partition="cpu")
    cluster.insert(state="RUNNING", start=now(), layout={"g1": 4}, cores=4, partition="gpu")
    shown = run("sinfo", "-a", "-h", "-o", "%R|%a|%l|%L|%D|%F|%C|%c|%m|%G|%f|%t|%N").stdout.splitlines()
    assert shown == [
        "cpu|up|1-00:00:00|1:00:00|1|1/0/0/1|16/0/0/16|16|64000|(null)|(null)|alloc|n1",
        "cpu|up|1-00:00:00|1:00:00|2|0/2/0/2|0/32/0/32|16|64000|(null)|(null)|idle|n[2-3]",
        "gpu|up|12:00:00|n/a|1|1/0/0/1|4/28/0/32|32|128000|gpu:a100:4|icelake|mix|g1",
        "down|down|1:00:00|n/a|1|1/0/0/1|16/0/0/16|16|64000|(null)|(null)|alloc|n1",
        "down|down|1:00:00|n/a|2|0/2/0/2|0/32/0/32|16|64000|(null)|(null)|idle|n[2-3]",
        "down|down|1:00:00|n/a|1|1/0/0/1|4/28/0/32|32|128000|gpu:a100:4|icelake|mix|g1",
        "staff|up|1:00:00|1:00:00|1|1/0/0/1|16/0/0/16|16|64000|(null)|(null)|alloc|n1",
    ]
    assert "staff" not in run("sinfo", "-h").stdout
    lines = run("sinfo").stdout.splitlines()
    assert lines[0] == "PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST"
    assert lines[1] == "cpu*         up 1-00:00:00      1  alloc n1"
    cluster.fail_node("n3")
    assert "down*|n3" in run("sinfo", "-h", "-o", "%t|%N").stdout


def test_accounting(cluster, run):
    start = 1795381210
    done = {
        "start": start,
        "submit": start,
        "end": start + 1,
        "layout": {"n1": 1},
        "partition_used": "cpu",
        "limit": 300,
    }
    cluster.insert(name="fail3", state="FAILED", exit_code=3, **done)
    cluster.insert(name="sig", state="FAILED", exit_signal=9, **done)
    cluster.insert(name="cancelled", state="CANCELLED", cancelled_by=1001, exit_signal=15, ended_by="cancel", **done)
    fields = "JobID,State,ExitCode,Start,End,Timelimit,NodeList"
    done = run("sacct", "-X", "-P", "-n", "-j", "1,2,3,99", f"--format={fields}", SLURM_TIME_FORMAT="%s")
    assert done.stdout.splitlines() == [
        f"1|FAILED|3:0|{start}|{start + 1}|00:05:00|n1",
        f"2|FAILED|0:9|{start}|{start + 1}|00:05:00|n1",
        f"3|CANCELLED by 1001|0:0|{start}|{start + 1}|00:05:00|n1",
    ]
    assert (
        run("sacct", "-n", "-P", "-j", "3", "--format=JobID,State,ExitCode").stdout.splitlines()[1]
        == "3.batch|CANCELLED|0:15"
    )
    assert run("sacct", "-X", "-P", "-n", "-j", "99").stdout == ""
    done = run("sacct", "-j", "abc")
    assert (done.returncode, done.stderr) == (1, "sacct: fatal: Bad job/step specified: abc\n")
    done = run("sacct", "-X", "-P", "-n", "-j", "1", "--delimiter=\x1f", "--format=JobID,State")
    assert done.stdout == "1\x1fFAILED\n"
    cluster.fault("accounting_down")
    done = run("sacct", "-X", "-P", "-n", "-j", "1")
    assert done.returncode == 1
    assert done.stderr.endswith("sacct: error: Problem talking to the database: Connection refused\n")
    assert run("squeue").returncode == 0


def test_cancel_and_update(cluster, run):
    run("sbatch", stdin=SCRIPT)
    done = run("scancel", "1", user="bob")
    assert (done.returncode, done.stderr) == (
        210,
        "scancel: error: Kill job error on job id 1: Access/permission denied\n",
    )
    assert (run("scancel", "99").returncode, run("scancel", "99").stderr) == (0, "")
    done = run("scancel", "-v", "99")
    assert (
        done.stderr
        == "scancel: Terminating job 99\nscancel: error: Kill job error on job id 99: Invalid job id specified\n"
    )
    assert run("scancel", "abc").stderr == "scancel: error: Invalid job id abc\n"
    assert run("scontrol", "update", "JobId=1", "TimeLimit=30").returncode == 0
    done = run("scontrol", "update", "JobId=1", "TimeLimit=100")
    assert (done.returncode, done.stderr) == (1, "Access/permission denied for job 1\n")
    assert run("scontrol", "update", "JobId=99", "TimeLimit=1").stderr == "Invalid job id specified for job 99\n"
    assert run("scancel", "1", "99").returncode == 0
    assert run("squeue", "-h", "-t", "all", "-o", "%T").stdout == "CANCELLED\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["squeue", "-j", "1"], 1, "slurm_load_jobs error: "),
        (["sinfo", "-h", "-o", "%R"], 1, "slurm_load_partitions: "),
        (["scontrol", "show", "partition", "-o"], 1, "slurm_load_partitions error: "),
        (["scontrol", "show", "job", "1"], 1, "slurm_load_jobs error: "),
        (["scancel", "1"], 8, "scancel: error: Kill job error on job id 1: "),
        (["scancel", "-n", "x"], 1, "slurm_load_jobs error: "),
        (["sbatch"], 1, FAILED),
    ],
)
def test_controller_down(cluster, run, argv, code, words):
    """The words were checked against 22.05.8's clients without a controller."""
    cluster.fault("down")
    done = run(*argv, stdin=SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (
        code,
        "",
        f"{words}Unable to contact slurm controller (connect failure)\n",
    )
