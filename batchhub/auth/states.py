"""People's ``auth_state``: what their way to sign in keeps of them (tokens, claims), sealed at rest, opened where it is needed and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from batchhub.auth.vault import Vault

log = logging.getLogger(__name__)

PURPOSE = "auth_state"
"""What the vault seals it as."""


class SealedStates(Protocol):
    """What this needs of the database. Raises StoreUnavailable when it cannot be asked."""

    def sealed_state(self, name: str) -> Awaitable[str | None]:
        """The sealed state of their last sign-in or refresh, if any is kept."""


class AuthStates:
    """Seals and opens. ``vault`` gives the vault with the keys of this moment."""

    def __init__(self, store: SealedStates, vault: Callable[[], Vault]) -> None:
        self._store = store
        self._vault = vault

    def seal(self, name: str, state: Mapping[str, Any] | None) -> str | None:
        """As text for the database; ``None``, with a line in the log, for what cannot be kept. Raises ConfigError if there are no keys."""
        if state is None:
            return None
        try:
            return self._vault().seal(PURPOSE, name, dict(state))
        except ValueError as error:
            log.error("the auth_state of %s is not kept: %s", name, error)  # noqa: TRY400  (its traceback could hold some of it)
            return None

    async def of(self, name: str) -> Mapping[str, Any] | None:
        """Whatever is kept of this person, opened. Raises StoreUnavailable, ConfigError."""
        sealed = await self._store.sealed_state(name)
        if sealed is None:
            return None
        state = self._vault().open(PURPOSE, name, sealed)
        if state is None:
            log.warning("what is kept of %s is opened by no key in vault.keys: they have to sign in again", name)
        return state
