"""The login nodes that people can sign in at: an authenticator names one, and is given the means to ask its sshd."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batchhub.app.site import Site
from batchhub.core.errors import ConfigError
from batchhub.transport.asking import SSHDoor
from batchhub.transport.settings import SSHSettings


@dataclass(frozen=True, slots=True)
class SiteDoors:
    """:class:`~batchhub.core.asking.Doors` of a site."""

    site: Site

    def of_cluster(self, cluster: str) -> SSHDoor:
        """By the cluster's own settings. Raises ConfigError."""
        ssh = self.site.cluster(cluster).ssh
        if ssh is None:
            raise ConfigError(
                f"SSHAuthenticator.cluster: cluster {cluster!r} is not reached by SSH; set transport = 'ssh'."
            )
        return replace(_door(ssh), keep=ssh.sign_in == "session")

    def of_host(self, host: str, port: int, known_hosts: str) -> SSHDoor:
        """Any host. Raises ConfigError."""
        return _door(SSHSettings(host=host, port=port, known_hosts=known_hosts))


def _door(ssh: SSHSettings) -> SSHDoor:
    if ssh.insecure or not ssh.known_hosts:
        raise ConfigError(
            f"People's passwords would go to whoever answers as {ssh.host}: signing in there needs its known_hosts."
        )
    return SSHDoor(ssh)
