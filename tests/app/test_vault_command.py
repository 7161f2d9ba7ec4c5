"""``batchhub vault`` on a real database, while a hub's own view of keys and rows goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from batchhub.app.state import StateDirectory, utc_now
from batchhub.app.vault_command import BATCH
from batchhub.auth.states import AuthStates
from batchhub.auth.vaultfile import VaultFile
from batchhub.store.persons import Persons
from batchhub.store.store import Store

T = TypeVar("T")


class Kept:
    """What a hub would do to its own state directory."""

    def __init__(self, home: Path) -> None:
        self.state = StateDirectory.open(str(home / "state"))
        self.file: VaultFile = self.state.vault

    def __call__(self, work: Callable[[Persons, AuthStates], Awaitable[T]]) -> T:
        async def run() -> T:
            store = Store(self.state.database, clock=utc_now)
            await store.open()
            try:
                persons = Persons(store)
                return await work(persons, AuthStates(persons, self.file.current))
            finally:
                await store.close()

        return asyncio.run(run())

    def sign_in(self, *names: str) -> None:
        async def work(persons: Persons, states: AuthStates) -> None:
            for name in names:
                await persons.signed_in(name, way="oidc", sealed=states.seal(name, {"token": f"of {name}"}))

        self(work)

    def of(self, name: str) -> object:
        return self(lambda _, states: states.of(name))

    def old(self) -> None:
        """A minute goes by."""
        os.utime(self.state.path / "vault.keys", (1000, 1000))


@pytest.fixture
def kept(inside, tmp_path) -> Kept:
    inside.config()
    return Kept(tmp_path)


def test_keys_are_changed_and_nothing_is_lost(inside, kept) -> None:
    kept.sign_in("ann", "bob")
    first = kept.file.read_keys()
    assert inside("vault", "status").stdout.splitlines() == [
        "1 keys.",
        "2 sealed by the newest key.",
        "0 sealed by an older key.",
        "0 opened by no key.",
    ]
    assert "2 sealed texts were sealed again" in inside("vault", "rotate").stdout
    assert kept.file.read_keys()[1:] == first
    assert kept.of("ann") == {"token": "of ann"}
    soon = inside("vault", "finish")
    assert soon.returncode == 1
    assert "Try again in" in soon.stderr
    assert len(kept.file.read_keys()) == 2
    kept.old()
    assert "1 older keys are forgotten" in inside("vault", "finish").stdout
    assert len(kept.file.read_keys()) == 1
    assert kept.of("bob") == {"token": "of bob"}
    assert "0 older keys" in inside("vault", "finish").stdout, "done again it does nothing, and at once"


def test_what_a_hub_wrote_meanwhile_is_sealed_again_at_the_end(inside, kept) -> None:
    kept.sign_in("ann")
    slow = kept.file.current()
    inside("vault", "rotate")
    kept(lambda persons, _: persons.signed_in("bob", way="oidc", sealed=slow.seal("auth_state", "bob", {"b": 1})))
    assert "1 sealed by an older key." in inside("vault", "status").stdout
    kept.old()
    assert "1 texts were sealed again" in inside("vault", "finish").stdout
    assert kept.of("bob") == {"b": 1}


def test_a_lost_key_stands_in_nobodys_way(inside, kept) -> None:
    kept.sign_in("ann")
    (kept.state.path / "vault.keys").unlink()
    kept.sign_in("bob")
    assert "1 opened by no key." in inside("vault", "status").stdout
    assert "1 sealed texts were sealed again" in inside("vault", "rotate").stdout
    kept.old()
    assert inside("vault", "finish").returncode == 0
    assert kept.of("bob") == {"token": "of bob"}
    assert kept.of("ann") is None


def test_more_than_one_batch(inside, kept, monkeypatch) -> None:
    assert BATCH > 3
    monkeypatch.setattr("batchhub.app.vault_command.BATCH", 3)
    names = [f"p{number}" for number in range(7)]
    kept.sign_in(*names)
    assert "7 sealed texts" in inside("vault", "rotate").stdout


@pytest.mark.parametrize("words", [[], ["turn"], ["rotate", "now"]])
def test_what_is_no_chore(inside, kept, words) -> None:
    done = inside("vault", *words)
    assert done.returncode != 0
    assert "batchhub vault status|rotate|finish" in done.stderr


def test_where_no_hub_has_run(inside) -> None:
    inside.config()
    done = inside("vault", "rotate")
    assert done.returncode != 0
    assert "no hub has run" in done.stderr


def test_no_key_is_ever_shown(inside, kept) -> None:
    kept.sign_in("ann")
    for verb in ("status", "rotate", "status"):
        done = inside("vault", verb)
        for key in kept.file.read_keys():
            assert key.decode() not in done.stdout + done.stderr
