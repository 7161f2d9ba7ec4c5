import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import (
    BadInput,
    CommandNotFound,
    Denied,
    HubError,
    SubmitAmbiguous,
    SubmitRejected,
    Unreachable,
)
from batchhub.core.model import JobId, JobState, QueueInfo
from batchhub.core.ports import Completed, Dialect, JobRequest
from batchhub.schedulers.local import Local

ONE, TWO, THREE = JobId("qzxk-1"), JobId("qzxk-2"), JobId("qzxk-3")
LOCAL = Local(python="/opt/bh/bin/python", spool="/var/spool/batchhub", slots=8)
ROW = {
    "id": ONE,
    "state": "running",
    "name": "bh-abcdefghijkl",
    "user": "alice",
    "host": "login1",
    "nprocs": 2,
    "walltime": 3600.0,
    "submitted": 1795417491.5,
    "started": 1795417492,
    "ended": None,
    "code": None,
    "signal": None,
    "reason": "",
}


def lines(*rows: dict[str, object]) -> Completed:
    return Completed(0, "".join(json.dumps(row) + "\n" for row in rows))


def test_it_is_a_dialect() -> None:
    dialect: Dialect = LOCAL
    assert dialect.name == "local"


def test_submit() -> None:
    command = LOCAL.submit(JobRequest("bh-x", "/home/a/j", "#!/bin/bash\n", "a"))
    assert command.argv == (
        "/opt/bh/bin/python",
        "-m",
        "batchhub.localqueue",
        "--spool=/var/spool/batchhub",
        "submit",
        "--name=bh-x",
        "--chdir=/home/a/j",
        "--output=job.log",
        "--slots=8",
    )
    assert (command.stdin, command.deadline) == ("#!/bin/bash\n", 15.0)
    assert "BATCHHUB_*" in command.unset
    assert Local().find("n", "u").argv == ("python3", "-m", "batchhub.localqueue", "find", "--name=n", "--user=u")


def test_read_submit() -> None:
    assert LOCAL.read_submit(lines({"id": "qzxk-1"})) == ONE
    with pytest.raises(SubmitRejected, match=r"^16 slots were asked for"):
        LOCAL.read_submit(Completed(1, "", "localqueue: refused: 16 slots were asked for; this machine has 8\n"))
    with pytest.raises(CommandNotFound):
        LOCAL.read_submit(Completed(127, "", "env: '/opt/bh/bin/python': No such file or directory"))
    for done in (
        Completed(None, timed_out=True),
        Completed(3, "", "localqueue: the spool cannot be used"),
        Completed(1, "", "Traceback"),
        Completed(0, ""),
        Completed(0, "qzxk-1"),
        lines({"id": "7"}),
        lines({"id": "qzxk-1"}, {"id": "qzxk-2"}),
    ):
        with pytest.raises(SubmitAmbiguous):
            LOCAL.read_submit(done)


def test_status() -> None:
    assert LOCAL.status([ONE, TWO]).argv[-3:] == ("status", "qzxk-1", "qzxk-2")
    for bad in ([], ["x"], ["--spool=/etc"]):
        with pytest.raises(BadInput):
            LOCAL.status([JobId(job) for job in bad])
    listing = LOCAL.read_status(
        lines(ROW, {"id": TWO, "state": "unknown"}, {"id": THREE, "state": "foreign"}), [ONE, TWO, THREE]
    )
    assert set(listing.jobs) == {ONE}
    assert listing.gone == {TWO}
    assert listing.bad_rows == ()
    assert listing.unread == {THREE}, "another spool's: no word about the job, so it is not missing either"
    job = listing.jobs[ONE]
    assert (job.state, job.raw_state, job.host, job.nodes, job.user) == (
        JobState.RUNNING,
        "running",
        "login1",
        ("login1",),
        "alice",
    )
    assert job.started == datetime.fromtimestamp(1795417492, UTC)
    assert job.time_limit == timedelta(hours=1)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("pending", JobState.PENDING),
        ("completed", JobState.COMPLETED),
        ("failed", JobState.FAILED),
        ("timeout", JobState.TIMEOUT),
        ("cancelled", JobState.CANCELLED),
        ("lost", JobState.NODE_FAIL),
    ],
)
def test_states(word: str, state: JobState) -> None:
    row = {**ROW, "state": word, "started": None, "ended": 1795417499, "code": 3, "signal": 9, "walltime": None}
    job = LOCAL.read_status(lines(row), [ONE]).jobs[ONE]
    assert (job.state, job.host, job.exit_code, job.signal, job.time_limit) == (state, "", 3, 9, None)


def test_rows_that_say_nothing() -> None:
    done = Completed(
        0,
        json.dumps(ROW)
        + "\nnoise\n\n"
        + json.dumps({"id": TWO, "state": "dancing"})
        + '\n{"id": 5}\n[]\n'
        + "[" * 5000
        + "\n",
    )
    listing = LOCAL.read_status(done, [ONE, TWO])
    assert set(listing.jobs) == {ONE}
    assert not listing.gone
    assert len(listing.bad_rows) == 4
    assert LOCAL.read_accounting(done, [ONE]).keys() == {ONE}
    assert LOCAL.accounting([ONE]) is None
    odd = {**ROW, "code": True, "signal": "9", "started": 10**300, "walltime": -1, "user": 5, "reason": "a\nb"}
    job = LOCAL.read_status(lines(odd), [ONE]).jobs[ONE]
    assert (job.exit_code, job.signal, job.started, job.time_limit, job.user, job.reason) == (
        None,
        None,
        None,
        None,
        "",
        "a b",
    )


def test_not_knowing() -> None:
    for done in (
        Completed(3, "", "localqueue: the spool /x cannot be used"),
        Completed(None, timed_out=True),
        Completed(0, "", truncated=True),
    ):
        for read in (
            LOCAL.read_find,
            lambda d: LOCAL.read_status(d, [ONE]),
            LOCAL.read_cancel,
            lambda d: LOCAL.read_inspect([d]),
        ):
            with pytest.raises(Unreachable):
                read(done)
    assert LOCAL.read_find(lines(ROW))[0].id == ONE
    assert LOCAL.read_find(Completed(0)) == ()
    for done in (Completed(0, "noise"), lines({"id": ONE, "state": "unknown"})):
        with pytest.raises(Unreachable):
            LOCAL.read_find(done)


def test_cancel() -> None:
    assert [command.argv[-2:] for command in LOCAL.cancel([ONE])] == [("cancel", "qzxk-1")]
    assert len(LOCAL.cancel([JobId(f"qzxk-{n}") for n in range(1200)])) == 3
    LOCAL.read_cancel(
        lines({"id": ONE, "done": "cancelled"}, {"id": TWO, "done": "over"}, {"id": THREE, "done": "unknown"})
    )
    with pytest.raises(Denied):
        LOCAL.read_cancel(lines({"id": ONE, "done": "denied"}))
    for done in (lines({"id": ONE, "done": "foreign"}), Completed(0), Completed(0, "x")):
        with pytest.raises(Unreachable):
            LOCAL.read_cancel(done)


def test_inspect() -> None:
    assert [command.argv[-2:] for command in LOCAL.inspect()] == [("info", "--slots=8")]
    assert LOCAL.read_inspect([lines({"slots": 8, "free": 3})]) == (
        QueueInfo("local", default=True, max_cores=8, nodes=1, free_cores=3),
    )
    for done in ([], [lines()], [lines({"slots": "8", "free": 3})], [lines({"slots": 0, "free": 0})]):
        with pytest.raises(Unreachable):
            LOCAL.read_inspect(done)


@given(st.text(max_size=200), st.text(max_size=50), st.sampled_from([0, 1, 2, 3, None]))
def test_any_answer_is_read_or_one_of_our_errors(out: str, err: str, code: int | None) -> None:
    done = Completed(code, out, err)
    for read in (
        LOCAL.read_submit,
        LOCAL.read_find,
        LOCAL.read_cancel,
        lambda d: LOCAL.read_status(d, [ONE]),
        lambda d: LOCAL.read_inspect([d]),
    ):
        try:
            read(done)
        except HubError:
            continue


def test_a_python_without_the_queue_is_an_installation_fault() -> None:
    done = Completed(1, "", "/usr/bin/python3: Error while finding module specification: No module named 'batchhub'\n")
    with pytest.raises(CommandNotFound, match=r"scheduler_options\.python"):
        Local(python="/usr/bin/python3").read_submit(done)
