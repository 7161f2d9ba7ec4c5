"""Tokens that prove a form was read before it was sent: an HMAC of the session's id, or of an anonymous cookie's before sign-in.

Pure. Each printed token is masked with fresh random bytes, so that a compressed page does not give it away bit by bit (BREACH).
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

_TOKEN = re.compile(r"[A-Za-z0-9_-]{86}")
_ANONYMOUS = re.compile(r"[A-Za-z0-9_-]{43}")


class Xsrf:
    """Makes and checks tokens. ``bound`` is a session's id, or :func:`new_anonymous`'s value from the browser's cookie."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"batchhub xsrf", "sha256")

    def token(self, bound: str) -> str:
        """A token for one page."""
        mask = secrets.token_bytes(32)
        return urlsafe_b64encode(mask + _xor(mask, self._mac(bound))).rstrip(b"=").decode()

    def check(self, bound: str, token: str) -> bool:
        """Whether the token was made for ``bound``."""
        if not bound or _TOKEN.fullmatch(token[:100]) is None:
            return False
        raw = urlsafe_b64decode(token + "==")
        return hmac.compare_digest(_xor(raw[:32], raw[32:]), self._mac(bound))

    def _mac(self, bound: str) -> bytes:
        return hmac.digest(self._key, bound.encode("utf-8", "replace"), "sha256")


def new_anonymous() -> str:
    """A cookie value for a browser that has no session yet, to bind the login form's token to."""
    return secrets.token_urlsafe(32)


def read_anonymous(cookie: str) -> str | None:
    """The value, if it looks like one of ours."""
    return cookie if _ANONYMOUS.fullmatch(cookie[:100]) else None


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
