"""Names and hashes from the configuration."""

import asyncio
import logging

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from traitlets.traitlets import TraitError

from batchhub.auth.base import Identity
from batchhub.auth.dictionary import DictionaryAuthenticator, hash_password
from batchhub.auth.rules import problems, sign_in
from batchhub.core.errors import BadInput, Unreachable

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
USERS = {"ann": CHEAP.hash("right"), "bob": CHEAP.hash("bob's")}


async def enter(made, name, password):
    return await sign_in(made, None, {"username": name, "password": password})


async def test_right_and_wrong(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    made = DictionaryAuthenticator(users=USERS)
    assert problems(made) == ()
    assert await enter(made, "ann", "right") == Identity("ann")
    assert await enter(made, "Ann", "right") == Identity("ann")
    for name, password in (("ann", "wrong"), ("ann", ""), ("eve", "right"), ("", ""), ("ann", "bob's")):
        assert await enter(made, name, password) is None
    assert "right" not in caplog.text


async def test_somebody_unknown_costs_a_verification(monkeypatch) -> None:
    made = DictionaryAuthenticator(users=USERS)
    tried = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(PasswordHasher, "verify", lambda *args: tried.append(args[1]) or verify(*args))
    for name in ("eve", "eve", "mallory", "zoe", "max", "moritz", "kim", "lee"):
        for password in ("right", "bob's"):
            assert await enter(made, name, password) is None
    assert set(tried) == set(USERS.values()), "as dear as that of people who are in it"
    assert len(set(tried[:4])) == 1, "always the same for a name, or it could be told by that"
    assert await enter(DictionaryAuthenticator(users={}), "eve", "x") is None


async def test_rules_still_hold() -> None:
    assert await enter(DictionaryAuthenticator(users=USERS, blocked_users={"ann"}), "ann", "right") is None
    narrowed = DictionaryAuthenticator(users=USERS, allowed_users={"bob"})
    assert await enter(narrowed, "ann", "right") is None
    assert await enter(narrowed, "bob", "bob's") == Identity("bob")


def test_a_password_in_the_clear_is_refused_and_not_repeated() -> None:
    for secret in ("hunter2", "$argon2id$hunter2", ""):
        with pytest.raises(TraitError, match="hash-password") as caught:
            DictionaryAuthenticator(users={"ann": secret})
        assert "hunter2" not in str(caught.value)


async def test_a_password_that_cannot_be_checked_is_not_called_wrong(monkeypatch, caplog) -> None:
    broken = DictionaryAuthenticator(users={"ann": USERS["ann"][:-1] + "!"})
    with pytest.raises(Unreachable, match="right now"):
        await enter(broken, "ann", "right")
    assert "could not be checked: Decoding failed" in caplog.text

    def full(*_args) -> bool:
        raise VerificationError("Memory allocation error")

    monkeypatch.setattr(PasswordHasher, "verify", full)
    with pytest.raises(Unreachable, match="right now"):
        await enter(DictionaryAuthenticator(users=USERS), "ann", "right")
    assert "could not be checked: Memory allocation error" in caplog.text
    assert "right" not in caplog.text


def test_a_name_that_nobody_could_sign_in_with_is_refused() -> None:
    with pytest.raises(TraitError, match="'ann' is how it is looked up"):
        DictionaryAuthenticator(users={"Ann": USERS["ann"]})


async def test_a_flood_of_guesses_does_not_pile_up(monkeypatch) -> None:
    monkeypatch.setattr("batchhub.auth.blocking.WAITING_LIMIT", 2)
    made = DictionaryAuthenticator(users=USERS)
    found = await asyncio.gather(*(enter(made, "ann", "right") for _ in range(5)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["Identity"] * 2 + ["TooMany"] * 3
    monkeypatch.setattr("batchhub.auth.dictionary.PATIENCE", 0)
    with pytest.raises(Unreachable, match="in time"):
        await enter(made, "ann", "right")
    made.close()


async def test_hash_password() -> None:
    made = DictionaryAuthenticator(users={"ann": hash_password("right")})
    assert await enter(made, "ann", "right") == Identity("ann")
    for bad in ("", "a\0b", "x" * 1025):
        with pytest.raises(BadInput):
            hash_password(bad)


async def test_who_is_taken_out_of_the_table_is_out() -> None:
    class Known:
        name = "ann"

    made = DictionaryAuthenticator(users={"ann": hash_password("right")})
    assert await made.refresh_user(Known()) == {"name": "ann"}
    made.users = {}
    assert await made.refresh_user(Known()) is False
    made.close()
