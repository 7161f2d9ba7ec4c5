"""Where jobs dial in: an SSH server that takes from each job one offer, its own, and nothing else.

A job signs in under its offer's name with the offer's key and asks, as ``ssh -R``, for one forwarding of a fixed name and port. Nothing
listens there: a stream to the job is a channel in its connection. Shells, commands, files, agents and other forwardings are refused.

Several processes may serve one listening socket. The one in which a job's connection landed opens a :class:`~batchhub.transport.doors.Door` for
the others, in a directory that they share. A job that dials again has lost its former connection, so the newest stands.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncssh

from batchhub.core.errors import BadInput, ConfigError, TunnelError
from batchhub.core.ports import Clock, H
from batchhub.transport.admission import Admission
from batchhub.transport.connection import CIPHERS
from batchhub.transport.dialin import GateSettings, JobConnection
from batchhub.transport.doors import Caller, Door, call, check_directory

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY = re.compile(r"ssh-ed25519 ([A-Za-z0-9+/]{68})(?: [^\r\n]*)?")
_LOOK = 0.05
"""Seconds between two looks for a job that is about to dial in."""
_WATCH = 5.0
"""Seconds between two looks whether a job has dialled in elsewhere."""
_KEX = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp521",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp256",
)
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")


class ReverseGate:
    """The SSH server of one process. ``host_key`` is a private key in OpenSSH's format, ``directory`` the doors', shared with its siblings.

    :meth:`offered` and :meth:`withdrawn` may be called before :meth:`start`. After :meth:`drain` it takes no more jobs, but serves those it has.
    """

    def __init__(self, host_key: str, directory: Path, clock: Clock, settings: GateSettings | None = None) -> None:
        self.settings = settings or GateSettings()
        self.clock = clock
        self._host_key = host_key
        self._directory = directory
        self._admission = Admission(self.settings.admission)
        self._keys: dict[str, bytes] = {}
        self._jobs: dict[str, JobConnection] = {}
        self._coming: dict[str, JobConnection] = {}
        self._doors: dict[JobConnection, Door] = {}
        self._ended: dict[str, datetime] = {}
        self._all: set[JobConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._draining = False
        self._counts = {"connects": 0, "losses": 0}

    # ------------------------------------------------ life

    async def start(self, sock: socket.socket) -> None:
        """Serve a socket that listens. Raises ConfigError when key or directory cannot be used."""
        check_directory(self._directory, "x" * 12 + ".sock")
        self._sweep()
        try:
            key = asyncssh.import_private_key(self._host_key)
        except asyncssh.KeyImportError as error:
            raise ConfigError("The host key that jobs are to know this proxy by cannot be read.") from error
        settings = self.settings
        sock.setblocking(False)
        self._acceptor = await asyncssh.listen(
            sock=sock,
            server_factory=self._accept,
            server_host_keys=[key],
            kex_algs=list(_KEX),
            encryption_algs=list(CIPHERS),
            mac_algs=list(_MACS),
            compression_algs=["none"],
            signature_algs=["ssh-ed25519"],
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            allow_pty=False,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            login_timeout=settings.handshake,
            keepalive_interval=settings.keepalive_interval,
            keepalive_count_max=settings.keepalive_count,
            backlog=1024,
        )
        self._begin(self._watch(), "offers: doors")

    def drain(self) -> None:
        """Take no more jobs. A job without a stream is sent to a sibling at once, another when its last stream ends."""
        self._draining = True
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for dialled in list(self._jobs.values()):
            self.idle(dialled)

    @property
    def busy(self) -> bool:
        """Whether any job is connected here."""
        return bool(self._jobs)

    async def close(self) -> None:
        """End everything."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for dialled in list(self._all):
            dialled.cut("the proxy ends")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        await asyncio.sleep(0)  # asyncssh tells the ends in the loop's next turn

    # ------------------------------------------------ offers

    def offered(self, offer: str, key: str) -> None:
        """The job that holds this ``ssh-ed25519`` key may dial in as ``offer``; who did so with another key is cut. Raises BadInput."""
        found = _KEY.fullmatch(key)
        if not found or not _NAME.fullmatch(offer):
            raise BadInput("An offer is a name of letters, digits, '-' and '_', and a key of type ssh-ed25519.")
        data = base64.b64decode(found[1])
        if self._keys.get(offer) != data:
            self._keys[offer] = data
            self._cut(offer, "its key was replaced")

    def withdrawn(self, offer: str) -> None:
        """Nobody may dial in under this name any more; who did is cut."""
        self._keys.pop(offer, None)
        self._cut(offer, "its offer was withdrawn")
        self._ended.pop(offer, None)

    def _cut(self, offer: str, words: str) -> None:
        for dialled in [dialled for dialled in self._all if dialled.offer == offer]:
            dialled.cut(words)

    # ------------------------------------------------ streams

    async def open(self, handler: Callable[[], H], offer: str) -> H:
        """A stream to the job, wherever its connection is. Raises TunnelError."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self.settings.patience
        while offer in self._keys:
            dialled = self._jobs.get(offer)
            if dialled is not None and self._stands(dialled):
                return await dialled.open(handler)
            try:
                async with asyncio.timeout(self.settings.open + 2):
                    return await call(self._door(offer), handler)
            except TimeoutError as error:
                raise TunnelError("The proxy's process that the job dialled does not answer.") from error
            except OSError:
                if loop.time() >= limit:
                    break
                await asyncio.sleep(_LOOK)
        raise TunnelError(self._absent(offer))

    def _absent(self, offer: str) -> str:
        if offer not in self._keys:
            return "This proxy expects no job of this name: it has ended, or the hub did not announce it yet."
        ended = self._ended.get(offer)
        if ended is None:
            # A sibling may know of a connection that was lost; this must be right then, too.
            return (
                "The job has no connection to this proxy: it did not dial in yet, or lost its connection and did not dial in again yet; "
                "its log says what its ssh command answers."
            )
        return (
            f"The job's connection to this proxy was lost at {ended:%H:%M:%S} UTC, and it has not dialled in again yet."
        )

    def state(self) -> Mapping[str, str]:
        """The jobs that are connected to this process, and how many connections were turned away."""
        found = {
            offer: f"since {dialled.since:%Y-%m-%d %H:%M:%S} UTC, {dialled.streams} streams"
            for offer, dialled in sorted(self._jobs.items())
        }
        if self._admission.refused:
            found["turned away"] = f"{self._admission.refused} connections, too many or too often"
        return found

    def counters(self) -> Mapping[str, int]:
        """Jobs that dialled in (``connects``), were lost (``losses``), and connections turned away (``refusals``) since the start."""
        return {**self._counts, "refusals": self._admission.refused}

    # ------------------------------------------------ what connections ask (dialin.Keeper)

    def admit(self, address: str) -> bool:
        """Whether a handshake may begin."""
        good = self._admission.admit(address, asyncio.get_running_loop().time())
        if not good and self._admission.refused % 100 == 1:
            log.warning("Too many connections at once, or too often from %s; some are turned away.", address)
        return good

    def settled(self, address: str) -> None:
        """One of them has ended."""
        self._admission.settled(address)

    def knows(self, offer: str, key: bytes) -> bool:
        """Whether this is the offer's key."""
        return self._keys.get(offer) == key

    def proved(self, dialled: JobConnection) -> None:
        """A job has signed in. One that signs in again and again keeps the newest of them."""
        former = self._coming.get(dialled.offer)
        self._coming[dialled.offer] = dialled
        if former is not None:
            former.cut("the job has dialled in anew")

    async def take(self, dialled: JobConnection) -> bool:
        """A job makes its offer: its door opens, in the place of any before."""
        door = Door(self._door(dialled.offer))
        try:
            await door.open(lambda: Caller(dialled.open, self._relay))
        except OSError:
            log.exception("The door of offer %s cannot be made.", dialled.offer)
            return False
        if not dialled.alive or not self.knows(dialled.offer, dialled.key):
            door.close()
            return False
        self._coming.pop(dialled.offer, None)
        former = self._jobs.get(dialled.offer)
        self._jobs[dialled.offer] = dialled
        self._doors[dialled] = door
        if former is not None:
            former.cut("the job has dialled in anew")
        self._counts["connects"] += 1
        log.info("The job of offer %s has dialled in.", dialled.offer)
        return True

    def idle(self, dialled: JobConnection) -> None:
        """A job that nobody uses at the moment is better off with this process's successor."""
        if self._draining and not dialled.streams:
            dialled.cut("this process of the proxy is being replaced")

    def lost(self, dialled: JobConnection) -> None:
        """A connection is gone."""
        self._all.discard(dialled)
        if self._coming.get(dialled.offer) is dialled:
            del self._coming[dialled.offer]
        door = self._doors.pop(dialled, None)
        if door is not None:
            door.close()
        if self._jobs.get(dialled.offer) is dialled:
            del self._jobs[dialled.offer]
            if dialled.offer in self._keys:
                self._ended[dialled.offer] = self.clock()
                self._counts["losses"] += 1

    # ------------------------------------------------ inside

    def _accept(self) -> JobConnection:
        dialled = JobConnection(self)
        self._all.add(dialled)
        return dialled

    def _door(self, offer: str) -> Path:
        return self._directory / f"{offer}.sock"

    def _stands(self, dialled: JobConnection) -> bool:
        """Whether it lives, and the job has not dialled in elsewhere since."""
        door = self._doors.get(dialled)
        if not dialled.alive or door is None:
            return False
        if not door.stands:
            dialled.cut("the job has dialled in anew")
            return False
        return True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH)
            for dialled in list(self._jobs.values()):
                self._stands(dialled)

    def _sweep(self) -> None:
        """Remove doors that nobody is behind: of processes that were killed."""
        for path in self._directory.glob("*.sock"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
                probe.setblocking(False)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)

    def _relay(self, work: Coroutine[Any, Any, None]) -> None:
        self._begin(work, "offers: a sibling's stream")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("Task %s failed.", task.get_name(), exc_info=task.exception())
