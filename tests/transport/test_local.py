import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from batchhub.core.errors import BadInput, Denied, NotFound, Unreachable
from batchhub.core.ports import Command, Completed
from batchhub.transport.local import LocalSettings, LocalTransport
from tests.needs import need_program, need_root


@pytest.fixture
def local() -> LocalTransport:
    return LocalTransport(LocalSettings())


@pytest.fixture
def by_sudo(people: dict[str, Path]) -> LocalTransport:
    need_root()
    return LocalTransport(LocalSettings(sudo=True, sudo_path=need_program("sudo", "sudo")))


async def test_a_command_s_answer(local: LocalTransport) -> None:
    text = 'cat; echo "$1" >&2; exit 3'
    done = await local.run(Command(("sh", "-c", text, "sh", "it's"), stdin="größe\n"))
    assert done == Completed(3, "größe\n", "it's\n")


async def test_killed_by_a_signal_has_no_code(local: LocalTransport) -> None:
    done = await local.run(Command(("sh", "-c", "echo begun; kill -SEGV $$")))
    assert (done.code, done.out, done.timed_out) == (None, "begun\n", False)


async def test_the_deadline_ends_everything_it_started(local: LocalTransport) -> None:
    tag = f"batchhub-{os.getpid()}-local"
    text = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 300' $0 & echo begun; wait"
    done = await local.run(Command(("sh", "-c", text, tag), deadline=0.3))
    assert (done.code, done.out, done.timed_out) == (None, "begun\n", True)
    assert not alive(tag)


async def test_a_cancelled_run_is_killed(local: LocalTransport, tmp_path: Path) -> None:
    tag = f"batchhub-{os.getpid()}-cancelled"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    task = asyncio.ensure_future(local.run(Command(("sh", "-c", f"echo up >{fifo}; sleep 300", tag))))
    await asyncio.to_thread(fifo.read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(tag)


async def test_cancelled_at_any_moment_of_its_start_it_is_gone(local: LocalTransport) -> None:
    tag = f"batchhub-{os.getpid()}-starting"
    for steps in range(20):
        task = asyncio.ensure_future(local.run(Command(("sh", "-c", "sleep 300; true", tag))))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
    assert not alive(tag)


async def test_a_child_left_behind_does_not_hold_the_answer(local: LocalTransport) -> None:
    done = await local.run(Command(("sh", "-c", "sleep 20 & echo $!"), deadline=15.0))
    assert (done.code, done.timed_out) == (0, False)
    psutil.Process(int(done.out)).kill()


async def test_output_is_bounded(local: LocalTransport) -> None:
    done = await local.run(Command(("sh", "-c", "head -c 300000 /dev/zero; echo end >&2"), output_limit=1000))
    assert (done.code, len(done.out), done.err, done.truncated) == (0, 1000, "end\n", True)


async def test_input_nobody_reads_does_no_harm(local: LocalTransport) -> None:
    done = await local.run(Command(("true",), stdin="x" * 1_000_000))
    assert done == Completed(0)


async def test_home_is_the_directory_and_path_goes_in_front(tmp_path: Path) -> None:
    program = tmp_path / "bh-hello"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    done = await LocalTransport(LocalSettings(path=str(tmp_path))).run(Command(("bh-hello",)))
    assert done.out == os.path.realpath(os.environ["HOME"]) + "\n"


async def test_as_oneself_only(local: LocalTransport, me: str) -> None:
    assert (await local.run(Command(("id", "-un")), me)).out == f"{me}\n"
    with pytest.raises(Denied, match="only"):
        await local.run(Command(("id",)), "somebody")


async def test_a_missing_sudo_is_said() -> None:
    with pytest.raises(Unreachable, match="/nonexistent/sudo cannot be run"):
        await LocalTransport(LocalSettings(sudo=True, sudo_path="/nonexistent/sudo")).run(Command(("id",)), "somebody")


async def test_as_another_by_sudo(by_sudo: LocalTransport, people: dict[str, Path]) -> None:
    command = Command(
        ("sh", "-c", 'id -un; pwd; echo "$BH_X"; cat; echo "$1"', "sh", "a'b\n$(id)"), stdin="in\n", env={"BH_X": "x y"}
    )
    done = await by_sudo.run(command, "bht-fish")
    assert done == Completed(0, f"bht-fish\n{people['bht-fish']}\nx y\nin\na'b\n$(id)\n")
    assert await by_sudo.home("bht-tcsh") == str(people["bht-tcsh"])


async def test_by_sudo_without_an_account(by_sudo: LocalTransport) -> None:
    with pytest.raises(NotFound, match="unknown user"):
        await by_sudo.home("bht-nobody-such")
    with pytest.raises(BadInput):
        await by_sudo.run(Command(("id",)), "-u root")
    with pytest.raises(BadInput):
        await by_sudo.run(Command(("id",)), "#0")


async def test_the_deadline_reaches_through_sudo(by_sudo: LocalTransport) -> None:
    tag = f"batchhub-{os.getpid()}-sudo"
    done = await by_sudo.run(Command(("sh", "-c", "echo begun; sleep 300; :", tag), deadline=0.5), "bht-bash")
    assert (done.code, done.timed_out, done.out) == (None, True, "begun\n")
    assert not alive(tag)


async def test_close_kills_what_runs(local: LocalTransport, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    task = asyncio.ensure_future(local.run(Command(("sh", "-c", f"echo up >{fifo}; sleep 300"))))
    await asyncio.to_thread(fifo.read_text)
    await local.close()
    assert (await task).code is None


def alive(tag: str, patience: float = 8.0) -> list[int]:
    """Processes with a tag in their arguments that are still there after a while (the init process may be slow to reap)."""
    ends = time.monotonic() + patience
    while True:
        found = [p for p in psutil.process_iter(["cmdline"]) if tag in " ".join(p.info["cmdline"] or [])]
        if not found or time.monotonic() > ends:
            return [p.pid for p in found]
        psutil.wait_procs(found, timeout=0.1)
