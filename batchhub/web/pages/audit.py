"""The audit trail, for admins."""

from __future__ import annotations

from tornado.httputil import url_concat

from batchhub.core.deeds import MOST_NAME, TITLES, DeedScope, one_line
from batchhub.web.tabs import AdminTab

PAGE = 100


class AuditPage(AdminTab):
    """``/hub/admin/audit``: the newest first; ``user`` and ``kind`` filter, ``before`` is the number the page begins below."""

    tab = "audit"

    async def get(self) -> None:
        """A page of the list."""
        user = self.get_query_argument("user", "").strip()[:MOST_NAME]
        kind = self.get_query_argument("kind", "")[:40]
        before = self.get_query_argument("before", "")
        number = int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None
        # Names stand in the trail as they are written on a line.
        scope = DeedScope(one_line(user, MOST_NAME) if user else None, kind or None, before=number)
        found = await self.web.services.deeds.find(scope, PAGE + 1)
        shown = found[:PAGE]
        self.tab_page(
            "audit.html",
            deeds=[line.deed for line in shown],
            titles=TITLES,
            user=user,
            kind=kind,
            newest=self._address(user, kind, None) if number is not None else "",
            older=self._address(user, kind, shown[-1].number) if len(found) > PAGE else "",
        )

    def _address(self, user: str, kind: str, before: int | None) -> str:
        asked = {"user": user, "kind": kind, "before": "" if before is None else str(before)}
        return url_concat(self.web.links.audit, {name: text for name, text in asked.items() if text})
