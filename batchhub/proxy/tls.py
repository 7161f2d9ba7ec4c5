"""Certificates: what the public socket, the control API and the connections to applications are secured with.

Certificates are read when a context is made, so that a new context is a reload. Nothing is ever asked at a terminal: a key with a passphrase
that was not given is an error.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from batchhub.core.errors import ConfigError

PROTOCOLS = {
    "": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
    "TLS": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.MAXIMUM_SUPPORTED),
    "TLSv1_2": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    "TLSv1_3": (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED),
}
"""Lowest and highest version, by the name that is configured. What is older than TLS 1.2 is not offered (RFC 8996)."""


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """A listener's certificate. ``client_authority``: the certificates that sign clients'; ``client_certificates``: clients must show one."""

    certificate: Path
    key: Path
    passphrase: str = field(default="", repr=False)
    client_authority: Path | None = None
    client_certificates: bool = False
    protocol: str = ""
    ciphers: str = ""
    dh_parameters: Path | None = None


_WORDS = {
    "no start line": "one of the files is not PEM",
    "key values mismatch": "the key belongs to another certificate",
}


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """How applications that speak TLS are met: the certificate shown to them, who must have signed theirs (empty: the system's list)."""

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    verify: bool = True


def server_context(tls: ServerTLS) -> ssl.SSLContext:
    """For a listener. Raises :class:`ConfigError` with a sentence that names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = _versions(tls.protocol)
    _chain(context, tls.certificate, tls.key, tls.passphrase)
    if tls.ciphers:
        try:
            context.set_ciphers(tls.ciphers)
        except ssl.SSLError as error:
            raise ConfigError(f"The TLS ciphers {tls.ciphers!r} name none that there is.") from error
    if tls.dh_parameters is not None:
        try:
            context.load_dh_params(str(tls.dh_parameters))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"The Diffie-Hellman parameters {tls.dh_parameters} cannot be used: {error}.") from error
    if tls.client_authority is not None:
        _authority(context, tls.client_authority)
    if tls.client_certificates:
        if tls.client_authority is None:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_context(tls: ClientTLS) -> ssl.SSLContext:
    """For connections to applications. Raises :class:`ConfigError` with a sentence that names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = _versions("")
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.authority is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.authority is not None:
        _authority(context, tls.authority)
    if tls.certificate is not None and tls.key is not None:
        _chain(context, tls.certificate, tls.key, "")
    return context


def _versions(name: str) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
    try:
        return PROTOCOLS[name]
    except KeyError as error:
        offered = ", ".join(filter(None, PROTOCOLS))
        raise ConfigError(f"The TLS protocol {name!r} is not offered; choose from: {offered}.") from error


def _chain(context: ssl.SSLContext, certificate: Path, key: Path, passphrase: str) -> None:
    def password() -> str:
        if not passphrase:
            raise ConfigError(f"The key {key} needs a passphrase, which was not given.")
        return passphrase

    for what, path in (("certificate", certificate), ("key", key)):
        try:  # OpenSSL would not say which of the two it is
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    try:
        context.load_cert_chain(certificate, key, password)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"The certificate {certificate} with key {key} cannot be used: {_reason(error)}.") from error


def _authority(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"The certificate authority {path} cannot be used: {_reason(error)}.") from error


def _reason(error: OSError) -> str:
    """OpenSSL's words are none for a person."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    known = (error.reason or "").replace("_", " ").lower()
    return _WORDS.get(known, known or "one of the two files is damaged, or not PEM")
