"""Names as they are written into LDAP's texts, so that nothing in them means anything there."""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\.", re.DOTALL)
_DN_SPECIAL = frozenset('#,+"\\<>;=')


def in_filter(text: str) -> str:
    """A value in a search filter: RFC 4515 section 3. Everything but ASCII letters and digits goes as bytes in hexadecimal."""
    return "".join(_plain(one) or "".join(f"\\{byte:02x}" for byte in one.encode()) for one in text)


def in_dn(text: str) -> str:
    """A value in a distinguished name: RFC 4514 section 2.4."""
    last = len(text) - 1
    found = []
    for place, one in enumerate(text):
        if one < " " or one == "\x7f":
            found.append(f"\\{ord(one):02x}")
        elif one in _DN_SPECIAL or (place == 0 and one == " ") or (place == last and one == " "):
            found.append(f"\\{one}")
        else:
            found.append(one)
    return "".join(found)


def first_value(dn: str) -> str:
    """The value of a DN's first component: a group's name, where the directory tells groups by DN."""
    first = _split(_split(dn, ",;")[0], "+")[0]
    return _meant(first.partition("=")[2]).strip()


def below(dn: str, base: str) -> bool:
    """Whether a DN is directly or deeper below ``base``, by its text without blanks and capitals; in doubt not."""
    parts, wanted = _folded(dn), _folded(base)
    return len(parts) > len(wanted) and parts[-len(wanted) :] == wanted


def _folded(dn: str) -> list[str]:
    return [part.strip().casefold() for part in _split(dn, ",;")]


def _split(text: str, marks: str) -> list[str]:
    """At each of these marks that is not escaped. Escapes are left in."""
    parts, escaped = [""], False
    for one in text:
        if one in marks and not escaped:
            parts.append("")
        else:
            parts[-1] += one
        escaped = one == "\\" and not escaped
    return parts


def _meant(value: str) -> str:
    """Without its escapes, which are of one character, or of bytes of UTF-8 in hexadecimal: RFC 4514 section 3."""

    def plain(found: re.Match[str]) -> str:
        pairs = bytes.fromhex(found[0].replace("\\", "")) if found[1] else b""
        return pairs.decode("utf-8", "replace") if pairs else found[0][1:]

    return _ESCAPED.sub(plain, value)


def _plain(one: str) -> str:
    return one if one.isascii() and one.isalnum() else ""
