"""People's own SSH keys, made by the hub: one for each person and cluster, the private half sealed in the database.

The public half is shown to its owner, who adds it to their ``authorized_keys``; the private one never leaves the hub.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from batchhub.auth.vault import Vault
from batchhub.core.model import UserName

PURPOSE = "ssh-key"
"""What the vault seals a private half as."""


class StoredKey(Protocol):
    """A key as the store keeps it."""

    @property
    def cluster(self) -> str:
        """For which."""

    @property
    def created(self) -> datetime:
        """When it was made."""

    @property
    def public(self) -> str:
        """``ssh-ed25519 AAAA…``."""

    @property
    def sealed(self) -> str:
        """The private half."""

    @property
    def works(self) -> datetime | None:
        """When the cluster last took it, if it did, and has not refused it since."""


class KeyStore(Protocol):
    """What this needs of the database. Every method raises StoreUnavailable when it cannot be asked."""

    def key(self, user: str, cluster: str) -> Awaitable[StoredKey | None]:
        """One person's for one cluster."""

    def keys_of(self, user: str) -> Awaitable[Sequence[StoredKey]]:
        """All of a person's."""

    def put_key(self, user: str, cluster: str, *, public: str, sealed: str) -> Awaitable[StoredKey]:
        """In place of the one that was there. Raises NotFound for an unknown user."""

    def key_worked(self, user: str, cluster: str, public: str, *, works: bool) -> Awaitable[None]:
        """Note what the cluster said of it, unless it was replaced meanwhile."""

    def delete_key(self, user: str, cluster: str) -> Awaitable[bool]:
        """Remove it; whether there was one."""


class ManagedKeys:
    """All of them. ``vault`` gives the vault with the keys of this moment."""

    def __init__(self, store: KeyStore, vault: Callable[[], Vault]) -> None:
        self._store = store
        self._vault = vault

    async def of(self, user: UserName) -> dict[str, StoredKey]:
        """A person's keys, by cluster."""
        return {key.cluster: key for key in await self._store.keys_of(user)}

    async def key(self, user: UserName, cluster: str) -> StoredKey | None:
        """One of them."""
        return await self._store.key(user, cluster)

    async def make(self, user: UserName, cluster: str) -> StoredKey:
        """A new one, in place of any other. Raises StoreUnavailable, ConfigError."""
        private, public = new_key()
        sealed = self._vault().seal(PURPOSE, _owner(user, cluster), {"private": private})
        return await self._store.put_key(user, cluster, public=public, sealed=sealed)

    def private(self, user: UserName, key: StoredKey) -> str | None:
        """The private half in OpenSSH's format, or ``None`` if no key of the vault opens it. Raises ConfigError."""
        opened = self._vault().open(PURPOSE, _owner(user, key.cluster), key.sealed)
        private = opened.get("private") if opened is not None else None
        return private if isinstance(private, str) else None

    async def note(self, user: UserName, cluster: str, public: str, *, works: bool) -> None:
        """What the cluster said of the key with this public half, if it is still theirs."""
        await self._store.key_worked(user, cluster, public, works=works)

    async def remove(self, user: UserName, cluster: str) -> bool:
        """Forget it; whether there was one."""
        return await self._store.delete_key(user, cluster)


def new_key() -> tuple[str, str]:
    """An ed25519 key: the private half in OpenSSH's format, and the public one as ``ssh-ed25519 AAAA…``."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def authorized_line(public: str, comment: str, sources: Sequence[str]) -> str:
    """The line for ``authorized_keys``: commands, and nothing else (OpenSSH's ``restrict``), from ``sources`` if there are any.

    ``restrict`` takes terminals, agent, X11, port forwarding and ``~/.ssh/rc`` from the key; sshd(8), AUTHORIZED_KEYS FILE FORMAT.
    """
    options = "restrict" + (f',from="{",".join(sources)}"' if sources else "")
    plain = "".join(char if char.isalnum() or char in "@._-" else "-" for char in comment)
    return f"{options} {public} {plain}"


def _owner(user: str, cluster: str) -> str:
    return f"{cluster}/{user}"
