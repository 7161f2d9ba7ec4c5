"""What a sign-in leaves behind: groups and the way always, the auth_state sealed and only where the site wants it."""

from batchhub.auth.base import Authenticator
from tests.web.fakes import VAULT, Site, open_site

SECRET = "the-token-of-ann"


class Rich(Authenticator):
    """Says more than the name."""

    async def authenticate(self, handler, data):
        return {
            "name": data["username"],
            "groups": ["hpc", "hpc", "", "a\nb", "x" * 256],
            "auth_state": {"token": SECRET},
        }


async def kept(**traits) -> Site:
    site = open_site(more={"plain": Rich(allow_all=True, **traits)})
    await site.signed_in("ann")
    site.server.stop()
    return site


async def test_groups_and_way_are_kept_and_auth_state_is_not() -> None:
    known = (await kept()).store.people["ann"]
    assert (known.groups, known.way, known.sealed) == (("hpc",), "plain", None)


async def test_auth_state_is_kept_sealed_where_the_site_wants_it(caplog) -> None:
    caplog.set_level(0)
    known = (await kept(enable_auth_state=True)).store.people["ann"]
    assert SECRET not in known.sealed
    assert VAULT.open("auth_state", "ann", known.sealed) == {"token": SECRET}
    assert SECRET not in caplog.text
