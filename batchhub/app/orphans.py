"""Jobs that no row knows: how the hub and ``batchhub orphans`` look for them."""

from __future__ import annotations

from datetime import timedelta

from batchhub.config.traits import Watching
from batchhub.control.orphans import Grounds, OrphanSettings, Policy
from batchhub.control.poller import Poller
from batchhub.control.tagged import TaggedJobs


def orphan_settings(watching: Watching) -> OrphanSettings:
    """From the traits."""
    return OrphanSettings(
        policy=Policy(watching.orphans),
        every=watching.orphans_every,
        young=timedelta(seconds=watching.orphans_after),
    )


def grounds_of(poller: Poller, jobs: TaggedJobs) -> Grounds:
    """A cluster that is looked at anyway."""
    return Grounds(jobs, lambda: poller.silent_since is None, poller.wake)
