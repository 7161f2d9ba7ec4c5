"""The table as text, the sights, and random histories with losses and repeats."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchhub.control.steps import step
from batchhub.core.lifecycle import TABLE, Action, Limits, Sight, decide, moved, outcome_of, print_table, sight
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

T0 = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
LIMITS = Limits(start_timeout=timedelta(minutes=5), requeue_grace=timedelta(seconds=60))
DOCS = Path(__file__).parents[2] / "docs" / "architecture.md"

WHOLE_TABLE = """\
want phase      seen       -> phase      actions
up   requested  new        -> requested  submit
up   requested  absent     -> requested  submit
up   requested  refused    -> ended      notify
up   requested  waiting    -> queued     notify
up   requested  running    -> starting   reach notify
up   requested  answering  -> ready      publish notify
up   requested  overdue    -> stopping   collect cancel notify  (give up)
up   requested  ending     -> stopping   notify
up   requested  finished   -> ended      collect notify
up   queued     waiting    -> queued     -
up   queued     running    -> starting   reach notify
up   queued     answering  -> ready      publish notify
up   queued     overdue    -> stopping   collect cancel notify  (give up)
up   queued     ending     -> stopping   notify
up   queued     finished   -> ended      collect notify
up   queued     absent     -> ended      collect notify
up   starting   waiting    -> queued     renew notify
up   starting   running    -> starting   reach
up   starting   answering  -> ready      publish notify
up   starting   overdue    -> stopping   collect cancel notify  (give up)
up   starting   ending     -> stopping   notify
up   starting   finished   -> ended      collect notify
up   starting   absent     -> ended      collect notify
up   ready      waiting    -> queued     withdraw renew notify
up   ready      running    -> starting   withdraw reach notify
up   ready      answering  -> ready      publish
up   ready      overdue    -> stopping   withdraw collect cancel notify  (give up)
up   ready      ending     -> stopping   withdraw notify
up   ready      finished   -> ended      withdraw collect notify
up   ready      absent     -> ended      withdraw collect notify
up   stopping   waiting    -> queued     renew notify
up   stopping   running    -> starting   reach notify
up   stopping   answering  -> ready      publish notify
up   stopping   overdue    -> stopping   collect cancel notify  (give up)
up   stopping   ending     -> stopping   -
up   stopping   finished   -> ended      collect notify
up   stopping   absent     -> ended      collect notify
down requested  waiting    -> stopping   cancel notify
down requested  running    -> stopping   cancel notify
down requested  answering  -> stopping   cancel notify
down requested  overdue    -> stopping   cancel notify
down requested  ending     -> stopping   notify
down requested  finished   -> ended      collect notify
down requested  absent     -> ended      notify
down queued     waiting    -> stopping   cancel notify
down queued     running    -> stopping   cancel notify
down queued     answering  -> stopping   cancel notify
down queued     overdue    -> stopping   cancel notify
down queued     ending     -> stopping   notify
down queued     finished   -> ended      collect notify
down queued     absent     -> ended      collect notify
down starting   waiting    -> stopping   cancel notify
down starting   running    -> stopping   cancel notify
down starting   answering  -> stopping   cancel notify
down starting   overdue    -> stopping   cancel notify
down starting   ending     -> stopping   notify
down starting   finished   -> ended      collect notify
down starting   absent     -> ended      collect notify
down ready      waiting    -> stopping   withdraw cancel notify
down ready      running    -> stopping   withdraw cancel notify
down ready      answering  -> stopping   withdraw tell cancel notify
down ready      overdue    -> stopping   withdraw cancel notify
down ready      ending     -> stopping   withdraw notify
down ready      finished   -> ended      withdraw collect notify
down ready      absent     -> ended      withdraw collect notify
down stopping   waiting    -> stopping   cancel
down stopping   running    -> stopping   cancel
down stopping   answering  -> stopping   tell cancel
down stopping   overdue    -> stopping   cancel
down stopping   ending     -> stopping   -
down stopping   finished   -> ended      collect notify
down stopping   absent     -> ended      collect notify
down requested  new        -> ended      notify
down requested  refused    -> ended      notify
up   ended      waiting    -> ended      cancel
up   ended      running    -> ended      cancel
up   ended      answering  -> ended      cancel
up   ended      overdue    -> ended      cancel
down ended      waiting    -> ended      cancel
down ended      running    -> ended      cancel
down ended      answering  -> ended      cancel
down ended      overdue    -> ended      cancel
"""


def server(**changes) -> Server:
    row = Server(
        id=ServerId("abcdefgh2345"),
        user=UserName("alice"),
        name="",
        cluster="hpc",
        profile="lab",
        account="alice",
        created=T0,
        since=T0,
        submit_tried=T0,
        job_id=JobId("7"),
    )
    return replace(row, **changes)


def saw(state: JobState, truth: Truth = Truth.SEEN, **facts) -> Observation:
    return Observation(truth, T0, JobReport(JobId("7"), state, **facts))


UNKNOWN = Observation(Truth.UNKNOWN, T0, word="Unable to contact slurm controller (connect failure)")
ABSENT = Observation(Truth.GONE, T0)


def test_the_whole_table() -> None:
    assert print_table() == WHOLE_TABLE


def test_the_documentation_holds_the_table_as_it_is() -> None:
    assert print_table() in DOCS.read_text()


def test_unknown_is_not_in_the_table() -> None:
    assert not [cell for cell in TABLE if cell[2] is Sight.UNKNOWN]


@pytest.mark.parametrize("want", Want)
@pytest.mark.parametrize("phase", Phase)
def test_unknown_changes_and_does_nothing(want: Want, phase: Phase) -> None:
    row = server(want=want, phase=phase)
    for seen in (UNKNOWN, None, saw(JobState.UNKNOWN), Observation(Truth.SEEN, T0)):
        after, decision = step(row, seen, T0 + timedelta(days=3), LIMITS)
        assert decision.actions == ()
        assert (after.phase, after.want, after.outcome, after.endpoint) == (phase, want, None, None)


@pytest.mark.parametrize("want", Want)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_every_phase_has_a_way_out(want: Want, phase: Phase) -> None:
    ends = {TABLE[cell].phase for cell in TABLE if cell[0] is want and cell[1] is phase}
    assert Phase.ENDED in ends


def test_ended_is_final() -> None:
    assert all(step.phase is Phase.ENDED for (_, phase, _), step in TABLE.items() if phase is Phase.ENDED)


def test_ready_never_leaves_without_its_route_being_withdrawn() -> None:
    for (_, phase, _), cell in TABLE.items():
        if phase is Phase.READY and cell.phase is not Phase.READY:
            assert Action.WITHDRAW in cell.actions


def test_waiting_in_the_queue_has_no_limit() -> None:
    row = server(phase=Phase.QUEUED)
    assert sight(row, saw(JobState.PENDING), T0 + timedelta(days=30), LIMITS) is Sight.WAITING


def test_the_start_timeout_counts_from_the_start_of_the_job() -> None:
    row = server(phase=Phase.STARTING, since=T0 + timedelta(hours=9))
    runs = saw(JobState.RUNNING, started=T0 + timedelta(hours=9), host="n1")
    assert sight(row, runs, T0 + timedelta(hours=9, minutes=4), LIMITS) is Sight.RUNNING
    assert sight(row, runs, T0 + timedelta(hours=9, minutes=6), LIMITS) is Sight.OVERDUE


def test_an_overdue_start_is_given_up_with_a_reason() -> None:
    row = server(phase=Phase.STARTING)
    after, decision = step(row, saw(JobState.RUNNING, started=T0), T0 + timedelta(minutes=6), LIMITS)
    assert (after.phase, after.want, after.outcome) == (Phase.STOPPING, Want.DOWN, Outcome.FAILED)
    assert Action.CANCEL in decision.actions
    assert "300 seconds" in after.words
    ended, _ = step(after, saw(JobState.CANCELLED, Truth.GONE, raw_state="CANCELLED by 0"), T0, LIMITS)
    assert (ended.phase, ended.outcome) == (Phase.ENDED, Outcome.FAILED)
    assert "300 seconds" in ended.words


def test_a_requeued_server_waits_again_with_fresh_secrets() -> None:
    row = server(phase=Phase.READY, answered=T0, host="n1", started=T0, generation=1)
    after, decision = step(row, saw(JobState.REQUEUED), T0, LIMITS)
    assert after.phase is Phase.QUEUED
    assert (after.generation, after.host, after.answered, after.endpoint) == (2, "", None, None)
    assert decision.actions == (Action.WITHDRAW, Action.RENEW, Action.NOTIFY)


def test_a_job_that_moved_between_two_looks_is_reached_anew() -> None:
    row = server(phase=Phase.READY, answered=T0, host="n1", started=T0)
    later = saw(JobState.RUNNING, host="n2", started=T0 + timedelta(minutes=9))
    assert moved(row, later.report)
    after, decision = step(row, later, T0 + timedelta(minutes=9), LIMITS)
    assert (after.phase, after.host, after.answered) == (Phase.STARTING, "n2", None)
    assert decision.actions[0] is Action.WITHDRAW


def test_a_preempted_job_is_given_time_to_show_up_again() -> None:
    row = server(phase=Phase.READY, answered=T0, host="n1")
    early, _ = step(row, saw(JobState.PREEMPTED, ended=T0), T0 + timedelta(seconds=5), LIMITS)
    assert early.phase is Phase.STOPPING
    back, decision = step(early, saw(JobState.PENDING), T0 + timedelta(seconds=9), LIMITS)
    assert (back.phase, back.want) == (Phase.QUEUED, Want.UP)
    assert Action.RENEW in decision.actions
    late, _ = step(early, saw(JobState.PREEMPTED, ended=T0), T0 + timedelta(minutes=5), LIMITS)
    assert (late.phase, late.outcome) == (Phase.ENDED, Outcome.PREEMPTED)


@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.QUEUED, Phase.STARTING, Phase.READY])
def test_a_job_of_whose_end_nobody_knows_the_time_is_given_no_more(phase: Phase) -> None:
    """The local queue's job whose supervisor was killed, a pod that its node turned away: no time of their end is known."""
    early, _ = step(server(phase=phase), saw(JobState.NODE_FAIL), T0 + timedelta(hours=1), LIMITS)
    assert (early.phase, early.outcome) == (Phase.STOPPING, None)
    soon, _ = step(early, saw(JobState.NODE_FAIL), T0 + timedelta(hours=1, seconds=59), LIMITS)
    assert soon.phase is Phase.STOPPING
    late, _ = step(soon, saw(JobState.NODE_FAIL), T0 + timedelta(hours=1, seconds=61), LIMITS)
    assert (late.phase, late.outcome) == (Phase.ENDED, Outcome.NODE_FAILURE)


def test_what_the_person_wanted_outranks_how_the_scheduler_calls_it() -> None:
    row = server(phase=Phase.STOPPING, want=Want.DOWN)
    after, _ = step(row, saw(JobState.FAILED, Truth.GONE), T0, LIMITS)
    assert after.outcome is Outcome.STOPPED


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (JobState.COMPLETED, Outcome.COMPLETED),
        (JobState.FAILED, Outcome.FAILED),
        (JobState.TIMEOUT, Outcome.TIMED_OUT),
        (JobState.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY),
        (JobState.CANCELLED, Outcome.CANCELLED),
        (JobState.PREEMPTED, Outcome.PREEMPTED),
        (JobState.NODE_FAIL, Outcome.NODE_FAILURE),
    ],
)
def test_every_end_has_its_outcome(state: JobState, outcome: Outcome) -> None:
    assert outcome_of(server(), Sight.FINISHED, JobReport(JobId("7"), state)) is outcome


def test_a_refused_server_ends_refused() -> None:
    row = server(phase=Phase.REQUESTED, outcome=Outcome.REFUSED, job_id=None, words="Invalid partition name specified")
    after, _ = step(row, None, T0, LIMITS)
    assert (after.phase, after.outcome, after.words) == (
        Phase.ENDED,
        Outcome.REFUSED,
        "Invalid partition name specified",
    )


def test_a_job_found_by_name_is_adopted_and_never_submitted_again() -> None:
    row = server(phase=Phase.REQUESTED, job_id=None)
    after, decision = step(row, saw(JobState.PENDING), T0, LIMITS)
    assert (after.job_id, after.phase) == ("7", Phase.QUEUED)
    assert Action.SUBMIT not in decision.actions


def test_an_absent_job_is_submitted_only_while_it_is_wanted_up() -> None:
    row = server(phase=Phase.REQUESTED, job_id=None)
    assert step(row, ABSENT, T0, LIMITS)[1].actions == (Action.SUBMIT,)
    down, decision = step(replace(row, want=Want.DOWN), ABSENT, T0, LIMITS)
    assert (down.phase, decision.actions) == (Phase.ENDED, (Action.NOTIFY,))


STATES = st.sampled_from(JobState)
WORDS = st.one_of(
    st.just(UNKNOWN),
    st.none(),
    st.builds(
        lambda state, node, minutes: saw(state, host=node, started=T0 + timedelta(minutes=minutes)),
        STATES,
        st.sampled_from(["", "n1", "n2"]),
        st.integers(0, 90),
    ),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("saw"), WORDS),
        st.tuples(st.just("answered"), st.none()),
        st.tuples(st.just("stop"), st.none()),
        st.tuples(st.just("wait"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=400)
@given(events=EVENTS, losses=st.lists(st.booleans(), min_size=40, max_size=40))
def test_any_history_with_losses_and_repeats_can_still_end(events, losses) -> None:
    row, now = server(phase=Phase.REQUESTED, job_id=None, submit_tried=None), T0
    for (kind, seen), lost in zip(events, losses, strict=False):
        if lost:
            continue
        if kind == "wait":
            now += timedelta(minutes=7)
        elif kind == "stop":
            row = replace(row, want=Want.DOWN)
        elif kind == "answered" and row.phase is Phase.STARTING:
            row = replace(row, answered=now)
        elif kind == "saw":
            before = row
            row, decision = step(row, seen, now, LIMITS)
            if Action.SUBMIT in decision.actions:
                row = replace(row, submit_tried=now)
            if sight(before, seen, now, LIMITS) is Sight.UNKNOWN:
                assert decision.actions == ()
                assert row.phase is before.phase
            # Repeating the same look after the same answer asks for nothing that was not asked for already.
            again, repeated = step(row, seen, now, LIMITS)
            assert again.phase is row.phase or row.phase is not again.phase is not Phase.REQUESTED
            assert Action.SUBMIT not in repeated.actions or again.job_id is None
            if before.phase is Phase.ENDED:
                assert row.phase is Phase.ENDED
    # Whatever happened: the scheduler's word that the job ended, and the person's wish, end it.
    row = replace(row, want=Want.DOWN)
    for seen in (saw(JobState.CANCELLED, Truth.GONE), saw(JobState.CANCELLED, Truth.GONE)):
        row, _ = step(row, seen, now, LIMITS)
    assert row.phase is Phase.ENDED
    assert row.outcome is not None


def test_decide_is_the_table() -> None:
    for (want, phase, seen), cell in TABLE.items():
        decision = decide(server(want=want, phase=phase), seen)
        assert (decision.phase, decision.actions, decision.give_up) == (cell.phase, cell.actions, cell.give_up)
