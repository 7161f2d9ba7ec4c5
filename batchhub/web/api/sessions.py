"""A person's sessions, for programs."""

from __future__ import annotations

from typing import Any

from batchhub.auth.sessions import HANDLE
from batchhub.core.deeds import DeedKind
from batchhub.core.model import UserName
from batchhub.web.api.base import ApiHandler
from batchhub.web.ports import SessionView
from batchhub.web.render import iso


class SessionsApi(ApiHandler):
    """``/hub/api/users/NAME/sessions``: one's own, or anybody's for an admin."""

    async def get(self, user: str) -> None:
        """Those by which something may be open, last used first. 404 for somebody unknown."""
        owner = await self._owner(user)
        found = await self.web.services.people.sessions_of(owner, self.me.session)
        self.answer({"sessions": [session_model(one) for one in found]})

    async def delete(self, user: str) -> None:
        """End all, the one that asks too; how many there were."""
        owner = await self._owner(user)
        count = await self.web.services.people.end_sessions(owner)
        self.note(DeedKind.SESSION_ENDED, owner, f"all: {count}")
        self.answer({"ended": count})

    async def _owner(self, user: str) -> UserName:
        return (await self.web.services.people.person(self.subject(user))).name


class SessionApi(ApiHandler):
    """``/hub/api/users/NAME/sessions/ID``: the ID is the one in the list."""

    async def delete(self, user: str, handle: str) -> None:
        """End it: 204, or 404 if there is none such."""
        owner = self.subject(user)
        await self.web.services.people.end_session(owner, handle)
        self.note(DeedKind.SESSION_ENDED, owner, f"session {handle[:HANDLE]}")
        self.empty(204)


def session_model(session: SessionView) -> dict[str, Any]:
    """As the API shows it."""
    return {
        "id": session.id,
        "created": iso(session.created),
        "last_activity": iso(session.last_used),
        "expires_at": iso(session.ends),
        "address": session.address,
        "agent": session.said,
        "current": session.current,
        "idle": session.idle,
    }
