"""The page of one's SSH keys, over the keys, the clusters that want them, and their login nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from batchhub.app.owning import Owning
from batchhub.auth.keys import StoredKey, authorized_line
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import BadInput, Denied, NotFound, TooMany
from batchhub.core.model import UserName
from batchhub.core.ports import Clock
from batchhub.transport.asking import try_key
from batchhub.transport.shell import check_account
from batchhub.web.ports import KeyTest, KeyView

_HINT = (
    "Is the line in ~/.ssh/authorized_keys of that account, in one piece? sshd also passes over a file that others can write to, or that is in a "
    "directory that they can."
)

_TESTS, _WITHIN = 4, timedelta(minutes=1)
"""Tests of one person."""


def _hint(sources: Sequence[str]) -> str:
    place = (
        f" The line lets the hub in from {', '.join(sources)} alone; if its address is another, tell its administrator."
    )
    return _HINT + (place if sources else "")


@dataclass(frozen=True, slots=True)
class KeyBook:
    """:class:`~batchhub.web.ports.KeyBook` of a site."""

    clusters: Sequence[ClusterSettings]
    owning: Owning
    clock: Clock
    _testing: set[UserName] = field(default_factory=set)
    _tested: dict[UserName, tuple[datetime, ...]] = field(default_factory=dict)

    async def keys(self, user: UserName) -> Sequence[KeyView]:
        """One for each cluster that is reached by keys and where they have an account."""
        kept = await self.owning.keys.of(user)
        return [view for cluster in self.clusters if (view := _view(cluster, user, kept.get(cluster.name))) is not None]

    async def make(self, user: UserName, cluster: str) -> None:
        """A new one, in place of any other."""
        found = self._cluster(cluster)
        account = _account(found, user)
        await self.owning.keys.make(user, cluster)
        # What the former key opened ends with it.
        self.owning.let_go(found, account)

    async def remove(self, user: UserName, cluster: str) -> None:
        """Forget it."""
        found = self._cluster(cluster)
        if not await self.owning.keys.remove(user, cluster):
            raise NotFound("You have no such key (any more).")
        self.owning.let_go(found, found.account_of(user))

    async def test(self, user: UserName, cluster: str) -> KeyTest:
        """Sign in with it."""
        found = self._cluster(cluster)
        key = await self.owning.keys.key(user, cluster)
        private = self.owning.keys.private(user, key) if key is not None else None
        if key is None or private is None or found.ssh is None:
            raise NotFound("There is no key that could be tested: make one.")
        account = _account(found, user)
        self._admit(user)
        self._testing.add(user)
        try:
            works, words = await try_key(found.ssh, account, private)
        finally:
            self._testing.discard(user)
        if works is not None:
            await self.owning.keys.note(user, cluster, key.public, works=works)
        if works:
            self.owning.renew(found, account)
        return KeyTest(works, words if works or works is None else f"{words} {_hint(found.ssh.key_sources)}")

    def _admit(self, user: UserName) -> None:
        """Raises TooMany. A login node may shut out the hub's address, and with it everybody, for a key that is refused again and again."""
        if user in self._testing:
            raise TooMany("A key of yours is being tested; one at a time.")
        now = self.clock()
        recent = {
            who: kept for who, times in self._tested.items() if (kept := tuple(t for t in times if now - t < _WITHIN))
        }
        if len(recent.get(user, ())) >= _TESTS:
            raise TooMany(
                f"You have tested {_TESTS} times within a minute. Please look at what the last test said, and try again in a minute."
            )
        self._tested.clear()
        self._tested.update(recent)
        self._tested[user] = (*recent.get(user, ()), now)

    def _cluster(self, name: str) -> ClusterSettings:
        found = next((one for one in self.clusters if one.name == name), None)
        if found is None:
            raise NotFound("No cluster of this name is reached by keys of people's own.")
        return found


def make_keybook(clusters: Sequence[ClusterSettings], owning: Owning, clock: Clock) -> KeyBook | None:
    """For the clusters that are reached by managed keys, if there are any."""
    found = tuple(one for one in clusters if one.ssh is not None and one.ssh.sign_in == "managed")
    return KeyBook(found, owning, clock) if found else None


def _account(cluster: ClusterSettings, user: UserName) -> str:
    """Theirs there. Raises Denied, also for root; BadInput."""
    return check_account(cluster.account_of(user), cluster.ssh is not None and cluster.ssh.wide_accounts)


def _view(cluster: ClusterSettings, user: UserName, key: StoredKey | None) -> KeyView | None:
    assert cluster.ssh is not None
    try:
        account = _account(cluster, user)
    except (BadInput, Denied):
        return None
    title, host = cluster.title or cluster.name, cluster.ssh.host
    if key is None:
        return KeyView(cluster.name, title, account, host)
    comment = f"batchhub-{user}-{cluster.name}"
    made = authorized_line(key.public, comment, cluster.ssh.key_sources)
    return KeyView(cluster.name, title, account, host, made, key.created, key.works)
