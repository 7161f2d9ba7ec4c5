"""Signing in at a login node's sshd with a password and whatever else it asks for, to know who somebody is.

The connection proves that sshd lets a person in; no channel is opened on it. Methods are tried as OpenSSH's client does: keyboard-interactive
first, then password. A password that was refused once is not tried again by another method, because each try counts for whoever locks
accounts (pam_faillock).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

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
from batchhub.transport.connection import Connection
from batchhub.transport.credentials import Key, Own, Password, Proof, Refusal, Unproven
from batchhub.transport.settings import SSHSettings
from batchhub.transport.shell import check_account, line

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""How long a connection that has served its purpose may take to say goodbye."""
HOLD_SECONDS = 20.0
"""How long one that may serve another purpose waits to be taken."""

TOO_LATE = "Signing in took too long, and the login node hung up. Please begin again."
EXPIRED = "Your password on the cluster has expired. Change it there (sign in with ssh), then come back."


@dataclass(frozen=True, slots=True)
class SSHDoor:
    """:class:`~batchhub.core.asking.Door` of one login node. ``keep``: do not close a connection that was let in, but hold it for whoever takes it."""

    settings: SSHSettings
    keep: bool = False

    @property
    def host(self) -> str:
        """Its name."""
        return self.settings.host

    @property
    def end(self) -> tuple[str, int]:
        """Host and port."""
        return self.settings.host, self.settings.port

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


class HeldConnection:
    """:class:`~batchhub.core.asking.Held`: a connection that was let in. It closes by itself unless somebody takes it soon."""

    def __init__(self, connection: Connection, host: str, port: int, identity: str) -> None:
        self._connection: Connection | None = connection
        self._end = (host, port, identity)
        self._timer = asyncio.get_running_loop().call_later(HOLD_SECONDS, self.close)

    def leads_to(self, host: str, port: int, identity: str) -> bool:
        """Whether it is to this sshd, as this SSH user."""
        return self._end == (host, port, identity)

    def take(self) -> Connection | None:
        """The connection, once, if it is still there."""
        self._timer.cancel()
        connection, self._connection = self._connection, None
        return connection if connection is not None and connection.alive else None

    def close(self) -> None:
        """Nobody wants it."""
        connection = self.take()
        if connection is not None:
            connection.close()


@dataclass
class Tries:
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


class Answering:
    """:class:`~batchhub.transport.connection.Asker` that knows a password, and nothing else. ``wanted`` is what it could not answer."""

    def __init__(self, host: str, password: str) -> None:
        self.tries = Tries()
        self.has_expired = False
        self.rounds = 0
        self.wanted = ""
        self._host = host
        self._password = password
        self._given = False
        self._notices = ""

    def password(self) -> str | None:
        """The typed password, once."""
        if not self.tries.begin("password"):
            return None
        self.tries.asked = True
        return self._password

    def interactive(self) -> str | None:
        """Let the server choose a device."""
        self._given = False
        return "" if self.tries.begin("keyboard-interactive") else None

    def expired(self) -> None:
        """Another password is wanted before anybody is let in."""
        self.has_expired = self.tries.refused = True

    async def challenge(self, title: str, words: str, prompts: Sequence[tuple[str, bool]]) -> Sequence[str] | None:
        """One round. ``None`` ends the method."""
        self.rounds += 1
        if self.rounds > MOST_ROUNDS:
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
        known = filled(question, None if self._given else self._password, PASSWORD_PROMPT)
        self._given = self._given or self._password in known
        return merged(known, ()) if None not in known else await self.others(question, known)

    async def others(self, question: Question, known: tuple[str | None, ...]) -> Sequence[str] | None:
        """The answers to a question that the password alone does not answer."""
        self.wanted = next(p.text for p, answer in zip(question.prompts, known, strict=True) if answer is None)
        self.tries.refused = True
        return None

    def forget(self) -> None:
        """The password is needed no more."""
        self._password = ""

    def _give_up(self, why: str) -> None:
        log.warning("the sshd of %s was not answered: %s", self._host, why)
        self.tries.refused = True


async def sign_in_as(connection: Connection, identity: str, account: str, own: Own, proof: Proof) -> None:
    """Sign in with what is this person's own, as ``own`` gave it. Raises Unproven if it is not enough; Unreachable, Refusal."""
    asker = Answering(connection.label, proof.text) if isinstance(proof, Password) else None
    try:
        await connection.connect(identity, account, proof, asker)
    except Refusal as error:
        await own.refused(account, proof)
        if asker is not None and asker.wanted:
            raise Unproven(
                f"{connection.label} asks for more than the password ({asker.wanted}): sign in to the hub again."
            ) from error
        raise
    finally:
        if asker is not None:
            asker.forget()  # the connection has it as long as it lives
    await own.accepted(account, proof)


async def try_key(settings: SSHSettings, account: str, private: str) -> tuple[bool | None, str]:
    """Sign in with a person's key and run nothing of note: whether that works, and sshd's answer in words. ``None``: nobody knows."""
    connection = Connection(settings, f"{account}@{settings.host}", _nobody)
    try:
        await connection.connect(settings.identity(account), account, Key(private))
        answer = await connection.execute(line("exit 0"), b"", 4096, settings.connect_timeout)
    except Refusal as error:
        return False, str(error)
    except Unreachable as error:
        return None, str(error)
    finally:
        connection.close()
    if answer.code == 0:
        return True, f"{settings.host} takes the key, and runs commands as {account}."
    return False, (
        f"{settings.host} takes the key, but no command ran (exit code {answer.code}): "
        f"the account's login shell, or a command that is forced for the key, does not let it."
    )


class SSHTalk(Answering):
    """One sign-in of a person, who is asked for what the password does not answer. ``next`` waits for the first verdict; later ones come from ``answer``."""

    def __init__(self, door: SSHDoor, account: str, password: str, seconds: float) -> None:
        super().__init__(door.host, password)
        self._door = door
        self._account = account
        self._seconds = seconds
        self._verdicts: asyncio.Queue[Verdict | HubError] = asyncio.Queue()
        self._open: tuple[str | None, ...] = ()
        self._answers: asyncio.Future[list[str]] | None = None
        self._connection = Connection(door.settings, f"{account}@{door.host}", _nobody)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name=f"sign-in at {door.host}")

    def __repr__(self) -> str:
        return f"SSHTalk({self._account} at {self._door.host})"

    @property
    def ended(self) -> bool:
        """Whether sshd has decided, or the connection is gone."""
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
        """Until sshd has decided and, unless it is held, the connection is gone."""
        await asyncio.wait({self._task})

    async def others(self, question: Question, known: tuple[str | None, ...]) -> Sequence[str] | None:
        """Ask the person."""
        self._open, self._notices = known, ""
        still = tuple(prompt for prompt, answer in zip(question.prompts, known, strict=True) if answer is None)
        self._answers = asyncio.get_running_loop().create_future()
        waiting = self._answers
        self._verdicts.put_nowait(Question(question.title, question.words, still))
        return await waiting

    # ------------------------------------------------ the connection

    async def _run(self) -> None:
        """From the connection's beginning to its end; puts the last verdict."""
        verdict: Verdict | HubError = Refused("hung up", TOO_LATE)
        try:
            verdict = await self._connect()
        finally:
            self.forget()
            self._verdicts.put_nowait(verdict)

    async def _connect(self) -> Verdict | HubError:
        connection = self._connection
        try:
            async with asyncio.timeout(self._seconds):
                await connection.connect(self._account, "", asker=self, seconds=self._seconds)
        except Refusal as error:
            return Refused(str(error), EXPIRED if self.has_expired else "")
        except TimeoutError:
            return Refused("no end in time", TOO_LATE) if self.rounds else self._unreachable("No end in time.")
        except Unreachable as error:
            if not self.tries.asked or not isinstance(error.__cause__, asyncssh.DisconnectError):
                return self._unreachable(str(error))
            # OpenSSH hangs up on an account that PAM or AllowUsers keeps out, and after too many wrong answers.
            late = self._answers is not None and isinstance(error.__cause__, asyncssh.ConnectionLost)
            return Refused(str(error), TOO_LATE if late else "")
        if self._door.keep:
            return Accepted(HeldConnection(connection, *self._door.end, self._account), self._password)
        connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.wait_closed()
        return Accepted(password=self._password)

    def _unreachable(self, words: str) -> HubError:
        log.warning("nobody can sign in: %s", words)
        return Unreachable("The cluster's login node cannot be asked right now. Please try again later.")


_nobody: Callable[[Connection], None] = lambda _: None  # noqa: E731
