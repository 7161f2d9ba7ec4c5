"""Where people may sign in by SSH, as the configuration says it."""

import pytest

from batchhub.app.doors import SiteDoors
from batchhub.app.site import read_site
from batchhub.config import traits
from batchhub.core.errors import ConfigError

SSH = {"host": "login.example.org", "port": 2222, "known_hosts": "/k", "username": "{username}@hpc"}


def doors(**ssh: object) -> SiteDoors:
    cluster = {"transport": "ssh", "ssh": {**SSH, **ssh}}
    return SiteDoors(read_site(traits.BatchHub(clusters={"hpc": cluster, "here": {}})))


def test_a_clusters_own_and_another() -> None:
    found = doors().of_cluster("hpc")
    assert (found.host, found.settings.port, found.settings.username) == ("login.example.org", 2222, "{username}@hpc")
    assert doors().of_host("other", 22, "/k").host == "other"


def test_without_a_host_key_no_password_goes_anywhere() -> None:
    with pytest.raises(ConfigError, match="whoever answers"):
        doors(known_hosts="", insecure=True).of_cluster("hpc")
    with pytest.raises(ConfigError, match="known_hosts"):
        doors().of_host("other", 22, "")


def test_no_such_cluster_and_none_by_ssh() -> None:
    with pytest.raises(ConfigError, match="no cluster 'hcp'"):
        doors().of_cluster("hcp")
    with pytest.raises(ConfigError, match="not reached by SSH"):
        doors().of_cluster("here")


def test_checked_with_the_configuration(inside) -> None:
    ssh = {**SSH, "known_hosts": inside.file("known_hosts", "")}
    more = {"BatchHub__clusters": {"hpc": {"transport": "ssh", "ssh": ssh}}, "BatchHub__authenticator_class": "ssh"}
    inside.config(**more)
    assert "either cluster" in inside("config", "--check").stderr
    inside.config(**more, SSHAuthenticator__cluster="hcp")
    assert "'hcp'" in inside("config", "--check").stderr
    inside.config(**more, SSHAuthenticator__cluster="hpc")
    assert "nothing is wrong" in inside("config", "--check").stdout
