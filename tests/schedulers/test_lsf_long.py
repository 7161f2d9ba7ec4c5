"""bjobs -l and bhist -l."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.model import JobId, JobState
from batchhub.schedulers.lsf_long import read_long, unfold
from tests.recordings.openpbs.recorded import recorded

S = JobState


@pytest.mark.parametrize(
    ("name", "job", "state", "code"),
    [
        ("poll_finished_exit3_l", "237", S.FAILED, 3),
        ("poll_fail_l", "355", S.FAILED, 7),
        ("poll_cmd_missing_later_l", "244", S.FAILED, 127),
        ("poll_cmd_missing_l", "244", S.PENDING, None),
        ("poll_cancelled_pending_l", "239", S.CANCELLED, None),
        ("poll_running_l", "237", S.RUNNING, None),
        ("poll_running_UF", "237", S.RUNNING, None),
        ("mbatchd_down_job_ended_meanwhile_l", "357", S.FAILED, None),
        ("history_running_l", "237", S.RUNNING, None),
    ],
)
def test_recorded(name: str, job: str, state: JobState, code: int | None) -> None:
    _, done = recorded("openlava", name)
    report = read_long(done.out)[JobId(job)]
    assert (report.state, report.exit_code, report.user) == (state, code, "hpcuser")


def test_many_jobs_and_their_reasons() -> None:
    _, done = recorded("openlava", "list_long")
    found = read_long(done.out)
    assert list(found) == ["212", "213", "218", "233", "234", "235", "236"]
    assert (
        found[JobId("218")].reason
        == "Job's resource requirements not satisfied: 1 host; Job slot limit reached: 2 hosts"
    )
    assert found[JobId("234")].name == "a b"
    assert found[JobId("236")].state is S.HELD
    _, inactive = recorded("openlava", "poll_queue_inactive_l")
    assert read_long(inactive.out)[JobId("672")].partition == "memq"


def test_folded_lines_are_joined_with_nothing() -> None:
    blank = " " * 21
    assert unfold(f"Status <PE\n{blank}ND>\n\n x") == ["Status <PEND>", "", " x"]
    assert unfold(f"{blank}first") == [f"{blank}first"]


def story(*events: str, head: str = "Job <1>, User <alice>, Project <p>, Command <x>") -> str:
    lines = [f"Sun Nov 22 20:{58 + at // 60}:{at % 60:02d} 2026: {event}" for at, event in enumerate(events)]
    return "\n" + "\n".join([head, *lines]) + "\n"


SUBMITTED = "Submitted from host <h> to Queue <normal>;"
STARTED = "Started 4 Task(s) on Host(s) <4*head> <b>, Allocated 4 Slot(s) on Host(s) <4*head>"


@pytest.mark.parametrize(
    ("events", "state", "code", "signal"),
    [
        ((SUBMITTED,), S.PENDING, None, None),
        ((SUBMITTED, "Dispatched to <a>;", "Starting (Pid 4559);"), S.RUNNING, None, None),
        ((SUBMITTED, "Dispatched 2 Task(s) on Host(s) <a> <b>;", "Done successfully. The CPU time used is 1 seconds."), S.COMPLETED, 0, None),
        ((SUBMITTED, STARTED, "Exited with exit code 3. The CPU time used is 0.0 seconds."), S.FAILED, 3, None),
        ((SUBMITTED, STARTED, "Exited by signal 9. The CPU time used is 0.0 seconds."), S.FAILED, None, 9),
        ((SUBMITTED, STARTED, "Exited with exit code 140.", "Completed <exit>; TERM_RUNLIMIT: job killed after reaching LSF run time limit."), S.TIMEOUT, 140, 12),
        ((SUBMITTED, STARTED, "Exited with exit code 137.", "Completed <exit>; TERM_MEMLIMIT: job killed after reaching LSF memory usage limit."), S.OUT_OF_MEMORY, 137, 9),
        ((SUBMITTED, STARTED, "Completed <exit>; TERM_PREEMPT: job killed after preemption"), S.PREEMPTED, None, None),
        ((SUBMITTED, STARTED, "Completed <done>."), S.COMPLETED, 0, None),
        ((SUBMITTED, STARTED, "Signal <KILL> requested by user or administrator <alice>;", "Exited with exit code 130."), S.CANCELLED, 130, 2),
        ((SUBMITTED, "Exited; job has been forced to exit with unknown code"), S.CANCELLED, None, None),
        ((SUBMITTED, STARTED, "Requeued <alice>"), S.PENDING, None, None),
        ((SUBMITTED, "Started on 2 Hosts/Processors <a> <b>, Execution Home </h>"), S.RUNNING, None, None),
        ((SUBMITTED, "[2] dispatched to <a>;"), S.RUNNING, None, None),
    ],
)  # fmt: skip
def test_stories(events: tuple[str, ...], state: JobState, code: int | None, signal: int | None) -> None:
    report = read_long(story(*events))[JobId("1")]
    assert (report.state, report.exit_code, report.signal) == (state, code, signal)
    assert report.partition == "normal"


def test_times_hosts_and_limit_of_a_story() -> None:
    text = story(SUBMITTED, STARTED, "Done successfully.") + "\n RUNLIMIT\n 10.0 min of head\n"
    report = read_long(text)[JobId("1")]
    assert report.submitted == datetime(2026, 11, 22, 20, 58, 0, tzinfo=UTC)
    assert report.started == datetime(2026, 11, 22, 20, 58, 1, tzinfo=UTC)
    assert report.ended == datetime(2026, 11, 22, 20, 58, 2, tzinfo=UTC)
    assert (report.nodes, report.host) == (("head", "b"), "head")
    assert report.time_limit == timedelta(minutes=10)


def test_a_command_can_forge_no_end() -> None:
    head = "Job <1>, User <alice>, Project <p>, Command <Exited with exit code 3.; Done successfully>"
    assert read_long(story(SUBMITTED, STARTED, head=head))[JobId("1")].state is S.RUNNING


def test_status_of_the_heading_is_trusted_over_events() -> None:
    head = "Job Id <1>, Job Name <n>, User <alice>, Project <p>, Status <ZOMBI>, Queue <q>, Command <x>"
    assert read_long(story(STARTED, head=head))[JobId("1")].state is S.UNKNOWN


def test_text_without_jobs() -> None:
    assert read_long("") == {}
    assert read_long("No matching job found\n") == {}


@given(st.text() | st.lists(st.sampled_from(["Job <1>", "\n", " " * 21, "Sun Nov 22 20:58:00 2026: ", "Exited", "Started on <", ">", " PENDING REASONS:\n", " RUNLIMIT\n", "x;", "99999 min"]), max_size=30).map("".join))  # fmt: skip
def test_garbage_raises_nothing(text: str) -> None:
    read_long(text)
