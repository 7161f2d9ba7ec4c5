"""auth_state: opened for its owner alone, and what cannot be kept is not."""

import logging

import pytest
from cryptography.fernet import Fernet

from batchhub.auth.states import AuthStates
from batchhub.auth.vault import Vault
from batchhub.store.persons import Persons

SECRET = "refresh-token-of-ann"


@pytest.fixture
def keys():
    return [Fernet.generate_key()]


@pytest.fixture
def states(store, keys):
    return AuthStates(Persons(store), lambda: Vault(keys))


async def keep(store, name: str, sealed: str | None) -> None:
    await Persons(store).signed_in(name, way="oidc", sealed=sealed)


async def test_for_its_owner_alone(store, states) -> None:
    sealed = states.seal("ann", {"refresh_token": SECRET})
    assert SECRET not in sealed
    await keep(store, "ann", sealed)
    await keep(store, "bob", sealed)
    assert await states.of("ann") == {"refresh_token": SECRET}
    assert await states.of("bob") is None, "copied into another row it opens as nothing"
    assert await states.of("eve") is None


async def test_without_its_key_it_is_gone_and_the_log_says_so(store, states, keys, caplog) -> None:
    await keep(store, "ann", states.seal("ann", {"a": 1}))
    keys[0] = Fernet.generate_key()
    assert await states.of("ann") is None
    assert "what is kept of ann is opened by no key" in caplog.text


def test_what_cannot_be_kept(states, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    assert states.seal("ann", None) is None
    assert states.seal("ann", {"secret": SECRET, "object": object()}) is None
    assert "auth_state of ann is not kept" in caplog.text
    assert SECRET not in caplog.text
