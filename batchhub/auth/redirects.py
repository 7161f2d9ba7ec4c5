"""The one place that decides where a ``next`` parameter may lead. Pure.

Only an absolute path on this hub, spelt so that every browser and every server behind reads it the same way. What is in doubt is
refused and the default taken: a lost bookmark is cheaper than a sign-in page that sends people to somebody else's.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import SplitResult, quote, unquote, urlsplit

LIMIT = 2048
"""Characters; longer is refused."""

_KEEP = "".join(chr(code) for code in range(0x21, 0x7F))
_NOT_AFTER_SIGN_IN = ("hub/login", "hub/logout")
"""Pages that would undo the sign-in, or ask for it again."""


def safe_next(next: str | None, base: str = "/", default: str | None = None) -> str:  # noqa: A002  (the parameter's name)
    """``next`` if it is safe to redirect to, else ``default``, else ``base``.

    ``base`` is the path the hub is mounted at, with slashes at both ends; nothing outside it is reachable. The answer is ASCII.
    """
    fallback = base if default is None else default
    if not next or len(next) > LIMIT or not _readable(next):
        return fallback
    path = next.partition("#")[0].partition("?")[0]
    if not _stays_here(path, base):
        return fallback
    return quote(next, safe=_KEEP)


def path_here(address: str, origin: str) -> str:
    """Path and query of an address at ``origin`` (``https://hub.example.org``), or of one without a host; empty if it is elsewhere.

    What comes of it is for :func:`safe_next` to judge.
    """
    if address.startswith("/"):
        return address
    try:
        given, ours = urlsplit(address), urlsplit(origin)
        same = _place(given) == _place(ours)
    except ValueError:
        return ""
    if not same or given.username is not None or given.password is not None:
        return ""
    return (given.path or "/") + (f"?{given.query}" if given.query else "")


def _place(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _readable(text: str) -> bool:
    # Browsers drop tabs and newlines and read a backslash as a slash, wherever they are.
    if "\\" in text or any(char != " " and not char.isprintable() for char in text):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stays_here(path: str, base: str) -> bool:
    # Each layer between the browser and the page may decode once more; every reading has to be harmless.
    for _ in range(4):
        if not _harmless(path, base):
            return False
        decoded = unquote(path, errors="replace")
        if decoded == path:
            return True
        path = decoded
    return False  # encoded again and again: nobody means well by that


def _harmless(path: str, base: str) -> bool:
    for reading in (path, unicodedata.normalize("NFKC", path)):
        if not reading.startswith(base) or not reading.startswith("/") or not _readable(reading):
            return False
        inner = reading.split("/")
        # An empty segment can become a host ("//evil"), dots can climb out of the base or uncover an empty one.
        if "" in inner[1:-1] or any(segment.partition(";")[0] in {".", ".."} for segment in inner):
            return False
        rest = reading[len(base) :].rstrip("/")
        if rest in _NOT_AFTER_SIGN_IN:
            return False
    return True
