"""Server-sent events: one server's way to being ready, and the list of one's own servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, cast

from tornado.iostream import StreamClosedError

from batchhub.control.service import ServerView
from batchhub.core.errors import BadInput, Denied, HubError
from batchhub.core.model import Phase, UserName, read_server_name
from batchhub.web.api.base import ApiHandler
from batchhub.web.models import brief, fingerprint, progress_event
from batchhub.web.render import tone

Event = dict[str, Any]
CALM = 5
"""The list of servers is looked at this much less often while nothing in it is under way."""


class Stream(ApiHandler):
    """Sends events until there are no more, the browser leaves, or the session ends."""

    _over: asyncio.Event | None = None

    def on_connection_close(self) -> None:
        """Tornado's: the browser left."""
        if self._over:
            self._over.set()

    async def stream(self, events: AsyncGenerator[Event, None]) -> None:
        """Send each event as one ``data:`` line, and a comment when it is quiet for long, so that nothing on the way hangs up."""
        people, me = self.web.services.people, self.me
        with self.web.streams.one(me.name), people.ending(me) as over:
            self._over = over
            if not await people.good(me):  # it ended just before somebody could tell us
                raise Denied("You are not signed in (any more).")
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("Cache-Control", "no-cache, no-store")
            self.set_header("X-Accel-Buffering", "no")
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._send(events, over), name="events"),
                    group.create_task(self._keep_alive(over), name="events: keep alive"),
                ]
                await over.wait()
                for task in tasks:
                    task.cancel()

    async def _send(self, events: AsyncGenerator[Event, None], over: asyncio.Event) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._put(f"data: {json.dumps(event)}\n\n")
        except StreamClosedError:
            pass
        except HubError as error:
            # The status line has been sent. Ending here makes the page ask again, and that answer will carry the status.
            await self._last_words(str(error))
        finally:
            over.set()

    async def _keep_alive(self, over: asyncio.Event) -> None:
        """Also looks whether the session still is one: it may have been ended by another hub, or by its age."""
        try:
            while True:
                await asyncio.sleep(self.web.settings.keep_alive)
                if not await self.web.services.people.good(self.me):
                    break
                await self._put("\n")
        except (StreamClosedError, HubError):
            pass
        finally:
            over.set()

    async def _put(self, text: str) -> None:
        self.write(text)
        await self.flush()

    async def _last_words(self, words: str) -> None:
        with suppress(StreamClosedError):
            await self._put(f": {' '.join(words.split())[:500]}\n\n")


class ProgressApi(Stream):
    """``GET /hub/api/users/NAME/server/progress`` and ``…/servers/SERVER/progress``."""

    async def get(self, user: str, name: str | None = None) -> None:
        """404 if it was never started, 400 if it is not starting; a failure is told as one last event."""
        owner, server = self.subject(user), read_server_name(name or "")
        view = await self.web.services.hub.server(owner, server)
        if view.server.phase is Phase.ENDED and tone(view) != "failed":
            raise BadInput("The server is not starting.")
        await self.stream(self._events(owner, server))

    async def _events(self, owner: UserName, server: str) -> AsyncGenerator[Event, None]:
        # Closed by name: while it lives, the cluster is asked more often.
        watch = cast("AsyncGenerator[ServerView, None]", self.web.services.hub.watch(owner, server))
        async with aclosing(watch):
            async for view in watch:
                yield progress_event(view, self.web.links)


class OwnServersApi(Stream):
    """``GET /hub/api/events``: the list of one's own servers whenever it changed."""

    async def get(self) -> None:
        """Without an end."""
        await self.stream(self._events())

    async def _events(self) -> AsyncGenerator[Event, None]:
        shown, hub, poll = "", self.web.services.hub, self.web.settings.poll
        while True:
            views = await hub.servers_of(self.me.name)
            state = fingerprint(views)
            if state != shown:
                shown = state
                yield {"state": state, "servers": [brief(view) for view in views]}
            moving = any(view.server.alive and view.server.phase is not Phase.READY for view in views)
            await hub.changed(self.me.name, poll if moving else poll * CALM)
