"""People's own SSH connections against a real sshd: by the password of their sign-in while they are signed in, and by a key that the hub made."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet

from batchhub.app.doors import SiteDoors
from batchhub.app.hub import Hub as WholeHub
from batchhub.app.keybook import KeyBook, make_keybook
from batchhub.app.owning import Owning
from batchhub.app.plan import check_pass_through, plan_hub
from batchhub.app.reach import make_transport
from batchhub.app.site import read_site
from batchhub.app.state import StateDirectory
from batchhub.auth.base import Asked, Brought, Identity, Place
from batchhub.auth.dictionary import DictionaryAuthenticator
from batchhub.auth.keys import ManagedKeys
from batchhub.auth.rules import sign_in
from batchhub.auth.ssh import SSHAuthenticator
from batchhub.auth.vault import Vault
from batchhub.config import traits
from batchhub.config.clusters import ClusterSettings
from batchhub.core.errors import ConfigError, Denied, NotFound, TooMany, Unreachable
from batchhub.core.model import UserName
from batchhub.core.personal import Remedy
from batchhub.core.ports import Command, Transport
from batchhub.transport.asking import Answering
from batchhub.transport.credentials import Password
from tests.auth.test_keys import Memory
from tests.codes import NAME, PASSWORD, Codes, account, login_node
from tests.sshd import Sshd
from tests.transport.conftest import until
from tests.web.fakes import Clock

ANN = UserName("ann")
ID = Command(("id", "-un"))


class Hub:
    """What a hub would put together for one cluster, on which ann has the account with the codes."""

    def __init__(self, server: Sshd, **ssh: Any) -> None:
        settings = {"host": server.host, "port": server.port, "known_hosts": server.known_hosts, **ssh}
        clusters = {"hpc": {"title": "The HPC", "transport": "ssh", "ssh": settings, "accounts": {"ann": NAME}}}
        self.site = read_site(traits.BatchHub(clusters=clusters))
        self.cluster: ClusterSettings = self.site.clusters[0]
        self.clock = Clock()
        self.memory = Memory()
        self.vault = Vault([Fernet.generate_key()])
        self.good = {"s1"}
        self.owning = Owning(self.site.clusters, ManagedKeys(self.memory, lambda: self.vault), self.clock)
        self.owning.sessions_are(self.alive)
        self.transport: Transport = make_transport(self.cluster, self.clock, owning=self.owning)
        self.way = SSHAuthenticator(cluster="hpc", allow_all=True, username_map={NAME: "ann"})
        self.way.settle(Place("127.0.0.1", b"", self.clock, doors=SiteDoors(self.site)))

    async def alive(self, session: str) -> bool:
        return session in self.good

    @property
    def book(self) -> KeyBook:
        found = make_keybook(self.site.clusters, self.owning, self.clock)
        assert found is not None
        return found

    async def run(self, user: str = NAME) -> str:
        return (await self.transport.run(ID, user)).out.strip()

    async def sign_in(self, codes: Codes | None = None, password: str = PASSWORD) -> Identity:
        data: dict[str, Any] = {"username": NAME, "password": password}
        found = await sign_in(self.way, None, data)
        if codes is not None:
            assert isinstance(found, Asked)
            found = await sign_in(
                self.way, None, {"username": NAME, "ticket": found.ticket, "answers": (codes.next(),)}
            )
        assert isinstance(found, Identity)
        assert found.brought is not None
        self.owning.keep(found.name, "s1", found.brought)
        return found


@pytest.fixture(scope="module")
def person() -> Iterator[None]:
    with account():
        yield


@pytest.fixture(scope="module")
def simple(person: None) -> Iterator[Sshd]:
    with login_node(second=False) as (server, _):
        yield server


@pytest.fixture(scope="module")
def double(person: None) -> Iterator[tuple[Sshd, Codes]]:
    with login_node() as served:
        yield served


async def closing(hub: Hub) -> AsyncIterator[Hub]:
    yield hub
    hub.owning.close()
    hub.way.close()
    await hub.transport.close()


@pytest_asyncio.fixture
async def session(simple: Sshd) -> AsyncIterator[Hub]:
    async for hub in closing(Hub(simple, sign_in="session", client_keys=[simple.client_key])):
        yield hub


@pytest_asyncio.fixture
async def managed(simple: Sshd) -> AsyncIterator[Hub]:
    async for hub in closing(Hub(simple, sign_in="managed", client_keys=[simple.client_key])):
        yield hub


# ------------------------------------------------------------ the password of the sign-in


async def test_while_they_are_signed_in(session: Hub, simple: Sshd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    missing = await session.owning.missing("hpc", ANN)
    assert missing is not None
    assert missing.remedy is Remedy.SIGN_IN
    with pytest.raises(Unreachable, match="Sign out and in again"):
        await session.run()
    found = await session.sign_in()
    assert found.name == "ann"
    assert await session.owning.missing("hpc", ANN) is None
    assert await session.run() == NAME
    session.owning.let_go(session.cluster, NAME)
    assert await session.run() == NAME, "by the password, on a connection of its own"
    assert remembering() == [], "an open connection does not need it any more"
    session.owning.passwords.sessions_ended(["s1"])
    with pytest.raises(Unreachable, match="Sign out and in again"):
        await session.run()
    await until(lambda: not simple.sessions())
    await session.sign_in()
    assert await session.run() == NAME, "no pause after what was no failure of the host"
    assert PASSWORD not in caplog.text + repr(found) + repr(session.owning)


def remembering() -> list[Answering]:
    return [one for one in gc.get_objects() if isinstance(one, Answering) and one._password]


async def test_a_sign_in_that_nobody_finishes_is_forgotten(double: tuple[Sshd, Codes]) -> None:
    server, _ = double
    async for hub in closing(Hub(server, sign_in="session", client_keys=[server.client_key])):
        assert isinstance(await sign_in(hub.way, None, {"username": NAME, "password": PASSWORD}), Asked)
        (half,) = hub.way._half._waiting.values()
        assert len(remembering()) == 1
        half.talk.close()  # as when its time is over
        await until(lambda: not server.sessions())
        assert remembering() == []
        assert PASSWORD not in [getattr(half, field.name) for field in fields(half)]


async def test_a_session_that_ended_elsewhere_opens_nothing(session: Hub) -> None:
    await session.sign_in()
    session.good.clear()
    await session.owning.passwords.sweep(session.alive)  # once a minute
    with pytest.raises(Unreachable, match="Sign out and in again"):
        await session.run()
    assert len(session.owning.passwords) == 0


async def test_nobody_elses_account(session: Hub) -> None:
    await session.sign_in()
    with pytest.raises(Unreachable, match="Sign out and in again"):
        await session.run("bht-other")


async def test_what_still_runs_on_a_connection_of_before_ends_too(session: Hub, simple: Sshd) -> None:
    await session.sign_in()
    sleeping = asyncio.ensure_future(session.transport.run(Command(("sleep", "300"), deadline=60.0), NAME))
    pool = session.owning._pools["hpc"]
    await until(lambda: pool.busy)
    await session.sign_in()
    await until(lambda: len(simple.sessions()) == 2)
    session.owning.passwords.sessions_ended(["s1"])
    with pytest.raises(Unreachable, match="what became of a command is not known"):
        await sleeping
    await until(lambda: not simple.sessions())


async def test_the_services_connection_is_nobody_elses(simple: Sshd) -> None:
    """Somebody has the service's account, by the table: that it is connected opens nothing for them."""
    simple.allow(NAME)
    try:
        ssh = {"service_username": NAME, "client_keys": [simple.client_key]}
        async for hub in closing(Hub(simple, sign_in="session", **ssh)):
            assert (await hub.transport.run(ID)).out.strip() == NAME, "questions about all jobs need nobody signed in"
            assert await hub.owning.missing("hpc", ANN) is not None
            with pytest.raises(Unreachable, match="Sign out and in again"):
                await hub.run()
    finally:
        simple.forbid(NAME)


async def test_a_refused_password_is_tried_once(session: Hub, simple: Sshd) -> None:
    """It was changed on the cluster meanwhile: trying it again and again would lock the account."""
    session.owning.keep(ANN, "s1", Brought("no longer right"))
    before = len(simple.log)
    for words in ("refused the password of user", "Sign out and in again", "(Sign out and in again|next try)"):
        with pytest.raises(Unreachable, match=words):
            await session.run()
        session.owning.renew(session.cluster, NAME)
    await until(lambda: not simple.sessions())

    def refusals() -> int:
        return sum("PAM: Authentication failure" in line for line in simple.log[before:])

    await until(refusals)  # sshd's log is read beside
    assert refusals() == 1


def two_clusters(**hours: float) -> tuple[Owning, dict[str, list[str]]]:
    """Both by the password; whose connections were ended on each."""
    ssh = {"host": "h", "known_hosts": "/k", "sign_in": "session"}
    tables = {
        name: {"transport": "ssh", "ssh": {**ssh, "pass_through_hours": hours.get(name, 12.0)}} for name in ("a", "b")
    }
    keys = ManagedKeys(Memory(), lambda: Vault([Fernet.generate_key()]))
    owning = Owning(read_site(traits.BatchHub(clusters=tables)).clusters, keys, Clock())
    ended: dict[str, list[str]] = {}
    for name in tables:
        gone = ended.setdefault(name, [])
        pool: Any = SimpleNamespace(let_go=gone.append, renew=lambda account: None, is_up=lambda account: False)
        owning.watch(name, pool)

    async def alive(session: str) -> bool:
        return True

    owning.sessions_are(alive)
    return owning, ended


async def test_a_password_that_one_cluster_refuses_is_good_for_another() -> None:
    owning, ended = two_clusters()
    a, b = owning._clusters.values()
    own: dict[str, Any] = {one.name: owning.own(one) for one in (a, b)}
    owning.keep(ANN, "s1", Brought("sesame"))
    await own["a"].refused("ann", Password("sesame"))
    with pytest.raises(Unreachable, match="Sign out and in again"):
        await own["a"].proof("ann")
    assert await own["b"].proof("ann") == Password("sesame")
    assert ended == {"a": ["ann"], "b": []}
    await own["b"].refused("ann", Password("sesame"))
    assert len(owning.passwords) == 0, "it is of no use to anybody"
    owning.keep(ANN, "s2", Brought("open up"))
    await own["a"].refused("ann", Password("sesame"))
    assert await own["a"].proof("ann") == Password("open up"), "what was refused is the one before"
    owning._pools["a"].is_up = lambda user: True  # type: ignore[method-assign]
    await own["a"].refused("ann", Password("open up"))
    assert await own["a"].proof("ann") == Password("open up"), (
        "a connection was brought meanwhile, with a second factor"
    )


async def test_each_cluster_has_its_hours() -> None:
    owning, ended = two_clusters(a=1.0)
    clock: Any = owning.passwords._clock
    owning.keep(ANN, "s1", Brought("sesame"))
    await owning.close_old()
    assert ended == {"a": [], "b": []}
    clock.later(hours=1)
    await owning.close_old()
    assert ended == {"a": ["ann"], "b": []}


async def test_with_a_second_factor_the_connection_itself_is_kept(double: tuple[Sshd, Codes]) -> None:
    server, codes = double
    async for hub in closing(Hub(server, sign_in="session", client_keys=[server.client_key])):
        await hub.sign_in(codes)
        assert len(server.sessions()) == 1
        assert await hub.run() == NAME
        assert await hub.run() == NAME
        assert len(server.sessions()) == 1, "it is the one of the sign-in"
        # Too old a password does not matter as long as the connection lives.
        assert await hub.owning.missing("hpc", ANN) is None
        server.cut()
        await until(lambda: not server.sessions())
        with pytest.raises(Unreachable, match="asks for more than the password"):
            await hub.run()
        with pytest.raises(Unreachable, match="Sign out and in again"):
            await hub.run()
        await hub.sign_in(codes)
        assert await hub.run() == NAME
        hub.owning.passwords.sessions_ended(["s1"])
        await until(lambda: not server.sessions())


async def test_a_connection_that_nobody_may_use_is_closed(double: tuple[Sshd, Codes]) -> None:
    server, codes = double
    for refused in ({"blocked_users": {"ann"}}, {"pass_through": False}):
        async for hub in closing(Hub(server, sign_in="session", client_keys=[server.client_key])):
            hub.way.set_trait(*next(iter(refused.items())))
            asked = await sign_in(hub.way, None, {"username": NAME, "password": PASSWORD})
            assert isinstance(asked, Asked)
            data = {"username": NAME, "ticket": asked.ticket, "answers": (codes.next(),)}
            found = await sign_in(hub.way, None, data)
            assert found is None or found.brought is None
            await until(lambda: not server.sessions())


async def test_a_connection_as_somebody_else_is_not_theirs(double: tuple[Sshd, Codes]) -> None:
    """The hub's name leads to another account than the one that signed in: its connection is of no use."""
    server, codes = double
    async for hub in closing(Hub(server, sign_in="session", client_keys=[server.client_key])):
        hub.way.username_map = {NAME: "ben"}
        found = await hub.sign_in(codes)
        assert found.name == "ben"
        await until(lambda: not server.sessions())


def test_some_way_in_must_have_the_password(simple: Sshd) -> None:
    hub_site = read_site(
        traits.BatchHub(
            clusters={"hpc": {"transport": "ssh", "ssh": {"host": "h", "known_hosts": "/k", "sign_in": "session"}}}
        )
    )
    with pytest.raises(ConfigError, match="no way to sign in"):
        check_pass_through(hub_site, {"dictionary": DictionaryAuthenticator()})
    check_pass_through(hub_site, {"dictionary": DictionaryAuthenticator(pass_through=True)})


def test_nodes_are_not_reached_as_people_who_are_not_there() -> None:
    for how in ("session", "managed"):
        ssh = {"host": "h", "known_hosts": "/k", "sign_in": how}
        with pytest.raises(ConfigError, match="'login', 'reverse' or 'direct'"):
            read_site(traits.BatchHub(clusters={"hpc": {"transport": "ssh", "ssh": ssh, "tunnel": ["login", "node"]}}))


@pytest.mark.parametrize(("how", "words"), [("session", "Sign out and in again"), ("managed", "Make one on the page")])
async def test_a_hub_starts_nothing_for_whom_it_cannot_act_as(tmp_path: Path, how: str, words: str) -> None:
    """Before anything is saved or asked of the cluster."""
    ssh = {"host": "127.0.0.1", "port": 1, "known_hosts": "/k", "sign_in": how}
    site = read_site(traits.BatchHub(clusters={"hpc": {"transport": "ssh", "ssh": ssh}}))
    ways = {"dictionary": DictionaryAuthenticator(pass_through=True)}
    hub = WholeHub(plan_hub(lambda cls: cls(), site, StateDirectory.open(str(tmp_path / "state")), ways))
    await hub.store.open()
    try:
        form = {"cores": ["1"], "memory": ["1G"], "walltime": ["1h"]}
        with pytest.raises(Denied, match=words):
            await hub.service.spawn(ANN, "", "jupyterlab", form)
        assert list(await hub.store.live_servers()) == []
        missing = (await hub.service.form(ANN, "jupyterlab")).missing
        assert missing is not None
        assert words in missing.words
    finally:
        await hub.close()


# ------------------------------------------------------------ managed keys


async def test_from_no_key_to_one_that_works(managed: Hub, simple: Sshd) -> None:
    book, hub = managed.book, managed
    (view,) = await book.keys(ANN)
    assert (view.title, view.account, view.host, view.line) == ("The HPC", NAME, simple.host, "")
    missing = await hub.owning.missing("hpc", ANN)
    assert missing is not None
    assert missing.remedy is Remedy.KEYS
    with pytest.raises(Unreachable, match="you have none yet"):
        await hub.run()
    with pytest.raises(NotFound):
        await book.test(ANN, "hpc")

    await book.make(ANN, "hpc")
    (view,) = await book.keys(ANN)
    assert view.line.startswith("restrict ssh-ed25519 AAAA")
    test = await book.test(ANN, "hpc")
    assert test.works is False
    assert f"refused the key of user {NAME}" in test.words
    assert "authorized_keys" in test.words
    assert await hub.owning.missing("hpc", ANN) is not None

    authorized = simple.directory / "keys" / NAME
    authorized.write_text(view.line + "\n")
    authorized.chmod(0o644)
    test = await book.test(ANN, "hpc")
    assert test.works is True, test.words
    assert f"runs commands as {NAME}" in test.words
    assert await hub.owning.missing("hpc", ANN) is None
    assert await hub.run() == NAME

    # Taken away: within an hour nothing is done with it any more, and its owner is told.
    authorized.unlink()
    hub.clock.later(minutes=59)
    assert await hub.run() == NAME, "sshd asks when one connects"
    hub.clock.later(minutes=1)
    with pytest.raises(Unreachable, match="refused the key"):
        await hub.run()
    missing = await hub.owning.missing("hpc", ANN)
    assert missing is not None
    assert "has not taken your SSH key" in missing.words

    # It was the cluster's fault, which could not read it for a while: nobody has to test it anew.
    authorized.write_text(view.line + "\n")
    authorized.chmod(0o644)
    hub.owning.renew(hub.cluster, NAME)
    assert await hub.run() == NAME
    assert await hub.owning.missing("hpc", ANN) is None


async def test_replaced_and_removed_keys_open_nothing(managed: Hub, simple: Sshd) -> None:
    book = managed.book
    await book.make(ANN, "hpc")
    (view,) = await book.keys(ANN)
    authorized = simple.directory / "keys" / NAME
    authorized.write_text(view.line + "\n")
    authorized.chmod(0o644)
    assert await managed.run() == NAME
    await book.make(ANN, "hpc")
    await until(lambda: not simple.sessions())
    with pytest.raises(Unreachable, match="refused the key"):
        await managed.run()
    (view,) = await book.keys(ANN)
    authorized.write_text(view.line + "\n")
    assert (await book.test(ANN, "hpc")).works is True
    assert await managed.run() == NAME
    await book.remove(ANN, "hpc")
    await until(lambda: not simple.sessions())
    with pytest.raises(Unreachable, match="you have none yet"):
        await managed.run()
    with pytest.raises(NotFound):
        await book.remove(ANN, "hpc")


async def test_what_the_line_does_not_allow(managed: Hub, simple: Sshd) -> None:
    """Another program with this key could run commands, and no more: no forwarding."""
    await managed.book.make(ANN, "hpc")
    (view,) = await managed.book.keys(ANN)
    authorized = simple.directory / "keys" / NAME
    authorized.write_text(view.line + "\n")
    authorized.chmod(0o644)
    pool = managed.owning._pools["hpc"]
    with pytest.raises(Unreachable, match="forbids connections"):
        await pool.open_stream(NAME, lambda: None, "127.0.0.1", simple.port)  # type: ignore[arg-type, return-value]


async def test_from_another_address_than_the_line_says(simple: Sshd) -> None:
    async for hub in closing(Hub(simple, sign_in="managed", key_sources=["192.0.2.7/32"])):
        await hub.book.make(ANN, "hpc")
        authorized = simple.directory / "keys" / NAME
        authorized.write_text((await hub.book.keys(ANN))[0].line + "\n")
        authorized.chmod(0o644)
        test = await hub.book.test(ANN, "hpc")
        assert test.works is False
        assert "lets the hub in from 192.0.2.7/32 alone" in test.words


async def test_a_login_shell_that_runs_nothing(managed: Hub, simple: Sshd) -> None:
    await managed.book.make(ANN, "hpc")
    (view,) = await managed.book.keys(ANN)
    authorized = simple.directory / "keys" / NAME
    authorized.write_text(view.line.replace("restrict", 'restrict,command="false"') + "\n")
    authorized.chmod(0o644)
    test = await managed.book.test(ANN, "hpc")
    assert test.works is False
    assert "no command ran (exit code 1)" in test.words


async def test_a_stolen_database_opens_no_account(managed: Hub, simple: Sshd) -> None:
    await managed.book.make(ANN, "hpc")
    authorized = simple.directory / "keys" / NAME
    authorized.write_text((await managed.book.keys(ANN))[0].line + "\n")
    authorized.chmod(0o644)
    async for thief in closing(Hub(simple, sign_in="managed", client_keys=[simple.client_key])):
        thief.memory.rows = managed.memory.rows
        with pytest.raises(Unreachable, match="you have none yet"):
            await thief.run()


async def test_a_login_node_that_is_away_says_nothing_of_the_key(simple: Sshd) -> None:
    async for hub in closing(Hub(simple, sign_in="managed", port=1)):
        await hub.book.make(ANN, "hpc")
        book = hub.book
        for _ in range(4):
            test = await book.test(ANN, "hpc")
            assert test.works is None
            assert "authorized_keys" not in test.words
        # sshd counts each against the hub's address, which is everybody's.
        with pytest.raises(TooMany, match="try again in a minute"):
            await book.test(ANN, "hpc")
        hub.clock.later(minutes=1)
        await book.test(ANN, "hpc")


async def test_whose_key(managed: Hub) -> None:
    with pytest.raises(Denied):
        await managed.book.make(UserName(NAME), "hpc")
    with pytest.raises(Denied, match="not run as root"):
        await managed.book.make(UserName("root"), "hpc")
    assert await managed.book.keys(UserName(NAME)) == await managed.book.keys(UserName("root")) == []
    with pytest.raises(NotFound):
        await managed.book.make(ANN, "nosuch")
    book = managed.book
    book._testing.add(ANN)
    await book.make(ANN, "hpc")
    with pytest.raises(TooMany):
        await book.test(ANN, "hpc")
