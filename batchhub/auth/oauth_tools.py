"""What the libraries of the extra ``oidc`` do for us. Imported at first use, so that a hub without it needs neither."""

from __future__ import annotations

from collections.abc import Mapping

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from batchhub.auth.id_tokens import BadToken, Expected, UnknownKey, read_id_token, read_keys

__all__ = ["BadToken", "Expected", "UnknownKey", "authorize_url", "read_id_token", "read_keys"]


def authorize_url(page: str, client_id: str, verifier: str, parameters: Mapping[str, str]) -> str:
    """The address of the provider's page that asks for a code, with the verifier's S256 challenge (RFC 7636, 4.2)."""
    return str(
        prepare_grant_uri(
            page,
            client_id,
            "code",
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **parameters,
        )
    )
