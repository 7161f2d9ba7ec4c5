"""One's API tokens."""

from __future__ import annotations

from datetime import timedelta

from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, HubError
from batchhub.web.tabs import SettingsPage

UNTIL_OUT = "session"
SPANS = (
    ("1", "1 day"),
    ("7", "7 days"),
    ("30", "30 days"),
    ("90", "90 days"),
    ("365", "1 year"),
    (UNTIL_OUT, "until I sign out here"),
)
MAX_NOTE = 100


class TokenPage(SettingsPage):
    """``/hub/token``: make one, which is shown once, or revoke one.

    A token lives on by its maker's wish when they sign out, as in JupyterHub; one may be made to end with the session instead.
    """

    tab = "token"

    async def get(self) -> None:
        """The list."""
        await self._show()

    async def post(self) -> None:
        """Make or revoke. A revoked one leaves the list, so a reload cannot do harm; a new one is printed in the answer itself."""
        people, user = self.web.services.people, self.me.name
        revoke = self.get_body_argument("revoke", "")[:64]
        if revoke:
            await people.revoke_token(user, revoke)
            self.note(DeedKind.TOKEN_REVOKED, user, f"token {revoke}")
            self.see_other(self.web.links.token)
            return
        note, days = self.get_body_argument("note", ""), self.get_body_argument("days", "30")
        try:
            if days not in dict(SPANS):
                raise BadInput("Choose how long the token shall be valid.")
            if not note or len(note) > MAX_NOTE or not note.isprintable():
                raise BadInput(f"Say in a few words, at most {MAX_NOTE} characters, what the token is for.")
            fresh = await self._make(note, days)
        except HubError as error:
            self.set_status(error.status)
            await self._show(problem=str(error), note=note[:MAX_NOTE], chosen=days)
            return
        await self._show(fresh=fresh)

    async def _make(self, note: str, days: str) -> str:
        me, people = self.me, self.web.services.people
        if days == UNTIL_OUT:
            life = (me.until or self.web.services.clock()) - self.web.services.clock()
            fresh = await people.make_token(me.name, note, life, me.session)
        else:
            fresh = await people.make_token(me.name, note, timedelta(days=int(days)))
        self.note(DeedKind.TOKEN_MADE, me.name, f"for {note!r}, valid {dict(SPANS)[days]}")
        return fresh

    async def _show(self, *, fresh: str = "", problem: str = "", note: str = "", chosen: str = "30") -> None:
        tokens = await self.web.services.people.tokens(self.me.name)
        self.tab_page("token.html", tokens=tokens, fresh=fresh, problem=problem, note=note, chosen=chosen, spans=SPANS)
