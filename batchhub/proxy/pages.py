"""The proxy's own answers: small error pages for people, JSON for programs."""

from __future__ import annotations

import html
import json
from http import HTTPStatus

from batchhub.proxy.wire import RequestHead

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{code} {reason}</title>
<style>body{{font:1.05rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;color:#222;background:#fff}}
h1{{font-size:1.4rem}}a{{color:#06c}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}a{{color:#6af}}}}</style></head>
<body><h1>{title}</h1><p>{words}</p>{more}<p><small>{code} {reason}</small></p></body></html>
"""
_TITLES = {
    403: "No entry",
    404: "There is nothing here",
    502: "The application's answer broke off",
    503: "Not reachable just now",
    504: "No answer in time",
}
_HEADERS = (
    b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'\r\n"
)
AGAIN = "This page tries again by itself every few seconds."
HUB_AWAY = f"The hub is restarting or down. Notebooks that are open go on working. {AGAIN}"


def wants_json(head: RequestHead | None) -> bool:
    """Whether a program asked: by its Accept header, or by an address with ``/api/`` in it."""
    if head is None:
        return False
    accept = head.get(b"accept") or b""
    return bool(head.upgrade) or b"application/json" in accept or (b"/api/" in head.path and b"text/html" not in accept)


def answer(
    code: int,
    words: str,
    head: RequestHead | None,
    *,
    close: bool,
    refresh: int = 0,
    json_only: bool = False,
    more: str = "",
) -> bytes:
    """A whole response. ``words`` is escaped; ``more`` is trusted HTML; ``refresh`` is in seconds."""
    reason = HTTPStatus(code).phrase
    if json_only or wants_json(head):
        kind, text = "application/json", json.dumps({"status": code, "message": words})
    else:
        kind = "text/html; charset=utf-8"
        title = _TITLES.get(code, "The request was not accepted" if code < 500 else "Something went wrong")
        text = _PAGE.format(code=code, reason=reason, title=title, words=html.escape(words), more=more)
    extra = b"Refresh: %d\r\nRetry-After: %d\r\n" % (refresh, refresh) if refresh else b""
    if code == 405:
        extra += b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    return whole(code, kind, text.encode(), head, close=close, extra=_HEADERS + extra)


def whole(code: int, kind: str, body: bytes, head: RequestHead | None, *, close: bool, extra: bytes = b"") -> bytes:
    """Head and body, without the body for HEAD."""
    lines = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n" % (
        code,
        HTTPStatus(code).phrase.encode(),
        kind.encode(),
        len(body),
        extra,
        b"Connection: close\r\n" if close else b"",
    )
    return lines if head is not None and head.method == b"HEAD" else lines + body


def bare(code: int, *, close: bool) -> bytes:
    """A status and nothing else."""
    reason, last = HTTPStatus(code).phrase.encode(), b"Connection: close\r\n" if close else b""
    return b"HTTP/1.1 %d %b\r\nContent-Length: 0\r\n%b\r\n" % (code, reason, last)


def redirect(url: str, head: RequestHead, *, close: bool, code: int = 302, cookie: str = "") -> bytes:
    """To an address of our own making, with a Set-Cookie value if one is given."""
    own = b"Set-Cookie: %b\r\n" % cookie.encode("ascii") if cookie else b""
    return whole(
        code,
        "text/plain",
        b"",
        head,
        close=close,
        extra=b"Location: %b\r\nCache-Control: no-store\r\n%b" % (url.encode("ascii"), own),
    )
