"""What people are told: reasons, phases, outcomes, time left."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.model import (
    JobId,
    JobReport,
    JobState,
    Observation,
    Outcome,
    Phase,
    Server,
    ServerId,
    Truth,
    UserName,
    Want,
)
from batchhub.core.words import OUTCOMES, REASONS, describe, explain_reason, spell_time_left

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ROW = Server(ServerId("abcdefghij22"), UserName("alice"), "", "hpc", "lab", "alice", NOW, NOW)
NEVER = "it will never run as it is"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        # Kubernetes
        ("Unschedulable: 0/3 nodes are available: 1 node(s) had untolerated taint {x: }, 2 Insufficient cpu.", "cores"),
        ("Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 …", "GPUs"),
        ("Unschedulable: 0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.", "has room"),
        # Slurm
        ("Priority", "higher priority"),
        ("Resources", "Your job is next"),
        ("(Resources)", "Your job is next"),
        ("DependencyNeverSatisfied", "will never run"),
        ("Dependency", "waits for another job"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "not available"),
        ("ReqNodeNotAvail, May be reserved for other job", "not available"),
        ("QOSMaxCpuPerUserLimit", "A limit of the QOS for one user"),
        ("QOSMaxJobsPerUserLimit", "A limit of the QOS for one user"),
        ("QOSMaxWallDurationPerJobLimit", NEVER),
        ("QOSMinGRES", NEVER),
        ("QOSGrpNodeLimit", "all its users together"),
        ("AssocGrpCPUMinutesLimit", "your account for all its users together"),
        ("AssocMaxJobsLimit", "A limit of your account is reached"),
        ("AssocMaxWallDurationPerJobLimit", NEVER),
        ("AssociationJobLimit", "A limit of your account is reached"),
        ("MaxMemPerLimit", NEVER),
        ("launch failed requeued held", "put on hold"),
        ("None", "not looked at it yet"),
        # PBS
        ("Not Running: Insufficient amount of resource: ncpus ", "Not enough cores"),
        ("Not Running: Insufficient amount of resource: mem (R: 8gb A: 1gb T: 16gb)", "Not enough memory"),
        ("Not Running: Insufficient amount of queue resource: ngpus", "Not enough GPUs"),
        ("Not Running: Insufficient amount of resource: scratch", "not free yet"),
        ("Not Running: Not enough free nodes available", "not free yet"),
        ("Can Never Run: Insufficient amount of resource: ncpus (R: 100 A: 6 T: 6)", NEVER),
        ("Not Running: Queue not started.", "not started"),
        ("Not Running: User has reached queue workq running job limit.", "limit on running jobs"),
        ("Not Running: Job would conflict with reservation or top job", "ahead"),
        # LSF
        ("New job is waiting for scheduling: 1 host", "not looked at it yet"),
        ("Job slot limit reached: 2 hosts", "Not enough cores"),
        ("Job's resource requirements not satisfied: 1 host", "not free yet"),
        ("Job requirements for reserving resource (mem) not satisfied: 4 hosts", "not free yet"),
        ("The queue is inactivated by the administrator: 1 host", "queue is closed"),
        ("Closed by LSF administrator: 1 host; Job slot limit reached: 2 hosts", "Not enough cores"),
        ("The job was suspended by the user while pending: 1 host", "on hold"),
        ("The job has a specified start time: 1 host", "earliest start"),
        ("Job dependency condition not satisfied", "waits for another job"),
        ("Dependency condition invalid or never satisfied", "will never run"),
        ("User has reached the per-user job slot limit of the queue", "limit on running jobs"),
        # nobody knows
        ("", ""),
        ("SomethingNew", ""),
        ("Prioritysomething", ""),
        ("Job run at Sun Nov 22 at 20:45 on (pbsn1:ncpus=2)", ""),
    ],
)
def test_reasons_in_plain_words(reason: str, words: str) -> None:
    found = explain_reason(reason)
    assert words in found
    assert bool(found) == bool(words)


@given(st.text(max_size=200))
def test_any_reason_is_explained_or_left_alone(reason: str) -> None:
    assert explain_reason(reason) in {"", explain_reason(reason.strip())}


def test_every_code_is_found_and_every_sentence_is_one() -> None:
    for code, text in REASONS.items():
        assert explain_reason(code) == text
        assert explain_reason(f"{code}, and more") == text
        assert text.endswith(".")
        assert text[0].isupper()
    assert set(OUTCOMES) == set(Outcome)


def saw(state: JobState, **fields: object) -> Observation:
    return Observation(Truth.SEEN, NOW, JobReport(JobId("7"), state, **fields))  # type: ignore[arg-type]


def row(phase: Phase, **changes: object) -> Server:
    return replace(ROW, phase=phase, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "title", "sentence"),
    [
        (row(Phase.REQUESTED), "Requested", "about to be submitted"),
        (row(Phase.REQUESTED, submit_tried=NOW), "Submitting", "its answer is awaited"),
        (row(Phase.REQUESTED, submit_tried=NOW, job_id=JobId("7")), "Submitted", "not in its list yet"),
        (row(Phase.QUEUED), "Queued", "The job waits in the queue."),
        (row(Phase.QUEUED, generation=2), "Queued", "put back by the scheduler"),
        (row(Phase.STARTING, host="n1"), "Starting", "The job runs on n1; the application is starting."),
        (row(Phase.STARTING), "Starting", "The job runs; the application is starting."),
        (row(Phase.READY, host="n1"), "Ready", "It runs on n1."),
        (row(Phase.STOPPING), "Ending", "ending the job"),
        (row(Phase.READY, want=Want.DOWN), "Stopping", "being cancelled"),
        (row(Phase.ENDED, outcome=Outcome.TIMED_OUT), "Timed out", "time limit"),
        (row(Phase.ENDED, outcome=Outcome.FAILED, exit_code=3), "Failed", "It ended with an error. Exit code 3."),
        (row(Phase.ENDED, outcome=Outcome.COMPLETED, exit_code=0), "Completed", "without an error."),
        (row(Phase.ENDED), "Failed", "It ended with an error."),
    ],
)
def test_every_phase_has_its_words(server: Server, title: str, sentence: str) -> None:
    status = describe(server, None, None, NOW)
    assert status.title == title
    assert sentence in status.sentence
    assert 0 <= status.progress <= 100


def test_why_it_waits_is_explained_and_the_schedulers_own_words_stand_beside() -> None:
    start = NOW + timedelta(hours=1)
    status = describe(row(Phase.QUEUED), saw(JobState.PENDING, reason="Priority", estimated_start=start), None, NOW)
    assert status.sentence == f"The job waits in the queue. {REASONS['Priority']}"
    assert status.detail == "Priority"
    assert status.estimated_start == start


def test_a_detail_that_only_repeats_the_title_is_left_out() -> None:
    ended = row(Phase.ENDED, outcome=Outcome.FAILED, words="failed")
    assert describe(ended, None, None, NOW).detail == ""
    assert describe(replace(ended, words="NODE_FAIL"), None, None, NOW).detail == "NODE_FAIL"


def test_a_stop_says_what_it_waits_for_and_an_end_whose_it_was() -> None:
    down = row(Phase.STOPPING, want=Want.DOWN)
    assert "is being cancelled" in describe(down, None, None, NOW).sentence
    told = replace(down, told=NOW)
    assert describe(told, None, None, NOW).sentence.startswith("The application was asked to end")
    assert "is being cancelled" in describe(replace(told, cancel_tried=NOW), None, None, NOW).sentence
    ended = row(Phase.ENDED, want=Want.DOWN, outcome=Outcome.STOPPED)
    assert describe(ended, None, None, NOW).sentence == "Stopped as asked."
    culled = describe(replace(ended, words="Not used for 3h."), None, None, NOW)
    assert (culled.sentence, culled.detail) == ("Stopped.", "Not used for 3h.")


def test_silence_is_told_and_changes_nothing_else() -> None:
    status = describe(row(Phase.READY), None, NOW, NOW + timedelta(minutes=1))
    assert "does not answer at the moment; nothing changes" in status.sentence
    assert status.title == "Ready"
    assert status.silent_since == NOW
    ended = describe(row(Phase.ENDED, outcome=Outcome.STOPPED), None, NOW, NOW)
    assert ended.silent_since is None
    assert "answer" not in ended.sentence


def test_a_job_that_answers_leave_out_is_told_of_too() -> None:
    status = describe(row(Phase.READY), None, None, NOW, unknown_since=NOW)
    assert "says nothing certain about the job" in status.sentence
    assert status.silent_since == NOW
    whole = describe(row(Phase.READY), None, NOW, NOW, unknown_since=NOW - timedelta(hours=1))
    assert "does not answer" in whole.sentence
    assert whole.silent_since == NOW
    assert describe(row(Phase.ENDED), None, None, NOW, unknown_since=NOW).silent_since is None


def test_a_suspended_job_is_not_called_ready() -> None:
    seen = saw(JobState.SUSPENDED)
    for phase, progress in ((Phase.STARTING, 60), (Phase.READY, 100)):
        status = describe(replace(row(phase), host="n1"), seen, None, NOW)
        assert (status.title, status.progress) == ("Suspended", progress)
        assert "suspended it on n1; it goes on when it is resumed" in status.sentence
    assert describe(row(Phase.READY, host=""), seen, None, NOW).sentence.startswith("The scheduler has suspended it;")
    assert describe(row(Phase.READY, want=Want.DOWN), seen, None, NOW).title == "Stopping"


def test_time_left_runs_down_between_two_questions() -> None:
    seen = saw(JobState.RUNNING, time_left=timedelta(minutes=80))
    later = NOW + timedelta(minutes=20)
    assert describe(row(Phase.READY), seen, None, later).time_left == timedelta(hours=1)
    assert describe(row(Phase.READY), seen, None, NOW + timedelta(days=1)).time_left == timedelta(0)
    assert describe(row(Phase.QUEUED), seen, None, later).time_left is None
    assert describe(row(Phase.READY), saw(JobState.RUNNING), None, later).time_left is None


def test_time_left_is_spelt() -> None:
    assert spell_time_left(timedelta(minutes=80)) == "1h 20m left"
    assert spell_time_left(None) == ""
