"""People's own SSH connections: what each signs in with on which cluster, and what is missing where the hub cannot act as somebody.

Meets here: the keys and passwords of :mod:`batchhub.auth`, which know hub names and sessions, and the pools of :mod:`batchhub.transport`, which know
accounts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from batchhub.auth.base import Brought
from batchhub.auth.blocking import Blocking
from batchhub.auth.ccache import ForwardedTickets, destroy
from batchhub.auth.keys import ManagedKeys
from batchhub.auth.sessionbound import SessionBound
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import ConfigError, HubError, StoreUnavailable, Unreachable
from batchhub.core.model import UserName
from batchhub.core.personal import Missing, Remedy
from batchhub.core.ports import Clock
from batchhub.transport.asking import HeldConnection
from batchhub.transport.credentials import Key, Own, Password, Proof, Tickets, Unproven
from batchhub.transport.pool import SSHPool

log = logging.getLogger(__name__)

Alive = Callable[[str], Awaitable[bool]]


class Owning:
    """Everybody's own connections of one hub."""

    def __init__(self, clusters: Iterable[ClusterSettings], keys: ManagedKeys, clock: Clock) -> None:
        self._clusters = {one.name: one for one in clusters if one.ssh is not None and one.ssh.personal}
        hours = [one.ssh.pass_through_hours for one in self._clusters.values() if _by(one, "session") and one.ssh]
        self.keys = keys
        life = timedelta(hours=max(hours, default=0.0))
        self.passwords = SessionBound(clock, life, self._forget)
        self.tickets = SessionBound(clock, life, self._let_go, wiped=self._destroy)
        self._blocking = Blocking("own tickets", "Too many people connect right now; please try again in a minute.")
        self._refused: dict[tuple[str, UserName], str] = {}
        """The cache of tickets that a cluster did not take, for whom there may be a password besides."""
        self._wrong: set[tuple[str, UserName]] = set()
        """Where somebody's password was not taken; it may be right elsewhere."""
        self._pools: dict[str, SSHPool] = {}
        self._alive: Alive = _nobody

    def sessions_are(self, alive: Alive) -> None:
        """How to know whether a session, by its id, is good."""
        self._alive = alive

    def own(self, cluster: ClusterSettings) -> Own | None:
        """What people sign in with there; ``None`` where it is nothing of theirs."""
        if cluster.name not in self._clusters:
            return None
        return _OwnSession(self, cluster) if _by(cluster, "session") else _OwnKey(self, cluster)

    def watch(self, cluster: str, pool: SSHPool) -> None:
        """These are the connections to the cluster."""
        if cluster in self._clusters:
            self._pools[cluster] = pool

    # ------------------------------------------------ what a sign-in brought

    def keep(self, user: UserName, session: str, brought: Brought) -> None:
        """Somebody has signed in: what they did it with is good for their clusters, while they are signed in."""
        by_session = self._by_session()
        if by_session and brought.password:
            self._forget_refusals(user)
            self.passwords.keep(user, session, brought.password)
        if by_session and isinstance(brought.held, ForwardedTickets) and (ccache := brought.held.take()):
            self.tickets.keep(user, session, ccache, brought.held.until)
        for cluster in by_session:
            if (pool := self._pools.get(cluster.name)) is not None and (account := _account(cluster, user)):
                pool.renew(account)
                if isinstance(brought.held, HeldConnection):
                    self._adopt(cluster, pool, account, brought.held)
        if brought.held is not None:
            brought.held.close()

    def _by_session(self) -> list[ClusterSettings]:
        return [one for one in self._clusters.values() if _by(one, "session")]

    def _adopt(self, cluster: ClusterSettings, pool: SSHPool, account: str, held: HeldConnection) -> None:
        """If it leads to this cluster's login node, as this very account."""
        ssh = cluster.ssh
        if ssh is not None and held.leads_to(ssh.host, ssh.port, ssh.identity(account)):
            connection = held.take()
            if connection is not None:
                pool.adopt(account, connection)

    def let_go(self, cluster: ClusterSettings, account: str) -> None:
        """End the account's connection: what it signed in with is of no use any more."""
        if (pool := self._pools.get(cluster.name)) is not None:
            pool.let_go(account)

    def renew(self, cluster: ClusterSettings, account: str) -> None:
        """The account has something new to sign in with."""
        if (pool := self._pools.get(cluster.name)) is not None:
            pool.renew(account)

    def _forget(self, user: UserName) -> None:
        self._forget_refusals(user)
        self._let_go(user)

    def _forget_refusals(self, user: UserName) -> None:
        self._wrong = {(cluster, whose) for cluster, whose in self._wrong if whose != user}

    def _let_go(self, user: UserName) -> None:
        for name, pool in self._pools.items():
            cluster = self._clusters[name]
            if _by(cluster, "session") and (account := _account(cluster, user)):
                pool.let_go(account)

    def sessions_ended(self, ids: Sequence[str]) -> None:
        """These are over: what they brought goes."""
        self.passwords.sessions_ended(ids)
        self.tickets.sessions_ended(ids)

    async def proof(self, cluster: ClusterSettings, user: UserName) -> Password | Tickets | None:
        """Their tickets, if they are signed in with some and the cluster takes them; else their password. Raises StoreUnavailable."""
        assert cluster.ssh is not None
        ccache = await self.tickets.of(user, self._alive, timedelta(hours=cluster.ssh.pass_through_hours))
        password = await self.password(cluster, user)
        if ccache is not None and (password is None or self._refused.get((cluster.name, user)) != ccache):
            return Tickets(ccache)
        return Password(password) if password is not None else None

    async def get_ticket(self, cluster: ClusterSettings, user: UserName, tickets: Tickets) -> None:
        """Have one for the cluster's login node, so that what is wrong is known in words. Raises Unproven, Unreachable."""
        assert cluster.ssh is not None
        host = cluster.ssh.gss_host or cluster.ssh.host
        try:
            await self._blocking.ask(lambda: _gss().reach(tickets.ccache, host), cluster.ssh.connect_timeout)
        except TimeoutError as error:
            raise Unreachable(
                f"Kerberos gave no ticket for {host} within {cluster.ssh.connect_timeout:g} s."
            ) from error
        except _gss().Expired as error:
            self.tickets.drop(user)
            raise Unproven(_EXPIRED.format(cluster=_title(cluster))) from error

    def _destroy(self, ccache: str) -> None:
        destroy(ccache)
        self._refused = {whose: other for whose, other in self._refused.items() if other != ccache}

    def refused_tickets(self, cluster: ClusterSettings, user: UserName, tickets: Tickets) -> None:
        """The cluster did not take them; others may."""
        self._refused[(cluster.name, user)] = tickets.ccache

    def refused_password(self, cluster: ClusterSettings, user: UserName, password: Password) -> None:
        """It is not tried there again: each time counts for whoever locks accounts."""
        account, pool = _account(cluster, user), self._pools.get(cluster.name)
        brought = pool is not None and pool.is_up(account)
        if brought or not self.passwords.holds(user, password.text):
            return  # they have signed in again meanwhile
        self._wrong.add((cluster.name, user))
        self.let_go(cluster, account)
        if all((one.name, user) in self._wrong for one in self._by_session() if _account(one, user)):
            self.passwords.drop(user)

    async def password(self, cluster: ClusterSettings, user: UserName) -> str | None:
        """Theirs, if they are signed in with one that the cluster has not refused. Raises StoreUnavailable."""
        assert cluster.ssh is not None
        if (cluster.name, user) in self._wrong:
            return None
        return await self.passwords.of(user, self._alive, timedelta(hours=cluster.ssh.pass_through_hours))

    # ------------------------------------------------ what is missing

    async def missing(self, cluster: str, user: UserName) -> Missing | None:
        """What they have to do before the hub can act as them there; ``None``: nothing. Raises StoreUnavailable."""
        found = self._clusters.get(cluster)
        if found is None:
            return None
        if not _by(found, "session"):
            return await self._missing_key(found, user)
        account, pool = _account(found, user), self._pools.get(cluster)
        if account and pool is not None and pool.is_up(account):
            return None
        if await self.proof(found, user) is not None:
            return None
        return Missing(_SIGN_IN.format(cluster=_title(found)), Remedy.SIGN_IN)

    async def _missing_key(self, cluster: ClusterSettings, user: UserName) -> Missing | None:
        key = await self.keys.key(user, cluster.name)
        if key is None:
            return Missing(_NO_KEY.format(cluster=_title(cluster)), Remedy.KEYS)
        if key.works is None:
            return Missing(_UNTRIED.format(cluster=_title(cluster)), Remedy.KEYS)
        return None

    async def note_key(self, cluster: ClusterSettings, user: UserName, key: Key, *, works: bool) -> None:
        """What the cluster said of it, so that its owner is told."""
        try:
            await self.keys.note(user, cluster.name, key.public, works=works)
        except HubError as error:
            word = "takes" if works else "does not take"
            log.warning("that %s %s the key of %s could not be noted: %s", cluster.name, word, user, error)

    async def keep_house(self) -> None:
        """Let go of what is too old, and of what sessions brought that have ended by themselves or elsewhere; until cancelled."""
        while True:
            await asyncio.sleep(60)
            try:
                await self.passwords.sweep(self._alive)
                await self.tickets.sweep(self._alive)
                await self.close_old()
            except HubError as error:
                log.info("whether people are still signed in could not be asked: %s", error)

    async def close_old(self) -> None:
        """End the connections of people whose secrets are older than a cluster allows, though others still may use them. Raises StoreUnavailable."""
        hours = {cluster.name: cluster.ssh.pass_through_hours for cluster in self._by_session() if cluster.ssh}
        for cluster in self._by_session():
            if hours[cluster.name] < max(hours.values()):
                for user in {*self.passwords.people(), *self.tickets.people()}:
                    if await self.proof(cluster, user) is None:
                        self.let_go(cluster, _account(cluster, user))

    def close(self) -> None:
        """Let go of all passwords and tickets."""
        self.passwords.close()
        self.tickets.close()
        self._blocking.close()


@dataclass(frozen=True, slots=True)
class _OwnSession:
    """:class:`~batchhub.transport.credentials.Own` by what the sign-in brought."""

    owning: Owning
    cluster: ClusterSettings

    async def proof(self, account: str) -> Proof:
        """Of whose account it is."""
        user = _owner(self.cluster, account)
        try:
            proof = await self.owning.proof(self.cluster, user)
        except StoreUnavailable as error:
            raise Unproven(str(error)) from error
        if proof is None:
            raise Unproven(_SIGN_IN.format(cluster=_title(self.cluster)))
        if isinstance(proof, Tickets):
            await self.owning.get_ticket(self.cluster, user, proof)
        return proof

    async def accepted(self, account: str, proof: Proof) -> None:
        """Nothing to do."""

    async def refused(self, account: str, proof: Proof) -> None:
        """What was refused is not tried there again."""
        user = _owner(self.cluster, account)
        if isinstance(proof, Tickets):
            log.warning("%s refused the Kerberos ticket of %s", self.cluster.name, user)
            self.owning.refused_tickets(self.cluster, user, proof)
            return
        log.warning("%s refused the password that %s signed in with", self.cluster.name, user)
        assert isinstance(proof, Password)
        self.owning.refused_password(self.cluster, user, proof)


@dataclass(frozen=True, slots=True)
class _OwnKey:
    """:class:`~batchhub.transport.credentials.Own` by a managed key."""

    owning: Owning
    cluster: ClusterSettings

    async def proof(self, account: str) -> Proof:
        """The key of whose account it is."""
        user = _owner(self.cluster, account)
        try:
            key = await self.owning.keys.key(user, self.cluster.name)
            private = self.owning.keys.private(user, key) if key is not None else None
        except (StoreUnavailable, ConfigError) as error:
            raise Unproven(str(error)) from error
        if key is None or private is None:
            raise Unproven(_NO_KEY.format(cluster=_title(self.cluster)))
        return Key(private, key.public, known=key.works is not None)

    async def accepted(self, account: str, proof: Proof) -> None:
        """One that was refused for a while, because the cluster could not look up its owner or had no home directories, works again."""
        if isinstance(proof, Key) and not proof.known:
            await self.owning.note_key(self.cluster, _owner(self.cluster, account), proof, works=True)

    async def refused(self, account: str, proof: Proof) -> None:
        """So that its owner is told."""
        assert isinstance(proof, Key)
        await self.owning.note_key(self.cluster, _owner(self.cluster, account), proof, works=False)


_SIGN_IN = (
    "{cluster} is reached with what you sign in here with, your password or your Kerberos tickets, and the hub does not have it (any more). "
    "Sign out and in again; what runs goes on meanwhile."
)
_EXPIRED = "Your Kerberos tickets have expired, so {cluster} cannot be reached as you. Sign out and in again; what runs goes on meanwhile."
_NO_KEY = "{cluster} is reached with an SSH key of your own, and you have none yet. Make one on the page of your keys."
_UNTRIED = "{cluster} has not taken your SSH key yet, or not the last time. Add it there, and test it on the page of your keys."


def _by(cluster: ClusterSettings, sign_in: str) -> bool:
    return cluster.ssh is not None and cluster.ssh.sign_in == sign_in


def _title(cluster: ClusterSettings) -> str:
    return cluster.title or cluster.name


def _owner(cluster: ClusterSettings, account: str) -> UserName:
    user = cluster.owner_of(account)
    if user is None:
        raise Unproven(f"The account {account} on {_title(cluster)} is nobody's here.")
    return UserName(user)


def _account(cluster: ClusterSettings, user: UserName) -> str:
    """Theirs there; empty for whoever has none."""
    try:
        return cluster.account_of(user)
    except HubError:
        return ""


def _gss() -> Any:
    """Loaded when somebody has tickets; then it is there."""
    return import_module("batchhub.auth.gss")


async def _nobody(session: str) -> bool:
    del session
    return False
