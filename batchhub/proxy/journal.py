"""The state file: the book's changes, one JSON object a line, appended and synced; written anew when it has outgrown what it says.

It holds the servers' secrets, so it is 0600. A change costs one line, whatever the number of routes; everything that waits for the disk
runs in a thread, and changes that come meanwhile are written together. A last line without its end is what a crash leaves of a write, and is
dropped. What cannot be read at all is put aside, and the proxy goes on with what could be: the hub publishes its routes again.

The first line is ``{"format": 2}``. Format 1, a single object with everything in it, is read too.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from batchhub.core.errors import BadInput, ConfigError
from batchhub.core.ports import Clock
from batchhub.proxy.book import Activity, Book, Change, read_change, write_change

log = logging.getLogger(__name__)

_FORMAT = 2
_GATHER = 0.05  # seconds in which changes are gathered into one write
_ACTIVITY = 600.0  # seconds between two notes of when routes were used
_COMPLAIN = 60.0  # seconds between two complaints that it cannot be written
_SLACK = 1000  # lines more than twice the content, before the file is written anew
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, BadInput)


class Journal:
    """A book's file; ``path`` None: none. :meth:`keep` is the writer, to be run as a task."""

    def __init__(self, path: Path | None, book: Book, clock: Clock) -> None:
        self._path = path
        self._book = book
        self._clock = clock
        self._activity = Activity(book)
        self._waiting: list[Change] = []
        self._lines = 0
        self._lock = -1
        self._whole = True
        """The file has to be written anew: there is none yet, or a write failed half-way."""
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    def claim(self, *, must: bool = True) -> None:
        """Keep every other proxy off the file until this program ends. Raises ConfigError if there is one, or says so if it ``must`` not be."""
        if self._path is None:
            return
        lock = self._path.with_name(f"{self._path.name}.lock")
        try:
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            words = f"Another proxy uses the state file {self._path}; two would undo each other's changes."
            if must:
                raise ConfigError(words) from error
            log.error(words)  # noqa: TRY400
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked against a second proxy: %s.", lock, error.strerror)

    # ------------------------------------------------------------ reading

    def load(self) -> None:
        """Fill the book from the file, if there is one. Raises ConfigError if it may not be read."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                about, content = os.fstat(file.fileno()), file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"The proxy's state file {self._path} cannot be read: {error.strerror}.") from error
        if about.st_uid not in {0, os.geteuid()} or about.st_mode & 0o022:
            raise ConfigError(
                f"The proxy's state file {self._path} can be written by others, who could lead everybody's requests elsewhere. It must be "
                "ours, and only ours to write (0600)."
            )
        try:
            bad = self._read(content)
        except _UNREADABLE as error:
            bad = str(error) or type(error).__name__
        if bad:
            aside = self._path.with_name(f"{self._path.name}.unreadable")
            self._path.replace(aside)
            self._changed.set()  # what was saved of it is to be in a file again, soon
            log.error(
                "The proxy's state file cannot be read (%s); it is kept as %s, and %d routes of it are in force.",
                bad,
                aside,
                len(self._book.routes),
            )
        self._book.forget_old()
        self._activity.news()

    def _read(self, content: bytes) -> str:
        """Take what can be read; the first fault in words. Raises what ``_UNREADABLE`` names if it is no such file."""
        lines = content.split(b"\n")
        torn = lines.pop() if len(lines) > 1 else b""
        first = json.loads(lines[0])
        now = self._clock()
        if first["format"] == 1:
            for old in _first_format(first):
                self._take(old, now)
            return ""
        if first["format"] != _FORMAT:
            raise BadInput(f"format {first['format']!r} is not {_FORMAT}")
        if torn:
            log.warning("The proxy's state file ends in the middle of a change, which is dropped.")
        fault = ""
        for number, line in enumerate(lines[1:], 2):
            try:
                self._take(json.loads(line), now)
            except _UNREADABLE as error:
                fault = fault or f"line {number}: {error}"
        return fault

    def _take(self, content: Mapping[str, Any], now: datetime) -> None:
        change = read_change(content, now)
        if change is not None:
            self._book.apply(change)

    # ------------------------------------------------------------ writing

    def append(self, change: Change) -> None:
        """Have it written soon."""
        if self._path is not None:
            self._waiting.append(change)
            self._changed.set()

    async def keep(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Write whatever changes, until cancelled."""
        loop = asyncio.get_running_loop()
        noted, complained = loop.time(), 0.0
        while True:
            try:
                async with asyncio.timeout_at(noted + _ACTIVITY):
                    await self._changed.wait()
            except TimeoutError:
                noted = loop.time()
                seen = self._activity.news()
                if seen.at:
                    self.append(seen)
                continue
            await sleep(_GATHER)
            try:
                await self.flush()
            except OSError as error:
                if not complained or loop.time() - complained >= _COMPLAIN:  # where a disk is full, the log may be, too
                    complained = loop.time()
                    log.error("The proxy's state cannot be saved in %s: %s; tried each second.", self._path, error)  # noqa: TRY400
                self._changed.set()
                await sleep(1.0)
            else:
                if complained:
                    complained = 0.0
                    log.warning("The proxy's state is saved again.")

    async def flush(self, *, whole: bool = False) -> None:
        """Have everything on disk; ``whole``: in a fresh file, with when each route was used. Raises OSError."""
        if self._path is None:
            return
        async with self._writing:
            self._changed.clear()
            changes, self._waiting = self._waiting, []
            self._whole = self._whole or whole or self._lines + len(changes) > 2 * len(self._book) + _SLACK
            if not (changes or self._whole):
                return
            try:
                await self._write(self._path, changes)
            except OSError:
                self._changed.set()
                raise

    async def _write(self, path: Path, changes: list[Change]) -> None:
        loop = asyncio.get_running_loop()
        if self._whole:
            everything = list(self._book.changes())
            text = json.dumps({"format": _FORMAT}).encode() + b"\n" + _lines(everything)
            await loop.run_in_executor(None, _replace, path, text)
            self._whole, self._lines = False, len(everything)
            return
        self._whole = True  # until this has gone well: to a write that ended half-way nothing is appended
        await loop.run_in_executor(None, _extend, path, _lines(changes))
        self._whole = False
        self._lines += len(changes)


def _lines(changes: Iterable[Change]) -> bytes:
    return b"".join(json.dumps(write_change(change), separators=(",", ":")).encode() + b"\n" for change in changes)


def _first_format(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    routes = [
        {"do": "route", "path": item["path"], "data": item["data"], "at": item["last_activity"]}
        for item in content["routes"]
    ]
    return routes + [{"do": "session", "id": name, "until": until} for name, until in content["revoked"].items()]


def _extend(path: Path, text: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with os.fdopen(handle, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, text: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # one that was there could be another's to read
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
