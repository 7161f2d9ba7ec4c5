"""Names as they are written into LDAP's texts, so that nothing in them means anything there."""

from __future__ import annotations

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
    value = []
    escaped, rest = False, dn.partition("=")[2]
    for one in rest:
        if escaped:
            value.append(one)
            escaped = False
        elif one == "\\":
            escaped = True
        elif one in ",+":
            break
        else:
            value.append(one)
    return "".join(value).strip()


def below(dn: str, base: str) -> bool:
    """Whether a DN is directly or deeper below ``base``, by its text without blanks and capitals; in doubt not."""
    return _folded(dn).endswith("," + _folded(base))


def _folded(dn: str) -> str:
    return ",".join(part.strip().casefold() for part in dn.split(","))


def _plain(one: str) -> str:
    return one if one.isascii() and one.isalnum() else ""
