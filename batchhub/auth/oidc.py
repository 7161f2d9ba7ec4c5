"""Sign in with any OpenID Connect provider: Keycloak, Entra ID, Okta, Authentik, a university's own (OpenID Connect Core and Discovery 1.0)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from traitlets import Set, Unicode

from batchhub.auth.fetched import Fetched
from batchhub.auth.key_ring import FRESH, KeyRing
from batchhub.auth.oauth import Endpoints, OAuthAuthenticator, TokenEnded, Tokens, Vouched
from batchhub.auth.oauth_http import check_url
from batchhub.core.errors import ConfigError, Unreachable

log = logging.getLogger(__name__)


class OpenIDConnect(OAuthAuthenticator):
    """Everything is found from ``issuer``; what counts is the ID token, signed by the provider for this hub and this sign-in.

    Not for use by itself: settings of a class hold for those that are made from it, and ``allow_all`` for a campus is not meant for Google.
    """

    login_service = Unicode(
        "", help="The name on the login page, as in: Sign in with NAME. Empty: the issuer's host."
    ).tag(config=True)
    issuer = Unicode(
        help="The provider's own name for itself, spelt exactly as it does: https://id.example.org/realms/x."
    ).tag(config=True)
    scope = Set(
        Unicode(), default_value={"openid", "profile", "email"}, help="What the hub asks the provider to tell."
    ).tag(config=True)
    username_claim = Unicode(
        "preferred_username",
        help="The claim that becomes the name. An 'email' has to be a verified one. 'sub' never changes hands; people may be able to choose others.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._found = Fetched(self._discover, self._clock)
        self._keys = KeyRing(self.asker, self._clock, self.tools, self._title)

    def check_settings(self) -> None:
        """An issuer is needed, and ``openid`` among the scopes, without which there is no ID token."""
        super().check_settings()
        check_url(self.issuer, f"c.{type(self).__name__}.issuer")
        self.login_service = self.login_service or str(urlsplit(self.issuer).hostname)
        if "openid" not in self.scope:
            raise ConfigError(f"c.{type(self).__name__}.scope must hold 'openid'.")
        age = self.extra_authorize_params.get("max_age", "0")
        if not (age.isascii() and age.isdecimal()):
            raise ConfigError(
                f"c.{type(self).__name__}.extra_authorize_params: max_age is {age!r}; a number of seconds is expected."
            )

    async def endpoints(self) -> Endpoints:
        """From the provider's description, kept for an hour. Raises Unreachable, ConfigError."""
        return await self._found.get(self.issuer.rstrip("/") + "/.well-known/openid-configuration", FRESH)

    async def claims(self, tokens: Tokens, nonce: str | None, subject: str = "") -> Vouched | None:
        """The ID token's, and of the userinfo endpoint's those that the token does not have.

        Without a new ID token, what userinfo did not tell, or told otherwise, is as the earlier one said.
        """
        signed: Mapping[str, Any] = {}
        if tokens.id:
            try:
                signed = await self._id_token(tokens, nonce)
            except self.tools.BadToken as error:
                log.warning("%s: the ID token does not count: %s", self._title, error)
                return None
        elif nonce is not None:
            log.warning("%s: there is no ID token in the answer", self._title)
            return None
        subject = subject or str(signed["sub"])
        if signed and signed["sub"] != subject:
            log.warning("%s: the ID token is somebody else's", self._title)
            return None
        told = await self._userinfo(tokens, subject, needed=not signed)
        if told is None:
            return None
        signed = signed or tokens.signed
        only = frozenset(name for name, value in signed.items() if _unordered(told.get(name)) != _unordered(value))
        return Vouched(merged(signed, told), only)

    def is_issuer(self, issuer: object) -> bool:
        """Exactly ours."""
        return bool(issuer == self.issuer)

    async def _userinfo(self, tokens: Tokens, subject: str, *, needed: bool) -> Mapping[str, Any] | None:
        """Empty where it is not asked; ``None`` is no. ``needed``: nothing else says anything. Raises TokenEnded, Unreachable."""
        url = (await self.endpoints()).userinfo if self.use_userinfo else ""
        if not url:
            if needed:
                raise TokenEnded
            return {}
        answer = await self.asker.get(url, tokens.access)
        if not self.answers(answer, "userinfo"):
            return None
        # Core, 5.3.2: without this check, another person's token could be used to borrow their claims.
        if answer.table.get("sub") != subject:
            log.warning("%s: userinfo says nothing about %.100r", self._title, subject)
            return None
        return answer.table

    async def _id_token(self, tokens: Tokens, nonce: str | None) -> Mapping[str, Any]:
        """Checked. Raises BadToken, Unreachable."""
        age = self.extra_authorize_params.get("max_age")
        expected = self.tools.Expected(
            self.issuer, self.client_id, nonce, tokens.access, max_age=int(age) if age and nonce is not None else None
        )
        return await self._keys.claims(tokens.id, (await self.endpoints()).keys, expected)

    async def _discover(self, url: str) -> Endpoints:
        """Discovery 1.0, section 4. The description has to be of the issuer that was asked for, else any site could name another's."""
        answer = await self.asker.get(url)
        about = answer.table
        if answer.code != 200 or not about:
            raise Unreachable(f"{self._title} does not describe itself ({answer.code}); please try again in a minute.")
        if about.get("issuer") != self.issuer:
            raise ConfigError(
                f"c.{type(self).__name__}.issuer is {self.issuer!r}, and who answers there is {about.get('issuer')!r:.200}."
            )
        urls = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            url = about.get(name, "" if name == "userinfo_endpoint" else None)
            urls[name] = check_url(str(url), f"{name} of {self.issuer}") if url != "" else ""
        methods = about.get("token_endpoint_auth_methods_supported")
        return Endpoints(
            urls["authorization_endpoint"],
            urls["token_endpoint"],
            urls["userinfo_endpoint"],
            urls["jwks_uri"],
            secret_in_form=isinstance(methods, list) and "client_secret_basic" not in methods,
            says_issuer=about.get("authorization_response_iss_parameter_supported") is True,
        )


def _unordered(value: object, depth: int = 8) -> object:
    """Lists of groups and roles come in any order."""
    if isinstance(value, list) and depth:
        return sorted(repr(_unordered(one, depth - 1)) for one in value)
    if isinstance(value, dict) and depth:
        return {name: _unordered(one, depth - 1) for name, one in value.items()}
    return value


class OIDCAuthenticator(OpenIDConnect):
    """Any provider that is no preset."""


def merged(signed: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ID token's claims, and those of userinfo that it does not have. What says that an address is verified says it of the same address."""
    claims = {**told, **signed}
    claims.pop("email_verified", None)
    for source in (signed, told):
        if "email_verified" in source and source.get("email") == claims.get("email"):
            claims.setdefault("email_verified", source["email_verified"])
    return claims
