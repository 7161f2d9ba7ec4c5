"""The ed25519 keys of reverse tunnels: the proxy's own, and one for each start of a job. Derived, so no database holds them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from batchhub.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """``private`` in OpenSSH's format, ``public`` as in a ``.pub`` file, without a comment."""

    private: str = field(repr=False)
    public: str


def key_pair(seed: bytes) -> KeyPair:
    """The ed25519 key of these 32 bytes (RFC 8032, 5.1.5). Raises ConfigError for another number of bytes.

    The private text differs from call to call by a check number of its format; the key does not.
    """
    if len(seed) != 32:
        raise ConfigError("An ed25519 key is made from 32 bytes.")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return KeyPair(private.decode(), key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def offer_key(key: bytes, server_id: str, generation: int) -> KeyPair:
    """What one start of one server dials in with: HKDF-SHA256 (RFC 5869) of its id and generation from the hub's key.

    ``key`` has at least 32 bytes, else ConfigError.
    """
    if len(key) < 32:
        raise ConfigError("The key that jobs' keys are derived from must have at least 32 bytes.")
    purpose = f"batchhub offer key\0{server_id}\0{generation}".encode()
    return key_pair(HKDF(SHA256(), 32, salt=None, info=purpose).derive(key))
