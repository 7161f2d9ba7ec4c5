"""Whether people still may: asked when it is due, shared by those who ask at once, and what follows from yes, no, news and silence."""

import asyncio
import logging

import pytest
from cryptography.fernet import Fernet

from batchhub.auth import refresh
from batchhub.auth.base import Authenticator
from batchhub.auth.refresh import Refresher
from batchhub.auth.states import AuthStates
from batchhub.auth.vault import Vault
from batchhub.core.errors import Denied, SignInAgain, Unreachable
from batchhub.store.persons import Persons

SECRET = "refresh-token-of-ann"


class Asked(Authenticator):
    """Answers as it is told to."""

    answer: object = True

    def __init__(self, **traits) -> None:
        super().__init__(**{"allow_all": True, **traits})
        self.asked: list[str] = []
        self.handlers: list[object] = []

    async def refresh_user(self, user, handler=None):
        self.asked.append(user.name)
        self.handlers.append(handler)
        self.state = await user.get_auth_state()
        await asyncio.sleep(0)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class World:
    """A refresher over the real store."""

    def __init__(self, store, clock) -> None:
        self.store, self.clock, self.persons = store, clock, Persons(store)
        self.vault = Vault([Fernet.generate_key()])
        self.states = AuthStates(self.persons, lambda: self.vault)
        self.ways: dict[str, Asked] = {"asked": Asked()}
        self.ended: list[str] = []
        self.begin()

    @property
    def way(self) -> Asked:
        return self.ways["asked"]

    def begin(self, **traits) -> None:
        """A hub starts, with these settings."""
        self.ways["asked"] = Asked(**traits)
        self.rights: list[tuple[str, bool]] = []
        self.refresher = Refresher(self.ways, self.persons, self.states, self.clock, self.end, admin=self.told)

    async def end(self, name: str) -> None:
        self.ended.append(name)

    def told(self, user) -> None:
        self.rights.append((user.name, user.admin))

    async def sign_in(self, name: str = "ann", state=None, **more) -> None:
        sealed = self.states.seal(name, state) if state else None
        await self.persons.signed_in(name, way="asked", sealed=sealed, **more)

    async def check(self, name: str = "ann", **how):
        return await self.refresher.check(await self.store.user(name), **how)


@pytest.fixture
async def world(store, clock) -> World:
    made = World(store, clock)
    await made.sign_in()
    return made


async def test_a_page_asks_only_when_the_last_answer_is_old(world, clock) -> None:
    await world.check(handler="the request's")
    clock.later(seconds=299)
    await world.check()
    assert world.way.asked == []
    clock.later(seconds=1)
    await world.check(handler="the request's")
    await world.check()
    assert (world.way.asked, world.way.handlers) == (["ann"], ["the request's"])
    clock.later(seconds=300)
    await world.check()
    assert len(world.way.asked) == 2


async def test_a_start_always_asks_but_not_twice_in_a_moment(world, clock) -> None:
    await world.check(start=True)
    assert world.way.asked == [], "they have just signed in"
    clock.later(seconds=5)
    await world.check(start=True)
    await world.check(start=True)
    assert len(world.way.asked) == 1
    world.begin(refresh_pre_spawn=False)
    clock.later(seconds=200)
    await world.check(start=True)
    assert world.way.asked == []
    clock.later(seconds=100)
    await world.check(start=True)
    assert len(world.way.asked) == 1, "as any request would"


async def test_an_age_of_none_asks_before_a_start_alone(world, clock) -> None:
    world.begin(auth_refresh_age=0)
    clock.later(days=10)
    await world.check()
    assert world.way.asked == []
    await world.check(start=True)
    assert world.way.asked == ["ann"]


async def test_many_share_one_question(world, clock) -> None:
    clock.later(hours=1)
    world.way.answer = {"groups": ["hpc"], "admin": True}
    found = await asyncio.gather(*(world.check() for _ in range(20)))
    assert world.way.asked == ["ann"]
    assert {(one.groups, one.admin) for one in found} == {(("hpc",), True)}
    world.way.answer = False
    clock.later(hours=1)
    lost = await asyncio.gather(*(world.check() for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in lost} == {SignInAgain}
    assert (len(world.way.asked), world.ended) == (2, ["ann"])


@pytest.mark.parametrize("no", [False, None, {"name": "bob"}, Denied("not you")])
async def test_no_ends_their_sessions_until_they_sign_in_again(world, clock, no, caplog) -> None:
    clock.later(hours=1)
    world.way.answer = no
    with pytest.raises(SignInAgain, match="sign in again"):
        await world.check()
    assert world.ended == ["ann"]
    world.way.answer = True
    with pytest.raises(SignInAgain):
        await world.check(start=True)
    assert (world.ended, len(world.way.asked)) == (["ann"], 1), "no further question, and their tokens open nothing"
    assert "ann has to sign in again: 'asked' says so" in caplog.text
    clock.later(seconds=1)
    await world.sign_in()
    await world.check()


async def test_news_are_kept(world, clock) -> None:
    world.begin(enable_auth_state=True, admin_groups={"staff"})
    await world.sign_in(state={"token": 1}, groups=["staff"], admin=True)
    clock.later(hours=1)
    world.way.answer = {"name": "ANN", "groups": ["hpc"], "auth_state": {"token": 2, "secret": SECRET}}
    now = await world.check()
    assert world.way.state == {"token": 1}
    assert (now.groups, now.admin) == (("hpc",), False), "who is in no admin group any more is no admin"
    assert await world.store.user("ann") == now
    assert world.rights == [("ann", False)], "for the trail"
    assert await world.states.of("ann") == {"token": 2, "secret": SECRET}
    assert SECRET not in (await world.persons.sealed_state("ann") or "")


async def test_what_is_not_named_stays(world, clock) -> None:
    world.begin(enable_auth_state=True)
    await world.sign_in(state={"token": 1}, groups=["hpc"], admin=True)
    before = await world.persons.sealed_state("ann")
    clock.later(hours=1)
    world.way.answer = {"name": "ann"}
    now = await world.check()
    assert (now.groups, now.admin) == (("hpc",), True)
    assert world.rights == []
    assert await world.persons.sealed_state("ann") == before


async def test_nothing_is_kept_where_the_site_does_not_want_it(world, clock) -> None:
    clock.later(hours=1)
    world.way.answer = {"auth_state": {"secret": SECRET}}
    await world.check()
    assert await world.persons.sealed_state("ann") is None


@pytest.mark.parametrize(
    ("traits", "answer", "may"),
    [
        ({"allow_all": False, "allowed_users": {"ann"}}, True, True),
        ({"allow_all": False, "allowed_groups": {"hpc"}}, True, True),
        ({"allow_all": False, "allowed_users": {"bob"}}, True, False),
        ({"allow_all": False, "allowed_groups": {"old"}}, True, False),
        ({"blocked_users": {"ann"}}, True, False),
        ({"allow_all": False, "allowed_groups": {"hpc"}}, {"groups": []}, False),
        ({"allow_all": False, "allowed_groups": {"hpc"}}, {"groups": ["hpc"]}, True),
        ({"username_pattern": "[a-c]+"}, {"name": "ann"}, False),
        ({"username_pattern": "[a-c]+"}, True, False),
        ({"username_pattern": "[a-n]+"}, True, True),
    ],
)
async def test_the_rules_of_today_count(world, clock, traits, answer, may) -> None:
    await world.sign_in(groups=["hpc"])
    world.begin(**traits)
    world.way.answer = answer
    clock.later(hours=1)
    if may:
        assert (await world.check()).name == "ann"
        return
    with pytest.raises(SignInAgain):
        await world.check()
    assert world.ended == ["ann"]


async def test_a_sites_own_check_that_needs_more_is_not_asked_without_it(world, clock) -> None:
    class Own(Asked):
        def check_allowed(self, username, authentication=None):
            return authentication["auth_state"]["claim"] == "yes"

    for kept, may in ((False, True), (True, False)):
        world.ways["asked"] = Own(enable_auth_state=kept)
        await world.sign_in(state={"claim": "no"} if kept else None)
        clock.later(hours=1)
        if may:
            await world.check()
        else:
            with pytest.raises(SignInAgain):
                await world.check()


async def test_who_is_blocked_is_out_at_the_next_request(world) -> None:
    world.begin(blocked_users={"ann"})
    with pytest.raises(SignInAgain):
        await world.check()
    assert (world.way.asked, world.ended) == ([], ["ann"])


async def test_who_is_blocked_is_out_before_they_ever_signed_in_again(world) -> None:
    """A database from before the hub kept how people sign in."""
    await world.store.get_or_create_user("eve")
    world.begin(blocked_users={"eve"})
    with pytest.raises(SignInAgain):
        await world.check("eve")
    assert world.ended == ["eve"]


async def test_people_are_asked_about_who_come_to_no_page(world, clock) -> None:
    """Somebody in a notebook."""
    await world.sign_in("bob")
    asked: list[str] = []

    async def find(name):
        asked.append(name)
        return await world.store.user(name)

    await world.refresher.check_all(["ann", "bob", "nobody"], find)
    assert (world.way.asked, asked) == ([], ["ann", "bob", "nobody"])
    clock.later(minutes=5)
    await world.refresher.check_all(["ann", "bob"], find)
    assert world.way.asked == ["ann", "bob"]
    clock.later(minutes=4)
    await world.refresher.check_all(["ann", "bob"], find)
    assert len(asked) == 5, "the database is not asked in vain"
    for answer in (Unreachable("down"), False):
        world.way.answer = answer
        clock.later(minutes=5)
        await world.refresher.check_all(["ann", "bob"], find)
    assert world.ended == ["ann", "bob"]


async def test_a_way_that_is_no_longer_offered_signs_nobody_in(world) -> None:
    del world.ways["asked"]
    with pytest.raises(SignInAgain):
        await world.check()


async def test_who_never_signed_in_is_nobodys_to_ask(world, clock) -> None:
    await world.store.get_or_create_user("robot")
    clock.later(days=1)
    assert (await world.check("robot", start=True)).name == "robot"


@pytest.mark.parametrize("silence", [Unreachable("down"), TimeoutError()])
async def test_while_nobody_answers_the_last_answer_counts_for_a_while(world, clock, silence, caplog) -> None:
    world.way.answer = silence
    clock.later(minutes=10)
    await world.check()
    assert "could not be asked" in caplog.text
    await world.check()
    assert len(world.way.asked) == 1, "pages do not wait for another question so soon"
    clock.later(seconds=6)
    await world.check(start=True)
    assert len(world.way.asked) == 2, "a start does"
    clock.later(minutes=51)
    with pytest.raises(Unreachable, match="Nobody can be asked"):
        await world.check()
    assert world.ended == [], "not knowing is no answer"
    world.way.answer = True
    clock.later(seconds=30)
    await world.check()


async def test_where_only_starts_ask_a_page_ends_what_silence_began(world, clock) -> None:
    world.begin(auth_refresh_age=0)
    clock.later(days=1)
    await world.check()
    for silence in (Unreachable("down"), ValueError("oops")):
        world.way.answer = silence
        clock.later(hours=2)
        with pytest.raises(Unreachable):
            await world.check(start=True)
        world.way.answer = True
        clock.later(seconds=30)
        await world.check()


async def test_no_patience(world, clock) -> None:
    world.begin(auth_refresh_patience=0)
    world.way.answer = Unreachable("down")
    clock.later(minutes=10)
    with pytest.raises(Unreachable):
        await world.check(start=True)
    assert world.ended == []


async def test_the_time_before_the_hub_began_is_nobodys_fault(world, clock) -> None:
    clock.later(days=3)
    world.begin()
    world.way.answer = Unreachable("down")
    clock.later(minutes=1)
    await world.check()
    clock.later(hours=1)
    with pytest.raises(Unreachable):
        await world.check()


async def test_who_takes_too_long_did_not_answer(world, clock, monkeypatch) -> None:
    async def never(user, handler=None):
        await asyncio.Event().wait()

    monkeypatch.setattr(world.way, "refresh_user", never)
    monkeypatch.setattr(refresh, "DEADLINE", 0)
    clock.later(hours=0.5)
    await world.check()


@pytest.mark.parametrize("answer", [ValueError("oops"), "yes", 7, {"groups": "hpc"}])
async def test_a_mistake_in_an_authenticator_is_no_yes_and_no_no(world, clock, answer, caplog) -> None:
    world.way.answer = answer
    for _ in range(2):
        clock.later(minutes=10)
        for _ in range(3):
            with pytest.raises(Unreachable, match="Its administrators find the reason in its log"):
                await world.check()
    assert (len(world.way.asked), world.ended) == (2, []), "asked again, but not by each request"
    assert "Traceback" in caplog.text
    world.way.answer = True
    clock.later(seconds=30)
    await world.check()


async def test_a_mistake_in_a_rule_is_one_as_well(world, clock) -> None:
    def hook(authenticator, handler, authentication):
        raise KeyError("site")

    world.begin(post_auth_hook=hook)
    world.way.answer = {"groups": []}
    clock.later(hours=1)
    with pytest.raises(Unreachable):
        await world.check()


@pytest.mark.parametrize("answer", [False, True, {"groups": ["old"], "admin": True, "auth_state": {"token": "old"}}])
async def test_who_signs_in_while_it_is_asked_is_known_by_that(world, clock, monkeypatch, answer) -> None:
    """The question was about an earlier time, such as a refresh token that the new sign-in has ended."""
    world.begin(enable_auth_state=True)
    await world.sign_in(state={"token": "old"}, groups=["old"], admin=True)
    clock.later(hours=1)

    async def slow(user, handler=None):
        await user.get_auth_state()
        await world.sign_in(state={"token": "new"}, groups=["new"], admin=False)
        return answer

    monkeypatch.setattr(world.way, "refresh_user", slow)
    await world.check()
    assert world.ended == []
    now = await world.check()
    assert (now.groups, now.admin) == (("new",), False)
    assert await world.states.of("ann") == {"token": "new"}


async def test_only_so_many_are_remembered(world, clock, monkeypatch) -> None:
    monkeypatch.setattr(refresh, "REMEMBERED", 2)
    clock.later(hours=1)
    for name in ("ann", "bob", "cat"):
        await world.sign_in(name)
    clock.later(hours=1)
    for name in ("ann", "bob", "cat", "ann"):
        await world.check(name)
    assert world.way.asked == ["ann", "bob", "cat", "ann"]


async def test_the_log_holds_no_state(world, clock, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    world.begin(enable_auth_state=True)
    await world.sign_in(state={"secret": SECRET})
    clock.later(hours=1)
    world.way.answer = {"auth_state": {"secret": SECRET + "2"}}
    await world.check()
    world.way.answer = {"name": "bob", "auth_state": {"secret": SECRET}}
    clock.later(hours=1)
    with pytest.raises(SignInAgain):
        await world.check()
    assert SECRET not in caplog.text
