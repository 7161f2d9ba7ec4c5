"""podman's and Docker's command lines, and their answers as recorded from podman 4.3.1 and Docker 20.10.24 (client 28.2)."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from batchhub.core.errors import (
    BadInput,
    CommandNotFound,
    ConfigError,
    Conflict,
    Denied,
    SubmitAmbiguous,
    SubmitRejected,
    Unreachable,
)
from batchhub.core.model import JobId, JobReport, JobState, QueueInfo
from batchhub.core.ports import Completed, Dialect, JobRequest
from batchhub.job.render import SAMPLE, Renderer
from batchhub.schedulers.container import FORMAT, Container, Docker, Podman
from batchhub.schedulers.container_read import LISTED, NOTHING_MADE, REFUSED
from tests.fakesched.recorded import recorded

S = JobState
ONE, TWO = JobId("1" * 64), JobId("2" * 64)
ENGINES: dict[str, Container] = {"podman": Podman(image="lab:1"), "docker": Docker(image="lab:1")}
NAMES = pytest.mark.parametrize("name", ENGINES)


def answer(name: str, recording: str) -> Completed:
    said = recorded(name, recording)
    return Completed(said.rc, said.out, said.err)


def only(name: str, recording: str) -> JobReport:
    """The one container of a recorded answer, asked for by its id."""
    done = answer(name, recording)
    job = JobId(json.loads(done.out.splitlines()[0])["id"])
    listing = ENGINES[name].read_status(done, [job])
    assert not listing.gone | listing.unread
    return listing.jobs[job]


def row(**changes: Any) -> dict[str, Any]:
    state = {"Status": "running", "ExitCode": 0, "OOMKilled": False, "StartedAt": "2026-11-28T09:00:00.5Z"}
    state |= changes.pop("state", {})
    labels = {"batchhub.account": "alice", "batchhub.job": "bh-x", "batchhub.walltime": "60"}
    return {"id": ONE, "name": "/bh-x", "created": None, "state": state, "labels": labels, "networks": None, **changes}


def lines(*rows: object) -> Completed:
    return Completed(0, "".join(json.dumps(row) + "\n" for row in rows))


def request(script: str = "#!/bin/bash\n", **changes: str) -> JobRequest:
    fields = {"name": "bh-x", "directory": "/home/alice/.batchhub/jobs/x", "script": script, "user": "alice"}
    return JobRequest(**{**fields, **changes})


# ---------------------------------------------------------------- settings


def test_they_are_dialects() -> None:
    dialects: list[Dialect] = [Podman(), Docker()]
    assert [dialect.name for dialect in dialects] == ["podman", "docker"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "-x"}, "image"),
        ({"image": "a b"}, "image"),
        ({"program": "podman; rm"}, "program"),
        ({"program": "--x"}, "program"),
        ({"engine": "/run/docker.sock"}, "engine"),
        ({"host": "a b"}, "host"),
        ({"host": ""}, "host"),
        ({"rootless": True, "sudo": True}, "rootless"),
        ({"keep_hours": 0}, "keep_hours"),
        ({"stop_seconds": -1}, "stop_seconds"),
        ({"status_deadline": 0.0}, "deadlines"),
    ],
)
def test_senseless_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Podman(**options)
    if options.get("rootless"):
        with pytest.raises(ConfigError, match="rootless"):
            Docker(rootless=True)


# ---------------------------------------------------------------- commands


def test_only_the_service_speaks_to_an_engine() -> None:
    """Who may, is root on its machine."""
    for dialect in ENGINES.values():
        commands = [
            dialect.submit(request()),
            dialect.find("bh-x", "alice"),
            dialect.status([ONE]),
            dialect.tagged("bh-"),
            *dialect.cancel([ONE]),
            *dialect.inspect(),
        ]
        assert {command.runs_as("alice") for command in commands} == {None}
        assert all("DOCKER_*" in command.unset and "CONTAINER_HOST" in command.unset for command in commands)


@NAMES
def test_submit(name: str) -> None:
    script = Renderer().render(name, SAMPLE)
    command = ENGINES[name].submit(request(script, name="bh-abcdefghijkl", directory=SAMPLE.directory))
    shell, _, text, _, *words = command.argv
    assert shell == "/bin/sh"
    assert words[:3] == ["bh-abcdefghijkl", "alice", "168h"]
    at = words.index("lab:1")
    assert words[at:] == ["lab:1", "-s", "TERM", "-k", "30", "28800", "/bin/bash", f"{SAMPLE.directory}/job.sh"]
    options = words[3:at]
    gpu = "--device=nvidia.com/gpu=all" if name == "podman" else "--gpus=1"
    assert options[: options.index("--name=bh-abcdefghijkl")] == [
        "--cpus=4",
        "--memory=8192m",
        "--memory-swap=8192m",
        gpu,
        "--mount=type=bind,source=/home/alice,target=/home/alice",
        "--network=host",
        "--pull=never",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ]
    assert {"--label=batchhub.account=alice", "--label=batchhub.walltime=28800", "--workdir=/"} < set(options)
    assert options[-2] == "--entrypoint=timeout"
    # Nothing of the request is part of the shell's text.
    assert "alice" not in text
    assert text.startswith(f'p() {{ {name} "$@"; }}\n')
    assert '--user="$uid:$gid"' in text


def test_an_engine_elsewhere_by_sudo_and_a_rootless_one() -> None:
    docker = Docker(program="/opt/docker", engine="unix:///run/d.sock", sudo=True)
    assert docker.status([ONE]).argv[:6] == (
        "sudo",
        "-n",
        "--",
        "/opt/docker",
        "--host=unix:///run/d.sock",
        "container",
    )
    assert Podman(engine="unix:///run/p.sock").inspect()[0].argv[:2] == ("podman", "--url=unix:///run/p.sock")
    text = Podman(image="lab:1", rootless=True).submit(request()).argv[2]
    assert "--userns=keep-id" in text
    assert "--user=" not in text


@pytest.mark.parametrize(
    "line",
    [
        "--name=other",
        "--user=0",
        "--userns=host",
        "--rm",
        "--restart=always",
        "--entrypoint=/bin/sh",
        "--workdir=/x",
        "4",
        "-v=/:/host",
        "--",
        "--cpus 4",
        "--walltime=soon",
        "--walltime=0",
        "--walltime=99999999999",
        "--image=--privileged",
        "--image=a b",
        "--label='x",
    ],
)
def test_directives_that_may_not_be(line: str) -> None:
    with pytest.raises(BadInput):
        Docker(image="lab:1").submit(request(f"#!/bin/bash\n#CONTAINER {line}\n"))


def test_which_lines_are_directives() -> None:
    script = "#!/bin/bash\n# a remark\n#CONTAINER\n\n#CONTAINER --image=own:2 --env='A=b c'\n#CONTAINERS --x=1\necho\n#CONTAINER --privileged\n"
    words = Docker(image="lab:1").submit(request(script)).argv
    assert "own:2" in words
    assert "--env=A=b c" in words
    assert not {"--privileged", "--x=1", "lab:1"} & set(words)
    assert words[words.index("own:2") + 1] == "0", "no limit"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "-x"},
        {"name": "a b"},
        {"user": "-u"},
        {"user": "a;b"},
        {"directory": "/home/a:/etc"},
        {"directory": "/home/a,readonly"},
        {"directory": '/home/"a'},
    ],
)
def test_hostile_names_and_places_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        Docker(image="lab:1").submit(request(**changes))


def test_other_refused_questions() -> None:
    with pytest.raises(BadInput, match=r"scheduler_options\.image"):
        Docker().submit(request())
    with pytest.raises(BadInput):
        Docker().find("--all", "alice")
    for jobs in ([], [JobId("--all")], [JobId("1" * 12)]):
        with pytest.raises(BadInput):
            Docker().status(jobs)
        with pytest.raises(BadInput):
            Docker().cancel(jobs)


def test_questions() -> None:
    docker = Docker(stop_seconds=3)
    assert docker.status([ONE, TWO, ONE]).argv == ("docker", "container", "inspect", "--format", FORMAT, ONE, TWO)
    assert docker.find("bh-x", "alice").argv == ("docker", "container", "inspect", "--format", FORMAT, "bh-x")
    (stop,) = docker.cancel([ONE])
    assert (stop.argv, stop.deadline) == (("docker", "container", "stop", "-t", "3", ONE), 33.0)
    assert [command.argv[-1] for command in docker.cancel([TWO, ONE])] == [TWO, ONE], (
        "podman stops none of several if one is unknown"
    )
    assert docker.accounting([ONE]) is None
    assert docker.extend(ONE, timedelta(hours=1)) is None
    with pytest.raises(Conflict):
        docker.read_extend(Completed(0))


# ---------------------------------------------------------------- submits


def test_read_submit() -> None:
    docker = ENGINES["docker"]
    assert docker.read_submit(Completed(0, f"{ONE}\n", "WARNING: No swap limit support\n")) == ONE
    with pytest.raises(SubmitRejected, match=r"^the account alice is root"):
        docker.read_submit(Completed(77, "", f"{REFUSED}the account alice is root on the machine of the containers\n"))
    with pytest.raises(CommandNotFound):
        docker.read_submit(Completed(127, "", "/bin/sh: 1: docker: not found\n"))
    for done in (
        Completed(None, f"{ONE}\n", timed_out=True),
        Completed(0, f"{ONE}\n", truncated=True),
        Completed(0, ONE[:60]),
        Completed(0, ""),
        Completed(1, "", "Error response from daemon: context deadline exceeded\n"),
    ):
        with pytest.raises(SubmitAmbiguous):
            docker.read_submit(done)


@NAMES
@pytest.mark.parametrize("recording", ["create_no_image", "create_bad_option", "start_refused"])
def test_refusals_carry_the_engine_s_words_once_it_holds_no_container(name: str, recording: str) -> None:
    said = answer(name, recording)
    with pytest.raises(SubmitAmbiguous):
        ENGINES[name].read_submit(said)
    with pytest.raises(SubmitRejected) as refused:
        ENGINES[name].read_submit(Completed(said.code, said.out, f"{said.err}{NOTHING_MADE}\n"))
    expected = {"create_no_image": "nosuch.example/lab:1", "create_bad_option": "--nosuch", "start_refused": "/nosuch"}
    assert expected[recording] in str(refused.value)
    assert "batchhub:" not in str(refused.value)
    assert not str(refused.value).startswith("Error")


@NAMES
def test_a_name_that_is_taken_is_no_refusal(name: str) -> None:
    """An earlier submit made the container, and its answer was lost."""
    with pytest.raises(SubmitAmbiguous, match="already in use"):
        ENGINES[name].read_submit(answer(name, "create_name_in_use"))


@pytest.mark.parametrize(
    "words",
    [
        "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
        "sudo: a password is required",
        "Sorry, user hub is not allowed to execute '/usr/bin/docker create' as root on box.",
    ],
)
def test_an_account_that_may_not_talk_to_the_engine_is_told_at_once(words: str) -> None:
    """A site's first try; looked for by its name, the job would be waited for, for ever."""
    recorded_words = answer("docker", "denied_inspect").err
    for err in (recorded_words, f"{words}\n"):
        with pytest.raises(SubmitRejected, match=r"may not talk to docker; please tell the hub's administrator"):
            ENGINES["docker"].read_submit(Completed(1, "", err))
    with pytest.raises(SubmitAmbiguous):  # of the container's own first process
        ENGINES["docker"].read_submit(Completed(1, "", 'OCI runtime: exec: "timeout": permission denied\n'))


def test_a_daemon_that_is_away_refused_nothing() -> None:
    with pytest.raises(SubmitAmbiguous, match="Cannot connect"):
        ENGINES["docker"].read_submit(answer("docker", "down_create"))


# ---------------------------------------------------------------- states


@NAMES
@pytest.mark.parametrize(
    ("recording", "state", "code", "signal"),
    [
        ("inspect_created", S.PENDING, None, None),
        ("inspect_running", S.RUNNING, None, None),
        ("inspect_completed", S.COMPLETED, 0, None),
        ("inspect_failed", S.FAILED, 3, None),
        ("inspect_timed_out", S.TIMEOUT, 124, None),
        ("inspect_timed_out_killed", S.TIMEOUT, None, 9),
        ("inspect_stopped", S.CANCELLED, None, 15),
        ("inspect_killed", S.FAILED, None, 9),
        ("inspect_start_refused", S.PENDING, None, None),
    ],
)
def test_recorded_states(name: str, recording: str, state: JobState, code: int | None, signal: int | None) -> None:
    report = only(name, recording)
    assert (report.state, report.exit_code, report.signal) == (state, code, signal)
    assert report.user == "alice"
    assert report.name.startswith("bh-")
    assert (report.started is None) == (state is S.PENDING)
    assert (report.host == "127.0.0.1") == (state is not S.PENDING)
    assert (report.ended is not None) == report.state.terminal


def test_recorded_states_of_docker_s_cgroups() -> None:
    """This machine's podman had no cgroup of its own, so what needs one was recorded from Docker alone."""
    report = only("docker", "inspect_out_of_memory")
    assert (report.state, report.signal, report.reason) == (S.OUT_OF_MEMORY, 9, "OOMKilled")
    assert only("docker", "inspect_paused").state is S.SUSPENDED
    assert "stat /nosuch" in only("docker", "inspect_start_refused").reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": {"Status": "restarting"}}, {"state": S.STARTING}),
        ({"state": {"Status": "configured"}}, {"state": S.NODE_FAIL, "ended": None}),
        ({"state": {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"}}, {"state": S.PENDING, "host": ""}),
        ({"state": {"Status": "removing"}}, {"state": S.COMPLETING}),
        ({"state": {"Status": "stopping"}}, {"state": S.COMPLETING, "exit_code": None}),
        ({"state": {"Status": "levitating"}}, {"state": S.UNKNOWN, "raw_state": "levitating"}),
        ({"state": {"Status": "dead", "ExitCode": 1}}, {"state": S.FAILED, "exit_code": 1}),
        ({"state": {"Status": "exited", "ExitCode": "0"}}, {"state": S.FAILED, "exit_code": None}),
        ({"state": {"Status": "exited", "ExitCode": 255}}, {"state": S.FAILED, "exit_code": None, "signal": None}),
        ({"labels": None}, {"user": "", "time_limit": None}),
        ({"labels": {"batchhub.walltime": "x"}}, {"time_limit": None}),
        ({"state": {"StartedAt": "yesterday"}}, {"started": None, "host": ""}),
        ({"state": {"StartedAt": "2026-11-28T09:00:00"}}, {"started": None}),
        ({"networks": {"bridge": {"IPAddress": "172.17.0.2"}}}, {"host": "172.17.0.2"}),
        ({"networks": {"a": {"IPAddress": "evil"}, "b": 3, "c": {"IPAddress": "10.0.0.9"}}}, {"host": "10.0.0.9"}),
        ({"networks": {"a": {"IPAddress": "::1"}}}, {"host": "127.0.0.1"}),
        ({"name": "x" * 500}, {"name": "x" * 199 + "…"}),
    ],
)
def test_other_states_and_odd_values(changes: dict[str, Any], expected: dict[str, object]) -> None:
    report = ENGINES["docker"].read_status(lines(row(**changes)), [ONE]).jobs[ONE]
    assert {name: getattr(report, name) for name in expected} == expected


def test_a_stop_within_its_time_is_no_end_of_time() -> None:
    ended = {"Status": "exited", "ExitCode": 143, "FinishedAt": "2026-11-28T09:00:59Z"}
    assert ENGINES["docker"].read_status(lines(row(state=ended)), [ONE]).jobs[ONE].state is S.CANCELLED
    late = ended | {"FinishedAt": "2026-11-28T10:01:00.500000001+01:00"}
    assert ENGINES["docker"].read_status(lines(row(state=late)), [ONE]).jobs[ONE].state is S.TIMEOUT


@pytest.mark.parametrize(
    ("code", "seconds", "state"),
    [
        (0, 30, S.COMPLETED),
        (143, 30, S.CANCELLED),
        (124, 60, S.TIMEOUT),
        (137, 90, S.TIMEOUT),
        (137, 30, S.OUT_OF_MEMORY),
        (1, 30, S.OUT_OF_MEMORY),
    ],
)
def test_memory_is_no_reason_where_there_is_another(code: int, seconds: int, state: JobState) -> None:
    """The mark stays from the first process that the kernel ended, such as a notebook's kernel days ago."""
    at = f"2026-11-28T09:{seconds // 60:02}:{seconds % 60:02}.6Z"
    ended = {"Status": "exited", "ExitCode": code, "OOMKilled": True, "FinishedAt": at}
    assert ENGINES["docker"].read_status(lines(row(state=ended)), [ONE]).jobs[ONE].state is state


@NAMES
def test_gone_is_the_engine_s_own_word(name: str) -> None:
    done = answer(name, "inspect_two_of_four")
    ids = [JobId(json.loads(line)["id"]) for line in done.out.splitlines()]
    unknown = [JobId("0" * 64), JobId("f" * 64)]
    listing = ENGINES[name].read_status(done, [*ids, *unknown, ONE])
    assert listing.jobs.keys() == set(ids)
    assert listing.gone == set(unknown)
    assert listing.unread == {ONE}, "not a word about it"
    assert not listing.bad_rows
    warned = Completed(
        done.code, done.out, f'WARNING: no swap\ntime="x" level=warning msg="\\"/\\" is not shared"\n{done.err}'
    )
    assert ENGINES[name].read_status(warned, [*ids, *unknown]).gone == set(unknown)
    quoted = Completed(125, "", f'Error: no such container "{ONE}"\n')
    assert ENGINES[name].read_status(quoted, [ONE]).gone == {ONE}


@pytest.mark.parametrize("recording", ["down_inspect", "denied_inspect"])
def test_a_daemon_that_does_not_answer_ends_nothing(recording: str) -> None:
    docker = ENGINES["docker"]
    with pytest.raises(Unreachable):
        docker.read_status(answer("docker", recording), [ONE])
    with pytest.raises(Unreachable):
        docker.read_find(answer("docker", recording))
    with pytest.raises(Unreachable):
        docker.read_tagged(answer("docker", recording), "bh-")


def test_what_is_not_an_answer() -> None:
    docker = ENGINES["docker"]
    whole = lines(row())
    for done in (
        Completed(None, whole.out, timed_out=True),
        Completed(0, whole.out, truncated=True),
        Completed(0, ""),
        Completed(0, "what?\n"),
        Completed(1, whole.out, "Error response from daemon: i/o timeout\n"),
        Completed(1, whole.out, f"Error response from daemon: No such container: {TWO}\nconnection reset\n"),
        Completed(1, whole.out, ""),
        Completed(0, json.dumps(row(id=TWO))),
    ):
        with pytest.raises(Unreachable):
            docker.read_status(done, [ONE])
    listing = docker.read_status(lines(row(), row(id="short"), row() | {"state": "up"}, row(name=3), ["x"]), [ONE, TWO])
    assert listing.jobs.keys() == {ONE}
    assert listing.unread == {TWO}
    assert len(listing.bad_rows) == 4
    assert docker.read_status(lines(row(state={"Status": 5}), row(id=TWO)), [ONE, TWO]).unread == {ONE}
    assert docker.read_accounting(whole, [ONE]).keys() == {ONE}


# ---------------------------------------------------------------- find, tagged, cancel, inspect


@NAMES
def test_find(name: str) -> None:
    dialect = ENGINES[name]
    (report,) = dialect.read_find(answer(name, "inspect_running"))
    assert (report.state, report.name) == (S.RUNNING, "bh-runsaaaaaaaa")
    assert dialect.read_find(answer(name, "inspect_unknown")) == ()
    assert dialect.read_find(answer(name, "inspect_start_refused")) == (), "what a refused submit left"
    assert dialect.read_find(lines(row(labels={}))) == (), "somebody else's container of that name"
    for done in (Completed(0, ""), Completed(0, "x\n"), lines(row(id="x")), lines(row(), "x")):
        with pytest.raises(Unreachable):
            dialect.read_find(done)


def test_tagged() -> None:
    docker = ENGINES["docker"]
    ended = row(id="3" * 64, state={"Status": "exited"})
    whole = lines(row(), row(id=TWO, name="/other"), ended, row(id="4" * 64, labels=None), row(id="5"))
    (report,) = docker.read_tagged(Completed(0, f"{LISTED}\n{whole.out}"), "bh-")
    assert report.id == ONE
    assert docker.read_tagged(Completed(0, f"{LISTED}\n"), "bh-") == ()
    gone = Completed(1, f"{LISTED}\n{lines(row()).out}", f"Error response from daemon: No such container: {TWO}\n")
    assert len(docker.read_tagged(gone, "bh-")) == 1, "one ended and was removed between two questions"
    for done in (Completed(0, ""), Completed(1, f"{LISTED}\n", "panic\n"), whole, Completed(0, LISTED, truncated=True)):
        with pytest.raises(Unreachable):
            docker.read_tagged(done, "bh-")
    text = docker.tagged("bh-").argv[2]
    assert re.search(r"ps --all --quiet --no-trunc --filter label=batchhub\.job\b", text)


@NAMES
def test_cancel(name: str) -> None:
    dialect = ENGINES[name]
    for recording in ("stop", "stop_ended", "stop_created", "stop_unknown"):
        dialect.read_cancel(answer(name, recording))
    dialect.read_cancel(
        Completed(
            125,
            "",
            "Error: can only stop created or running containers. x is in state exited: container state improper\n",
        )
    )
    for done in (
        Completed(1, "", ""),
        Completed(1, "", "Error response from daemon: tried to kill, but did not exit\n"),
    ):
        with pytest.raises(Unreachable):
            dialect.read_cancel(done)


def test_a_cancel_that_nobody_heard_or_may_not_be() -> None:
    with pytest.raises(Unreachable, match="Cannot connect"):
        ENGINES["docker"].read_cancel(answer("docker", "down_stop"))
    with pytest.raises(Denied, match="permission denied"):
        ENGINES["docker"].read_cancel(answer("docker", "denied_stop"))


@NAMES
def test_the_machine_s_size(name: str) -> None:
    (queue,) = ENGINES[name].read_inspect([answer(name, "info")])
    assert queue == QueueInfo(name, default=True, max_cores=2, max_memory_mib=24105, nodes=1)
    for done in (
        [],
        [answer("docker", "down_info")],
        [Completed(0, "0 0")],
        [Completed(0, "2")],
        [Completed(0, "a b")],
    ):
        with pytest.raises(Unreachable):
            ENGINES[name].read_inspect(done)
