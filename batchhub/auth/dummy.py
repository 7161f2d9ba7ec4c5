"""Any name, one password: for tests and demonstrations on one's own machine."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from typing import Any

from traitlets import Bool, Unicode

from batchhub.auth.base import Authenticator, LoginKind, Place
from batchhub.core.errors import ConfigError

log = logging.getLogger(__name__)


class DummyAuthenticator(Authenticator):
    """Whoever knows the one password is whoever they say."""

    kind = LoginKind.PASSWORD

    password = Unicode(help="The one password. Must be set.").tag(config=True)
    let_anybody_on_the_network_be_anybody = Bool(
        False, help="Allow this where the proxy listens on other addresses than loopback."
    ).tag(config=True)

    def settle(self, place: Place) -> None:
        """Only on loopback, unless the configuration says the contrary in so many words."""
        if not self.password:
            raise ConfigError("c.DummyAuthenticator.password must be set: an empty one would let everybody in.")
        # A front end on the same machine brings the network here.
        alone = place.loopback and not place.front_ends and not place.secure
        if not alone and not self.let_anybody_on_the_network_be_anybody:
            raise ConfigError(
                f"DummyAuthenticator lets whoever knows one password be anybody, and the proxy listens on {place.address or 'every address'}"
                f"{' behind a front end or with TLS' if place.loopback else ''}. "
                "Set c.Proxy.ip = '127.0.0.1', without a front end or TLS, or c.DummyAuthenticator.let_anybody_on_the_network_be_anybody = True."
            )
        log.warning("DummyAuthenticator: whoever knows the one password can be anybody, admins too")

    def knows_groups(self) -> bool:
        """None can come from here."""
        return False

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> str | None:
        """The name as it was typed, if the password is the one."""
        del handler
        given = str(data.get("password", "")).encode()
        right = bool(self.password) and hmac.compare_digest(given, self.password.encode())
        return str(data.get("username", "")) if right else None
