"""What is kept of people: by SQLite and PostgreSQL."""

import pytest
from sqlalchemy import insert

from batchhub.core.errors import StoreUnavailable
from batchhub.core.model import Person
from batchhub.store import Store
from batchhub.store.models import KeyRow
from batchhub.store.persons import Persons
from batchhub.store.values import SealedText


@pytest.fixture
def persons(store: Store) -> Persons:
    return Persons(store)


async def test_a_sign_in_is_noted(store, persons, clock) -> None:
    made = await persons.signed_in("ann", way="oidc", admin=True, groups=["hpc", "staff"], sealed="x1")
    assert (made.name, made.admin, made.groups, made.way) == ("ann", True, ("hpc", "staff"), "oidc")
    assert (made.created, made.last_login) == (clock.now, clock.now)
    assert await store.user("ann") == made
    assert await persons.person("ann") == Person("ann", True, ("hpc", "staff"), "oidc")
    assert await persons.sealed_state("ann") == "x1"
    later = clock.later(days=1)
    again = await persons.signed_in("ann", way="oidc", groups=(), sealed=None)
    assert (again.admin, again.groups, again.last_login) == (True, (), later), "None leaves the right"
    assert await persons.sealed_state("ann") is None, "what was kept of the former sign-in is gone"
    assert (await persons.signed_in("ann", way="oidc", admin=False, sealed=None)).admin is False


async def test_groups_are_those_of_the_last_sign_in(persons) -> None:
    await persons.signed_in("ann", way="oidc", groups=["hpc"])
    assert (await persons.signed_in("ann", way="pam")).groups == ()


async def test_who_was_only_named_has_nothing(store, persons) -> None:
    await store.get_or_create_user("ann")
    assert await persons.person("ann") == Person("ann", False, (), "")
    assert await persons.sealed_state("ann") is None
    assert await persons.person("eve") is None
    assert await persons.sealed_state("eve") is None


async def test_a_refresh_changes_what_it_knows(persons, clock) -> None:
    first = await persons.signed_in("ann", way="oidc", admin=True, groups=["hpc"], sealed="x1")
    clock.later(hours=1)
    asked = {"way": "oidc", "login": first.last_login}
    assert await persons.refreshed("ann", **asked) == first, "nothing was said, and it is no sign-in"
    then = await persons.refreshed("ann", **asked, admin=False, groups=[], sealed="x2")
    assert then is not None
    assert (then.admin, then.groups, then.last_login) == (False, (), first.last_login)
    assert await persons.sealed_state("ann") == "x2"
    assert await persons.refreshed("ann", **{**asked, "way": "pam"}, admin=True) is None, "in another way meanwhile"
    assert await persons.refreshed("eve", **asked, admin=True) is None
    assert await persons.person("ann") == Person("ann", False, (), "oidc")
    assert await persons.person("eve") is None
    again = await persons.signed_in("ann", way="oidc", sealed="x3")
    assert await persons.refreshed("ann", **asked, sealed="x4") is None, "they signed in again meanwhile"
    assert await persons.sealed_state("ann") == "x3"
    assert await persons.refreshed("ann", way="oidc", login=again.last_login) == again


async def _everything(persons: Persons, limit: int) -> list[SealedText]:
    found: list[SealedText] = []
    while page := await persons.sealed(found[-1] if found else None, limit):
        assert len(page) <= limit
        found += page
    return found


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_what_is_sealed_is_listed_and_replaced(store, persons, clock, limit) -> None:
    assert await persons.sealed() == ()
    for name in ("cat", "ann", "bob"):
        await persons.signed_in(name, way="oidc", sealed=None if name == "bob" else f"of {name}")
    keys = [
        {"user_name": user, "cluster": name, "sealed": f"{user} {name}"} for user in ("ann", "bob") for name in "ab"
    ]
    rows = [{**key, "created": clock.now, "public": "", "works": None} for key in keys]
    await store.write(lambda session: session.execute(insert(KeyRow), rows) and None)
    found = await _everything(persons, limit)
    assert [one.text for one in found] == ["of ann", "of cat", "ann a", "ann b", "bob a", "bob b"]
    assert "of ann" not in repr(found)
    await persons.refreshed("cat", way="oidc", login=clock.now, sealed="newer")
    assert await persons.reseal((one, one.text.upper()) for one in found) == 5
    assert [one.text for one in await persons.sealed()] == ["OF ANN", "newer", "ANN A", "ANN B", "BOB A", "BOB B"]
    assert await persons.reseal([]) == 0


async def test_a_closed_database_says_so(store, persons) -> None:
    await store.close()
    for work in (persons.person("ann"), persons.sealed(), persons.refreshed("ann", way="x", login=None)):
        with pytest.raises(StoreUnavailable):
            await work
