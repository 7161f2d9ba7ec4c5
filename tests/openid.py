"""OpenID providers for tests: npm's oidc-provider in a process of its own, and one of ours that lies as it is told to."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import RSAKey
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from batchhub.app.state import utc_now
from tests.needs import missing, need_program

PACKAGE = "oidc-provider@9.13.3"
_SCRIPT = Path(__file__).with_name("openid_provider.mjs")


class LyingProvider:
    """Speaks the protocol rightly, but for what a test changes: ``claims``, ``userinfo``, ``sign``, ``about``, ``token``; ``instead`` of a path's answer."""

    def __init__(self, client: str = "hub", secret: str = "hub-secret") -> None:
        self.client, self.secret = client, secret
        self.key = _first_key()
        self.listed = [self.key]
        self.claims: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {"sub": "s-1", "preferred_username": "ann"}
        self.about: dict[str, Any] = {}
        self.token: dict[str, Any] = {}
        self.sign = self._sign
        self.codes: dict[str, tuple[str, str]] = {}
        self.asked: list[str] = []
        self.encodings: list[str] = []
        self.forms: list[Mapping[str, str]] = []
        self.down = False
        self.silent: set[str] = set()
        self.instead: dict[str, tuple[int, Any]] = {}
        self.headers: dict[str, str] = {}
        self.good, self.ended = {"refresh-1"}, {"ended"}
        self.pages: dict[str, Any] = {}
        self.server = HTTPServer(Application([(r"/(.*)", _Page, {"provider": self})]))
        socket, self.port = bind_unused_port(address="127.0.0.1")
        self.server.add_socket(socket)
        self.issuer = f"http://127.0.0.1:{self.port}"

    def code(self, query: Mapping[str, Sequence[str]], code: str = "c-1") -> str:
        """What its sign-in page would send back to a browser that came with ``query``."""
        assert query["code_challenge_method"] == ["S256"]
        self.codes[code] = (query["code_challenge"][0], query.get("nonce", [""])[0])
        return code

    async def close(self) -> None:
        self.server.stop()
        await self.server.close_all_connections()

    def _sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, dict(claims), self.key)

    def answer(self, page: _Page, path: str) -> Any:
        self.asked.append(path)
        self.encodings.append(page.request.headers.get("Accept-Encoding", ""))
        for name, value in self.headers.items():
            page.set_header(name, value)
        if self.down or path in self.silent:
            page.set_status(503)
            return {}
        if path in self.instead:
            page.set_status(self.instead[path][0])
            return self.instead[path][1]
        if path == ".well-known/openid-configuration":
            ends = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "token", "userinfo")}
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **ends, **self.about}
        if path == "keys":
            return {"keys": [key.as_dict(private=False) for key in self.listed]}
        if path == "token" or path.endswith("access_token"):
            return self._give(page)
        bearer = page.request.headers.get("Authorization", "")
        token = bearer.removeprefix("Bearer ")
        if token not in {"access-1", "access-2", "groups-1"} - self.ended:
            page.set_status(401)
            return {}
        return self.userinfo if path == "userinfo" else self.pages.get(path, [])

    def _give(self, page: _Page) -> Any:
        form = {name: page.get_body_argument(name) for name in page.request.body_arguments}
        self.forms.append(form)
        if form.get("grant_type") == "refresh_token":
            good = form.get("refresh_token") in self.good
            nonce, access = None, "access-2"
        else:
            challenge, nonce = self.codes.pop(form.get("code", ""), ("", ""))
            good = challenge == create_s256_code_challenge(form.get("code_verifier", ""))
            access = "access-1"
        if not good:
            page.set_status(400)
            return {"error": "invalid_grant"}
        now = int(utc_now().timestamp())
        claims = {"iss": self.issuer, "sub": "s-1", "aud": self.client, "iat": now, "exp": now + 300, "nonce": nonce}
        claims = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        answer = {"access_token": access, "token_type": "Bearer", "refresh_token": "refresh-1"}
        return {**answer, "id_token": self.sign(claims), **self.token}


@functools.cache
def _first_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "one"})  # takes a while: one for all tests of a run


class _Page(RequestHandler):
    def initialize(self, provider: LyingProvider) -> None:
        self.provider = provider

    def get(self, path: str) -> None:
        self.finish(json.dumps(self.provider.answer(self, path)))

    def post(self, path: str) -> None:
        self.finish(json.dumps(self.provider.answer(self, path)))


class RealProvider:
    """oidc-provider, with one client, until :meth:`close`."""

    def __init__(self, client: str, secret: str, redirect: str) -> None:
        node, packages = need_program("node", "nodejs"), installed()
        entry = packages / "node_modules" / "oidc-provider" / "lib" / "index.js"
        self.process = subprocess.Popen(
            [node, str(_SCRIPT), str(entry)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdin is not None
        words = json.dumps({"client": client, "secret": secret, "redirect": redirect})
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()

    async def start(self) -> str:
        """Its issuer, once it listens."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            line = await asyncio.to_thread(self.process.stdout.readline)
        assert line.startswith(b"http://127.0.0.1:"), "oidc-provider did not start"
        return line.decode().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def installed() -> Path:
    """The directory that npm installed the package in, once for all runs; a skip if it cannot be had."""
    npm = need_program("npm", "npm")
    base = (
        Path("/var/lib/batchhub-lab") if os.geteuid() == 0 else Path(tempfile.gettempdir()) / f"batchhub-{os.geteuid()}"
    )
    place = base / "npm" / PACKAGE
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (base / "npm" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            argv = [
                npm,
                "install",
                "--no-save",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                f"--prefix={place}",
                PACKAGE,
            ]
            try:
                subprocess.run(argv, check=True, capture_output=True, timeout=300)
            except (subprocess.SubprocessError, OSError):
                missing(f"npm could not install {PACKAGE}")
            (place / "done").touch()
    return place
