"""The LSF commands: openlava's against recordings, byte for byte; LSF 10.1's against what its documentation and clients say."""

import calendar
import json
import subprocess
import time

import pytest

from tests.fakesched.engine import Cluster
from tests.fakesched.recorded import recorded
from tests.fakesched.store import now

HOME = "/home/hpcuser"
QUEUES = [
    {"name": "private", "users": ["hpcuser2"], "priority": 40, "description": "acl"},
    {
        "name": "short",
        "max_time": 10,
        "default_time": 5,
        "max_cores": 1,
        "max_queued": 2,
        "priority": 35,
        "description": "short jobs",
    },
    {"name": "normal", "default": True, "priority": 30},
    {"name": "memq", "priority": 20, "max_memory": 488},
    {"name": "idle", "priority": 10, "nodes": ["pbsn1", "pbsn2"]},
]
SITE = {
    "nodes": {"pbsn1": {"cores": 1}, "pbsn2": {"cores": 1}, "vm": {"cores": 2}},
    "partitions": QUEUES,
    "submit_host": "vm",
    "lsf": "openlava",
    "simulate": True,
    "users": ["hpcuser", "hpcuser2"],
}
SCRIPT = (
    "#!/bin/bash;#BSUB -J poll;#BSUB -q idle;#BSUB -n 1;#BSUB -o /home/hpcuser/olpoll.out;#BSUB -e /home/hpcuser/olpoll.err;"
    "echo hello; env | sort; sleep 25; exit 3"
)


def at(text):
    return calendar.timegm(time.strptime(f"2026-11-22 {text}", "%Y-%m-%d %H:%M:%S"))


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path / "cluster").create(SITE)
    yield made
    made.shutdown()


@pytest.fixture
def run(cluster, tmp_path):
    def command(*argv, stdin="", user="hpcuser", timeout=30, **more):
        env = cluster.environment("lsf", user) | {"HOME": str(tmp_path), "TZ": "UTC"} | more
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=timeout, check=False
        )

    return command


def exact(run, name, *argv):
    record = recorded("openlava", name)
    done = run(*(argv or record.argv), stdin=record.stdin, user=record.user)
    assert done.stdout == record.out
    assert done.stderr == record.err
    assert done.returncode == record.rc


def job(**more):
    return {
        "user": "hpcuser",
        "partition": "idle",
        "partition_used": "idle",
        "account": "default",
        "home": HOME,
        "cwd": HOME,
    } | more


@pytest.mark.parametrize(
    "name",
    [
        "submit_refused_unknown_queue", "submit_refused_bad_R", "submit_refused_option_Z", "submit_refused_too_many_procs",
        "submit_refused_mem_limit", "submit_empty_stdin", "poll_unknown", "poll_by_name_unknown", "poll_illegal_id", "poll_running_other_user_list",
        "list_dead_d", "cancel_unknown", "cancel_illegal", "version_bjobs_V", "version_bsub_V", "queues", "queues_w", "queues_one", "queues_user",
        "hosts_b", "poll_running_help", "poll_running_o",
    ],
)  # fmt: skip
def test_answers_without_jobs(run, name):
    exact(run, name)


def test_a_closed_queue(cluster, run):
    cluster.set_partition("normal", state="DRAIN")
    exact(run, "submit_refused_queue_closed")


def test_a_running_job(cluster, run):
    cluster.insert(
        **job(seq=237, name="poll", state="RUNNING", layout={"pbsn2": 1}, command=SCRIPT, output=f"{HOME}/olpoll.out"),
        error=f"{HOME}/olpoll.err",
        submit=at("21:00:10"),
        start=at("21:00:10"),
    )
    for name in ("poll_running", "poll_running_a_w", "poll_running_other_user", "poll_two_one_unknown"):
        exact(run, name)


def test_a_failed_job(cluster, run):
    cluster.insert(
        **job(
            seq=237,
            name="poll",
            state="FAILED",
            exit_code=3,
            layout={"pbsn2": 1},
            command=SCRIPT,
            output=f"{HOME}/olpoll.out",
        ),
        error=f"{HOME}/olpoll.err",
        submit=at("21:00:10"),
        start=at("21:00:10"),
        end=at("21:00:35"),
    )
    cluster.configure(clean_period=1e9)
    exact(run, "poll_finished_exit3_l")
    exact(run, "poll_finished_exit3_w")
    exact(run, "cancel_finished")
    cluster.configure(clean_period=1.0)
    assert run("bjobs", "-w", "237").stderr == "Job <237> is not found\n"
    assert "Exited with exit code 3." in run("bhist", "-l", "237").stdout


def test_jobs_that_wait(cluster, run):
    cluster.insert(
        **job(seq=212, name="held", partition="normal", held="user", submit=at("20:56:10"), command="sleep 20")
    )
    cluster.insert(**job(seq=213, name="later", partition="normal", blocked="x", submit=at("20:56:10")))
    long = "averyveryverylongjobnamethatgetscutbythedefaultformat"
    cluster.insert(**job(seq=661, name=long, blocked="x", submit=at("21:22:18")))
    listed = recorded("openlava", "list_all").out.splitlines()
    assert run("bjobs", "-q", "normal").stdout.splitlines() == listed[:3]
    wide = recorded("openlava", "list_all_w").out.splitlines()
    assert run("bjobs", "-w", "-q", "normal").stdout.splitlines() == wide[:3]
    exact(run, "w_poll_two_w")
    assert run("bjobs", "661").stdout.splitlines()[1].split()[-4] == "*ultformat"


def test_a_job_on_several_hosts(cluster, run):
    layout = {"pbsn2": 2, "pbsn1": 1}
    record = job(
        seq=660, name="a b c", partition="normal", partition_used="normal", state="RUNNING", layout=layout, cores=3
    )
    cluster.insert(**record, submit=at("21:22:10"), start=at("21:22:11"))
    exact(run, "w_poll_multi_w")
    exact(run, "w_poll_multi_default")


def test_queues_in_full(run):
    blocks = recorded("openlava", "queues_l").out.split("-" * 79 + "\n")
    mine = run("bqueues", "-l").stdout.split("-" * 79 + "\n")
    assert mine[0] == blocks[0]
    assert mine[1] == blocks[1]


def test_openlava_takes_env_for_e(cluster, run):
    assert run("bsub", "-env", "none", "sleep", "1").returncode == 0
    one = cluster.jobs()[0]
    assert (one.error, one.command) == ("nv", "none sleep 1")


def test_the_daemon_does_not_answer(cluster, run):
    cluster.fault("down", command="bjobs", every=0.1)
    with pytest.raises(subprocess.TimeoutExpired) as blocked:
        run("bjobs", "-w", timeout=1.0)
    line = b"batch system daemon not responding ... still trying\n"
    assert blocked.value.stderr.startswith(line)
    cluster.clear_faults()
    cluster.fault("down", command="bsub", tries=1)
    done = run("bsub", "sleep", "1")
    assert (done.returncode, done.stderr) == (255, "Connection refused by server. Job not submitted.\n")


# ---------------------------------------------------------------- LSF 10.1

FORMAT = "jobid jobindex stat user queue exec_host nexec_host submit_time start_time finish_time time_left exit_code exit_reason slots delimiter='^'"


@pytest.fixture
def lsf(cluster):
    cluster.configure(lsf="lsf")
    return cluster


def test_formatted_listing(lsf, run):
    times = {"submit": at("20:56:10"), "start": at("20:56:11")}
    lsf.insert(**job(seq=1, name="a^b", state="RUNNING", layout={"vm": 2}, cores=2, limit=6e9, **times))
    lsf.insert(**job(seq=2, name="w", blocked="x", submit=at("20:57:00")))
    done = run("bjobs", "-u", "all", "-a", "-noheader", "-o", FORMAT, LSB_DISPLAY_YEAR="Y")
    one, two = done.stdout.splitlines()
    assert one.startswith("1^0^RUN^hpcuser^idle^2*vm^1^Nov 22 20:56:10 2026^Nov 22 20:56:11 2026^")
    assert one.split("^")[9].endswith(" L")
    assert one.split("^")[11:] == ["-", "-", "2"]
    assert two == "2^0^PEND^hpcuser^idle^-^-^Nov 22 20:57:00 2026^-^-^-^-^-^-"
    assert run("bjobs", "-a", "-noheader", "-o", "jobid submit_time delimiter='^'", "2").stdout == "2^Nov 22 20:57\n"


def test_json_listing(lsf, run):
    lsf.insert(**job(seq=7, name="j", state="RUNNING", layout={"vm": 1}, start=now()))
    done = run("bjobs", "-a", "-json", "-o", "jobid stat exec_cwd exit_code", "7", "99")
    assert '"EXEC_CWD":"\\/home\\/hpcuser"' in done.stdout
    document = json.loads(done.stdout)
    assert (document["COMMAND"], document["JOBS"], done.returncode) == ("bjobs", 2, 255)
    assert document["RECORDS"][0] == {"JOBID": "7", "STAT": "RUN", "EXEC_CWD": HOME, "EXIT_CODE": ""}
    assert document["RECORDS"][1]["ERROR"] == "Job <99> is not found"


def test_nothing_there(lsf, run):
    assert run("bjobs").stderr == "No unfinished job found\n"
    done = run("bjobs", "-a", "-u", "all", "-noheader", "-o", "jobid")
    assert (done.returncode, done.stdout, done.stderr) == (255, "", "No job found\n")


def test_refusals_and_submits(lsf, run):
    assert (
        run("bsub", "-W", "11", "-q", "short", "x").stderr
        == "RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.\n"
    )
    assert run("bsub", "-W", "banana", "x").stderr == "banana: Bad RUNLIMIT specification. Job not submitted.\n"
    assert (
        run("bsub", "-M", "abc", "x").stderr == "abc: MEMLIMT value should be a positive integer. Job not submitted.\n"
    )
    assert run("bsub", "-q", "private", "x").stderr == "private: User cannot use the queue. Job not submitted.\n"
    assert (
        run("bsub", "-m", "nohost", "x").stderr
        == "nohost: Bad host name, host group name or cluster name. Job not submitted.\n"
    )
    assert run("bsub", "sleep", "9").stdout == "Job <1> is submitted to default queue <normal>.\n"
    assert (
        run("bsub", stdin="#!/bin/sh\n#BSUB -q short -W 0:05\nsleep 9\n").stdout
        == "Job <2> is submitted to queue <short>.\n"
    )
    assert run("bsub", "sleep", "9", BSUB_QUIET="1").stdout == ""
    assert lsf.job(2).limit == 300


def test_a_job_really_runs_and_writes_its_report(lsf, run, tmp_path):
    lsf.configure(simulate=False, users=["hpcuser"])
    script = "#!/bin/sh\n#BSUB -J real\n#BSUB -o out.%J\necho $LSB_JOBID $HOSTNAME $FROM_HERE; pwd; exit 3\n"
    assert run("bsub", "-q", "idle", stdin=script, FROM_HERE="yes").stdout == "Job <1> is submitted to queue <idle>.\n"
    ended = lsf.wait(1)
    assert (ended.state, ended.exit_code) == ("FAILED", 3)
    text = (tmp_path / "out.1").read_text()
    assert text.startswith("Sender: LSF System <lsfadmin@pbsn1>\nSubject: Job 1: <real> in cluster <fake> Exited\n")
    assert f"The output (if any) follows:\n\n1 pbsn1 yes\n{tmp_path}\n" in text
    assert run("bkill", "1").stderr == "Job <1>: Job has already finished\n"


def test_kill_and_the_reasons(lsf, run):
    lsf.configure(simulate=False, kill_wait=0.3)
    run("bsub", "sleep", "60")
    run("bsub", "sleep", "60")
    done = run("bkill", "1", "99")
    assert (done.returncode, done.stdout, done.stderr) == (
        255,
        "Job <1> is being terminated\n",
        "Job <99>: No matching job found\n",
    )
    lsf.wait(1)
    form = "stat exit_code exit_reason delimiter='^'"
    assert run("bjobs", "-noheader", "-o", form, "1").stdout == "EXIT^130^TERM_OWNER: job killed by owner\n"
    lsf.unknown(2)
    assert run("bjobs", "-noheader", "-o", "stat delimiter='^'", "2").stdout == "UNKWN\n"
    assert run("bmod", "-W", "5", "2").returncode == 255
    lsf.configure(lsb_mod_all_jobs=True)
    assert run("bmod", "-W", "5", "2").stdout == "Parameters of job <2> are being changed\n"
