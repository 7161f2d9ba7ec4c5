"""Sign in by what the site's front end says: Shibboleth, Kerberos, a client certificate, checked by Apache or nginx before us.

The front end names the person in a header. Only the proxy knows who its own client is, so only the proxy can tell the front end's word from a
stranger's: it takes the header from everybody, and what a trusted front end said it seals for the hub (:mod:`batchhub.core.vouching`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from traitlets import Unicode

from batchhub.auth.base import Authenticator, LoginKind, Place
from batchhub.auth.rules import known_name
from batchhub.core.errors import ConfigError
from batchhub.core.vouching import HEADER, vouched

log = logging.getLogger(__name__)


class HeaderAuthenticator(Authenticator):
    """Believes a header from the front ends in ``c.Proxy.trusted_proxies``, and from nobody else."""

    kind = LoginKind.REQUEST

    header = Unicode("Remote-User", help="Names the person. Must be in c.Proxy.identity_headers too.").tag(config=True)
    groups_header = Unicode(
        help="Names the person's groups, if the front end says them. Must be in c.Proxy.identity_headers too."
    ).tag(config=True)
    groups_separator = Unicode(";", help="Between two groups; Shibboleth's is ';'.").tag(config=True)

    _place: Place | None = None

    def settle(self, place: Place) -> None:
        """Without a trusted front end, or a proxy that listens to it, nobody could ever be believed."""
        if not place.front_ends:
            raise ConfigError(
                f"HeaderAuthenticator believes only front ends in c.Proxy.trusted_proxies, and that is empty: whoever sends {self.header} "
                "would be whoever they say."
            )
        for name in filter(None, (self.header, self.groups_header)):
            if name.lower() not in place.identity_headers:
                raise ConfigError(
                    f"c.Proxy.identity_headers must name {name!r}, so that the proxy takes it from others."
                )
        if not self.header:
            raise ConfigError("c.HeaderAuthenticator.header must name a header, as in 'Remote-User'.")
        if place.loopback_front:
            log.warning(
                "c.Proxy.trusted_proxies holds this machine's own address: everybody who can run a program here can sign in as anybody"
            )
        self._place = place

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Who the front end says it is."""
        del data
        said = self._said(handler)
        name = said.get(self.header.lower(), "")
        if not name:
            return None
        named = said.get(self.groups_header.lower(), "") if self.groups_header else ""
        groups = [one.strip() for one in named.split(self.groups_separator or ";") if one.strip()]
        return {"name": name, "groups": groups}

    def contradicts(self, handler: Any, name: str) -> bool:
        """Somebody else has signed in at the front end meanwhile, in the same browser. A front end that names nobody says nothing."""
        said = self._said(handler).get(self.header.lower(), "")
        if not said or known_name(self, said) == name:
            return False
        log.info("the front end names %.100r in a session of %s, who is asked to sign in again", said, name)
        return True

    def _said(self, handler: Any) -> Mapping[str, str]:
        lines = handler.request.headers.get_list(HEADER)
        if self._place is None or len(lines) != 1:
            return {}
        return vouched(self._place.key, lines[0], self._place.clock())

    def knows_groups(self) -> bool:
        """Only where a header names them."""
        return bool(self.groups_header)
