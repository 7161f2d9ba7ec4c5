"""Users, sessions and tokens on a real SQLite file."""

import asyncio
from datetime import timedelta

import pytest

from batchhub.core.errors import Conflict, NotFound

ID = "ab" * 32
DAY = timedelta(days=1)


def a_session(clock, key=ID, user="ann", **more):
    times = {"created": clock.now, "expires": clock.now + DAY, "absolute": clock.now + 14 * DAY}
    return {"id": key, "user": user, "address": "192.0.2.1", "agent": "Firefox", **times, **more}


async def test_users(store, clock) -> None:
    made = await store.get_or_create_user("ann")
    assert (made.name, made.admin, made.created, made.last_login) == ("ann", False, clock.now, None)
    at = clock.later(hours=1)
    again = await store.get_or_create_user("ann", True, login=True)
    assert (again.admin, again.created, again.last_login) == (True, made.created, at)
    assert (await store.get_or_create_user("ann")).admin is True
    assert (await store.get_or_create_user("ann", False)).admin is False
    await store.get_or_create_user("adam", True)
    assert [one.name for one in await store.users()] == ["adam", "ann"]
    assert [one.name for one in await store.users(limit=1, offset=1)] == ["ann"]
    assert await store.user("ann") == (await store.users())[1]
    assert await store.user("eve") is None


async def test_a_user_is_made_once(store) -> None:
    await asyncio.gather(*(store.get_or_create_user("ann") for _ in range(20)))
    assert len(await store.users()) == 1


async def test_sessions(store, clock) -> None:
    with pytest.raises(NotFound):
        await store.add_session(**a_session(clock))
    await store.get_or_create_user("ann")
    made = await store.add_session(**a_session(clock, agent="x" * 500, address="y" * 500))
    assert (len(made.agent), len(made.address), made.revoked) == (200, 64, None)
    assert await store.session(ID) == made
    assert await store.session("other") is None
    with pytest.raises(Conflict):
        await store.add_session(**a_session(clock))
    seen = clock.later(minutes=5)
    assert await store.touch_session(ID, seen=seen, expires=seen + DAY)
    back = await store.session(ID)
    assert (back.last_seen, back.expires, back.absolute) == (seen, seen + DAY, made.absolute)
    assert await store.revoke_session(ID, clock.now)
    assert not await store.revoke_session(ID, clock.now)
    assert not await store.touch_session(ID, seen=seen, expires=seen + DAY)
    assert (await store.session(ID)).revoked == clock.now


async def test_all_sessions_of_a_user(store, clock) -> None:
    for user, ids in (("ann", "123"), ("bob", "4")):
        await store.get_or_create_user(user)
        for one in ids:
            await store.add_session(**a_session(clock, key=one, user=user))
    await store.revoke_session("1", clock.now)
    assert await store.revoke_sessions_of("ann", clock.now, keep="3") == ("2",)
    assert [one.id for one in await store.sessions_of("ann")] == ["3"]
    assert await store.revoke_sessions_of("ann", clock.now) == ("3",)
    assert await store.sessions_of("ann") == ()
    assert len(await store.sessions_of("bob")) == 1


async def test_sessions_expire(store, clock) -> None:
    await store.get_or_create_user("ann")
    await store.add_session(**a_session(clock, key="idle"))
    await store.add_session(**a_session(clock, key="old", expires=clock.now + 90 * DAY, absolute=clock.now + DAY))
    await store.add_session(**a_session(clock, key="out", expires=clock.now + 9 * DAY))
    await store.add_session(**a_session(clock, key="fine", expires=clock.now + 9 * DAY))
    await store.revoke_session("out", clock.now)
    assert await store.expire_sessions(clock.now + 2 * DAY) == 1
    assert [one.id for one in await store.sessions_of("ann")] == ["fine", "idle"]
    assert (await store.session("out")).revoked, "its tickets could be about"
    assert await store.expire_sessions(clock.now + 99 * DAY) == 3


async def test_ended_sessions_are_known_until_their_tickets_are_dead(store, clock) -> None:
    await store.get_or_create_user("ann")
    for key in ("fine", "out", "idle and out"):
        await store.add_session(**a_session(clock, key=key, expires=clock.now + DAY, absolute=clock.now + 9 * DAY))
    await store.revoke_session("out", clock.now)
    await store.revoke_session("idle and out", clock.now + 2 * DAY)
    end = clock.now + 9 * DAY
    assert await store.ended_sessions(clock.now + 3 * DAY) == {"out": end, "idle and out": end}
    await store.expire_sessions(clock.now + 8 * DAY)
    assert len(await store.ended_sessions(clock.now + 8 * DAY)) == 2
    assert await store.ended_sessions(end) == {}


async def test_tokens(store, clock) -> None:
    fields = {"hash": ID, "first": "bh_abcdef", "user": "ann", "note": "for a script", "created": clock.now}
    with pytest.raises(NotFound):
        await store.add_token(**fields, expires=None)
    await store.get_or_create_user("ann")
    made = await store.add_token(**fields, expires=clock.now + DAY)
    assert await store.token(ID) == made
    assert await store.token("other") is None
    assert ID not in repr(made)
    with pytest.raises(Conflict):
        await store.add_token(**fields, expires=None)
    second = await store.add_token(**(fields | {"hash": "cd" * 32}), expires=None)
    assert await store.tokens_of("ann") == (second, made)
    assert await store.touch_token(made.id, clock.now)
    assert (await store.token(ID)).last_used == clock.now
    assert await store.revoke_token(made.id, "bob") is None
    assert await store.revoke_token(made.id, "ann") == ID
    assert await store.revoke_token(second.id) == "cd" * 32
    await store.add_token(**fields, expires=None)
    assert await store.revoke_tokens_of("bob") == ()
    assert await store.revoke_tokens_of("ann") == (ID,)
    assert not await store.touch_token(made.id, clock.now)
    assert await store.tokens_of("ann") == ()


async def test_tokens_end_with_their_session(store, clock) -> None:
    await store.get_or_create_user("ann")
    for key in ("1" * 64, "2" * 64):
        await store.add_session(**a_session(clock, key))

    async def add(digest: str, session: str | None) -> None:
        times = {"created": clock.now, "expires": None}
        made = await store.add_token(hash=digest, first="bh_", user="ann", note="", session=session, **times)
        assert made.session == session
        assert await store.token(digest) == made

    for digest, session in (("a", "1" * 64), ("b", "1" * 64), ("c", "2" * 64), ("d", None)):
        await add(digest, session)
    with pytest.raises(Conflict):
        await add("e", "3" * 64)
    assert await store.revoke_tokens_with(()) == ()
    assert set(await store.revoke_tokens_with(("1" * 64, "3" * 64))) == {"a", "b"}
    assert await store.revoke_tokens_with(("1" * 64,)) == ()
    assert [token.hash for token in await store.tokens_of("ann")] == ["d", "c"]
    # One that is past its latest end is deleted, and what was to end with it goes along.
    clock.later(days=15)
    assert await store.expire_sessions(clock.now) == 2
    assert [token.hash for token in await store.tokens_of("ann")] == ["d"]


async def test_users_by_a_part_of_their_name(store) -> None:
    for name in ("ann", "anna_b", "b%", "joanna"):
        await store.get_or_create_user(name)
    assert [one.name for one in await store.users(part="ann")] == ["ann", "anna_b", "joanna"]
    assert [one.name for one in await store.users(part="ann", limit=1, offset=1)] == ["anna_b"]
    assert [one.name for one in await store.users(part="_")] == ["anna_b"]
    assert [one.name for one in await store.users(part="%")] == ["b%"]
