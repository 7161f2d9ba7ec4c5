"""Asking an OAuth provider over HTTPS: within a time, up to a size, following nobody elsewhere, and never with a secret in an error's text."""

from __future__ import annotations

import ipaddress
import json
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from batchhub.core.errors import ConfigError, Unreachable

log = logging.getLogger(__name__)

BODY_LIMIT = 1 << 20
"""Bytes of an answer; the rest of the world's key lists and profiles are far smaller."""
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered: the HTTP status, and the JSON value if the body was one."""

    code: int
    value: Any = field(repr=False)

    @property
    def table(self) -> Mapping[str, Any]:
        """The value, if it is an object; otherwise an empty one."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The value's objects, if it is a list."""
        return [one for one in self.value if isinstance(one, dict)] if isinstance(self.value, list) else []


class Asker:
    """One provider's HTTP client. ``seconds`` bounds each question as a whole; ``ca_file`` is for providers with a certificate of a site's own."""

    def __init__(self, seconds: float, ca_file: str = "") -> None:
        self._seconds = seconds
        self._ca_file = ca_file
        self._client: AsyncHTTPClient | None = None

    async def get(self, url: str, token: str = "") -> Answer:
        """With a bearer token, if one is given. Raises Unreachable."""
        return await self._ask(url, "GET", {"Authorization": f"Bearer {token}"} if token else {})

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        """``basic`` are a client's id and secret. Raises Unreachable."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._ask(url, "POST", headers, urlencode(form), basic)

    async def _ask(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        body: str | None = None,
        basic: tuple[str, str] | None = None,
    ) -> Answer:
        if self._client is None:
            self._client = AsyncHTTPClient(force_instance=True, max_body_size=BODY_LIMIT, max_clients=_AT_ONCE)
        # RFC 6749, 2.3.1: id and secret are form-encoded before they are joined.
        who = tuple(quote_plus(one) for one in basic) if basic else (None, None)
        request = HTTPRequest(
            url,
            method=method,
            body=body,
            headers={"Accept": "application/json", "User-Agent": "BatchHub", **headers},
            auth_username=who[0],
            auth_password=who[1],
            follow_redirects=False,
            decompress_response=False,  # a megabyte of gzip could be a gigabyte
            connect_timeout=self._seconds,
            request_timeout=self._seconds,
            ca_certs=self._ca_file or None,
        )
        host = urlsplit(url).hostname
        try:
            answer = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError, ValueError) as error:
            log.warning("%s does not answer: %s", host, error)  # a time limit, a name, a certificate
            raise Unreachable(f"{host} does not answer; please try again in a minute.") from error
        if answer.code >= 500 or answer.code == 429 or _too_often(answer):
            raise Unreachable(f"{host} cannot answer now ({answer.code}); please try again in a minute.")
        return Answer(answer.code, _json(answer))

    def close(self) -> None:
        """Let the connections go."""
        if self._client is not None:
            self._client.close()
            self._client = None


def check_url(url: str, what: str) -> str:
    """``url``, if secrets may be sent there: HTTPS, or this machine. Raises ConfigError."""
    parts = urlsplit(url)
    near = is_loopback(parts.hostname or "")
    if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not near):
        raise ConfigError(f"{what} is {url!r:.200}; it must begin with https:// (http:// is for this machine alone).")
    if parts.username or parts.password or parts.fragment:
        raise ConfigError(f"{what} must hold neither a name, a password nor a '#'.")
    return url


def check_ca_file(path: str, what: str) -> None:
    """Raises ConfigError unless certificates can be read from it; empty is the system's."""
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"{what}: no certificates can be read from {path}: {error.strerror or error}.") from error


def is_loopback(host: str) -> bool:
    """Whether the host, without a port, is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _too_often(answer: HTTPResponse) -> bool:
    """GitHub's way to say 429."""
    found = answer.headers
    return answer.code == 403 and ("Retry-After" in found or found.get("X-RateLimit-Remaining") == "0")


def _json(answer: HTTPResponse) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
