"""What a front end that is trusted says about who asks: heard from it alone, sealed for the hub, and taken out of every request.

Names are compared with ``_`` as ``-``: an application that reads headers through CGI variables could not tell the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from batchhub.core.vouching import HEADER, vouch
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


def seal_line(head: RequestHead, names: tuple[str, ...], key: bytes, now: datetime) -> bytes:
    """The header line for the hub; empty if nothing is said."""
    told = said(head, names)
    sealed = vouch(key, told, now) if told else ""
    return f"{HEADER}: {sealed}\r\n".encode("ascii") if sealed else b""
