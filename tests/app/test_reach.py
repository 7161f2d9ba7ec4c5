"""How hub and proxy ask each other."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from contextlib import closing

import pytest

from batchhub.app.reach import ask_directly


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers everybody."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_sites_http_proxy_never_sees_our_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", headers={"Authorization": "token x"})
    with closing(server.socket), ask_directly(request, 10) as answer:
        assert answer.read() == b"hello"
        thread.join(10)
