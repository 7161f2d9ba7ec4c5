from typing import Any

import pytest

from batchhub.core.errors import ConfigError
from batchhub.transport.settings import SSHSettings

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
    ],
)
def test_bad_settings(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SSHSettings(**{"host": "login1", "known_hosts": KNOWN, **changed})


def test_the_defaults_are_pinned() -> None:
    settings = SSHSettings("login1", known_hosts=KNOWN)
    assert (settings.port, settings.insecure, settings.sudo, settings.client_keys) == (22, False, False, ())
    assert (settings.keepalive_interval, settings.keepalive_count, settings.connect_timeout) == (15.0, 3, 15.0)
    assert (settings.open_timeout, settings.idle_seconds) == (10.0, 300.0)
    assert (settings.max_sessions, settings.max_handshakes) == (8, 4)
