"""The command line as a person meets it: a process of its own, in a directory of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchhub.app.command import run
from batchhub.app.main import BatchHubCommand
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs ``batchhub`` in an empty home, and ends what it started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "80",
        }
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run to the end. No command may ever show a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "batchhub", *words],
            cwd=self.home,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that serves; its words go to a file."""
        with (self.home / f"out{len(self.started)}").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "batchhub", *words],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )
        self.started.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """What it wrote so far."""
        return (self.home / f"out{self.started.index(process)}").read_text()

    def file(self, name: str, text: str) -> str:
        """Write a file beside the command."""
        (self.home / name).write_text(text)
        return name

    def config(self, more: str = "", **settings: object) -> None:
        """A ``batchhub_config.py`` with one cluster of the local queue, on free ports."""
        lines = [
            "c = get_config()",
            f"c.BatchHub.state_dir = {str(self.home / 'state')!r}",
            'c.BatchHub.clusters = {"here": {"scheduler": "local"}}',
            'c.BatchHub.authenticator_class = "dictionary"',
            'c.Proxy.ip = "127.0.0.1"',
            *(f"c.{name.replace('__', '.')} = {value!r}" for name, value in settings.items()),
            more,
        ]
        self.file("batchhub_config.py", "\n".join(lines) + "\n")


class Inside(Shell):
    """The same within this process: a hundred times as fast, for what needs no process of its own."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(home)
        self._capsys = capsys
        monkeypatch.chdir(home)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        assert not stdin
        BatchHubCommand.clear_instance()
        root = logging.getLogger()
        before = root.handlers[:], root.level
        self._capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                run(BatchHubCommand, list(words))
        finally:
            root.handlers[:], root.level = before
            for command in (BatchHubCommand, *(found for found, _ in BatchHubCommand.subcommands.values())):
                command.clear_instance()
        out, err = self._capsys.readouterr()
        code = ended.value.code
        return subprocess.CompletedProcess(list(words), code if isinstance(code, int) else 0, out, err)


@pytest.fixture
def inside(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(tmp_path, capsys, monkeypatch)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    found = Shell(tmp_path)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.wait(10)
    pid = tmp_path / "state" / "proxy.pid"
    if pid.exists():
        found("stop")


@pytest.fixture
def ports() -> dict[str, int]:
    """Three free ports, for the public side, the control API and the hub."""
    return dict(zip(("Proxy__port", "Proxy__api_port", "Hub__port"), free_ports(3), strict=True))
