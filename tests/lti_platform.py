"""A learning platform for tests, written after the specifications and with no LTI library: 1EdTech LTI Core 1.3, its Security Framework 1.0, and the
LTI 1.1 Implementation Guide (OAuth 1.0a, RFC 5849). Signatures are by ``cryptography`` and ``hmac`` alone.

It is strict about what a tool sends, and says nothing but the truth unless a test changes ``claims``, ``head`` or ``sign``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import html
import json
import secrets
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

CLAIM = "https://purl.imsglobal.org/spec/lti/claim/"
IN_COURSE = "http://purl.imsglobal.org/vocab/lis/v2/membership"
AT_SCHOOL = "http://purl.imsglobal.org/vocab/lis/v2/institution/person"
SECRET = "the course's shared secret"


class Platform:
    """A registered tool, a course, and people in it. Its pages are at ``issuer``; browsers may know it by another host name."""

    def __init__(self, clock: Callable[[], datetime], name: str = "127.0.0.1") -> None:
        self.clock = clock
        self.client, self.deployment = "hub-client", "deployment 1"
        self.redirects: set[str] = set()
        self.target = ""
        self.people: dict[str, dict[str, Any]] = {
            "hint-ann": {"sub": "ann7", "name": "Ann Example", "email": "ann@example.org", "roles": ["Learner"]},
            "hint-tom": {"sub": "Tom/8", "name": "Tom Teacher", "email": "tom@example.org", "roles": ["Instructor"]},
        }
        self.claims: dict[str, Any] = {}
        self.head: dict[str, Any] = {}
        self.key: Any = rsa_key()
        self.kid = "first"
        self.keys: Any = {"keys": [public(self.key, self.kid)]}
        self.sign: Callable[[bytes], bytes] = self._sign
        self.status, self.elsewhere, self.padding = 200, "", 0
        self.asked: list[str] = []
        self.server = HTTPServer(Application([(r"/(.*)", _Page, {"platform": self})]))
        socket, self.port = bind_unused_port(address="127.0.0.1")
        self.server.add_socket(socket)
        self.issuer = f"http://{name}:{self.port}"
        self.login, self.launch = "", ""

    async def close(self) -> None:
        self.server.stop()
        await self.server.close_all_connections()

    def table(self, **more: Any) -> dict[str, Any]:
        """What a site says of this platform."""
        return {
            "client_id": self.client,
            "authorization_endpoint": f"{self.issuer}/auth",
            "jwks_url": f"{self.issuer}/jwks",
            "deployment_ids": [self.deployment],
            "title": "Campus",
            **more,
        }

    def initiation(self, hint: str = "hint-ann") -> dict[str, str]:
        """What it sends to the tool first (OpenID Connect Core section 4; LTI Core 1.3 section 4.1)."""
        return {
            "iss": self.issuer,
            "login_hint": hint,
            "target_link_uri": self.target,
            "lti_message_hint": "link 3/ü",
            "client_id": self.client,
            "lti_deployment_id": self.deployment,
        }

    def authorize(self, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Its authorization page (Security Framework 5.1.1.2): where its answer is posted, and the fields."""
        redirect = query.get("redirect_uri", "")
        assert redirect in self.redirects, f"{redirect} is not registered"
        fixed = {"scope": "openid", "response_type": "id_token", "response_mode": "form_post", "prompt": "none"}
        wrong = [name for name, value in fixed.items() if query.get(name) != value]
        missing = [name for name in ("login_hint", "nonce", "state") if not query.get(name)]
        state = {"state": query["state"]} if query.get("state") else {}
        if wrong or missing or query.get("client_id") != self.client:
            return redirect, {"error": "invalid_request", "error_description": f"{wrong} {missing}", **state}
        person = self.people.get(query["login_hint"])
        if person is None or query.get("lti_message_hint") != "link 3/ü":
            return redirect, {"error": "login_required", **state}
        return redirect, {"id_token": self.token(person, query["nonce"]), **state}

    def message(self, person: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """The claims of a resource link's launch (LTI Core 1.3 section 5.3 and 5.4), as the test changed them."""
        now = int(self.clock().timestamp())
        claims = {
            "iss": self.issuer,
            "aud": self.client,
            "sub": person["sub"],
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "name": person["name"],
            "email": person["email"],
            f"{CLAIM}message_type": "LtiResourceLinkRequest",
            f"{CLAIM}version": "1.3.0",
            f"{CLAIM}deployment_id": self.deployment,
            f"{CLAIM}target_link_uri": self.target,
            f"{CLAIM}resource_link": {"id": "link 3", "title": "Exercise 1"},
            f"{CLAIM}roles": [f"{IN_COURSE}#{role}" for role in person["roles"]] + [f"{AT_SCHOOL}#Administrator"],
            f"{CLAIM}context": {"id": "42", "label": "PHYS101", "title": "Physics", "type": []},
            f"{CLAIM}lis": {"person_sourcedid": f"sis-{person['sub']}"},
            f"{CLAIM}custom": {"login": f"{person['sub']}-login", "unknown": "$User.username"},
            **self.claims,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, person: Mapping[str, Any], nonce: str) -> str:
        algorithm = "RS256" if isinstance(self.key, rsa.RSAPrivateKey) else "ES256"
        head = {"alg": algorithm, "typ": "JWT", "kid": self.kid, **self.head}
        text = b".".join(b64url(json.dumps(part).encode()) for part in (head, self.message(person, nonce)))
        return (text + b"." + b64url(self.sign(text))).decode()

    def _sign(self, text: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return bytes(self.key.sign(text, padding.PKCS1v15(), SHA256()))
        r, s = decode_dss_signature(self.key.sign(text, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def page(self, path: str, query: Mapping[str, str]) -> str:
        """What a person's browser is shown."""
        if path == "auth":
            return posting(*self.authorize(query))
        if path == "start":
            return posting(self.login, self.initiation(query.get("hint", "hint-ann")))
        if path == "start11":
            return posting(self.launch, self.launch11(self.launch))
        body = f'<iframe src="/{html.escape(query["show"])}" width="800" height="400"></iframe>' if query else ""
        return f"<!doctype html><title>Course</title><h1>Physics 101</h1>{body}"

    def launch11(self, url: str, key: str = "campus", secret: str = SECRET, **changes: str | None) -> dict[str, str]:
        """A basic launch (LTI 1.1 section 3), signed."""
        fields = {
            "lti_message_type": "basic-lti-launch-request",
            "lti_version": "LTI-1p0",
            "resource_link_id": "link 3",
            "resource_link_title": "Übung 1 & more = 100 %",
            "context_id": "42",
            "user_id": "ann7",
            "roles": "Learner,urn:lti:instrole:ims/lis/Administrator",
            "lis_person_name_full": "Ann Example",
            "lis_person_contact_email_primary": "ann@example.org",
            "lis_person_sourcedid": "sis-ann7",
            "custom_login": "ann7-login",
            "launch_presentation_document_target": "iframe",
            "tool_consumer_instance_guid": "",
            "oauth_callback": "about:blank",
            "oauth_consumer_key": key,
            "oauth_nonce": secrets.token_hex(16),
            "oauth_signature_method": "HMAC-SHA1",
            "oauth_timestamp": str(int(self.clock().timestamp())),
            "oauth_version": "1.0",
            **changes,
        }
        found = {name: value for name, value in fields.items() if value is not None}
        return {**found, "oauth_signature": signature11(url, found, secret)}


def signature11(url: str, fields: Mapping[str, str], secret: str) -> str:
    """RFC 5849 section 3.4.1 and 3.4.2, by hand."""

    def spelt(text: str) -> str:
        return quote(text, safe="-._~")

    parts = urlsplit(url)
    pairs = [*fields.items(), *parse_qsl(parts.query, keep_blank_values=True)]
    listed = "&".join(f"{name}={value}" for name, value in sorted((spelt(a), spelt(b)) for a, b in pairs))
    text = "&".join(("POST", spelt(f"{parts.scheme}://{parts.netloc}{parts.path}"), spelt(listed)))
    return b64encode(hmac.digest(f"{spelt(secret)}&".encode(), text.encode(), hashlib.sha1)).decode()


def posting(url: str, fields: Mapping[str, str]) -> str:
    """A page that posts itself."""
    inputs = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in fields.items()
    )
    return (
        f'<!doctype html><title>Campus</title><form method="post" action="{html.escape(url)}">{inputs}</form>'
        "<script>document.forms[0].submit()</script>"
    )


@contextlib.contextmanager
def in_a_thread(clock: Callable[[], datetime], name: str) -> Iterator[Platform]:
    """A platform for a test that has no event loop."""
    loop, made = asyncio.new_event_loop(), []

    async def make() -> None:
        made.append(Platform(clock, name))

    loop.run_until_complete(make())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield made[0]
    finally:
        asyncio.run_coroutine_threadsafe(made[0].close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def address(url: str, fields: Mapping[str, str]) -> str:
    return f"{url}?{urlencode(fields)}"


def b64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


@functools.cache
def rsa_key(which: int = 0) -> rsa.RSAPrivateKey:
    """Making one takes a while: one of each for all tests of a run."""
    del which
    return rsa.generate_private_key(65537, 2048)


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The JWK of a private key (RFC 7518 section 6)."""

    def number(value: int, size: int | None = None) -> str:
        return b64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big")).decode()

    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": kid,
            "n": number(numbers.n),
            "e": number(numbers.e),
            **more,
        }
    point = {"x": number(numbers.x, 32), "y": number(numbers.y, 32)}
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, **point, **more}


class _Page(RequestHandler):
    def initialize(self, platform: Platform) -> None:
        self.platform = platform

    def get(self, path: str) -> None:
        self.platform.asked.append(path)
        if path == "jwks":
            self.set_status(self.platform.status)
            if self.platform.elsewhere:
                self.redirect(self.platform.elsewhere)
                return
            self.finish(json.dumps(self.platform.keys) + " " * self.platform.padding)
            return
        self.finish(self.platform.page(path, {name: self.get_query_argument(name) for name in self.request.arguments}))
