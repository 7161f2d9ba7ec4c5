"""Servers and their events on a real SQLite file."""

import asyncio
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, Conflict, NotFound
from batchhub.core.model import Endpoint, JobId, Outcome, Phase, Server, ServerId, UserName, Want
from batchhub.store import Store, servers

ended = {"phase": Phase.ENDED, "want": Want.DOWN, "outcome": Outcome.STOPPED}
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
times = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
small = st.integers(-(2**31), 2**31 - 1)
values = st.one_of(text, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())


def maybe(strategy):
    return st.none() | strategy


a_server = st.builds(
    Server,
    id=st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=12, max_size=12).map(ServerId),
    user=st.sampled_from(["ann", "bob"]).map(UserName),
    name=text,
    cluster=text,
    profile=text,
    account=text,
    created=times,
    since=times,
    options=st.dictionaries(text, values, max_size=5),
    want=st.sampled_from(Want),
    phase=st.sampled_from(Phase),
    directory=text,
    job_id=maybe(text.map(JobId)),
    submit_tried=maybe(times),
    submit_count=small,
    generation=small,
    host=text,
    endpoint=maybe(st.builds(Endpoint, host=text, port=st.integers(0, 65535), socket=text)),
    started=maybe(times),
    answered=maybe(times),
    cancel_tried=maybe(times),
    outcome=maybe(st.sampled_from(Outcome)),
    exit_code=maybe(small),
    words=text,
    log_tail=text,
    ended=maybe(times),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=a_server, second=a_server)
def test_every_value_comes_back_as_it_went_in(url, clock, first, second) -> None:
    if url.startswith("sqlite"):
        url = "sqlite://"
    second = replace(second, id=first.id, user=first.user, name=first.name, created=first.created)

    async def there_and_back() -> None:
        store = Store(url, clock=clock)
        await store.open()
        try:
            with store._opened().engine.begin() as connection:
                connection.exec_driver_sql("DELETE FROM servers")
            await store.add_server(first)
            assert await store.server(first.id) == first
            assert await store.current_server(first.user, first.name) == first
            assert await store.update(first.id, lambda row: second) == second
            assert await store.server(first.id) == second
        finally:
            await store.close()

    asyncio.run(there_and_back())


def test_no_field_of_server_is_left_out() -> None:
    assert {*servers._PLAIN, "user", "options", "endpoint"} == {field.name for field in fields(Server)}


async def test_one_live_run_of_each_name(store, make) -> None:
    first = await store.add_server(make())
    with pytest.raises(Conflict, match="ann has a server that has not ended"):
        await store.add_server(make())
    await store.add_server(make(name="gpu"))
    await store.add_server(make(user="bob"))
    await store.update(first.id, lambda row: replace(row, **ended))
    second = await store.add_server(make())
    assert await store.current_server("ann") == second
    with pytest.raises(Conflict):
        await store.update(first.id, lambda row: replace(row, phase=Phase.READY))
    assert (await store.server(first.id)).phase is Phase.ENDED


async def test_the_newest_run_is_the_one_added_last(store, make) -> None:
    for _ in range(3):
        last = await store.add_server(make())
        await store.update(last.id, lambda row: replace(row, **ended))
    named = await store.add_server(make(name="a"))
    assert [row.id for row in await store.servers_of("ann")] == [last.id, named.id]
    assert await store.servers_of("bob") == ()
    assert await store.current_server("bob") is None


async def test_listings(store, make) -> None:
    one = await store.add_server(make("cat"))
    two = await store.add_server(make("ann", cluster="c2"))
    three = await store.add_server(make("bob"))
    gone = await store.update(three.id, lambda row: replace(row, **ended))
    assert await store.live_servers() == (one, two)
    assert await store.live_servers("c2") == (two,)
    assert await store.all_current() == ((two, gone, one), 3)
    assert await store.all_current(offset=1, limit=1) == ((gone,), 3)
    assert await store.all_current(live_only=True, limit=1) == ((two,), 2)


async def test_unknown_ids(store, make) -> None:
    stranger = ServerId("aaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await store.server(stranger)
    with pytest.raises(NotFound):
        await store.update(stranger, lambda row: row)
    with pytest.raises(NotFound):
        await store.add_event(stranger, "note", "x")
    assert await store.events_of(stranger) == ()


async def test_a_change_and_its_event_are_one_transaction(store, make, clock) -> None:
    row = await store.add_server(make())
    at = clock.later(minutes=1)
    after = await store.update(
        row.id, lambda it: replace(it, phase=Phase.QUEUED, job_id=JobId("42"), words="Waiting."), kind="phase"
    )
    assert after == await store.server(row.id)
    first, second = await store.events_of(row.id)
    assert (first.kind, first.words, first.by) == ("requested", "lab on c1", "ann")
    assert (second.at, second.kind, second.by) == (at, "phase", "hub")
    assert second.words == "requested → queued; job 42; Waiting."


async def test_no_change_no_event(store, make) -> None:
    row = await store.add_server(make(), by="root")
    assert await store.update(row.id, lambda it: None, kind="phase") == row
    assert await store.update(row.id, replace, kind="phase") == row
    await store.update(row.id, lambda it: replace(it, host="n1"))
    assert [event.by for event in await store.events_of(row.id)] == ["root"]


async def test_a_change_that_raises_saves_nothing(store, make) -> None:
    row = await store.add_server(make())

    def broken(it: Server) -> Server:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.update(row.id, broken, kind="phase")
    with pytest.raises(ValueError, match="must keep"):
        await store.update(row.id, lambda it: replace(it, user=UserName("eve")))
    with pytest.raises(ValueError, match="no time zone"):
        await store.update(row.id, lambda it: replace(it, since=datetime(2026, 1, 1)), kind="phase")
    assert await store.server(row.id) == row
    assert len(await store.events_of(row.id)) == 1


async def test_an_ending_in_words(store, make) -> None:
    row = await store.add_server(make(host="n0"))
    end = {**ended, "outcome": Outcome.OUT_OF_MEMORY, "exit_code": 137, "host": "n1"}
    await store.update(row.id, lambda it: replace(it, **end), kind="phase", by="ann")
    words = (await store.events_of(row.id))[-1].words
    assert words == "requested → ended; wanted down; on n1; out of memory (exit code 137)"
    await store.update(row.id, lambda it: replace(it, log_tail="x"), kind="collect", words="The log was read.")
    assert (await store.events_of(row.id, 1))[0].words == "The log was read."


async def test_what_no_database_can_hold(store, make) -> None:
    row = await store.add_server(make(words="a\0b\ud800c", log_tail="é\0"))
    back = await store.server(row.id)
    assert (back.words, back.log_tail) == ("a\ufffdb\ufffdc", "é\ufffd")
    for number in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(BadInput, match="cores"):
            await store.add_server(make(name="x", options={"cores": number}))


async def test_times_of_other_zones_come_back_in_utc(store, make) -> None:
    there = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=9)))
    row = await store.add_server(make(created=there))
    back = await store.server(row.id)
    assert back.created == there
    assert back.created.tzinfo is UTC


async def test_prune(store, make, clock) -> None:
    for minutes in (1, 2, 3):
        row = await store.add_server(make())
        over = clock.now + timedelta(minutes=minutes)
        await store.update(row.id, lambda it, over=over: replace(it, **ended, ended=over), kind="phase")
    alive = await store.add_server(make())
    assert await store.prune_ended(clock.now + timedelta(minutes=2.5), limit=1) == 1
    assert await store.prune_ended(clock.now + timedelta(minutes=2.5)) == 1
    assert await store.prune_ended(clock.now + timedelta(minutes=2.5)) == 0
    assert len(await store.events_of(row.id)) == 2
    assert await store.prune_ended(clock.now + timedelta(days=9)) == 1
    assert await store.events_of(row.id) == ()
    assert await store.current_server("ann") == alive


async def test_a_thousand_live_servers(store, make) -> None:
    for number in range(1000):
        await store.add_server(make(f"user{number:04}"))
    statements: list[str] = []
    from sqlalchemy import event

    event.listen(store._opened().engine, "before_cursor_execute", lambda *seen: statements.append(seen[2]))
    assert len(await store.live_servers()) == 1000
    # The price does not grow with the rows. SQLite's transaction is begun in so many words.
    assert len([words for words in statements if words != "BEGIN"]) == 1
    page, total = await store.all_current(offset=990)
    assert (len(page), total) == (10, 1000)


async def test_two_stores_on_one_file(store, url, make, clock) -> None:
    other = Store(url, clock=clock)
    await other.open()
    try:
        row = await store.add_server(make())

        def count(it: Server) -> Server:
            return replace(it, submit_count=it.submit_count + 1)

        await asyncio.gather(*(each.update(row.id, count) for each in (store, other) * 40))
        assert (await other.server(row.id)).submit_count == 80

        async def add(each: Store) -> str:
            try:
                return (await each.add_server(make("bob"))).id
            except Conflict:
                return ""

        ids = await asyncio.gather(*(add(each) for each in (store, other) * 5))
        assert len([one for one in ids if one]) == 1
    finally:
        await other.close()
