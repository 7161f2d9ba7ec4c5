"""Sign in with Kerberos tickets that the browser has: SPNEGO over HTTP (RFC 4559), answered by the hub itself.

A person presses a button, or is led on; the page behind it asks for ``Negotiate``, and a browser that trusts this host answers with a token. One token
is the whole conversation. Forwarded tickets are kept for the session, if clusters want them, and otherwise not even taken.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from traitlets import Bool, Float, List, Unicode

from batchhub.auth.base import Authenticator, Brought, LoginKind, Place
from batchhub.auth.blocking import Blocking
from batchhub.auth.clock import utc_now
from batchhub.auth.lti13 import need_https
from batchhub.core.errors import ConfigError, Denied, Unreachable
from batchhub.core.ports import Clock

log = logging.getLogger(__name__)

TOKEN_LIMIT = 64 * 1024
"""Characters of a token in base64. The proxy takes no longer head than that; Windows' longest ticket, of 48,000 bytes, has 64,000."""

_PRINCIPAL = re.compile(r"([A-Za-z0-9_.+-]{1,128})@([A-Za-z0-9_.-]{1,255})")
"""One component and a realm. Others are no persons (``ann/admin``, ``host/n1``), or hold what would have to be quoted."""
_SERVICE = re.compile(r"HTTP@[A-Za-z0-9.-]{1,253}")
_NTLM = b"NTLMSSP\0"
"""What Windows sends to a host for which it has no ticket."""


class KerberosAuthenticator(Authenticator):
    """Believes tickets for ``service`` of people in ``realms``."""

    kind = LoginKind.NEGOTIATE
    login_service = Unicode("Kerberos", help="The name on the login page, as in: Sign in with NAME.").tag(config=True)

    keytab = Unicode(
        "", help="The path of the file that holds the service's key. Only the hub's account may read it."
    ).tag(config=True)
    service = Unicode(
        "",
        help="The service whose key it is: 'HTTP@' and the host name in this hub's address, as in 'HTTP@hub.example.org'.",
    ).tag(config=True)
    realms = List(
        Unicode(),
        help="The realms whose people may sign in, as in ['EXAMPLE.ORG']. The name without the realm is the hub's: list more than one only where "
        "the same name is the same person in all.",
    ).tag(config=True)
    ignore_case = Bool(
        False,
        help="The realm's names differ in more than capitals, as Active Directory's do: 'Ann' is 'ann'. Otherwise names with capitals are refused, "
        "as two people could have the one name.",
    ).tag(config=True)
    pass_through = Bool(
        True,
        help="Tickets that the browser forwards may be used for clusters with sign_in = 'session', for that person alone and while they are signed in.",
    ).tag(config=True)
    timeout = Float(10.0, help="Seconds that the check of a ticket may take.").tag(config=True)

    def __init__(self, *, clock: Clock = utc_now, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clock = clock
        self._blocking = Blocking("kerberos")
        self._gss: Any = None
        self._acceptor: Any = None

    def settle(self, place: Place) -> None:
        """Read the key. Raises ConfigError where it is not there, or where what a browser sends could be taken down and used."""
        need_https(place, type(self).__name__)
        check_settings(self.service, self.realms)
        check_keytab(self.keytab)
        try:
            self._gss = import_module("batchhub.auth.gss")
        except (ImportError, OSError) as error:
            raise ConfigError(
                f"KerberosAuthenticator needs more: pip install 'batchhub[kerberos]', and MIT's libkrb5 ({error})."
            ) from error
        try:
            self._acceptor = self._gss.Acceptor(self.service, self.keytab)
        except ValueError as error:
            raise ConfigError(
                f"c.KerberosAuthenticator.keytab: {self.keytab} has no key for {self.service}: {error}."
            ) from error

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Whose ticket the token holds. Raises Denied for what its sender can mend, Unreachable."""
        token = read_token(str(data.get("negotiate", "")))
        if token is None or self._acceptor is None:
            return None
        if _NTLM in token[:64]:
            raise Denied("Your browser has no Kerberos ticket for this hub, and sent something else (NTLM).")
        try:
            caller = await self._blocking.ask(lambda: self._acceptor.accept(token), self.timeout)
            name = name_of(caller.principal, self.realms, ignore_case=self.ignore_case)
            if name is None:
                log.warning("Kerberos: %.200r is nobody who signs in here", caller.principal)
                return None
            held = await self._forwarded(caller.delegated)
        except self._gss.NotAccepted as error:
            log.warning("Kerberos: a token was not accepted: %.300s", error)
            return None
        except TimeoutError as error:
            raise Unreachable("The check of your Kerberos ticket took too long; please try again.") from error
        if caller.answer:
            # By it the browser knows that it spoke with the host it meant (mutual authentication).
            handler.set_header("WWW-Authenticate", f"Negotiate {b64encode(caller.answer).decode()}")
        return {"name": name, "brought": Brought("", held) if held is not None else None}

    async def _forwarded(self, delegated: Any) -> Any:
        if delegated is None or not self.pass_through:
            return None
        try:
            return await self._blocking.ask(lambda: self._gss.forward(delegated, self._clock()), self.timeout)
        except self._gss.NotAccepted as error:
            log.warning("Kerberos: forwarded tickets cannot be kept: %.300s", error)
            return None

    def knows_groups(self) -> bool:
        """A ticket says none that other systems understand."""
        return False

    def close(self) -> None:
        """Let the threads go."""
        self._blocking.close()


def read_token(text: str) -> bytes | None:
    """A token of RFC 4559; ``None`` for what cannot be one."""
    if not 0 < len(text) <= TOKEN_LIMIT:
        return None
    try:
        return b64decode(text, validate=True)
    except (NotBase64, ValueError):
        return None


def name_of(principal: str, realms: list[str], *, ignore_case: bool) -> str | None:
    """A person's name without the realm, if it is one of ``realms``; ``None`` for services, instances and strangers."""
    found = _PRINCIPAL.fullmatch(principal)
    if found is None or found[2] not in realms:
        return None
    return found[1] if ignore_case or found[1] == found[1].lower() else None


def check_settings(service: str, realms: list[str]) -> None:
    """Whether it can be meant. Raises ConfigError."""
    if not _SERVICE.fullmatch(service):
        raise ConfigError(
            f"c.KerberosAuthenticator.service is {service!r}; 'HTTP@' and the host name in this hub's address is expected."
        )
    if not realms or not all(realms):
        raise ConfigError(
            "c.KerberosAuthenticator.realms must name the realms whose people may sign in: ['EXAMPLE.ORG']."
        )
    if "none" in {os.environ.get("KRB5RCACHETYPE"), os.environ.get("KRB5RCACHENAME", "").rstrip(":")}:
        raise ConfigError(
            "KRB5RCACHENAME or KRB5RCACHETYPE turns off Kerberos' memory of used tickets; signing in needs it."
        )


def check_keytab(path: str) -> None:
    """Whoever can read it can sign in as anybody. Raises ConfigError."""
    if not path:
        raise ConfigError("c.KerberosAuthenticator.keytab must be the path of the file with the service's key.")
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise ConfigError(f"c.KerberosAuthenticator.keytab: {path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(mode) or mode & 0o007:
        raise ConfigError(
            f"c.KerberosAuthenticator.keytab: {path} is readable for others, or no file; mode 0600 is right."
        )
