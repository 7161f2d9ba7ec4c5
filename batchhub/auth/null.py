"""Nobody signs in: while a site is being set up, or where people come with tokens alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchhub.auth.base import Authenticator, LoginKind


class NullAuthenticator(Authenticator):
    """Lets nobody in, whatever the lists say. The page says so."""

    kind = LoginKind.CLOSED

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> None:
        """No."""
        del handler, data

    def knows_groups(self) -> bool:
        """None can come from here."""
        return False

    def check_allowed(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool:
        """No."""
        del username, authentication
        return False
