"""ID tokens (OpenID Connect Core 1.0, 3.1.3.7): whether one is genuine, for us, of this sign-in, and still good. Pure; time is handed in.

Signatures are joserfc's business. What is decided here is which key and which algorithm may count at all, and every claim.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from authlib.oidc.core.util import create_half_hash
from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
"""Public-key signatures alone. ``none`` proves nothing, and with HMAC a provider's *public* key could be used to sign."""
LEEWAY = 60
"""Seconds that the provider's clock and ours may differ by."""
LIMIT = 128_000
"""Bytes of a token; some hold every group of a person."""
_HEADER_LIMIT = 8192
"""Bytes of a token's header; some hold a chain of certificates, which we do not look at."""
_KINDS = frozenset({"RSA", "EC", "OKP"})
_MOST_KEYS = 100


class BadToken(Exception):
    """The token does not count. The text says why, for the log; it holds nothing of the token but names of claims, and whose token it is (iss, aud)."""


class UnknownKey(BadToken):
    """It is signed with a key that the provider's list, as we have it, does not hold: the list may be old."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the claims must say. ``nonce`` is the sign-in's; ``None`` after a refresh, which has none (Core, 12.2).

    ``access_token`` is the one that came along, if any: a token that names its hash must name this one's. ``algorithms`` are the signatures that
    count, of :data:`ALGORITHMS`. ``max_age``: seconds since the person was last asked for a password or the like, if the page was told so.
    """

    issuer: str
    client_id: str
    nonce: str | None
    access_token: str = field(default="", repr=False)
    algorithms: tuple[str, ...] = ALGORITHMS
    max_age: int | None = None


def read_keys(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The public keys for signatures of a JWK set (RFC 7517); others are left out. Raises BadToken if it is not one."""
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > _MOST_KEYS:
        raise BadToken("the provider's list of keys is not one")
    return [
        key
        for key in keys
        if isinstance(key, dict) and key.get("kty") in _KINDS and key.get("use", "sig") == "sig" and "d" not in key
    ]


def read_id_token(text: str, keys: Sequence[Mapping[str, Any]], expected: Expected, now: datetime) -> Mapping[str, Any]:
    """The claims, once everything has been checked. Raises BadToken, and UnknownKey if newer keys might help."""
    if len(text) > LIMIT:
        raise BadToken("it is too long")
    # Headers we do not know are nothing to us, unless "crit" says that they must be understood: joserfc refuses that.
    registry = jws.JWSRegistry(algorithms=expected.algorithms, strict_check_header=False)
    registry.max_header_length, registry.max_payload_length = _HEADER_LIMIT, LIMIT
    try:
        header = jws.extract_compact(text.encode("ascii"), registry=registry).headers()
    except (JoseError, ValueError) as error:
        raise BadToken("it is not a signed token") from error
    algorithm = header.get("alg")
    if algorithm not in expected.algorithms:
        raise BadToken(f"it is signed with {algorithm!r:.40}, which proves nothing here")
    try:
        key = jwk.import_key(dict(_key(keys, header.get("kid"), str(algorithm))))
        token = jwt.decode(text, key, algorithms=expected.algorithms, registry=registry)
    except (JoseError, ValueError) as error:
        # Where the only key has no name, a new one in its place has none either.
        kind = BadToken if header.get("kid") is not None else UnknownKey
        raise kind(f"its signature does not hold ({type(error).__name__})") from error
    _check(token.claims, expected, int(now.timestamp()))
    _check_half_hash(token.claims, expected.access_token, str(algorithm))
    return token.claims


def _key(keys: Sequence[Mapping[str, Any]], kid: object, algorithm: str) -> Mapping[str, Any]:
    """The key it says; without a word, the only one there is for this algorithm."""
    kind = {"R": "RSA", "P": "RSA"}.get(algorithm[0]) or ("EC" if algorithm.startswith("ES") else "OKP")
    fitting = [key for key in keys if key["kty"] == kind and key.get("alg", algorithm) == algorithm]
    found = [key for key in fitting if kid is None or key.get("kid") == kid]
    if not found:
        raise UnknownKey("it is signed with a key that the provider does not list")
    if len(found) > 1:
        raise BadToken("the provider lists several keys that it may be signed with")
    return found[0]


def _check(claims: Mapping[str, Any], expected: Expected, now: int) -> None:
    if claims.get("iss") != expected.issuer:
        raise BadToken(f"iss: another issuer's, {claims.get('iss')!r:.200}")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise BadToken("sub: nobody is named")
    _check_audience(claims, expected.client_id)
    _check_times(claims, now)
    if expected.nonce is not None:
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(_bytes(nonce), _bytes(expected.nonce)):
            raise BadToken("nonce: of another sign-in")
    _check_age(claims, expected.max_age, now)


def _check_age(claims: Mapping[str, Any], max_age: int | None, now: int) -> None:
    """The browser carries ``max_age`` to the page, and may leave it out (Core, 3.1.3.7, 13)."""
    if max_age is None:
        return
    if not _is_number(claims.get("auth_time")) or now - claims["auth_time"] > max_age + LEEWAY:
        raise BadToken("auth_time: too long ago, or not said")


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience = claims.get("aud")
    listed = [audience] if isinstance(audience, str) else audience
    if not isinstance(listed, list) or client_id not in listed:
        raise BadToken(f"aud: made for another client, {audience!r:.200}")
    # Who shares a token with others has to say that it is ours first.
    if ("azp" in claims or len(listed) > 1) and claims.get("azp") != client_id:
        raise BadToken("azp: given to another client")


def _check_times(claims: Mapping[str, Any], now: int) -> None:
    for name in ("exp", "iat"):
        if not _is_number(claims.get(name)):
            raise BadToken(f"{name}: not a time")
    if claims["exp"] <= now - LEEWAY:
        raise BadToken("exp: expired")
    if claims["iat"] > now + LEEWAY:
        raise BadToken("iat: from the future")
    if "nbf" in claims and not (_is_number(claims["nbf"]) and claims["nbf"] <= now + LEEWAY):
        raise BadToken("nbf: not good yet")


def _check_half_hash(claims: Mapping[str, Any], access_token: str, algorithm: str) -> None:
    named = claims.get("at_hash")
    if named is None or not access_token:
        return
    right = create_half_hash(access_token, "EdDSA" if algorithm == "Ed25519" else algorithm)
    if not isinstance(named, str) or right is None or not hmac.compare_digest(_bytes(named), right):
        raise BadToken("at_hash: of another access token")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can spell half a character


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
