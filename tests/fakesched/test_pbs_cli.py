"""The PBS commands against recordings of OpenPBS 23.06.06, byte for byte where time and paths do not differ."""

import calendar
import json
import re
import subprocess
import time

import pytest

from tests.fakesched.engine import Cluster
from tests.fakesched.recorded import recorded
from tests.fakesched.store import now

QUEUES = [
    {"name": "workq", "default": True},
    {"name": "short", "max_time": 10, "default_time": 5, "max_cores": 1},
    {"name": "closed", "state": "DRAIN"},
    {"name": "stopped", "state": "DOWN"},
    {"name": "private", "users": ["hpcuser2"]},
    {"name": "capped", "max_queued": 1},
    {"name": "route", "kind": "Route", "destinations": ["short", "workq"]},
]
SITE = {
    "nodes": {name: {"cores": 2, "memory": 24105} for name in ("pbshead", "pbsn1", "pbsn2")},
    "partitions": QUEUES,
    "pbs_server": "pbshead",
    "pbs_domain": "hpc.test",
    "simulate": True,
}
HOME = "/home/hpcuser"
HOST = "pbshead.hpc.test"
VARIABLES = [
    ["PBS_O_HOME", HOME], ["PBS_O_LANG", "C.UTF-8"], ["PBS_O_LOGNAME", "hpcuser"], ["PBS_O_PATH", "/opt/pbs/bin:/usr/bin:/bin"],
    ["PBS_O_SHELL", "/bin/bash"], ["PBS_O_WORKDIR", HOME], ["PBS_O_SYSTEM", "Linux"], ["PBS_O_QUEUE", "workq"], ["PBS_O_HOST", HOST],
]  # fmt: skip


def at(text):
    return calendar.timegm(time.strptime(f"2026-11-22 {text}", "%Y-%m-%d %H:%M:%S"))


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path / "cluster").create(SITE)
    yield made
    made.shutdown()


@pytest.fixture
def run(cluster, tmp_path):
    def command(*argv, stdin="", user="hpcuser", timeout=30):
        env = cluster.environment("pbs", user) | {
            "HOME": str(tmp_path),
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/bash",
        }
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=timeout, check=False
        )

    return command


def same(done, record):
    clock = re.compile(r'"timestamp":\d+')
    assert clock.sub("", done.stdout) == clock.sub("", record.out)
    assert done.stderr == record.err
    assert done.returncode == record.rc


@pytest.mark.parametrize(
    "name",
    [
        "submit_refused_unknown_queue", "submit_refused_queue_acl", "submit_refused_queue_limits", "submit_refused_queue_limits_ncpus",
        "submit_refused_queue_not_enabled", "submit_refused_bad_walltime", "submit_refused_bad_mem", "submit_refused_no_script_file",
        "submit_refused_array_bad", "submit_refused_bad_depend", "poll_unknown_short", "poll_unknown_json", "poll_unknown_dsv", "poll_illegal_id",
        "list_empty", "list_empty_json", "list_empty_dsv", "cancel_unknown", "cancel_two_unknown", "cancel_unknown_server", "cancel_empty_id",
        "hist_poll_x_unknown_json", "poll_running_short_json", "poll_json_bad_format", "version_qstat", "queues_json_unknown",
    ],
)  # fmt: skip
def test_answers_without_jobs(run, name):
    record = recorded("openpbs", name)
    same(run(*record.argv, stdin=record.stdin), record)


@pytest.mark.parametrize(
    "name",
    [
        "server_down_list", "server_down_poll_text", "server_down_poll_x_json", "server_down_qselect", "server_down_nodes_json",
        "server_down_queues_json", "server_down_server_json",
    ],
)  # fmt: skip
def test_server_down(cluster, run, name):
    cluster.fault("down")
    record = recorded("openpbs", name)
    same(run(*record.argv), record)


def job(**more):
    name, seq = more["name"], more["seq"]
    return {
        "user": "hpcuser", "partition": "workq", "partition_used": "workq", "output_path": f"{HOST}:{HOME}/{name}.o{seq}", "home": HOME,
        "error_path": f"{HOST}:{HOME}/{name}.e{seq}", "submit_arguments": f"-N {name}", "variables": VARIABLES, "run": 1,
        "resources": [["ncpus", 1], ["nodect", 1], ["place", "pack"], ["select", "1:ncpus=1"]],
    } | more  # fmt: skip


def exact(run, name, change=lambda text: text):
    record = recorded("openpbs", name)
    record.out = change(record.out)
    same(run(*record.argv, user=record.user), record)


def slot_zero(text):
    return re.sub(r"(\"exec_host\":\"\w+|exec_host=\w+)/\d", r"\1/0", text)


def test_a_failed_job_in_the_history(cluster, run):
    times = {"submit": at("20:46:06"), "start": at("20:46:06"), "end": at("20:46:07") + 0.1}
    cluster.insert(**job(seq=1002, name="fails", state="FAILED", exit_code=3, layout={"pbshead": 1}, **times))
    exact(
        run,
        "hist_poll_x_exit3_json",
        lambda text: slot_zero(text).replace('"walltime":"00:00:00"', '"walltime":"00:00:01"'),
    )
    exact(run, "hist_poll_x_exit3_dsv", lambda text: slot_zero(text).replace("walltime=00:00:00", "walltime=00:00:01"))
    done = run("qstat", "-f", "-F", "json", "1002.pbshead")
    words = "qstat: 1002.pbshead Job has finished, use -x or -H to obtain historical job information\n"
    assert (done.returncode, done.stderr) == (35, words)
    assert "Jobs" not in json.loads(done.stdout)


def test_a_job_over_its_walltime(cluster, run):
    times = {"submit": at("20:46:07"), "start": at("20:46:07"), "end": at("20:46:19"), "limit": 5, "pid": 396}
    listed = [["ncpus", 1], ["nodect", 1], ["place", "pack"], ["select", "1:ncpus=1"], ["walltime", "00:00:05"]]
    arguments = "-N overtime -l walltime=00:00:05"
    record = job(
        seq=1005, name="overtime", state="TIMEOUT", ended_by="timeout", layout={"pbsn2": 1}, exit_signal=15, **times
    )
    cluster.insert(**record | {"resources": listed, "submit_arguments": arguments})
    exact(run, "hist_poll_x_overtime_json", _usage)


def _usage(text):
    text = text.replace('"mem":"7104kb"', '"mem":"0kb"').replace('"vmem":"10380kb"', '"vmem":"0kb"')
    text = text.replace('"walltime":"00:00:10"', '"walltime":"00:00:12"').replace('"mem":"7324kb"', '"mem":"0kb"')
    return slot_zero(text)


def test_a_deleted_running_and_a_deleted_queued_job(cluster, run):
    times = {"submit": at("20:46:06"), "start": at("20:46:06"), "end": at("20:46:12"), "pid": 32656}
    record = job(
        seq=1003,
        name="killed",
        state="CANCELLED",
        ended_by="cancel",
        cancelled_name="hpcuser",
        layout={"pbsn1": 1},
        **times,
    )
    cluster.insert(**record)
    exact(run, "hist_poll_x_killed_json", _usage)
    queued = job(
        seq=1006,
        name="qdeleted",
        partition="stopped",
        state="CANCELLED",
        ended_by="cancel",
        run=0,
        submit=at("20:46:07"),
    )
    variables = [[key, "stopped" if key == "PBS_O_QUEUE" else value] for key, value in VARIABLES]
    cluster.insert(
        **queued | {"end": at("20:46:12"), "variables": variables, "submit_arguments": "-q stopped -N qdeleted"}
    )
    exact(run, "hist_poll_x_queued_deleted_json")


def test_pending_jobs(cluster, run):
    stopped = job(
        seq=9,
        name="instopped",
        partition="stopped",
        submit=at("20:37:22"),
        run=0,
        submit_arguments="-q stopped -N instopped",
    )
    cluster.insert(**stopped | {"variables": [[k, "stopped" if k == "PBS_O_QUEUE" else v] for k, v in VARIABLES]})
    exact(run, "poll_in_stopped_queue_json")
    listed = [["ncpus", 100], ["nodect", 1], ["place", "free"], ["select", "1:ncpus=100"]]
    never = job(
        seq=11, name="never", cores=100, submit=at("20:37:22"), run=0, submit_arguments="-l select=1:ncpus=100 -N never"
    )
    cluster.insert(**never | {"resources": listed})
    exact(run, "poll_pending_never_text")
    exact(run, "poll_pending_never_dsv")


def test_queues_and_the_short_table(cluster, run):
    record = recorded("openpbs", "queues_json")
    done = run(*record.argv)
    mine, theirs = json.loads(done.stdout), json.loads(record.out)
    theirs["Queue"]["workq"].pop("resources_assigned")
    theirs["Queue"]["workq"] |= {"total_jobs": 0, "state_count": theirs["Queue"]["short"]["state_count"]}
    assert list(mine["Queue"]) == list(theirs["Queue"])
    assert mine["Queue"] == theirs["Queue"]
    times = {"submit": at("20:46:06"), "start": at("20:46:06"), "end": at("20:46:06")}
    cluster.insert(**job(seq=1001, name="ok", state="COMPLETED", layout={"pbshead": 1}, **times))
    exact(run, "hist_poll_finished_x_short")
    short = recorded("openpbs", "queues_full_text").out.split("\n\n")[1]
    assert run("qstat", "-Qf").stdout.split("\n\n")[1] == short


def test_history_off(cluster, run):
    cluster.configure(history=False)
    cluster.insert(
        **job(seq=1000, name="x", state="COMPLETED", layout={"pbshead": 1}, start=at("20:46:06"), end=at("20:46:07"))
    )
    exact(run, "poll_finished_history_off_json")
    exact(run, "cancel_finished_history_off")
    done = run("qstat", "-x", "-f", "-F", "json")
    assert (done.returncode, done.stderr) == (0, "qstat: PBS is not configured to maintain job history\n")
    assert "Jobs" not in json.loads(done.stdout)


def test_numbers_break_the_document_as_they_do(cluster, run):
    cluster.insert(**job(seq=1, name="1e5", account="nan"))
    text = run("qstat", "-f", "-F", "json").stdout
    assert '"Job_Name":1e5,' in text
    assert '"Account_Name":nan,' in text
    cluster.configure(pbs_version="24.01")
    assert json.loads(run("qstat", "-f", "-F", "json").stdout)["Jobs"]["1.pbshead"]["Job_Name"] == "1e5"


def test_a_job_really_runs(cluster, run, tmp_path):
    cluster.configure(simulate=False, first_id=1)
    script = "#!/bin/bash\n#PBS -l walltime=60\necho $PBS_JOBID $HOSTNAME $PBS_O_QUEUE $SECRET; pwd; echo $PBS_O_WORKDIR; exit 3\n"
    done = run("qsub", "-N", "real", stdin=script)
    assert (done.stdout, done.stderr) == ("1.pbshead\n", "")
    ended = cluster.wait("1.pbshead")
    assert (ended.state, ended.exit_code, ended.limit) == ("FAILED", 3, 60)
    assert (tmp_path / "real.o1").read_text() == f"1.pbshead pbshead workq\n{tmp_path}\n{tmp_path}\n"
    assert run("qselect", "-x", "-u", "hpcuser", "-N", "real").stdout == "1.pbshead\n"
    assert run("qselect", "-u", "hpcuser", "-N", "real").stdout == ""


def test_qdel_and_owners(cluster, run):
    assert run("qsub", stdin="sleep 60").stdout == "1.pbshead\n"
    done = run("qdel", "1.pbshead", user="hpcuser2")
    assert (done.returncode, done.stderr) == (159, "qdel: Unauthorized Request  1.pbshead\n")
    assert run("qalter", "-l", "walltime=10:00:00", "1").returncode == 159
    assert run("qdel", "1").returncode == 0
    done = run("qdel", "1.pbshead")
    assert (done.returncode, done.stderr) == (35, "qdel: Job has finished 1.pbshead\n")


def test_torque(cluster, run):
    cluster.configure(torque=True)
    done = run("qsub", "-q", "nope", stdin="sleep 1")
    assert (done.returncode, done.stderr) == (170, "qsub: submit error (Unknown queue MSG=Unknown queue)\n")
    cluster.insert(**job(seq=5, name="t", state="COMPLETED", layout={"pbshead": 1}, start=now() - 5, end=now()))
    text = run("qstat", "-x").stdout
    assert text.startswith("<Data><Job><Job_Id>5.pbshead</Job_Id>")
    assert "<job_state>C</job_state>" in text
    assert "<exit_status>0</exit_status>" in text
    assert run("qstat", "9").stderr == "qstat: Unknown Job Id Error 9.pbshead\n"
    cluster.insert(**job(seq=6, name="r", state="RUNNING", layout={"pbsn1": 2}, cores=2, start=now()))
    nodes = run("pbsnodes", "-x").stdout
    node = "<name>pbsn1</name><state>job-exclusive</state><np>2</np><ntype>cluster</ntype><jobs>0/6.pbshead,1/6.pbshead</jobs>"
    assert nodes.startswith("<Data><Node><name>pbshead</name><state>free</state><np>2</np>")
    assert node in nodes
