"""The spool directory: making and reading jobs' files. Other users' files are read as what they are: written by somebody else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import random
import shutil
import string
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARED = Path("/var/spool/batchhub")
"""Where a spool for several users is looked for; root makes it, 1777."""
KEEP = 7 * 86400
"""Seconds that an ended job of one's own is kept."""
MAX_FILE = 65536
ENDS = frozenset({"completed", "failed", "timeout", "cancelled"})


class SpoolProblem(Exception):
    """The spool cannot be used; a sentence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One job as its files show it. Times are seconds since 1970; ``state`` as :meth:`Spool.entry` finds it."""

    number: int
    state: str
    name: str = ""
    user: str = ""
    nprocs: int = 1
    walltime: float | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    code: int | None = None
    signal: int | None = None
    reason: str = ""

    @property
    def over(self) -> bool:
        """Nothing more will happen."""
        return self.state not in {"pending", "running"}


def default_spool() -> Path:
    """The shared spool if there is one, else this user's own."""
    return SHARED if SHARED.is_dir() else Path.home() / ".batchhub" / "queue"


def user_name(uid: int) -> str:
    """The account's name, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def write_json(path: Path, document: dict[str, object]) -> None:
    """Write in one step; everybody may read it."""
    fd, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(document, file)
            os.fchmod(fd, 0o644)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, object] | None:
    """A file's object, or ``None``: not there (yet), or not readable as one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            found = json.loads(file.read(MAX_FILE))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def lock_is_held(path: Path) -> bool:
    """Whether somebody holds the lock; a missing file is not held. Asking needs no right but to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class Spool:
    """A spool directory. Raises SpoolProblem when it cannot be used."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_spool()
        try:
            if path is None:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.tag = self._tag()
        except OSError as error:
            raise SpoolProblem(f"the spool {self.path} cannot be used: {error.strerror}") from error

    def _tag(self) -> str:
        path = self.path / "tag"
        with contextlib.suppress(FileNotFoundError):
            return self._read_tag(path)
        fd, temporary = tempfile.mkstemp(prefix=".tag-", dir=self.path)
        with os.fdopen(fd, "w") as file:
            file.write("".join(random.choices(string.ascii_lowercase, k=4)))  # noqa: S311 -- no secret
            os.fchmod(fd, 0o644)
        with contextlib.suppress(FileExistsError):  # link(2) is the step that only one can do
            os.link(temporary, path)
        Path(temporary).unlink()
        return self._read_tag(path)

    @staticmethod
    def _read_tag(path: Path) -> str:
        tag = path.read_text("utf-8", "replace")[:5]
        if len(tag) != 4 or not tag.isascii() or not tag.islower():
            raise SpoolProblem(f"{path} is damaged")
        return tag

    # ------------------------------------------------------------ ids

    def id(self, number: int) -> str:
        """The id of a job of this spool."""
        return f"{self.tag}-{number}"

    def number(self, job: str) -> int | None:
        """The number of a job of this spool, ``None`` for another spool's. Raises SpoolProblem for what is no id."""
        tag, dash, digits = job.partition("-")
        if not (dash and len(tag) == 4 and digits.isascii() and digits.isdigit() and len(digits) < 16):
            raise SpoolProblem(f"{job[:40]!r} is not a job id")
        return int(digits) if tag == self.tag else None

    def numbers(self) -> list[int]:
        """Every job's number, oldest first."""
        with os.scandir(self.path) as found:
            return sorted(int(entry.name) for entry in found if entry.name.isascii() and entry.name.isdigit())

    def directory(self, number: int) -> Path:
        """A job's directory."""
        return self.path / str(number)

    # ------------------------------------------------------------ jobs

    def create(self, job: dict[str, object], script: bytes) -> tuple[int, int, int]:
        """Make a job: it appears in one step, with both its locks held. Returns its number and the two locks' descriptors."""
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=self.path))
        locks = []
        try:
            for name in ("alive", "waiting"):
                fd = os.open(making / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                os.fchmod(fd, 0o644)
                fcntl.flock(fd, fcntl.LOCK_EX)
                locks.append(fd)
            (making / "script").touch(mode=0o600)
            (making / "script").write_bytes(script)
            write_json(making / "job.json", job)
            making.chmod(0o755)
            number = self._publish(making)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        return number, locks[0], locks[1]

    def _publish(self, making: Path) -> int:
        number = max(self.numbers(), default=0) + 1
        while True:
            try:
                making.rename(self.directory(number))
            except OSError as error:  # a job's directory is never empty, so rename(2) does not replace it
                if not self.directory(number).exists():
                    raise SpoolProblem(f"the spool {self.path} cannot be written: {error.strerror}") from error
                number += 1
            else:
                return number

    def entry(self, number: int) -> Entry | None:
        """What is known of a job; ``None`` if there is none of that number."""
        directory = self.directory(number)
        try:
            owner = user_name(directory.lstat().st_uid)
        except OSError:
            return None
        # The order matters: a job that ends between two looks must not be taken for lost.
        held = lock_is_held(directory / "alive")
        run, end = read_json(directory / "run.json"), read_json(directory / "end.json")
        job = read_json(directory / "job.json") or {}
        state = "pending" if run is None else "running"
        if end is not None and end.get("state") in ENDS:
            state = _word(end.get("state"))
        elif not held:
            state = "lost"
        run, end = run or {}, end or {}
        return Entry(
            number=number,
            state=state,
            name=_word(job.get("name")),
            user=owner,
            nprocs=_whole(job.get("nprocs"), 1) or 1,
            walltime=self.limit(number, _real(job.get("walltime"))),
            submitted=_real(job.get("submitted")),
            started=_real(run.get("started")),
            ended=_real(end.get("ended")),
            code=_whole(end.get("code")),
            signal=_whole(end.get("signal")),
            reason="its supervisor was killed, or the machine restarted"
            if state == "lost"
            else _word(end.get("reason")),
        )

    def set_limit(self, number: int, walltime: float) -> None:
        """Give a job another time limit. Raises PermissionError if it is somebody else's."""
        write_json(self.directory(number) / "limit.json", {"walltime": walltime})

    def limit(self, number: int, submitted: float | None) -> float | None:
        """The time limit in force, which is only ever raised; ``submitted`` is the one that its owner asked for. ``None``: there is none."""
        if submitted is None:
            return None
        given = _real((read_json(self.directory(number) / "limit.json") or {}).get("walltime"))
        return max(submitted, given or 0.0)

    def entries(self) -> Iterator[Entry]:
        """Every job, oldest first."""
        for number in self.numbers():
            entry = self.entry(number)
            if entry is not None:
                yield entry

    def purge(self, now: float) -> None:
        """Remove one's own old jobs; the newest number of all stays, so that no number is given twice."""
        for number in self.numbers()[:-1]:
            directory = self.directory(number)
            try:
                if directory.lstat().st_uid != os.geteuid() or now - directory.lstat().st_mtime < KEEP:
                    continue
            except OSError:
                continue
            entry = self.entry(number)
            if entry is not None and entry.over:
                shutil.rmtree(directory, ignore_errors=True)


def _word(value: object) -> str:
    return "".join(c for c in value[:200] if c.isprintable()) if isinstance(value, str) else ""


def _whole(value: object, default: int | None = None) -> int | None:
    return value if type(value) is int and -(2**31) <= value < 2**31 else default


def _real(value: object) -> float | None:
    return float(value) if type(value) in {int, float} and 0 <= value < 32_503_680_000 else None  # type: ignore[operator, arg-type]
