"""``batchhub events``: the trail of what happened to servers, read from the database, so also while the hub is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Bool, Integer

from batchhub.app.command import Command, say
from batchhub.app.state import utc_now
from batchhub.config import traits
from batchhub.core.errors import BadInput, NotFound
from batchhub.core.model import read_server_id, read_server_name
from batchhub.store.engine import read_url
from batchhub.store.store import Store
from batchhub.store.trail import Line, Scope

FOLLOW_SECONDS = 2.0
_COLUMNS = ("TIME (UTC)", "SERVER", "RUN", "KIND", "BY", "SEEN", "DONE", "WORDS")
_WIDEST = 48
"""Characters of a column; what is longer pushes its line's rest to the right instead of everybody's."""


class EventsCommand(Command):
    """Show what happened to servers."""

    name = "batchhub events"
    arguments = "[USER | USER/SERVER | USER/ | SERVER-ID]"
    unlisted = frozenset({"ip", "port"})
    description = (
        "Show what happened to servers: when, what was seen, what was done, by whom. Everybody's, a person's, those of one server (USER/ is "
        "the default one), or one run's, named by its id. The database is read directly, so the hub may be down."
    )
    limit = Integer(100, min=1, max=100_000, help="The most events, the newest ones.").tag(config=True)
    lines = Bool(False, help="One JSON object a line.").tag(config=True)
    follow = Bool(False, help="Go on with new ones, until Ctrl-C.").tag(config=True)
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.aliases,
        "limit": ("EventsCommand.limit", "N|The most events, the newest ones; 100 if not said."),
    }
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.flags,
        "json": ({"EventsCommand": {"lines": True}}, "One JSON object a line."),
        "follow": ({"EventsCommand": {"follow": True}}, "Go on with new ones, until Ctrl-C."),
    }

    def act(self) -> None:
        """What the class says."""
        if len(self.extra_args) > 1:
            raise BadInput(f"One of {self.arguments} is expected, not {len(self.extra_args)} words.")
        url = self.trait(traits.BatchHub).db_url or self.state().database
        must_be_there(url)
        asyncio.run(self._show(url, self.extra_args[0] if self.extra_args else ""))

    async def _show(self, url: str, word: str) -> None:
        store = Store(url, clock=utc_now, create=False)
        await store.open()
        try:
            scope = await read_scope(store, word)
            found = await store.trail(scope, self.limit)
            self._print(found, head=True)
            shown = {line.number for line in found}
            while self.follow:
                await asyncio.sleep(FOLLOW_SECONDS)
                # Two processes' events may become visible in another order than they are numbered in: the newest are all looked at.
                found = await store.trail(scope, max(self.limit, 1000))
                fresh = [line for line in found if line.number not in shown]
                shown = {line.number for line in found} | shown
                self._print(fresh, head=False)
        finally:
            await store.close()

    def _print(self, lines: Iterable[Line], *, head: bool) -> None:
        if self.lines:
            for line in lines:
                say(json.dumps(_as_json(line), ensure_ascii=True))
            return
        rows = [_cells(line) for line in lines]
        if not rows and head and not self.follow:
            say("No events.")
            return
        for text in table([_COLUMNS, *rows] if head else rows):
            say(text)


async def read_scope(store: Store, word: str) -> Scope:
    """Whose events are meant. Raises BadInput, NotFound."""
    if not word:
        return Scope()
    user, slash, name = word.partition("/")
    if slash:
        return Scope(user=user, name=read_server_name(name))
    try:
        server_id = read_server_id(word)
    except BadInput:
        return Scope(user=word)
    known_run, known_user = await store.knows_server(server_id), await store.user(word) is not None
    if known_run and known_user:
        raise BadInput(f"{word!r} is both a server's id and a user; say {word}/SERVER for the user's.")
    if not known_run and not known_user:
        raise NotFound(f"The database knows neither a user nor a server with the id {word!r}.")
    return Scope(server_id=server_id) if known_run else Scope(user=word)


def must_be_there(url: str) -> None:
    """Looking makes no database. Raises NotFound, ConfigError."""
    where = read_url(url)
    path = where.database or ""
    if where.get_backend_name() == "sqlite" and not path.startswith("file:") and not Path(path).is_file():
        raise NotFound(f"There is no database {path}: no hub has run with this configuration yet.")


def _as_json(line: Line) -> dict[str, str | None]:
    event = line.event
    return {
        "time": event.at.isoformat(),
        "user": line.user,
        "server": line.name,
        "run": event.server_id,
        "cluster": line.cluster,
        "job": line.job_id,
        "kind": event.kind,
        "by": event.by,
        "seen": event.seen,
        "done": event.done,
        "words": event.words,
    }


def _cells(line: Line) -> tuple[str, ...]:
    event = line.event
    cells = (
        f"{event.at:%Y-%m-%d %H:%M:%S}",
        f"{line.user}/{line.name}",
        event.server_id,
        event.kind,
        event.by,
        event.seen,
        event.done,
        event.words,
    )
    return tuple(plain(cell) for cell in cells)


def plain(text: str) -> str:
    """On one line, and without anything a terminal would obey: schedulers and job logs say what they like."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(shown.split())


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Lines of columns as wide as what stands in them, within reason."""
    widths = [min(_WIDEST, max(len(row[place]) for row in rows)) for place in range(len(rows[0]))] if rows else []
    for row in rows:
        yield "  ".join(f"{cell or '-':{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
