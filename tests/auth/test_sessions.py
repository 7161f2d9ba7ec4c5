"""Sessions over the real store."""

import asyncio
import hashlib
from datetime import timedelta

import pytest

from batchhub.auth.sessions import Sessions, SessionSettings
from batchhub.core.errors import NotFound, StoreUnavailable

KEY = b"k" * 32


class Told:
    def __init__(self) -> None:
        self.ids: list[str] = []

    async def __call__(self, ids) -> None:
        self.ids += ids


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def sessions(store, clock, told) -> Sessions:
    return Sessions(store, KEY, clock, revoked=told)


async def test_there_and_back(sessions, store, clock) -> None:
    cookie, made = await sessions.create("ann", "192.0.2.1", "Fire\nfox")
    assert await sessions.read(cookie) == made
    assert (made.user, made.agent) == ("ann", "Fire fox")
    again = Sessions(store, KEY, clock)
    assert await again.read(cookie) == made, "a hub that started anew"
    assert await Sessions(store, b"x" * 32, clock).read(cookie) is None, "another key"
    row = await store.session(made.id)
    assert cookie.split(".")[1] not in repr(row)
    with pytest.raises(NotFound):
        await sessions.create("eve", "", "")


async def test_forged_cookies_ask_no_database(sessions, store) -> None:
    cookie, _ = await sessions.create("ann", "", "")
    one, secret, mac = cookie.split(".")
    await store.close()
    bad = [
        "", "x", "1..", cookie[:-2], cookie + "x", f"2.{secret}.{mac}", f"{one}.{mac}.{secret}", f"{one}.{'A' * 43}.{mac}",
        cookie.replace(".", ":"), "1." + "é" * 43 + "." + mac, " " + cookie, cookie + "\n", cookie * 1000,
    ]  # fmt: skip
    for text in bad:
        assert await sessions.read(text) is None, text[:50]


async def test_idle_and_absolute(sessions, store, clock) -> None:
    cookie, made = await sessions.create("ann", "", "")
    clock.later(hours=23)
    assert (await sessions.read(cookie)).expires == clock.now + timedelta(hours=24)
    clock.later(hours=24)
    assert await sessions.read(cookie) is None
    cookie, made = await sessions.create("ann", "", "")
    for _ in range(27):
        clock.later(hours=12)
        assert await sessions.read(cookie) is not None
    assert (await store.session(made.id)).expires == made.absolute
    clock.later(hours=12)
    assert await sessions.read(cookie) is None
    assert await sessions.of("ann") == ()


async def test_uses_are_noted_now_and_then(sessions, store, clock, monkeypatch) -> None:
    cookie, _ = await sessions.create("ann", "", "")
    touched = []
    touch = store.touch_session

    async def counting(*args, **kwargs):
        touched.append(args)
        return await touch(*args, **kwargs)

    monkeypatch.setattr(store, "touch_session", counting)
    clock.later(minutes=4)
    await sessions.read(cookie)
    assert touched == []
    clock.later(minutes=2)
    await sessions.read(cookie)
    assert len(touched) == 1
    clock.later(seconds=20)
    await asyncio.gather(*(sessions.read(cookie) for _ in range(10)))
    assert len(touched) == 1
    clock.later(minutes=6)
    await sessions.alive("unknown")
    await asyncio.gather(*(sessions.read(cookie) for _ in range(10)))
    assert len(touched) >= 2


async def test_revoked_at_once(sessions, clock, told) -> None:
    cookie, made = await sessions.create("ann", "", "")
    await sessions.revoke(made.id)
    assert await sessions.read(cookie) is None
    assert not await sessions.alive(made.id)
    assert told.ids == [made.id]


async def test_revoked_by_another_process(sessions, store, clock) -> None:
    cookie, made = await sessions.create("ann", "", "")
    other = Sessions(store, KEY, clock)
    assert await other.read(cookie) is not None
    await sessions.revoke(made.id)
    assert await other.read(cookie) is not None, "believed for as long as trust says"
    assert await other.alive(made.id)
    other.forget([made.id])
    assert await other.read(cookie) is None, "and not if it is told"
    cookie, made = await sessions.create("ann", "", "")
    assert await other.read(cookie) is not None
    await sessions.revoke(made.id)
    clock.later(seconds=31)
    assert await other.read(cookie) is None


async def test_revoked_while_it_is_noted(store, clock) -> None:
    believes = Sessions(store, KEY, clock, SessionSettings(trust=timedelta(hours=1)))
    cookie, made = await believes.create("ann", "", "")
    await store.revoke_session(made.id, clock.now)
    clock.later(minutes=6)
    assert await believes.read(cookie) is None


async def test_revoked_while_it_is_loaded(sessions, store, clock, monkeypatch) -> None:
    cookie, made = await sessions.create("ann", "", "")
    sessions.forget([made.id])
    load, reached, go = store.session, asyncio.Event(), asyncio.Event()

    async def slow(session_id):
        row = await load(session_id)
        reached.set()
        await go.wait()
        return row

    monkeypatch.setattr(store, "session", slow)
    reading = asyncio.ensure_future(sessions.read(cookie))
    await reached.wait()
    await sessions.revoke(made.id)
    go.set()
    await reading
    assert await sessions.read(cookie) is None, "what was loaded before was not remembered"


async def test_all_of_a_user(sessions, told) -> None:
    cookies = [await sessions.create("ann", "", "") for _ in range(3)]
    other, _ = await sessions.create("bob", "", "")
    kept = cookies[1][1]
    assert {one.id for one in await sessions.of("ann")} == {one.id for _, one in cookies}
    assert await sessions.revoke_all_of("ann", keep=kept.id) == 2
    assert [await sessions.read(cookie) is not None for cookie, _ in cookies] == [False, True, False]
    assert await sessions.read(other) is not None
    assert set(told.ids) == {cookies[0][1].id, cookies[2][1].id}
    assert await sessions.revoke_all_of("bob", keep=None) == 1
    assert await sessions.revoke_all_of("bob") == 0


async def test_a_new_id_at_every_sign_in(sessions) -> None:
    first, old = await sessions.create("ann", "", "")
    second, new = await sessions.create("ann", "", "", old=first)
    assert new.id != old.id
    assert await sessions.read(first) is None
    assert await sessions.read(second) == new


async def test_a_session_that_was_idle_is_ended_for_good_by_the_next_sign_in(sessions, store, clock, told) -> None:
    """For the hub it was over, but its tickets go on at the proxy as long as they are used."""
    first, old = await sessions.create("ann", "", "")
    clock.later(days=2)
    assert await sessions.read(first) is None
    assert told.ids == []
    _, new = await sessions.create("ann", "", "", old=first)
    assert told.ids == [old.id]
    assert set(await store.ended_sessions(clock.now)) == {old.id}
    assert await sessions.alive(new.id)


async def test_ending_by_cookie(sessions, told) -> None:
    cookie, made = await sessions.create("ann", "", "")
    assert not await sessions.end("")
    # The last letter's bits are not all part of what it spells.
    assert not await sessions.end(cookie[:-2] + ("A" if cookie[-2] != "A" else "B") + cookie[-1])
    assert told.ids == []
    assert await sessions.end(cookie)
    assert told.ids == [made.id]
    assert await sessions.read(cookie) is None


async def test_alive_is_no_use(sessions, store, clock) -> None:
    _, made = await sessions.create("ann", "", "")
    clock.later(hours=1)
    assert await sessions.alive(made.id)
    assert (await store.session(made.id)).last_seen == made.last_seen
    clock.later(hours=24)
    assert not await sessions.alive(made.id)


async def test_bounded(store, clock) -> None:
    small = Sessions(store, KEY, clock, SessionSettings(cache_size=2))
    cookies = [(await small.create("ann", "", ""))[0] for _ in range(5)]
    for cookie in cookies:
        assert await small.read(cookie) is not None
    assert len(small._cache) == 2


async def test_the_database_is_away(sessions, store, clock) -> None:
    cookie, _ = await sessions.create("ann", "", "")
    await store.close()
    assert await sessions.read(cookie) is not None
    clock.later(minutes=1)
    with pytest.raises(StoreUnavailable):
        await sessions.read(cookie)


async def test_the_id_is_the_hash(sessions) -> None:
    from base64 import urlsafe_b64decode

    cookie, made = await sessions.create("ann", "", "")
    assert made.id == hashlib.sha256(urlsafe_b64decode(cookie.split(".")[1] + "=")).hexdigest()


async def test_a_clock_that_was_set_back_prolongs_no_belief(sessions, store, clock) -> None:
    cookie, made = await sessions.create("ann", "", "")
    other = Sessions(store, KEY, clock)
    assert await other.read(cookie) is not None
    await sessions.revoke(made.id)
    clock.later(hours=-1)
    assert await other.read(cookie) is None
    assert not await other.alive(made.id)


async def test_an_idle_one_can_still_be_ended(sessions, clock, told) -> None:
    """The proxy takes its tickets for as long as they are used: until then somebody has to see it."""
    cookie, made = await sessions.create("ann", "", "")
    clock.later(hours=25)
    assert await sessions.read(cookie) is None
    assert await sessions.of("ann") == ()
    assert [one.id for one in await sessions.open_of("ann")] == [made.id]
    assert not await sessions.end_of("bob", made.handle)
    assert await sessions.end_of("ann", made.handle)
    assert told.ids == [made.id]
    await sessions.create("ann", "", "")
    clock.later(days=14)
    assert await sessions.open_of("ann") == ()


async def test_a_program_that_never_signs_out_makes_no_list_without_end(sessions, clock, told, monkeypatch) -> None:
    monkeypatch.setattr("batchhub.auth.sessions.MOST", 3)
    used, kept = await sessions.create("ann", "", "")
    others = []
    for _ in range(4):
        clock.later(minutes=6)
        others.append((await sessions.create("ann", "", ""))[1].id)
        assert await sessions.read(used) is not None
    assert {one.id for one in await sessions.of("ann")} == {kept.id, *others[2:]}
    assert told.ids == others[:2]
