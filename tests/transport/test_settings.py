from typing import Any

import pytest

from batchhub.core.errors import ConfigError
from batchhub.transport.settings import NodeSettings, SSHSettings

KNOWN = "login1 ssh-ed25519 AAAA"


def test_identities() -> None:
    plain = SSHSettings("login1", known_hosts=KNOWN)
    assert (plain.identity(None), plain.identity("alice")) == ("", "alice")
    domain = SSHSettings("login1", known_hosts=KNOWN, username="{username}@hpc", service_username="hub")
    assert (domain.identity(None), domain.identity("alice")) == ("hub", "alice@hpc")
    sudo = SSHSettings("login1", known_hosts=KNOWN, service_username="hub", sudo=True)
    assert (sudo.identity(None), sudo.identity("alice")) == ("hub", "hub")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"known_hosts": ""}, "known_hosts is needed"),
        ({"host": ""}, "host name"),
        ({"host": "-oProxyCommand=x"}, "host name"),
        ({"port": 0}, "not a port"),
        ({"username": "shared"}, "must hold"),
        ({"max_sessions": 0}, "at least 1"),
        ({"keepalive_interval": -1.0}, "keepalive_interval of login1 is 0 "),
        ({"keepalive_count": 0}, "keepalive_count at least 1"),
        ({"connect_timeout": 0.0}, "connect_timeout of login1 is more than 0 s"),
        ({"tunnel_as_user": True, "sudo": True}, "with sudo there are none"),
        ({"sign_in": "session", "sudo": True}, "with sudo nobody has a connection of their own"),
        ({"sign_in": "managed", "tunnel_as_user": True}, "tunnel_as_user cannot be"),
        ({"sign_in": "session", "client_keys": ("/k/{username}",)}, "hold no {username}"),
        ({"sign_in": "session", "pass_through_hours": 0.0}, "up to 336"),
        ({"sign_in": "session", "known_hosts": "", "insecure": True}, "passwords would go to whoever answers"),
        ({"sign_in": "session", "insecure": True}, "passwords would go to whoever answers"),
        ({"sign_in": "keys", "key_sources": ("192.0.2.0/24",)}, "key_sources of login1 means nothing"),
        ({"sign_in": "managed", "key_sources": ('192.0.2.0/24" x',)}, "key_sources: "),
        (
            {"sign_in": "managed", "certificate_sources": ("192.0.2.0/24",)},
            "certificate_sources of login1 means nothing",
        ),
    ],
)
def test_bad_settings(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SSHSettings(**{"host": "login1", "known_hosts": KNOWN, **changed})


def test_the_defaults_are_pinned() -> None:
    settings = SSHSettings("login1", known_hosts=KNOWN)
    assert (settings.port, settings.insecure, settings.sudo, settings.client_keys) == (22, False, False, ())
    assert (settings.keepalive_interval, settings.keepalive_count, settings.connect_timeout) == (5.0, 2, 15.0)
    assert (settings.open_timeout, settings.idle_seconds) == (10.0, 300.0)
    assert (settings.max_sessions, settings.max_handshakes) == (8, 4)
    assert not settings.tunnel_as_user
    assert (settings.sign_in, settings.pass_through_hours, settings.key_sources) == ("keys", 12.0, ())
    node = settings.node
    assert (node.port, node.insecure, node.max_nodes, node.max_handshakes) == (22, False, 2000, 32)
    assert (node.keepalive_interval, node.keepalive_count, node.connect_timeout, node.idle_seconds) == (
        5.0,
        2,
        10.0,
        300.0,
    )


def test_a_node_is_reached_as_the_login_node_unless_said() -> None:
    login = SSHSettings(
        "login1", known_hosts=KNOWN, client_keys=("/k",), username="{username}@hpc", service_username="hub"
    )
    node = login.for_node("c1")
    assert (node.host, node.port, node.known_hosts, node.client_keys) == ("c1", 22, KNOWN, ("/k",))
    assert (node.identity("alice"), node.insecure, node.connect_timeout) == ("alice@hpc", False, 10.0)


def test_what_a_node_may_have_of_its_own() -> None:
    own = NodeSettings(
        2200, "c* ssh-ed25519 BBBB", client_keys=("/n/{username}",), certificates=("/c",), username="u-{username}"
    )
    node = SSHSettings("login1", insecure=True, sudo=True, service_username="hub", node=own).for_node("c1")
    assert (node.port, node.known_hosts, node.insecure) == (2200, "c* ssh-ed25519 BBBB", False)
    assert (node.client_keys, node.certificates, node.identity("alice")) == (("/n/{username}",), ("/c",), "u-alice")
    trusting = SSHSettings("login1", known_hosts=KNOWN, node=NodeSettings(insecure=True))
    assert (trusting.insecure, trusting.for_node("c1").insecure, trusting.for_node("c1").known_hosts) == (
        False,
        True,
        "",
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"port": 70000}, "not a port of the nodes' sshd"),
        ({"known_hosts": KNOWN, "insecure": True}, "say one of them"),
        ({"username": "shared"}, "must hold"),
        ({"max_nodes": 0}, "at least 1"),
        ({"keepalive_count": 0}, "keepalive_count at least 1"),
    ],
)
def test_bad_settings_of_nodes(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NodeSettings(**changed)


def test_an_identity_that_only_sudo_can_do_without_is_no_good_on_nodes() -> None:
    with pytest.raises(ConfigError, match="user name 'hub' for c1 must hold"):
        SSHSettings("login1", known_hosts=KNOWN, sudo=True, username="hub").for_node("c1")
