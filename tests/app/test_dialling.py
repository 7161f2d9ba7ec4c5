"""Where jobs dial in, as hub and proxy read it from the configuration."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchhub.app.dialling import plan_dialling
from batchhub.app.jobs import SiteJobBuilder
from batchhub.app.site import Site
from batchhub.app.state import StateDirectory
from batchhub.config import traits
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import ConfigError, Unreachable
from batchhub.core.forms import Profile
from batchhub.core.model import Endpoint, Server, ServerId, UserName
from batchhub.job.applications import BUILT_IN
from batchhub.job.offers import key_pair, offer_key
from batchhub.proxy.client import ProxyClient
from batchhub.proxy.server import Proxy
from batchhub.transport.reverse import ReverseGate
from batchhub.tunnel.reverse import ReverseTunnel
from tests.proxy.harness import TOKEN, settings

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY = bytes(32)


def site(*clusters: ClusterSettings) -> Site:
    return Site(clusters, (Profile("lab", clusters[0].name),), BUILT_IN, ())


def server(cluster: str, generation: int = 1) -> Server:
    who = UserName("alice")
    return Server(ServerId("abcdefghij22"), who, "", cluster, "lab", "alice", NOW, NOW, generation=generation)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.open(str(tmp_path / "state"))


def proxy(**values: object) -> traits.Proxy:
    return traits.Proxy(**{"reverse_port": 8022, "reverse_host": "hub.example.org", **values})


def test_nobody_listens_where_no_cluster_needs_it(state: StateDirectory) -> None:
    assert plan_dialling(proxy(reverse_port=0), state, site(ClusterSettings("a", tunnel="direct"))) is None
    assert not (state.path / "reverse.key").exists()


def test_hub_and_proxy_agree(state: StateDirectory) -> None:
    clusters = site(
        ClusterSettings("a", tunnel="reverse"),
        ClusterSettings(
            "b", tunnel=("direct", "reverse"), reverse_host="10.9.8.7", reverse_port=443, reverse_ssh="/x/ssh"
        ),
        ClusterSettings("c", tunnel="direct"),
    )
    plans = [plan_dialling(proxy(), state, clusters) for _ in range(2)]
    assert plans[0] is not None
    assert plans[1] is not None
    assert plans[0].key.public == plans[1].key.public
    assert plans[0].listen == ("0.0.0.0", 8022)
    assert plans[0].directory == state.path / "offers"
    assert (state.path / "reverse.key").stat().st_mode & 0o777 == 0o600
    builder = SiteJobBuilder(clusters, KEY, plans[0])
    found = {
        name: json.loads(builder.build(replace(server(name)), "/h").files["launch.json"])["dial_in"] for name in "abc"
    }
    assert found == {
        "a": {
            "host": "hub.example.org",
            "port": 8022,
            "offer": "abcdefghij22",
            "host_key": plans[1].key.public,
            "ssh": "ssh",
            "needed": True,
        },
        "b": {
            "host": "10.9.8.7",
            "port": 443,
            "offer": "abcdefghij22",
            "host_key": plans[1].key.public,
            "ssh": "/x/ssh",
            "needed": False,
        },
        "c": None,
    }


def test_each_start_has_its_own_key_in_its_secrets_alone(state: StateDirectory) -> None:
    clusters = site(ClusterSettings("a", tunnel="reverse"), ClusterSettings("c", tunnel="direct"))
    builder = SiteJobBuilder(clusters, KEY, plan_dialling(proxy(), state, clusters))
    first, second = server("a"), server("a", 2)
    assert builder.dials_in
    assert builder.offer_key(first).startswith("ssh-ed25519 ")
    assert len({builder.offer_key(first), builder.offer_key(second)}) == 2
    files = builder.build(first, "/h").files
    private = json.loads(files["secrets.json"])["offer_key"]
    inner = private.split("\n")[1:-2]
    assert [name for name, data in files.items() if any(line.encode() in data for line in inner)] == ["secrets.json"]
    assert builder.offer_key(server("c")) == json.loads(builder.secrets(server("c")))["offer_key"] == ""
    started = replace(first, host="n1", endpoint=Endpoint("n1", 40000), nonce="a" * 32)
    assert (builder.route(started).endpoint.offer, builder.route(started).kind) == ("abcdefghij22", "reverse")


def test_where_no_cluster_needs_it_nothing_is_announced() -> None:
    builder = SiteJobBuilder(site(ClusterSettings("c", tunnel="direct")), KEY)
    assert (builder.dials_in, builder.offer_key(server("c"))) == (False, "")


@pytest.mark.parametrize(
    ("values", "cluster", "words"),
    [
        ({"reverse_port": 0}, {}, r"cluster 'a'.*set c\.Proxy\.reverse_port \(it is 0\)"),
        ({"reverse_host": "a b"}, {}, r"cluster 'a', tunnel 'reverse': 'a b' is no name or address"),
        ({}, {"reverse_host": "-oProxyCommand=x"}, r"is no name or address"),
        ({}, {"reverse_port": 70000}, r"70000 is no port"),
        ({}, {"reverse_ssh": "ssh -v"}, r"'ssh -v' is neither the name nor the absolute path"),
    ],
)
def test_what_cannot_be_is_told_at_start(
    state: StateDirectory, values: dict[str, object], cluster: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_dialling(proxy(**values), state, site(ClusterSettings("a", tunnel="reverse", **cluster)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["localhost", "localhost.localdomain", "hub.example.org"])
def test_the_machines_own_name(state: StateDirectory, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: name)
    clusters = site(ClusterSettings("a", tunnel="reverse"))
    if name.startswith("localhost"):
        with pytest.raises(ConfigError, match=r"set c\.Proxy\.reverse_host"):
            plan_dialling(proxy(reverse_host=""), state, clusters)
    else:
        plan = plan_dialling(proxy(reverse_host=""), state, clusters)
        assert plan is not None
        assert plan.addresses["a"] == (name, 8022)


async def test_the_hub_announces_and_the_proxy_remembers(tmp_path: Path) -> None:
    """Through the real control API: known to the gate at once, after a restart too, and gone when it is taken back."""

    async def nobody(token: str, path: str) -> None:
        return None

    first, second = offer_key(KEY, "abcdefghij22", 1).public, offer_key(KEY, "abcdefghij22", 2).public
    known: list[dict[str, str]] = []
    for start in range(2):
        gate = ReverseGate(key_pair(KEY).private, tmp_path / "o", lambda: NOW)
        proxy = Proxy(
            settings(tmp_path, dial_in=("127.0.0.1", 0)),
            tunnels={("a", "reverse"): ReverseTunnel(gate)},
            token_checker=nobody,
            clock=lambda: NOW,
            offers=gate,
        )
        await proxy.start()
        client = ProxyClient(f"http://127.0.0.1:{proxy.api_port}", TOKEN)
        try:
            known.append(dict(await client.offers()))
            assert list(gate._keys) == list(known[-1])
            if start == 0:
                await client.offer("abcdefghij22", first)
                await client.offer("abcdefghij22", second)
                await client.offer("zzzzzzzzzzzz", first)
                await client.withdraw_offer("zzzzzzzzzzzz")
                await client.withdraw_offer("zzzzzzzzzzzz")
                assert list(gate._keys) == ["abcdefghij22"]
                with pytest.raises(Unreachable):
                    await client.offer("abcdefghij22", "no key")
        finally:
            await client.close()
            await proxy.close()
            await gate.close()
    assert known == [{}, {"abcdefghij22": second}]
