"""Addresses: whatever a name holds, it stays one segment and comes back as it was."""

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import ConfigError
from batchhub.web.app import make_app
from batchhub.web.links import Links
from batchhub.web.ports import WebSettings

NAMES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40)


@given(NAMES, NAMES)
def test_names_stay_in_their_segment(user: str, name: str) -> None:
    links = Links("/base/")
    for address, before in (
        (links.spawn(user, name), "/base/hub/spawn/"),
        (links.pending(user, name), "/base/hub/spawn-pending/"),
        (links.stop(user, name), "/base/hub/stop/"),
        (links.server(user, name).removesuffix("/"), "/base/user/"),
    ):
        assert urlsplit(address).path == address
        assert [unquote(part) for part in address.removeprefix(before).split("/")] == [user, name]
    assert unquote(links.progress(user, name).split("/")[-2]) == name


def test_the_default_server_has_the_short_addresses() -> None:
    links = Links()
    assert links.server("ann") == "/user/ann/"
    assert links.spawn("ann") == "/hub/spawn/ann"
    assert links.progress("ann") == "/hub/api/users/ann/server/progress"
    assert links.login_then("/a?b=c&d") == "/hub/login?next=%2Fa%3Fb%3Dc%26d"


@pytest.mark.parametrize("base", ["", "jupyter/", "/jupyter", "//x/", "/a b/", "/<x>/"])
def test_a_wrong_base_is_found_at_start(base: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        make_app(None, WebSettings(base_url=base))  # type: ignore[arg-type]
