"""Who may begin an SSH handshake with us: a bound on those under way, and a rate for each address. Pure; time is handed in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_ADDRESSES = 4096
"""Addresses remembered. More at once is no cluster; the least recent are forgotten then."""


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """``unknown``: the most connections at once that have not proved who they are; ``each``: the most of them from one address.

    An address may begin ``burst`` of them at once and ``rate`` a second in the long run; a whole cluster may stand behind one address.
    """

    unknown: int = 128
    each: int = 64
    burst: int = 1000
    rate: float = 50.0


class Admission:
    """Counts. Each :meth:`admit` that says yes is followed by one :meth:`settled`."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self._buckets: dict[str, tuple[float, float]] = {}
        self._unknown: Counter[str] = Counter()
        self.unknown = 0
        self.refused = 0

    def admit(self, address: str, now: float) -> bool:
        """Whether a connection from this address may go on; ``now`` in seconds of a clock that does not jump."""
        settings = self._settings
        left, then = self._buckets.pop(address, (float(settings.burst), now))
        left = min(float(settings.burst), left + (now - then) * settings.rate)
        good = left >= 1 and self.unknown < settings.unknown and self._unknown[address] < settings.each
        self._buckets[address] = (left - 1 if good else left, now)
        if len(self._buckets) > _ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        if good:
            self.unknown += 1
            self._unknown[address] += 1
        self.refused += not good
        return good

    def settled(self, address: str) -> None:
        """One that was admitted from there has proved who it is, or is gone."""
        self.unknown -= 1
        self._unknown[address] -= 1
        if self._unknown[address] <= 0:
            del self._unknown[address]
