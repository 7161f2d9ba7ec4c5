"""How the supervisor becomes the program that is installed now: the trial before, and what it leaves to itself.

What is left lies in an anonymous file in memory (memfd_create(2)), as it holds the servers' secrets. The sockets are inherited.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from batchhub.core.errors import BadInput
from batchhub.proxy.book import Change, read_change, write_change
from batchhub.proxy.listeners import Listeners
from batchhub.proxy.spawn import CHECK, TAKEOVER, held_signals

_TRIAL = 60.0  # seconds


async def trial(command: Sequence[str]) -> str:
    """Start the program to see whether it could serve; what it says is wrong, empty if nothing is."""
    environment = {**os.environ, CHECK: "1"}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}."
    try:
        async with asyncio.timeout(_TRIAL):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"a trial start took longer than {_TRIAL:.0f} seconds."
    if process.returncode == 0:
        return ""
    lines = said.decode(errors="replace").strip().splitlines()
    return " ".join(lines[-3:])[-2000:] or f"a trial start ended with status {process.returncode}."


@dataclass(frozen=True, slots=True)
class Left:
    """What a program leaves to the one that takes its process over."""

    generation: int
    members: tuple[Mapping[str, Any], ...]
    book: tuple[Change, ...]
    past: Mapping[str, float]
    listeners: Mapping[str, Any]
    written: tuple[Mapping[str, Any], ...] = ()

    def changes(self, now: datetime) -> Iterator[Change]:
        """The book's, as they were read."""
        for each in self.written:
            change = read_change(each, now)
            if change is not None:
                yield change

    def write(self) -> bytes:
        """As JSON."""
        return json.dumps(
            {
                "generation": self.generation,
                "members": list(self.members),
                "book": [write_change(change) for change in self.book],
                "past": self.past,
                "listeners": self.listeners,
            }
        ).encode()

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Left:
        """The other way. Raises BadInput."""
        try:
            return cls(
                int(content["generation"]),
                tuple(content["members"]),
                (),
                dict(content["past"]),
                content["listeners"],
                tuple(content["book"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("What the program before this one left cannot be read.") from error


def become(command: Sequence[str], left: Left, listeners: Listeners, links: Sequence[int]) -> None:
    """Replace this program. Does not return; raises OSError if that cannot be. Signals wait until the new one is ready for them."""
    memory = os.memfd_create("batchhub-proxy", 0)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(left.write())
        files = [memory, *links]
        for number in files:
            os.set_inheritable(number, True)
        listeners.inherit(wanted=True)
        try:
            with held_signals():
                os.execve(command[0], list(command), {**os.environ, TAKEOVER: str(memory)})  # noqa: S606
        finally:
            listeners.inherit(wanted=False)
            for number in files:
                os.set_inheritable(number, False)
    finally:
        os.close(memory)
