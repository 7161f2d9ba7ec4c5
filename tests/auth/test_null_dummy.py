"""Nobody, and anybody with one password."""

from typing import Any

import pytest

from batchhub.app.site import load_authenticators
from batchhub.auth.base import Identity, Place
from batchhub.auth.dummy import DummyAuthenticator
from batchhub.auth.null import NullAuthenticator
from batchhub.auth.rules import sign_in
from batchhub.core.errors import ConfigError


def place(address: str) -> Place:
    return Place(address, bytes(32), lambda: None)


async def test_nobody_whatever_the_lists_say() -> None:
    made = NullAuthenticator(allow_all=True, admin_users={"ann"})
    assert await sign_in(made, None, {"username": "ann", "password": "x"}) is None
    assert made.check_allowed("ann") is False


async def test_any_name_with_the_one_password() -> None:
    made = DummyAuthenticator(password="rig\u00e9ht", allow_all=True)
    assert await sign_in(made, None, {"username": "Zoe", "password": "rig\u00e9ht"}) == Identity("zoe")
    for wrong in ("", "right", "rig\u00e9ht "):
        assert await sign_in(made, None, {"username": "zoe", "password": wrong}) is None
    assert await sign_in(DummyAuthenticator(password="p"), None, {"username": "zoe", "password": "p"}) is None


async def test_no_password_is_no_password() -> None:
    made = DummyAuthenticator(allow_all=True)
    assert await sign_in(made, None, {"username": "zoe", "password": ""}) is None
    with pytest.raises(ConfigError, match="password must be set"):
        made.settle(place("127.0.0.1"))


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_on_loopback_with_a_warning(address: str, caplog: pytest.LogCaptureFixture) -> None:
    DummyAuthenticator(password="p").settle(place(address))
    assert "anybody" in caplog.text


@pytest.mark.parametrize("address", ["0.0.0.0", "", "::", "10.0.0.1", "hub.example.org"])
def test_elsewhere_only_when_said_so(address: str) -> None:
    with pytest.raises(ConfigError, match="let_anybody_on_the_network_be_anybody"):
        DummyAuthenticator(password="p").settle(place(address))
    DummyAuthenticator(password="p", let_anybody_on_the_network_be_anybody=True).settle(place(address))


@pytest.mark.parametrize("front", [{"front_ends": ("127.0.0.1",)}, {"secure": True}])
def test_loopback_behind_a_front_end_is_the_network(front: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="behind a front end"):
        DummyAuthenticator(password="p").settle(Place("127.0.0.1", bytes(32), lambda: None, **front))


def test_found_by_name() -> None:
    found = load_authenticators(["null", "dummy", "header"])
    assert list(found) == ["null", "dummy", "header"]
