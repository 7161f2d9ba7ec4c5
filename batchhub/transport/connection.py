"""One SSH connection to a login node: verified, its channels counted, its errors in words.

asyncssh is imported in :mod:`batchhub.transport` alone.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.gss import GSSError  # type: ignore[attr-defined]  # gssapi's, or a stand-in where that is missing

from batchhub.core.errors import HubError, TunnelError, Unreachable
from batchhub.core.ports import H
from batchhub.transport.answer import Answer
from batchhub.transport.certificates import Sign
from batchhub.transport.credentials import Key, Proof, Refusal, Tickets
from batchhub.transport.line import Line
from batchhub.transport.sessions import RunSession, StreamSession, reason
from batchhub.transport.settings import SSHSettings

log = logging.getLogger(__name__)

STREAM_WINDOW = 2 * 1024 * 1024
"""Bytes the other side may send ahead of a slow reader: the bound of a stream's memory, and of its speed per round trip."""

STREAM_PACKET = 64 * 1024
"""The longest data packet we accept. OpenSSH sends what it has just read, up to this."""

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
"""AES-GCM first: one pass over the data for both secrecy and integrity, in hardware."""


class NotOpened(Unreachable):
    """A channel was not opened, so nothing was started on it. ``silent``: the connection is gone or does not answer."""

    def __init__(self, words: str, *, silent: bool) -> None:
        super().__init__(words)
        self.silent = silent


class NoWay(Unreachable):
    """The connection that this one was to go through is not there: it says nothing of the host it leads to."""


class Dial(Protocol):
    """A byte stream to an sshd, for the account that will sign in there."""

    def __call__(self, account: str, handler: Callable[[], H], host: str, port: int, seconds: float) -> Awaitable[H]:
        """Open it. Raises TunnelError when ``host`` cannot be reached, another HubError when the way to it is not there."""


class Asker(Protocol):
    """Whoever answers an sshd that asks for a password, or interactively; asyncssh's questions to its client."""

    def password(self) -> str | None:
        """For the method ``password``; ``None``: not (any more)."""

    def interactive(self) -> str | None:
        """For ``keyboard-interactive``: the devices that are preferred; ``None``: not (any more)."""

    def expired(self) -> None:
        """Another password is wanted before anybody is let in."""

    def challenge(self, title: str, words: str, prompts: Sequence[tuple[str, bool]]) -> Awaitable[Sequence[str] | None]:
        """One round of questions, with whether the answer may be seen. ``None`` ends the method."""


class Connection:
    """``on_change`` is called when it is lost and whenever its last channel closes. ``via``: instead of TCP, through another.

    ``sign``: make a credential for this connection instead of reading keys.

    The host key is checked in any case, before anything that proves who somebody is.
    """

    def __init__(
        self,
        settings: SSHSettings,
        label: str,
        on_change: Callable[[Connection], None],
        via: Dial | None = None,
        sign: Sign | None = None,
    ) -> None:
        self.label = label
        self.channels = 0
        self.served = False
        self.closing = False
        self.kept = False
        """It stays open though nobody uses it."""
        self.lost: str | None = None
        self.offered = ""
        self.heard = 0.0
        """The loop's time when bytes last arrived."""
        self._settings = settings
        self.on_change = on_change
        self._via = via
        self._sign = sign
        self._openings: set[asyncio.Task[Any]] = set()
        self._ssh: asyncssh.SSHClientConnection | None = None

    @property
    def alive(self) -> bool:
        """Whether a channel may be asked for."""
        return self._ssh is not None and self.lost is None

    async def connect(
        self,
        identity: str,
        account: str,
        proof: Proof | None = None,
        asker: Asker | None = None,
        seconds: float | None = None,
    ) -> None:
        """Connect and sign in as ``identity``; ``account`` fills the key paths' template.

        ``proof`` is a key or tickets of the person's own in place of those, ``asker`` answers in place of keys; all of it may take so many ``seconds``.
        Raises Unreachable in words, Refusal where the host says no, Denied for root.
        """
        settings = self._settings
        asyncssh.set_debug_level(1)  # a higher one prints packets, and with them passwords
        method, what = _METHODS[type(proof)] if asker is None else (["keyboard-interactive", "password"], "password")
        by_key = method == ["publickey"]
        keys, certificates = self._keys(identity, account, proof) if by_key else (None, [])
        try:
            self._ssh = await asyncssh.connect(
                settings.host,
                settings.port,
                client_factory=lambda: _Client(self, asker),
                config=None,
                tunnel=_Way(self, account),
                known_hosts=known_hosts_of(settings),
                username=identity or (),
                client_keys=keys,
                client_certs=certificates,
                agent_path=None,
                public_key_auth=by_key,
                password_auth=asker is not None,
                kbdint_auth=asker is not None,
                preferred_auth=method,
                gss_host=(settings.gss_host or settings.host) if isinstance(proof, Tickets) else None,
                gss_store={"ccache": proof.ccache} if isinstance(proof, Tickets) else None,
                gss_kex=False,
                gss_auth=isinstance(proof, Tickets),
                gss_delegate_creds=False,
                encryption_algs=list(CIPHERS),
                compression_algs=["none"],
                keepalive_interval=settings.keepalive_interval,
                keepalive_count_max=settings.keepalive_count,
                connect_timeout=settings.connect_timeout,
                login_timeout=seconds or settings.connect_timeout,
            )
        except asyncssh.PermissionDenied as error:
            who = f"user {identity}" if identity else "the service's own user"
            raise Refusal(f"{settings.host} refused the {what} of {who}.") from error
        except (asyncssh.Error, asyncssh.KeyImportError, GSSError, OSError, ValueError) as error:
            who = f"user {identity}" if identity else "the service's own user"
            raise Unreachable(connect_words(error, settings, who, self.offered)) from error
        except TunnelError as error:
            raise Unreachable(str(error)) from error
        except HubError as error:
            raise NoWay(str(error)) from error

    def _keys(self, identity: str, account: str, proof: Proof | None) -> tuple[Any, list[str]]:
        """What asyncssh takes for keys, and for certificates beside them."""
        if isinstance(proof, Key):
            return [asyncssh.import_private_key(proof.private)], []
        if self._sign is not None:
            made = self._sign(identity or getpass.getuser())
            return [(asyncssh.import_private_key(made.key), asyncssh.import_certificate(made.certificate))], []
        settings = self._settings
        keys = [path.replace("{username}", account) for path in settings.client_keys]
        return keys or (), [path.replace("{username}", account) for path in settings.certificates]

    async def dial(self, account: str, handler: Callable[[], H]) -> H:
        """The bytes below it: a socket, or a channel of another connection."""
        settings, loop = self._settings, asyncio.get_running_loop()
        if self._via is not None:
            return await self._via(account, handler, settings.host, settings.port, settings.connect_timeout)
        # asyncio calls the methods of asyncio.Protocol, which a StreamHandler has; it does not ask for the class.
        factory = cast("Callable[[], asyncio.Protocol]", handler)
        _, made = await loop.create_connection(factory, settings.host, settings.port)
        return cast("H", made)

    def close(self) -> None:
        """Close it, and every channel on it."""
        self.closing = True
        if self._ssh is not None:
            self._ssh.close()

    async def wait_closed(self) -> None:
        """Until it is closed."""
        if self._ssh is not None:
            await self._ssh.wait_closed()

    def hear(self) -> None:
        """Bytes have arrived."""
        self.heard = asyncio.get_running_loop().time()

    def gone(self, error: Exception | None) -> None:
        """It has ended."""
        if self.lost is None:
            self.lost = reason(error) if error else "closed"
            self.on_change(self)

    def channel_opened(self) -> None:
        """One more channel lives."""
        self.channels += 1
        self.served = True

    def channel_closed(self) -> None:
        """One fewer."""
        self.channels -= 1
        if self.channels == 0:
            self.on_change(self)

    async def execute(self, line: str, data: bytes, limit: int, seconds: float) -> Answer:
        """Run a line in the login shell for at most ``seconds``; ``limit`` bounds each output, in bytes.

        Raises NotOpened when the command was certainly not started, Unreachable when that is not known.
        """
        ssh = self._usable()
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        run = RunSession(self, data, limit)
        opening = self._begin(ssh.create_session(lambda: run, line, encoding=None))
        try:
            wait = min(self._settings.open_timeout, seconds)
            await asyncio.wait({opening, run.made}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if not run.made.done():
                raise self._not_opened(opening, wait)
            await asyncio.wait({run.closed}, timeout=max(0.0, ends - loop.time()))
            timed_out = not run.closed.done()
            if timed_out:
                await run.kill()
        finally:
            run.abandon()
        answer = run.answer(timed_out=timed_out)
        if answer.code is None and not timed_out and not run.signalled:
            why = f"the connection broke: {run.broken}" if run.broken else "it ended without an exit status"
            raise Unreachable(f"{self.label}: what became of a command is not known, {why}.")
        return answer

    async def stream(self, handler: Callable[[], H], host: str, port: int, seconds: float) -> H:
        """A TCP stream from the login node on. Raises NotOpened, or TunnelError when the login node says no."""
        session = StreamSession(self, handler)
        creating = self._usable().create_connection(
            lambda: session, host, port, "127.0.0.1", 0, window=STREAM_WINDOW, max_pktsize=STREAM_PACKET
        )
        return await self._streaming(self._begin(creating), session, seconds, f"{host} port {port}")

    async def unix_stream(self, handler: Callable[[], H], path: str, seconds: float) -> H:
        """The same to a Unix socket on the login node."""
        session = StreamSession(self, handler)
        # Both kinds of channel call the same methods of a session.
        factory = cast("Callable[[], asyncssh.SSHUNIXSession[bytes]]", lambda: session)
        creating = self._usable().create_unix_connection(factory, path, window=STREAM_WINDOW, max_pktsize=STREAM_PACKET)
        return await self._streaming(self._begin(creating), session, seconds, f"the socket {path}")

    async def _streaming(self, opening: asyncio.Task[Any], session: StreamSession[H], seconds: float, target: str) -> H:
        try:
            await asyncio.wait({opening}, timeout=seconds)
            if not opening.done():
                if self._silent(seconds):
                    raise NotOpened(f"{self.label}: nothing has come from it for {seconds:g} s.", silent=True)
                raise TunnelError(f"{target} did not answer {self._settings.host} within {seconds:g} s.")
            error = opening.exception()
            if isinstance(error, asyncssh.ChannelOpenError) and self.alive:
                self.served = True
                raise TunnelError(stream_words(self._settings.host, target, error)) from error
            if error is not None:
                raise NotOpened(f"{self.label}: {self.lost or reason(error)}", silent=True) from error
        except BaseException:
            session.abandon()
            raise
        return session.opened()

    def _silent(self, seconds: float) -> bool:
        """Whether not even the keep-alives that were sent in the last so many seconds were answered."""
        return (
            0 < self._settings.keepalive_interval <= seconds / 2
            and asyncio.get_running_loop().time() - self.heard >= seconds
        )

    def _usable(self) -> asyncssh.SSHClientConnection:
        if self._ssh is None or self.lost is not None:
            raise NotOpened(f"{self.label}: {self.lost or 'not connected'}", silent=True)
        return self._ssh

    def _begin(self, creating: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start to open a channel. This is never cancelled: asyncssh would leave the channel behind, open.

        A session that was abandoned closes its channel when it opens after all.
        """
        task = asyncio.get_running_loop().create_task(creating, name=f"ssh channel {self.label}")
        self._openings.add(task)
        task.add_done_callback(self._begun)
        return task

    def _begun(self, task: asyncio.Task[Any]) -> None:
        self._openings.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has read it; nobody may be waiting any more

    def _not_opened(self, opening: asyncio.Task[Any], wait: float) -> NotOpened:
        if not opening.done():
            return NotOpened(f"{self.label} did not open a session within {wait:.0f} s.", silent=True)
        error = opening.exception()
        words = self.lost or (reason(error) if error else "no channel")
        return NotOpened(f"{self.label} opened no session: {words}.", silent=self.lost is not None)


class _Way:
    """What asyncssh takes for an SSH connection to go through: it only asks it for a byte stream."""

    def __init__(self, connection: Connection, account: str) -> None:
        self._connection = connection
        self._account = account

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[None, Any]:
        """The stream, with asyncssh at its end."""
        del host, port  # the connection knows
        line = await self._connection.dial(self._account, lambda: Line(factory(), self._connection.hear))
        return None, line.inner


_METHODS: Mapping[type[Any], tuple[list[str], str]] = MappingProxyType(
    {
        type(None): (["publickey"], "key"),
        Key: (["publickey"], "key"),
        Tickets: (["gssapi-with-mic"], "Kerberos ticket"),
    }
)
"""What is tried, and its word in sentences."""


class _Client(asyncssh.SSHClient):
    """What asyncssh tells the owner of a connection, and asks of whoever answers for a person."""

    def __init__(self, connection: Connection, asker: Asker | None) -> None:
        self._connection = connection
        self._asker = asker

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.gone(exc)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked only about a key that is not in known_hosts: never trusted, but named in the error."""
        del host, addr, port
        self._connection.offered = key.get_fingerprint()
        return False

    def password_auth_requested(self) -> str | None:
        return self._asker.password() if self._asker is not None else None

    def password_change_requested(self, prompt: str, lang: str) -> Any:
        """Passwords are not changed here."""
        del prompt, lang
        if self._asker is not None:
            self._asker.expired()
        return NotImplemented

    def kbdint_auth_requested(self) -> str | None:
        return self._asker.interactive() if self._asker is not None else None

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Any:
        del lang
        return await self._asker.challenge(name, instructions, prompts) if self._asker is not None else None


def known_hosts_of(settings: SSHSettings) -> asyncssh.SSHKnownHosts | None:
    """Read anew for each connection, so that an added line is used without a restart."""
    if not settings.known_hosts:
        log.warning(
            "The host key of %s is NOT verified (insecure): anybody between may read and change everything.",
            settings.host,
        )
        return None
    return read_known_hosts(settings.known_hosts)


def read_known_hosts(text: str) -> asyncssh.SSHKnownHosts:
    """From a path, or from the lines themselves. Raises OSError, ValueError."""
    if " " not in text.strip() and "\n" not in text.strip():
        text = Path(text).expanduser().read_text(encoding="utf-8")
    return asyncssh.import_known_hosts(text)


def connect_words(error: Exception, settings: SSHSettings, who: str, offered: str) -> str:
    """Why there is no connection, as a sentence."""
    host, at = settings.host, f"{settings.host}:{settings.port}"
    match error:
        case asyncssh.HostKeyNotVerifiable():
            key = f"it offers {offered}" if offered else reason(error)
            return f"Host key of {host} is not the known one: {key}, which known_hosts does not hold for {at}."
        case asyncssh.KeyExchangeFailed():
            return f"{host} and BatchHub have no algorithm in common: {reason(error)}."
        case GSSError():
            return f"Kerberos cannot be used for {host}: {reason(error)}."
        case asyncssh.Error():
            return f"{at} ended the connection before {who} was signed in: {reason(error)}."
        case socket.gaierror():
            return f"The name {host} cannot be resolved: {error.strerror or error}."
        case TimeoutError():
            return f"{at} did not answer within {settings.connect_timeout:g} s."
        case OSError() if error.filename:
            return f"{error.filename}, needed to reach {host}, cannot be read: {error.strerror}."
        case OSError():
            return f"{at}: {os.strerror(error.errno) if error.errno else error}."
        case _:
            return f"A key or known_hosts line for {host} cannot be read: {error}."


def stream_words(login: str, target: str, error: asyncssh.ChannelOpenError) -> str:
    """Why the login node did not open a stream, as a sentence. The texts are OpenSSH's channels.c and strerror's."""
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return f"{login} forbids connections to {target} (sshd's AllowTcpForwarding, AllowStreamLocalForwarding or PermitOpen)."
    if "refused" in error.reason.lower():
        host, _, rest = target.partition(" ")
        return f"{host} refused {rest} when {login} asked: {reason(error)}."
    return f"{login} cannot reach {target}: {reason(error)}."
