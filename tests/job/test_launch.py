"""launch.py for real: copied into a directory and run, with small servers, other users' processes, and JupyterLab."""

import ast
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from batchhub.core import handshake
from batchhub.core.errors import BadInput
from batchhub.job import launch
from batchhub.job.applications import JUPYTERLAB, NO_ENV
from batchhub.job.files import job_files, launcher_source
from tests.needs import missing, need_root

TOKEN = handshake.server_token(b"k" * 32, "abcdefghijkl", 1)
PATIENCE = 60.0  # seconds until a test gives up; nothing waits for it

APP = """
import http.server, os, signal, socket, sys
where, mode = sys.argv[1], sys.argv[2]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == "token " + open(os.environ["TOKEN_FILE"]).read()
        closed = self.path.startswith("/user/x/guard") and mode != "open" and not known
        self.send_response(403 if closed else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def address_string(self):
        return "x"
    def log_message(self, *a):
        pass
if mode == "usr1":
    signal.signal(signal.SIGUSR1, lambda *a: open("got-usr1", "w").close())
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "fail":
    sys.exit(3)
if where.startswith("/"):
    class Server(http.server.HTTPServer):
        address_family = socket.AF_UNIX
        def server_bind(self):
            self.socket.bind(where)
    Server(where, Handler).serve_forever()
else:
    http.server.HTTPServer(("127.0.0.1", int(where)), Handler).serve_forever()
"""


class Job:
    """A job directory and the launchers started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True)
        self.processes: list[subprocess.Popen[bytes]] = []

    def write(
        self,
        document: bytes,
        generation: int = 1,
        token: str = TOKEN,
        change: Callable[[str], str] = str,
        env: Mapping[str, str] = NO_ENV,
    ) -> None:
        files = job_files("#!/bin/bash\n", document, handshake.secrets_document(generation, token, env=env))
        for name, data in files.items():
            path = self.directory / name
            path.touch(0o600)
            path.write_bytes(change(data.decode()).encode() if name == "launch.py" else data)
        (self.directory / "app.py").write_text(APP)

    def app(self, mode: str = "plain", **more: object) -> bytes:
        options: dict[str, object] = {"base_url": "/user/x/", "ready_path": "/user/x/api", "ready_timeout": 30}
        options.update(more)
        place = "{socket}" if more.get("socket") else "{port}"
        argv = (sys.executable, str(self.directory / "app.py"), place, mode)
        return handshake.launch_document(argv=argv, env={"TOKEN_FILE": "{token_file}"}, **options)  # type: ignore[arg-type]

    def start(self, python: str = sys.executable, user: int | None = None) -> subprocess.Popen[bytes]:
        with (self.directory / "job.log").open("ab") as log:
            process = subprocess.Popen(
                [python, "-I", str(self.directory / "launch.py")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        self.processes.append(process)
        return process

    def connection(self, process: subprocess.Popen[bytes]) -> handshake.Connection:
        wait_for(lambda: (self.directory / "connection.json").exists() or process.poll() is not None)
        assert process.poll() is None, self.log()
        return handshake.read_connection((self.directory / "connection.json").read_bytes())

    def exit(self, process: subprocess.Popen[bytes]) -> handshake.ExitRecord:
        process.wait(PATIENCE)
        return handshake.read_exit((self.directory / "exit.json").read_bytes())

    def log(self) -> str:
        return (self.directory / "job.log").read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path / "job")
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def get(url: str, token: str = "") -> int:
    headers = {"Authorization": f"token {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_starts_answers_and_ends(job: Job) -> None:
    job.write(job.app(guard_path="/user/x/guard"))
    process = job.start()
    found = job.connection(process)
    assert get(f"http://127.0.0.1:{found.port}/user/x/") == 200
    assert (found.host, found.socket, found.generation) == (socket.gethostname(), "", 1)
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in job.directory.iterdir()}
    assert {names[name] for name in ("connection.json", "token", "secrets.json")} == {0o600}
    assert (job.directory / "token").read_text() == handshake.start_token(TOKEN, found.nonce)
    process.terminate()
    record = job.exit(process)
    assert record.word == "stopped by SIGTERM"
    assert process.returncode == 128 + signal.SIGTERM
    assert not (job.directory / "connection.json").exists()
    assert not (job.directory / "token").exists()


def test_nothing_secret_in_argv_or_log(job: Job) -> None:
    job.write(job.app())
    process = job.start()
    found = job.connection(process)
    both = (TOKEN, handshake.start_token(TOKEN, found.nonce))
    for pid in (process.pid, found.pid):
        assert not any(secret in Path(f"/proc/{pid}/cmdline").read_text() for secret in both)
    assert not any(secret in job.log() for secret in both)


def test_an_application_that_fails_says_so(job: Job) -> None:
    job.write(job.app("fail"))
    process = job.start()
    record = job.exit(process)
    assert (record.code, record.signal, record.word) == (3, None, "application exited with 3 before it answered")
    assert process.returncode == 3


def test_a_missing_program_is_named(job: Job) -> None:
    document = handshake.launch_document(argv=("no-such-lab", "{port}"), env={}, base_url="/", ready_path="/")
    job.write(document)
    assert "no-such-lab: No such file or directory" in job.exit(job.start()).word


def test_no_answer_in_time(job: Job) -> None:
    document = handshake.launch_document(argv=("sleep", "1000"), env={}, base_url="/", ready_path="/", ready_timeout=1)
    job.write(document)
    assert job.exit(job.start()).word == "the application did not answer within 1 seconds"


def test_a_killed_application_is_recorded_with_its_signal(job: Job) -> None:
    job.write(job.app())
    process = job.start()
    os.kill(job.connection(process).pid, signal.SIGKILL)
    record = job.exit(process)
    assert (record.code, record.signal, record.word) == (None, signal.SIGKILL, "application was killed by SIGKILL")


def test_one_that_ignores_sigterm_is_killed(job: Job) -> None:
    job.write(job.app("stubborn"), change=lambda text: text.replace("GRACE = 20.0", "GRACE = 0.2"))
    process = job.start()
    job.connection(process)
    process.send_signal(signal.SIGINT)
    record = job.exit(process)
    assert (record.signal, record.word) == (signal.SIGKILL, "stopped by SIGINT")


@pytest.mark.parametrize("mode", ["usr1", "plain"])
def test_a_warning_reaches_who_handles_it_and_kills_nobody(job: Job, mode: str) -> None:
    job.write(job.app(mode))
    process = job.start()
    found = job.connection(process)
    process.send_signal(signal.SIGUSR1)
    if mode == "usr1":
        wait_for((job.directory / "got-usr1").exists)
    assert get(f"http://127.0.0.1:{found.port}/") == 200


def test_the_application_ends_with_a_launcher_that_was_killed(job: Job) -> None:
    job.write(job.app())
    process = job.start()
    found = job.connection(process)
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{found.pid}").exists() or " Z " in Path(f"/proc/{found.pid}/stat").read_text())


def test_a_port_of_the_range_that_is_free(job: Job) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        low, high = max(1024, port - 50), min(65535, port + 50)
        job.write(job.app(ports=(low, high)))
        found = job.connection(job.start())
        with pytest.raises(launch.Problem, match="no free port"):
            launch.hold_port("127.0.0.1", [port, port], set())
    assert low <= found.port <= high
    assert found.port != port


def test_a_held_port_is_kept_from_others_but_not_from_the_application() -> None:
    with launch.hold_port("127.0.0.1", None, set()) as held, socket.socket() as plain, socket.socket() as application:
        port = held.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            plain.bind(("127.0.0.1", port))
        application.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        application.bind(("127.0.0.1", port))
        application.listen()
        assert launch.listeners(port) == {os.geteuid()}
        assert launch.port_is_taken("127.0.0.1", port)


def test_a_port_taken_after_it_was_chosen_is_given_up(job: Job) -> None:
    """The first try finds the port taken (the application says so and ends); the second gets another."""
    script = job.directory / "late.py"
    document = handshake.launch_document(
        argv=(sys.executable, str(script), "{port}"), env={"TOKEN_FILE": "{token_file}"}, base_url="/", ready_path="/"
    )
    job.write(document)
    script.write_text(
        "import os, sys\n"
        "if not os.path.exists('tried'):\n"
        "    open('tried', 'w').write(sys.argv[1])\n"
        "    sys.exit('OSError: [Errno 98] Address already in use')\n"
        "os.execv(sys.executable, [sys.executable, 'app.py', sys.argv[1], 'plain'])\n"
    )
    found = job.connection(job.start())
    assert int((job.directory / "tried").read_text()) != found.port
    assert "was taken by somebody else" in job.log()


def test_another_users_listener_gets_nothing(job: Job) -> None:
    """The application is too slow: a process of another user listens on its port. It must see no request, and the port is left."""
    need_root()
    seen = job.directory.parent / "seen"
    seen.mkdir(mode=0o777)
    seen.chmod(0o777)
    for parent in job.directory.parents:
        if parent != Path("/tmp") and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    thief = seen / "thief.py"
    thief.write_text(
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen()\n"
        f"open({str(seen / 'ready')!r}, 'w').close()\n"
        "c = s.accept()[0]\n"
        f"open({str(seen / 'request')!r}, 'wb').write(c.recv(4096))\n"
    )
    script = job.directory / "slow.py"
    document = handshake.launch_document(
        argv=(sys.executable, str(script), "{port}"), env={"TOKEN_FILE": "{token_file}"}, base_url="/", ready_path="/"
    )
    job.write(document)
    script.write_text(
        "import os, subprocess, sys, time\n"
        "if not os.path.exists('tried'):\n"
        "    open('tried', 'w').write(sys.argv[1])\n"
        f"    subprocess.Popen([sys.executable, {str(thief)!r}, sys.argv[1]])\n"
        "    time.sleep(1000)\n"
        "os.execv(sys.executable, [sys.executable, 'app.py', sys.argv[1], 'plain'])\n"
    )
    found = job.connection(job.start())
    assert int((job.directory / "tried").read_text()) != found.port
    assert (seen / "ready").exists()
    assert not (seen / "request").exists()


def test_an_application_open_to_everybody_is_stopped(job: Job) -> None:
    job.write(job.app("open", guard_path="/user/x/guard"))
    assert "lets anybody in" in job.exit(job.start()).word


def test_a_unix_socket_of_its_owner_alone(job: Job) -> None:
    job.write(job.app(socket=True))
    process = job.start()
    found = job.connection(process)
    assert (found.port, found.socket) == (0, str(job.directory / "app.sock"))
    assert stat.S_IMODE(Path(found.socket).stat().st_mode) == 0o600
    process.terminate()
    job.exit(process)
    assert not Path(found.socket).exists()


def test_a_socket_path_that_is_too_long_goes_to_tmp(tmp_path: Path) -> None:
    job = Job(tmp_path / ("d" * 60) / ("e" * 60))
    job.write(job.app(socket=True))
    process = job.start()
    found = job.connection(process)
    assert found.socket.startswith("/tmp/bh-")
    assert stat.S_IMODE(Path(found.socket).parent.stat().st_mode) == 0o700
    process.terminate()
    job.exit(process)
    assert not Path(found.socket).parent.exists()


def test_a_requeued_job_starts_over_with_new_secrets(job: Job) -> None:
    job.write(job.app())
    first = job.start()
    old = job.connection(first)
    first.kill()  # the node died
    first.wait()
    fresh = handshake.server_token(b"k" * 32, "abcdefghijkl", 2)
    (job.directory / "exit.json").write_text("{}")
    job.write(job.app(), generation=2, token=fresh)
    second = job.start()
    wait_for(lambda: old.nonce.encode() not in _read(job.directory / "connection.json"))
    new = job.connection(second)
    assert (job.directory / "token").read_text() == handshake.start_token(fresh, new.nonce)
    assert (new.generation, new.nonce != old.nonce) == (2, True)
    assert not (job.directory / "exit.json").exists()


CONFIDED = {"TOKEN_OF_THE_STORE": "hunter2 é\nline two", "BATCHHUB_FILES": "/x/files", "TOKEN_FILE": "overruled"}


def test_what_is_confided_is_the_applications_alone(job: Job) -> None:
    job.write(job.app(), env=CONFIDED)
    process = job.start()
    found = job.connection(process)
    environ = Path(f"/proc/{found.pid}/environ").read_bytes().split(b"\0")
    assert f"TOKEN_OF_THE_STORE={CONFIDED['TOKEN_OF_THE_STORE']}".encode() in environ
    assert b"BATCHHUB_FILES=/x/files" in environ
    assert f"TOKEN_FILE={job.directory / 'token'}".encode() in environ, "what the application needs comes last"
    assert b"hunter2" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert b"hunter2" not in Path(f"/proc/{found.pid}/cmdline").read_bytes()
    assert "hunter2" not in job.log()
    assert [path.name for path in job.directory.iterdir() if b"hunter2" in path.read_bytes()] == ["secrets.json"]


def test_as_much_as_the_hub_writes_is_read(job: Job) -> None:
    """Far more than the 64 KiB of the other documents."""
    job.write(job.app(), env={f"X{number}": "x" * 32_000 for number in range(20)})
    found = job.connection(job.start())
    assert Path(f"/proc/{found.pid}/environ").read_bytes().count(b"x" * 32_000) == 20
    with pytest.raises(BadInput, match=r"variables that are added .* too long together \(1024 KiB as JSON\)"):
        handshake.secrets_document(1, TOKEN, env={f"X{number}": "x" * 32_000 for number in range(40)})


@pytest.mark.parametrize(("number", "kept"), [(signal.SIGKILL, False), (signal.SIGTERM, True)])
def test_secrets_go_with_an_application_that_ends_by_itself(job: Job, number: signal.Signals, kept: bool) -> None:
    """A launcher that is told to end may be started again by the scheduler: then the hub sees to it."""
    job.write(job.app(), env=CONFIDED)
    (job.directory / "files").mkdir(mode=0o700)
    (job.directory / "files" / "spark.conf").write_text("hunter2")
    process = job.start()
    found = job.connection(process)
    os.kill(process.pid if kept else found.pid, number)
    job.exit(process)
    process.wait(PATIENCE)
    assert [(job.directory / name).exists() for name in ("files", "secrets.json")] == [kept, kept]


def test_a_newer_starts_secrets_are_left_alone(job: Job) -> None:
    job.write(job.app())
    process = job.start()
    found = job.connection(process)
    (job.directory / "secrets.json").write_bytes(handshake.secrets_document(2, TOKEN))
    os.kill(found.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    assert (job.directory / "secrets.json").exists()


def test_an_old_run_leaves_a_newer_ones_files_alone(job: Job) -> None:
    job.write(job.app())
    first = job.start()
    job.connection(first)
    second = job.start()
    wait_for(lambda: f'"pid": {first.pid}' not in job.log() and len(job.log().splitlines()) >= 2)
    kept = (job.directory / "connection.json").read_bytes()
    first.terminate()
    first.wait(PATIENCE)
    assert (job.directory / "connection.json").read_bytes() == kept
    assert second.poll() is None


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: (d / "secrets.json").chmod(0o640), "secrets.json may be read by others"),
        (lambda d: d.chmod(0o770), "may be written by others"),
        (lambda d: (d / "secrets.json").write_text("{}"), "secrets.json is not what this launcher reads"),
        (lambda d: (d / "launch.json").unlink(), "launch.json cannot be read"),
    ],
)
def test_what_is_refused(job: Job, change: Callable[[Path], object], word: str) -> None:
    job.write(job.app())
    change(job.directory)
    assert word in job.exit(job.start()).word


def test_a_token_in_argv_is_refused(job: Job) -> None:
    document = json.loads(job.app())
    document["argv"].append("--token={token}")
    job.write(json.dumps(document).encode())
    assert "other users read it there" in job.exit(job.start()).word


def test_the_hub_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    calls: list[tuple[str, str, bytes]] = []
    got = threading.Event()

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            calls.append((self.path, self.headers["Authorization"], body))
            self.send_response(503 if len(calls) == 1 else 204)
            self.end_headers()
            if len(calls) == 2:
                got.set()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            job.write(job.app(callback_url=f"http://127.0.0.1:{hub.server_port}/hub/api/jobs/abc"))
            found = job.connection(job.start())
            assert got.wait(PATIENCE)
        finally:
            hub.shutdown()
            thread.join()
    assert calls[1][:2] == ("/hub/api/jobs/abc", f"token {TOKEN}")
    assert handshake.read_connection(calls[1][2]) == found


def test_it_is_python_3_6() -> None:
    ast.parse(launcher_source().decode(), feature_version=(3, 6))


# ---------------------------------------------------------------- before the end


def last(job: Job, mode: str = "plain", **wanted: object) -> bytes:
    return job.app(mode, time_up=handshake.BeforeEnd(**wanted))  # type: ignore[arg-type]


def test_the_command_that_saves_runs_before_the_end_in_the_jobs_environment(job: Job) -> None:
    # A fifth of five seconds is one: it begins after four, and is not asked to wait for them here.
    save = 'echo "$BATCHHUB_BASE_URL $BATCHHUB_SECONDS_LEFT $(cat "$BATCHHUB_TOKEN_FILE" | wc -c) $MINE" >saved'
    job.write(last(job, walltime=5, before=120, command=save))
    os.environ["MINE"] = "mine"
    try:
        process = job.start()
    finally:
        del os.environ["MINE"]
    job.connection(process)
    wait_for(lambda: "has ended well" in job.log())
    url, left, length, mine = (job.directory / "saved").read_text().split()
    assert (url, int(length) > 20, mine) == ("/user/x/", True, "mine")
    assert 0 <= int(left) <= 5
    assert job.log().count("the job's time is up at") == 1
    process.terminate()
    assert job.exit(process).word == "stopped by SIGTERM"


def test_an_end_that_the_hub_wrote_goes_before(job: Job) -> None:
    """It took the job for one that ends in an hour; it ends in a moment."""
    job.write(last(job, walltime=3600, before=3500, command="touch saved"), change=lambda text: text)
    process = job.start()
    job.connection(process)
    # 720 seconds, a fifth, before the end: not now. The file is looked for when the moment comes and every ten minutes.
    assert not (job.directory / "saved").exists()
    process.terminate()
    job.exit(process)

    quick = lambda text: text.replace("LOOK_AGAIN = 600.0", "LOOK_AGAIN = 0.2")  # noqa: E731
    job.write(last(job, walltime=3600, before=120, command="touch saved"), change=quick)
    process = job.start()
    job.connection(process)
    (job.directory / "end.json").write_bytes(handshake.end_document(datetime.now(UTC) + timedelta(seconds=60)))  # noqa: TID251
    wait_for((job.directory / "saved").exists)
    assert "the job's time is up at" in job.log()
    process.terminate()
    job.exit(process)
    assert not (job.directory / "end.json").exists()


def test_an_extension_puts_the_command_off(job: Job) -> None:
    job.write(last(job, walltime=10, before=120, command="touch saved"))
    process = job.start()
    job.connection(process)
    (job.directory / "end.json").write_bytes(handshake.end_document(datetime.now(UTC) + timedelta(hours=1)))  # noqa: TID251
    wait_for(lambda: " now, not at " in job.log())
    assert not (job.directory / "saved").exists()
    process.terminate()
    job.exit(process)


def test_an_end_of_an_earlier_run_and_one_that_is_no_end_are_not_believed(job: Job) -> None:
    quick = lambda text: text.replace("LOOK_AGAIN = 600.0", "LOOK_AGAIN = 0.2")  # noqa: E731
    job.write(last(job, walltime=3600, before=120, command="touch saved"), change=quick)
    (job.directory / "end.json").write_bytes(handshake.end_document(datetime.now(UTC) + timedelta(seconds=60)))  # noqa: TID251
    process = job.start()
    job.connection(process)
    for text in ('{"version": 1, "end": "soon"}', '{"version": 1, "end": true}', '{"version": 1, "end": 5}', "[", "{}"):
        (job.directory / "end.json").write_text(text)
    wait_for(lambda: "end.json is not" in job.log())
    assert not (job.directory / "saved").exists()
    assert process.poll() is None
    process.terminate()
    job.exit(process)


def test_a_command_that_takes_too_long_is_ended_and_the_application_is_not(job: Job) -> None:
    quick = lambda text: text.replace("max(5.0,", "max(0.5,")  # noqa: E731
    job.write(last(job, walltime=5, before=120, command="touch begun; sleep 1000"), change=quick)
    process = job.start()
    job.connection(process)
    wait_for(lambda: "takes too long and is ended" in job.log())
    assert (job.directory / "begun").exists()
    assert process.poll() is None
    process.terminate()
    job.exit(process)


def test_the_signal_of_the_profile(job: Job) -> None:
    job.write(last(job, "usr1", walltime=5, before=120, signal="USR1"))
    process = job.start()
    job.connection(process)
    wait_for((job.directory / "got-usr1").exists)
    assert "is sent SIGUSR1, as its profile asks" in job.log()
    assert process.poll() is None
    process.terminate()
    job.exit(process)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
def test_the_schedulers_own_signal_brings_the_command_forward_once(job: Job, number: signal.Signals) -> None:
    job.write(last(job, walltime=36000, before=120, command="echo saved >>saved"))
    process = job.start()
    job.connection(process)
    process.send_signal(number)
    wait_for(lambda: "has ended well" in job.log())
    assert f"the scheduler sent {number.name}" in job.log()
    process.send_signal(number)
    process.terminate()
    job.exit(process)
    assert (job.directory / "saved").read_text() == "saved\n"


def test_the_end_that_slurm_says_and_the_start_that_the_script_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())  # noqa: TID251
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("BATCHHUB_JOB_STARTED", str(now - 600))
    assert launch.first_end(3600) == now + 3000
    assert launch.first_end(0) == 0
    for odd in ("", "x", "-5", str(now + 900), "5"):
        monkeypatch.setenv("BATCHHUB_JOB_STARTED", odd)
        assert now + 3600 <= launch.first_end(3600) <= now + 3660
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(now + 77))
    assert launch.first_end(3600) == now + 77
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(now - 77))
    assert launch.first_end(3600) >= now + 3600


def test_it_runs_under_the_oldest_python_there_is(job: Job) -> None:
    """Debian has no old one to install, so where none is at hand it is the system's."""
    old = [str(p) for v in ("3.6", "3.7", "3.8") for p in Path.home().glob(f".pyenv/versions/{v}.*/bin/python3")]
    old += [path for path in map(shutil.which, ("python3.6", "python3.7", "python3.8")) if path and "shims" not in path]
    old += ["/usr/bin/python3", sys.executable]
    job.write(job.app(guard_path="/user/x/guard"))
    process = job.start(python=next(path for path in old if Path(path).exists()))
    job.connection(process)
    process.terminate()
    assert job.exit(process).word == "stopped by SIGTERM"


@pytest.mark.parametrize("kind", ["port", "socket", "settings"])
def test_jupyterlab(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    jupyter = Path(sys.executable).parent / "jupyter-lab"
    if not jupyter.exists():
        missing("JupyterLab is not installed: pip install jupyterlab")
    home = tmp_path / "home"
    (home / ".jupyter").mkdir(parents=True)
    if kind == "settings":  # what some tutorials tell people to do
        (home / ".jupyter" / "jupyter_server_config.py").write_text("c.IdentityProvider.token = ''\n")
    for name in [name for name in os.environ if name.startswith("JUPYTER")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_TOKEN", "left-over-from-elsewhere")
    monkeypatch.setenv("PATH", f"{jupyter.parent}:{os.environ['PATH']}")
    root = {"JUPYTER_ALLOW_ROOT": "1"}
    document = json.loads(JUPYTERLAB.document("/user/alice/", socket=kind == "socket", env=root))
    if os.geteuid() == 0:
        document["argv"].append("--allow-root")
    job.write(json.dumps(document).encode())
    process = job.start()
    if kind == "settings":
        assert "lets anybody in" in job.exit(process).word
        return
    found = job.connection(process)
    secret = handshake.start_token(TOKEN, found.nonce)
    if kind == "port":
        base = f"http://127.0.0.1:{found.port}/user/alice"
        assert get(f"{base}/api") == 200
        assert get(f"{base}/api/status") == 403
        assert get(f"{base}/api/status", secret) == 200
    assert not any(word in job.log() for word in (TOKEN, secret))
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert not any(word.encode() in cmdline.read_bytes() for word in (TOKEN, secret))
    process.terminate()
    assert job.exit(process).word == "stopped by SIGTERM"
