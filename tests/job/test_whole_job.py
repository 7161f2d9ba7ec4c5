"""A job as a whole: rendered, submitted to the local queue by its dialect, JupyterLab started, found, cancelled, its end read."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batchhub.core import handshake
from batchhub.core.model import JobState
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.job.applications import JUPYTERLAB
from batchhub.job.files import job_files
from batchhub.job.render import SAMPLE, Renderer
from batchhub.schedulers.local import Local
from tests.needs import missing

ROOT = Path(__file__).parents[2]
NAME = "bh-abcdefghijkl"


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def run(command: Command) -> Completed:
    env = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    done = subprocess.run(
        command.argv,
        input=command.stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**env, "PYTHONPATH": str(ROOT)},
    )
    return Completed(done.returncode, done.stdout, done.stderr)


def test_from_template_to_exit_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (Path(sys.executable).parent / "jupyter-lab").exists():
        missing("JupyterLab is not installed: pip install jupyterlab")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "spool").mkdir()
    directory = tmp_path / "job"
    directory.mkdir(mode=0o700)
    token = handshake.server_token(b"k" * 32, "abcdefghijkl", 1)
    launch = JUPYTERLAB.document("/user/alice/", env={"PYTHONPATH": None})
    if os.geteuid() == 0:
        launch = launch.replace(b'"jupyter-lab"', b'"jupyter-lab","--allow-root"')
    context = replace(
        SAMPLE,
        directory=str(directory),
        homedir=str(tmp_path),
        nprocs=1,
        python=sys.executable,
        prologue=f"export PATH={Path(sys.executable).parent}:$PATH",
        environment={},
        epilogue="echo the epilogue ran",
    )
    script = Renderer().render("local", context)
    for name, data in job_files(script, launch, handshake.secrets_document(1, token)).items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(data)

    local = Local(python=sys.executable, spool=str(tmp_path / "spool"), slots=1)
    job = local.read_submit(run(local.submit(JobRequest(NAME, str(directory), script, "alice"))))

    def state() -> JobState:
        return local.read_status(run(local.status([job])), [job]).jobs[job].state

    try:
        wait_for(lambda: (directory / "connection.json").exists() or state().terminal)
        found = handshake.read_connection((directory / "connection.json").read_bytes())
        request = urllib.request.Request(f"http://127.0.0.1:{found.port}/user/alice/api/contents")
        request.add_header("Authorization", JUPYTERLAB.authorization(handshake.start_token(token, found.nonce)))
        with urllib.request.urlopen(request, timeout=10) as answer:
            listed = {item["name"] for item in json.loads(answer.read())["content"]}
        assert {"job", "spool"} <= listed  # it starts in the home directory
        ignored = next(
            row for row in Path(f"/proc/{found.pid}/status").read_text().splitlines() if row.startswith("SigIgn")
        )
        assert not int(ignored.split()[1], 16) >> (signal.SIGINT - 1) & 1  # or no kernel could be interrupted
    finally:
        for command in local.cancel([job]):
            local.read_cancel(run(command))
        wait_for(lambda: state().terminal)
    assert state() is JobState.CANCELLED
    assert handshake.read_exit((directory / "exit.json").read_bytes()).word == "stopped by SIGTERM"
    log = (directory / "job.log").read_text()
    assert log.rstrip().endswith("the epilogue ran")
    assert token not in log
    assert not (directory / "token").exists()
