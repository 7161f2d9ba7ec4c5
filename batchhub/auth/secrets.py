"""Secrets in files, 0600 and ours: the hub's own key, made at the first start, and what others gave us."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from batchhub.core.errors import ConfigError

KEY_BYTES = 32

_HEX = re.compile(rb"[0-9a-f]{64}\n?")


def load_or_create_key(path: str | os.PathLike[str]) -> bytes:
    """The 32 bytes kept as hex in the file at ``path``; a missing file is made in one step, so that two starts agree on one key.

    Raises ConfigError if the file is not a plain file of ours that nobody else can read, or does not hold a key.
    """
    file = Path(path)
    for _ in range(2):
        try:
            return _load(file)
        except FileNotFoundError:
            _create(file)
    return _load(file)


def _load(file: Path) -> bytes:
    text = read_own(
        file,
        200,
        "Somebody may have copied it: remove it, and the hub makes a new one (everybody has to sign in again).",
    )
    if _HEX.fullmatch(text) is None:
        raise ConfigError(f"The key file {file} does not hold a key of {KEY_BYTES} bytes in hexadecimal.")
    return bytes.fromhex(text.decode().strip())


def read_own(file: Path, limit: int, advice: str) -> bytes:
    """The first ``limit`` bytes of a plain file of ours that nobody else can read. Raises ConfigError, ending with ``advice`` if others can; FileNotFoundError."""
    try:
        # O_NONBLOCK: a pipe put in its place must not hang the start.
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"The key file {file} cannot be read: {error.strerror}.") from error
    try:
        _check(file, os.fstat(fd), advice)
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _check(file: Path, about: os.stat_result, advice: str) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError(f"The key file {file} is not a regular file.")
    if about.st_uid != os.geteuid():
        raise ConfigError(
            f"The key file {file} belongs to uid {about.st_uid}, not to uid {os.geteuid()} that runs the hub."
        )
    if about.st_mode & 0o077:
        raise ConfigError(
            f"The key file {file} can be read or written by others (mode {stat.S_IMODE(about.st_mode):04o}). {advice}"
        )


def _create(file: Path) -> None:
    write_own(file, secrets.token_hex(KEY_BYTES).encode() + b"\n", replace=False)


def write_own(file: Path, data: bytes, *, replace: bool) -> None:
    """Write a file that only we can read, in one step. Without ``replace``, one that is there already stays as it is. Raises ConfigError."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as opened:  # noqa: PTH123
                opened.write(data)
                opened.flush()
                os.fsync(fd)
            if replace:
                temporary.replace(file)
            else:
                os.link(temporary, file)  # never replaces: of two that start at once one wins, the other reads its key
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"The key file {file} cannot be made: {error.strerror}.") from error
