"""The container dialects against real podman and a real Docker daemon: what each answer means, from create to removal."""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.core.errors import SubmitAmbiguous, SubmitRejected, Unreachable
from batchhub.core.model import JOB_NAME_PREFIX, JobId, JobReport, JobState, new_server_id
from batchhub.core.ports import Command, Completed, JobRequest
from batchhub.job.render import SAMPLE, Renderer
from batchhub.schedulers.container import Container, Docker, Podman
from batchhub.transport.local import LocalSettings, LocalTransport
from tests.engines import engines
from tests.engines.engines import PERSON, Engine

NEVER = JobId("0" * 64)
AS_ROOT = pytest.mark.parametrize("engine", engines.FLAVOURS, indirect=True)
"""What a rootless engine does no otherwise."""


@dataclass
class Boxes:
    """A dialect and the engine that it speaks to, by the transport that a hub uses."""

    dialect: Container
    engine: Engine
    transport: LocalTransport

    async def run(self, command: Command) -> Completed:
        assert command.runs_as(PERSON) is None
        if self.engine.before:
            argv = [*self.engine.before, *command.argv]
            env = {**os.environ, **command.env}
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd="/", env=env)
            return Completed(done.returncode, done.stdout, done.stderr)
        return await self.transport.run(command, None)

    def request(self, body: str, *directives: str, memory: int | None = None, seconds: int = 0) -> JobRequest:
        """A job as a hub would make it: rendered from the template, its script in a directory of the person's."""
        name = JOB_NAME_PREFIX + new_server_id()
        directory = self.engine.home / f".batchhub/jobs/{name}"
        directory.mkdir(parents=True)
        context = replace(
            SAMPLE,
            job_name=name,
            directory=str(directory),
            homedir=str(self.engine.home),
            username=PERSON,
            nprocs=1,
            memory_mib=memory,
            gpus=0,
            walltime=timedelta(seconds=seconds) if seconds else None,
            directives=(*self.engine.directives, *directives),
            command=shlex.join(("/bin/bash", "-c", body)),
        )
        renderer = Renderer([Path(__file__).parent / "templates"]) if not self.engine.limits else Renderer()
        script = renderer.render(self.dialect.name, context)
        (directory / "job.sh").write_text(script)
        for path in (directory.parent.parent, directory.parent, directory, directory / "job.sh"):
            shutil.chown(path, PERSON, PERSON)
            path.chmod(0o700)
        return JobRequest(name, str(directory), script, PERSON)

    async def submit(self, request: JobRequest) -> JobId:
        return self.dialect.read_submit(await self.run(self.dialect.submit(request)))

    async def look(self, job: JobId) -> JobReport:
        return self.dialect.read_status(await self.run(self.dialect.status([job])), [job]).jobs[job]

    async def until(self, job: JobId, *states: JobState) -> JobReport:
        deadline = time.monotonic() + 60
        while (report := await self.look(job)).state not in states:
            assert time.monotonic() < deadline, report
        return report


@pytest.fixture
async def boxes(engine: Engine) -> Boxes:
    kind = Docker if engine.flavour == "docker" else Podman
    return Boxes(kind(**engine.options), engine, LocalTransport(LocalSettings()))


async def test_the_life_of_a_container(boxes: Boxes) -> None:
    """It runs as its person, without a capability, where its files are; it is found by name, listed, and its end is told."""
    dialect = boxes.dialect
    body = "id -u; id -G; echo $HOME; pwd; grep -E '^CapEff|^NoNewPrivs' /proc/self/status; read line < go; exit 3"
    request = boxes.request(body, seconds=3600)
    go = Path(request.directory, "go")
    os.mkfifo(go)
    shutil.chown(go, PERSON, PERSON)
    go = go.rename(boxes.engine.home / "go")  # its working directory is the person's home
    job = await boxes.submit(request)
    report = await boxes.look(job)
    assert (report.state, report.user, report.name) == (JobState.RUNNING, PERSON, request.name)
    assert report.time_limit == timedelta(hours=1)
    assert report.host == "127.0.0.1"
    assert [found.id for found in dialect.read_find(await boxes.run(dialect.find(request.name, PERSON)))] == [job]
    assert job in [found.id for found in dialect.read_tagged(await boxes.run(dialect.tagged("bh-")), "bh-")]
    with pytest.raises(SubmitAmbiguous, match="already in use"):
        await boxes.submit(request)
    # What a crashed submit does not do: the container above still runs.
    listing = dialect.read_status(await boxes.run(dialect.status([NEVER, job])), [NEVER, job])
    assert (listing.gone, listing.jobs[job].state) == ({NEVER}, JobState.RUNNING)
    await asyncio.to_thread(go.write_text, "\n")
    report = await boxes.until(job, JobState.FAILED)
    assert report.exit_code == 3
    assert report.ended is not None
    assert job not in [found.id for found in dialect.read_tagged(await boxes.run(dialect.tagged("bh-")), "bh-")]
    account = pwd.getpwnam(PERSON)
    uid, groups, home, place, capabilities, privileges = Path(request.directory, "job.log").read_text().split("\n")[:6]
    assert (uid, home, place) == (str(account.pw_uid), account.pw_dir, account.pw_dir)
    assert str(account.pw_gid) in groups.split()
    assert "0" not in groups.split()
    assert int(capabilities.split()[1], 16) == 0
    assert privileges.split() == ["NoNewPrivs:", "1"]


@AS_ROOT
async def test_its_time_is_kept_and_a_stop_ends_it(boxes: Boxes) -> None:
    timed = await boxes.submit(boxes.request("sleep 600", seconds=1))
    stopped = await boxes.submit(boxes.request("sleep 600"))
    for cancel in boxes.dialect.cancel([NEVER, stopped]):
        boxes.dialect.read_cancel(await boxes.run(cancel))
    report = await boxes.look(stopped)
    assert report.state in {JobState.CANCELLED, JobState.FAILED}, (
        "the script hands the signal on, and tells how that ended"
    )
    boxes.dialect.read_cancel(await boxes.run(cancel))
    report = await boxes.until(timed, JobState.TIMEOUT)
    assert report.exit_code == 124
    # An ended container is kept for a week, so it can be asked for; when that is over, the next submit removes it.
    # An engine may need a moment to be done with one that has just ended, and keeps it then until the submit after.
    ended = [timed, stopped]
    deadline = time.monotonic() + 60
    while boxes.dialect.read_status(await boxes.run(boxes.dialect.status(ended)), ended).gone != set(ended):
        assert time.monotonic() < deadline
        command = boxes.dialect.submit(boxes.request("true"))
        assert "168h" in command.argv
        past = replace(command, argv=tuple("0s" if word == "168h" else word for word in command.argv))
        boxes.dialect.read_submit(await boxes.run(past))


async def test_a_refused_submit_leaves_nothing(boxes: Boxes) -> None:
    unknown = boxes.request("true", "--image=localhost/nosuch:1")
    with pytest.raises(SubmitRejected, match="nosuch"):
        await boxes.submit(unknown)
    cannot_start = boxes.request("true", "--mount=type=bind,source=/nosuch-place,target=/x")
    with pytest.raises(SubmitRejected, match="nosuch-place"):
        await boxes.submit(cannot_start)
    request = boxes.request("true")
    for account, words in (("root", "root"), ("nosuch-account", "nosuch-account")):
        with pytest.raises(SubmitRejected, match=words):
            await boxes.submit(replace(request, user=account))
    for refused in (unknown, cannot_start, request):
        assert boxes.dialect.read_find(await boxes.run(boxes.dialect.find(refused.name, PERSON))) == ()
    # One that was cut off between its two steps left a container that never started; it is in nobody's way.
    left = boxes.engine.run("create", f"--name={request.name}", "--label=batchhub.account=x", engines.IMAGE, "true")
    assert boxes.dialect.read_find(await boxes.run(boxes.dialect.find(request.name, PERSON))) == ()
    job = await boxes.submit(request)
    assert job != left
    assert (await boxes.until(job, JobState.COMPLETED)).exit_code == 0


@AS_ROOT
async def test_the_machine_s_size_and_its_memory(boxes: Boxes) -> None:
    (queue,) = boxes.dialect.read_inspect([await boxes.run(command) for command in boxes.dialect.inspect()])
    assert queue.max_cores == os.cpu_count()
    if boxes.engine.limits:
        job = await boxes.submit(boxes.request("exec /usr/bin/python3 -c 'bytearray(1 << 29)'", memory=64))
        assert (await boxes.until(job, JobState.OUT_OF_MEMORY)).reason == "OOMKilled"


@AS_ROOT
async def test_an_engine_that_is_away_says_nothing_of_any_job(boxes: Boxes) -> None:
    """podman without a daemon is never away; one behind a socket is, as Docker."""
    away = replace(boxes.dialect, engine="unix:///nosuch/engine.sock")
    with pytest.raises(Unreachable):
        away.read_status(await boxes.run(away.status([NEVER])), [NEVER])
    with pytest.raises(SubmitAmbiguous):
        away.read_submit(await boxes.run(away.submit(boxes.request("true"))))
    with pytest.raises(Unreachable):
        away.read_find(await boxes.run(away.find("bh-x", PERSON)))
    with pytest.raises(Unreachable):
        away.read_tagged(await boxes.run(away.tagged("bh-")), "bh-")
    with pytest.raises(Unreachable):
        away.read_cancel(await boxes.run(away.cancel([NEVER])[0]))
