"""The signature of an LTI 1.1 launch: OAuth 1.0a (RFC 5849 section 3.4), HMAC-SHA1 over the posted form and the address. Pure.

oauthlib spells the signed text and signs it. Its own endpoints are not used: they read the clock themselves.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from oauthlib.oauth1.rfc5849 import signature


@dataclass(frozen=True, slots=True)
class _Signer:
    """What oauthlib asks of a client."""

    client_secret: str = field(repr=False)
    resource_owner_secret: str = field(default="", repr=False)


def sign(url: str, fields: Mapping[str, str], secret: str) -> str:
    """The signature of a POST of ``fields`` to ``url``. Raises ValueError for an address that cannot be signed.

    A parameter of the address counts once, though the form holds it as well, as Moodle's does.
    """
    pairs = [(name, value) for name, value in fields.items() if name != "oauth_signature"]
    pairs += [pair for pair in parse_qsl(urlsplit(url).query, keep_blank_values=True) if pair[0] not in fields]
    text = signature.signature_base_string(
        "POST", signature.base_string_uri(url), signature.normalize_parameters(pairs)
    )
    return str(signature.sign_hmac_sha1_with_client(text, _Signer(secret)))


def fits(url: str, fields: Mapping[str, str], secret: str) -> bool:
    """Whether ``oauth_signature`` is right; how long that takes tells nothing of the right one."""
    given = fields.get("oauth_signature", "")
    return hmac.compare_digest(sign(url, fields, secret).encode(), given.encode("utf-8", "surrogatepass"))
