"""Limits on guessing passwords: a bucket of attempts for each account and for each address. Pure; time is handed in.

An attempt is paid for before it is made, so that a thousand at once are a thousand. The account's bucket is full again after a
success; the address gets its attempt back, since many people may share one. Whoever goes on guessing at an account, or from an address that many
share, empties these buckets for its owner too; so a browser that the account has signed in with before (:mod:`batchhub.auth.known`) pays from
one of its own.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from math import ceil

_SPELT = 1000
"""Characters of an account's name that are looked at one by one; no account has more."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket: ``burst`` attempts at once, one more every ``seconds``."""

    burst: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ThrottleSettings:
    """The limits; a known browser's are its account's. ``entries`` bounds the accounts, addresses and browsers that are remembered, each."""

    account: Rate = Rate(10, 15.0)
    address: Rate = Rate(60, 2.0)
    entries: int = 50_000


class Throttle:
    """Sign-in attempts of this hub process."""

    def __init__(self, settings: ThrottleSettings | None = None) -> None:
        settings = settings or ThrottleSettings()
        self._accounts = Buckets(settings.account, settings.entries)
        self._addresses = Buckets(settings.address, settings.entries)
        self._browsers = Buckets(settings.account, settings.entries)

    def attempt(self, account: str, address: str, now: datetime, browser: str = "") -> int:
        """Pay for an attempt. 0: go on; otherwise the seconds to wait (Retry-After), and nothing was paid.

        ``browser`` names one that is known to be this account's.
        """
        purses = self._purses(account, address, browser)
        wait = max(buckets.wait(key, now) for buckets, key in purses)
        if wait > 0:
            return ceil(wait)
        for buckets, key in purses:
            buckets.take(key, now)
        return 0

    def succeeded(self, account: str, address: str, now: datetime, attempts: int = 1, *, browser: str = "") -> None:
        """The last of so many attempts was right, and those before it led to it."""
        self._accounts.fill(_who(account))
        if browser:
            self._browsers.fill(browser.encode())
            return
        for _ in range(attempts):
            self._addresses.give_back(_place(address), now)

    def _purses(self, account: str, address: str, browser: str) -> tuple[tuple[Buckets, bytes], ...]:
        if browser:
            return ((self._browsers, browser.encode()),)
        return ((self._addresses, _place(address)), (self._accounts, _who(account)))

    def __len__(self) -> int:
        """Entries held."""
        return len(self._accounts) + len(self._addresses) + len(self._browsers)


class Buckets:
    """A bucket for each key; at most ``entries`` are remembered, those used last."""

    def __init__(self, rate: Rate, entries: int) -> None:
        self._rate = rate
        self._entries = entries
        self._held: OrderedDict[bytes, tuple[float, datetime]] = OrderedDict()

    def wait(self, key: bytes, now: datetime) -> float:
        """Seconds until there is an attempt."""
        return max(0.0, (1 - self._level(key, now)) * self._rate.seconds)

    def take(self, key: bytes, now: datetime) -> None:
        """Pay for one."""
        self._set(key, self._level(key, now) - 1, now)

    def give_back(self, key: bytes, now: datetime) -> None:
        """Take the last payment back."""
        self._set(key, self._level(key, now) + 1, now)

    def fill(self, key: bytes) -> None:
        """As if nothing had been paid."""
        self._held.pop(key, None)

    def _level(self, key: bytes, now: datetime) -> float:
        level, at = self._held.get(key, (float(self._rate.burst), now))
        if at > now:
            # The clock was set back. That earns nothing, and keeps nobody waiting until it shows the former time again.
            at = now
            self._held[key] = (level, at)
        return min(float(self._rate.burst), level + (now - at).total_seconds() / self._rate.seconds)

    def _set(self, key: bytes, level: float, now: datetime) -> None:
        if level >= self._rate.burst:
            self._held.pop(key, None)
            return
        self._held[key] = (level, now)
        self._held.move_to_end(key)
        while len(self._held) > self._entries:
            self._held.popitem(last=False)  # the one longest unused: the fullest, near enough

    def __len__(self) -> int:
        """Entries held."""
        return len(self._held)


def _who(account: str) -> bytes:
    """One for all the spellings that a directory takes for the same name: capitals, wide letters, accents (Active Directory), blanks."""
    spread = unicodedata.normalize("NFKD", account[:_SPELT].casefold())
    plain = "".join(one for one in spread if one.isprintable() and not one.isspace() and not unicodedata.combining(one))
    return blake2b(
        plain.encode("utf-8", "replace") + account[_SPELT:].encode("utf-8", "replace"), digest_size=16
    ).digest()


def _place(address: str) -> bytes:
    """One IPv4 address, or one IPv6 /64, which is what a single customer has at the least."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return b"?"
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.packed
    return ip.ipv4_mapped.packed if ip.ipv4_mapped is not None else ip.packed[:8]
