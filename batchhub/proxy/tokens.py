"""API tokens, asked of the hub and remembered for a moment.

An answer is forgotten at once when the hub says that the token has ended. Whoever shows many unknown tokens makes the hub be asked
once for each, a few at a time, and no more than a bounded number wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Container
from datetime import datetime, timedelta
from urllib.parse import quote, urlsplit

from batchhub.core.errors import Unreachable
from batchhub.core.model import Endpoint

TokenChecker = Callable[[str, str], Awaitable[str | None]]
"""``(token, path)`` -> the name of the user who may enter the server at ``path`` with it. Raises Unreachable."""

KNOWN = timedelta(seconds=30)
UNKNOWN = timedelta(seconds=5)
MOST_FLIGHTS = 1000
"""Questions to the hub that may be under way or waiting."""

_MOST = 256 * 1024  # bytes of an answer of the hub
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) ")
_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]{1,7})(?:\r\n|\Z)", re.IGNORECASE)
_Key = tuple[str, str]


def digest_of(token: str) -> str:
    """What a token is known by in revocations: its SHA-256, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class TokenCache:
    """Answers of the hub, by the token's hash and the path. A refusal is remembered more shortly than a yes.

    ``ended`` holds the hashes of tokens whose end the hub has told; nobody passes by them, whatever the hub answered or is answering.
    """

    __slots__ = ("_answers", "_ask", "_ended", "_flights", "_size")

    def __init__(self, ask: TokenChecker, ended: Container[str] = frozenset(), size: int = 4096) -> None:
        self._ask = ask
        self._ended = ended
        self._size = size
        self._answers: dict[_Key, tuple[datetime, str | None]] = {}
        self._flights: dict[_Key, asyncio.Future[str | None]] = {}

    def cached(self, token: str, path: str, now: datetime) -> tuple[bool, str | None]:
        """Whether there is an answer, and which."""
        return self._look((digest_of(token), path), now)

    async def user(self, token: str, path: str, now: datetime) -> str | None:
        """The token's user, from memory or from the hub. Raises Unreachable."""
        key = (digest_of(token), path)
        while True:
            known, user = self._look(key, now)
            if known:
                return user
            flight = self._flights.get(key)
            if flight is None:
                user = await self._fly(key, token, now)
                return None if key[0] in self._ended else user
            await asyncio.wait([flight])
            if not flight.cancelled():
                user = flight.result()
                return None if key[0] in self._ended else user

    def _look(self, key: _Key, now: datetime) -> tuple[bool, str | None]:
        if key[0] in self._ended:
            return True, None
        until, user = self._answers.get(key, (now, None))
        return until > now, user

    async def _fly(self, key: _Key, token: str, now: datetime) -> str | None:
        """Ask, and tell the others that wait for the same answer."""
        if len(self._flights) >= MOST_FLIGHTS:
            raise Unreachable("Too many tokens are being checked at the moment; try again in a few seconds.")
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            user = await self._ask(token, key[1])
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # seen, even if nobody else waits
            raise
        else:
            flight.set_result(user)
        finally:
            flight.cancel()  # if this one was given up, one of the others asks
            del self._flights[key]
        if len(self._answers) >= self._size:
            self._make_room(now)
        self._answers[key] = (now + (KNOWN if user else UNKNOWN), user)
        return user

    def _make_room(self, now: datetime) -> None:
        self._answers = {key: answer for key, answer in self._answers.items() if answer[0] > now}
        while len(self._answers) >= self._size:
            self._answers.pop(next(iter(self._answers)))


class HubTokens:
    """Asks the hub whose an API token is. ``hub_url`` is its own address, without a path."""

    DEADLINE = 5.0
    """Seconds for one question, its wait for a free place included."""
    CONCURRENCY = 16

    def __init__(self, hub_url: str) -> None:
        where = urlsplit(hub_url)
        self._hub = (where.hostname or "", where.port or 80)
        self._leading: Callable[[], Endpoint | None] = lambda: None
        self._places = asyncio.Semaphore(self.CONCURRENCY)

    def follow(self, leading: Callable[[], Endpoint | None]) -> None:
        """Ask the hub that leads, if one of several does."""
        self._leading = leading

    @property
    def _where(self) -> tuple[str, int]:
        leading = self._leading()
        return (leading.host, leading.port) if leading is not None else self._hub

    async def __call__(self, token: str, path: str) -> str | None:
        """The user's name, or ``None``. Raises Unreachable. The hub is told the path: a token may come to be good for some servers only."""
        request = (
            f"GET /hub/api/user?server={quote(path, safe='')} HTTP/1.1\r\nHost: {self._where[0]}\r\nAuthorization: token {token}\r\n"
            "Connection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(self.DEADLINE), self._places:
                answer = await self._exchange(request.encode("utf-8", "surrogateescape"))
        except (OSError, TimeoutError) as error:
            raise Unreachable("The hub does not answer, so the token cannot be checked.") from error
        return _name(answer)

    async def _exchange(self, request: bytes) -> bytes:
        """The whole answer; the hub closes after it, and says its length, so what is cut short is noticed."""
        reader, writer = await asyncio.open_connection(*self._where)
        try:
            writer.write(request)
            answer = b""
            while len(answer) <= _MOST and (data := await reader.read(_MOST)):
                answer += data
            return answer
        finally:
            writer.transport.abort()


def _name(answer: bytes) -> str | None:
    """Whose the hub says that the token is. Raises Unreachable."""
    head, end, body = answer.partition(b"\r\n\r\n")
    status, length = _STATUS.match(head), _LENGTH.search(head)
    if status is None or not end:
        raise Unreachable("The hub's answer about a token cannot be read.")
    if status[1] in {b"401", b"403"}:
        return None
    if status[1] != b"200":
        raise Unreachable(f"The hub answered {status[1].decode()} when it was asked about a token.")
    try:
        model = json.loads(body) if length is not None and int(length[1]) == len(body) else None
    except ValueError as error:
        raise Unreachable("The hub's answer about a token cannot be read.") from error
    if not isinstance(model, dict):
        raise Unreachable("The hub's answer about a token cannot be read.")
    name = model.get("name")
    return name if isinstance(name, str) else None
