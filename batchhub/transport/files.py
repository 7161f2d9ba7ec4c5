"""Small files on a login node, by way of commands: a transport only needs to be able to run one.

Paths are positional arguments of fixed ``/bin/sh`` scripts, never part of a script's text. Contents travel as the bytes of
stdin and stdout, below :class:`~batchhub.core.ports.Command` (whose stdin is text), so any byte passes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Sequence
from typing import Protocol

from batchhub.core.errors import BadInput, Denied, FileMissing, Unreachable
from batchhub.core.ports import Command, Completed
from batchhub.transport.answer import Answer, last_words
from batchhub.transport.shell import encode

_MISSING = 44
_TORN = 45

_HOME = """printf '%s\\n' "$HOME" """

_MAKE = 'umask 077; mkdir -p -- "$1" && chmod 700 -- "$1"'

# $1 path, $2 temporary name beside it, $3 size, $4 mode. The size is checked because a connection that breaks looks like the
# end of the input; `set -C` opens with O_EXCL; mv would move into a directory.
_PUT = """umask 077
trap 'rm -f -- "$2"; exit 1' HUP INT TERM
if [ -d "$1" ]; then echo "$1: Is a directory" >&2; exit 1; fi
set -C
cat >"$2" || { rm -f -- "$2"; exit 1; }
if [ "$(wc -c <"$2")" -ne "$3" ]; then rm -f -- "$2"; exit 45; fi
chmod "$4" "$2" && mv -f -- "$2" "$1" || { rm -f -- "$2"; exit 1; }"""

# Only a regular file: a pipe or a device would never end. Looking into the directory makes an NFS client ask its server
# again whether the file is there, where it may otherwise remember for a minute that it was not.
_READ = """if ! [ -f "$1" ]; then ls "${1%%/*}/" >/dev/null 2>&1; [ -f "$1" ] || exit 44; fi
%s -c "$2" <"$1" """


# $1 the parent, $2 the name. What is removed is looked up from within the parent, so nobody can put a link in its place on the way; rm
# follows no link below, and of a name that has become a link it takes the link alone. What its owner made unreadable is opened first.
_ENTER = r"""LC_ALL=C; export LC_ALL
cd -P -- "$1" 2>/dev/null || { if ! [ -e "$1" ] && [ -d "${1%/*/*}/" ]; then exit 44; fi; echo "$1 cannot be entered" >&2; exit 1; }
case "$(pwd -P)" in */.batchhub/jobs) ;; *) echo "$1 leads to another place, $(pwd -P)" >&2; exit 1;; esac
case "$2" in *[!a-z2-7]*|"") echo "$2 is no job directory" >&2; exit 1;; esac
[ "${#2}" -eq 12 ] || { echo "$2 is no job directory" >&2; exit 1; }
[ -e "$2" ] || [ -h "$2" ] || exit 44
"""
_REMOVE = (
    _ENTER
    + r"""rm -rf -- "$2" 2>/dev/null || {
  if [ -d "$2" ] && ! [ -h "$2" ]; then find "$2" -xdev -type d ! -perm -0700 -exec chmod u+rwx {} \; 2>/dev/null; fi
  rm -rf -- "$2"
}"""
)
# Further arguments: names in that directory.
_DISCARD = (
    _ENTER
    + r"""cd -P -- "$2" || exit 1
case "$(pwd -P)" in */.batchhub/jobs/"$2") ;; *) echo "$1/$2 leads to another place, $(pwd -P)" >&2; exit 1;; esac
shift 2
for name; do case "$name" in *[!a-z.]*|.*|"") echo "$name is no name of ours" >&2; exit 1;; esac; done
rm -rf -- "$@" 2>/dev/null || {
  find "$@" -xdev -type d ! -perm -0700 -exec chmod u+rwx {} \; 2>/dev/null
  rm -rf -- "$@"
}"""
)
_ENTRY = re.compile(r"[a-z][a-z.]{0,60}")
_JOB_DIRECTORY = re.compile(r"(/(?:[^\x00-\x1f\x7f]*/)?\.batchhub/jobs)/([a-z2-7]{12})")


class Execute(Protocol):
    """Run a command with ``data`` as its input (and not ``command.stdin``)."""

    def __call__(self, command: Command, data: bytes, user: str | None) -> Awaitable[Answer]:
        """Raises Unreachable."""


class Files:
    """The file methods of :class:`~batchhub.core.ports.Transport` over ``execute``.

    What the node's file system refuses (permission, quota, no space) is Denied, with its words: asking again will not help.
    """

    def __init__(self, execute: Execute, place: str, deadline: float = 30.0) -> None:
        self._execute = execute
        self._place = place
        self._deadline = deadline

    async def home(self, user: str) -> str:
        """The account's home directory."""
        done = await self._run(_HOME, (), user)
        path = done.out.decode("utf-8", "surrogateescape").removesuffix("\n")
        if done.code != 0 or not path.startswith("/") or "\n" in path:
            raise Unreachable(f"{self._place} does not say where the home directory of {user} is.")
        return path

    async def make_directory(self, path: str, user: str) -> None:
        """Each missing part 0700, and the last in any case."""
        done = await self._run(_MAKE, (_path(path),), user)
        self._check(done, f"The directory {path} of {user} cannot be made")

    async def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> None:
        """All or nothing: a reader sees the old file or the new one."""
        if not 0 <= mode <= 0o777:
            raise BadInput(f"{mode:o} is not a file mode.")
        beside = f"{_path(path)}.{secrets.token_hex(8)}.tmp"
        done = await self._run(_PUT, (path, beside, str(len(data)), f"{mode:04o}"), user, data)
        if done.code == _TORN:
            raise Unreachable(f"{path} of {user} did not reach {self._place} whole; nothing was written.")
        self._check(done, f"{path} of {user} cannot be written")

    async def get(self, path: str, user: str, limit: int = 65536) -> bytes:
        """The first ``limit`` bytes."""
        return await self._read("head", path, user, limit)

    async def tail(self, path: str, user: str, limit: int = 8192) -> bytes:
        """The last ``limit`` bytes."""
        return await self._read("tail", path, user, limit)

    async def remove_directory(self, path: str, user: str) -> None:
        """Remove a job's directory and all that is in it. What is not there is removed well enough.

        Raises BadInput for any other path, Denied when it is not where it should be or something in it cannot be removed.
        """
        done = await self._run(_REMOVE, _job_directory(path), user)
        if done.code != _MISSING:
            self._check(done, f"The job directory {path} of {user} cannot be removed")

    async def discard(self, path: str, names: Sequence[str], user: str) -> None:
        """Remove these entries of a job's directory, and all that is in them. What is not there is removed well enough.

        Raises BadInput for a name that is none of ours, else as :meth:`remove_directory`.
        """
        for name in names:
            if not _ENTRY.fullmatch(name):
                raise BadInput(f"{name[:80]!r} is nothing that the hub writes into a job's directory.")
        done = await self._run(_DISCARD, (*_job_directory(path), *names), user)
        if done.code != _MISSING:
            self._check(done, f"What {path} of {user} holds cannot be removed")

    async def _read(self, program: str, path: str, user: str, limit: int) -> bytes:
        if limit < 1:
            raise BadInput("At least one byte of a file is read.")
        done = await self._run(_READ % program, (_path(path), str(limit)), user, limit=max(limit, 4096))
        if done.code == _MISSING:
            raise FileMissing(f"{path} of {user} does not exist on {self._place}.")
        self._check(done, f"{path} of {user} cannot be read")
        return done.out

    async def _run(
        self, text: str, arguments: tuple[str, ...], user: str, data: bytes = b"", limit: int = 65536
    ) -> Answer:
        argv = ("/bin/sh", "-c", text, "sh", *arguments)
        return await self._execute(Command(argv, deadline=self._deadline, output_limit=limit), data, user)

    def _check(self, done: Answer, what: str) -> None:
        if done.timed_out:
            raise Unreachable(f"{what}: {self._place} did not answer within {self._deadline:g} s.")
        if done.code is None:
            raise Unreachable(f"{what}: the command was killed on {self._place}.")
        if done.code != 0:
            raise Denied(f"{what} on {self._place}: {last_words(done.err) or f'exit code {done.code}'}")


def _job_directory(path: str) -> tuple[str, str]:
    """Its parent and its name."""
    found = _JOB_DIRECTORY.fullmatch(path)
    if found is None or "/../" in path or "/./" in path or "//" in path:
        raise BadInput(
            f"{path[:200]!r} is not a job's directory, .batchhub/jobs/ID in somebody's home; nothing else is removed."
        )
    return found[1], found[2]


def _path(path: str) -> str:
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise BadInput(f"{path[:200]!r} is not an absolute path of a file or directory.")
    return path


class CommandTransport:
    """What the transports share of :class:`~batchhub.core.ports.Transport`: all but how a command is run and how it ends."""

    def __init__(self, place: str) -> None:
        self._files = Files(self._execute, place)

    async def _execute(self, command: Command, data: bytes, user: str | None) -> Answer:
        raise NotImplementedError

    async def run(self, command: Command, user: str | None = None) -> Completed:
        """Run to the end or the deadline, which covers waiting for a connection. Raises Unreachable, Denied."""
        done = await self._execute(command, encode(command.stdin), user)
        return done.completed()

    async def home(self, user: str) -> str:
        """The account's home directory. Raises NotFound."""
        return await self._files.home(user)

    async def make_directory(self, path: str, user: str) -> None:
        """Make it and its missing parents, each 0700."""
        await self._files.make_directory(path, user)

    async def put(self, path: str, data: bytes, user: str, mode: int = 0o600) -> None:
        """Write a file in one step."""
        await self._files.put(path, data, user, mode)

    async def get(self, path: str, user: str, limit: int = 65536) -> bytes:
        """The first ``limit`` bytes. Raises FileMissing."""
        return await self._files.get(path, user, limit)

    async def tail(self, path: str, user: str, limit: int = 8192) -> bytes:
        """The last ``limit`` bytes. Raises FileMissing."""
        return await self._files.tail(path, user, limit)

    async def remove_directory(self, path: str, user: str) -> None:
        """Remove a job's directory and all that is in it. Raises BadInput, Denied."""
        await self._files.remove_directory(path, user)

    async def discard(self, path: str, names: Sequence[str], user: str) -> None:
        """Remove these entries of a job's directory. Raises BadInput, Denied."""
        await self._files.discard(path, names, user)
