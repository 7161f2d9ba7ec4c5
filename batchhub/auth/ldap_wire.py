"""One LDAP server, spoken to over a connection that is checked: a bind, a search, with limits; no referral is followed."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from batchhub.core.errors import ConfigError

GROUPS_LIMIT = 1000
"""Entries of one answer."""

_SUCCESS = 0
_SIZE_LIMIT = 4  # sizeLimitExceeded, RFC 4511 appendix A
_NO_SUCH = 32
_REFUSED = frozenset({19, 32, 34, 48, 49, 50, 53})
"""What says no to this person, and would elsewhere: constraintViolation (locked by ppolicy), noSuchObject, invalidDNSyntax,
inappropriateAuthentication, invalidCredentials, insufficientAccessRights, unwillingToPerform (disabled)."""


class WrongPassword(Exception):
    """The server says that it is not this person, or not now."""


class Unanswered(Exception):
    """The server cannot be asked, or gave no answer to what was asked; another may."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """``ldap://HOST[:PORT]`` with StartTLS, or ``ldaps://``."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Raises ConfigError."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {"ldap", "ldaps"} or not parts.hostname or parts.path.strip("/") or "@" in parts.netloc:
            raise ConfigError(
                f"c.LDAPAuthenticator.servers: {text!r} is not an address of a server; ldaps://ldap.example.org is."
            )
        tls = parts.scheme == "ldaps"
        return cls(parts.hostname, port or (636 if tls else 389), tls)

    def __str__(self) -> str:
        return f"{'ldaps' if self.tls else 'ldap'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, with its attributes by lower-case name."""

    dn: str
    attributes: dict[str, list[str]]

    def values(self, name: str) -> list[str]:
        """Those that are text."""
        return self.attributes.get(name.lower(), [])


class Session:
    """A connection that is bound to somebody."""

    def __init__(self, ldap3: Any, connection: Any, seconds: int) -> None:
        self._ldap3 = ldap3
        self._connection = connection
        self._seconds = seconds

    def read(self, dn: str, attributes: Sequence[str]) -> Found | None:
        """The entry of this DN, if there is one that may be read."""
        found = self._ask(dn, "(objectClass=*)", self._ldap3.BASE, attributes, 1)
        return found[0] if len(found) == 1 else None

    def search(self, base: str, wanted: str, attributes: Sequence[str], most: int) -> list[Found]:
        """Entries below ``base``, at most so many (0: GROUPS_LIMIT)."""
        return self._ask(base, wanted, self._ldap3.SUBTREE, attributes, most or GROUPS_LIMIT)

    def _ask(self, base: str, wanted: str, scope: str, attributes: Sequence[str], most: int) -> list[Found]:
        with _in_words(self._ldap3):
            self._connection.search(
                base,
                wanted,
                search_scope=scope,
                attributes=list(attributes),
                size_limit=most,
                time_limit=self._seconds,
            )
        code = self._connection.result["result"]
        if code == _NO_SUCH:
            return []
        if code not in {_SUCCESS, _SIZE_LIMIT}:
            raise Unanswered(f"a search below {base} was answered with {self._connection.result['description']}")
        # What is no entry is a reference to another server, which is not followed.
        return [_entry(one) for one in self._connection.response or () if one["type"] == "searchResEntry"]


class Directory:
    """A server, and how it is checked. Nothing is opened before it is asked."""

    def __init__(self, address: ServerAddress, ca_file: str, seconds: int, *, insecure: bool) -> None:
        self.address = address
        self._seconds = seconds
        self._insecure = insecure
        try:
            self._context = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or error
            raise ConfigError(f"c.LDAPAuthenticator.ca_file: {ca_file} cannot be read: {reason}.") from error
        if insecure:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        self._ldap3 = _library()

    @contextlib.contextmanager
    def bound(self, dn: str, password: str) -> Iterator[Session]:
        """A session as this person. Raises WrongPassword, Unanswered."""
        if not dn or not password:
            raise WrongPassword("an empty name or password proves nothing")
        with self._open(dn, password) as (connection, code):
            if code in _REFUSED:
                raise WrongPassword(str(connection.result["description"]))
            if code != _SUCCESS:
                raise Unanswered(f"the bind was answered with {connection.result['description']}")
            yield Session(self._ldap3, connection, self._seconds)

    @contextlib.contextmanager
    def service(self, dn: str, password: str) -> Iterator[Session]:
        """A session as the hub itself; without a DN as nobody. Raises Unanswered."""
        with self._open(dn, password) as (connection, code):
            if code != _SUCCESS:
                who = f"The hub's own account {dn}" if dn else "An anonymous search"
                raise Unanswered(f"{who} was refused: {connection.result['description']}")
            yield Session(self._ldap3, connection, self._seconds)

    @contextlib.contextmanager
    def _open(self, dn: str, password: str) -> Iterator[tuple[Any, int]]:
        ldap3 = self._ldap3
        server = ldap3.Server(
            self.address.host,
            port=self.address.port,
            use_ssl=self.address.tls,
            get_info=ldap3.NONE,
            tls=_tls(ldap3, self._context),
            connect_timeout=self._seconds,
        )
        connection = ldap3.Connection(
            server,
            user=dn or None,
            password=password or None,
            authentication=ldap3.SIMPLE if dn else ldap3.ANONYMOUS,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            read_only=True,
            check_names=False,
            receive_timeout=self._seconds,
        )
        try:
            with _in_words(ldap3):
                connection.open(read_server_info=False)
                encrypted = self.address.tls or self._insecure
                if not encrypted and not connection.start_tls(read_server_info=False):
                    raise Unanswered("StartTLS was refused")
                connection.bind(read_server_info=False)
            yield connection, int(connection.result["result"])
        finally:
            opened = connection.socket  # the library leaves one open that failed to connect
            with contextlib.suppress(Exception):
                connection.unbind()
            if opened is not None:
                opened.close()


@contextlib.contextmanager
def _in_words(ldap3: Any) -> Iterator[None]:
    """Errors of the library and of the network as Unanswered; their texts hold addresses and reasons, and no password."""
    try:
        yield
    except (ldap3.core.exceptions.LDAPException, OSError) as error:
        raise Unanswered(f"{type(error).__name__}: {error}") from None


def _tls(ldap3: Any, context: ssl.SSLContext) -> Any:
    class Checked(ldap3.Tls):  # type: ignore[misc]
        """The library would verify a certificate after the handshake, with its own idea of host names. OpenSSL does it in the handshake."""

        def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
            del do_handshake
            connection.socket = context.wrap_socket(connection.socket, server_hostname=connection.server.host)

    return Checked(validate=context.verify_mode)


def _entry(answer: Any) -> Found:
    values = {
        str(name).lower(): [text for text in map(_text, raw) if text] for name, raw in answer["raw_attributes"].items()
    }
    return Found(str(answer["dn"]), values)


def _text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def _library() -> Any:
    try:
        import ldap3  # noqa: PLC0415  (an extra, for sites that have a directory)
        import ldap3.core.exceptions  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("LDAP sign-in needs the Python package ldap3: pip install 'batchhub[ldap]'.") from error
    return ldap3
