"""API tokens over the real store."""

from datetime import timedelta

import pytest

from batchhub.auth.tokens import Tokens, hash_token
from batchhub.core.errors import NotFound


async def test_life_of_a_token(store, clock) -> None:
    tokens = Tokens(store, clock)
    secret, made = await tokens.issue("ann", "for\na script", timedelta(days=1))
    assert len(secret) == 46
    assert (made.user, made.note, made.first) == ("ann", "for a script", secret[:9])
    assert secret[9:] not in repr(await store.tokens_of("ann"))
    found = await tokens.find(secret)
    assert found.id == made.id
    assert (await tokens.of("ann"))[0].last_used == clock.now
    at = clock.now
    clock.later(minutes=1)
    await tokens.find(secret)
    assert (await tokens.of("ann"))[0].last_used == at
    clock.later(days=1)
    assert await tokens.find(secret) is None
    assert not await tokens.revoke(made.id, "bob")
    assert await tokens.revoke(made.id, "ann")


async def test_the_end_of_a_token_is_told_by_its_hash(store, clock) -> None:
    told: list[str] = []

    async def tell(hashes) -> None:
        told.extend(hashes)

    tokens = Tokens(store, clock, revoked=tell)
    secret, made = await tokens.issue("ann")
    assert not await tokens.revoke(made.id, "bob")
    assert told == []
    assert await tokens.revoke(made.id, "ann")
    assert told == [hash_token(secret)]
    others = [(await tokens.issue("ann"))[0] for _ in range(2)]
    bobs, _ = await tokens.issue("bob")
    assert await tokens.revoke_all_of("ann") == 2
    assert set(told) == {hash_token(one) for one in (secret, *others)}
    assert await tokens.revoke_all_of("ann") == 0
    assert await tokens.find(bobs)


async def test_without_end(store, clock) -> None:
    tokens = Tokens(store, clock)
    secret, made = await tokens.issue("ann")
    clock.later(days=9999)
    assert (await tokens.find(secret)).id == made.id
    await tokens.revoke(made.id)
    assert await tokens.find(secret) is None
    with pytest.raises(NotFound):
        await tokens.issue("eve")


async def test_revoked_while_it_is_found(store, clock, monkeypatch) -> None:
    tokens = Tokens(store, clock)
    secret, made = await tokens.issue("ann")
    row = await store.token(hash_token(secret))
    await tokens.revoke(made.id)

    async def stale(digest):
        return row

    monkeypatch.setattr(store, "token", stale)
    assert await tokens.find(secret) is None


async def test_what_is_no_token_asks_no_database(store, clock) -> None:
    await store.close()
    tokens = Tokens(store, clock)
    for text in (
        "",
        "bh_",
        "bh_" + "x" * 42,
        "bh_" + "x" * 44,
        "xx_" + "x" * 43,
        "bh_" + "é" * 43,
        "bh_" + "x" * 43 + "\n",
    ):
        assert await tokens.find(text) is None
