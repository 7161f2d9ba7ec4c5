"""LSF and openlava: command lines, answers, and the rules that cut across the schedulers."""

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
from batchhub.schedulers.lsf import Lsf
from batchhub.schedulers.lsf_read import FIELDS, FORMAT
from tests.recordings.openpbs.recorded import names, recorded

REQUEST = JobRequest(
    name="bh-abcdefghijkl", directory="/home/alice/.batchhub/jobs/x", script="#!/bin/bash\n", user="alice"
)
LSF: Dialect = Lsf()
LAVA: Dialect = Lsf(flavour="openlava")
BOTH = [LSF, LAVA]


def ids(*texts: str) -> list[JobId]:
    return [JobId(text) for text in texts]


def row(**values: str) -> str:
    return "^".join(values.get(name, "-") for name in FIELDS) + "\n"


# ---------------------------------------------------------------- the rules


def test_rule_1_exit_status_alone_decides_nothing() -> None:
    _, partly = recorded("openlava", "poll_two_one_unknown")
    assert partly.code == 255
    listing = LAVA.read_status(partly, ids("237", "999999"))
    assert listing.jobs[JobId("237")].state is JobState.RUNNING
    assert listing.gone == {"999999"}
    _, unknown = recorded("openlava", "poll_unknown")
    assert LAVA.read_status(unknown, ids("999999")).gone == {"999999"}
    _, waited = recorded("openlava", "mbatchd_restarting_poll_w")
    assert waited.code == 0
    assert list(LAVA.read_status(waited, ids("357")).jobs) == ["357"]


@pytest.mark.parametrize(
    "done",
    [
        Completed(None, "", "", timed_out=True),
        Completed(None, "Job <1> is submitted to queue <q>.", timed_out=True),
        Completed(None, ""),
        Completed(0, ""),
        Completed(0, "101\n"),
        Completed(0, "Job <1> is submitted to queue <q>.\nJob <2> is submitted to queue <q>.\n"),
        Completed(0, "Job <1> is submitted to queue <q>.", truncated=True),
        Completed(255, "Job <1> is submitted to queue <q>.", "x"),
        Completed(255, "", ""),
        Completed(255, "", "ssh: connect to host login port 22: Connection refused"),
        Completed(255, "", "Connection refused by server. Job not submitted."),
        Completed(255, "", "batch system daemon not responding ... still trying"),
        Completed(255, "", "Failed in an LSF library call: Failed in sending/receiving a message: Connection reset by peer. Job not submitted."),
        Completed(255, "", "System call failed: Broken pipe. Job not submitted."),
        Completed(255, "", "LSF daemon (LIM) not responding ... still trying"),
        Completed(255, "", "lsb_init: Failed in an LSF library call: Unable to open file lsf.conf"),
    ],
)  # fmt: skip
def test_rule_2_a_failed_submit_may_have_created_the_job(done: Completed) -> None:
    with pytest.raises(SubmitAmbiguous):
        LSF.read_submit(done)


def test_rule_4_every_command_has_a_deadline() -> None:
    dialect = Lsf(status_deadline=7, submit_deadline=9)
    assert dialect.submit(REQUEST).deadline == 9
    assert {
        dialect.status(ids("1")).deadline,
        dialect.find("n", "u").deadline,
        *(c.deadline for c in dialect.inspect()),
    } == {7}
    for name in ("mbatchd_down_poll_w", "mbatchd_down_hosts"):
        _, killed = recorded("openlava", name)
        with pytest.raises(Unreachable):
            LAVA.read_status(killed, ids("357"))


def test_rule_5_the_environment_is_scrubbed() -> None:
    dialect = Lsf(environment={"LSF_ENVDIR": "/lsf/conf"})
    command = dialect.status(ids("1"))
    assert {"LSB_*_FORMAT", "BSUB_QUIET", "LSB_JOBID"} <= set(command.unset)
    assert (command.env["TZ"], command.env["LSB_DISPLAY_YEAR"], command.env["LSF_ENVDIR"]) == ("UTC", "Y", "/lsf/conf")
    assert dict(dialect.submit(REQUEST).env) == {"LSF_ENVDIR": "/lsf/conf"}
    assert "BSUB_QUIET" in dialect.submit(REQUEST).unset


def test_rule_6_an_empty_id_list_is_never_sent() -> None:
    for ask in (LSF.status, LSF.cancel, LSF.accounting):
        with pytest.raises(BadInput):
            ask(())


@pytest.mark.parametrize("odd", ["0", "-1", "abc", "1 2", "1[0]", "1;2", "", "1.srv", "00"])
def test_an_odd_id_is_never_sent(odd: str) -> None:
    for ask in (LSF.status, LSF.cancel, LSF.accounting):
        with pytest.raises(BadInput):
            ask(ids("5", odd))


def test_rule_7_names_are_not_asked_for() -> None:
    assert "job_name" not in FIELDS
    assert FIELDS[:3] == ("jobid", "jobindex", "stat")


def test_rule_8_one_question_for_all_jobs() -> None:
    assert LSF.status(ids("1", "2[3]", "1")).argv == (
        "bjobs",
        "-u",
        "all",
        "-a",
        "-noheader",
        "-o",
        FORMAT,
        "1",
        "2[3]",
    )
    assert LAVA.status(ids("1", "2")).argv == ("bjobs", "-u", "all", "-a", "-w", "-noheader", "1", "2")


def test_rule_9_absent_is_not_gone() -> None:
    listing = LSF.read_status(Completed(0, row(jobid="1", stat="RUN")), ids("1", "2"))
    assert list(listing.jobs) == ["1"]
    assert listing.gone == frozenset()


def test_rule_10_ids_are_text() -> None:
    assert LSF.status(ids("123[4]")).argv[-1] == "123[4]"
    listing = LSF.read_status(
        Completed(255, row(jobid="123", jobindex="4", stat="RUN"), "Job <123[5]> is not found"), ids("123[4]", "123[5]")
    )
    assert (list(listing.jobs), listing.gone) == (["123[4]"], {"123[5]"})


# ---------------------------------------------------------------- submit


def test_submit_command() -> None:
    command = Lsf(bin_dir="/lsf/bin").submit(REQUEST)
    log = "/home/alice/.batchhub/jobs/x/scheduler.log"
    assert command.argv == ("/lsf/bin/bsub", "-J", "bh-abcdefghijkl", "-cwd", "/home/alice/.batchhub/jobs/x", "-o", log)
    assert LAVA.submit(REQUEST).argv == ("bsub", "-J", "bh-abcdefghijkl", "-o", log)
    assert command.stdin == REQUEST.script


SUBMITS = [name for name in names("openlava") if recorded("openlava", name)[0].startswith("bsub ") and "_V" not in name]


@pytest.mark.parametrize("name", [name for name in SUBMITS if recorded("openlava", name)[1].code == 0])
def test_recorded_submits(name: str) -> None:
    _, done = recorded("openlava", name)
    assert f"<{LSF.read_submit(done)}>" in done.out


@pytest.mark.parametrize(
    "name",
    [name for name in names("openlava") if "refused" in name or name in {"submit_empty_stdin", "submit_name_long"}],
)
def test_recorded_refusals(name: str) -> None:
    _, done = recorded("openlava", name)
    with pytest.raises(SubmitRejected):
        LSF.read_submit(done)


def test_a_recorded_dead_daemon_is_no_refusal() -> None:
    _, done = recorded("openlava", "mbatchd_down_submit_ntries1")
    with pytest.raises(SubmitAmbiguous):
        LSF.read_submit(done)


def test_words_of_the_site_around_the_id() -> None:
    out = "Cannot connect to LSF. Please wait ...\nUsing 4 cores, 16 GB\nJob <101> is submitted to default queue <normal>.\n"
    assert LSF.read_submit(Completed(0, out, "Job will be scheduled after Sun Nov 22 23:59:00 2026")) == "101"


@pytest.mark.parametrize(
    "words",
    [
        "nope: No such queue.",
        "private: User cannot use the queue.",
        "RUNLIMIT: Cannot exceed queue's hard limit(s).",
        "banana: Bad RUNLIMIT specification.",
        "The number of processors must be a positive integer.",
        "Too many processors requested.",
        "Queue does not have enough per-user job slots.",
        "Bad resource requirement syntax.",
        "Error in rusage section: x.",
        "nohost: Bad host name, host group name or cluster name.",
        "abc: MEMLIMT value should be a positive integer.",
        "99999: No matching job found.",
        "bsub: illegal option -- zzz\n.",
        "No command is specified.",
        "Queue has been closed.",
        "User permission denied.",
        "User or one of user's groups does not have enough job slots.",
        "Root job submission is disabled.",
        "The site's own words\nRequest aborted by esub.",
    ],
)
def test_refusals(words: str) -> None:
    with pytest.raises(SubmitRejected) as refused:
        LSF.read_submit(Completed(255, "", f"{words} Job not submitted."))
    assert words.splitlines()[0] in str(refused.value)


def test_a_missing_command_is_an_installation_fault() -> None:
    with pytest.raises(CommandNotFound):
        LSF.read_submit(Completed(127, "", "bash: bsub: command not found"))
    with pytest.raises(CommandNotFound):
        LSF.read_status(Completed(127, "", "bash: bjobs: command not found"), ids("1"))


# ---------------------------------------------------------------- status


C7 = [
    "batch system daemon not responding ... still trying",
    "OpenLava daemon (LIM) not responding ... still trying",
    "LSF daemon (LIM) not responding ... still trying",
    "ls_getclustername(): LIM is down; try later",
    "LIM is down; try later",
    "Cannot connect to LSF. Please wait ...",
    "LSF is down. Please wait ...",
    "LSF is processing your request. Please wait ...",
    "Failed in an LSF library call: Unable to open file",
    "System call failed: Connection reset by peer",
    "Contacting batch daemon: Communication timeout",
    "Timeout on connect call to server",
    "Connection refused by server",
    "Batch service not registered",
    "Batch daemon cannot fork",
    "XDR encode/decode error",
    "Slave LIM configuration is not ready yet",
    "lsb_init: Failed in an LSF library call: Unable to open file lsf.conf",
    "abc: Illegal job ID.",
    "bjobs: invalid option -- 'o'",
    "something nobody has seen",
    "Job <1> is not found\nbatch system daemon not responding ... still trying",
    "Job <1> is not found\nwho knows",
    "",
]


@pytest.mark.parametrize("words", C7)
def test_nobody_answered(words: str) -> None:
    for dialect in BOTH:
        with pytest.raises(Unreachable):
            dialect.read_status(Completed(255, "", words), ids("1"))
        with pytest.raises(Unreachable):
            dialect.read_find(Completed(255, "", words))


def test_trouble_with_exit_status_0_and_silence_are_no_answer() -> None:
    for done in (
        Completed(0, "", "Failed in an LSF library call: x"),
        Completed(0, ""),
        Completed(0, "%&/ not what you asked for {"),
        Completed(0, "", "LSF is down. Please wait ..."),
    ):
        with pytest.raises(Unreachable):
            LSF.read_status(done, ids("1"))
    with pytest.raises(Unreachable):
        LSF.read_status(Completed(0, row(jobid="1", stat="RUN"), truncated=True), ids("1"))


@pytest.mark.parametrize(
    "words", ["No unfinished job found", "No job found", "No matching job found", "No DONE/EXIT job found"]
)
def test_no_jobs_is_an_answer(words: str) -> None:
    listing = LSF.read_status(Completed(255, "", words), ids("1"))
    assert (dict(listing.jobs), listing.gone) == ({}, frozenset())
    assert LSF.read_find(Completed(255, "", words)) == []


@pytest.mark.parametrize(
    ("name", "job", "state"),
    [
        ("poll_running_a_w", "237", JobState.RUNNING),
        ("poll_cancelled_pending_w", "239", JobState.CANCELLED),
        ("host_down_poll_after_cancel_w", "354", JobState.UNKNOWN),
        ("mbatchd_down_job_submitted_before_w", "458", JobState.COMPLETED),
        ("poll_array_element_w", "240[2]", JobState.RUNNING),
        ("list_noheader", "356", JobState.PENDING),
    ],
)
def test_recorded_states(name: str, job: str, state: JobState) -> None:
    _, done = recorded("openlava", name)
    assert LAVA.read_status(done, ids(job)).jobs[JobId(job)].state is state


def test_how_openlava_s_exit_came_about_is_asked_of_accounting() -> None:
    """Its table has one word for a failure, a time limit and a kill."""
    _, done = recorded("openlava", "poll_finished_exit3_w")
    listing = LAVA.read_status(done, ids("237"))
    assert listing.gone == {"237"}
    assert not listing.jobs


def test_all_rows_where_nobody_is_asked_about() -> None:
    _, done = recorded("openlava", "list_all_w")
    assert len(LAVA.read_status(done, ()).jobs) == 7


def test_json_is_read_as_well() -> None:
    out = '{"COMMAND":"bjobs","JOBS":2,"RECORDS":[{"JOBID":"1","STAT":"RUN"},{"JOBID":"2","ERROR":"Job <2> is not found"}]}'
    listing = LSF.read_status(Completed(0, out), ids("1", "2"))
    assert (list(listing.jobs), listing.gone) == (["1"], {"2"})


def test_a_bad_row_spoils_no_other() -> None:
    listing = LSF.read_status(Completed(0, row(jobid="1", stat="RUN") + "1^2^3\n"), ids("1"))
    assert list(listing.jobs) == ["1"]
    assert listing.bad_rows == ("1^2^3",)


# ---------------------------------------------------------------- find, accounting


def test_find() -> None:
    assert LSF.find("bh-x", "alice").argv == ("bjobs", "-u", "alice", "-a", "-noheader", "-o", FORMAT, "-J", "bh-x")
    assert LAVA.find("bh-x", "alice").argv == ("bjobs", "-u", "alice", "-a", "-w", "-noheader", "-J", "bh-x")
    found = LSF.read_find(Completed(0, row(jobid="7", stat="EXIT") + row(jobid="12", stat="RUN")))
    assert [report.id for report in found] == ["12", "7"]
    _, nobody = recorded("openlava", "poll_by_name_unknown")
    assert LAVA.read_find(nobody) == []


def test_a_banner_beside_the_rows() -> None:
    banner = "*** Maintenance on Friday! ***\n"
    assert [report.id for report in LSF.read_find(Completed(0, banner + row(jobid="7", stat="RUN")))] == ["7"]
    assert LSF.read_find(Completed(255, banner, "Job <bh-x> is not found")) == []


def test_a_find_that_is_not_understood_is_no_answer() -> None:
    for done in (Completed(0, row(jobid="7", stat="RUN") + "8^rubbish\n"), Completed(0, "rubbish\n"), Completed(0, "")):
        with pytest.raises(Unreachable):
            LSF.read_find(done)


def test_accounting() -> None:
    command = LSF.accounting(ids("237", "9"))
    assert command is not None
    assert command.argv == ("bhist", "-l", "237", "9")
    _, done = recorded("openlava", "history_running_l")
    assert list(LSF.read_accounting(done, ids("237", "9"))) == ["237"]
    assert LSF.read_accounting(Completed(255, "", "No matching job found"), ids("9")) == {}
    assert LSF.read_accounting(Completed(255, "", "Job <9>: No matching job found"), ids("9")) == {}
    for words in (
        "",
        "lsb.events: Permission denied",
        "LIM is down; try later",
        "No matching job found\nLIM is down; try later",
    ):
        with pytest.raises(Unreachable):
            LSF.read_accounting(Completed(255, "", words), ids("9"))
    with pytest.raises(Unreachable):
        LSF.read_accounting(Completed(0, "", "Connection refused by server"), ids("9"))


# ---------------------------------------------------------------- cancel


def test_cancel_takes_all_ids_at_once() -> None:
    assert [command.argv for command in LSF.cancel(ids("1", "2", "1"))] == [("bkill", "1", "2")]


@pytest.mark.parametrize(
    "name",
    [name for name in names("openlava") if recorded("openlava", name)[0].startswith("bkill") and "illegal" not in name],
)
def test_recorded_cancels(name: str) -> None:
    LSF.read_cancel(recorded("openlava", name)[1])


@pytest.mark.parametrize(
    ("done", "error"),
    [
        (recorded("openlava", "cancel_illegal")[1], Unreachable),
        (Completed(255, "", "Job <1>: User permission denied"), Denied),
        (Completed(255, "Job <2> is being terminated", "Job <1>: Operation permission denied by esub"), Denied),
        (Completed(255, "", "batch system daemon not responding ... still trying"), Unreachable),
        (Completed(255, "", "Connection refused by server"), Unreachable),
        (Completed(255, "", ""), Unreachable),
        (Completed(0, "", "Failed in an LSF library call: x"), Unreachable),
        (Completed(None, "", "", timed_out=True), Unreachable),
    ],
)
def test_not_cancelled(done: Completed, error: type[HubError]) -> None:
    with pytest.raises(error):
        LSF.read_cancel(done)


def test_a_bkill_that_had_to_wait() -> None:
    LSF.read_cancel(
        Completed(0, "Job <1> is being terminated\n", "batch system daemon not responding ... still trying")
    )


# ---------------------------------------------------------------- the rest


def test_name_and_inspection() -> None:
    assert LSF.name == LAVA.name == "lsf"
    assert [c.argv for c in LSF.inspect()] == [
        ("bqueues", "-w"),
        ("bqueues", "-l"),
        ("bhosts", "-w"),
        ("bparams", "-l"),
    ]


@given(
    st.sampled_from([None, 0, 255]),
    st.text() | st.sampled_from([row(jobid="1", stat="RUN"), "Job <1> is submitted to queue <q>."]),
    st.text() | st.sampled_from(["Job <1> is not found", "still trying", "Job <1>: Job has already finished"]),
)
def test_garbage_raises_nothing_but_our_errors(code: int | None, out: str, err: str) -> None:
    done = Completed(code, out, err)
    for read in (
        LSF.read_submit,
        LSF.read_find,
        LSF.read_cancel,
        lambda d: LSF.read_status(d, ids("1")),
        lambda d: LSF.read_accounting(d, ids("1")),
        lambda d: LSF.read_inspect([d, d, d, d]),
    ):
        try:
            read(done)
        except HubError:
            continue


@pytest.mark.parametrize("name", names("openlava"))
def test_no_recording_escapes_as_a_foreign_error(name: str) -> None:
    command, done = recorded("openlava", name)
    asked = ids(*re.findall(r"\b[1-9]\d*\b", command)) or ids("1")
    for read in (
        LAVA.read_submit,
        LAVA.read_find,
        LAVA.read_cancel,
        lambda d: LAVA.read_status(d, asked),
        lambda d: LAVA.read_inspect([d, d, d, d]),
    ):
        try:
            read(done)
        except HubError:
            continue
