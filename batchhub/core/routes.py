"""Which route a path belongs to: one canonical form of a path, and a trie over its segments.

A path is brought into one form *before* it is matched, and exactly that form is sent on. What a route was chosen by is therefore
what the application sees, whatever dots, slashes and escapes the client wrote (configurable-http-proxy matches one form and
forwards another, which lets ``/user/a%2Fx`` or ``/user/a/../b`` be read differently at the two ends).

The canonical form, after RFC 3986 section 6.2.2:

- refused: control characters raw or escaped, backslashes, ``#``, malformed escapes, escapes that are not UTF-8, and segments that
  would be a dot segment for a server that decodes ``%2F`` or ``%5C`` early or cuts parameters off (``..%2f..``, ``..;x``);
- escapes of unreserved characters are decoded (``%7E`` is ``~``, ``%2e`` is ``.``), all others are kept, in capitals;
- characters that may not stand in a path (``"<>[]^`{|}`` and anything beyond ASCII) are escaped;
- ``//`` is collapsed to ``/``: servers disagree about empty segments, so none is ever sent;
- dot segments are resolved; above the root they end at the root;
- ``%2F`` stays escaped and is no separator, in matching neither: ``/user/a%2Fb`` lies below no route but ``/user`` or ``/``.

The query string takes no part: it is forwarded untouched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from batchhub.core.errors import BadInput

T = TypeVar("T")

_PLAIN = re.compile(rb"(?:/(?!\.{1,2}(?:[/;]|\Z))[A-Za-z0-9\-._~!$&'()*+,;=:@]+)*/?")
_REFUSED = re.compile(rb"[\x00-\x20\x7f\\#?]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_OUTSIDE = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%]")
_SEPARATORS = re.compile(r"[/\\;]")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class CanonicalPath(NamedTuple):
    """A path in its one form: ``text`` is sent on, ``segments`` (decoded; an empty last one for a final ``/``) are matched."""

    text: str
    segments: tuple[str, ...]


def canonical_path(raw: bytes | str) -> CanonicalPath:
    """Bring a request's path, without its query string, into the canonical form. Raises :class:`BadInput`."""
    data = raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else raw
    if data and _PLAIN.fullmatch(data):
        text = data.decode("ascii")
        return CanonicalPath(text, tuple(text[1:].split("/")))
    if not data.startswith(b"/"):
        raise BadInput("The path of a request must begin with '/'.")
    if _REFUSED.search(data):
        raise BadInput("The path holds a control character, a space, a backslash or '#', which must be escaped.")
    if _BAD_ESCAPE.search(data):
        raise BadInput("The path holds a '%' that is not followed by two hexadecimal digits.")
    escaped = _ESCAPE.sub(_normal_escape, _OUTSIDE.sub(lambda found: b"%%%02X" % found[0][0], data))
    parts = _without_dots(escaped[1:].split(b"/"))
    segments = tuple(_decode(part) for part in parts)
    return CanonicalPath("/" + b"/".join(parts).decode("ascii"), segments)


def stripped(text: str, segments: int) -> str:
    """A canonical path without its first segments: counted, as a segment may be escaped in more than one way."""
    parts = text.split("/", segments + 1)
    return f"/{parts[-1]}" if len(parts) > segments + 1 else "/"


def _normal_escape(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16)
    if code < 0x20 or code == 0x7F:
        raise BadInput("The path holds an escaped control character.")
    return bytes((code,)) if code in _UNRESERVED else found[0].upper()


def _without_dots(parts: Sequence[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for part in parts:
        if part == b"..":
            del kept[-1:]
        elif part not in {b".", b""}:
            kept.append(part)
    if parts[-1] in {b"", b".", b".."}:
        kept.append(b"")
    return kept


def _decode(part: bytes) -> str:
    try:
        text = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), part).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("The path holds escapes that are not UTF-8.") from error
    pieces = _SEPARATORS.split(text)
    if len(pieces) > 1 and not {".", ".."}.isdisjoint(pieces):
        raise BadInput("The path hides a dot segment behind an escaped slash or a parameter.")
    return text


def route_key(path: str) -> str:
    """The table's spelling of a route's path: unescaped, a leading ``/``, no trailing one; the root is ``/``."""
    return "/" + "/".join(_segments(path))


def _segments(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


@dataclass(slots=True)
class _Node(Generic[T]):
    children: dict[str, _Node[T]] = field(default_factory=dict)
    entry: tuple[str, T] | None = None


class RouteTable(Generic[T]):
    """Route paths to values, found by longest prefix of whole segments: ``/user/a`` is no prefix of ``/user/ab``.

    Keys are configurable-http-proxy's: see :func:`route_key`. Looking up costs one dictionary access for each segment, however
    many routes there are.
    """

    __slots__ = ("_entries", "_root")

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._entries: dict[str, T] = {}

    def __len__(self) -> int:
        """The number of routes."""
        return len(self._entries)

    def add(self, path: str, value: T) -> None:
        """Add or replace."""
        node = self._root
        for part in _segments(path):
            node = node.children.setdefault(part, _Node())
        key = route_key(path)
        node.entry = (key, value)
        self._entries[key] = value

    def get(self, path: str) -> T | None:
        """The value at exactly this path."""
        return self._entries.get(route_key(path))

    def delete(self, path: str) -> bool:
        """Remove it, with the branches that lead nowhere afterwards. False if it was not there."""
        if self._entries.pop(route_key(path), None) is None:
            return False
        trail = [("", self._root)]
        for part in _segments(path):
            trail.append((part, trail[-1][1].children[part]))
        trail[-1][1].entry = None
        for (_, parent), (part, node) in zip(reversed(trail[:-1]), reversed(trail[1:]), strict=True):
            if node.entry is not None or node.children:
                break
            del parent.children[part]
        return True

    def match(self, segments: Sequence[str]) -> tuple[str, T] | None:
        """The route with the longest prefix of these decoded segments, with its key."""
        node = self._root
        best = node.entry
        for part in segments:
            below = node.children.get(part)
            if below is None:
                break
            node = below
            if node.entry is not None:
                best = node.entry
        return best

    def all(self) -> Iterator[tuple[str, T]]:
        """All routes, oldest first. The table may change meanwhile."""
        return iter(list(self._entries.items()))
