"""Signing in with SSH certificates: a key made in memory for one connection, signed by the hub's authority for some minutes.

The format is OpenSSH's PROTOCOL.certkeys. No terminal, agent, X11 or ``~/.ssh/rc`` is granted to anybody.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from batchhub.core.errors import ConfigError, Denied, Unreachable
from batchhub.core.ports import Clock
from batchhub.transport.shell import check_account

log = logging.getLogger(__name__)

SKEW = timedelta(minutes=1)
"""How far the clock of a login node may be behind ours."""


class Purpose(Enum):
    """What a connection is for. ``COMMANDS`` may open no streams, ``TUNNEL`` runs no commands."""

    COMMANDS = "commands"
    TUNNEL = "tunnel"


@dataclass(frozen=True, slots=True)
class Credential:
    """``key`` is private, in OpenSSH's format; ``certificate`` is a line as in a ``-cert.pub`` file."""

    key: str = field(repr=False)
    certificate: str


Sign = Callable[[str], Credential]
"""Makes what an SSH user signs in with. Raises Denied for root and who is revoked, Unreachable when the authority's key cannot be read."""


def key_id(purpose: Purpose, principal: str) -> str:
    """What sshd logs of a certificate, and what revoking one names."""
    return f"batchhub/{purpose.value}/{principal}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a certificate is good for. ``sources`` are the networks it may come from (none: any)."""

    purpose: Purpose
    life: timedelta
    sources: tuple[str, ...] = ()


class Authority:
    """``seed`` gives the 32 bytes of the ed25519 key, ``revoked`` for whom nothing is signed; asked each time, so that no change needs a restart."""

    def __init__(
        self, seed: Callable[[], bytes], clock: Clock, revoked: Callable[[], Collection[str]] = frozenset
    ) -> None:
        self._seed = seed
        self._clock = clock
        self._revoked = revoked

    def signer(self, terms: Terms) -> Sign:
        """For one pool of connections."""
        return lambda principal: self.sign(principal, terms)

    def sign(self, principal: str, terms: Terms) -> Credential:
        """A new key and its certificate. Raises Denied for root and who is revoked, BadInput for what is no account's name, Unreachable."""
        check_account(principal, wide=True)
        try:
            seed, revoked = self._seed(), self._revoked()
        except ConfigError as error:
            raise Unreachable(f"No certificate can be signed now: {error}") from error
        if principal in revoked:
            raise Denied(f"The certificates of {principal} are revoked; the hub's admins can restore them.")
        now = self._clock()
        serial, named = secrets.randbits(63) or 1, key_id(terms.purpose, principal)
        key = Ed25519PrivateKey.generate()
        builder = (
            SSHCertificateBuilder()
            .public_key(key.public_key())
            .type(SSHCertificateType.USER)
            .serial(serial)
            .key_id(named.encode())
            .valid_principals([principal.encode()])
            .valid_after(int((now - SKEW).timestamp()))
            .valid_before(int((now + terms.life).timestamp()))
        )
        if terms.sources:
            builder = builder.add_critical_option(b"source-address", ",".join(terms.sources).encode())
        if terms.purpose is Purpose.TUNNEL:
            builder = builder.add_critical_option(b"force-command", b"false")
            builder = builder.add_extension(b"permit-port-forwarding", b"")
        certificate = builder.sign(Ed25519PrivateKey.from_private_bytes(seed))
        log.info(
            "certificate %s (serial %d) is signed, for %g minutes", named, serial, terms.life / timedelta(minutes=1)
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return Credential(private.decode(), certificate.public_bytes().decode())


def check_sources(sources: tuple[str, ...], setting: str = "certificate_sources") -> None:
    """Networks as sshd reads them in ``source-address`` and ``from=``. Raises ConfigError."""
    for source in sources:
        try:
            ipaddress.ip_network(source)
        except ValueError as error:
            raise ConfigError(f"{setting}: {error}.") from error
