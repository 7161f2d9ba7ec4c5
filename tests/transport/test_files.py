"""The file methods, by every transport there is."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchhub.core.errors import BadInput, Denied, FileMissing, Unreachable
from batchhub.core.ports import Command, Transport
from batchhub.transport.answer import Answer
from batchhub.transport.files import Files
from batchhub.transport.local import LocalSettings, LocalTransport
from tests.needs import need_program, need_root
from tests.sshd import Sshd
from tests.transport.conftest import ssh_transport

USER = "bht-tcsh"


@pytest.fixture(params=["sudo", "ssh", "ssh+sudo"])
async def transport(request: pytest.FixtureRequest, people: dict[str, Path], sshd: Sshd) -> AsyncIterator[Transport]:
    need_root()
    need_program("sudo", "sudo")
    if request.param == "sudo":
        yield LocalTransport(LocalSettings(sudo=True))
    elif request.param == "ssh":
        async with ssh_transport(sshd) as (over, _):
            yield over
    else:
        async with ssh_transport(sshd, sudo=True) as (over, _):
            yield over


@pytest.fixture
def home(people: dict[str, Path]) -> Path:
    return people[USER]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def test_a_job_s_directory_and_files(transport: Transport, home: Path, request: pytest.FixtureRequest) -> None:
    assert await transport.home(USER) == str(home)
    base = home / f".it's a dir {request.node.callspec.id}"
    await transport.make_directory(str(base / "jobs" / "$(id)"), USER)
    assert [mode(base), mode(base / "jobs"), mode(base / "jobs" / "$(id)")] == [0o700] * 3
    assert base.owner() == USER

    data = bytes(range(256)) * 300 + b"no newline"
    path = base / "jobs" / "it's \\ -n\nnew"
    await transport.put(str(path), data, USER)
    assert (path.read_bytes(), mode(path), path.owner()) == (data, 0o600, USER)
    assert await transport.get(str(path), USER, 1_000_000) == data
    assert await transport.get(str(path), USER, 10) == data[:10]
    assert await transport.tail(str(path), USER, 10) == b"no newline"
    assert await transport.get(str(path), USER) == data[:65536]
    assert await transport.tail(str(path), USER) == data[-8192:]

    await transport.put(str(path), b"", USER, 0o755)
    assert (path.read_bytes(), mode(path)) == (b"", 0o755)
    assert await transport.get(str(path), USER) == b""
    assert sorted(p.name for p in path.parent.iterdir()) == ["$(id)", "it's \\ -n\nnew"]


async def test_an_existing_directory_becomes_private(transport: Transport, home: Path) -> None:
    path = home / "wide"
    await transport.make_directory(str(path), USER)
    path.chmod(0o755)
    await transport.make_directory(str(path), USER)
    assert mode(path) == 0o700


async def test_what_is_missing_or_not_a_file(transport: Transport, home: Path) -> None:
    with pytest.raises(FileMissing, match="does not exist"):
        await transport.get(str(home / "nothing"), USER)
    with pytest.raises(FileMissing):
        await transport.tail(str(home / "no" / "such"), USER)
    with pytest.raises(FileMissing):
        await transport.get(str(home), USER)
    with pytest.raises(FileMissing):
        await transport.get("/dev/zero", USER)
    fifo = home / "fifo"
    if not fifo.exists():
        os.mkfifo(fifo)
    with pytest.raises(FileMissing):
        await transport.get(str(fifo), USER)


async def test_what_the_account_may_not_do_is_refused(transport: Transport, home: Path) -> None:
    with pytest.raises(Denied, match=r"cannot be read on .*[Pp]ermission"):
        await transport.get("/etc/shadow", USER)
    with pytest.raises(Denied, match="cannot be written"):
        await transport.put("/etc/batchhub-test", b"x", USER)
    with pytest.raises(Denied, match="cannot be made"):
        await transport.make_directory("/etc/batchhub-test", USER)
    with pytest.raises(Denied, match="directory"):
        await transport.put(str(home), b"x", USER)


async def test_symbolic_links(transport: Transport, home: Path) -> None:
    """A link is replaced, never written through; reading follows it as the user."""
    target, link, dangling = home / "target", home / "link", home / "dangling"
    await transport.put(str(target), b"before", USER)
    for path, to in ((link, target), (dangling, home / "void")):
        path.unlink(missing_ok=True)
        path.symlink_to(to)
    assert await transport.get(str(link), USER) == b"before"
    with pytest.raises(FileMissing):
        await transport.get(str(dangling), USER)
    await transport.put(str(link), b"after", USER)
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"before", b"after", False)


async def test_a_reader_sees_the_old_file_or_the_new_one(transport: Transport, home: Path) -> None:
    path = home / "atomic"
    one, two = b"1" * 200_000, b"2" * 200_000
    await transport.put(str(path), one, USER)
    writing = asyncio.ensure_future(transport.put(str(path), two, USER))
    seen = set()
    while not writing.done():
        seen.add(path.read_bytes())
        await asyncio.sleep(0)
    await writing
    assert seen <= {one, two}
    assert path.read_bytes() == two


@pytest.mark.parametrize("path", ["", "relative", "/dir/", "/nul\0"])
async def test_bad_paths(path: str) -> None:
    files = LocalTransport(LocalSettings())
    with pytest.raises(BadInput):
        await files.get(path, "somebody")
    with pytest.raises(BadInput):
        await files.put(path, b"", "somebody")


async def test_bad_modes_and_limits() -> None:
    files = LocalTransport(LocalSettings())
    with pytest.raises(BadInput):
        await files.put("/tmp/x", b"", "somebody", 0o4755)
    with pytest.raises(BadInput):
        await files.get("/tmp/x", "somebody", 0)


def files_that_answer(answer: Answer) -> Files:
    async def execute(command: Command, data: bytes, user: str | None) -> Answer:
        return answer

    return Files(execute, "login1")


async def test_half_a_file_is_not_kept(tmp_path: Path, me: str) -> None:
    """A connection that breaks ends the input early."""
    inner = LocalTransport(LocalSettings())

    async def torn(command: Command, data: bytes, user: str | None) -> Answer:
        return await inner._execute(command, data[: len(data) // 2], user)

    with pytest.raises(Unreachable, match="nothing was written"):
        await Files(torn, "login1").put(str(tmp_path / "x"), b"0123456789", me)
    assert list(tmp_path.iterdir()) == []


async def test_no_answer_is_not_an_answer() -> None:
    with pytest.raises(Unreachable, match="did not answer within 30 s"):
        await files_that_answer(Answer(None, timed_out=True)).get("/x", "alice")
    with pytest.raises(Unreachable, match="killed"):
        await files_that_answer(Answer(None)).put("/x", b"", "alice")
    for out in (b"", b"relative\n", b"/two\nlines\n"):
        with pytest.raises(Unreachable, match="home directory"):
            await files_that_answer(Answer(0, out)).home("alice")
