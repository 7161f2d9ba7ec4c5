"""Signing in at a login node's sshd with a password and whatever else it asks for, to know who somebody is.

The connection proves that sshd lets a person in; no channel is opened on it. Methods are tried as OpenSSH's client does: keyboard-interactive
first, then password. A password that was refused once is not tried again by another method, because each try counts for whoever locks
accounts (pam_faillock).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from batchhub.core.asking import (
    MOST_ROUNDS,
    PASSWORD_PROMPT,
    WORDS_LIMIT,
    Accepted,
    Question,
    Refused,
    Verdict,
    filled,
    merged,
    read_question,
    tidy,
)
from batchhub.core.errors import BadInput, Denied, HubError, Unreachable
from batchhub.transport.connection import CIPHERS, connect_words, known_hosts_of
from batchhub.transport.settings import SSHSettings
from batchhub.transport.shell import check_account

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""How long a connection that has served its purpose may take to say goodbye."""

TOO_LATE = "Signing in took too long, and the login node hung up. Please begin again."
EXPIRED = "Your password on the cluster has expired. Change it there (sign in with ssh), then come back."


@dataclass(frozen=True, slots=True)
class SSHDoor:
    """:class:`~batchhub.core.asking.Door` of one login node."""

    settings: SSHSettings

    @property
    def host(self) -> str:
        """Its name."""
        return self.settings.host

    async def knock(self, name: str, password: str, seconds: float) -> tuple[SSHTalk, Verdict]:
        """Connect, and answer with the password until something else is asked for."""
        account = self.settings.username.replace("{username}", check_account(name, wide=True))
        if account.partition("@")[0].casefold() == "root":
            raise Denied("Nobody signs in as root.")
        talk = SSHTalk(self, account, password, seconds)
        try:
            return talk, await talk.next()
        except BaseException:
            talk.close()
            raise


@dataclass
class _Tries:
    """What was tried so far. asyncssh does not tell a method's failure from its partial success; the method that it tries next does."""

    last: str = ""
    asked: bool = False
    """Whether the last method got as far as an answer."""
    refused: bool = False
    done: set[str] = field(default_factory=set)

    def begin(self, method: str) -> bool:
        """Whether to try this method now."""
        if self.last == method and self.asked:
            # It is offered again right after it was answered: the answer was wrong.
            self.refused = True
        if self.refused or method in self.done:
            return False
        self.done.add(method)
        self.last, self.asked = method, False
        return True


class SSHTalk:
    """One sign-in. ``next`` waits for its first verdict; later ones come from ``answer``."""

    def __init__(self, door: SSHDoor, account: str, password: str, seconds: float) -> None:
        self._door = door
        self._account = account
        self._password = password
        self._seconds = seconds
        self._verdicts: asyncio.Queue[Verdict | HubError] = asyncio.Queue()
        self._open: tuple[str | None, ...] = ()
        self._answers: asyncio.Future[list[str]] | None = None
        self._expired = False
        self._rounds = 0
        self._notices = ""
        self._given = False
        self.tries = _Tries()
        self.offered = ""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name=f"sign-in at {door.host}")

    def __repr__(self) -> str:
        return f"SSHTalk({self._account} at {self._door.host})"

    @property
    def ended(self) -> bool:
        """Whether the connection is gone."""
        return self._task.done()

    async def next(self) -> Verdict:
        """What comes next. Raises Unreachable."""
        found = await self._verdicts.get()
        if isinstance(found, HubError):
            raise found
        return found

    async def answer(self, answers: Sequence[str]) -> Verdict:
        """Answer the question that was put last. Raises BadInput for another number of answers, Unreachable."""
        waiting, self._answers = self._answers, None
        if waiting is None or waiting.done():
            return await self.next() if not self._verdicts.empty() else Refused("the connection has ended", TOO_LATE)
        waiting.set_result(merged(self._open, answers))
        return await self.next()

    def close(self) -> None:
        """Hang up."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Until the connection is gone."""
        await asyncio.wait({self._task})

    # ------------------------------------------------ what sshd asks

    def password(self) -> str | None:
        """For the method ``password``."""
        if not self.tries.begin("password"):
            return None
        self.tries.asked = True
        return self._password

    def interactive(self) -> str | None:
        """For ``keyboard-interactive``: no preference of a device."""
        self._given = False
        return "" if self.tries.begin("keyboard-interactive") else None

    def expired(self) -> None:
        """Another password is wanted before anybody is let in."""
        self._expired = True
        self.tries.refused = True

    async def challenge(self, title: str, words: str, prompts: Sequence[tuple[str, bool]]) -> list[str] | None:
        """One round. ``None`` ends the method."""
        self._rounds += 1
        if self._rounds > MOST_ROUNDS:
            self._give_up("it asks without end")
            return None
        if not prompts:
            self._notices = tidy(f"{self._notices}\n{title}\n{words}", WORDS_LIMIT, lines=True)
            return []
        try:
            question = read_question(title, f"{self._notices}\n{words}", prompts)
        except BadInput as error:
            self._give_up(str(error))
            return None
        self.tries.asked = True
        self._open = filled(question, None if self._given else self._password, PASSWORD_PROMPT)
        self._given = self._given or self._password in self._open
        if None not in self._open:
            return merged(self._open, ())
        still = tuple(prompt for prompt, known in zip(question.prompts, self._open, strict=True) if known is None)
        self._notices = ""
        self._answers = asyncio.get_running_loop().create_future()
        waiting = self._answers
        self._verdicts.put_nowait(Question(question.title, question.words, still))
        return await waiting

    def _give_up(self, why: str) -> None:
        log.warning("the sshd of %s was not answered: %s", self._door.host, why)
        self.tries.refused = True

    # ------------------------------------------------ the connection

    async def _run(self) -> None:
        """From the connection's beginning to its end; puts the last verdict."""
        verdict: Verdict | HubError = Refused("hung up", TOO_LATE)
        try:
            verdict = await self._connect()
        finally:
            self._password = ""
            self._verdicts.put_nowait(verdict)

    async def _connect(self) -> Verdict | HubError:
        settings = self._door.settings
        asyncssh.set_debug_level(1)  # a higher one prints packets, and with them passwords
        try:
            async with asyncio.timeout(self._seconds):
                connection = await asyncssh.connect(
                    settings.host,
                    settings.port,
                    client_factory=lambda: _Client(self),
                    config=None,
                    known_hosts=known_hosts_of(settings),
                    username=self._account,
                    client_keys=None,
                    agent_path=None,
                    public_key_auth=False,
                    gss_host=None,
                    preferred_auth=["keyboard-interactive", "password"],
                    encryption_algs=list(CIPHERS),
                    compression_algs=["none"],
                    connect_timeout=settings.connect_timeout,
                    login_timeout=self._seconds,
                )
        except asyncssh.PermissionDenied as error:
            return Refused(str(error), EXPIRED if self._expired else "")
        except TimeoutError:
            return Refused("no end in time", TOO_LATE) if self._rounds else self._unreachable(TimeoutError())
        except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
            return self._broken(error)
        await _goodbye(connection)
        return Accepted()

    def _broken(self, error: Exception) -> Verdict | HubError:
        """A connection that ended otherwise than by a no."""
        if self.tries.asked and isinstance(error, asyncssh.DisconnectError):
            # OpenSSH hangs up on an account that PAM or AllowUsers keeps out, and after too many wrong answers.
            late = self._answers is not None and isinstance(error, asyncssh.ConnectionLost)
            return Refused(str(error), TOO_LATE if late else "")
        return self._unreachable(error)

    def _unreachable(self, error: Exception) -> HubError:
        words = connect_words(error, self._door.settings, self._account, self.offered)
        log.warning("nobody can sign in: %s", words)
        return Unreachable("The cluster's login node cannot be asked right now. Please try again later.")


class _Client(asyncssh.SSHClient):
    """What asyncssh asks during one sign-in."""

    def __init__(self, talk: SSHTalk) -> None:
        self._talk = talk

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Never: only to name it in the log."""
        del host, addr, port
        self._talk.offered = key.get_fingerprint()
        return False

    def password_auth_requested(self) -> str | None:
        """The typed password, once."""
        return self._talk.password()

    def password_change_requested(self, prompt: str, lang: str) -> Any:
        """Passwords are not changed here."""
        del prompt, lang
        self._talk.expired()
        return NotImplemented

    def kbdint_auth_requested(self) -> str | None:
        """Let the server choose."""
        return self._talk.interactive()

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Any:
        """One round of questions."""
        del lang
        return await self._talk.challenge(name, instructions, prompts)


async def _goodbye(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.wait_closed()
