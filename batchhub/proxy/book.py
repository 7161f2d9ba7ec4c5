"""The proxy's memory: its routes and the ended sessions, kept in one file so that both survive a restart.

The file holds the servers' secrets, so it is 0600; it is replaced in one step and synced. A file that cannot be read is put aside and
the proxy starts without routes: the hub publishes them again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from batchhub.core.errors import BadInput
from batchhub.core.ports import Clock
from batchhub.core.routes import RouteTable, route_key
from batchhub.proxy.access import Rule
from batchhub.proxy.target import Target, read_target

log = logging.getLogger(__name__)

STARS = "***"
_DEBOUNCE = 0.2  # seconds in which changes are gathered into one write
_FORMAT = 1
_MAX_SESSION = 256


@dataclass(slots=True)
class Route:
    """A route as it was posted: ``data`` holds every field of the body, ``authorization`` included, as it came.

    So many leading segments as ``strip`` says are taken off a request's path before it is sent on; ``host`` is the only host name the route may be used under (empty: any).
    ``last_activity`` moves; all else is fixed, a changed route is a new one.
    """

    path: str
    target: Target
    rule: Rule
    authorization: bytes = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    last_activity: datetime
    strip: int = 0
    host: str = ""

    def public(self) -> dict[str, Any]:
        """What the control API shows."""
        hidden = {"authorization": STARS} if self.data.get("authorization") else {}
        return {**self.data, **hidden, "last_activity": stamp(self.last_activity)}


def read_route(path: str, data: Mapping[str, Any], now: datetime) -> Route:
    """Check a posted route. Raises :class:`BadInput`."""
    target = data.get("target", "")
    if not isinstance(target, str) or (not target and data.get("endpoint") is None):
        raise BadInput("Must specify 'target' as string")
    texts: dict[str, str] = {}
    for name in ("owner", "server_id", "server_name", "authorization", "host"):
        value = data.get(name, "")
        if not isinstance(value, str) or len(value) > 4096:
            raise BadInput(f"{name}: a text is expected.")
        texts[name] = value
    if not (texts["authorization"].isascii() and texts["authorization"].isprintable()) and texts["authorization"]:
        raise BadInput("authorization: printable ASCII is expected.")
    strip = data.get("strip_prefix", False)
    if not isinstance(strip, bool):
        raise BadInput("strip_prefix: true or false is expected.")
    key = route_key(path)
    return Route(
        path=key,
        target=read_target(target, data.get("tunnel"), data.get("endpoint")),
        rule=Rule("" if key == "/" else key, texts["owner"]),
        authorization=texts["authorization"].encode("ascii"),
        data=MappingProxyType(dict(data)),
        last_activity=now,
        strip=key.count("/") if strip and key != "/" else 0,
        host=texts["host"].lower(),
    )


def stamp(moment: datetime) -> str:
    """A time as configurable-http-proxy writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_stamp(text: str) -> datetime:
    """The other way; a time without a zone is UTC. Raises :class:`BadInput`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text[:40]!r} is not a time in ISO 8601.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Book:
    """Routes and revocations, written down as they change. ``changed`` wakes the writer; :meth:`keep` is the writer."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self.routes: RouteTable[Route] = RouteTable()
        self.revoked: dict[str, datetime] = {}

    # ------------------------------------------------------------ changes

    def add(self, route: Route) -> None:
        """Add or replace."""
        self.routes.add(route.path, route)
        self._changed.set()

    def delete(self, path: str) -> bool:
        """Remove; False if it was not there."""
        gone = self.routes.delete(path)
        if gone:
            self._changed.set()
        return gone

    def revoke(self, session: str, until: datetime) -> None:
        """Remember an ended session. Raises :class:`BadInput`."""
        if not session or len(session) > _MAX_SESSION:
            raise BadInput(f"session: a text of 1 to {_MAX_SESSION} characters is expected.")
        self.revoked[session] = max(until, self.revoked.get(session, until))
        self._changed.set()

    def forget_old(self) -> None:
        """Drop revocations whose tickets are all dead anyway."""
        now = self._clock()
        for session in [session for session, until in self.revoked.items() if until <= now]:
            del self.revoked[session]

    # ------------------------------------------------------------ the file

    def load(self) -> None:
        """Read the file, if there is one."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return
        try:
            routes, revoked = _read(json.loads(text), self._clock())
        except (ValueError, TypeError, KeyError, AttributeError, BadInput) as error:
            aside = self._path.with_name(f"{self._path.name}.unreadable")
            self._path.replace(aside)
            log.error(  # noqa: TRY400 - the sentence says it all
                "The proxy's state file cannot be read (%s); it is kept as %s, and routes start empty.", error, aside
            )
            return
        for route in routes:
            self.routes.add(route.path, route)
        self.revoked = revoked
        self.forget_old()

    async def keep(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Write the file whenever something changed, until cancelled."""
        while True:
            await self._changed.wait()
            await sleep(_DEBOUNCE)
            try:
                await self.flush()
            except OSError as error:
                log.error("The proxy's state cannot be saved: %s. Trying again in a second.", error)  # noqa: TRY400
                self._changed.set()
                await sleep(1.0)

    async def flush(self) -> None:
        """Have everything on disk. Raises OSError."""
        async with self._writing:
            self._changed.clear()
            text = self._dump()
            try:
                await asyncio.get_running_loop().run_in_executor(None, _replace, self._path, text)
            except OSError:
                self._changed.set()
                raise

    def _dump(self) -> bytes:
        routes = [
            {"path": key, "data": dict(route.data), "last_activity": stamp(route.last_activity)}
            for key, route in self.routes.all()
        ]
        revoked = {session: stamp(until) for session, until in self.revoked.items()}
        return json.dumps({"format": _FORMAT, "routes": routes, "revoked": revoked}, separators=(",", ":")).encode()

    def idle_since(self, moment: datetime | None) -> Iterator[tuple[str, Route]]:
        """All routes, or those nobody used since."""
        return ((key, route) for key, route in self.routes.all() if moment is None or route.last_activity < moment)


def _read(content: Any, now: datetime) -> tuple[list[Route], dict[str, datetime]]:
    if content["format"] != _FORMAT:
        raise BadInput(f"format {content['format']!r} is not {_FORMAT}")
    routes = [
        read_route(item["path"], item["data"], min(read_stamp(item["last_activity"]), now))
        for item in content["routes"]
    ]
    return routes, {str(session): read_stamp(until) for session, until in content["revoked"].items()}


def _replace(path: Path, text: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
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
