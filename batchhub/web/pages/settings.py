"""One's own sessions: which there are, and their ends."""

from __future__ import annotations

from batchhub.auth.sessions import HANDLE
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput
from batchhub.web.base import Page
from batchhub.web.tabs import SettingsPage


class SettingsRoot(Page):
    """``/hub/settings``."""

    def get(self) -> None:
        """To the first of its pages."""
        self.redirect(self.web.links.sessions)


class SessionsPage(SettingsPage):
    """``/hub/settings/sessions``: the list; a POST ends one (``end``), the others, or all (``what``)."""

    tab = "sessions"

    async def get(self) -> None:
        """All of them; the one that asks is marked."""
        sessions = await self.web.services.people.sessions_of(self.me.name, self.me.session)
        self.tab_page("sessions.html", sessions=sessions, ended=read_count(self.get_query_argument("ended", "")))

    async def post(self) -> None:
        """End, and back to the list, or to the sign-in page if that was the own one. Raises BadInput, NotFound."""
        me, people, links = self.me, self.web.services.people, self.web.links
        handle, what = self.get_body_argument("end", "")[:HANDLE], self.get_body_argument("what", "")
        if handle:
            await people.end_session(me.name, handle)
            count, words = 1, f"session {handle}"
        elif what in {"others", "all"}:
            count = await people.end_sessions(me.name, keep=me.session if what == "others" else "")
            words = f"{'the others' if what == 'others' else 'all'}: {count}"
        else:
            raise BadInput("Choose which sessions shall end.")
        self.note(DeedKind.SESSION_ENDED, me.name, words)
        if what == "all" or me.session.startswith(handle or "-"):
            self.leave()
            return
        self.see_other(links.sessions, ended=str(count))


def read_count(text: str) -> int:
    """A small number from an address; 0 if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
