"""Clusters from tables."""

import pytest

from batchhub.config.clusters import ClusterSettings, read_clusters
from batchhub.core.errors import ConfigError

SSH = {"host": "login1", "known_hosts": "/etc/batchhub/known_hosts"}


def test_the_least() -> None:
    (cluster,) = read_clusters({"hpc": {}})
    assert (cluster.name, cluster.scheduler, cluster.transport) == ("hpc", "slurm", "local")
    assert (cluster.tunnel_kind, cluster.bind_address) == ("direct", "0.0.0.0")


def test_what_follows_from_what_is_said() -> None:
    clusters = read_clusters(
        {
            "a": {"transport": "ssh", "ssh": SSH},
            "b": {"scheduler": "local"},
            "c": {"transport": "ssh", "ssh": SSH, "tunnel": "direct"},
        }
    )
    assert [cluster.tunnel_kind for cluster in clusters] == ["login", "direct", "direct"]
    assert clusters[1].bind_address == "127.0.0.1"
    assert clusters[0].ssh is not None
    assert clusters[0].ssh.host == "login1"


@pytest.mark.parametrize(
    ("tunnel", "kind", "bind", "sockets"),
    [
        ("login", "login", "0.0.0.0", False),
        ("node", "node", "127.0.0.1", True),
        (["node", "reverse"], "node,reverse", "127.0.0.1", True),
        (["login", "node", "reverse"], "login,node,reverse", "0.0.0.0", True),
        (["direct", "login"], "direct,login", "0.0.0.0", False),
        ("our.tunnels:Wire", "our.tunnels:Wire", "0.0.0.0", True),
    ],
)
def test_tunnels_and_what_follows_from_them(tunnel: object, kind: str, bind: str, sockets: bool) -> None:
    (cluster,) = read_clusters({"hpc": {"transport": "ssh", "ssh": SSH, "tunnel": tunnel}})
    assert (cluster.tunnel_kind, cluster.bind_address, cluster.reaches_sockets) == (kind, bind, sockets)
    (open_,) = read_clusters({"hpc": {"transport": "ssh", "ssh": SSH, "tunnel": tunnel, "bind": "0.0.0.0"}})
    assert open_.bind_address == "0.0.0.0"


@pytest.mark.parametrize(
    ("scheduler", "bind"),
    [("slurm", "0.0.0.0"), ("local", "127.0.0.1"), ("podman", "127.0.0.1"), ("docker", "127.0.0.1")],
)
def test_what_runs_on_the_spot_listens_on_loopback(scheduler: str, bind: str) -> None:
    (cluster,) = read_clusters({"hpc": {"scheduler": scheduler}})
    assert cluster.bind_address == bind


@pytest.mark.parametrize(
    ("table", "sockets"),
    [
        ({}, True),
        ({"transport": "ssh", "ssh": SSH}, False),  # a socket there is its owner's alone
        ({"transport": "ssh", "ssh": {**SSH, "tunnel_as_user": True}}, True),
    ],
)
def test_sockets_of_the_local_queue(table: dict[str, object], sockets: bool) -> None:
    (cluster,) = read_clusters({"here": {"scheduler": "local", **table}})
    assert cluster.reaches_sockets is sockets


def test_reverse_needs_no_ssh_and_nodes_have_a_table() -> None:
    (cluster,) = read_clusters({"hpc": {"tunnel": ["reverse"]}})
    assert cluster.tunnel_kind == "reverse"
    table = {"tunnel": "node", "transport": "ssh", "ssh": {**SSH, "node": {"port": 2200, "max_nodes": 5}}}
    (cluster,) = read_clusters({"hpc": table})
    assert cluster.ssh is not None
    assert (cluster.ssh.node.port, cluster.ssh.node.max_nodes) == (2200, 5)


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
        ({"hpc": {"callback_url": "hub:8081"}}, "callback_url 'hub:8081' is not like http://hub.example.org:8081"),
        ({"hpc": {"ports": [80, 90]}}, "ports (80, 90) are not a range within 1024 to 65535"),
        ({"hpc": {"ports": [3000, 2000]}}, "ports (3000, 2000) are not a range"),
        ({"hpc": {"node_networks": ["10.0.0.1/8"]}}, "node_networks: 10.0.0.1/8 has host bits set"),
        ({"hpc": {"bind": "::"}}, "bind: '::' is not one of"),
        ({"hpc": {"tunnel": "login"}}, "kind 'login' goes through the login node; transport = 'ssh' and a table 'ssh'"),
        ({"hpc": {"tunnel": ["direct", "node"]}}, "kind 'node' goes through the login node"),
        ({"hpc": {"tunnel": []}}, "tunnel is an empty list"),
        ({"hpc": {"tunnel": ["direct", "direct"]}}, "tunnel: 'direct' is named twice"),
        ({"hpc": {"tunnel": "login, node"}}, "'login, node' is not the name of a kind; several are a list"),
        ({"hpc": {"tunnel": ["direct", 3]}}, "tunnel[1]: 3 is not of type str"),
        ({"hpc": {"transport": "ssh", "ssh": {**SSH, "node": {"ports": 1}}}}, "did you mean 'port'?"),
        (
            {"hpc": {"tunnel": "node", "transport": "ssh", "ssh": {**SSH, "sudo": True, "username": "hub"}}},
            "'hub' for node must hold {username}",
        ),
    ],
)
def test_every_mistake_is_a_sentence(tables: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_clusters(tables)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_who_asks_for_more_time() -> None:
    assert ClusterSettings("a", scheduler="local").extended_by == "user"
    assert ClusterSettings("a").extended_by == "no"
    assert ClusterSettings("a", extend="service", extend_at_most="24h").extended_by == "service"
    with pytest.raises(ConfigError, match="cluster 'a': extend = 'service' needs extend_at_most"):
        ClusterSettings("a", extend="service")
    with pytest.raises(ConfigError, match="cluster 'a': extend_at_most: '90' is not a time"):
        ClusterSettings("a", extend="user", extend_at_most="90")
    with pytest.raises(ConfigError, match="is not one of"):
        read_clusters({"a": {"extend": "yes"}})
