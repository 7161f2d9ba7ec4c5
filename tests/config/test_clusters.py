"""Clusters from tables."""

import pytest

from batchhub.config.clusters import read_clusters
from batchhub.core.errors import ConfigError

SSH = {"host": "login1", "known_hosts": "/etc/batchhub/known_hosts"}


def test_the_least() -> None:
    (cluster,) = read_clusters({"hpc": {}})
    assert (cluster.name, cluster.scheduler, cluster.transport) == ("hpc", "slurm", "local")
    assert (cluster.tunnel_kind, cluster.bind_address) == ("direct", "0.0.0.0")


def test_what_follows_from_what_is_said() -> None:
    clusters = read_clusters(
        {"a": {"transport": "ssh", "ssh": SSH}, "b": {"scheduler": "local"}, "c": {"tunnel": "login"}}
    )
    assert [cluster.tunnel_kind for cluster in clusters] == ["login", "direct", "login"]
    assert clusters[1].bind_address == "127.0.0.1"
    assert clusters[0].ssh is not None
    assert clusters[0].ssh.host == "login1"


def test_a_whole_one() -> None:
    (cluster,) = read_clusters(
        {
            "hpc": {
                "ports": [20000, 20100],
                "node_address": "{host}.cluster",
                "node_networks": ["10.0.0.0/8"],
                "account": "{username}@site",
                "environment": {"A": "b"},
            }
        }
    )
    assert cluster.ports == (20000, 20100)
    assert cluster.node_networks == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([], "clusters: a table of tables is expected"),
        ({"hpc": 1}, "cluster 'hpc': a table is expected."),
        ({"h pc": {}}, "cluster 'h pc': a cluster's name is letters"),
        ({"hpc": {"scheduller": "slurm"}}, "cluster 'hpc': unknown setting 'scheduller'; did you mean 'scheduler'?"),
        ({"hpc": {"transport": "tcp"}}, "cluster 'hpc'.transport: 'tcp' is not one of 'local', 'ssh'."),
        ({"hpc": {"transport": "ssh"}}, "needs a table 'ssh' with at least 'host' and 'known_hosts'"),
        ({"hpc": {"ssh": SSH}}, "say transport = 'ssh'"),
        ({"hpc": {"transport": "ssh", "ssh": {**SSH, "hosts": "h"}}}, "did you mean 'host'?"),
        ({"hpc": {"account": "root"}}, "account 'root' must hold {username}, or everybody would be the same person"),
        ({"hpc": {"node_address": "a b"}}, "node_address 'a b' is not a host name"),
        ({"hpc": {"ports": [80, 90]}}, "ports (80, 90) are not a range within 1024 to 65535"),
        ({"hpc": {"ports": [3000, 2000]}}, "ports (3000, 2000) are not a range"),
        ({"hpc": {"node_networks": ["10.0.0.1/8"]}}, "node_networks: 10.0.0.1/8 has host bits set"),
        ({"hpc": {"bind": "::"}}, "bind: '::' is not one of"),
    ],
)
def test_every_mistake_is_a_sentence(tables: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_clusters(tables)  # type: ignore[arg-type]
    assert words in str(caught.value)
