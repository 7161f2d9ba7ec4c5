"""A row about a job that cannot be read is no word about it, however often it comes."""

from batchhub.core.model import Listing, Phase
from tests.control.test_reconciler import World, empty_database, world

__all__ = ["empty_database", "world"]


async def test_a_job_whose_row_cannot_be_read_is_neither_missing_nor_gone(world: World) -> None:
    before = await world.ready()
    read = world.cluster.read_status
    world.cluster.has_accounting = False  # nothing would speak for the job
    world.cluster.read_status = lambda _done, jobs: Listing({}, bad_rows=("101 ?!",), unread=frozenset(jobs))
    for _ in range(5):
        assert await world.tick(600) == before
    seen = world.poller.newest(before.id)
    assert seen is not None
    assert "unreadable" in seen.word
    assert world.routes.routes
    assert world.cluster.count("accounting") == world.cluster.count("cancel") == 0
    # Once it is truly missing, it counts from the first time again.
    world.cluster.read_status = lambda _done, _jobs: Listing({})
    assert (await world.tick()).phase is Phase.READY
    assert (await world.tick()).phase is Phase.ENDED
    world.cluster.read_status = read
