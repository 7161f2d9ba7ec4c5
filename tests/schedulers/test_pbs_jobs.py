"""States, ends, hosts and times of PBS and Torque jobs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, HubError
from batchhub.core.model import JobId, JobState
from batchhub.schedulers.pbs_jobs import read_exec_host, read_job, read_time

ID = JobId("1.srv")
S = JobState


def state(letter: str, *, torque: bool = False, **attributes: Any) -> JobState:
    return read_job(ID, {"job_state": letter, **attributes}, torque=torque).state


@pytest.mark.parametrize(
    ("letter", "attributes", "expected"),
    [
        ("Q", {}, S.PENDING),
        ("Q", {"comment": "Can Never Run: Insufficient amount of resource: ncpus"}, S.PENDING),
        ("H", {"Hold_Types": "u"}, S.HELD),
        ("H", {"Hold_Types": "s"}, S.HELD),
        ("H", {"Hold_Types": "s", "depend": "afterok:1.srv@srv"}, S.PENDING),
        ("W", {}, S.PENDING),
        ("T", {}, S.PENDING),
        ("R", {}, S.RUNNING),
        ("R", {"substate": "42"}, S.RUNNING),
        ("R", {"substate": "41"}, S.STARTING),
        ("R", {"substate": "71"}, S.STARTING),
        ("S", {"substate": "43"}, S.SUSPENDED),
        ("U", {}, S.SUSPENDED),
        ("E", {}, S.COMPLETING),
        ("B", {"substate": "70"}, S.RUNNING),
        ("X", {}, S.UNKNOWN),
        ("X", {"Exit_status": "0"}, S.COMPLETED),
        ("X", {"Exit_status": "2"}, S.FAILED),
        ("M", {}, S.UNKNOWN),
        ("Z", {}, S.UNKNOWN),
        ("C", {"exit_status": "0"}, S.UNKNOWN),
        ("F", {"substate": "92", "Exit_status": "0"}, S.COMPLETED),
        ("F", {"substate": "92"}, S.COMPLETED),
        ("F", {"substate": "93", "Exit_status": "3"}, S.FAILED),
        ("F", {"substate": "93", "Exit_status": "0"}, S.FAILED),
        ("F", {"substate": "93", "exec_host": "a/0"}, S.FAILED),
        ("F", {"substate": "91"}, S.CANCELLED),
        ("F", {"substate": "91", "Exit_status": "271", "exec_host": "a/0"}, S.CANCELLED),
        ("F", {"substate": "91", "Exit_status": "265", "exec_host": "a/0"}, S.CANCELLED),
        ("F", {"substate": "93", "Exit_status": "271", "exec_host": "a/0"}, S.FAILED),
        ("F", {"substate": "93", "Exit_status": "271", "comment": "Job deleted by root"}, S.CANCELLED),
        ("F", {"substate": "93", "Exit_status": "-29"}, S.TIMEOUT),
        ("F", {"substate": "93", "Exit_status": "-28"}, S.TIMEOUT),
        ("F", {"substate": "93", "Exit_status": "-27"}, S.OUT_OF_MEMORY),
        ("F", {"substate": "93", "Exit_status": "-26"}, S.OUT_OF_MEMORY),
        ("F", {"substate": "93", "Exit_status": "-14"}, S.NODE_FAIL),
        ("F", {"substate": "93", "Exit_status": "-20"}, S.NODE_FAIL),
        ("F", {"substate": "93", "Exit_status": "-1"}, S.FAILED),
        ("F", {"substate": "93", "Exit_status": "-10"}, S.FAILED),
        ("F", {"Exit_status": "271", "comment": "Job run at x on (a:ncpus=1) and exceeded resource walltime"}, S.TIMEOUT),
        ("F", {"Exit_status": "265", "comment": "Job run at x on (a:ncpus=1) and exceeded resource mem"}, S.OUT_OF_MEMORY),
        ("F", {"Exit_status": "1", "comment": "and exceeded resource ncpus"}, S.FAILED),
        ("F", {}, S.CANCELLED),
    ],
)  # fmt: skip
def test_pbs_states(letter: str, attributes: dict[str, Any], expected: JobState) -> None:
    assert state(letter, **attributes) is expected


@pytest.mark.parametrize(
    ("letter", "attributes", "expected"),
    [
        ("Q", {}, S.PENDING),
        ("R", {}, S.RUNNING),
        ("H", {}, S.HELD),
        ("E", {}, S.COMPLETING),
        ("C", {"exit_status": "0", "exec_host": "a/0"}, S.COMPLETED),
        ("C", {"exit_status": "3", "exec_host": "a/0"}, S.FAILED),
        ("C", {"exit_status": "271", "exec_host": "a/0"}, S.CANCELLED),
        ("C", {"exit_status": "265", "exec_host": "a/0"}, S.FAILED),
        ("C", {"exit_status": "-11", "exec_host": "a/0"}, S.TIMEOUT),
        ("C", {"exit_status": "-12", "exec_host": "a/0"}, S.TIMEOUT),
        ("C", {"exit_status": "-10", "exec_host": "a/0"}, S.OUT_OF_MEMORY),
        ("C", {"exit_status": "-29", "exec_host": "a/0"}, S.FAILED),
        ("C", {}, S.CANCELLED),
        ("C", {"exec_host": "a/0"}, S.FAILED),
    ],
)
def test_torque_states(letter: str, attributes: dict[str, Any], expected: JobState) -> None:
    assert state(letter, torque=True, **attributes) is expected


@pytest.mark.parametrize(
    ("status", "code", "signal"),
    [("0", 0, None), ("3", 3, None), ("127", 127, None), ("137", 137, 9), ("271", None, 15), ("265", None, 9), ("-29", None, None), ("x", None, None)],
)  # fmt: skip
def test_exit_status(status: str, code: int | None, signal: int | None) -> None:
    report = read_job(ID, {"job_state": "F", "Exit_status": status, "substate": "93"})
    assert (report.exit_code, report.signal) == (code, signal)


@pytest.mark.parametrize("letter", ["", "RR", "r", None, ["R"], {}])
def test_a_record_without_a_state_is_no_job(letter: Any) -> None:
    with pytest.raises(BadInput):
        read_job(ID, {"job_state": letter})


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a/0*4+b/1", ("a", "b")),
        ("head/0*2+head/1*2", ("head",)),
        ("b141/0*16", ("b141",)),
        ("node1/3+node1/2", ("node1",)),
        ("r2i4n13/0-23+r1i2n12/0-23", ("r2i4n13", "r1i2n12")),
        ("n1/0,2-5+n2/1", ("n1", "n2")),
        ("n1.example.org:15002/0*2", ("n1.example.org",)),
        ("", ()),
        ("a/0+", ()),
        ("a b/0", ()),
        ("-x/0", ()),
        ("a/0;rm", ()),
        ("+".join(f"n{i}/0" for i in range(10_002)), ()),
    ],
)
def test_exec_host(text: str, hosts: tuple[str, ...]) -> None:
    assert read_exec_host(text) == hosts


def test_times() -> None:
    moment = datetime(2026, 11, 22, 20, 47, 36, tzinfo=UTC)
    assert read_time("Sun Nov 22 20:47:36 2026") == moment
    assert read_time(str(int(moment.timestamp()))) == moment
    assert read_time("Sun Nov  2 20:47:36 2026") == datetime(2026, 11, 2, 20, 47, 36, tzinfo=UTC)
    for text in ("", "soon", "Sun Xyz 22 20:47:36 2026", "Sun Feb 31 20:47:36 2026", "Sun Nov 22 20:47:36 0000"):
        assert read_time(text) is None


def test_the_whole_report() -> None:
    report = read_job(
        ID,
        {
            "job_state": "R",
            "Job_Owner": "alice@login.example.org",
            "Job_Name": "bh-abc",
            "queue": "workq",
            "comment": "Job run at …",
            "exec_host": "n1/0*4+n2/0*4",
            "ctime": "Sun Nov 22 20:47:36 2026",
            "stime": "Sun Nov 22 20:48:00 2026",
            "Resource_List": {"walltime": "08:00:00"},
            "resources_used": {"walltime": "01:00:00"},
        },
    )
    assert (report.user, report.name, report.partition) == ("alice", "bh-abc", "workq")
    assert (report.host, report.nodes) == ("n1", ("n1", "n2"))
    assert report.started == datetime(2026, 11, 22, 20, 48, tzinfo=UTC)
    assert (report.time_limit, report.time_left) == (timedelta(hours=8), timedelta(hours=7))


def test_a_waiting_job_has_an_estimate_and_no_host() -> None:
    report = read_job(
        ID,
        {
            "job_state": "Q",
            "exec_host": "n1/0",
            "stime": "Sun Nov 22 20:48:00 2026",
            "estimated": {"start_time": "Sun Nov 22 20:57:09 2026"},
            "comment": "Not Running: Queue not started.",
        },
    )
    assert (report.host, report.started) == ("", None)
    assert report.estimated_start == datetime(2026, 11, 22, 20, 57, 9, tzinfo=UTC)
    assert report.reason == "Not Running: Queue not started."


def test_walltime_in_seconds_and_overrun() -> None:
    report = read_job(
        ID, {"job_state": "R", "Resource_List": {"walltime": "300"}, "resources_used": {"walltime": "00:06:00"}}
    )
    assert (report.time_limit, report.time_left) == (timedelta(minutes=5), timedelta(0))


@given(st.dictionaries(
    st.sampled_from(["job_state", "Exit_status", "exec_host", "ctime", "Resource_List", "estimated", "comment", "substate", "queue"]),
    st.text(max_size=12) | st.sampled_from(["R", "F", "Q", "-29", "9" * 30]) | st.none() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()),
))  # fmt: skip
def test_garbage_raises_nothing_but_our_errors(record: dict[str, Any]) -> None:
    for torque in (False, True):
        try:
            read_job(ID, record, torque=torque)
        except HubError:
            continue
