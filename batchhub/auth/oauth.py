"""Signing in at an OAuth 2 provider's page (RFC 6749, authorization code; RFC 7636, PKCE; RFC 9700, what it takes to be safe).

:class:`OAuthAuthenticator` is what all providers share: leaving with a PKCE challenge, exchanging the code, the rules about groups and
exact claims, refreshing. A subclass says where to go and how a token becomes claims. authlib builds the requests of the protocol.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from traitlets import Bool, Dict, Float, Set, Unicode

from batchhub.auth.base import Authenticator, Departure, KnownPerson, LoginKind
from batchhub.auth.clock import utc_now
from batchhub.auth.oauth_http import Answer, Asker, check_ca_file
from batchhub.auth.secretfile import read_secret_file
from batchhub.core.errors import ConfigError, Denied, Unreachable
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

MOST_GROUPS = 2000
"""Groups of one person that are looked at; the others do not count."""
MOST_ROTATED = 1000
"""People whose newest tokens are held in memory until the database has them."""
_OURS = frozenset({"invalid_client", "unauthorized_client", "incorrect_client_credentials"})
_LATER = frozenset({"server_error", "slow_down", "temporarily_unavailable"})
_TOKEN = re.compile(r"[\x20-\x7e]+")
"""RFC 6749, A.12. It goes into a header."""
_RESERVED = frozenset({
    "client_id", "code_challenge", "code_challenge_method", "nonce", "redirect_uri", "request", "request_uri", "response_mode",
    "response_type", "scope", "state",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider answers. ``says_issuer``: its way back always names the issuer (RFC 9207)."""

    authorize: str
    token: str
    userinfo: str = ""
    keys: str = ""
    secret_in_form: bool = False
    says_issuer: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider gave for a code or a refresh token.

    ``others`` are Globus' tokens for other services. ``signed`` is what an earlier ID token said and nothing else tells, where no newer one came.
    """

    access: str = field(repr=False)
    refresh: str = field(default="", repr=False)
    id: str = field(default="", repr=False)
    scope: str = ""
    others: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    signed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, slots=True)
class Vouched:
    """What the provider vouches for. ``signed`` are the claims among them that only a new ID token could tell anew."""

    claims: Mapping[str, Any] = field(repr=False)
    signed: frozenset[str] = frozenset()


class TokenEnded(Exception):
    """The provider does not take the access token (any more): 401."""


class OAuthAuthenticator(Authenticator):
    """Base of all that lead to an OAuth 2 provider's page. Not for use by itself."""

    kind = LoginKind.REDIRECT
    lasting_tokens = False
    """Whether access tokens are good until somebody takes them back."""

    client_id = Unicode(help="What the provider calls this hub: given when the hub is registered there.").tag(
        config=True
    )
    client_secret = Unicode(help="The secret that came with it. A file is better: client_secret_file.").tag(config=True)
    client_secret_file = Unicode(
        help="A file with the secret, which only the hub's account may read (0600). Read at each sign-in, so that a new secret needs no restart."
    ).tag(config=True)
    scope = Set(Unicode(), help="What the hub asks the provider to tell.").tag(config=True)
    username_claim = Unicode(help="The claim that becomes the name. An 'email' has to be a verified one.").tag(
        config=True
    )
    strip_domain = Unicode(
        help="A domain, as in 'example.org': names must be addresses in exactly this domain, and are known here without it."
    ).tag(config=True)
    groups_claim = Unicode(
        help="The claim that lists the person's groups; 'realm_access.roles' looks into an object. Empty: groups are not looked at."
    ).tag(config=True)
    required_claims = Dict(
        key_trait=Unicode(),
        help="Claim -> the value, or a list of values, one of which it must be (or, if the claim is a list, hold) exactly. Holds for "
        "everybody, whatever the lists of people say.",
    ).tag(config=True)
    extra_authorize_params = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="Parameters added to the address of the provider's page, as in {'prompt': 'select_account'}.",
    ).tag(config=True)
    use_userinfo = Bool(True, help="Also ask the provider's userinfo endpoint, where it has one.").tag(config=True)
    timeout = Float(10.0, min=0.1, max=60, help="Seconds the provider may take for each answer.").tag(config=True)
    ca_file = Unicode(
        help="A file of certificates to trust instead of the system's, for a provider with one of the site's own."
    ).tag(config=True)

    def __init__(self, *, clock: Clock = utc_now, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clock = clock
        self._newest: OrderedDict[str, Tokens] = OrderedDict()
        self.tools = _tools()
        self.asker = Asker(self.timeout, self.ca_file)
        self.check_settings()

    def check_settings(self) -> None:
        """Refuse what cannot work or says less than its author meant. Raises ConfigError."""
        name = type(self).__name__
        if not self.client_id:
            raise ConfigError(
                f"c.{name}.client_id is missing: the provider gives one when the hub is registered there."
            )
        if self.client_secret and self.client_secret_file:
            raise ConfigError(f"c.{name}: of client_secret and client_secret_file only one can be.")
        if not self.username_claim:
            raise ConfigError(f"c.{name}.username_claim is empty: no name could come of it.")
        if (self.allowed_groups or self.admin_groups) and not self.knows_groups():
            raise ConfigError(f"c.{name}: groups are named, but groups_claim does not say where to find a person's.")
        reserved = sorted(_RESERVED & set(self.extra_authorize_params))
        if reserved:
            raise ConfigError(f"c.{name}.extra_authorize_params: {', '.join(reserved)} is the hub's own to set.")
        if self.client_secret_file:
            self._secret()
        check_ca_file(self.ca_file, f"c.{name}.ca_file")

    def knows_groups(self) -> bool:
        """Whether anything says what groups a person is in."""
        return bool(self.groups_claim)

    async def endpoints(self) -> Endpoints:
        """Where the provider answers. Raises Unreachable, ConfigError."""
        raise NotImplementedError

    async def claims(self, tokens: Tokens, nonce: str | None, subject: str = "") -> Vouched | None:
        """What the provider vouches for; ``None`` if it does not. ``subject``: at a refresh, whom it has to be about.

        Raises TokenEnded if there is nothing to ask with, Unreachable.
        """
        raise NotImplementedError

    def counting(self) -> set[str]:
        """The claims that a rule looks at, or the name. A subclass adds to it."""
        named = {self.username_claim, self.groups_claim, *self.required_claims}
        return named | {name.partition(".")[0] for name in named}

    def groups(self, claims: Mapping[str, Any]) -> Sequence[str]:
        """The groups that the claims name."""
        found = find_claim(claims, self.groups_claim) if self.groups_claim else None
        elsewhere = claims.get("_claim_names")  # Core, 5.6.2; Entra ID, of somebody in more than 200 groups
        if found is None and isinstance(elsewhere, dict) and self.groups_claim in elsewhere:
            log.warning(
                "%s: the groups of %.100r are not in the token but elsewhere, so none count",
                self._title,
                self.subject_of(claims),
            )
        listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        return [group for group in listed[:MOST_GROUPS] if isinstance(group, str) and group]

    def refuses(self, claims: Mapping[str, Any]) -> str:
        """Why a person of these claims may not come in, whoever it is; empty if they may. A subclass adds to it."""
        for name, wanted in self.required_claims.items():
            if not fits(find_claim(claims, name), wanted):
                return f"the claim {name} is not what required_claims says"
        mailed = "email" in {self.username_claim, *self.required_claims}
        if mailed and claims.get("email_verified") is not True:
            return f"the e-mail address is not verified (email_verified is {claims.get('email_verified')!r:.40})"
        return ""

    def name_of(self, claims: Mapping[str, Any]) -> str | None:
        """The name that the claims give."""
        name = find_claim(claims, self.username_claim)
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name:
            return None
        if not self.strip_domain:
            return name
        local, at, domain = name.rpartition("@")
        # The Kelvin sign's small form is a plain "k": a domain that holds one is another.
        ours = domain.lower() == self.strip_domain.lower() and domain.isascii() == self.strip_domain.isascii()
        return local if at and local and ours else None

    def page_parameters(self) -> Mapping[str, str]:
        """What else the provider's page is told. A subclass adds to it."""
        return dict(self.extra_authorize_params)

    async def depart(self, handler: Any, data: Mapping[str, str], state: str, callback: str) -> Departure:
        """To the provider's page, with a challenge that only this sign-in can meet and a nonce that its ID token has to name."""
        del handler, data
        there = await self.endpoints()
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        asked = {
            "redirect_uri": callback,
            "scope": " ".join(sorted(self.scope)),
            "state": state,
            "nonce": nonce,
            **self.page_parameters(),
        }
        url = self.tools.authorize_url(there.authorize, self.client_id, verifier, asked)
        return Departure(url, {"verifier": verifier, "nonce": nonce})

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the browser brought back, exchanged and checked. Raises Denied when the provider said no, Unreachable, ConfigError."""
        del handler
        if data.get("error"):
            log.warning("%s: the provider says %s", self._title, said(data, ()))
            raise Denied(f"{self._title} did not sign you in. You may try again.")
        there, kept = await self.endpoints(), data["kept"]
        issuer = data.get("iss")
        if (issuer is not None or there.says_issuer) and not self.is_issuer(issuer):
            log.warning("%s: the answer is another provider's (iss)", self._title)
            return None
        form = {
            "grant_type": "authorization_code",
            "code": str(data.get("code", "")),
            "redirect_uri": data["callback"],
            "code_verifier": kept["verifier"],
        }
        if not form["code"]:
            log.warning("%s: the answer holds no code", self._title)
            return None
        tokens = await self._exchange(there, form)
        return await self._vouched(tokens, kept["nonce"]) if tokens else None

    async def refresh_user(self, user: KnownPerson, handler: Any = None) -> bool | Mapping[str, Any]:
        """Whether the provider still vouches for a person: by the access token while that lasts, afterwards by the refresh token if there is one.

        A refresh token is used sooner only where a rule looks at what the access token does not bring: some providers end the access token with it,
        which a job may have been given. Needs ``enable_auth_state``: without it there is nothing to ask with. Everything is checked as at the
        sign-in, and it has to be about the same subject.
        """
        del handler
        state = await user.get_auth_state() if self.enable_auth_state else None
        if state is None:
            # What was kept and cannot be had any more, such as after the loss of vault.keys, is known again after a sign-in.
            return not self.enable_auth_state
        old, subject = _remembered(state), state.get("subject")
        if old is None or not isinstance(subject, str) or not subject:
            return False
        kept, newest = old.refresh, self._newest.get(old.refresh)
        old = newest or old
        try:
            # An ID token that was looked at before says nothing about now.
            found = await self.claims(newest or replace(old, id=""), None, subject)
        except TokenEnded:
            if not old.refresh:
                return self._nothing_to_ask_with(subject)
            found = None
        if old.refresh and (found is None or not found.signed.isdisjoint(self.counting())):
            return await self._renewed(old, subject, kept)
        return (self._model(old, found) if found else None) or False

    async def _renewed(self, old: Tokens, subject: str, kept: str) -> bool | Mapping[str, Any]:
        """``kept``: the refresh token as the database has it."""
        form = {"grant_type": "refresh_token", "refresh_token": old.refresh}
        tokens = await self._exchange(await self.endpoints(), form, old)
        if tokens is None:
            return False
        if tokens.refresh != kept:
            # Until the database has it, which the next answer, or the database itself, may yet prevent: a used one is good no more, and
            # many a provider takes its second use for theft and ends them all (RFC 9700 section 4.14.2).
            self._newest[kept] = tokens
            self._newest.move_to_end(kept)
            while len(self._newest) > MOST_ROTATED:
                self._newest.popitem(last=False)
        return await self._vouched(tokens, None, subject) or False

    def _nothing_to_ask_with(self, subject: str) -> bool:
        """Where access tokens end after minutes, that one did says nothing about the person."""
        if self.lasting_tokens:
            return False
        log.info("%s: %.100r cannot be asked about any more: there is no refresh token", self._title, subject)
        return True

    def is_issuer(self, issuer: object) -> bool:
        """Whether the way back names this provider (RFC 9207)."""
        del issuer
        return True

    def subject_of(self, claims: Mapping[str, Any]) -> str:
        """What the provider will always call this person, whatever they rename themselves to."""
        return str(claims.get("sub", ""))

    async def _vouched(self, tokens: Tokens, nonce: str | None, subject: str = "") -> Mapping[str, Any] | None:
        """By tokens that have just been given."""
        try:
            found = await self.claims(tokens, nonce, subject)
        except TokenEnded:
            log.warning("%s does not take the access token that it has just given", self._title)
            return None
        return self._model(tokens, found) if found else None

    def answers(self, answer: Answer, what: str, no: Collection[int] = (400, 403)) -> bool:
        """Whether what was asked with an access token is answered; ``False`` is no. Raises TokenEnded; Unreachable for what is neither yes nor no."""
        if answer.code == 401:
            raise TokenEnded
        if answer.code in no:
            log.warning("%s does not tell %s (%s)", self._title, what, answer.code)
            return False
        if answer.code != 200:
            raise Unreachable(f"{self._title} does not tell {what} now ({answer.code}); please try again in a minute.")
        return True

    def _model(self, tokens: Tokens, found: Vouched) -> Mapping[str, Any] | None:
        claims = found.claims
        refusal, name = self.refuses(claims), self.name_of(claims)
        if refusal or name is None:
            refusal = (
                refusal or f"no name in {self.username_claim}; there are {', '.join(sorted(map(str, claims)))[:500]!r}"
            )
            log.warning("%s: %.100r refused: %s", self._title, self.subject_of(claims), refusal)
            return None
        state = {
            "access_token": tokens.access,
            "refresh_token": tokens.refresh,
            "id_token": tokens.id,
            "scope": tokens.scope,
            "other_tokens": list(tokens.others),
            "subject": self.subject_of(claims),
            "oauth_user": dict(claims),
            "signed_claims": sorted(found.signed),
        }
        return {"name": name, "groups": self.groups(claims), "auth_state": state}

    async def _exchange(self, there: Endpoints, form: Mapping[str, str], old: Tokens | None = None) -> Tokens | None:
        """The code, or the refresh token, for tokens; ``None`` if the provider does not take it."""
        secret, basic = self._secret(), None
        if not secret:
            form = {**form, "client_id": self.client_id}
        elif there.secret_in_form:
            form = {**form, "client_id": self.client_id, "client_secret": secret}
        else:
            basic = (self.client_id, secret)
        answer = await self.asker.post(there.token, form, basic)
        problem = answer.table.get("error")  # GitHub says 200 and an error
        if answer.code == 200 and not problem:
            return self._tokens(answer, old)
        sent = (secret, *(form.get(name, "") for name in ("code", "code_verifier", "refresh_token")))
        log.warning("%s does not accept it: %s %s", self._title, answer.code, said(answer.table, sent))
        if problem in _OURS or (answer.code == 401 and problem != "invalid_grant"):
            raise ConfigError(
                f"{self._title} does not accept this hub's own credentials; its administrator has to look."
            )
        if not isinstance(problem, str) or problem in _LATER:
            raise Unreachable(f"{self._title} cannot answer now ({answer.code}); please try again in a minute.")
        return None

    def _tokens(self, answer: Answer, old: Tokens | None) -> Tokens:
        found = answer.table
        access, kind = found.get("access_token"), found.get("token_type")
        texts = {name: found.get(name) or "" for name in ("refresh_token", "id_token", "scope")}
        good = (
            isinstance(access, str) and _TOKEN.fullmatch(access) and isinstance(kind, str) and kind.lower() == "bearer"
        )
        if not good or not all(isinstance(text, str) for text in texts.values()):
            raise Unreachable(f"{self._title} gave no token that can be used; please try again.")
        # A provider that does not rotate refresh tokens gives none again (RFC 6749, 6); the old one stays good.
        refresh = texts["refresh_token"] or (old.refresh if old else "")
        scope = texts["scope"] or (old.scope if old else "")
        others = _tables(found.get("other_tokens")) or (old.others if old else ())
        signed = old.signed if old and not texts["id_token"] else {}
        return Tokens(str(access), refresh, texts["id_token"], scope, others, signed)

    def _secret(self) -> str:
        if not self.client_secret_file:
            return str(self.client_secret)
        return read_secret_file(self.client_secret_file, f"c.{type(self).__name__}.client_secret_file")

    @property
    def _title(self) -> str:
        return self.login_service or type(self).__name__

    def close(self) -> None:
        """Let the connections go."""
        self.asker.close()


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or, if there is none so called, by its path: ``realm_access.roles``. ``None`` if it is not there."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def fits(found: Any, wanted: Any) -> bool:
    """Whether a claim is one of the values wanted, or holds one, exactly: no part of a text, no other type, no other case."""
    values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    there = found if isinstance(found, list) else [found]
    return any(type(one) is type(value) and one == value for one in there for value in values if value is not None)


def said(table: Mapping[str, Any], secrets_sent: Iterable[str]) -> str:
    """A provider's error in its own words, for the log (RFC 6749 section 5.2). Some repeat what they were sent, which is taken out."""
    words = ": ".join(str(table[name]) for name in ("error", "error_description") if table.get(name))
    for secret in sorted(secrets_sent, key=len, reverse=True):
        words = words.replace(secret, "…") if secret else words
    return repr(words[:300])


def _remembered(state: Mapping[str, Any]) -> Tokens | None:
    texts = [state.get(name, "") for name in ("access_token", "refresh_token", "id_token", "scope")]
    if not all(isinstance(text, str) for text in texts) or not texts[0]:
        return None
    access, refresh, token, scope = texts
    claims, names = state.get("oauth_user"), state.get("signed_claims")
    signed = {name: claims[name] for name in names or () if name in claims} if isinstance(claims, Mapping) else {}
    return Tokens(access, refresh, token, scope, _tables(state.get("other_tokens")), signed)


def _tables(value: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in value if isinstance(one, dict)) if isinstance(value, list | tuple) else ()


def _tools() -> ModuleType:
    """The libraries, loaded at first use. Raises ConfigError that names the extra."""
    try:
        return import_module("batchhub.auth.oauth_tools")
    except ImportError as error:
        raise ConfigError(
            f"Signing in with OAuth needs more packages: pip install 'batchhub[oidc]' ({error})."
        ) from error
