"""People's SSH keys: by SQLite and PostgreSQL."""

import pytest

from batchhub.core.errors import NotFound
from batchhub.store.keys import Keys


async def test_one_for_each_cluster(store, clock) -> None:
    keys = Keys(store)
    with pytest.raises(NotFound):
        await keys.put_key("ann", "hpc", public="p", sealed="s")
    await store.get_or_create_user("ann")
    await store.get_or_create_user("eve")
    assert await keys.key("ann", "hpc") is None
    made = await keys.put_key("ann", "hpc", public="p1", sealed="s1")
    assert (made.created, made.works) == (clock.now, None)
    assert await keys.key("ann", "hpc") == made
    other = await keys.put_key("ann", "cloud", public="p2", sealed="s2")
    assert await keys.keys_of("ann") == (other, made)
    assert await keys.keys_of("eve") == ()
    assert "s1" not in repr(made)


async def test_what_the_cluster_said(store, clock) -> None:
    keys = Keys(store)
    await store.get_or_create_user("ann")
    await keys.put_key("ann", "hpc", public="p1", sealed="s1")
    then = clock.later(hours=1)
    await keys.key_worked("ann", "hpc", "p1", works=True)
    assert (await keys.key("ann", "hpc")).works == then
    await keys.key_worked("ann", "hpc", "p1", works=False)
    assert (await keys.key("ann", "hpc")).works is None
    await keys.key_worked("ann", "hpc", "p1", works=True)
    await keys.put_key("ann", "hpc", public="p2", sealed="s2")
    await keys.key_worked("ann", "hpc", "p1", works=True)
    assert (await keys.key("ann", "hpc")).works is None, "that was said of the one before"


async def test_removed(store) -> None:
    keys = Keys(store)
    await store.get_or_create_user("ann")
    await keys.put_key("ann", "hpc", public="p1", sealed="s1")
    assert await keys.delete_key("ann", "hpc")
    assert not await keys.delete_key("ann", "hpc")
    assert await keys.keys_of("ann") == ()
