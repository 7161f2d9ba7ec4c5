"""The file methods, by every transport there is."""

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from batchhub.core.errors import BadInput, Denied, FileMissing, Unreachable
from batchhub.core.ports import Command, Transport
from batchhub.transport.answer import Answer
from batchhub.transport.files import _DISCARD, _REMOVE, Files
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


def a_job(home: Path, name: str, people_owner: str = USER) -> Path:
    """A job's directory with something in it, the account's own."""
    path = home / ".batchhub" / "jobs" / name
    path.mkdir(parents=True)
    (path / "-rf\n'x").write_text("hard to name")
    (path / "sub").mkdir()
    (path / "sub" / "file").write_text("x")
    for part in (home / ".batchhub", path.parent, path, *path.rglob("*")):
        shutil.chown(part, people_owner, people_owner)
    return path


@pytest.fixture
def clean(home: Path) -> Iterator[None]:
    yield
    for name in (".batchhub", "precious", "elsewhere"):
        path = home / name
        if path.is_symlink():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)


async def test_a_job_s_directory_is_removed_and_nothing_else(transport: Transport, home: Path, clean: None) -> None:
    path, other = a_job(home, "abcdefghijkl"), home / ".batchhub" / "jobs" / "abcdefghijkm"
    other.mkdir()
    locked = path / "locked"
    locked.mkdir()
    (locked / "deep").mkdir()
    (locked / "deep" / "x").write_text("x")
    for part in (locked, locked / "deep", locked / "deep" / "x"):
        shutil.chown(part, USER, USER)
    (locked / "deep").chmod(0)
    locked.chmod(0)
    await transport.remove_directory(str(path), USER)
    assert not path.exists()
    assert other.exists()
    await transport.remove_directory(str(path), USER)  # twice is no error


async def test_no_link_is_followed(transport: Transport, home: Path, clean: None) -> None:
    precious = home / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("x")
    path = a_job(home, "abcdefghijkl")
    (path / "out").symlink_to(precious)
    (path / "file").symlink_to(precious / "thesis")
    for link in (path / "out", path / "file"):
        os.lchown(link, home.stat().st_uid, home.stat().st_gid)
    await transport.remove_directory(str(path), USER)
    assert not path.exists()
    path.symlink_to(precious)
    os.lchown(path, home.stat().st_uid, home.stat().st_gid)
    await transport.remove_directory(str(path), USER)  # the link, not what it leads to
    assert not path.is_symlink()
    assert (precious / "thesis").read_text() == "x"


async def test_jobs_that_lead_elsewhere_are_left_alone(transport: Transport, home: Path, clean: None) -> None:
    elsewhere = home / "elsewhere"
    victim = elsewhere / "abcdefghijkl"
    victim.mkdir(parents=True)
    (home / ".batchhub").mkdir()
    (home / ".batchhub" / "jobs").symlink_to(elsewhere)
    for part in (elsewhere, victim, home / ".batchhub"):
        shutil.chown(part, USER, USER)
    with pytest.raises(Denied, match="leads to another place"):
        await transport.remove_directory(f"{home}/.batchhub/jobs/abcdefghijkl", USER)
    assert victim.exists()


async def test_what_its_owner_may_not_remove_stays(transport: Transport, home: Path, clean: None) -> None:
    path = a_job(home, "abcdefghijkl")
    (path / "roots").mkdir()
    (path / "roots" / "x").write_text("x")  # root's own, in root's directory
    with pytest.raises(Denied, match="cannot be removed"):
        await transport.remove_directory(str(path), USER)
    assert (path / "roots" / "x").exists()


async def test_secrets_go_and_the_rest_of_the_directory_stays(transport: Transport, home: Path, clean: None) -> None:
    precious = home / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("x")
    path = a_job(home, "abcdefghijkl")
    files = path / "files"
    (files / "locked").mkdir(parents=True)
    for name in ("secrets.json", "job.log", "files/token", "files/locked/x"):
        (path / name).write_text("x")
    (files / "out").symlink_to(precious)
    for part in (path / "secrets.json", files, *files.rglob("*")):
        os.lchown(part, home.stat().st_uid, home.stat().st_gid)
    (files / "locked").chmod(0)
    for _ in range(2):  # twice is no error
        await transport.discard(str(path), ("files", "secrets.json"), USER)
        assert sorted(part.name for part in path.iterdir()) == ["-rf\n'x", "job.log", "sub"]
    files.symlink_to(precious)
    os.lchown(files, home.stat().st_uid, home.stat().st_gid)
    await transport.discard(str(path), ("files",), USER)  # the link, not what it leads to
    assert not files.is_symlink()
    shutil.rmtree(path)
    await transport.discard(str(path), ("files",), USER)
    path.symlink_to(precious)
    os.lchown(path, home.stat().st_uid, home.stat().st_gid)
    with pytest.raises(Denied, match="leads to another place"):
        await transport.discard(str(path), ("thesis",), USER)
    assert (precious / "thesis").read_text() == "x"


async def test_a_home_that_is_away_is_no_removed_directory(transport: Transport) -> None:
    with pytest.raises(Denied, match="cannot be entered"):
        await transport.remove_directory("/no/such/home/.batchhub/jobs/abcdefghijkl", USER)


@pytest.mark.parametrize(
    "path",
    [
        "/home/ann",
        "/home/ann/.batchhub/jobs",
        "/home/ann/.batchhub/jobs/",
        "/home/ann/.batchhub/jobs/..",
        "/home/ann/.batchhub/jobs/abcdefghijk",
        "/home/ann/.batchhub/jobs/abcdefghijklm",
        "/home/ann/.batchhub/jobs/ABCDEFGHIJKL",
        "/home/ann/.batchhub/jobs/abcdefghijkl/",
        "/home/ann/.batchhub/jobs/abcdefghijkl/sub",
        "/home/ann/.batchhub/jobs/abcdefghijkl\n",
        "/home/ann/../bob/.batchhub/jobs/abcdefghijkl",
        "/home//.batchhub/jobs/abcdefghijkl",
        "/home/a\nb/.batchhub/jobs/abcdefghijkl",
        "home/ann/.batchhub/jobs/abcdefghijkl",
        "",
    ],
)
async def test_no_other_path_reaches_a_command(path: str) -> None:
    async def execute(command: Command, data: bytes, user: str | None) -> Answer:
        raise AssertionError(command)

    with pytest.raises(BadInput, match="not a job's directory"):
        await Files(execute, "here").remove_directory(path, USER)
    with pytest.raises(BadInput, match="not a job's directory"):
        await Files(execute, "here").discard(path, ("files",), USER)


@pytest.mark.parametrize("name", ["", "..", ".", "../x", "files/x", "-rf", ".ssh", "*", "Files", "files\n"])
async def test_no_other_name_is_discarded(name: str, tmp_path: Path) -> None:
    async def execute(command: Command, data: bytes, user: str | None) -> Answer:
        raise AssertionError(command)

    path = "/home/ann/.batchhub/jobs/abcdefghijkl"
    with pytest.raises(BadInput, match="nothing that the hub writes"):
        await Files(execute, "here").discard(path, ("files", name), USER)
    jobs = tmp_path / ".batchhub" / "jobs"
    (jobs / "abcdefghijkl").mkdir(parents=True)
    argv = ["/bin/sh", "-c", _DISCARD, "sh", str(jobs), "abcdefghijkl", "files", name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is no name of ours" in done.stderr


@pytest.mark.parametrize("name", ["", "..", "abc", "abcdefghijklm", "abcdefghij/l", "-rfabcdefghi", "*"])
def test_the_command_itself_takes_no_other_name(tmp_path: Path, name: str) -> None:
    jobs = tmp_path / ".batchhub" / "jobs"
    (jobs / "abcdefghijkl").mkdir(parents=True)
    done = subprocess.run(
        ["/bin/sh", "-c", _REMOVE, "sh", str(jobs), name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is no job directory" in done.stderr
    assert (jobs / "abcdefghijkl").exists()
