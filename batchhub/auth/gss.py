"""Kerberos by the machine's own library: whose ticket a browser's token holds, and what becomes of tickets that it forwards.

The door of the package ``gssapi`` (extra ``kerberos``), loaded at first use. Everything here blocks: it belongs in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import gssapi

from batchhub.auth.ccache import ForwardedTickets
from batchhub.core.errors import Unreachable


class NotAccepted(Exception):
    """A token proves nothing; the words are for the log."""


class Expired(Unreachable):
    """The tickets are over, or gone."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a token. ``answer`` proves to them who we are; ``delegated`` are the tickets they forwarded, if any."""

    principal: str
    answer: bytes = field(repr=False)
    delegated: Any = field(default=None, repr=False)


class Acceptor:
    """The service's own key: ``service`` is ``HTTP@host``, ``keytab`` a path. Raises ValueError, in words, if it is not there."""

    def __init__(self, service: str, keytab: str) -> None:
        try:
            name = gssapi.Name(service, gssapi.NameType.hostbased_service)
            self._credentials = gssapi.Credentials(name=name, usage="accept", store={"keytab": f"FILE:{keytab}"})
        except gssapi.exceptions.GSSError as error:
            raise ValueError(words(error)) from error

    def accept(self, token: bytes) -> Caller:
        """Whose it is. One token must be enough, as Kerberos' is. Raises NotAccepted."""
        context = gssapi.SecurityContext(creds=self._credentials, usage="accept")
        try:
            answer = context.step(token)
            if not context.complete:
                raise NotAccepted("it is not complete")
            if context.mech != gssapi.MechType.kerberos:
                raise NotAccepted("it is not Kerberos")
            return Caller(str(context.initiator_name), answer or b"", context.delegated_creds)
        except gssapi.exceptions.GSSError as error:
            raise NotAccepted(words(error)) from error


def forward(delegated: Any, now: datetime) -> ForwardedTickets:
    """Move what a caller forwarded into a cache of its own. Raises NotAccepted."""
    try:
        held = ForwardedTickets(now + timedelta(seconds=delegated.lifetime or 0))
        delegated.store(store={"ccache": held.name}, usage="initiate", overwrite=True)
    except gssapi.exceptions.GSSError as error:
        raise NotAccepted(words(error)) from error
    except OSError as error:
        raise NotAccepted(str(error)) from error
    return held


def reach(ccache: str, host: str) -> None:
    """Have the tickets of this cache get one for the sshd of ``host``. Raises Expired when they are over, Unreachable for anything else."""
    try:
        credentials = gssapi.Credentials(usage="initiate", store={"ccache": ccache})
        name = gssapi.Name(f"host@{host}", gssapi.NameType.hostbased_service)
        gssapi.SecurityContext(name=name, creds=credentials, mech=gssapi.MechType.kerberos, usage="initiate").step()
    except (gssapi.exceptions.ExpiredCredentialsError, gssapi.exceptions.MissingCredentialsError) as error:
        raise Expired("The Kerberos tickets have expired.") from error
    except gssapi.exceptions.GSSError as error:
        said = words(error)
        if "expired" in said.lower():
            raise Expired("The Kerberos tickets have expired.") from error
        raise Unreachable(f"Kerberos gives no ticket for {host}: {said}.") from error


def words(error: gssapi.exceptions.GSSError) -> str:
    """The library's, on one line."""
    said = " ".join(str(error.gen_message()).split())
    return said.partition("Minor (")[2].partition("): ")[2].rstrip(".") or said[:300]
