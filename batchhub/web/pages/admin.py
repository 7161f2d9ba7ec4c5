"""Everybody's servers, for admins."""

from __future__ import annotations

from collections.abc import Sequence

from tornado.httputil import url_concat

from batchhub.control.service import ServerView
from batchhub.web.tabs import AdminTab

PAGE = 50
SEARCHED = 5000
"""With a filter, this many servers are looked through: it is applied here, the database knows pages only."""


class AdminPage(AdminTab):
    """``/hub/admin``."""

    tab = "servers"

    async def get(self) -> None:
        """A page of the list, live ones unless asked otherwise."""
        query = self.get_query_argument("q", "")[:100].strip()
        live_only = not self.get_query_argument("all", "")
        offset = self._offset()
        views, total = await self._page(query.lower(), live_only=live_only, offset=offset)
        last = offset + len(views)
        self.tab_page(
            "admin.html",
            views=views,
            orphans=self.web.services.orphans(),
            q=query,
            live_only=live_only,
            caption=f"{offset + 1}–{last} of {total}" if views else "",
            earlier=self._address(query, live_only, max(0, offset - PAGE)) if offset else "",
            later=self._address(query, live_only, last) if last < total else "",
            here_url=self._address(query, live_only, offset),
        )

    async def _page(self, query: str, *, live_only: bool, offset: int) -> tuple[Sequence[ServerView], int]:
        hub = self.web.services.hub
        if not query:
            return await hub.all_servers(live_only=live_only, offset=offset, limit=PAGE)
        views, _ = await hub.all_servers(live_only=live_only, offset=0, limit=SEARCHED)
        found = [view for view in views if query in _text(view)]
        return found[offset : offset + PAGE], len(found)

    def _offset(self) -> int:
        text = self.get_query_argument("offset", "0")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0

    def _address(self, query: str, live_only: bool, offset: int) -> str:
        asked = {"q": query, "all": "" if live_only else "1", "offset": str(offset) if offset else ""}
        return url_concat(self.web.links.admin, {name: text for name, text in asked.items() if text})


def _text(view: ServerView) -> str:
    server = view.server
    parts = (server.user, server.name, server.cluster, server.profile, server.host, server.job_id or "")
    return " ".join((*parts, server.phase, view.status.title)).lower()
