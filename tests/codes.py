"""A login node with a second factor: an account with a password, and a list of one-time codes (RFC 4226) that PAM's pam_oath checks."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.needs import missing
from tests.sshd import Sshd, account_tool, accounts

SECRET = bytes.fromhex("3132333435363738393031323334353637383930")
"""RFC 4226's own, so that the codes are its appendix D's."""
PASSWORD = "correct horse é battery"
NAME = f"bht-codes{os.getpid()}"
"""Of this process, as other tests make and remove accounts at the same time."""


def code(count: int) -> str:
    """The code of this count."""
    digest = hmac.digest(SECRET, count.to_bytes(8, "big"), hashlib.sha1)
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4], 'big') & 0x7FFFFFFF) % 10**6:06}"


class Codes:
    """The account: ``next`` is the code that is good now."""

    def __init__(self, users: Path) -> None:
        self._users = users
        self._count = 0
        self._users.write_text(f"HOTP {NAME} - {SECRET.hex()}\n")
        self._users.chmod(0o600)

    def next(self) -> str:
        """The next one that was not used."""
        self._count += 1
        return code(self._count - 1)

    def set_password(self, password: str = PASSWORD, *, days: int = 99999, expired: bool = False) -> None:
        """``days`` is how long a password is good; ``expired`` has ended the account itself."""
        account_tool("chpasswd", stdin=f"{NAME}:{password}\n")
        account_tool("chage", "-M", str(days), "-d", "2020-01-01" if days < 1000 else "2026-01-01", NAME)
        account_tool("usermod", "--expiredate", "2020-01-01" if expired else "", NAME)


@contextmanager
def account() -> Iterator[None]:
    """The account, with its password."""
    with accounts({NAME: "/bin/sh"}):
        account_tool("chpasswd", stdin=f"{NAME}:{PASSWORD}\n")
        yield


@contextmanager
def login_node(*extra: str, second: bool = True) -> Iterator[tuple[Sshd, Codes]]:
    """An sshd for the account; ``second``: a code besides the password. ``extra`` are lines of its configuration."""
    if not list(Path("/usr/lib").glob("*/security/pam_oath.so")) + list(Path("/lib64/security").glob("pam_oath.so")):
        missing("pam_oath.so is not installed: apt-get install libpam-oath")
    users = Path("/etc") / f"{NAME}.oath"
    codes = Codes(users)
    # Without the delay of a real one: a wrong password would cost seconds.
    lines = ["auth required pam_unix.so nodelay"]
    if second:
        lines.append(f"auth required pam_oath.so usersfile={users} window=20 digits=6")
    lines += ["account required pam_unix.so", "password required pam_unix.so"]
    server = Sshd((), (*extra, "KbdInteractiveAuthentication yes"), pam="\n".join(lines) + "\n")
    try:
        yield server, codes
    finally:
        server.close()
        users.unlink(missing_ok=True)
