"""What a person's own connection signs in with, where that is nothing of the service's: a key, the password they typed, or Kerberos tickets."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol

from batchhub.core.errors import Unreachable


@dataclass(frozen=True, slots=True)
class Key:
    """``private`` is in OpenSSH's format. ``public`` names the key, ``known``: the host is known to take it; both are for whoever gave it."""

    private: str = field(repr=False)
    public: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Password:
    """As it was typed."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tickets:
    """Kerberos', in the cache ``ccache``. They stay here: nothing is forwarded to the host."""

    ccache: str = field(repr=False)


Proof = Key | Password | Tickets


class Unproven(Unreachable):
    """There is nothing to sign in as this person with. It says nothing about the host, nor about jobs."""


class Refusal(Unreachable):
    """The host answered, and did not let this user in."""


class Own(Protocol):
    """Where people's own proofs come from, by cluster account."""

    def proof(self, account: str) -> Awaitable[Proof]:
        """What they sign in with now. Raises Unproven, with a sentence for them."""

    def accepted(self, account: str, proof: Proof) -> Awaitable[None]:
        """The host took it."""

    def refused(self, account: str, proof: Proof) -> Awaitable[None]:
        """The host did not take it."""
