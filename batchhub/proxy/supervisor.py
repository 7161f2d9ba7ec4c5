"""The proxy's first process: control API, routes and their file, and the workers that carry the traffic.

It holds the listening sockets, so that a worker may come and go without a client being refused. A worker that dies is started again. On SIGUSR2
it becomes the program that is installed now (:mod:`batchhub.proxy.handover`), with the same sockets; fresh workers take over and the former
ones finish what they have open.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from batchhub.core.errors import BadInput, ConfigError, HubError, Unreachable
from batchhub.core.ports import Answer, Clock
from batchhub.proxy.api import ApiServer
from batchhub.proxy.book import Book, Change, DropOffer, read_change
from batchhub.proxy.control import Calls, default_route, lasting
from batchhub.proxy.counters import Report, key
from batchhub.proxy.handover import Left, become, trial
from batchhub.proxy.journal import Journal
from batchhub.proxy.listeners import TRAFFIC, Listeners, Room
from batchhub.proxy.members import Member, Stage
from batchhub.proxy.metrics import exposition, own_report
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.spawn import SIGNALS, Child, Launcher
from batchhub.proxy.tasks import Crew
from batchhub.proxy.tls import server_context

log = logging.getLogger(__name__)

_ACKNOWLEDGE = 5.0  # seconds a worker has to carry out a change
_GLANCE = 1.0  # seconds it has to say which routes were used
_PROBE = 40.0  # seconds; a probe has deadlines of its own
_FINISH = 10.0  # seconds that calls of the control API may take before a reload
_END = 3.0  # seconds a worker has to end
_LONGEST_PAUSE = 60.0
_SETTLED = 60.0  # seconds of service after which a worker's end is the first again


class Supervisor:
    """Implements :class:`~batchhub.proxy.control.Control`."""

    def __init__(
        self, settings: ProxySettings, clock: Clock, *, listeners: Listeners, launcher: Launcher, room: Room
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.book = Book(clock)
        self.calls = Calls()
        self._listeners = listeners
        self._launcher = launcher
        self._room = room
        self._journal = Journal(settings.state_file, self.book, clock)
        self._api = ApiServer(self, listeners)
        self._members: list[Member] = []
        self._crew = Crew()
        self._failures: Counter[int] = Counter()
        self._past = Report()
        """What workers counted that are no more."""
        self._generation = 1
        self._serving = asyncio.Event()
        """All workers serve, or did so once."""
        self._ending = False
        self._stop = asyncio.Event()
        self._fatal: ConfigError | None = None
        self._changing = asyncio.Lock()
        """One reload, or one change of certificates, at a time."""
        self._turn = 0

    # ------------------------------------------------------------ life

    async def run(self, children: Sequence[tuple[Child, socket.socket]], left: Mapping[str, Any] | None) -> None:
        """Until SIGTERM or SIGINT. Raises ConfigError when the workers that were started with us cannot serve."""
        self._take_signals()
        self._say_room()
        former = Left.read(left) if left is not None else None
        self._journal.claim(must=former is None)
        if former is None:
            self._journal.load()
        else:
            await self._take_over(former)
        default = default_route(self.settings, self.clock, self.book)
        if default is not None:
            self.book.apply(default)
        try:
            for number, (child, end) in enumerate(children, 1):
                self._attend(number, child, end)
            if former is None:
                await self._first()  # whoever finds the control API finds everything else, too
            if not self._stop.is_set():
                self._serve(first=former is None)
                await self._stop.wait()
        finally:
            await self._close()
        if self._fatal is not None:
            raise self._fatal

    async def _first(self) -> None:
        """Until all workers serve for the first time, or that cannot be."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._serving, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _serve(self, *, first: bool) -> None:
        self._crew.spawn(self._journal.keep(), "save routes")
        self._crew.spawn(self._keep_house(), "forget old revocations")
        self._api.start()
        if first:
            log.info(
                "The proxy is ready: %d workers serve %s with %d routes; control on %s.",
                self.settings.workers,
                self._listeners.shown("public"),
                len(self.book.routes),
                self._listeners.shown("api"),
            )

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(60)
            self.book.forget_old()

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._spawn, self._certificates, "certificates")
        loop.add_signal_handler(signal.SIGUSR2, self._spawn, self._reload, "reload")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._crew.spawn(work(), name)

    def _say_room(self) -> None:
        room = self._room
        log.info(
            "Each of %d workers may have %d files open: room for %d client connections.",
            self.settings.workers,
            room.files,
            room.clients,
        )
        if room.short:
            log.warning(
                "That is fewer than the limit of %d connections, as each may need two files: raise the hard limit of open files "
                "to %d (LimitNOFILE with systemd).",
                room.connections,
                room.wanted_files,
            )

    async def _close(self) -> None:
        self._ending = True
        await self._api.close()
        await self.refresh()
        serving = [member for member in self._members if member.stage is not Stage.STARTING]
        for member in serving:
            member.link.tell("end")
        with suppress(TimeoutError):
            async with asyncio.timeout(_END):
                for member in serving:
                    await member.gone.wait()
        for member in self._members:
            if not member.gone.is_set():
                member.child.kill()
            await member.bury()
        await self._crew.close()
        if self._serving.is_set():  # one that never served must not write over another's file
            try:
                await self._journal.flush(whole=True)
            except OSError as error:
                log.error("The proxy's state could not be saved at its end: %s", error)  # noqa: TRY400
        self._listeners.close()
        log.info("The proxy ends.")

    # ------------------------------------------------------------ workers

    def _attend(self, number: int, child: Child, end: socket.socket) -> None:
        member = Member(number, self._generation, child, self._note)
        self._members.append(member)
        self._crew.spawn(self._raise(member, end), f"start {member}")

    async def _raise(self, member: Member, end: socket.socket) -> None:
        """A worker from its start to its end."""
        try:
            await member.start(end, self.book, self._listeners, self._room.clients)
        except HubError as error:
            member.failure = str(error) if not member.gone.is_set() else ""
            member.child.kill()
        except OSError as error:
            member.failure = str(error)
            member.child.kill()
        else:
            log.log(logging.INFO if self._serving.is_set() else logging.DEBUG, "%s serves.", member)
            self._promote()
            self._crew.spawn(member.watch(), f"watch {member}")
        await self._follow(member)

    async def _follow(self, member: Member) -> None:
        await member.gone.wait()
        if self._ending:
            return
        stage, served = member.stage, asyncio.get_running_loop().time() - member.served_since
        code = await member.bury()
        self._members.remove(member)
        self._past += Report(member.report.counts)
        if stage is Stage.DRAINING:
            log.info("%s of before the reload has ended.", member)
        elif stage is Stage.STARTING:
            await self._not_started(member, code)
        else:
            log.error("%s ended (%s); what was open in it is cut.", member, _words(code))
            if served > _SETTLED:
                self._failures[member.number] = 0
            await self._again(member)

    async def _not_started(self, member: Member, code: int) -> None:
        words = member.failure or f"it ended while it started ({_words(code)})"
        if self._serving.is_set() or any(each.stage is Stage.SERVING for each in self._members):
            log.error("%s cannot serve: %s", member, words)
            await self._again(member)
        elif self._fatal is None:
            self._fatal = ConfigError(f"The proxy cannot start: {words}")
            self._stop.set()

    async def _again(self, member: Member) -> None:
        """Start another in its place, the later the more often it failed."""
        if member.generation != self._generation:
            return
        self._past += Report({"restarts": 1})
        pause = min(_LONGEST_PAUSE, 0.1 * 2.0 ** self._failures[member.number])
        self._failures[member.number] += 1
        log.info("Worker %d is started again in %.1f seconds.", member.number, pause)
        await asyncio.sleep(pause)
        try:
            child, end = self._launcher.start(self._listeners.files(*TRAFFIC))
        except OSError as error:
            log.error("A worker cannot be started: %s.", error)  # noqa: TRY400
            await self._again(member)
        else:
            self._attend(member.number, child, end)

    def _promote(self) -> None:
        """Once every worker of this generation serves, those before it may go."""
        serving = [each for each in self._members if each.stage is Stage.SERVING]
        if sum(each.generation == self._generation for each in serving) < self.settings.workers:
            return
        self._serving.set()
        for member in serving:
            if member.generation != self._generation:
                log.info("%s finishes what it has open and takes nothing new.", member)
                member.drain(self.settings.drain.total_seconds())

    def _note(self, seen: Mapping[str, Any]) -> None:
        """Routes were used, a worker says. It is the one that strangers talk to: nonsense from it must not end up in the control API."""
        if not seen:
            return
        try:
            # One of the version before, which drains after a reload, tells paths and times alone.
            told = seen if isinstance(seen, dict) and "at" in seen else {"at": seen}
            change = read_change({**told, "do": "seen"}, self.clock())
        except (BadInput, TypeError, AttributeError):
            log.error("What a worker says of the routes' use cannot be read.")  # noqa: TRY400
            return
        if change is not None:
            self.book.apply(change)

    # ------------------------------------------------------------ control

    def _alive(self) -> list[Member]:
        return [member for member in self._members if member.informed and member.link.alive]

    async def change(self, change: Change) -> None:
        """See Control. A worker that drains is waited for only if it could still do what is forbidden now."""
        self.book.apply(change)
        self._journal.append(change)
        everybody = lasting(change) or isinstance(change, DropOffer)
        waits = []
        for member in self._alive():
            number = member.tell(change)
            if number is not None:
                wait = member.link.answer(number, "change", _ACKNOWLEDGE)
                if everybody or member.stage is not Stage.DRAINING:
                    waits.append(self._acknowledged(member, wait))
                else:
                    self._crew.spawn(_quietly(wait), f"change in {member}")
        acknowledged = asyncio.gather(*waits)
        try:
            if lasting(change):
                await self._journal.flush()
        finally:
            members = await acknowledged
        for silent in members:
            if silent is not None:
                raise Unreachable(f"{silent} did not say in time that it has carried out the change.")

    async def _acknowledged(self, member: Member, wait: Coroutine[Any, Any, Any]) -> Member | None:
        """The member, if it did not answer though it lives; one that is gone needs to know nothing."""
        try:
            await wait
        except Unreachable:
            return None if member.gone.is_set() else member
        return None

    async def refresh(self) -> None:
        """See Control."""
        for seen in await self._ask_all("seen", _GLANCE):
            self._note(seen)

    async def _ask_all(self, name: str, seconds: float) -> list[Any]:
        """The answers of those that answer."""
        asked = (member.link.ask(name, seconds) for member in self._alive() if member.stage is not Stage.STARTING)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def probe(self, fields: Mapping[str, Any], path: str) -> int:
        """See Control. The workers take turns."""
        status = await self._next().link.ask("probe", _PROBE, fields=dict(fields), path=path)
        if not isinstance(status, int):
            raise BadInput("A worker's answer cannot be read.")
        return status

    async def ask(self, path: str, fields: Mapping[str, Any], question: object) -> Answer:
        """See Control. The workers take turns."""
        said = await self._next().link.ask("ask", _PROBE, path=path, fields=dict(fields), question=question)
        try:
            return Answer(int(said["status"]), b64decode(said["body"], validate=True))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("A worker's answer cannot be read.") from error

    def _next(self) -> Member:
        """Whose turn it is. Raises Unreachable."""
        serving = [each for each in self._alive() if each.stage is Stage.SERVING]
        if not serving:
            raise Unreachable("No worker of the proxy serves at this moment.")
        self._turn += 1
        return serving[self._turn % len(serving)]

    async def tunnels(self) -> Sequence[Mapping[str, Any]]:
        """See Control; each worker has its own."""
        found: list[Mapping[str, Any]] = []
        for member in self._alive():
            with suppress(Unreachable, TypeError):  # it is gone, or talks nonsense
                shown = await member.link.ask("tunnels", _ACKNOWLEDGE)
                found += [{**tunnel, "worker": member.child.pid} for tunnel in shown]
        return found

    async def metrics(self) -> bytes:
        """See Control."""
        await asyncio.gather(*(self._listen_to(member) for member in self._alive()))
        stages = Counter(member.stage.value for member in self._members)
        levels = {key("workers", stage.value): stages[stage.value] for stage in Stage if stage is not Stage.GONE}
        workers = sum((member.report for member in self._members), self._past)
        return exposition(workers + own_report(self) + Report({}, levels))

    async def _listen_to(self, member: Member) -> None:
        with suppress(Unreachable):
            await member.hear(_GLANCE)

    # ------------------------------------------------------------ certificates and reload

    async def _certificates(self) -> None:
        """Have new connections get the certificates that are in their files now."""
        async with self._changing:
            try:
                for tls in (self.settings.tls, self.settings.api_tls):
                    if tls is not None:
                        server_context(tls)
                self._api.start()
            except (ConfigError, OSError) as error:
                log.error("The certificates in use stay: %s", error)  # noqa: TRY400
                return
            for member in self._alive():
                try:
                    await member.link.ask("certificate", _ACKNOWLEDGE)
                except HubError as error:
                    log.error("%s keeps the certificate it has: %s", member, error)  # noqa: TRY400
            log.info("New connections get the certificates as they are in their files now.")

    async def _reload(self) -> None:
        """Become the program and the configuration that are there now, if they are good. Returns only if they are not."""
        if self._changing.locked():
            log.warning("A reload is under way already.")
            return
        async with self._changing:
            log.info("Reload: looking whether program and configuration are good.")
            wrong = await trial(self._launcher.command)
            if wrong:
                log.error("Not reloaded, everything goes on as it was: %s", wrong)
                return
            try:
                await self._hand_over()
            except OSError as error:
                log.error("Not reloaded, everything goes on as it was: %s.", error)  # noqa: TRY400
                self._ending = False
                self._api.start()
                for member in self._members:
                    member.link.release()
                    member.link.tell("resume")
                    if member.gone.is_set():
                        self._crew.spawn(self._follow(member), f"follow {member}")

    async def _hand_over(self) -> None:
        """Bring everything to rest, and become. Raises OSError if that cannot be."""
        await self._api.finish(_FINISH)
        self._ending = True  # nobody is started again now
        for member in self._members:
            try:
                if member.stage is Stage.STARTING:
                    raise Unreachable("It does not serve yet.")
                await member.link.ask("pause", _ACKNOWLEDGE)
                member.link.hold()  # half a message would be the end of the link
            except Unreachable as error:
                log.warning("%s is not taken along: %s", member, error)
                member.child.kill()
                await member.bury()
        with suppress(OSError):
            await self._journal.flush(whole=True)
        members = [member for member in self._members if member.link.alive]
        past = self._past + Report(own_report(self).counts)
        left = Left(
            self._generation,
            tuple(member.write() for member in members),
            tuple(self.book.changes()),
            past.counts,
            self._listeners.write(),
        )
        become(self._launcher.command, left, self._listeners, [member.link.file for member in members])

    async def _take_over(self, former: Left) -> None:
        """Go on with what the program before us left."""
        for change in former.changes(self.clock()):
            self.book.apply(change)
        self._past = Report(former.past)
        self._generation = former.generation + 1
        self._serving.set()
        for entry in former.members:
            member = Member(entry["number"], entry["generation"], Child(entry["pid"]), self._note)
            end = socket.socket(fileno=entry["file"])
            end.set_inheritable(False)
            end.setblocking(False)
            await member.adopt(end, Stage(entry["stage"]))
            self._members.append(member)
            self._crew.spawn(member.watch(), f"watch {member}")
            self._crew.spawn(self._follow(member), f"follow {member}")
        log.info("Reloaded; %d workers of before go on until the new ones serve.", len(self._members))


def _words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"


async def _quietly(wait: Coroutine[Any, Any, Any]) -> None:
    with suppress(HubError):
        await wait
