"""Everybody the hub knows, for admins: their sessions and tokens, and the ends of these."""

from __future__ import annotations

from tornado.httputil import url_concat

from batchhub.auth.sessions import HANDLE
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput
from batchhub.web.base import MAX_NAME
from batchhub.web.pages.settings import read_count
from batchhub.web.tabs import AdminTab

PAGE = 50


class PeoplePage(AdminTab):
    """``/hub/admin/people``."""

    tab = "people"

    async def get(self) -> None:
        """A page of the list, by name."""
        part = self.get_query_argument("q", "").strip()[:100]
        offset = read_count(self.get_query_argument("offset", ""))
        found = await self.web.services.people.everybody(part, offset, PAGE + 1)
        self.tab_page(
            "people.html",
            people=found[:PAGE],
            q=part,
            earlier=self._address(part, max(0, offset - PAGE)) if offset else "",
            later=self._address(part, offset + PAGE) if len(found) > PAGE else "",
        )

    def _address(self, part: str, offset: int) -> str:
        asked = {"q": part, "offset": str(offset) if offset else ""}
        return url_concat(self.web.links.people, {name: text for name, text in asked.items() if text})


class PersonPage(AdminTab):
    """``/hub/admin/people/NAME``; a POST ends a session (``end``), all of them, or all tokens (``what``)."""

    tab = "people"

    async def get(self, name: str) -> None:
        """What is known of them. Raises NotFound."""
        people = self.web.services.people
        person = await people.person(name[:MAX_NAME])
        self.tab_page(
            "person.html",
            person=person,
            sessions=await people.sessions_of(person.name, self.me.session),
            tokens=await people.tokens(person.name),
            servers=await self.web.services.hub.servers_of(person.name),
            ended=self.get_query_argument("ended", "") if self._counted() else "",
            what=self.get_query_argument("what", "") if self._counted() else "",
        )

    def _counted(self) -> bool:
        known = self.get_query_argument("what", "") in {"sessions", "tokens"}
        return known and bool(read_count(self.get_query_argument("ended", "")))

    async def post(self, name: str) -> None:
        """End, and back. Raises NotFound, BadInput."""
        people = self.web.services.people
        person = (await people.person(name[:MAX_NAME])).name
        handle, what = self.get_body_argument("end", "")[:HANDLE], self.get_body_argument("what", "")
        if handle:
            await people.end_session(person, handle)
            self.note(DeedKind.SESSION_ENDED, person, f"session {handle}")
            count, what = 1, "sessions"
        elif what == "sessions":
            count = await people.end_sessions(person)
            self.note(DeedKind.SESSION_ENDED, person, f"all: {count}")
        elif what == "tokens":
            count = await people.revoke_tokens(person)
            self.note(DeedKind.TOKEN_REVOKED, person, f"all: {count}")
        else:
            raise BadInput("Choose which sessions or tokens shall end.")
        self.see_other(self.web.links.person(person), ended=str(count), what=what)
