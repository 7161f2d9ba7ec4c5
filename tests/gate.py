"""A gate where jobs dial in, and OpenSSH's client as the job."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from batchhub.job.offers import KeyPair, key_pair, offer_key
from batchhub.transport.dialin import GateSettings
from batchhub.transport.reverse import ReverseGate
from tests.needs import need_program

HOST = key_pair(b"h" * 32)
T0 = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BRISK = replace(GateSettings(), patience=0.2)


def job_key(offer: str, generation: int = 1) -> KeyPair:
    return offer_key(b"k" * 32, offer, generation)


def listener(port: int = 0) -> socket.socket:
    """What a supervisor binds and its workers inherit."""
    return socket.create_server(("127.0.0.1", port), backlog=128)


@asynccontextmanager
async def serving_gate(
    directory: Path, *offers: str, sock: socket.socket | None = None, settings: GateSettings = BRISK
) -> AsyncIterator[tuple[ReverseGate, int]]:
    """A gate that knows these offers, and its port."""
    gate = ReverseGate(HOST.private, directory, lambda: T0, settings)
    for offer in offers:
        gate.offered(offer, job_key(offer).public)
    served = sock.dup() if sock is not None else listener()
    port = served.getsockname()[1]
    await gate.start(served)
    try:
        yield gate, port
    finally:
        await gate.close()
        served.close()


class DialledJob:
    """OpenSSH's client, as a job would start it; ``more`` are further arguments. ``target``: what it offers."""

    def __init__(self, port: int, offer: str, target: str, *, key: KeyPair | None = None) -> None:
        self.port, self.offer = port, offer
        self.directory = Path(tempfile.mkdtemp(prefix="batchhub-dial-"))
        (self.directory / "key").touch(0o600)
        (self.directory / "key").write_text((key or job_key(offer)).private)
        (self.directory / "known").write_text(f"batchhub {HOST.public}\n")
        self.forward = ("-R", f"batchhub:1:{target}")
        self.process: asyncio.subprocess.Process

    def argv(self, more: Sequence[str]) -> list[str]:
        options = (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.directory}/known",
            "GlobalKnownHostsFile=/dev/null",
            "HostKeyAlias=batchhub",
            "ExitOnForwardFailure=yes",
            "LogLevel=VERBOSE",
        )
        words = [need_program("ssh", "openssh-client"), "-F", "/dev/null"]
        for option in options:
            words += ["-o", option]
        words += ["-i", str(self.directory / "key"), "-p", str(self.port), "-l", self.offer]
        return [*words, *more, "127.0.0.1"]

    async def start(self, *more: str, command: Sequence[str] = ()) -> DialledJob:
        self.process = await asyncio.create_subprocess_exec(
            *self.argv(more or ("-N", "-T", *self.forward)),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return self

    async def ended(self) -> str:
        """What it said, when it has ended by itself."""
        async with asyncio.timeout(60):
            out, _ = await self.process.communicate()
        return out.decode()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()
        for name in ("key", "known"):
            (self.directory / name).unlink(missing_ok=True)
        os.rmdir(self.directory)


@asynccontextmanager
async def dialled(
    gate: ReverseGate, port: int, offer: str, target: str, *, key: KeyPair | None = None
) -> AsyncIterator[DialledJob]:
    """A job that has dialled in."""
    job = await DialledJob(port, offer, target, key=key).start()
    try:
        await until(lambda: offer in gate.state() or job.process.returncode is not None)
        assert offer in gate.state(), await job.ended()
        yield job
    finally:
        await job.stop()


async def until(true, seconds: float = 30.0) -> None:
    """Look often."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)
