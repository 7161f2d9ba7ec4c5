"""Rows, JSON records and tables of bjobs."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import HubError, Unreachable
from batchhub.core.model import JobId, JobState
from batchhub.schedulers.lsf_read import (
    FIELDS,
    end_state,
    read_hosts,
    read_json,
    read_left,
    read_limit,
    read_rows,
    read_termination,
    read_time,
    under_asked,
)
from tests.recordings.openpbs.recorded import recorded

S = JobState


def row(**values: str) -> str:
    return "^".join(values.get(name, "-") for name in FIELDS)


def test_a_row_of_bjobs_o() -> None:
    rows = read_rows(
        row(
            jobid="101", jobindex="0", stat="RUN", user="alice", queue="normal", exec_host="2*hostA:hostB",
            submit_time="Dec 28 19:56:45 2018", start_time="Dec 28 19:57:00 2018", finish_time="Dec 29 19:57:00 2018 L",
            time_left="0:9 L", runtimelimit="1440.0",
        )
    )  # fmt: skip
    report = rows.found[JobId("101")]
    assert (report.state, report.raw_state, report.user, report.partition) == (S.RUNNING, "RUN", "alice", "normal")
    assert (report.host, report.nodes) == ("hostA", ("hostA", "hostB"))
    assert report.submitted == datetime(2018, 12, 28, 19, 56, 45, tzinfo=UTC)
    assert report.started == datetime(2018, 12, 28, 19, 57, tzinfo=UTC)
    assert report.ended is None
    assert (report.time_left, report.time_limit) == (timedelta(minutes=9), timedelta(days=1))


def test_a_waiting_row_has_a_reason_and_an_estimate() -> None:
    rows = read_rows(
        row(
            jobid="1",
            stat="PEND",
            pend_reason="Job slot limit reached: 2 hosts;",
            estimated_start_time="Dec 28 20:00:00 2018 E",
        )
    )
    report = rows.found[JobId("1")]
    assert report.reason == "Job slot limit reached: 2 hosts;"
    assert report.estimated_start == datetime(2018, 12, 28, 20, tzinfo=UTC)


def test_an_ended_row_has_code_signal_and_why() -> None:
    rows = read_rows(
        row(jobid="1", stat="EXIT", exec_host="a", exit_code="140", exit_reason="TERM_RUNLIMIT: job killed after reaching LSF run time limit",
            finish_time="Dec 28 20:00:00 2018 X")
    )  # fmt: skip
    report = rows.found[JobId("1")]
    assert (report.state, report.exit_code, report.signal) == (S.TIMEOUT, 140, 12)
    assert report.reason.startswith("TERM_RUNLIMIT")
    assert report.ended == datetime(2018, 12, 28, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stat", "state"),
    [
        ("PEND", S.PENDING), ("PSUSP", S.HELD), ("PROV", S.STARTING), ("WAIT", S.STARTING), ("RUN", S.RUNNING),
        ("USUSP", S.SUSPENDED), ("SSUSP", S.SUSPENDED), ("DONE", S.COMPLETED), ("EXIT", S.FAILED), ("UNKWN", S.UNKNOWN),
        ("ZOMBI", S.UNKNOWN), ("POST_DONE", S.COMPLETED), ("PDONE", S.COMPLETED), ("POST_ERR", S.COMPLETED), ("NEW", S.UNKNOWN),
    ],
)  # fmt: skip
def test_states(stat: str, state: JobState) -> None:
    assert read_rows(row(jobid="1", stat=stat, exec_host="a")).found[JobId("1")].state is state


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("TERM_OWNER: job killed by owner", S.CANCELLED), ("TERM_ADMIN", S.CANCELLED), ("TERM_FORCE_OWNER", S.CANCELLED),
        ("TERM_FORCE_ADMIN", S.CANCELLED), ("TERM_RUNLIMIT", S.TIMEOUT), ("TERM_CPULIMIT", S.TIMEOUT), ("TERM_DEADLINE", S.TIMEOUT),
        ("TERM_WINDOW", S.TIMEOUT), ("TERM_MEMLIMIT", S.OUT_OF_MEMORY), ("TERM_SWAP", S.OUT_OF_MEMORY), ("TERM_PREEMPT", S.PREEMPTED),
        ("TERM_ZOMBIE", S.NODE_FAIL), ("TERM_REQUEUE_OWNER", S.REQUEUED), ("TERM_REQUEUE_ADMIN", S.REQUEUED), ("TERM_CWD_NOTEXIST", S.FAILED),
        ("job killed by owner", S.CANCELLED), ("job killed after reaching LSF run time limit", S.TIMEOUT),
        ("job killed after reaching LSF memory usage limit", S.OUT_OF_MEMORY), ("job preempted", S.PREEMPTED), ("", S.FAILED), ("other", S.FAILED),
    ],
)  # fmt: skip
def test_ends(reason: str, state: JobState) -> None:
    assert end_state("EXIT", reason, ran=True) is state


def test_a_job_that_never_had_a_host_was_killed_waiting() -> None:
    assert end_state("EXIT", "", ran=False) is S.CANCELLED
    assert read_termination("") is None
    _, done = recorded("openlava", "poll_cancelled_pending_w")
    assert read_rows(done.out).found[JobId("239")].state is S.CANCELLED


def test_wide_rows_of_openlava() -> None:
    _, done = recorded("openlava", "list_all_w")
    found = read_rows(done.out).found
    assert {job: (report.state, report.name) for job, report in found.items()} == {
        "212": (S.HELD, "held"), "213": (S.PENDING, "later"), "218": (S.PENDING, "nomem"), "233": (S.PENDING, "crlf"),
        "234": (S.PENDING, "a b"), "235": (S.HELD, "0123"), "236": (S.HELD, "naïve"),
    }  # fmt: skip
    _, narrow = recorded("openlava", "list_all")
    assert {job: report.name for job, report in read_rows(narrow.out).found.items()} == {
        job: r.name for job, r in found.items()
    }


@pytest.mark.parametrize("name", ["w_poll_multi_w", "w_poll_multi_default"])
def test_several_hosts_and_a_name_with_blanks(name: str) -> None:
    _, done = recorded("openlava", name)
    report = read_rows(done.out).found[JobId("660")]
    assert (report.nodes, report.host, report.name) == (("pbsn2", "pbsn1"), "pbsn2", "a b c")
    assert report.submitted is None


@pytest.mark.parametrize(
    ("name", "words"), [("poll_dep_failed_p", "never satisfied"), ("poll_dep_never_p", "not satisfied")]
)
def test_reasons_below_a_row(name: str, words: str) -> None:
    _, done = recorded("openlava", name)
    rows = read_rows(done.out)
    (report,) = rows.found.values()
    assert words in report.reason
    assert rows.bad == []


def test_array_elements() -> None:
    _, done = recorded("openlava", "poll_array_done_w")
    rows = read_rows(done.out)
    assert list(rows.found) == ["240[1]", "240[2]", "240[3]"]
    assert read_rows(row(jobid="7", jobindex="2", stat="RUN")).found.keys() == {"7[2]"}
    seen, gone = under_asked(rows, [JobId("240"), JobId("240[2]"), JobId("9")])
    assert {job: report.id for job, report in seen.items()} == {"240": "240", "240[2]": "240[2]"}
    assert gone == frozenset()


def test_an_array_is_shown_by_its_liveliest_element() -> None:
    rows = read_rows("\n".join([row(jobid="7", jobindex="1", stat="DONE"), row(jobid="7", jobindex="2", stat="RUN")]))
    assert under_asked(rows, [JobId("7")])[0][JobId("7")].state is S.RUNNING


def test_a_bad_row_spoils_no_other() -> None:
    rows = read_rows(
        "\n".join(
            ["rubbish", row(jobid="x", stat="RUN"), row(jobid="1", stat="run!"), row(jobid="2", stat="RUN"), "   stray"]
        )
    )
    assert list(rows.found) == ["2"]
    assert len(rows.bad) == 4


def test_rows_that_contradict_each_other_are_not_believed() -> None:
    rows = read_rows(
        "\n".join(
            [
                row(jobid="1", stat="RUN"),
                row(jobid="1", stat="EXIT"),
                row(jobid="1", stat="RUN"),
                row(jobid="2", stat="RUN"),
                row(jobid="2", stat="RUN"),
            ]
        )
    )
    assert list(rows.found) == ["2"]


def test_notices_on_stdout_are_no_rows() -> None:
    rows = read_rows(
        "Cannot connect to LSF. Please wait ...\nLSF is processing your request. Please wait ...\n"
        + row(jobid="1", stat="RUN")
        + "\nJob <2> is not found\n"
    )
    assert (list(rows.found), rows.gone, rows.bad) == (["1"], {"2"}, [])


def record(**values: object) -> dict[str, object]:
    return {key.upper(): value for key, value in values.items()}


def test_json() -> None:
    document = json.dumps(
        {
            "COMMAND": "bjobs",
            "JOBS": "4",
            "RECORDS": [
                record(
                    jobid="22005",
                    stat="DONE",
                    exec_host="cn019:cn019",
                    exit_code="",
                    finish_time="Dec 28 19:56:45 2018",
                ),
                record(jobid="5", error="Job <5> is not found"),
                record(jobid="6"),
                "x",
                record(jobid="7", jobindex="3", stat="RUN", exec_host="a"),
                record(error="Cannot say"),
            ],
        }
    )
    rows = read_rows("LSF is down. Please wait ...\n" + document.replace("/", "\\/") + "\nbye")
    assert list(rows.found) == ["22005", "7[3]"]
    assert rows.found[JobId("22005")].nodes == ("cn019",)
    assert rows.gone == {"5"}
    assert len(rows.bad) == 3


@pytest.mark.parametrize("text", ['{"RECORDS": [', '{"RECORDS": 5}', "[" * 100_000, "", '["RECORDS"]'])
def test_json_that_cannot_be_read_is_unreachable(text: str) -> None:
    with pytest.raises(Unreachable):
        read_json(text)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [("2*hostA:hostB", ("hostA", "hostB")), ("a:a:b", ("a", "b")), ("a", ("a",)), ("", ()), ("-x", ()), ("a;b", ()), ("a::b", ("a", "b")), (":".join(f"n{i}" for i in range(10_002)), ())],
)  # fmt: skip
def test_hosts(text: str, hosts: tuple[str, ...]) -> None:
    assert read_hosts(text) == hosts


def test_times() -> None:
    assert read_time("Nov 22 20:58:45 2026") == datetime(2026, 11, 22, 20, 58, 45, tzinfo=UTC)
    assert read_time("Sun Nov  2 20:58:45 2026 L") == datetime(2026, 11, 2, 20, 58, 45, tzinfo=UTC)
    for text in ("Nov 22 20:58", "", "-", "Xyz 22 20:58:45 2026", "Feb 31 20:58:45 2026", "now"):
        assert read_time(text) is None


def test_durations() -> None:
    assert read_limit("1440.0") == timedelta(days=1)
    assert read_limit("10.0/hostA") == timedelta(minutes=10)
    assert read_limit("00:10:00") == timedelta(minutes=10)
    assert read_limit("") is None
    assert read_left("0:9 L") == timedelta(minutes=9)
    assert read_left("0:0 X") == timedelta(0)
    assert read_left("") is None


@given(
    st.text()
    | st.lists(
        st.sampled_from(["^", "1", "RUN", "\n", "-", " ", "Nov 22 20:58", "101 alice RUN q h a n Nov 22 20:58", " " * 45 + "b", '{"RECORDS":[', "]}", " x;", "Job <1> is not found"]),
        max_size=30,
    ).map("".join)
)  # fmt: skip
def test_garbage_raises_nothing_but_our_errors(text: str) -> None:
    for read in (read_rows, read_json):
        try:
            read(text)
        except HubError:
            continue
