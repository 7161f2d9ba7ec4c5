"""The access log: one line for each request, as ``logging`` would have written it, for a fraction of the processor time.

A record of ``logging`` costs a good part of what a small request costs altogether. Here a line is put together by hand and lines are
written together, so that a busy proxy makes one system call for many. The name and level of the logger decide as ever whether anything is written.
"""

from __future__ import annotations

import asyncio
import logging
import select
import sys
import time
from collections.abc import Callable

from batchhub.core.ports import Clock

NAME = "batchhub.proxy.access"

_PATIENCE = 0.05  # seconds a line may wait for others
_MOST = 256 * 1024  # characters that wait; then they are written at once
_LONGEST = 2048  # characters of a path; a line has to fit into one write


def write_to_stderr(text: str) -> None:
    """What cannot be written is lost: a log must not end the proxy."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


class AccessLog:
    """Gathers lines. After :meth:`close` each is written as it comes.

    All workers write to one file, so ``write`` is given whole lines, and no more at once than a pipe takes in one piece (pipe(7)).
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_lines",
        "_logger",
        "_loop",
        "_offset",
        "_second",
        "_size",
        "_stamp",
        "_timer",
        "_write",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, write: Callable[[str], None] = write_to_stderr
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._write = write
        self._logger = logging.getLogger(NAME)
        self._lines: list[str] = []
        self._size = 0
        self._offset = 0.0
        """From the loop's time to the clock's, at a batch's first line."""
        self._second, self._stamp = -1, ""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def note(
        self, method: bytes, path: str, status: int, who: tuple[str, str], *, size: int, now: float, took: float
    ) -> None:
        """A request was answered at ``now``, the loop's time, ``took`` seconds after its head came; ``path`` is without the query.

        ``who`` is the person and the address. Of a ticket that somebody stole, this is what tells the thief's requests from the owner's.
        """
        if not self._logger.isEnabledFor(logging.INFO):
            return
        if not self._lines:
            self._offset = self._clock().timestamp() - now
            if not self._closed:
                self._timer = self._loop.call_later(_PATIENCE, self.flush)
        moment = now + self._offset
        second = int(moment)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        line = (
            f"{self._stamp},{int((moment - second) * 1000):03d} I {NAME}: {method.decode('ascii')} {_plain(path)} {status} "
            f"{_plain(who[0])} {_plain(who[1])} {size} bytes {took * 1000:.1f} ms\n"
        )
        self._lines.append(line)
        self._size += len(line)
        if self._closed or self._size > _MOST:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        lines, self._lines, self._size = self._lines, [], 0
        piece: list[str] = []
        size = 0
        for line in lines:
            if size + len(line) > select.PIPE_BUF:
                self._write("".join(piece))
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        if piece:
            self._write("".join(piece))

    def close(self) -> None:
        """Write what was gathered, and from now on everything at once."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.flush()


def _plain(text: str) -> str:
    """One word: no control character, nothing that a terminal would take for more than letters."""
    if not text:
        return "-"
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
