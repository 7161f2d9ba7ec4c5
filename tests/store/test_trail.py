"""Evidence in the database: what a change says of itself, and trails over several servers."""

from dataclasses import replace

import pytest

from batchhub.core.errors import NotFound
from batchhub.core.lifecycle import Action
from batchhub.core.model import JobId, Phase, Trace
from batchhub.store.trail import Scope


async def test_a_change_says_once_it_is_made_what_it_saw(store, make) -> None:
    row = await store.add_server(make())
    saw: list[str] = []

    def change(it):
        saw.append(f"{it.phase} seen")
        return replace(it, phase=Phase.QUEUED)

    await store.update(row.id, change, trace=lambda: Trace("phase", "scheduler", saw[0], Action.REACH))
    event = (await store.events_of(row.id))[-1]
    assert (event.kind, event.by, event.seen, event.done) == ("phase", "scheduler", "requested seen", "reach")
    assert event.words == "requested → queued"


async def test_who_changes_nothing_is_asked_nothing(store, make) -> None:
    row = await store.add_server(make())

    def never() -> Trace:
        raise AssertionError

    await store.update(row.id, lambda _: None, trace=never)
    assert len(await store.events_of(row.id)) == 1


async def test_runs_of_a_name(store, make) -> None:
    ended = {"phase": Phase.ENDED}
    ids = [(await store.add_server(make(**ended))).id for _ in range(3)]
    await store.add_server(make(name="gpu"))
    await store.add_server(make(user="bob"))
    assert [run.id for run in await store.runs_of("ann", "")] == ids[::-1]
    assert [run.id for run in await store.runs_of("ann", "", 1)] == ids[2:]
    assert await store.runs_of("eve", "") == ()


async def test_trails_of_several(store, make, clock) -> None:
    first = await store.add_server(make(phase=Phase.ENDED))
    other = await store.add_server(make(user="bob", name="gpu"))
    second = await store.add_server(make(job_id=JobId("7")))
    clock.later(seconds=5)
    await store.add_event(first.id, "note", "late")

    async def ids(**scope):
        return [line.event.server_id for line in await store.trail(Scope(**scope))]

    assert await ids() == [first.id, other.id, second.id, first.id]
    assert await ids(user="ann") == [first.id, second.id, first.id]
    assert await ids(user="bob", name="gpu") == [other.id]
    assert await ids(server_id=second.id) == [second.id]
    newest = await store.trail(Scope(), 2)
    assert [(line.user, line.name, line.job_id, line.event.kind) for line in newest] == [
        ("ann", "", "7", "requested"),
        ("ann", "", None, "note"),
    ]
    assert newest[0].number < newest[1].number
    assert await store.knows_server(first.id)
    assert not await store.knows_server("zzzzzzzzzzzz")


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (Scope(user="eve"), "no user 'eve'"),
        (Scope(user="ann", name="x"), "no server 'x' of ann; known: gpu"),
        (Scope(user="ann", name=""), "no default server of ann"),
        (Scope(server_id="zzzzzzzzzzzz"), "no server with the id 'zzzzzzzzzzzz'"),
    ],
)
async def test_nobody_knows_it(store, make, scope, words) -> None:
    await store.add_server(make(name="gpu"))
    with pytest.raises(NotFound, match=words):
        await store.trail(scope)


async def test_events_go_with_their_run(store, make, clock) -> None:
    row = await store.add_server(make(phase=Phase.ENDED, ended=clock.now))
    await store.prune_ended(clock.later(days=1))
    assert await store.trail(Scope()) == ()
    assert await store.events_of(row.id) == ()
