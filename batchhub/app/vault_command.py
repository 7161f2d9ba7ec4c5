"""``batchhub vault``: the keys that seal what the hub keeps of people, changed while hubs run or while they do not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from enum import StrEnum
from typing import Protocol

from batchhub.app.command import Command, say
from batchhub.app.events_command import must_be_there
from batchhub.app.own_deeds import note_chore
from batchhub.app.state import StateDirectory, utc_now
from batchhub.auth.vault import Vault
from batchhub.auth.vaultfile import VaultFile
from batchhub.config import traits
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput, Conflict
from batchhub.store.persons import Persons
from batchhub.store.store import Store
from batchhub.store.values import SealedText

BATCH = 500
"""Rows that are sealed anew in one transaction."""
SETTLED = 60.0
"""Seconds after a change of the keys from which on nothing comes into the database any more that was sealed before it: four times a transaction's patience."""


class State(StrEnum):
    """Of something sealed."""

    NEW = "sealed by the newest key"
    OLD = "sealed by an older key"
    LOST = "opened by no key"


class VaultCommand(Command):
    """The vault's chores."""

    name = "batchhub vault"
    arguments = "status|rotate|finish"
    unlisted = frozenset({"ip", "port"})
    description = (
        "What hubs keep of people (auth_state, SSH keys) is sealed with the keys in state_dir/vault.keys. `rotate` makes a new key and seals everything "
        "again with it, while hubs run or not; `finish`, a minute later, forgets the older keys, if nothing needs them any more; `status` counts what "
        "is sealed by which. A hub with a state_dir of its own needs a copy of the file after each of them."
    )

    def act(self) -> None:
        """What the class says."""
        chores = {"status": _status, "rotate": _rotate, "finish": _finish}
        if len(self.extra_args) != 1 or self.extra_args[0] not in chores:
            raise BadInput(f"batchhub vault {self.arguments}")
        state = self.state()
        url = self.trait(traits.BatchHub).db_url or state.database
        must_be_there(url)
        asyncio.run(_with_store(url, state, chores[self.extra_args[0]]))
        if self.extra_args[0] != "status":
            note_chore(url, DeedKind.VAULT_ROTATED, self.extra_args[0])


async def _with_store(url: str, state: StateDirectory, chore: Chore) -> None:
    store = Store(url, clock=utc_now, create=False)
    await store.open()
    try:
        await chore(Persons(store), state.vault)
    finally:
        await store.close()


class Chore(Protocol):
    """One of the command's verbs."""

    def __call__(self, persons: Persons, file: VaultFile) -> Awaitable[None]:
        """Do it, and say what was done."""


async def _status(persons: Persons, file: VaultFile) -> None:
    say(f"{len(file.read_keys())} keys.")
    vault = file.current()
    counts = Counter([_state(vault, one) async for page in _pages(persons) for one in page])
    for state in State:
        say(f"{counts[state]} {state.value}.")


async def _rotate(persons: Persons, file: VaultFile) -> None:
    file.current()
    with file.changing():
        file.add()
        done = await seal_again(persons, file.current())
    say(f"There is a new key, and {done} sealed texts were sealed again with it.")
    say(
        "`batchhub vault finish` forgets the older keys, a minute from now. Copy vault.keys to hubs with another state_dir."
    )


async def seal_again(persons: Persons, vault: Vault) -> int:
    """Seal with the newest key what an older one sealed; how many. What no key opens stays as it is."""
    done = 0
    async for page in _pages(persons):
        renewed = ((one, vault.renew(one.text)) for one in page if vault.stale(one.text))
        done += await persons.reseal([(one, text) for one, text in renewed if text is not None])
    return done


async def _finish(persons: Persons, file: VaultFile) -> None:
    file.current()
    with file.changing():
        wait = SETTLED - file.age(utc_now().timestamp())
        if len(file.read_keys()) > 1 and wait > 0:
            raise Conflict(f"A hub may still be writing what an older key sealed. Try again in {wait:.0f} seconds.")
        done = await seal_again(persons, vault := file.current())
        counts = Counter([_state(vault, one) async for page in _pages(persons) for one in page])
        if counts[State.OLD]:
            raise Conflict(f"{counts[State.OLD]} texts are still {State.OLD.value}; nothing was forgotten.")
        forgotten = file.keep_newest()
    say(f"{done} texts were sealed again; {forgotten} older keys are forgotten.")


async def _pages(persons: Persons) -> AsyncIterator[tuple[SealedText, ...]]:
    last: SealedText | None = None
    while page := await persons.sealed(last, BATCH):
        yield page
        last = page[-1]


def _state(vault: Vault, one: SealedText) -> State:
    if not vault.stale(one.text):
        return State.NEW
    return State.LOST if vault.renew(one.text) is None else State.OLD
