"""What a command answered, as bytes, and how it is read: bounded buffers, the fence, the words for what went wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchhub.core.errors import NotFound, Unreachable
from batchhub.core.ports import Completed
from batchhub.transport.shell import strip_fence

BANNER_LIMIT = 64 * 1024
"""Bytes of start-up noise that are let pass before the fence."""

_NOT_ALLOWED = re.compile(rb"sudo: a password is required|Sorry, user \S+ is not allowed to execute")


class Bounded:
    """A buffer that keeps the first ``limit`` bytes and remembers whether there were more."""

    __slots__ = ("_data", "_limit", "more")

    def __init__(self, limit: int) -> None:
        self._data = bytearray()
        self._limit = limit
        self.more = False

    def add(self, data: bytes) -> None:
        """Keep what fits."""
        room = self._limit - len(self._data)
        if len(data) > room:
            self.more = True
            data = data[: max(room, 0)]
        self._data += data

    def value(self) -> bytes:
        """What was kept."""
        return bytes(self._data)


@dataclass(frozen=True, slots=True)
class Answer:
    """:class:`~batchhub.core.ports.Completed` before decoding: files travel through commands too, and are not text."""

    code: int | None
    out: bytes = b""
    err: bytes = b""
    timed_out: bool = False
    truncated: bool = False

    def completed(self) -> Completed:
        """Decoded."""
        return Completed(
            code=self.code,
            out=self.out.decode("utf-8", "replace"),
            err=self.err.decode("utf-8", "replace"),
            timed_out=self.timed_out,
            truncated=self.truncated,
        )


def read_answer(raw: Answer, fence: str, limit: int, where: str) -> Answer:
    """Take away what stands before the fences, and cut to ``limit`` bytes.

    ``where`` ("alice on login1") is for the error's sentence. Raises Unreachable if the command was not reached although
    there was time, NotFound if sudo said there is no such account.
    """
    out, err = strip_fence(raw.out, fence), strip_fence(raw.err, fence)
    if (out is None or err is None) and not raw.timed_out:
        words = last_words(raw.err) or last_words(raw.out) or f"exit code {raw.code}"
        if re.search(r"\bsudo: unknown user", words):
            raise NotFound(f"There is no account {where}: {words}")
        if _NOT_ALLOWED.search(raw.err):
            # Its own words are "a password is required", or our whole script.
            words = (
                "sudo does not allow it. The account has to be in the group of the sudoers file (`batchhub sudoers`), and in none of those that "
                "the file leaves out."
            )
        raise Unreachable(f"The command was not run for {where}: {words}")
    out, err = out or b"", err or b""
    more = raw.truncated or len(out) > limit or len(err) > limit
    return Answer(raw.code, out[:limit], err[:limit], raw.timed_out, more)


def last_words(data: bytes) -> str:
    """The last three lines a program said, shortened and without control characters, to be shown to a person."""
    text = data[-2000:].decode("utf-8", "replace")
    lines = [kept for row in text.splitlines() if (kept := "".join(c for c in row if c.isprintable()).strip())]
    return " ".join(lines[-3:])[-300:]
