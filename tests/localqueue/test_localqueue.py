"""The local queue for real: its own command line, real jobs, killed supervisors."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.core.model import JobId, JobState
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.localqueue.spool import KEEP, Spool, SpoolProblem, default_spool, write_json
from batchhub.localqueue.supervisor import interpreter_of
from batchhub.schedulers.local import Local
from tests.needs import missing, need_root

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
SLEEP = "#!/bin/bash\nexec sleep 1000\n"


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


class Queue:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.ids: list[str] = []
        self.python = sys.executable

    def call(self, *words: str, stdin: str = "", user: int | None = None) -> tuple[int, list[dict[str, object]], str]:
        done = subprocess.run(
            [self.python, "-m", "batchhub.localqueue", "--spool", str(self.path), *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "SECRET": "no"},
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def submit(self, script: str, *words: str) -> str:
        code, rows, err = self.call("submit", "--slots=2", *words, stdin=script)
        assert code == 0, err
        self.ids.append(str(rows[0]["id"]))
        return self.ids[-1]

    def row(self, job: str) -> dict[str, object]:
        return self.call("status", job)[1][0]

    def state(self, job: str) -> object:
        return self.row(job)["state"]

    def supervisor(self, job: str) -> int:
        return int(json.loads((self.path / job.partition("-")[2] / "supervisor.json").read_text())["pid"])


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path / "spool")
    yield made
    if made.ids:
        made.call("cancel", *made.ids)
        wait_for(lambda: all(row["state"] not in {"pending", "running"} for row in made.call("status", *made.ids)[1]))


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_job_runs_where_and_how_it_was_asked(queue: Queue, tmp_path: Path) -> None:
    script = '#!/bin/bash\npwd; echo "$LOCALQUEUE_JOB_ID" >&2; exit 3\n'
    job = queue.submit(script, "--name=bh-a", f"--chdir={tmp_path}", "--output=log")
    wait_for(lambda: queue.state(job) == "failed")
    row = queue.row(job)
    assert (row["name"], row["code"], row["signal"], row["nprocs"]) == ("bh-a", 3, None, 1)
    assert row["submitted"] <= row["started"] <= row["ended"]  # type: ignore[operator]
    assert (tmp_path / "log").read_text() == f"{tmp_path}\n{job}\n"
    job = queue.submit("#!/bin/sh\ntrue\n")
    wait_for(lambda: queue.state(job) == "completed")


def test_a_signal_is_recorded(queue: Queue) -> None:
    job = queue.submit("#!/bin/bash\nkill -SEGV $$\n")
    wait_for(lambda: queue.state(job) == "failed")
    assert (queue.row(job)["code"], queue.row(job)["signal"]) == (None, signal.SIGSEGV)


def test_a_missing_interpreter(queue: Queue) -> None:
    job = queue.submit("#!/no/such/shell\n")
    wait_for(lambda: queue.state(job) == "failed")
    assert queue.row(job)["reason"] == "/no/such/shell: No such file or directory"


def test_slots_and_order(queue: Queue) -> None:
    first = queue.submit(SLEEP)
    big = queue.submit(SLEEP.replace("\nexec", "\n#LOCAL --nprocs=2\nexec"))
    small = queue.submit(SLEEP)
    wait_for(lambda: queue.state(first) == "running")
    assert [queue.state(job) for job in (big, small)] == ["pending", "pending"]  # nobody overtakes
    queue.call("cancel", first)
    wait_for(lambda: queue.state(big) == "running")
    assert queue.state(small) == "pending"
    info = queue.call("info", "--slots=2")[1][0]
    assert (info["slots"], info["free"], info["running"], info["pending"]) == (2, 0, 1, 1)
    queue.call("cancel", small)
    wait_for(lambda: queue.state(small) == "cancelled")
    assert queue.row(small)["reason"] == "cancelled while it waited"
    assert queue.row(small)["started"] is None


def test_many_at_once_run_one_after_the_other_in_order(queue: Queue, tmp_path: Path) -> None:
    script = f"#!/bin/bash\n#LOCAL --nprocs=2\necho begin $LOCALQUEUE_JOB_ID >>{tmp_path}/order\necho end >>{tmp_path}/order\n"
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: queue.submit(script), range(12)))
    assert len(set(jobs)) == 12
    wait_for(lambda: all(row["state"] == "completed" for row in queue.call("status", *jobs)[1]))
    numbers = sorted(jobs, key=lambda job: int(job.partition("-")[2]))
    assert (tmp_path / "order").read_text().splitlines() == [
        line for job in numbers for line in (f"begin {job}", "end")
    ]


def test_cancel_ends_every_process(queue: Queue, tmp_path: Path) -> None:
    script = f"#!/bin/bash\n(trap '' TERM; setsid sleep 1000 & echo $! >{tmp_path}/pid) & sleep 1000\n"
    job = queue.submit(script)
    wait_for((tmp_path / "pid").exists)
    wait_for(lambda: (tmp_path / "pid").read_text().strip() != "")
    orphan = int((tmp_path / "pid").read_text())
    assert alive(orphan)
    assert queue.call("cancel", job)[1] == [{"id": job, "done": "cancelled"}]
    wait_for(lambda: queue.state(job) == "cancelled")
    assert queue.row(job)["signal"] == signal.SIGTERM
    wait_for(lambda: not alive(orphan))
    assert queue.call("cancel", job)[1] == [{"id": job, "done": "over"}]


def test_time_limit(queue: Queue) -> None:
    job = queue.submit("#!/bin/bash\n#LOCAL --walltime=0.2\nexec sleep 1000\n")
    wait_for(lambda: queue.state(job) == "timeout")
    assert (queue.row(job)["signal"], queue.row(job)["reason"]) == (
        signal.SIGTERM,
        "it reached its time limit of 0.2 seconds",
    )
    job = queue.submit("#!/bin/bash\ntrap '' TERM\nsleep 1000\nsleep 1000\n", "--walltime=0.2", "--grace=0.1")
    wait_for(lambda: queue.state(job) == "timeout")
    assert queue.row(job)["signal"] == signal.SIGKILL


def test_a_killed_supervisor_is_said_so_and_its_job_ended(queue: Queue, tmp_path: Path) -> None:
    script = f"#!/bin/bash\ntrap 'touch {tmp_path}/ended; exit' TERM\ntouch {tmp_path}/began\nsleep 1000 & wait\n"
    running, waiting, last = queue.submit(script, "--nprocs=2"), queue.submit(SLEEP, "--nprocs=2"), queue.submit(SLEEP)
    wait_for((tmp_path / "began").exists)
    os.kill(queue.supervisor(waiting), signal.SIGKILL)
    wait_for(lambda: queue.state(waiting) == "lost")
    assert queue.state(last) == "pending"
    os.kill(queue.supervisor(running), signal.SIGKILL)
    wait_for(lambda: queue.state(running) == "lost")
    wait_for((tmp_path / "ended").exists)
    wait_for(lambda: queue.state(last) == "running")
    assert "supervisor was killed" in str(queue.row(running)["reason"])


def test_unknown_foreign_and_wrong_ids(queue: Queue) -> None:
    job = queue.submit(SLEEP)
    tag = job.partition("-")[0]
    other = "".join(chr((ord(c) - 96) % 26 + 97) for c in tag)
    assert queue.call("status", f"{tag}-99", f"{other}-1")[1] == [
        {"id": f"{tag}-99", "state": "unknown"},
        {"id": f"{other}-1", "state": "foreign"},
    ]
    assert [row["done"] for row in queue.call("cancel", f"{tag}-99", f"{other}-1")[1]] == ["unknown", "foreign"]
    assert queue.call("status", "../../etc")[0] == 3


def test_find_is_newest_first_and_exact(queue: Queue) -> None:
    jobs = [queue.submit(SLEEP, f"--name={name}") for name in ("bh-x", "bh-xy", "bh-x")]
    assert [row["id"] for row in queue.call("find", "--name=bh-x")[1]] == [jobs[2], jobs[0]]
    assert queue.call("find", "--name=bh-x", "--user=nobody-else")[1] == []


@pytest.mark.parametrize(
    ("script", "words", "why"),
    [
        (SLEEP, ["--nprocs=3"], "3 slots were asked for; this machine has 2"),
        (SLEEP, ["--name=a b"], "cannot be a job's name"),
        (SLEEP, ["--walltime=-5"], "cannot be"),
        ("", [], "empty"),
        ("#!/bin/sh\n#LOCAL --frob\n", [], "unknown option"),
        ("#!/bin/sh\n#LOCAL --nprocs=x\n", [], "in a #LOCAL line"),
        ("#!/bin/sh 'x\n", [], "readable first line"),
    ],
)
def test_refusals(queue: Queue, script: str, words: list[str], why: str) -> None:
    code, rows, err = queue.call("submit", "--slots=2", *words, stdin=script)
    assert (code, rows) == (1, [])
    assert err.startswith("localqueue: refused: ")
    assert why in err


def test_directives_end_at_the_first_command() -> None:
    assert interpreter_of(b"#!/usr/bin/env bash\nx") == ("/usr/bin/env", "bash")
    assert interpreter_of(b"echo") == ("/bin/sh",)


def test_a_spool_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpoolProblem, match="No such file"):
        Spool(tmp_path / "missing")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("batchhub.localqueue.spool.SHARED", tmp_path / "shared")
    assert default_spool() == tmp_path / ".batchhub" / "queue"
    assert Spool().path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir()
    assert default_spool() == tmp_path / "shared"
    (tmp_path / "shared" / "tag").write_text("!!")
    with pytest.raises(SpoolProblem, match="damaged"):
        Spool()


def test_numbers_are_not_given_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for expected in (1, 2, 3):
        number, *locks = spool.create({"name": "x"}, b"")
        assert number == expected
        write_json(spool.directory(number) / "end.json", {"state": "completed"})
        for fd in locks:
            os.close(fd)
    now = spool.directory(3).stat().st_mtime
    spool.purge(now)
    assert spool.numbers() == [1, 2, 3]
    spool.purge(now + KEEP + 10)
    assert spool.numbers() == [3]


def test_files_of_others_are_read_with_care(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    number, *locks = spool.create({"name": "x\x1b[31m" + "y" * 1000, "nprocs": "many", "walltime": float("inf")}, b"")
    directory = spool.directory(number)
    entry = spool.entry(number)
    assert entry is not None
    assert (entry.state, entry.nprocs, entry.walltime) == ("pending", 1, None)
    assert entry.name.isprintable()
    write_json(directory / "end.json", {"state": "running"})
    entry = spool.entry(number)
    assert entry is not None
    assert entry.state == "pending"
    (directory / "end.json").unlink()
    (directory / "run.json").symlink_to("/etc/passwd")
    os.mkfifo(directory / "end.json")
    entry = spool.entry(number)
    assert entry is not None
    assert entry.state == "pending"
    for fd in locks:
        os.close(fd)
    entry = spool.entry(number)
    assert entry is not None
    assert entry.state == "lost"
    assert spool.entry(99) is None


def test_several_users_share_a_spool(queue: Queue) -> None:
    need_root()
    queue.path.chmod(0o1777)
    for parent in queue.path.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    own = queue.submit(SLEEP)
    queue.python = python_for_others()
    code, rows, err = queue.call("submit", "--slots=2", "--chdir=/", stdin=SLEEP, user=65534)
    assert code == 0, err
    theirs = str(rows[0]["id"])
    queue.ids.append(theirs)
    wait_for(lambda: queue.state(theirs) == "running")
    assert queue.row(theirs)["user"] == "nobody"
    assert queue.call("cancel", own, user=65534)[1] == [{"id": own, "done": "denied"}]
    assert queue.call("status", own, user=65534)[1][0]["user"] == "root"
    assert queue.call("cancel", theirs)[1] == [{"id": theirs, "done": "cancelled"}]


def python_for_others() -> str:
    """A Python 3.11 or newer that another user can run, and a checkout that they can read."""
    check = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import batchhub.localqueue; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [python, "-B", "-c", check],
                check=False,
                capture_output=True,
                user=65534,
                group=65534,
                extra_groups=[],
                env={},
            )
            if done.returncode == 0:
                return python
    return missing("no Python >= 3.11 (or not this checkout) can be read by another user: apt-get install python3")


def test_the_dialect_against_the_queue(queue: Queue, tmp_path: Path) -> None:
    """What the dialect builds is run, and what comes back is read by it."""
    local = Local(python=sys.executable, spool=str(queue.path), slots=1)

    def run(command: Command) -> Completed:
        done = subprocess.run(
            command.argv,
            input=command.stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    job = local.read_submit(
        run(local.submit(JobRequest("bh-abcdefghijkl", str(tmp_path), "#!/bin/bash\necho hello; sleep 1000\n", "root")))
    )
    queue.ids.append(job)
    wait_for(lambda: local.read_status(run(local.status([job])), [job]).jobs[job].state is JobState.RUNNING)
    wait_for(lambda: (tmp_path / "job.log").read_text() == "hello\n")
    report = local.read_status(run(local.status([job])), [job]).jobs[job]
    assert [found.id for found in local.read_find(run(local.find("bh-abcdefghijkl", report.user)))] == [job]
    assert local.read_inspect([run(command) for command in local.inspect()])[0].free_cores == 0
    for command in local.cancel([job]):
        local.read_cancel(run(command))
    wait_for(lambda: local.read_status(run(local.status([job])), [job]).jobs[job].state is JobState.CANCELLED)


def test_more_time_for_a_job_that_runs(queue: Queue) -> None:
    job = queue.submit(SLEEP, "--walltime=2000")
    wait_for(lambda: queue.state(job) == "running")
    assert queue.call("extend", "--walltime=3000", job)[:2] == (0, [{"id": job, "done": "extended"}])
    dialect = Local(python=sys.executable, spool=str(queue.path))
    report = dialect.read_status(Completed(0, json.dumps(queue.row(job))), [JobId(job)]).jobs[JobId(job)]
    assert report.time_limit == timedelta(seconds=3000)
    queue.call("cancel", job)
    wait_for(lambda: queue.state(job) == "cancelled")
    assert queue.call("extend", "--walltime=4000", job)[1] == [{"id": job, "done": "over"}]


def test_an_extended_job_outlives_its_first_limit_and_ends_at_its_new_one(queue: Queue, tmp_path: Path) -> None:
    script = (
        f"#!/bin/bash\nfor n in 1 2 3 4 5 6 7 8 9; do sleep 1; echo $n >>{tmp_path}/seconds; done; exec sleep 1000\n"
    )
    job = queue.submit(script, "--walltime=4", "--grace=1")
    Spool(queue.path).set_limit(int(job.partition("-")[2]), 12)
    wait_for(lambda: queue.state(job) == "timeout")
    assert queue.row(job)["reason"] == "it reached its time limit of 12 seconds"
    assert len((tmp_path / "seconds").read_text().split()) > 4


def test_a_job_whose_time_is_not_extended(queue: Queue) -> None:
    limited, free = queue.submit(SLEEP, "--walltime=500"), queue.submit(SLEEP)
    assert [queue.call("extend", "--walltime=100", job)[1][0]["done"] for job in (limited, free)] == [
        "less",
        "unlimited",
    ]
    tag = limited.partition("-")[0]
    other = "aaaa-1" if tag != "aaaa" else "bbbb-1"
    assert [row["done"] for row in queue.call("extend", "--walltime=100", f"{tag}-999", other)[1]] == [
        "unknown",
        "foreign",
    ]
    assert queue.call("extend", "--walltime=-1", limited)[0] == 1


def test_somebody_else_s_job_is_given_no_time(queue: Queue) -> None:
    need_root()
    queue.path.chmod(0o1777)
    for parent in queue.path.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    own = queue.submit(SLEEP, "--walltime=500")
    queue.python = python_for_others()
    code, rows, err = queue.call("extend", "--walltime=900", own, user=65534)
    assert (code, rows) == (0, [{"id": own, "done": "denied"}]), err
    queue.python = sys.executable
    assert queue.row(own)["walltime"] == 500
