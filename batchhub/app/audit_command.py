"""``batchhub audit``: who did what, read from the database, so also while the hub is down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from traitlets import Bool, Integer, Unicode

from batchhub.app.command import Command, say
from batchhub.app.events_command import must_be_there, plain, table
from batchhub.app.state import utc_now
from batchhub.config import traits
from batchhub.config.tables import suggest
from batchhub.core.deeds import MOST_NAME, DeedKind, DeedLine, DeedScope, as_json, one_line
from batchhub.core.errors import BadInput
from batchhub.core.limits import parse_walltime
from batchhub.store.audit import AuditStore
from batchhub.store.store import Store

_COLUMNS = ("TIME (UTC)", "KIND", "ABOUT", "BY", "FROM", "WORDS")


class AuditCommand(Command):
    """Show who signed in, who was refused, and who ended whose session."""

    name = "batchhub audit"
    unlisted = frozenset({"ip", "port"})
    description = (
        "Show who did what: sign-ins and refused ones, sessions and tokens that were ended and by whom, rights that were given or taken, what admins did "
        "for others. The database is read directly, so the hub may be down. The hub's log has each of these too, as a line of JSON from batchhub.audit."
    )
    user = Unicode(help="Only what was done by this user or about them.").tag(config=True)
    kind = Unicode(help="Only this kind.").tag(config=True)
    since = Unicode(help="Only from then on: 2026-11-28, 2026-11-28T09:30 (UTC), or a time ago as in 12h.").tag(
        config=True
    )
    limit = Integer(100, min=1, max=100_000, help="The most lines, the newest ones.").tag(config=True)
    lines = Bool(False, help="One JSON object a line.").tag(config=True)
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.aliases,
        "user": ("AuditCommand.user", "NAME|Only what was done by this user or about them."),
        "kind": ("AuditCommand.kind", f"KIND|Only this kind: {', '.join(DeedKind)}."),
        "since": (
            "AuditCommand.since",
            "WHEN|From then on: 2026-11-28, 2026-11-28T09:30 (UTC), or a time ago as in 12h.",
        ),
        "limit": ("AuditCommand.limit", "N|The most lines, the newest ones; 100 if not said."),
    }
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.flags,
        "json": ({"AuditCommand": {"lines": True}}, "One JSON object a line."),
    }

    def act(self) -> None:
        """What the class says."""
        if self.extra_args:
            raise BadInput(f"batchhub audit takes options only, not {self.extra_args[0][:40]!r}.")
        scope = DeedScope(
            user=one_line(self.user, MOST_NAME) if self.user else None,
            kind=self.kind or None,
            since=read_since(self.since, utc_now()) if self.since else None,
        )
        if scope.kind is not None and scope.kind not in set(DeedKind):
            raise BadInput(
                f"--kind={self.kind}: there is no such kind; {suggest(self.kind, [kind.value for kind in DeedKind])}"
            )
        url = self.trait(traits.BatchHub).db_url or self.state().database
        must_be_there(url)
        found = asyncio.run(_find(url, scope, self.limit))
        self._print(tuple(reversed(found)))

    def _print(self, found: Sequence[DeedLine]) -> None:
        if self.lines:
            for line in found:
                say(json.dumps(as_json(line.deed)))
        elif not found:
            say("Nothing.")
        else:
            for text in table([_COLUMNS, *map(_cells, found)]):
                say(text)


async def _find(url: str, scope: DeedScope, limit: int) -> tuple[DeedLine, ...]:
    store = Store(url, clock=utc_now, create=False)
    await store.open()
    try:
        return await AuditStore(store).find(scope, limit)
    finally:
        await store.close()


def read_since(text: str, now: datetime) -> datetime:
    """A moment, in UTC unless it says otherwise, or how long ago. Raises BadInput."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return now - parse_walltime(text)
    except (BadInput, OverflowError) as error:
        raise BadInput(
            f"--since={text[:40]}: a day (2026-11-28), a moment (2026-11-28T09:30) or a time ago (12h) is expected."
        ) from error


def _cells(line: DeedLine) -> tuple[str, ...]:
    done = line.deed
    cells = (f"{done.at:%Y-%m-%d %H:%M:%S}", done.kind, done.user, done.by, done.address, done.words)
    return tuple(plain(cell) for cell in cells)
