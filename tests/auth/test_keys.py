"""Keys that the hub makes for people: sealed for their owner, and what the line for authorized_keys allows."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import asyncssh
import pytest
from cryptography.fernet import Fernet

from batchhub.auth.keys import ManagedKeys, authorized_line, new_key
from batchhub.auth.vault import Vault
from batchhub.core.model import UserName

ANN, EVE = UserName("ann"), UserName("eve")


@dataclass(frozen=True)
class Row:
    cluster: str
    public: str
    sealed: str
    created: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    works: datetime | None = None


class Memory:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    async def key(self, user, cluster):
        return self.rows.get((user, cluster))

    async def keys_of(self, user):
        return [row for (owner, _), row in self.rows.items() if owner == user]

    async def put_key(self, user, cluster, *, public, sealed):
        self.rows[user, cluster] = Row(cluster, public, sealed)
        return self.rows[user, cluster]

    async def key_worked(self, user, cluster, public, *, works):
        row = self.rows.get((user, cluster))
        if row is None or row.public != public:
            return
        self.rows[user, cluster] = replace(row, works=row.created if works else None)

    async def delete_key(self, user, cluster):
        return self.rows.pop((user, cluster), None) is not None


@pytest.fixture
def store() -> Memory:
    return Memory()


def vault() -> Vault:
    return Vault([Fernet.generate_key()])


async def test_a_key_is_its_owners_and_its_clusters(store: Memory) -> None:
    one = vault()
    keys = ManagedKeys(store, lambda: one)
    made = await keys.make(ANN, "hpc")
    private = keys.private(ANN, made)
    assert private is not None
    assert asyncssh.import_private_key(private).export_public_key().decode().split()[:2] == made.public.split()
    assert "PRIVATE" not in made.sealed
    # A row that somebody moved to another person or cluster in the database is nobody's.
    assert keys.private(EVE, made) is None
    assert keys.private(ANN, replace(store.rows[ANN, "hpc"], cluster="other")) is None
    other = await keys.make(ANN, "hpc")
    assert other.public != made.public
    assert await keys.of(ANN) == {"hpc": other}
    await keys.note(ANN, "hpc", made.public, works=True)
    assert (await keys.key(ANN, "hpc")).works is None, "what is said of the one before"
    await keys.note(ANN, "hpc", other.public, works=True)
    assert (await keys.key(ANN, "hpc")).works is not None
    assert await keys.remove(ANN, "hpc")
    assert not await keys.remove(ANN, "hpc")


async def test_the_database_alone_gives_nothing_away(store: Memory) -> None:
    mine = vault()
    made = await ManagedKeys(store, lambda: mine).make(ANN, "hpc")
    thief = vault()
    assert ManagedKeys(store, lambda: thief).private(ANN, made) is None


def test_the_line() -> None:
    _, public = new_key()
    assert authorized_line(public, "batchhub-ann-hpc", ()) == f"restrict {public} batchhub-ann-hpc"
    line = authorized_line(public, 'a"b\nc', ("192.0.2.0/24", "2001:db8::/32"))
    assert line == f'restrict,from="192.0.2.0/24,2001:db8::/32" {public} a-b-c'
    assert asyncssh.import_authorized_keys(line) is not None
