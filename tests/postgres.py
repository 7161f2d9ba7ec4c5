"""A PostgreSQL server of the tests' own: a temporary directory, a Unix socket, nothing that a power cut would leave whole."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.needs import missing

_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "autovacuum": "off",
}


def programs() -> Path:
    """The newest PostgreSQL's programs."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0)
    )
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    if path is None:
        missing("PostgreSQL is not installed: apt-get install postgresql")
    return Path(path).parent


class Postgres:
    """One server; :meth:`start` and what ends it may follow each other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        # PostgreSQL refuses to run as root; Debian's package makes an account for it.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(directory, "postgres")
        self._run(
            "initdb", "-D", str(directory / "data"), "-U", "hub", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"
        )

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.bin / program), *words], capture_output=True, text=True, check=False, cwd="/", **self._as
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self.bin / "postgres"),
                    "-D",
                    str(self.directory / "data"),
                    "-k",
                    str(self.directory),
                    *settings,
                ],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **self._as,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self._address("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End at once, as by a crash: every connection is lost."""
        if self._process is None:
            return
        self.resume()
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "-w", "stop")
        self._process.wait(60)
        self._process = None

    def pause(self) -> None:
        """Hang: the server and all that serve its connections stand still, and the connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # Every backend makes a process group of its own, so each is named: they are the postmaster's children.
        master = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        order = (master, *map(int, children))
        for pid in order if number is signal.SIGSTOP else reversed(order):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _address(self, database: str) -> str:
        return f"postgresql://hub@/{database}?host={self.directory}"

    def execute(self, database: str, *statements: str) -> None:
        """As the administrator."""
        with psycopg.connect(self._address(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A new, empty one: its address."""
        name = f"hub{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        try:
            yield self._address(name)
        finally:
            if self._process is not None:
                self.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running() -> Iterator[Postgres]:
    """A server from start to end."""
    # A short path: a Unix socket's has 107 characters at most.
    directory = Path(tempfile.mkdtemp(prefix="bh-pg-"))
    try:
        made = Postgres(directory)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for many tests, each of which has a database of its own."""
    with running() as made:
        yield made
