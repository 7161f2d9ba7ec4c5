"""What the hub is told under seal about who asks.

That is the address, and what a front end that is trusted says; the latter is heard from it alone, and taken out of every request.
Names are compared with ``_`` as ``-``: an application that reads headers through CGI variables could not tell the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from batchhub.core.vouching import ADDRESS, HEADER, vouch
from batchhub.proxy.wire import RequestHead

IDENTITY_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
NEVER_IDENTITY = frozenset(
    {
        "accept",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "origin",
        "referer",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    }
)
"""Headers that mean something else, to the proxy or to an application."""


@lru_cache(maxsize=4)
def taken(names: tuple[str, ...]) -> frozenset[bytes]:
    """The names that are taken out of requests, and in any case the seal's own."""
    return frozenset(name.lower().encode() for name in (*names, HEADER))


def said(head: RequestHead, names: tuple[str, ...]) -> Mapping[str, str]:
    """What each of these headers says, by its lower-case name. One that came twice, or holds what is no text, says nothing."""
    found = {}
    for name in names:
        values = head.all(name.lower().encode())
        if len(values) != 1:
            continue  # a front end that added its own to a stranger's: nobody can say which is which
        try:
            text = values[0].decode()
        except UnicodeDecodeError:
            continue
        if text and text.isprintable():
            found[name.lower()] = text
    return found


def seal_line(address: str, told: Mapping[str, str], key: bytes, now: datetime) -> bytes:
    """The header line for the hub: where the request came from, and what a front end said. If that is too long to be sealed, nobody said it."""
    sealed = vouch(key, {**told, ADDRESS: address}, now) or vouch(key, {ADDRESS: address}, now)
    return f"{HEADER}: {sealed}\r\n".encode("ascii")
