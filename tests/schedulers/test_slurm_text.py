"""Slurm's words, and recordings of Slurm 22.05 and 24.11."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, SubmitRejected
from batchhub.core.model import JobId, JobState
from batchhub.core.ports import Completed
from batchhub.schedulers import slurm_text as text
from batchhub.schedulers.slurm import Slurm

RECORDINGS = Path(__file__).parents[1] / "recordings" / "slurm"

STATES = """
PENDING PD pending
RUNNING R running
SUSPENDED S suspended
COMPLETED CD completed
CANCELLED CA cancelled
FAILED F failed
TIMEOUT TO timeout
NODE_FAIL NF node_fail
PREEMPTED PR preempted
BOOT_FAIL BF node_fail
DEADLINE DL timeout
OUT_OF_MEMORY OOM out_of_memory
COMPLETING CG completing
CONFIGURING CF starting
STAGE_OUT SO completing
RESIZING RS running
REQUEUED RQ requeued
REQUEUE_FED RF requeued
REQUEUE_HOLD RH held
SPECIAL_EXIT SE held
RESV_DEL_HOLD RD held
REVOKED RV cancelled
SIGNALING SI running
STOPPED ST suspended
EXPEDITING EXPEDITING pending
WHATEVER XX unknown
"""


@pytest.mark.parametrize("line", STATES.split("\n")[1:-1])
def test_every_state_long_and_short(line: str) -> None:
    long, short, state = line.split()
    assert text.state_of(long) == text.state_of(short) == JobState(state)


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("PENDING+COMPLETING", "completing"),
        ("COMPLETING,PENDING", "completing"),
        ("RUNNING+CONFIGURING", "starting"),
        ("PENDING,REQUEUED", "requeued"),
        ("RUNNING+SIGNALING", "running"),
        ("COMPLETED+SIGNALING", "completed"),
        ("RUNNING+RECONFIG_FAIL", "running"),
        ("RUNNING|STOPPED", "suspended"),
        ("CANCELLED by 1001", "cancelled"),
        ("CANCELLED+", "cancelled"),
        ("OUT_OF_ME+", "out_of_memory"),
        ("COMPLETED+", "completed"),
        ("RE+", "unknown"),
        ("", "unknown"),
    ],
)
def test_flags_and_cut_words(words: str, state: str) -> None:
    assert text.state_of(words) == JobState(state)


@pytest.mark.parametrize(
    ("reason", "priority", "state"),
    [("JobHeldUser", "0", "held"), ("JobHeldAdmin", "5", "held"), ("JobHoldMaxRequeue", "", "held"),
     ("launch failed requeued held", "", "held"), ("launch_failed_requeued_held", "", "held"), ("None", "0", "held"),
     ("Priority", "17", "pending"), ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "1", "pending")],
)  # fmt: skip
def test_held(reason: str, priority: str, state: str) -> None:
    assert text.state_of("PENDING", reason, priority) == JobState(state)
    assert text.state_of("RUNNING", reason, priority) is JobState.RUNNING


def test_a_pending_jobs_start_is_an_estimate_and_its_nodes_a_plan() -> None:
    job = text.report(
        {"id": "1", "word": "PENDING", "start": "1795381614", "nodes": "n1", "host": "n/a", "left": "10:00"}
    )
    assert (job.started, job.nodes, job.host) == (None, (), "")
    assert job.estimated_start == datetime(2026, 11, 22, 21, 6, 54, tzinfo=UTC)
    assert job.time_left == timedelta(minutes=10)
    assert text.report({"id": "1", "word": "PENDING", "start": "N/A"}).estimated_start is None


@pytest.mark.parametrize(("batch_host", "host"), [("n2", "n2"), ("n/a", "n01"), ("(null)", "n01"), ("", "n01")])
def test_the_host_is_where_the_script_runs(batch_host: str, host: str) -> None:
    job = text.report({"id": "1", "word": "R", "nodes": "n[01-03]", "host": batch_host})
    assert job.nodes == ("n01", "n02", "n03")
    assert job.host == host


@pytest.mark.parametrize(
    ("said", "reason", "exit_code", "signal"),
    [("3:0", "", 3, None), ("0:15", "", None, 15), ("0:0", "", 0, None), ("768", "", 3, None), ("9", "", None, 9),
     ("", "RaisedSignal:9(Killed)", None, 9), ("", "NonZeroExitCode", None, None), ("N/A", "", None, None), ("1:9", "", 1, 9)],
)  # fmt: skip
def test_exits(said: str, reason: str, exit_code: int | None, signal: int | None) -> None:
    job = text.report({"id": "1", "word": "FAILED", "exit": said, "reason": reason})
    assert (job.exit_code, job.signal) == (exit_code, signal)
    assert text.report({"id": "1", "word": "PENDING", "exit": "0:15"}).signal is None, "of the run before the requeue"


@pytest.mark.parametrize("word", ["UNLIMITED", "NOT_SET", "INVALID", "Partition_Limit", "N/A", ""])
def test_words_for_no_limit(word: str) -> None:
    job = text.report({"id": "1", "word": "RUNNING", "limit": word, "left": word})
    assert (job.time_limit, job.time_left) == (None, None)


@given(
    st.dictionaries(
        st.sampled_from(["reason", "nodes", "host", "start", "end", "submit", "left", "limit", "priority", "exit"]),
        st.text(),
    )
)
def test_odd_fields_raise_bad_input_at_most(fields: dict[str, str]) -> None:
    for word in ("RUNNING", "FAILED"):
        with contextlib.suppress(BadInput):
            text.report({"id": "1", "word": word, **fields})


# ---------------------------------------------------------------- recordings


def recorded(name: str) -> str:
    return (RECORDINGS / name).read_text(errors="replace")


def test_recorded_squeue_columns() -> None:
    names = ("id", "word", "reason", "tres", "start", "end", "nodes", "sched")
    bad: list[str] = []
    lines = recorded("24.11/squeue_o.txt").replace("|", text.SEPARATOR)
    jobs = {job.id: job for _, job in text.read_rows(text.rows(lines, names, bad), bad)}
    assert not bad
    assert {number: job.state.value for number, job in jobs.items()} == {
        "12": "cancelled", "4": "cancelled", "2": "completed", "1": "failed", "9": "failed", "13": "failed", "8": "pending",
        "6_[2,4%1]": "pending", "10": "pending", "11": "held", "5": "running", "3": "running", "6_1": "running", "7": "running",
    }  # fmt: skip
    assert jobs[JobId("12")].started is None, "cancelled while it waited"
    assert jobs[JobId("9")].signal == 9
    assert jobs[JobId("4")].ended == datetime(2026, 11, 22, 21, 6, 59, tzinfo=UTC)


@pytest.mark.parametrize("release", ["22.05", "24.11"])
def test_recorded_sacct(release: str) -> None:
    ours = {"JobID": "id", "State": "word", "ExitCode": "exit", "Start": "start", "End": "end", "Timelimit": "limit",
            "NodeList": "nodes", "Reason": "reason", "Submit": "submit"}  # fmt: skip
    heading, *lines = recorded(f"{release}/sacct_p.txt").splitlines()
    names = [ours.get(name, name) for name in heading.split("|")]
    read = [
        text.report(dict(zip(names, line.split("|"), strict=False)))
        for line in lines
        if line.count("|") == len(names) - 1
    ]
    jobs = {job.id: job for job in read if "." not in job.id}
    assert len(jobs) > 5
    assert JobState.UNKNOWN not in {job.state for job in jobs.values()}
    if release == "24.11":
        assert jobs[JobId("1")].exit_code == 3
        assert jobs[JobId("9")].signal == 9
        assert jobs[JobId("4")].raw_state == "CANCELLED by 1001"
        assert (jobs[JobId("12")].started, jobs[JobId("12")].nodes) == (None, ())
        assert jobs[JobId("8")].state is JobState.REQUEUED


def test_recorded_show_job() -> None:
    jobs = {job.id: job for job in text.read_show_job(recorded("24.11/showjob.txt"))}
    first = jobs[JobId("1")]
    assert (first.state, first.exit_code, first.reason, first.user) == (JobState.FAILED, 3, "NonZeroExitCode", "alice")
    assert (first.host, first.nodes, first.partition) == ("n1", ("n1",), "cpu")
    assert first.time_limit == timedelta(minutes=5)
    assert first.started == datetime(2026, 11, 22, 21, 6, 54, tzinfo=UTC)


def test_recorded_show_job_of_an_array_and_many_nodes() -> None:
    jobs = {job.id: job for job in text.read_show_job(recorded("22.05/showjob_all.txt"))}
    assert jobs[JobId("12")].state is JobState.PENDING
    assert jobs[JobId("12")].reason == "BeginTime"
    assert jobs[JobId("13_1")].state is JobState.RUNNING
    assert jobs[JobId("16")].nodes == ("n1", "n2", "n3")
    assert jobs[JobId("17")].state is JobState.HELD


def test_show_job_in_one_line_with_a_name_that_poses_as_fields() -> None:
    line = (
        "JobId=7 JobName=a JobState=FAILED UserId=al(1001) GroupId=al(1001) JobState=PENDING "
        "Reason=ReqNodeNotAvail, UnavailableNodes:n1 Dependency=(null) NodeList= Priority=4\n"
    )
    (job,) = text.read_show_job(line)
    assert job.state is JobState.PENDING
    assert job.reason == "ReqNodeNotAvail, UnavailableNodes:n1"
    assert text.read_show_job("JobId=7 JobName=x\n   UserId=al(1)\n") == []
    assert text.read_show_job("No jobs in the system\n") == []


SINFO_22 = """\
cpu|up|1-00:00:00|1:00:00|2|17/15/0/32|16|64000|mix|(null)
cpu|up|1-00:00:00|1:00:00|1|16/0/0/16|16|64000|alloc|(null)
gpu|up|12:00:00|n/a|1|5/27/0/32|32|128000|mix|gpu:a100:4(S:0-1),gpu:t4:1,shard:8
down|down|1:00:00|n/a|3|22/42/0/64|16+|64000+|mix|(null)
"""


def test_recorded_partitions_with_their_nodes() -> None:
    cpu, gpu, down = text.read_partitions(recorded("22.05/showpart.txt"), SINFO_22.replace("|", text.SEPARATOR))
    assert (cpu.name, cpu.default, cpu.open, cpu.nodes, cpu.free_cores) == ("cpu", True, True, 3, 15)
    assert (cpu.max_walltime, cpu.default_walltime) == (timedelta(days=1), timedelta(hours=1))
    assert (cpu.max_cores, cpu.max_memory_mib, cpu.max_gpus, cpu.gpu_types) == (16, 64000, 0, ())
    assert (gpu.max_gpus, gpu.gpu_types, gpu.default_walltime) == (5, ("a100", "t4"), None)
    assert (down.open, down.max_cores) == (False, 16)


def test_recorded_partitions_without_sinfo() -> None:
    cpu, down = text.read_partitions(recorded("24.11/showpart.txt"), "")
    assert (cpu.max_gpus, cpu.gpu_types, cpu.max_cores, cpu.free_cores) == (4, ("a100",), None, None)
    assert not down.open


def test_partition_limits_for_a_node() -> None:
    shown = "PartitionName=a State=UP MaxCPUsPerNode=8 MaxMemPerNode=0 MaxTime=UNLIMITED TRES=cpu=4,gres/gpu=4 TotalNodes=2\n"
    shown += "PartitionName=b State=UP MaxCPUsPerNode=8 MaxMemPerNode=1000\n"
    a, b = text.read_partitions(
        shown, text.SEPARATOR.join(("a", "up", "x", "x", "1", "odd", "16", "2000", "idle", "gpu:2")) + "\n"
    )
    assert (a.max_cores, a.max_memory_mib, a.max_walltime, a.max_gpus, a.free_cores) == (8, 2000, None, 2, None)
    assert (b.max_cores, b.max_memory_mib, b.nodes) == (8, 1000, None)
    assert text.read_partitions("PartitionName=c TRES=gres/gpu=4 TotalNodes=2", "")[0].max_gpus == 2


def test_recorded_refusals() -> None:
    lines = [
        line[5:] for line in recorded("24.11/transcript.txt").splitlines() if line.startswith("err| sbatch: error: ")
    ]
    for line in lines:
        if "submission failed" in line:
            with pytest.raises(SubmitRejected):
                Slurm().read_submit(Completed(1, "", line))


def test_recorded_unknown_id() -> None:
    err = recorded("24.11/squeue_bad_json.stderr.txt")
    assert Slurm().read_status(Completed(1, "", err), [JobId("99999")]).gone == {"99999"}


# ---------------------------------------------------------------- our own questions, as Slurm 22.05 answered them in the lab


def answer(name: str) -> Completed:
    return Completed(0, (RECORDINGS / "22.05" / name).read_text())


ASKED = [JobId(str(number)) for number in range(1, 10)]


def test_our_squeue() -> None:
    listing = Slurm().read_status(answer("ours_squeue.txt"), [*ASKED, JobId("99")])
    assert not listing.bad_rows
    assert {number: job.state.value for number, job in listing.jobs.items()} == {
        "1": "failed", "2": "failed", "3": "held", "4": "running", "5": "completed", "6": "running", "7": "pending",
        "8": "pending", "9": "cancelled",
    }  # fmt: skip
    six, seven, eight, nine = (listing.jobs[JobId(number)] for number in "6789")
    assert (six.user, six.partition, six.nodes, six.host) == ("bob", "debug", ("c1", "c2"), "c1")
    assert (six.time_limit, six.time_left) == (timedelta(minutes=2), timedelta(seconds=116))
    assert six.started == six.submitted == datetime.fromtimestamp(1795418296, UTC)
    assert (six.ended, six.estimated_start) == (None, None)
    assert seven.estimated_start == datetime.fromtimestamp(1795420096, UTC)
    assert (eight.reason, eight.estimated_start, eight.host) == ("PartitionDown", None, "")
    assert (nine.started, nine.ended) == (None, datetime.fromtimestamp(1795418296, UTC))


def test_our_sacct() -> None:
    found = Slurm().read_accounting(answer("ours_sacct.txt"), [*ASKED, JobId("99")])
    assert set(found) == set(ASKED)
    assert (found[JobId("1")].exit_code, found[JobId("2")].signal, found[JobId("5")].exit_code) == (3, 9, 0)
    assert (found[JobId("9")].state, found[JobId("9")].started) == (JobState.CANCELLED, None)
    assert found[JobId("8")].time_limit is None
    assert found[JobId("6")].nodes == ("c1", "c2")


def test_our_inspection() -> None:
    queues = Slurm().read_inspect([answer("ours_partitions.txt"), answer("ours_sinfo.txt")])
    assert [queue.name for queue in queues] == ["debug", "long", "low", "high", "closed"]
    assert [queue.free_cores for queue in queues] == [11] * 5
    assert [queue.name for queue in queues if not queue.open] == ["closed"]
    assert (queues[0].default, queues[0].max_gpus, queues[0].gpu_types) == (True, 2, ("a100",))
    assert (queues[2].max_walltime, queues[2].default_walltime) == (None, timedelta(hours=1))
