"""Names of sub-domains: each server may live under a host of its own, so that a browser keeps it apart from the hub and from every other.

Pure. The hub's own address is an :class:`Origin`; a server's host is one label in front of the hub's host. The label is made of the
owner's and the server's name, so that it never changes, and no two servers ever have the same one.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from dataclasses import dataclass

from batchhub.core.errors import BadInput

ENTER = "/_batchhub/enter"
"""Where the hub's form posts an entry to, at a server's host."""

MAX_LABEL = 63
"""Characters of one label (RFC 1035 section 2.3.4)."""

RESERVED = frozenset(
    {"www", "hub", "api", "admin", "login", "auth", "proxy", "static", "assets", "cdn", "mail", "smtp", "ftp", "ns", "localhost", "local"}
)  # fmt: skip
"""Labels that are never a server's: sites use them for something else, and people take them for something else."""

_ORIGIN = re.compile(r"(https?)://([A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PLAIN = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_NOT_PLAIN = re.compile(r"[^a-z0-9]+")
_MAX_HOST = 253
_HASH = 20
_SPECIAL = "x-"
_IMPLIED = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host (lower case) and port of the hub as browsers see it. ``port`` is empty when the scheme implies it."""

    scheme: str
    host: str
    port: str = ""

    @property
    def text(self) -> str:
        """As browsers write it in ``Origin``: without a final slash."""
        return self.at(self.host)

    @property
    def secure(self) -> bool:
        """Whether it is https."""
        return self.scheme == "https"

    def at(self, host: str) -> str:
        """The origin of another host: same scheme, same port."""
        return f"{self.scheme}://{host}{f':{self.port}' if self.port else ''}"

    def server_host(self, user: str, server: str = "") -> str:
        """The host of one server, without a port."""
        return f"{label(user, server)}.{self.host}"

    def server(self, user: str, server: str = "") -> str:
        """The origin of one server."""
        return self.at(self.server_host(user, server))

    def covers(self, host: str) -> bool:
        """Whether this host (lower case, without a port) lies below the hub's: only servers are served there."""
        return host.rstrip(".").endswith(f".{self.host}")


def read_origin(text: str) -> Origin:
    """The hub's address as a site wrote it: ``https://hub.example.org`` or ``http://hub.localhost:8000``. Raises BadInput."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        raise BadInput(
            f"{text[:80]!r}: 'https://NAME' or 'https://NAME:PORT' of the hub itself is expected, with nothing behind it."
        )
    scheme, host, port = found[1], found[2].lower(), found[3] or ""
    labels = host.split(".")
    if labels[-1].isdigit():
        raise BadInput(f"{text[:80]!r}: an address made of numbers has no sub-domains; the hub's DNS name is expected.")
    if not all(_LABEL.fullmatch(part) for part in labels):
        raise BadInput(f"{text[:80]!r}: {host[:80]!r} is not a DNS name.")
    if len(host) > _MAX_HOST - MAX_LABEL - 1:
        raise BadInput(f"{text[:80]!r}: the name is too long to put another label before it.")
    if port and not 1 <= int(port) <= 65535:
        raise BadInput(f"{text[:80]!r}: a port is a number from 1 to 65535.")
    number = str(int(port)) if port else ""
    return Origin(scheme, host, "" if number == _IMPLIED[scheme] else number)


def label(user: str, server: str = "") -> str:
    """The DNS label of one server: ``ann``, ``ann--big``, or ``x-SLUG-HASH`` for names that are no part of a label, or too long.

    No two pairs share one: a plain user's name has no double hyphen, so the double hyphen tells where it ends, and no plain label begins with
    ``x-``. Behind ``x-`` stands a hash of both names, of 100 bits. A double hyphen in third place is left to internationalised
    names (RFC 5891 section 4.2.3.1), so such a label is hashed too.
    """
    parts = (user, server) if server else (user,)
    plain = "--".join(parts)
    if (
        all(_PLAIN.fullmatch(part) for part in parts)
        and len(plain) <= MAX_LABEL
        and not plain.startswith(_SPECIAL)
        and plain[2:4] != "--"
        and plain not in RESERVED
    ):
        return plain
    both = f"{len(user)}\0{user}\0{server}".encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(both).digest()
    seal = b32encode(digest).decode("ascii").lower()[:_HASH]
    slug = _NOT_PLAIN.sub("-", plain.lower())[: MAX_LABEL - len(_SPECIAL) - 1 - _HASH].strip("-")
    return f"{_SPECIAL}{slug or 'server'}-{seal}"


def host_name(header: str) -> str:
    """The name in a ``Host`` header, lower case and without the port; an address in brackets keeps them."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()
