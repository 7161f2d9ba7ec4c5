r"""One command line that every login shell passes on literally, and the reading of what comes back. Pure.

An SSH server hands a command to the account's login shell, which may be bash, dash, tcsh, fish or anything else, after
start-up files that may print whatever they like. So the line is ``exec /bin/sh -c '…'`` where the quoted part holds only
characters that all of them leave alone inside single quotes; every other byte travels as ``\0ooo`` and is put back by
``printf %b``, which POSIX gives to every ``/bin/sh``. (Alone among escapes, a backslash before a digit means nothing to
fish in single quotes; tcsh would expand ``!`` there, and csh knows no newline there.)

The script inside first prints a random *fence* on both outputs. What stands before it (banners, warnings of sudo) is not
the command's. With no fence the command was not run.
"""

from __future__ import annotations

import math
import re
import shlex

from batchhub.core.errors import BadInput, Denied
from batchhub.core.ports import Command

LINE_LIMIT = 128 * 1024 - 256
"""Bytes. Linux refuses a single argument of more than 128 KiB (MAX_ARG_STRLEN), and the line is one argument of ``-c``."""

KILL_AFTER = 5
"""Seconds that ``timeout`` gives a command between TERM and KILL."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _./:=,+@-")
_PATTERN = re.compile(r"[A-Za-z0-9_*?]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FENCE = re.compile(r"[A-Za-z0-9-]{16,64}")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?")
_WIDE_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?")


def check_account(name: str, wide: bool = False) -> str:
    """An account's name that is safe as an argument of sudo, in a path and as an SSH user; returned as it is.

    ``wide`` also lets upper case and ``@`` pass, which some directories use. Raises BadInput, and Denied for root, however a
    directory may find it: a hub never acts as root for a person.
    """
    if not (_WIDE_ACCOUNT if wide else _ACCOUNT).fullmatch(name):
        hint = (
            " Upper case and '@' pass where the cluster says wide_accounts = true."
            if _WIDE_ACCOUNT.fullmatch(name)
            else ""
        )
        raise BadInput(f"{name[:64]!r} is not an account name that commands may be run as.{hint}")
    if name.partition("@")[0].casefold() == "root":
        raise Denied("Commands are not run as root for anybody.")
    return name


def script(command: Command, fence: str, seconds: float, path: str = "") -> str:
    """The ``/bin/sh`` script that runs ``command`` in the account's home, below the fence.

    ``seconds`` is what is left until the deadline; ``timeout``, where there is one, acts just after it, for the case that
    nobody can kill the command from outside (the connection is gone, sudo owns it). ``path`` is put in front of PATH.
    Raises BadInput for what no program can be given.
    """
    if not command.argv or not command.argv[0] or command.argv[0].startswith("-"):
        raise BadInput("A command needs a program, whose name does not begin with '-'.")
    if not _FENCE.fullmatch(fence):
        raise BadInput("A fence is 16 to 64 letters, digits and '-'.")
    # In two halves, so that a shell that shows what it runs does not show the fence.
    halves = f"printf '%s%s\\n' {fence[:8]} {fence[8:]}"
    argv = " ".join(_quote(part) for part in command.argv)
    limit = f"timeout -k {KILL_AFTER} {max(1, math.ceil(seconds)) + 1}"
    lines = [halves, f"{halves} >&2", "cd 2>/dev/null || cd /"]
    if path:
        lines.append(f"PATH={_quote(path)}:$PATH; export PATH")
    if command.unset:
        lines.append(_scrub(command.unset, command.keep))
    lines += [f"{_variable(name)}={_quote(value)}; export {name}" for name, value in command.env.items()]
    lines += [f"set -- {argv}", f'command -v timeout >/dev/null 2>&1 && exec {limit} "$@"', 'exec "$@"']
    return "\n".join(lines)


def line(text: str) -> str:
    """One line that a login shell, whichever it is, hands to ``/bin/sh`` as the script ``text``. Raises BadInput."""
    coded = "".join(chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in encode(text))
    whole = f"""exec /bin/sh -c 'eval "$(printf "%b" "{coded}")"'"""
    if len(whole) > LINE_LIMIT:
        raise BadInput(f"The command is too long for one command line ({len(whole)} bytes, {LINE_LIMIT} are possible).")
    return whole


def sudo(account: str, text: str, program: str = "sudo") -> tuple[str, ...]:
    """The argv that runs the script ``text`` as ``account``, which :func:`check_account` has passed."""
    return (program, "-n", "-H", "-u", account, "--", "/bin/sh", "-c", text)


def sudo_script(account: str, text: str, program: str = "sudo") -> str:
    """The same as a script."""
    return "exec " + " ".join(_quote(part) for part in sudo(account, text, program))


def strip_fence(data: bytes, fence: str) -> bytes | None:
    """What follows the fence; ``None`` when there is none."""
    _, found, rest = data.partition(fence.encode() + b"\n")
    return rest if found else None


def encode(text: str) -> bytes:
    """Text as the bytes of a command line or of its input; ``surrogateescape`` brings undecodable file names back."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadInput("A command holds a character that is no character (a lone surrogate).") from error
    return data


def _quote(text: str) -> str:
    if "\0" in text:
        raise BadInput("A command cannot hold a NUL character.")
    return shlex.quote(text)


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise BadInput(f"{name[:64]!r} is not the name of an environment variable.")
    return name


def _scrub(unset: tuple[str, ...], keep: tuple[str, ...]) -> str:
    for pattern in (*unset, *keep):
        if not _PATTERN.fullmatch(pattern):
            raise BadInput(f"{pattern[:64]!r} is not a pattern of environment variables.")
    kept = f"{'|'.join(keep)}) ;; " if keep else ""
    # A value of several lines may look like more names; unsetting a name that is not there does nothing.
    names = "$(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p')"
    return f'for n in {names}; do case $n in {kept}{"|".join(unset)}) unset "$n" ;; esac; done'
