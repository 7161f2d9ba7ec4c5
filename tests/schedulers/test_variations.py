"""What other releases and sites print of the same facts: extra words, other line ends, unset values, numbers of one part of a job."""

from datetime import timedelta

import pytest

from batchhub.core.errors import Unreachable
from batchhub.core.model import JobId, JobReport, JobState
from batchhub.core.ports import Completed
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.pbs import Pbs, Torque
from batchhub.schedulers.slurm import Slurm
from tests.schedulers.test_lsf import row as bjobs
from tests.schedulers.test_slurm import account, row

S = JobState


def one(dialect: Slurm | Pbs | Torque | Lsf, out: str, job: str = "1", err: str = "", code: int = 0) -> JobReport:
    listing = dialect.read_status(Completed(code, out, err), [JobId(job)])
    assert not listing.gone
    return listing.jobs[JobId(job)]


# ---------------------------------------------------------------- Slurm


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"left": "INVALID"}, {"time_left": None}),
        ({"left": "-1:00"}, {"time_left": None}),
        ({"left": "UNLIMITED", "limit": "UNLIMITED"}, {"time_left": None, "time_limit": None}),
        ({"left": "NOT_SET", "limit": "Partition_Limit"}, {"time_left": None, "time_limit": None}),
        ({"left": "0:00"}, {"time_left": timedelta(0)}),
        ({"left": "1-02:03:04"}, {"time_left": timedelta(days=1, hours=2, minutes=3, seconds=4)}),
        ({"start": "Unknown", "end": "Unknown", "submit": "(null)"}, {"started": None, "submitted": None}),
        ({"start": "NONE", "end": "0"}, {"started": None, "ended": None}),
        ({"nodes": "(null)", "host": "(null)"}, {"nodes": (), "host": ""}),
        ({"nodes": "n[08-09]x,gpu1", "host": "n08x"}, {"nodes": ("n08x", "n09x", "gpu1"), "host": "n08x"}),
        ({"nodes": "n07", "host": "N/A"}, {"nodes": ("n07",), "host": "n07"}),
        ({"priority": ""}, {"state": S.RUNNING}),
        ({"reason": "(null)"}, {"reason": ""}),
        ({"reason": "ReqNodeNotAvail, UnavailableNodes:n[1-3]\x1fmore"}, {"state": S.RUNNING}),
        ({"reason": "\x00\x85\u2028\ufffd"}, {"state": S.RUNNING}),
        ({"reason": "None\r"}, {"reason": ""}),
        ({"user": "nobody", "partition": "a,b"}, {"partition": "a,b"}),
    ],
)
def test_values_that_are_unset_odd_or_unlimited(cells: dict[str, str], expected: dict[str, object]) -> None:
    report = one(Slurm(), row("1", **cells))
    assert {name: getattr(report, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("out", "job", "state"),
    [
        (row("123+0", raw="123") + row("123+1", "PENDING", raw="124"), "123", S.RUNNING),
        (row("123_[1-5%2]", "PENDING", raw="123") + row("123_1", raw="130"), "123", S.PENDING),
        (row("123_[1,3,5-...]", "PENDING", raw="123"), "123", S.PENDING),
        (row("123_7", raw="140"), "123_7", S.RUNNING),
        ("CLUSTER: ref\n" + row("1"), "1;ref", S.RUNNING),
        ("CLUSTER: a\n" + row("1", "REVOKED") + "CLUSTER: b\n" + row("1", "PENDING"), "1", S.PENDING),
        (row("1").replace("\n", "\r\n"), "1", S.RUNNING),
        ("\n\n" + row("1") + "\n", "1", S.RUNNING),
        ("Welcome to the cluster!\n" + row("1") + "logout\n", "1", S.RUNNING),
        (row("1", "EXPEDITING"), "1", S.PENDING),
        (row("1", "HIBERNATING"), "1", S.UNKNOWN),
        (row("1", "SPECIAL_EXIT"), "1", S.HELD),
        (row("1", "RESV_DEL_HOLD"), "1", S.HELD),
        (row("1", "STOPPED"), "1", S.SUSPENDED),
        (row("1", "PENDING", reason="BeginTime"), "1", S.PENDING),
    ],
)
def test_ids_headings_and_states_of_squeue(out: str, job: str, state: JobState) -> None:
    assert one(Slurm(), out, job).state is state


def test_an_index_that_an_array_does_not_have_is_not_the_array() -> None:
    listing = Slurm().read_status(Completed(0, row("13_[]", "PENDING", raw="13")), [JobId("13_999")])
    assert (dict(listing.jobs), listing.gone, listing.unread) == ({}, frozenset(), frozenset())


def test_a_row_whose_two_numbers_differ_is_not_believed() -> None:
    done = Completed(0, row("12", "COMPLETED", raw="123") + row("7"))
    listing = Slurm().read_status(done, [JobId("12"), JobId("123"), JobId("7")])
    assert list(listing.jobs) == ["7"]
    assert listing.unread == {"12"}


@pytest.mark.parametrize("broken", [row("1", nodes="n[1-"), row("1", "?!"), "1\x1fRUNN\n", "1", row("1", host="-oX")])
def test_a_job_with_an_unreadable_row_is_not_missing(broken: str) -> None:
    listing = Slurm().read_status(Completed(0, row("2") + broken), [JobId("1"), JobId("2"), JobId("3")])
    assert (set(listing.jobs), listing.unread) == ({"2"}, {"1"})


def test_nothing_but_unreadable_rows_is_no_answer() -> None:
    for out in ("Slurm is down for maintenance.\n", "1\x1fRUNN\n", "<html>\n"):
        with pytest.raises(Unreachable):
            Slurm().read_status(Completed(0, out), [JobId("1"), JobId("2")])


@pytest.mark.parametrize(
    ("cells", "state", "exit_code", "signal"),
    [
        ({"state": "CANCELLED by 0"}, S.CANCELLED, 0, None),
        ({"state": "CANCELLED", "exit": "0:15"}, S.CANCELLED, None, 15),
        ({"state": "TIMEOUT", "exit": "0:0"}, S.TIMEOUT, 0, None),
        ({"state": "NODE_FAIL", "exit": "1:0"}, S.NODE_FAIL, 1, None),
        ({"state": "OUT_OF_MEMORY", "exit": "0:125"}, S.OUT_OF_MEMORY, None, 125),
        ({"state": "BOOT_FAIL"}, S.NODE_FAIL, 0, None),
        ({"state": "FAILED", "exit": "0:53", "reason": "JobLaunchFailure"}, S.FAILED, None, 53),
        ({"state": "PREEMPTED", "exit": "0:0"}, S.PREEMPTED, 0, None),
        ({"state": "RUNNING", "end": "Unknown", "reason": "(null)"}, S.RUNNING, None, None),
        ({"state": "REVOKED", "nodes": "None assigned"}, S.CANCELLED, 0, None),
    ],
)
def test_records_of_sacct(cells: dict[str, str], state: JobState, exit_code: int | None, signal: int | None) -> None:
    out = account("1", **cells).replace("\n", "\r\n")
    report = Slurm().read_accounting(Completed(0, out), [JobId("1")])[JobId("1")]
    assert (report.state, report.exit_code, report.signal) == (state, exit_code, signal)


# ---------------------------------------------------------------- PBS and Torque


def qstat(attributes: str, job: str = "1.srv") -> str:
    return f'{{"timestamp":1,"pbs_version":"2022.1.4.20230412","Jobs":{{"{job}":{{{attributes}}}}}}}'


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('"job_state":"R","exec_host":"n1/0*4+n1/1*4","Job_Name":1e5', {"name": "1e5", "nodes": ("n1",)}),
        ('"job_state":"R","Account_Name":nan,"Variable_List":{"I":-inf}', {"state": S.RUNNING}),
        ('"job_state":"R","Resource_List":{"walltime":"100:00:00"},"resources_used":{"walltime":"101:00:00"}', {"time_left": timedelta(0)}),
        ('"job_state":"R","Resource_List":{"walltime":3600}', {"time_limit": timedelta(hours=1)}),
        ('"job_state":"R","exec_host":"host[0]/0"', {"nodes": (), "host": ""}),
        ('"job_state":"E","Exit_status":0', {"state": S.COMPLETING, "exit_code": None}),
        ('"job_state":"X","Exit_status":265', {"state": S.FAILED, "signal": 9}),
        ('"job_state":"M"', {"state": S.UNKNOWN}),
        ('"job_state":"F","Exit_status":-3,"exec_host":"a/0"', {"state": S.FAILED, "exit_code": None, "signal": None}),
        ('"job_state":"F","Exit_status":-29,"substate":91,"exec_host":"a/0"', {"state": S.TIMEOUT}),
        ('"job_state":"F","substate":92,"Exit_status":0,"run_count":1,"obittime":"Sun Nov 22 20:47:36 2026"', {"state": S.COMPLETED}),
        ('"job_state":"Q","comment":"Not Running: \\u00e9\\u0000 tab\there","queue":"q@srv"', {"state": S.PENDING, "partition": "q"}),
        ('"job_state":"Q","Resource_List":{"walltime":"unlimited"},"estimated":{"start_time":"N/A"}', {"time_limit": None, "estimated_start": None}),
        ('"job_state":"Q","ctime":"So Nov 22 20:47:36 2026"', {"submitted": None}),
    ],
)  # fmt: skip
def test_attributes_of_pbs(attributes: str, expected: dict[str, object]) -> None:
    report = one(Pbs(), qstat(attributes), "1.srv")
    assert {name: getattr(report, name) for name in expected} == expected


def test_line_ends_banners_and_subjobs_of_pbs() -> None:
    assert one(Pbs(), "Welcome\n" + qstat('"job_state":"R"').replace(",", ",\r\n"), "1.srv").state is S.RUNNING
    assert one(Pbs(), qstat('"job_state":"B"', "7[].srv"), "7[].srv").state is S.RUNNING
    assert one(Pbs(), qstat('"job_state":"X"', "7[3].srv"), "7[3].srv").state is S.UNKNOWN


def test_a_pbs_job_with_an_unreadable_record_is_not_missing() -> None:
    out = '{"Jobs":{"1.srv":{"queue":"x"},"2.srv":{"job_state":"R"},"3.srv":"gone?","4.srv":{"job_state":"R","job_state":"F"}}}'
    about = "qstat: Unauthorized Request  5.srv"
    jobs = [JobId(f"{number}.srv") for number in (1, 2, 3, 4, 5, 6)]
    listing = Pbs().read_status(Completed(159, out, about), jobs)
    assert (set(listing.jobs), listing.gone) == ({"2.srv"}, frozenset())
    assert listing.unread == {"1.srv", "3.srv", "4.srv", "5.srv"}


def test_an_id_that_was_cut_short_is_not_gone() -> None:
    done = Completed(153, qstat('"job_state":"R"', "2.srv"), "qstat: Unknown Job Id 1")
    assert Pbs().read_status(done, [JobId("1.srv"), JobId("2.srv")]).gone == frozenset()


def test_several_complaints_of_one_qstat() -> None:
    err = (
        "qstat: 1.srv Job has finished, use -x or -H to obtain historical job information\r\n"
        "/opt/pbs/bin/qstat: Unknown Job Id 2.srv\r\n"
    )
    jobs = [JobId(f"{number}.srv") for number in (1, 2, 3)]
    for code in (35, 153):
        listing = Pbs().read_status(Completed(code, qstat('"job_state":"H"', "3.srv"), err), jobs)
        assert (listing.gone, set(listing.jobs)) == ({"1.srv", "2.srv"}, {"3.srv"})


def test_torque_record_that_cannot_be_read_is_not_missing() -> None:
    out = "<Data><Job><Job_Id>1.srv</Job_Id><job_state>R&</job_state></Job><Job><Job_Id>2.srv</Job_Id></Job></Data>"
    listing = Torque().read_status(Completed(0, out), [JobId("1.srv"), JobId("2.srv")])
    assert (dict(listing.jobs), listing.unread) == ({}, {"1.srv", "2.srv"})


# ---------------------------------------------------------------- LSF


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"stat": "RUN", "time_left": "L", "runtimelimit": ""}, {"time_left": None, "time_limit": None}),
        ({"stat": "RUN", "time_left": "-", "finish_time": "Dec 28 19:56 L"}, {"time_left": None, "ended": None}),
        ({"stat": "RUN", "exec_host": "4*n01:2*n02"}, {"nodes": ("n01", "n02"), "host": "n01"}),
        ({"stat": "PEND", "pend_reason": "Load: n1 ^ n2; Not enough hosts;"}, {"reason": "Load: n1 ^ n2; Not enough hosts;"}),
        ({"stat": "PEND", "exec_host": "-", "estimated_start_time": "Dec 28 20:00"}, {"estimated_start": None, "nodes": ()}),
        ({"stat": "EXIT", "exec_host": "n1", "exit_code": "140"}, {"state": S.TIMEOUT, "exit_code": 140}),
        ({"stat": "EXIT", "exec_host": "n1", "exit_code": "140", "exit_reason": "TERM_OWNER: job killed by owner"}, {"state": S.CANCELLED}),
        ({"stat": "EXIT", "exec_host": "n1", "exit_code": "127", "exit_reason": "TERM_UNKNOWN: unknown"}, {"state": S.FAILED}),
        ({"stat": "EXIT", "exec_host": "-", "exit_code": "140"}, {"state": S.CANCELLED}),
        ({"stat": "ZOMBI", "exec_host": "n1"}, {"state": S.UNKNOWN}),
        ({"stat": "UNKWN", "exec_host": "n1"}, {"state": S.UNKNOWN}),
    ],
)  # fmt: skip
def test_fields_of_bjobs(values: dict[str, str], expected: dict[str, object]) -> None:
    report = one(Lsf(), bjobs(jobid="1", **values).replace("\n", "\r\n"))
    assert {name: getattr(report, name) for name in expected} == expected


def test_a_job_with_an_unreadable_row_of_bjobs_is_not_missing() -> None:
    out = "1^0^R\n" + bjobs(jobid="2", stat="RUN") + bjobs(jobid="3", stat="RUN") + bjobs(jobid="3", stat="EXIT")
    listing = Lsf().read_status(Completed(255, out, "Job <4> is not found"), [JobId(str(n)) for n in range(1, 6)])
    assert (set(listing.jobs), listing.gone, listing.unread) == ({"2"}, {"4"}, {"1", "3"})
    records = '{"RECORDS":[{"JOBID":"1"},{"JOBID":"2","STAT":"RUN"}]}'
    assert Lsf().read_status(Completed(0, records), [JobId("1"), JobId("2")]).unread == {"1"}


def test_a_month_in_another_language_hides_no_job() -> None:
    out = "1     al      RUN   normal     head        n07:n07     bh-x       Mär 22 20:58\n2 al RUN normal head n07 x Nov 22 20:58\n"
    listing = Lsf(flavour="openlava").read_status(Completed(0, out), [JobId("1"), JobId("2")])
    assert (set(listing.jobs), listing.unread) == ({"2"}, {"1"})
