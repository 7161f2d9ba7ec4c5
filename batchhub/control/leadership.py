"""Of several hubs on one database one leads: it alone looks at the clusters, takes steps and keeps the proxy's routes.

A lead is believed only for a bounded time after the database confirmed it last (:attr:`LeadSettings.trust`), which ends before anybody else can have
it. Then, or at the first sign that it is lost, everything the leader does is cancelled at once, in one turn of the event loop; also when the
process stood still meanwhile and its timers come late. What it writes is besides held against its epoch, in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from batchhub.core.errors import HubError, NotLeading, StoreUnavailable

log = logging.getLogger(__name__)


class Lock(Protocol):
    """The lead, as the database gives it. Every method raises StoreUnavailable."""

    def acquire(self) -> Awaitable[int | None]:
        """The epoch, if nobody else leads."""

    def confirm(self) -> Awaitable[None]:
        """Return if it is still ours."""

    def release(self) -> Awaitable[None]:
        """Give it up."""


class Duties(Protocol):
    """What the leader does."""

    def begin(self) -> Awaitable[None]:
        """Begin, with nothing remembered of an earlier time. Raises HubError: then the lead is given up."""

    def halt(self) -> None:
        """Do nothing more from now on; what runs is cancelled, and not waited for."""

    def end(self) -> Awaitable[None]:
        """Wait for the end of what was cancelled."""


@dataclass(frozen=True, slots=True)
class LeadSettings:
    """Seconds.

    ``every``: how often the lead is confirmed, or tried for. ``trust``: how long a confirmation is good, counted from when it was asked for;
    less than the silence after which the database gives the lead to somebody else.
    """

    every: float = 1.0
    trust: float = 8.0


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # a machine that was suspended has been away


class Leadership:
    """:meth:`run` is to be run as a task. Without a ``lock`` there is one hub, which leads always."""

    def __init__(
        self,
        lock: Lock | None,
        duties: Duties,
        settings: LeadSettings | None = None,
        monotonic: Callable[[], float] = _clock,
    ) -> None:
        self._lock = lock
        self._duties = duties
        self._settings = settings or LeadSettings()
        self._monotonic = monotonic
        self._epoch: int | None = None
        self._until = 0.0
        self._lost = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def epoch(self) -> int | None:
        """The lead's number while this hub surely leads, else ``None``."""
        if self._lock is not None and self._monotonic() >= self._until:
            return None
        return self._epoch

    @property
    def leads(self) -> bool:
        """Whether this hub surely leads."""
        return self.epoch is not None

    def must_lead(self) -> None:
        """Raise NotLeading unless it surely leads; to be asked right before what cannot be undone."""
        if not self.leads:
            raise NotLeading("This hub does not lead at the moment; whoever does will see to it.")

    async def alone(self) -> None:
        """Lead for good, as the only hub there can be. Raises what the duties' begin raises."""
        self._epoch = 0
        await self._duties.begin()

    async def run(self) -> None:
        """Try to lead, and lead, until cancelled."""
        assert self._lock is not None
        try:
            while True:
                try:
                    await self._turn(self._lock)
                except HubError as error:
                    log.warning("who leads cannot be settled: %s", error)
                except Exception:
                    log.exception("trying to lead failed")
                await asyncio.sleep(self._settings.every)
        finally:
            self._halt()
            await self._duties.end()

    async def _turn(self, lock: Lock) -> None:
        asked = self._monotonic()
        epoch = await lock.acquire()
        if epoch is None:
            return
        self._lost.clear()
        self._epoch = epoch
        self._sure(asked)
        log.info("this hub leads now (epoch %d)", epoch)
        try:
            await self._duties.begin()
            await self._hold(lock)
        finally:
            self._halt()
            await self._duties.end()
            await lock.release()
            log.warning("this hub does not lead any more")

    async def _hold(self, lock: Lock) -> None:
        """Until the lead is lost."""
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.every):
                    await self._lost.wait()
                return
            asked = self._monotonic()
            try:
                await lock.confirm()
            except StoreUnavailable as error:
                log.warning("the lead is lost: %s", error)
                return
            self._sure(asked)

    def _sure(self, asked: float) -> None:
        if self._lost.is_set():
            return
        self._until = asked + self._settings.trust
        if self._timer is not None:
            self._timer.cancel()
        left = self._until - self._monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._halt)

    def _halt(self) -> None:
        """In one turn: nobody who waits goes on from here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._epoch = None
        self._lost.set()
        self._duties.halt()
