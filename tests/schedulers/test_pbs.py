"""PBS and Torque: command lines, answers, and the rules that cut across the schedulers."""

import re

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
from batchhub.core.model import JobId, JobState
from batchhub.core.ports import Completed, Dialect, JobRequest
from batchhub.schedulers.pbs import Pbs, Torque
from tests.recordings.openpbs.recorded import names, recorded

REQUEST = JobRequest(
    name="bh-abcdefghijkl", directory="/home/a b/.batchhub/jobs/x", script="#!/bin/bash\n", user="alice"
)
PBS = Pbs()
TORQUE = Torque()
BOTH: list[Dialect] = [PBS, TORQUE]
SKELETON = '{\n    "timestamp":1,\n    "pbs_version":"23.06.06",\n    "pbs_server":"head"\n}'


def ids(*texts: str) -> list[JobId]:
    return [JobId(text) for text in texts]


def jobs_json(**states: str) -> str:
    members = ",".join(f'"{name[1:]}.srv":{{"job_state":"{state}"}}' for name, state in states.items())
    return f'{{"Jobs":{{{members}}}}}'


# ---------------------------------------------------------------- the rules


def test_rule_1_exit_status_alone_decides_nothing() -> None:
    _, partly = recorded("openpbs", "poll_two_one_unknown_json")
    listing = PBS.read_status(partly, ids("1000.pbshead", "999999.pbshead"))
    assert partly.code == 153
    assert listing.jobs[JobId("1000.pbshead")].state is JobState.RUNNING
    assert listing.gone == {"999999.pbshead"}
    for out in (SKELETON, ""):
        silent = Completed(0, out, "qstat: PBS is not configured to maintain job history 12.srv")
        with pytest.raises(Unreachable, match="history to False"):
            PBS.read_accounting(silent, ids("12.srv"))


@pytest.mark.parametrize(
    "done",
    [
        Completed(None, "", "", timed_out=True),
        Completed(None, "12.srv\n", "", timed_out=True),
        Completed(None, ""),
        Completed(0, ""),
        Completed(0, "hello\n"),
        Completed(0, "12.srv\n13.srv\n"),
        Completed(0, "12.srv\n", truncated=True),
        Completed(1, "12.srv\n", "qsub: something"),
        Completed(1, ""),
        Completed(1, "", "Connection to login01 closed."),
        Completed(162, "", "Connection refused\nqsub: cannot connect to server head (errno=15010)"),
        Completed(160, "", "Unknown Host.\nqsub: cannot connect to server X (errno=15008)"),
        Completed(171, "", "qsub: Invalid credential"),
        Completed(183, "", "qsub: Batch protocol error"),
        Completed(212, "", "qsub: Request not allowed: Server shutting down"),
        Completed(185, "", "qsub: Premature end of message"),
        Completed(255, "", "qsub: Communication failure."),
        Completed(1, "", "qsub: Connection reset by peer"),
    ],
)
def test_rule_2_a_failed_submit_may_have_created_the_job(done: Completed) -> None:
    for dialect in BOTH:
        with pytest.raises(SubmitAmbiguous):
            dialect.read_submit(done)


def test_rule_4_every_command_has_a_deadline() -> None:
    dialect = Pbs(status_deadline=7, submit_deadline=9)
    assert dialect.submit(REQUEST).deadline == 9
    assert {
        dialect.status(ids("1.a")).deadline,
        dialect.find("n", "u").deadline,
        *(c.deadline for c in dialect.inspect()),
    } == {7}
    killed = Completed(None, jobs_json(_1="R"), "", timed_out=True)
    with pytest.raises(Unreachable):
        PBS.read_status(killed, ids("1.srv"))


def test_rule_5_the_environment_is_scrubbed() -> None:
    for dialect in BOTH:
        command = dialect.status(ids("1.a"))
        assert {"PBS_DPREFIX", "PBS_DEFAULT", "PBS_QSTAT_EXECONLY"} <= set(command.unset)
        assert (command.env["TZ"], command.env["LC_ALL"]) == ("UTC", "C")
        assert "TZ" not in dialect.submit(REQUEST).env


def test_rule_6_an_empty_id_list_is_never_sent() -> None:
    for dialect in BOTH:
        for ask in (dialect.status, dialect.cancel, dialect.accounting):
            with pytest.raises(BadInput):
                ask(())


@pytest.mark.parametrize("odd", ["workq", "-x", "1 2", "1.a;id", "1.a\n", "", "@srv", "0x1"])
def test_an_odd_id_is_never_sent(odd: str) -> None:
    for dialect in BOTH:
        with pytest.raises(BadInput):
            dialect.status(ids("1.srv", odd))
        with pytest.raises(BadInput):
            dialect.cancel(ids(odd))


def test_rule_7_free_text_may_hold_anything() -> None:
    out = '{"Jobs":{"1.srv":{"job_state":"R","Job_Name":"a\n\x01|,\ufffd"},"2.srv":{"job_state":"Q","comment":nan}}}'
    listing = PBS.read_status(Completed(0, out), ids("1.srv", "2.srv"))
    assert listing.jobs[JobId("1.srv")].name == "a |,\ufffd"
    assert listing.jobs[JobId("2.srv")].reason == "nan"


def test_rule_8_one_question_for_all_jobs() -> None:
    command = PBS.status(ids("1.srv", "2.srv", "1.srv"))
    assert command.argv == ("qstat", "-f", "-F", "json", "1.srv", "2.srv")
    assert TORQUE.status(ids("1.srv", "2.srv")).argv == ("qstat", "-x", "1.srv", "2.srv")


def test_rule_9_absent_is_not_gone() -> None:
    listing = PBS.read_status(Completed(0, jobs_json(_1="R")), ids("1.srv", "2.srv"))
    assert list(listing.jobs) == ["1.srv"]
    assert listing.gone == frozenset()


@pytest.mark.parametrize(
    "job", ["0.srv", "123", "123.server", "123[].server", "123[4].server", "123[4]", "1.long.host-name.example"]
)
def test_rule_10_ids_are_text(job: str) -> None:
    assert PBS.status(ids(job)).argv[-1] == job


def test_subjobs_are_asked_for_with_their_option() -> None:
    assert "-t" in PBS.status(ids("1[2].srv")).argv
    assert "-t" not in PBS.status(ids("1.srv")).argv


def test_ids_keep_their_servers_names_however_many_there_are() -> None:
    many = ids(*(f"{number}.pbsserver.with.a.long.name.example.org" for number in range(5000)))
    assert PBS.status(many).argv[4:] == tuple(many)


# ---------------------------------------------------------------- submit


def test_submit_command() -> None:
    command = Pbs(bin_dir="/opt/pbs/bin/", server="head").submit(REQUEST)
    assert command.argv == (
        "/opt/pbs/bin/qsub", "-f", "-N", "bh-abcdefghijkl", "-j", "oe", "-o", "/home/a b/.batchhub/jobs/x/scheduler.log",
    )  # fmt: skip
    assert command.stdin == REQUEST.script
    assert dict(command.env) == {"PBS_SERVER": "head", "PBS_DEFAULT": "head"}
    torque = TORQUE.submit(REQUEST).argv
    assert torque == ("qsub", *command.argv[2:])
    assert not {"-v", "-V"} & {*command.argv, *torque}


SUBMITTED = [name for name in names("openpbs") if recorded("openpbs", name)[0].startswith("qsub")]


@pytest.mark.parametrize("name", [name for name in SUBMITTED if recorded("openpbs", name)[1].code == 0])
def test_recorded_submits(name: str) -> None:
    _, done = recorded("openpbs", name)
    assert PBS.read_submit(done) == done.out.strip()


@pytest.mark.parametrize("name", [name for name in SUBMITTED if "refused" in name])
def test_recorded_refusals(name: str) -> None:
    _, done = recorded("openpbs", name)
    with pytest.raises(SubmitRejected) as refused:
        PBS.read_submit(done)
    assert str(refused.value) in done.err
    assert "usage" not in str(refused.value)


def test_a_missing_configuration_is_no_refusal() -> None:
    _, done = recorded("openpbs", "conf_missing_submit")
    with pytest.raises(SubmitAmbiguous):
        PBS.read_submit(done)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (170, "qsub: Unknown queue"),
        (159, "qsub: Unauthorized Request "),
        (174, "qsub: Access to queue is denied"),
        (173, "qsub: Queue is not enabled"),
        (188, "qsub: Job violates queue and/or server resource limits"),
        (166, "qsub: Illegal attribute or resource value Resource_List.walltime"),
        (187, "qsub: Unknown resource: foo"),
        (187, "qsub: Unknown resource Resource_List.bogus"),
        (38, "qsub: would exceed queue generic's per-user limit"),
        (39, "qsub: would exceed server's limit on resource ncpus in complex"),
        (5, 'qsub: "-lresource=" cannot be used with "select" or "place", resource is: ncpus'),
        (201, "qsub: Invalid Account"),
        (32, "qsub: The site says: no connection refused jobs"),
        (32, "a hook's own words"),
        (191, "qsub: Job rejected by all possible destinations"),
        (2, "qsub: illegal -N value\nusage: qsub [-a date_time]"),
        (1, "qsub: invalid option -- 'Z'\nqsub: directive error: -Z foo "),
        (1, "qsub: script file:: No such file or directory"),
        (154, "qsub: Error (15002) submitting job"),
        (1, "qsub: cannot send environment with the job"),
        (170, "qsub: submit error (Unknown queue MSG=cannot locate queue)"),
        (
            188,
            "/opt/torque/bin/qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max walltime requirement)",
        ),
    ],
)
def test_refusals(code: int, words: str) -> None:
    for dialect in BOTH:
        with pytest.raises(SubmitRejected) as refused:
            dialect.read_submit(Completed(code, "", words))
        assert str(refused.value)


def test_a_missing_command_is_an_installation_fault() -> None:
    missing = Completed(127, "", "sh: 1: qsub: not found")
    with pytest.raises(CommandNotFound):
        PBS.read_submit(missing)
    with pytest.raises(CommandNotFound):
        PBS.read_status(Completed(127, "", "bash: line 1: qstat: command not found"), ids("1.srv"))


# ---------------------------------------------------------------- status


@pytest.mark.parametrize(
    ("name", "job", "state"),
    [
        ("poll_id_of_queue_name", "1000.pbshead", JobState.RUNNING),
        ("poll_in_stopped_queue_json", "9.pbshead", JobState.PENDING),
        ("poll_suspended_json", "1010.pbshead", JobState.SUSPENDED),
        ("poll_numbers_json", "38.pbshead", JobState.HELD),
        ("poll_backslashes2_json", "39.pbshead", JobState.HELD),
        ("mom_down_poll_at_once_json", "1014.pbshead", JobState.STARTING),
        ("array_poll_t_json", "1031[2].pbshead", JobState.RUNNING),
        ("hist_poll_x_killed_json", "1003.pbshead", JobState.CANCELLED),
        ("hist_poll_x_overtime_json", "1005.pbshead", JobState.TIMEOUT),
        ("hist_poll_x_queued_deleted_json", "1006.pbshead", JobState.CANCELLED),
        ("hist_poll_x_selfkill_json", "1004.pbshead", JobState.FAILED),
        ("hist_poll_x_badout_json", "1008.pbshead", JobState.COMPLETED),
    ],
)
def test_recorded_states(name: str, job: str, state: JobState) -> None:
    _, done = recorded("openpbs", name)
    assert PBS.read_status(done, ids(job)).jobs[JobId(job)].state is state
    assert PBS.read_accounting(done, ids(job))[JobId(job)].state is state


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("poll_unknown_json", "999999.pbshead"),
        ("poll_finished_history_off_json", "1000.pbshead"),
        ("hist_poll_live_and_finished", "1001.pbshead"),
        ("poll_unknown_short", "999999.pbshead"),
        ("no_home_poll_2s_json", "1017.pbshead"),
    ],
)
def test_recorded_gone(name: str, job: str) -> None:
    _, done = recorded("openpbs", name)
    assert PBS.read_status(done, ids(job)).gone == {job}
    assert PBS.read_accounting(done, ids(job)) == {}


B7 = [
    (255, "Connection refused\nqstat: cannot connect to server head (errno=15010)"),
    (255, "Connection refused\nqstat: cannot connect to server head (errno=111)"),
    (255, "Unauthorized Request \nqstat: cannot connect to server head (errno=15007)"),
    (255, "qstat: cannot connect to server head (errno=15019)"),
    (171, "pbs_iff: cannot connect to head:15001"),
    (159, "No Permission.\nqstat: cannot connect to server head (errno=15007)"),
    (255, "Unknown Host.\nqstat: cannot connect to server X (errno=15008)"),
    (255, "pbsconf error: pbs conf variables not found: PBS_HOME PBS_EXEC PBS_SERVER"),
    (212, "qstat: Request not allowed: Server shutting down"),
    (13, "qstat: Server connection table full"),
    (185, "qstat: No free connections"),
    (183, "qstat: End of File"),
    (183, "qstat: Premature end of message"),
    (255, "qstat: Communication failure."),
    (255, "Unable to communicate with head(10.0.0.1)"),
    (255, "qstat: cannot connect to server head (errno=15096) Error getting connection to socket"),
    (255, "qstat: cannot connect to server head (errno=15137) could not connect to trqauthd"),
    (255, "Error communicating with head(10.0.0.1)\nCommunication failure."),
    (170, "qstat: Unknown queue destination abc"),
    (1, "something nobody has seen"),
    (153, "qstat: Unknown Job Id 1.srv\nConnection refused"),
    (153, "qstat: Unknown Job Id 1.srv\nwho knows"),
    (255, ""),
    (0, "Connection refused\nqstat: cannot connect to server head (errno=15010)"),
    (0, ""),
]


@pytest.mark.parametrize(("code", "words"), B7)
def test_nobody_answered(code: int, words: str) -> None:
    for out in ("", SKELETON):
        with pytest.raises(Unreachable):
            PBS.read_status(Completed(code, out, words), ids("1.srv"))
    with pytest.raises(Unreachable):
        TORQUE.read_status(Completed(code, "", words), ids("1.srv"))


@pytest.mark.parametrize(
    "name", [name for name in names("openpbs") if name.startswith("server_down_") and "submit" not in name]
)
def test_a_recorded_server_that_is_down(name: str) -> None:
    _, done = recorded("openpbs", name)
    with pytest.raises(Unreachable):
        PBS.read_status(done, ids("1016.pbshead"))
    with pytest.raises(Unreachable):
        PBS.read_find(done)


def test_an_answer_that_was_cut_is_no_answer() -> None:
    with pytest.raises(Unreachable):
        PBS.read_status(Completed(0, jobs_json(_1="R"), truncated=True), ids("1.srv"))
    with pytest.raises(Unreachable):
        PBS.read_status(Completed(0, '{"Jobs":{"1.srv":{"job_state":"R"'), ids("1.srv"))


def test_an_empty_cluster_is_a_good_answer_to_nobody_in_particular() -> None:
    _, done = recorded("openpbs", "list_empty_json")
    listing = PBS.read_status(done, ())
    assert (dict(listing.jobs), listing.gone) == ({}, frozenset())


def test_a_complaint_about_one_job_spoils_no_other() -> None:
    done = Completed(159, jobs_json(_1="R"), "qstat: Unauthorized Request  2.srv")
    listing = PBS.read_status(done, ids("1.srv", "2.srv"))
    assert list(listing.jobs) == ["1.srv"]
    assert listing.gone == frozenset()
    assert listing.bad_rows == ("qstat: Unauthorized Request  2.srv",)


def test_a_bad_record_spoils_no_other() -> None:
    done = Completed(0, '{"Jobs":{"1.srv":{"job_state":"R"},"2.srv":{"queue":"x"},"3.srv":7}}')
    listing = PBS.read_status(done, ids("1.srv", "2.srv", "3.srv"))
    assert list(listing.jobs) == ["1.srv"]
    assert len(listing.bad_rows) == 2


def test_what_was_said_to_be_gone_is_not_seen() -> None:
    done = Completed(153, jobs_json(_1="R", _2="F"), "qstat: Unknown Job Id 2.srv")
    listing = PBS.read_status(done, ids("1.srv", "2.srv"))
    assert (list(listing.jobs), listing.gone) == (["1.srv"], {"2.srv"})


def test_ids_are_matched_by_number_where_the_server_name_differs() -> None:
    done = Completed(153, jobs_json(_1="R"), "qstat: Unknown Job Id 2.srv.example.org")
    listing = PBS.read_status(done, ids("1.srv.example.org", "2"))
    assert (list(listing.jobs), listing.gone) == (["1.srv.example.org"], {"2"})


def test_jobs_nobody_asked_about_are_left_out() -> None:
    assert list(PBS.read_status(Completed(0, jobs_json(_1="R", _2="R")), ids("1.srv")).jobs) == ["1.srv"]


def test_noise_of_a_login_shell_is_no_complaint() -> None:
    done = Completed(
        153, jobs_json(_1="R"), "bash: warning: setlocale: LC_ALL: cannot change locale\nqstat: Unknown Job Id 2.srv"
    )
    assert PBS.read_status(done, ids("1.srv", "2.srv")).gone == {"2.srv"}


def test_torque_status() -> None:
    xml = (
        "<Data><Job><Job_Id>1.srv</Job_Id><Job_Name>bh-x</Job_Name><Job_Owner>alice@login</Job_Owner><job_state>R</job_state>"
        "<exec_host>b141/0-15+b142/0</exec_host><ctime>1430816092</ctime><start_time>1430816100</start_time>"
        "<Resource_List><walltime>01:00:00</walltime></Resource_List><resources_used><walltime>00:10:00</walltime></resources_used>"
        "</Job><Job><Job_Id>2.srv</Job_Id><job_state>C</job_state><exit_status>271</exit_status><comp_time>1430816200</comp_time></Job></Data>\n"
    )
    done = Completed(153, xml, "qstat: Unknown Job Id Error 3.srv")
    listing = TORQUE.read_status(done, ids("1.srv", "2.srv", "3.srv"))
    one, two = listing.jobs[JobId("1.srv")], listing.jobs[JobId("2.srv")]
    assert (one.state, one.host, one.nodes, one.user) == (JobState.RUNNING, "b141", ("b141", "b142"), "alice")
    assert one.started is not None
    assert one.started.timestamp() == 1430816100
    assert (two.state, two.signal) == (JobState.CANCELLED, 15)
    assert listing.gone == {"3.srv"}
    with pytest.raises(Unreachable):
        TORQUE.read_status(Completed(0, xml[:-20]), ids("1.srv"))


# ---------------------------------------------------------------- accounting, find


def test_accounting_commands() -> None:
    command = PBS.accounting(ids("1[].srv"))
    assert command is not None
    assert command.argv == ("qstat", "-x", "-f", "-F", "json", "-t", "1[].srv")
    assert Pbs(history=False).accounting(ids("1.srv")) is None
    assert TORQUE.accounting(ids("1.srv")) is None
    assert TORQUE.read_accounting(Completed(0), ids("1.srv")) == {}


def test_find() -> None:
    assert PBS.find("bh-x", "alice").argv == ("qselect", "-x", "-u", "alice", "-N", "bh-x")
    assert (
        Pbs(history=False).find("bh-x", "alice").argv
        == TORQUE.find("bh-x", "alice").argv
        == ("qselect", "-u", "alice", "-N", "bh-x")
    )
    _, done = recorded("openpbs", "hist_select_x")
    for dialect in BOTH:
        found = dialect.read_find(done)
        assert [report.id for report in found][:2] == ["1008.pbshead", "1007.pbshead"]
        assert {report.state for report in found} == {JobState.UNKNOWN}
        assert dialect.read_find(Completed(0, "")) == []


def test_a_banner_beside_the_ids() -> None:
    assert [report.id for report in PBS.read_find(Completed(0, "*** Maintenance on Friday! ***\n12.srv\n"))] == [
        "12.srv"
    ]


@pytest.mark.parametrize(
    "done",
    [
        Completed(0, "12.srv\n13.srv;x\n"),
        Completed(0, "something else\n"),
        Completed(0, "1"),
        Completed(0, "", "qselect: a word nobody knows"),
        Completed(1, "", "qselect: illegal -N value"),
        Completed(0, "", "qselect: PBS is not configured to maintain job history"),
        Completed(None, "12.srv\n", timed_out=True),
    ],
)
def test_a_find_that_is_not_understood_is_no_answer(done: Completed) -> None:
    with pytest.raises(Unreachable):
        PBS.read_find(done)


# ---------------------------------------------------------------- cancel


def test_cancel_takes_one_id_at_a_time() -> None:
    for dialect in BOTH:
        assert [command.argv for command in dialect.cancel(ids("1.srv", "2.srv", "1.srv"))] == [
            ("qdel", "1.srv"),
            ("qdel", "2.srv"),
        ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ""),
        (153, "qdel: Unknown Job Id 99999"),
        (153, "qdel: Unknown Job Id Error 99999.srv"),
        (35, "qdel: Job has finished 1005.head"),
        (168, "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 12.srv"),
    ],
)
def test_cancelled_well_enough(code: int, words: str) -> None:
    for dialect in BOTH:
        dialect.read_cancel(Completed(code, "", words))


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        (168, "qdel: Request invalid for state of job 12.srv", Unreachable),
        (159, "qdel: Unauthorized Request  12.srv", Denied),
        (1, "qdel: illegally formed job identifier: abc", Unreachable),
        (162, "Couldn't connect to cluster: head", Unreachable),
        (222, "qdel: Server could not connect to MOM 12.srv", Unreachable),
        (159, "No Permission.\nqdel: cannot connect to server head (errno=15007)", Unreachable),
        (0, "qdel: cannot connect to server head (errno=15010)", Unreachable),
        (0, "qdel: error: something did not work", Unreachable),
        (255, "", Unreachable),
    ],
)
def test_not_cancelled(code: int, words: str, error: type[HubError]) -> None:
    with pytest.raises(error):
        PBS.read_cancel(Completed(code, "", words))
    with pytest.raises(Unreachable):
        PBS.read_cancel(Completed(None, "", words, timed_out=True))


@pytest.mark.parametrize("name", [name for name in names("openpbs") if recorded("openpbs", name)[0].startswith("qdel")])
def test_recorded_cancels(name: str) -> None:
    _, done = recorded("openpbs", name)
    if done.code in {0, 35, 153}:
        PBS.read_cancel(done)
    else:
        with pytest.raises(Denied if done.code == 159 else Unreachable):
            PBS.read_cancel(done)


# ---------------------------------------------------------------- the rest


def test_names_and_inspection() -> None:
    assert (PBS.name, TORQUE.name) == ("pbs", "torque")
    assert [c.argv for c in PBS.inspect()] == [
        ("qstat", "-Q", "-f", "-F", "json"), ("pbsnodes", "-a", "-F", "json"), ("qstat", "-B", "-f", "-F", "json"),
    ]  # fmt: skip
    assert [c.argv for c in TORQUE.inspect()] == [("qstat", "-Q", "-f"), ("pbsnodes", "-x"), ("qstat", "-B", "-f")]


@given(
    st.sampled_from([None, 0, 1, 35, 153, 255]),
    st.text() | st.sampled_from([SKELETON, jobs_json(_1="R")]),
    st.text() | st.sampled_from(["qstat: Unknown Job Id 1.srv", "qstat: 1.srv Job has finished, use -x"]),
)
def test_garbage_raises_nothing_but_our_errors(code: int | None, out: str, err: str) -> None:
    done = Completed(code, out, err)
    for dialect in BOTH:
        for read in (
            dialect.read_submit,
            dialect.read_find,
            dialect.read_cancel,
            lambda d, dialect=dialect: dialect.read_status(d, ids("1.srv")),
            lambda d, dialect=dialect: dialect.read_accounting(d, ids("1.srv")),
            lambda d, dialect=dialect: dialect.read_inspect([d, d, d]),
        ):
            try:
                read(done)
            except HubError:
                continue


@pytest.mark.parametrize("name", names("openpbs"))
def test_no_recording_escapes_as_a_foreign_error(name: str) -> None:
    command, done = recorded("openpbs", name)
    asked = ids(*re.findall(r"\d+(?:\[\d*\])?\.pbshead", command)) or ids("1.pbshead")
    for read in (
        PBS.read_submit,
        PBS.read_find,
        PBS.read_cancel,
        lambda d: PBS.read_status(d, asked),
        lambda d: PBS.read_inspect([d]),
    ):
        try:
            read(done)
        except HubError:
            continue
