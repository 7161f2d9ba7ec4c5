"""Providers whose addresses and habits are known: GitHub, GitLab, Google, Globus."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from traitlets import Bool, Set, Unicode

from batchhub.auth.oauth import Endpoints, OAuthAuthenticator, Tokens, Vouched
from batchhub.auth.oauth_http import check_url
from batchhub.auth.oidc import OpenIDConnect

log = logging.getLogger(__name__)

_PAGE = 100
_PAGES = 10
"""Pages of a list that are read: 1,000 organisations or teams."""


class GitHubAuthenticator(OAuthAuthenticator):
    """GitHub, or a GitHub Enterprise server. It speaks OAuth 2 without OpenID Connect: who it is, is asked of its API.

    Groups are the organisations (``org``) and teams (``org:team``) somebody is an active member of, in lower case, as GitHub compares them.
    """

    lasting_tokens = True
    login_service = Unicode("GitHub", help=OAuthAuthenticator.login_service.help).tag(config=True)
    github_url = Unicode("https://github.com", help="The web site: of GitHub Enterprise, your own.").tag(config=True)
    github_api_url = Unicode("https://api.github.com", help="The API: of GitHub Enterprise, https://HOST/api/v3.").tag(
        config=True
    )
    username_claim = Unicode(
        "login",
        help="'login', 'email' (the primary one, if verified; add user:email to the scope) or 'id', the number that stays when a login changes hands.",
    ).tag(config=True)
    scope = Set(
        Unicode(),
        help="What the hub asks for. With groups, 'read:org' is added; with username_claim 'email', 'user:email'.",
    ).tag(config=True)

    def check_settings(self) -> None:
        """Addresses, and names of groups as they will be compared."""
        name = type(self).__name__
        check_url(self.github_url, f"c.{name}.github_url")
        check_url(self.github_api_url, f"c.{name}.github_api_url")
        super().check_settings()
        self.allowed_groups = {group.lower() for group in self.allowed_groups}
        self.admin_groups = {group.lower() for group in self.admin_groups}
        more = {"read:org"} if self._wants_groups() else set()
        self.scope = {*self.scope, *more, *({"user:email"} if self.username_claim == "email" else ())}

    def knows_groups(self) -> bool:
        """Always: organisations and teams."""
        return True

    async def endpoints(self) -> Endpoints:
        """They do not move."""
        base, api = self.github_url.rstrip("/"), self.github_api_url.rstrip("/")
        return Endpoints(
            f"{base}/login/oauth/authorize", f"{base}/login/oauth/access_token", f"{api}/user", secret_in_form=True
        )

    async def claims(self, tokens: Tokens, nonce: str | None, subject: str = "") -> Vouched | None:
        """The account, its verified primary address where that is the name, its organisations and teams where they count."""
        del nonce  # GitHub has none; PKCE binds the code to this browser's sign-in
        answer = await self.asker.get((await self.endpoints()).userinfo, tokens.access)
        if not self.answers(answer, "whose token it gave"):
            return None
        number, login = answer.table.get("id"), answer.table.get("login")
        if not isinstance(number, int) or not isinstance(login, str) or (subject and str(number) != subject):
            log.warning("%s: the access token is of no account, or of another", self._title)
            return None
        claims: dict[str, Any] = {"id": number, "login": login, "name": answer.table.get("name")}
        if self.username_claim == "email":
            primary = [row for row in await self._list("user/emails", tokens) if row.get("primary") is True]
            claims |= (
                {"email": primary[0].get("email"), "email_verified": primary[0].get("verified")} if primary else {}
            )
        if self._wants_groups():
            claims["groups"] = await self._groups(tokens)
        return Vouched(claims)

    def groups(self, claims: Mapping[str, Any]) -> Sequence[str]:
        """As :meth:`claims` found them."""
        return list(claims.get("groups", ()))

    def subject_of(self, claims: Mapping[str, Any]) -> str:
        """The account's number."""
        return str(claims["id"])

    def _wants_groups(self) -> bool:
        return bool(self.allowed_groups or self.admin_groups or self.groups_claim)

    async def _groups(self, tokens: Tokens) -> Sequence[str]:
        rows = await self._list("user/memberships/orgs", tokens)
        # An invitation is no membership.
        found = [_login(row.get("organization")) for row in rows if row.get("state") == "active"]
        for row in await self._list("user/teams", tokens):
            organisation, team = _login(row.get("organization")), row.get("slug")
            found.append(f"{organisation}:{team}".lower() if organisation and isinstance(team, str) else "")
        return sorted(set(filter(None, found)))

    async def _list(self, path: str, tokens: Tokens) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        for page in range(1, _PAGES + 1):
            url = f"{self.github_api_url.rstrip('/')}/{path}?per_page={_PAGE}&page={page}"
            answer = await self.asker.get(url, tokens.access)
            if not self.answers(answer, path, no=(400, 403, 404)):
                return []
            rows += answer.rows
            if len(answer.rows) < _PAGE:
                break
        return rows


def _login(organisation: object) -> str:
    login = organisation.get("login") if isinstance(organisation, dict) else None
    return login.lower() if isinstance(login, str) else ""


class GitLabAuthenticator(OpenIDConnect):
    """gitlab.com, or a GitLab of one's own (``issuer``). Groups are full paths: ``physics/theory``."""

    login_service = Unicode("GitLab", help=OAuthAuthenticator.login_service.help).tag(config=True)
    issuer = Unicode("https://gitlab.com", help="The GitLab's address, without a slash at its end.").tag(config=True)
    groups_claim = Unicode("groups", help="GitLab's userinfo lists them here.").tag(config=True)


class GoogleAuthenticator(OpenIDConnect):
    """Google accounts. The name is the verified e-mail address; who is let in is best said by ``hosted_domain``."""

    login_service = Unicode("Google", help=OAuthAuthenticator.login_service.help).tag(config=True)
    issuer = Unicode("https://accounts.google.com", help="Google's name for itself.").tag(config=True)
    username_claim = Unicode("email", help="The verified address, or 'sub'.").tag(config=True)
    hosted_domain = Set(
        Unicode(),
        help="Google Workspace domains, of one of which the account must be, by the claim 'hd' and exactly: an address that only ends "
        "so says nothing, since anybody can give an ordinary account an address from elsewhere.",
    ).tag(config=True)
    allow_hosted_domain = Bool(False, help="Let everybody of the hosted domains in.").tag(config=True)

    def refuses(self, claims: Mapping[str, Any]) -> str:
        """Accounts of other domains besides."""
        if self.hosted_domain and not _one_of(claims.get("hd"), self.hosted_domain):
            return "the account is not of the hosted domain"
        return super().refuses(claims)

    def counting(self) -> set[str]:
        """The domain too."""
        return super().counting() | {"hd"}

    def page_parameters(self) -> Mapping[str, str]:
        """``hd`` has Google offer the right account; it decides nothing."""
        hint = {"hd": next(iter(self.hosted_domain))} if len(self.hosted_domain) == 1 else {}
        return {**hint, **super().page_parameters()}

    def check_allowed(self, username: str, authentication: Mapping[str, Any] | None = None) -> bool:
        """The lists, and the domain where that is said to be enough."""
        return bool(super().check_allowed(username, authentication)) or bool(
            self.hosted_domain and self.allow_hosted_domain
        )


class GlobusAuthenticator(OpenIDConnect):
    """Globus Auth. Groups are Globus groups' UUIDs: their names are nobody's own."""

    login_service = Unicode("Globus", help=OAuthAuthenticator.login_service.help).tag(config=True)
    issuer = Unicode("https://auth.globus.org", help="Globus Auth's name for itself.").tag(config=True)
    identity_provider = Set(
        Unicode(),
        help="UUIDs of identity providers, by one of which the person must have signed in: the claim 'identity_provider'.",
    ).tag(config=True)
    groups_url = Unicode("https://groups.api.globus.org", help="The Globus Groups service.").tag(config=True)

    def check_settings(self) -> None:
        """With groups, the scope to ask for them."""
        check_url(self.groups_url, f"c.{type(self).__name__}.groups_url")
        super().check_settings()
        if self.allowed_groups or self.admin_groups:
            self.scope = {*self.scope, _GLOBUS_GROUPS}

    def knows_groups(self) -> bool:
        """Always: Globus Groups."""
        return True

    def refuses(self, claims: Mapping[str, Any]) -> str:
        """People of other identity providers besides."""
        if self.identity_provider and not _one_of(claims.get("identity_provider"), self.identity_provider):
            return "the identity provider is not one of ours"
        return super().refuses(claims)

    def counting(self) -> set[str]:
        """The identity provider too."""
        return super().counting() | {"identity_provider"}

    async def claims(self, tokens: Tokens, nonce: str | None, subject: str = "") -> Vouched | None:
        """With the groups, which another service knows, for a token of its own."""
        found = await super().claims(tokens, nonce, subject)
        if found is None or not (self.allowed_groups or self.admin_groups):
            return found
        return replace(found, claims={**found.claims, "globus_groups": await self._groups(tokens)})

    def groups(self, claims: Mapping[str, Any]) -> Sequence[str]:
        """As :meth:`claims` found them."""
        return list(claims.get("globus_groups", ()))

    async def _exchange(self, there: Endpoints, form: Mapping[str, str], old: Tokens | None = None) -> Tokens | None:
        """Each service's token has a refresh token of its own; nothing of the others comes with a new one."""
        tokens = await super()._exchange(there, form, old)
        if tokens is None or old is None or tokens.others is not old.others:
            return tokens
        return replace(tokens, others=tuple([await self._other(there, one) for one in old.others]))

    async def _other(self, there: Endpoints, one: Mapping[str, Any]) -> Mapping[str, Any]:
        refresh = one.get("refresh_token")
        if not isinstance(refresh, str) or not refresh:
            return one
        form = {"grant_type": "refresh_token", "refresh_token": refresh}
        new = await super()._exchange(there, form)
        return {**one, "access_token": new.access, "refresh_token": new.refresh or refresh} if new else one

    async def _groups(self, tokens: Tokens) -> Sequence[str]:
        wanted = "groups.api.globus.org"
        token = next((one.get("access_token") for one in tokens.others if one.get("resource_server") == wanted), None)
        if not isinstance(token, str):
            log.warning("%s gave no token for Globus Groups", self._title)
            return []
        answer = await self.asker.get(f"{self.groups_url.rstrip('/')}/v2/groups/my_groups", token)
        rows = answer.rows if self.answers(answer, "groups") else []
        return [row["id"] for row in rows if isinstance(row.get("id"), str) and _is_member(row.get("my_memberships"))]


_GLOBUS_GROUPS = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"


def _one_of(value: object, ours: Collection[str]) -> bool:
    return isinstance(value, str) and value in ours


def _is_member(memberships: object) -> bool:
    found = memberships if isinstance(memberships, list) else []
    return any(isinstance(one, dict) and one.get("status") == "active" for one in found)
