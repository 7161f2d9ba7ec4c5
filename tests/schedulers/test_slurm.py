"""The Slurm dialect's judgement: what each command says, and what each answer means."""

import contextlib
import fnmatch
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import (
    BadInput,
    CommandNotFound,
    ConfigError,
    Denied,
    HubError,
    SubmitAmbiguous,
    SubmitRejected,
    Unreachable,
)
from batchhub.core.model import JobId, JobState
from batchhub.core.ports import Completed, Dialect, JobRequest
from batchhub.schedulers.slurm import Slurm

SLURM = Slurm()
PLAIN: Dialect = SLURM  # mypy, too, sees that the Protocol is kept
REQUEST = JobRequest("bh-aaaaaaaaaaaa", "/home/al/.batchhub/jobs/aaaaaaaaaaaa", "#!/bin/sh\nsleep 1\n", "al")
UNKNOWN_ID = "slurm_load_jobs error: Invalid job id specified\n"


def ids(*numbers: str) -> list[JobId]:
    return [JobId(number) for number in numbers]


def row(number: str = "1", state: str = "RUNNING", **given: str) -> str:
    cells = {
        "raw": number, "user": "al", "partition": "cpu", "nodes": "n1", "host": "n1", "start": "1795381614", "end": "N/A",
        "submit": "1795381600", "left": "9:50", "limit": "10:00", "priority": "100", "reason": "None",
    } | given  # fmt: skip
    return "\x1f".join((number, state, *cells.values())) + "\n"


# ---------------------------------------------------------------- the ten rules of the dialects' reference


def test_rule_1_the_exit_status_alone_tells_nothing() -> None:
    with pytest.raises(Unreachable):
        SLURM.read_status(Completed(0, "", "squeue: error: Invalid user: al"), ids("1", "2"))
    assert SLURM.read_status(Completed(1, "", UNKNOWN_ID), ids("7")).gone == {"7"}


def test_rule_2_a_failed_submit_may_have_created_the_job() -> None:
    err = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    with pytest.raises(SubmitAmbiguous):
        SLURM.read_submit(Completed(1, "", err))
    with pytest.raises(SubmitAmbiguous):
        SLURM.read_submit(Completed(None, timed_out=True))


def test_rule_3_a_record_that_a_refusal_left_is_not_found() -> None:
    refused = row("13", "FAILED", nodes="", host="n/a", reason="BadConstraints")
    assert SLURM.read_find(Completed(0, refused)) == []
    ran = row("14", "FAILED", reason="NonZeroExitCode")
    assert [job.id for job in SLURM.read_find(Completed(0, refused + ran))] == ["14"]


def test_rule_4_every_command_has_a_deadline_and_our_kill_is_ambiguous() -> None:
    slurm = Slurm(status_deadline=7, submit_deadline=9)
    assert slurm.submit(REQUEST).deadline == 9
    asked = [slurm.status(ids("1")), slurm.find("a", "al"), *slurm.cancel(ids("1")), *slurm.inspect()]
    assert {command.deadline for command in asked} == {7}
    for read in (lambda done: SLURM.read_status(done, ids("1")), SLURM.read_cancel, SLURM.read_find):
        with pytest.raises(Unreachable):
            read(Completed(None, timed_out=True))


@pytest.mark.parametrize("name", ["SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS", "SBATCH_PARTITION", "SACCT_FORMAT",
                                  "SLURM_EXIT_ERROR", "SBATCH_WAIT", "SCANCEL_USER", "SINFO_FORMAT"])  # fmt: skip
def test_rule_5_the_users_environment_is_scrubbed(name: str) -> None:
    for command in (SLURM.submit(REQUEST), SLURM.status(ids("1")), *SLURM.inspect()):
        assert any(fnmatch.fnmatchcase(name, pattern) for pattern in command.unset)
        assert "SLURM_CONF" in command.keep
    asked = SLURM.status(ids("1")).env
    assert (asked["SLURM_TIME_FORMAT"], asked["LC_ALL"], asked["TZ"]) == ("%s", "C", "UTC")
    assert not SLURM.submit(REQUEST).env, "sbatch hands it on to the job"


def test_rule_6_an_empty_id_list_is_never_asked() -> None:
    for build in (SLURM.status, SLURM.accounting, SLURM.cancel):
        with pytest.raises(BadInput):
            build([])


def test_rule_7_free_text_goes_last_or_nowhere() -> None:
    form = next(part for part in SLURM.status(ids("1")).argv if part.startswith("--format="))
    assert "%j" not in form
    assert "%k" not in form
    assert form.endswith("\x1f%r")
    listing = SLURM.read_status(Completed(0, row("1", reason="a\x1fb|c\x0bd") + "ef\n" + row("2")), ids("1", "2"))
    assert listing.jobs[JobId("1")].reason == "a b|c d"
    assert set(listing.jobs) == {"1", "2"}


def test_rule_8_one_question_for_all_jobs() -> None:
    command = SLURM.status(ids(*map(str, range(1, 5001))))
    assert command.argv[-1].count(",") == 4999
    assert len(command.argv[-1]) < 128 * 1024, "Linux's limit for one argument"


def test_rule_9_absent_is_not_finished() -> None:
    listing = SLURM.read_status(Completed(0, row("1")), ids("1", "2", "3"))
    assert set(listing.jobs) == {"1"}
    assert not listing.gone
    assert SLURM.read_status(Completed(0), ids("8", "9")).gone == set()


def test_rule_10_ids_are_text() -> None:
    asked = ids("123", "124_4", "125+1", "67108990;ref")
    assert SLURM.status(asked).argv[-1] == "--jobs=123,124_4,125+1,67108990"
    out = row("123") + row("124_4", raw="130") + row("125+1", raw="131") + row("67108990")
    assert set(SLURM.read_status(Completed(0, out), asked).jobs) == set(asked)
    for odd in ("abc", "-1", "1,2", "1;a b", "1\n", ""):
        with pytest.raises(BadInput):
            SLURM.status(ids(odd))


# ---------------------------------------------------------------- configuration


def test_commands_from_a_directory_and_for_a_cluster() -> None:
    slurm = Slurm(bin_dir="/opt/slurm/bin/", cluster="ref")
    assert slurm.status(ids("1")).argv[:2] == ("/opt/slurm/bin/squeue", "--clusters=ref")
    assert slurm.name == "slurm"
    assert slurm.read_find(Completed(0, "CLUSTER: ref\n" + row("5")))[0].id == "5;ref"


@pytest.mark.parametrize(
    "build",
    [lambda: Slurm(bin_dir="bin"), lambda: Slurm(bin_dir="/a\nb"), lambda: Slurm(cluster="-x"), lambda: Slurm(cluster="a,b"),
     lambda: Slurm(status_deadline=0), lambda: Slurm(submit_deadline=-1)],
)  # fmt: skip
def test_wrong_configuration_is_found_at_once(build: Callable[[], Slurm]) -> None:
    with pytest.raises(ConfigError):
        build()


# ---------------------------------------------------------------- submit


def test_submit() -> None:
    command = SLURM.submit(REQUEST)
    assert command.argv == (
        "sbatch",
        "--parsable",
        "--job-name=bh-aaaaaaaaaaaa",
        "--chdir=/home/al/.batchhub/jobs/aaaaaaaaaaaa",
        "--output=/home/al/.batchhub/jobs/aaaaaaaaaaaa/job.log",
        "--open-mode=append",
    )
    assert command.stdin == REQUEST.script


def test_percent_signs_are_escaped_in_the_output_pattern_only() -> None:
    argv = SLURM.submit(replace(REQUEST, directory="/home/50%j/x/")).argv
    assert "--chdir=/home/50%j/x" in argv
    assert "--output=/home/50%%j/x/job.log" in argv


@pytest.mark.parametrize(
    "change", [{"directory": "x"}, {"directory": "/a\\b"}, {"directory": "/a\nb"}, {"name": "a b"}, {"name": ""}]
)
def test_what_sbatch_would_read_differently_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        SLURM.submit(replace(REQUEST, **change))


@pytest.mark.parametrize(
    ("done", "job"),
    [
        (Completed(0, "123\n"), "123"),
        (Completed(0, "123"), "123"),
        (Completed(0, "123;ref\n"), "123;ref"),
        (Completed(0, "Module loaded\n123\n\n"), "123"),
        (Completed(0, "123\n", "sbatch: Your project ends soon.\nsbatch: Please write a report."), "123"),
        (Completed(0, "Submitted batch job 123\n"), "123"),
        (Completed(0, "Submitted batch job 123 on cluster ref\n"), "123;ref"),
        (Completed(3, "123\n"), "123"),  # a script with #SBATCH --wait
        (Completed(None, "123\n", timed_out=True), "123"),  # printed, then our kill
    ],
)
def test_a_printed_id_is_the_job(done: Completed, job: str) -> None:
    assert SLURM.read_submit(done) == job


FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (1, f"sbatch: error: invalid partition specified: nope\n{FAILED}Invalid partition name specified"),
        (1, f"{FAILED}Invalid account or account/partition combination specified"),
        (1, f"{FAILED}Invalid qos specification"),
        (1, f"{FAILED}User's group not permitted to use this partition"),
        (1, f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)"),
        (1, (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit, user's"
            " size and/or time limits)")),
        (1, f"{FAILED}More processors requested than permitted"),
        (1, f"{FAILED}Node count specification invalid"),
        (1, f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration is not available"),
        (1, "sbatch: error: Invalid generic resource (gres) specification"),
        (1, f"{FAILED}Invalid feature specification"),
        (1, f"{FAILED}Requested reservation is invalid"),
        (1, f"{FAILED}Invalid job array specification"),
        (1, f"{FAILED}Job dependency problem"),
        (255, "sbatch: error: Invalid --time specification"),
        (255, "sbatch: error: Invalid --mem specification"),
        (255, "sbatch: unrecognized option '--frobnicate'\nTry \"sbatch --help\" for more information"),
        (1, ("sbatch: error: This does not look like a batch script.  The first\nsbatch: error: line must start with #! followed by"
            " the path to an interpreter.\nsbatch: error: For instance: #!/bin/sh")),
        (1, "sbatch: error: Batch script is empty!"),
        (1, "sbatch: error: Batch script contains only whitespace!"),
        (1, "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\nsbatch: error: instead of expected UNIX line breaks (\\n)."),
        (1, "sbatch: error: The Slurm controller does not allow scripts that\nsbatch: error: contain a NULL character '\\0'."),
        (1, "sbatch: error: Unable to open file nosuchfile"),
        (1, ("sbatch: error: No cluster 'other' known by database.\nsbatch: error: 'other' can't be reached now, or it is an invalid"
            " entry for --cluster.  Use 'sacctmgr list clusters' to see available clusters.")),
        (1, f"sbatch: error: authentication of your project: Connection refused by policy\n{FAILED}Unspecified error"),
        (42, f"{FAILED}Invalid qos specification"),
    ],
)  # fmt: skip
def test_refusals_speak_in_the_schedulers_words(code: int, err: str) -> None:
    with pytest.raises(SubmitRejected) as refused:
        SLURM.read_submit(Completed(code, "", err))
    assert "sbatch: error:" not in str(refused.value)
    last = err.splitlines()[-1].removeprefix("sbatch: ").removeprefix("error: ")
    assert last in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "done",
    [
        Completed(1, "", f"{FAILED}Unable to contact slurm controller (connect failure)"),
        Completed(1, "", f"{FAILED}Socket timed out on send/recv operation"),
        Completed(1, "", f"{FAILED}Zero Bytes were transmitted or received"),
        Completed(1, "", f"{FAILED}Unexpected missing socket error"),
        Completed(1, "", f"{FAILED}Insane message length"),
        Completed(1, "", f"{FAILED}Protocol authentication error"),
        Completed(1, "", f"{FAILED}Slurm backup controller in standby mode"),
        Completed(1, "", f"{FAILED}Rate limit exceeded, please retry momentarily"),
        Completed(1, "", f"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}Resource temporarily unavailable"),
        Completed(1, "", f"{FAILED}Incompatible versions of client and server code"),
        Completed(1, "", "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\nsbatch: fatal: Could not establish a configuration source"),
        Completed(1, "", "sbatch: error: Munge decode failed: Expired credential"),
        Completed(1, "", "sbatch: error: 'lab' can't be reached now, or it is an invalid entry for --cluster."),  # slurmdbd is down
        Completed(0, "", ""),  # sbatch --quiet
        Completed(0, "0\n"),
        Completed(0, "12;a/b\n"),
        Completed(0, "Welcome to the cluster\n", ""),
        Completed(1, "", ""),
        Completed(255, "", "ssh: connect to host login port 22: Connection refused"),
        Completed(143, "", "sbatch: Your project ends soon."),
        Completed(137, "", "sbatch: error: x"),
        Completed(1, "", "sbatch: a notice of the site alone"),
        Completed(None, "12", timed_out=True),  # of 123? cut short
        Completed(None, "", "Killed"),
    ],
)  # fmt: skip
def test_everything_else_may_have_created_the_job(done: Completed) -> None:
    with pytest.raises(SubmitAmbiguous):
        SLURM.read_submit(done)


def test_sbatch_is_not_installed() -> None:
    with pytest.raises(CommandNotFound, match="sbatch"):
        SLURM.read_submit(Completed(127, "", "bash: line 1: sbatch: command not found"))


# ---------------------------------------------------------------- find


def test_find_names_the_job_and_the_user() -> None:
    argv = SLURM.find("bh-aaaaaaaaaaaa", "al").argv
    assert {"--name=bh-aaaaaaaaaaaa", "--user=al", "--states=all", "--noheader"} < set(argv)
    for name, user in (("a,b", "al"), ("a", "al,bo"), ("a", "")):
        with pytest.raises(BadInput):
            SLURM.find(name, user)


def test_found_newest_first() -> None:
    out = row("3", submit="100") + row("5", submit="200") + row("4", submit="200") + row("9", submit="N/A")
    assert [job.id for job in SLURM.read_find(Completed(0, out))] == ["5", "4", "3", "9"]
    assert SLURM.read_find(Completed(0)) == []


@pytest.mark.parametrize(
    "done",
    [Completed(0, "", "squeue: error: Invalid user: al"), Completed(1, "", "Unable to contact"), Completed(0, "what?\n"),
     Completed(0, row("1"), "squeue: error: x")],
)  # fmt: skip
def test_an_unclear_find_is_no_answer(done: Completed) -> None:
    with pytest.raises(Unreachable):
        SLURM.read_find(done)


# ---------------------------------------------------------------- status


@pytest.mark.parametrize("done", [Completed(0), Completed(0, "what?\n"), Completed(0, "\n")])
def test_nothing_about_a_single_job_is_no_answer(done: Completed) -> None:
    """Of an id that it does not know squeue says so; an element of an array is merely left out."""
    with pytest.raises(Unreachable, match="said nothing about"):
        SLURM.read_status(done, ids("1"))
    if not done.out.strip():
        assert SLURM.read_status(done, ids("1_3")).jobs == {}


def test_text_without_a_job_in_it_is_no_answer() -> None:
    for read in (SLURM.read_status, SLURM.read_accounting):
        with pytest.raises(Unreachable, match="what"):
            read(Completed(0, "what?\n"), ids("1", "2"))


def test_ended_jobs_are_asked_for_as_well() -> None:
    assert {"--states=all", "--noheader", "--array"} < set(SLURM.status(ids("1")).argv)


@pytest.mark.parametrize(
    ("done", "asked"),
    [
        (Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"), ("1",)),
        (Completed(1, "", "slurm_load_jobs error: Socket timed out on send/recv operation"), ("1", "2")),
        (Completed(1, "", UNKNOWN_ID), ("1", "2")),
        (Completed(1, "", UNKNOWN_ID + "squeue: error: also this"), ("1",)),
        (Completed(1, "", ""), ("1",)),
        (Completed(1, row("1"), ""), ("1",)),
        (Completed(1, row("1"), UNKNOWN_ID), ("1",)),
        (Completed(0, "", "squeue: error: Invalid user: al"), ("1",)),
        (Completed(0, row("1"), "squeue: error: Invalid user: al"), ("1", "2")),
        (Completed(0, row("1"), truncated=True), ("1", "2")),
        (Completed(255, "", "Connection closed by remote host"), ("1",)),
    ],
)
def test_what_is_not_an_answer(done: Completed, asked: tuple[str, ...]) -> None:
    with pytest.raises(Unreachable):
        SLURM.read_status(done, ids(*asked))


def test_noise_on_stderr_does_not_blind_us() -> None:
    noise = "bash: warning: setlocale: LC_ALL: cannot change locale (C.UTF-8)\n"
    assert SLURM.read_status(Completed(0, row("1"), noise), ids("1", "2")).jobs.keys() == {"1"}
    assert SLURM.read_status(Completed(1, "", noise + UNKNOWN_ID), ids("1")).gone == {"1"}
    assert SLURM.read_status(Completed(0, row("1"), "squeue: warning: old plugin"), ids("1")).jobs.keys() == {"1"}


def test_gone_is_said_of_the_id_as_we_keep_it() -> None:
    assert SLURM.read_status(Completed(1, "", UNKNOWN_ID), ids("7;ref", "7;ref")).gone == {"7;ref"}


def test_the_first_part_of_arrays_and_heterogeneous_jobs() -> None:
    out = row("123+1", raw="124") + row("123+0", raw="123") + row("13_1", raw="27") + row("13_2", "PENDING", raw="13")
    listing = SLURM.read_status(Completed(0, out), ids("123", "13", "13_1"))
    assert listing.jobs[JobId("123")].id == "123"
    assert listing.jobs[JobId("13")].state is JobState.PENDING
    assert listing.jobs[JobId("13_1")].state is JobState.RUNNING


def test_of_two_rows_in_a_federation_the_living_one_counts() -> None:
    for out in (row("1", "REVOKED") + row("1"), row("1") + row("1", "REVOKED")):
        assert SLURM.read_status(Completed(0, out), ids("1")).jobs[JobId("1")].state is JobState.RUNNING


@pytest.mark.parametrize(
    "bad", ["garbage", "\x1f" * 13, row("x"), row("1", "?!"), row("1", nodes="n[1-"), row("1", host="-oX")]
)
def test_one_bad_row_never_spoils_the_others(bad: str) -> None:
    listing = SLURM.read_status(Completed(0, row("2") + bad.rstrip("\n") + "\n" + row("3")), ids("1", "2", "3"))
    assert set(listing.jobs) == {"2", "3"}
    assert len(listing.bad_rows) == 1


@given(st.text(), st.text(), st.integers(-1, 256) | st.none())
def test_garbage_raises_nothing_but_our_errors(out: str, err: str, code: int | None) -> None:
    done, asked = Completed(code, out, err), ids("1", "2")
    for read in (
        lambda: SLURM.read_status(done, asked),
        lambda: SLURM.read_accounting(done, asked),
        lambda: Slurm(sacct=False).read_accounting(done, asked),
        lambda: SLURM.read_submit(done),
        lambda: SLURM.read_find(done),
        lambda: SLURM.read_cancel(done),
        lambda: SLURM.read_inspect([done, done]),
    ):
        with contextlib.suppress(HubError):
            read()


@given(st.lists(st.text(max_size=12), min_size=1, max_size=14))
def test_garbage_cells_never_spoil_a_neighbour(cells: list[str]) -> None:
    bad = "\x1f".join(cells).replace("\n", " ")
    listing = SLURM.read_status(Completed(0, bad + "\n" + row("2")), ids("2"))
    assert listing.jobs[JobId("2")].state is JobState.RUNNING


# ---------------------------------------------------------------- accounting


def account(number: str = "1", state: str = "COMPLETED", **given: str) -> str:
    cells = {
        "raw": number, "exit": "0:0", "user": "al", "partition": "cpu", "submit": "1795381600", "start": "1795381614",
        "end": "1795381620", "limit": "00:05:00", "nodes": "n1", "reason": "None",
    } | given  # fmt: skip
    return "\x1f".join((number, state, *cells.values())) + "\n"


def test_accounting_asks_for_jobs_not_steps_and_the_newest_run() -> None:
    command = SLURM.accounting(ids("1;ref", "2;ref"))
    assert command is not None
    assert {"--clusters=ref", "--allocations", "--parsable2", "--noheader", "--jobs=1,2"} < set(command.argv)
    assert not {"-D", "--duplicates"} & set(command.argv)
    assert command.env["SLURM_TIME_FORMAT"] == "%s"


def test_records() -> None:
    out = (
        account("1", "FAILED", exit="3:0")
        + account("2", "CANCELLED by 1001", start="None", nodes="None assigned")
        + account("3", "OUT_OF_MEMORY", exit="0:125")
        + account("4", "REQUEUED")
        + account("5", "RUNNING", end="Unknown")
        + account("6", "DEADLINE")
        + account("7", "PENDING", start="Unknown", end="Unknown", nodes="None assigned", limit="Partition_Limit")
        + "nonsense\n"
    )
    found = SLURM.read_accounting(Completed(0, out), ids("1", "2", "3", "4", "5", "6", "7", "99"))
    assert {job: report.state.value for job, report in found.items()} == {
        "1": "failed", "2": "cancelled", "3": "out_of_memory", "4": "requeued", "5": "running", "6": "timeout", "7": "pending",
    }  # fmt: skip
    assert (found[JobId("1")].exit_code, found[JobId("1")].signal) == (3, None)
    assert (found[JobId("2")].started, found[JobId("2")].nodes, found[JobId("2")].raw_state) == (
        None,
        (),
        "CANCELLED by 1001",
    )
    assert found[JobId("3")].signal == 125
    assert found[JobId("5")].ended is None
    assert found[JobId("5")].exit_code is None
    assert found[JobId("7")].time_limit is None


def test_the_newest_record_counts() -> None:
    recycled = account("1", "FAILED", submit="100") + account("1", "RUNNING", submit="300") + account("1", submit="200")
    assert SLURM.read_accounting(Completed(0, recycled), ids("1"))[JobId("1")].state is JobState.RUNNING
    requeued = account("1", "REQUEUED") + account("1", "PENDING")
    assert SLURM.read_accounting(Completed(0, requeued), ids("1"))[JobId("1")].state is JobState.PENDING


def test_accounting_does_not_know_the_job() -> None:
    assert SLURM.read_accounting(Completed(0), ids("99")) == {}


@pytest.mark.parametrize(
    "done",
    [
        Completed(1, "", "Slurm accounting storage is disabled"),
        Completed(
            1,
            "",
            "sacct: error: _open_persist_conn: failed to open persistent connection to host:h:6819: Connection refused",
        ),
        Completed(0, "", "sacct: error: Problem talking to the database: Connection refused"),
        Completed(None, timed_out=True),
    ],
)
def test_accounting_that_cannot_be_asked(done: Completed) -> None:
    with pytest.raises(Unreachable):
        SLURM.read_accounting(done, ids("1"))


def test_without_accounting_one_job_is_asked_of_the_controller() -> None:
    slurm = Slurm(sacct=False)
    assert slurm.accounting(ids("1", "2")) is None
    command = slurm.accounting(ids("1;ref"))
    assert command is not None
    assert command.argv == ("scontrol", "--clusters=ref", "show", "job", "1")
    shown = "JobId=1 JobName=x JobState=RUNNING\n   UserId=al(1001) GroupId=al(1001)\n   JobState=FAILED Reason=NonZeroExitCode\n"
    shown += "   ExitCode=3:0\nJobId=2 JobName=y\n   UserId=al(1001)\n   JobState=RUNNING\n"
    found = slurm.read_accounting(Completed(0, shown), ids("1;ref"))
    assert found[JobId("1;ref")].state is JobState.FAILED
    assert found[JobId("1;ref")].exit_code == 3
    assert slurm.read_accounting(Completed(1, "", UNKNOWN_ID), ids("1")) == {}
    with pytest.raises(Unreachable):
        slurm.read_accounting(Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller"), ids("1"))


# ---------------------------------------------------------------- cancel


def test_cancel_takes_several_at_once() -> None:
    commands = SLURM.cancel(ids("1", "2;ref", "3_4"))
    assert [command.argv for command in commands] == [("scancel", "1", "3_4"), ("scancel", "--clusters=ref", "2")]
    assert len(SLURM.cancel(ids(*map(str, range(1, 402))))) == 3


@pytest.mark.parametrize(
    "done",
    [
        Completed(0),
        Completed(0, "", "scancel: error: Kill job error on job id 99999: Invalid job id specified"),
        Completed(225, "", "scancel: error: Kill job error on job id 9: Invalid job id specified"),
        Completed(229, "", "scancel: error: Kill job error on job id 9: Job/step already completing or completed"),
    ],
)
def test_cancelled_or_over(done: Completed) -> None:
    SLURM.read_cancel(done)


def test_cancelling_somebody_elses_job() -> None:
    for err in ("scancel: error: Kill job error on job id 39: Access/permission denied", ""):
        with pytest.raises(Denied):
            SLURM.read_cancel(Completed(210, "", err))


@pytest.mark.parametrize(
    "done",
    [Completed(8, "", "scancel: error: Unable to contact slurm controller (connect failure)"),
     Completed(140, "", "scancel: error: Kill job error on job id 9: Socket timed out on send/recv operation"),
     Completed(1, "", "scancel: error: Invalid job id abc"), Completed(5), Completed(None)],
)  # fmt: skip
def test_a_cancel_that_may_not_have_arrived(done: Completed) -> None:
    with pytest.raises(Unreachable):
        SLURM.read_cancel(done)


# ---------------------------------------------------------------- inspect


def test_inspect_needs_both_answers() -> None:
    assert [command.argv[0] for command in SLURM.inspect()] == ["scontrol", "sinfo"]
    with pytest.raises(BadInput):
        SLURM.read_inspect([Completed(0)])
    for answers in ([Completed(1), Completed(0)], [Completed(0), Completed(0, "", "sinfo: error: x")]):
        with pytest.raises(Unreachable):
            SLURM.read_inspect(answers)
    assert SLURM.read_inspect([Completed(0), Completed(0)]) == []
