"""``batchhub sudoers``: what the admins of a login node allow the hub's account, as a file."""

from __future__ import annotations

import getpass
import sys
from typing import Any, ClassVar

from traitlets import Unicode

from batchhub.app.command import Command
from batchhub.app.site import Site, read_site
from batchhub.config.clusters import ClusterSettings
from batchhub.config.traits import BatchHub
from batchhub.core.errors import BadInput
from batchhub.transport.sudoers import ROOT_LIKE, sudoers


class SudoersCommand(Command):
    """Print a sudoers file."""

    name = "batchhub sudoers"
    description = (
        "Print the sudoers file for a cluster that has sudo = true: the hub's account may act as the members of one group, never as root, "
        "and run `/bin/sh -c TEXT` alone, with whatever text: who is in the group is the limit. Check it with `visudo -cf FILE` and put it into /etc/sudoers.d on the machine where jobs are "
        "submitted."
    )
    group = Unicode(help="Whose members the hub may act as.").tag(config=True)
    cluster = Unicode(help="Which cluster; the only one with sudo if not given.").tag(config=True)
    service = Unicode(help="The hub's account there; the one of the configuration, or you, if not given.").tag(
        config=True
    )
    without = Unicode(
        ",".join(ROOT_LIKE),
        help="Groups whose members the hub does not act as, because they can become root; with commas.",
    ).tag(config=True)
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        **Command.aliases,
        "group": ("SudoersCommand.group", "NAME|The group of those whom the hub may act as; needed."),
        "cluster": ("SudoersCommand.cluster", "NAME|Which cluster; the only one with sudo if not said."),
        "service": ("SudoersCommand.service", "NAME|The hub's account there; service_username, or you, if not said."),
        "without": ("SudoersCommand.without", f"NAMES|Groups it does not act as; {','.join(ROOT_LIKE)} if not said."),
    }
    unlisted = frozenset({"ip", "port", "state-dir"})

    def act(self) -> None:
        """What the class says."""
        cluster = self._cluster(read_site(self.trait(BatchHub)))
        if not self.group:
            raise BadInput("Say with --group=NAME whose members the hub may act as; everybody else is refused.")
        service = self.service or (cluster.ssh.service_username if cluster.ssh else "") or getpass.getuser()
        sys.stdout.write(sudoers(service, self.group, [name.strip() for name in self.without.split(",")]))

    def _cluster(self, site: Site) -> ClusterSettings:
        if self.cluster:
            cluster = site.cluster(self.cluster)
            if not by_sudo(cluster):
                raise BadInput(f"Cluster {cluster.name!r} does not use sudo, so it needs no sudoers file.")
            return cluster
        found = [cluster for cluster in site.clusters if by_sudo(cluster)]
        if not found:
            raise BadInput("No cluster has sudo = true in its table 'local' or 'ssh', so none needs a sudoers file.")
        if len(found) > 1:
            names = ", ".join(cluster.name for cluster in found)
            raise BadInput(f"Several clusters use sudo: {names}. Say with --cluster=NAME which one this file is for.")
        return found[0]


def by_sudo(cluster: ClusterSettings) -> bool:
    """Whether commands on it are run as people by sudo."""
    return cluster.ssh.sudo if cluster.ssh is not None else cluster.local.sudo
