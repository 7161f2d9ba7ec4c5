"""What browsers would hold against the proxy's certificate. Nothing here keeps it from starting: whoever has no better one yet needs it all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509

from batchhub.core.hosts import Origin


def names_needed(origin: Origin | None) -> Sequence[str]:
    """By which browsers come, as far as the configuration says it: the hub's, and with a host for each server all below it."""
    return (origin.host, f"*.{origin.host}") if origin is not None else ()


def doubts(path: Path, names: Sequence[str], now: datetime) -> Iterator[str]:
    """A sentence for each. A file that cannot be read is told where it is used."""
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError):
        return
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= now <= ends:
        yield f"The certificate {path} is good from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, which is not now: browsers refuse it."
    held = _names(certificate)
    for name in names:
        if name not in held and f"*.{name.partition('.')[2]}" not in held:
            yield f"The certificate {path} is not for {name}, but for {', '.join(held) or 'no host at all'}: browsers refuse it."


def _names(certificate: x509.Certificate) -> list[str]:
    """Browsers look at no other (RFC 9525)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]
