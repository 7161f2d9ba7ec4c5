"""What the libraries of the extra ``lti`` do for LTI 1.3. Imported at first use, so that a hub without it needs none of them."""

from __future__ import annotations

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri

from batchhub.auth.id_tokens import BadToken, Expected, UnknownKey, read_id_token, read_keys
from batchhub.auth.lti_claims import NotALaunch, read_message

__all__ = [
    "BadToken", "Expected", "NotALaunch", "UnknownKey", "authorize_url", "read_id_token", "read_keys", "read_message",
]  # fmt: skip


def authorize_url(page: str, client_id: str, callback: str, state: str, **more: str) -> str:
    """The platform's page that answers with an ID token in a form (1EdTech Security Framework 1.0 section 5.1.1.2)."""
    return str(
        prepare_grant_uri(
            page,
            client_id,
            "id_token",
            redirect_uri=callback,
            scope="openid",
            state=state,
            response_mode="form_post",
            prompt="none",
            **more,
        )
    )
