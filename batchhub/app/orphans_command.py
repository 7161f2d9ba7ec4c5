"""``batchhub orphans``: what the hub would find of jobs that no row knows, asked now and without doing anything about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from batchhub.app.command import Command, say
from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.orphans import orphan_settings
from batchhub.app.reach import make_transport
from batchhub.app.site import Site, make_dialect, read_site
from batchhub.app.state import StateDirectory, utc_now
from batchhub.config import traits
from batchhub.control.orphans import Deed, Grounds, Orphan, OrphanKeeper, OrphanSettings
from batchhub.control.tagged import TaggedJobs
from batchhub.core.errors import HubError, Unreachable
from batchhub.core.ports import Transport
from batchhub.store.store import Store

_WOULD = {Deed.ADOPT: "adopt", Deed.CANCEL: "cancel", Deed.LIST: "leave", Deed.WAIT: "wait"}


class OrphansCommand(Command):
    """List jobs that no row knows."""

    name = "batchhub orphans"
    unlisted = frozenset({"ip", "port"})
    description = (
        "Ask every cluster for jobs that bear this hub's tag and have no live row in its database, say whether each is proven to be this "
        "hub's, and what the hub does about it as c.Watching.orphans is set. Nothing is done by this command."
    )

    def act(self) -> None:
        """What the class says."""
        hub = self.trait(traits.BatchHub)
        state = self.state()
        settings = orphan_settings(self.trait(traits.Watching))
        asyncio.run(_report(read_site(hub), state, hub.db_url or state.database, settings))


async def _report(site: Site, state: StateDirectory, database: str, settings: OrphanSettings) -> None:
    """Raises Unreachable if a cluster could not be asked, after the others were."""
    builder = SiteJobBuilder(site, state.key("servers"))
    transports: dict[str, Transport] = {cluster.name: make_transport(cluster, utc_now) for cluster in site.clusters}
    grounds = {
        cluster.name: Grounds(
            TaggedJobs(transports[cluster.name], make_dialect(cluster), builder), lambda: True, lambda: None
        )
        for cluster in site.clusters
    }
    store = Store(database, clock=utc_now, create=False)
    silent: list[str] = []
    try:
        await store.open()
        keeper = OrphanKeeper(clusters=grounds, store=store, clock=utc_now, settings=settings)
        for name in grounds:
            try:
                _tell(name, await keeper.survey(name))
            except HubError as error:
                silent.append(f"{name}: {error}")
    finally:
        await store.close()
        for transport in transports.values():
            await transport.close()
    if silent:
        raise Unreachable(f"Not every cluster could be asked. {' '.join(silent)}")


def _tell(cluster: str, orphans: Sequence[Orphan]) -> None:
    if not orphans:
        say(f"{cluster}: none.")
    for orphan in orphans:
        job = orphan.job
        say(f"{cluster}: job {job.id} ({job.name}) of {job.user}: {_WOULD[orphan.deed]}. {orphan.words}")
