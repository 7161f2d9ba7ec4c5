"""A secret that a site keeps in a file of its own, so that it stands in no configuration, command line or environment."""

from __future__ import annotations

import os
import stat

from batchhub.core.errors import ConfigError

LIMIT = 4096
"""Bytes; a secret is shorter."""


def read_secret_file(path: str, setting: str) -> str:
    """The file's only line. ``setting`` is named when it is not a plain file of ours, or root's, that nobody else can read: ConfigError."""
    try:
        # O_NONBLOCK: a pipe put in its place must not hang the start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}.") from error
    with open(fd, "rb") as opened:  # noqa: PTH123 - it is open already
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in {0, os.geteuid()}:
            raise ConfigError(
                f"{setting}: {path} must be a plain file that belongs to whoever runs the hub, or to root."
            )
        if about.st_mode & 0o077:
            mode = stat.S_IMODE(about.st_mode)
            raise ConfigError(f"{setting}: others can read or write {path} (mode {mode:04o}); it must be 0600.")
        data = opened.read(LIMIT + 1)
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > LIMIT or not text.isprintable():
        raise ConfigError(f"{setting}: {path} must hold one line of text, the secret.")
    return text
