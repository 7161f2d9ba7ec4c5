"""What somebody has to do before the hub can act as them on a cluster. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Remedy(StrEnum):
    """Where it is done."""

    KEYS = "keys"
    """The page of one's keys."""
    SIGN_IN = "sign in"
    """Signing in to the hub again."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Why the hub cannot act as this person now, as a sentence for them, and what helps."""

    words: str
    remedy: Remedy
