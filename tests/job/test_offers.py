"""Keys of reverse tunnels."""

import io

import paramiko
import pytest

from batchhub.core.errors import ConfigError
from batchhub.job.offers import key_pair, offer_key

KEY = b"k" * 32


def test_each_start_of_each_server_has_its_own() -> None:
    publics = {offer_key(KEY, server, count).public for server in ("a", "b", "a1") for count in (1, 2, 11)}
    assert len(publics) == 9
    assert offer_key(KEY, "a", 1).public == offer_key(KEY, "a", 1).public
    assert offer_key(b"x" * 32, "a", 1).public not in publics


def test_the_halves_belong_together_and_others_read_them() -> None:
    pair = offer_key(KEY, "abcdefghijkl", 3)
    read = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))
    assert f"ssh-ed25519 {read.get_base64()}" == pair.public
    assert pair.private not in repr(pair)


def test_rfc_8032_test_1() -> None:
    """Its section 7.1: the public key that belongs to this seed."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    read = paramiko.Ed25519Key.from_private_key(io.StringIO(key_pair(seed).private))
    assert read.asbytes()[-32:].hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_what_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError):
        offer_key(b"short", "a", 1)
    with pytest.raises(ConfigError):
        key_pair(b"x" * 31)
