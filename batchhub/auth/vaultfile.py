"""The vault's keys in a file, ``state_dir/vault.keys``: 0600, one in each line, the newest first.

``batchhub vault rotate`` puts a new one on top while hubs run, so a hub looks whether the file has changed before it seals or opens anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.fernet import Fernet

from batchhub.auth.secrets import read_own, write_own
from batchhub.auth.vault import Vault
from batchhub.core.errors import ConfigError, Conflict

log = logging.getLogger(__name__)

MOST_KEYS = 20
"""Keys in the file; more means that old ones are never taken out."""
_LIMIT = 4096


class VaultFile:
    """The keys in the file at ``path``, which is made with one key if it is missing. Every method raises ConfigError if the file is not as it should be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._vault: Vault

    def current(self) -> Vault:
        """The vault with the keys as they are in the file now."""
        seen = self._look()
        if seen is None:
            if self._seen is not None:
                log.error(
                    "%s is gone, and a new key is made: put it back, or what was kept of people stays shut", self._path
                )
            write_own(self._path, Fernet.generate_key() + b"\n", replace=False)
            seen = self._look()
        if seen != self._seen:
            # The file may change between the two looks; then it is read once more the next time.
            self._vault, self._seen = Vault(self.read_keys()), seen
        return self._vault

    def read_keys(self) -> tuple[bytes, ...]:
        """The newest first."""
        try:
            data = read_own(
                self._path,
                _LIMIT,
                f"Somebody may have copied it: chmod 600 {self._path}, then `batchhub vault rotate`.",
            )
        except FileNotFoundError:
            raise ConfigError(f"The key file {self._path} is not there; the hub makes it when it starts.") from None
        keys = tuple(data.split())
        try:
            for key in keys:
                Fernet(key)
        except ValueError:
            keys = ()
        if not keys or len(keys) > MOST_KEYS:
            raise ConfigError(f"The key file {self._path} must hold 1 to {MOST_KEYS} keys, one in each line.")
        return keys

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes the keys meanwhile: a key that is lost takes what it sealed with it. Raises Conflict."""
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Conflict("Another `batchhub vault` is at work on these keys.") from None
        try:
            yield
        finally:
            os.close(lock)

    def add(self) -> None:
        """Put a new key on top. Within :meth:`changing`."""
        keys = self.read_keys()
        if len(keys) >= MOST_KEYS:
            raise ConfigError(f"There are {MOST_KEYS} keys, which is the limit: `batchhub vault finish` first.")
        self._write((Fernet.generate_key(), *keys))

    def keep_newest(self) -> int:
        """Forget all but the newest; how many. Within :meth:`changing`."""
        keys = self.read_keys()
        self._write(keys[:1])
        return len(keys) - 1

    def age(self, now: float) -> float:
        """Seconds since the keys were changed, at ``now`` (seconds since 1970)."""
        return now - self._path.stat().st_mtime

    def _write(self, keys: Sequence[bytes]) -> None:
        write_own(self._path, b"".join(key + b"\n" for key in keys), replace=True)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            about = self._path.stat()
        except FileNotFoundError:
            return None
        return about.st_ino, about.st_mtime_ns, about.st_size
