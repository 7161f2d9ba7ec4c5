"""From a browser's ticket to an SSH connection as that person, and its end: proxy, pages, database, KDC, sshd and curl are real."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from batchhub.app.owning import Owning
from batchhub.app.people import make_people
from batchhub.app.plan import check_pass_through
from batchhub.app.reach import make_transport
from batchhub.app.revocations import Revocations
from batchhub.app.site import read_site
from batchhub.app.state import StateDirectory, utc_now
from batchhub.auth.audit import AuditTrail
from batchhub.auth.base import Brought, Place
from batchhub.auth.kerberos import KerberosAuthenticator
from batchhub.auth.keys import ManagedKeys
from batchhub.auth.sessions import SessionSettings
from batchhub.config import traits
from batchhub.core.errors import Unreachable
from batchhub.core.model import UserName
from batchhub.core.ports import Command, Transport
from batchhub.proxy.client import ProxyClient
from batchhub.proxy.server import Proxy
from batchhub.proxy.settings import ProxySettings
from batchhub.proxy.tokens import HubTokens
from batchhub.store.audit import AuditStore
from batchhub.store.keys import Keys
from batchhub.store.store import Store
from batchhub.web.app import make_app
from batchhub.web.base import SESSION_COOKIE
from batchhub.web.ports import WebServices, WebSettings
from tests.kdc import HOME, Kdc, kdc
from tests.proxy.harness import App, World, running
from tests.sshd import Sshd, accounts
from tests.transport.conftest import until
from tests.web.fakes import Browser, Clock, FakeHub, Plain, open_site

NAME = f"bht-krb{os.getpid()}"
ID = Command(("id", "-un"))
AGAIN = "Sign out and in again"


@pytest.fixture(scope="module")
def realm() -> Iterator[Kdc]:
    with kdc(NAME) as made:
        made.kinit(NAME)
        yield made


@pytest.fixture(scope="module")
def login(realm: Kdc) -> Iterator[Sshd]:
    """Only a ticket lets anybody in."""
    lines = ["GSSAPIAuthentication yes", "GSSAPIStrictAcceptorCheck no", "PubkeyAuthentication no"]
    with accounts({NAME: "/bin/sh"}):
        server = Sshd((NAME,), lines)
        yield server
        server.close()


@dataclass
class Whole:
    """A hub behind its proxy."""

    world: World
    realm: Kdc
    owning: Owning
    transport: Transport
    state: Path
    base = "/"

    @property
    def url(self) -> str:
        return f"http://localhost:{self.world.proxy.public_port}"

    async def curl(self, path: str, *options: str) -> str:
        """What a browser that trusts this host gets, with its head."""
        env = {**self.realm.env, "KRB5CCNAME": self.realm.cache(NAME)}
        running = await asyncio.create_subprocess_exec(
            "curl", "-s", "-i", "-m", "30", "--anyauth", "-u", ":", *options, self.url + path,
            stdout=asyncio.subprocess.PIPE, env=env,
        )  # fmt: skip
        said, _ = await running.communicate()
        assert running.returncode == 0
        return said.decode()

    async def signed_in(self, *options: str) -> Browser:
        said = await self.curl("/hub/login/negotiate?next=/hub/token", *options)
        assert "HTTP/1.1 401" in said, "it was asked"
        assert re.search(r"HTTP/1.1 303 .*\r\n(?s:.*)Location: /hub/token\r\n", said), said
        assert re.search(r"(?i)\r\nWWW-Authenticate: Negotiate \S+\r\n", said), "and knows that it was this host"
        found = re.findall(rf"{SESSION_COOKIE}=([^;]+)", said)
        browser = Browser(self)  # type: ignore[arg-type]
        browser.cookies[SESSION_COOKIE, "/hub/"] = found[-1]
        await browser.get("/hub/token")
        browser.has(NAME)
        return browser

    async def run(self) -> str:
        return (await self.transport.run(ID, NAME)).out.strip()


@pytest.fixture
async def whole(tmp_path: Path, realm: Kdc, login: Sshd) -> AsyncIterator[Whole]:
    state = StateDirectory.open(str(tmp_path / "state"))
    store = Store(state.database, clock=utc_now)
    await store.open()
    way = KerberosAuthenticator(keytab=realm.keytab, service="HTTP@localhost", realms=[HOME], allow_all=True)
    way.settle(Place("127.0.0.1", b"", utc_now))
    ways = {"kerberos": way, "plain": Plain(allow_all=True)}
    ssh = {"host": login.host, "port": login.port, "known_hosts": login.known_hosts, "gss_host": "localhost"}
    clusters = {"hpc": {"title": "The HPC", "transport": "ssh", "ssh": {"sign_in": "session", **ssh}}}
    site = read_site(traits.BatchHub(clusters=clusters))
    check_pass_through(site, {"kerberos": way})
    plan: Any = SimpleNamespace(state=state, authenticators=ways, sessions=SessionSettings())
    web, port = bind_unused_port(address="127.0.0.1")
    settings = ProxySettings(
        token=state.api_token,
        ticket_keys=(state.key("tickets"),),
        state_file=tmp_path / "routes.json",
        public_port=0,
        api_port=0,
    )
    proxy = Proxy(settings, tunnels={}, token_checker=HubTokens(f"http://127.0.0.1:{port}"), clock=utc_now)
    await proxy.start()
    routes = ProxyClient(f"http://127.0.0.1:{proxy.api_port}", state.api_token)
    deeds = AuditStore(store)
    audit = AuditTrail(deeds, utc_now)
    owning = Owning(site.clusters, ManagedKeys(Keys(store), state.vault.current), utc_now)
    people = make_people(plan, store, Revocations(store, routes, utc_now), owning, audit)
    transport = make_transport(site.clusters[0], utc_now, owning=owning)
    services = WebServices(FakeHub(Clock()), people, utc_now, state.key("tickets"), audit, deeds)
    server = HTTPServer(make_app(services, WebSettings()), xheaders=True)
    server.add_socket(web)
    world = World(proxy, Clock(), None, [])  # type: ignore[arg-type]
    world.clock = utc_now  # type: ignore[assignment]
    world.route("/", port)
    try:
        yield Whole(world, realm, owning, transport, tmp_path)
    finally:
        owning.close()
        await transport.close()
        server.stop()
        await server.close_all_connections()
        await proxy.close()
        await routes.close()
        await store.close()
        way.close()


async def test_from_a_ticket_to_a_connection_and_its_end(whole: Whole, login: Sshd) -> None:
    browser = await whole.signed_in("--delegation", "always")
    user = UserName(NAME)
    assert await whole.owning.missing("hpc", user) is None
    proof = await whole.owning.proof(whole.owning._clusters["hpc"], user)
    assert proof is not None
    name = proof.ccache  # type: ignore[union-attr]
    before = len(login.log)
    assert await whole.run() == NAME
    await until(lambda: any("Accepted gssapi-with-mic" in line for line in login.log[before:]))
    assert name not in repr(proof) + repr(vars(whole.owning))
    for path in whole.state.rglob("*"):
        assert not path.is_file() or b"krbtgt" not in path.read_bytes(), path

    await browser.get("/hub/home")
    assert (await browser.post("/hub/logout")).code == 303
    assert len(whole.owning.tickets) == 0
    from batchhub.auth import gss

    with pytest.raises(gss.Expired):
        await asyncio.to_thread(gss.reach, name, "localhost")
    await until(lambda: not login.sessions())
    with pytest.raises(Unreachable, match=AGAIN):
        await whole.run()
    missing = await whole.owning.missing("hpc", user)
    assert missing is not None
    assert AGAIN in missing.words


async def test_without_forwarded_tickets_one_is_signed_in_and_no_more(whole: Whole) -> None:
    await whole.signed_in()
    with pytest.raises(Unreachable, match=AGAIN):
        await whole.run()


async def test_a_newer_sign_in_brings_newer_tickets(whole: Whole) -> None:
    from batchhub.auth import gss

    cluster, user = whole.owning._clusters["hpc"], UserName(NAME)
    await whole.signed_in("--delegation", "always")
    old: Any = await whole.owning.proof(cluster, user)
    second = await whole.signed_in("--delegation", "always")
    with pytest.raises(gss.Expired):
        await asyncio.to_thread(gss.reach, old.ccache, "localhost")
    await second.get("/hub/home")
    await second.post("/hub/logout")
    assert await whole.run() == NAME, "the first session has not ended"


async def test_tickets_that_are_gone(whole: Whole) -> None:
    from batchhub.auth.ccache import destroy

    await whole.signed_in("--delegation", "always")
    proof: Any = await whole.owning.proof(whole.owning._clusters["hpc"], UserName(NAME))
    destroy(proof.ccache)
    with pytest.raises(Unreachable, match=f"have expired, so The HPC cannot be reached as you. {AGAIN}"):
        await whole.run()
    assert len(whole.owning.tickets) == 0


async def test_a_password_serves_where_tickets_are_refused(whole: Whole, login: Sshd) -> None:
    """This sshd takes none; that it is what is tried shows."""
    await whole.signed_in("--delegation", "always")
    cluster, user = whole.owning._clusters["hpc"], UserName(NAME)
    tickets: Any = await whole.owning.proof(cluster, user)
    session = next(iter(whole.owning.tickets._held[user].sessions))
    account = pwd.getpwnam(NAME)
    others = Path(account.pw_dir) / ".k5login"
    others.write_text(f"somebody-else@{HOME}\n")
    os.chown(others, account.pw_uid, account.pw_gid)
    try:
        with pytest.raises(Unreachable, match=f"refused the Kerberos ticket of user {NAME}"):
            await whole.run()
    finally:
        others.unlink()
    assert await whole.owning.proof(cluster, user) == tickets, "there is nothing else"
    whole.owning.keep(user, session, Brought("a password"))
    assert getattr(await whole.owning.proof(cluster, user), "text", "") == "a password"
    with pytest.raises(Unreachable, match="refused the password"):
        await whole.run()
    assert await whole.run() == NAME, "a refused password is forgotten; the tickets are tried again"


async def test_the_sign_in_page(whole: Whole) -> None:
    browser = Browser(whole)  # type: ignore[arg-type]
    await browser.get("/hub/login?next=/hub/token")
    assert 'href="/hub/login/negotiate?next=%2Fhub%2Ftoken"' in browser.text
    browser.has("Sign in with Kerberos")
    answer = await browser.get("/hub/login/negotiate")
    assert answer.code == 401
    assert answer.headers["WWW-Authenticate"] == "Negotiate"
    browser.has("no ticket of Kerberos", "Username")
    # What does not count is not asked for again: browsers would go on for ever, or show a dialogue.
    for token in ("YII=", "%%", "A" * 60_000, ""):
        answer = await browser.get("/hub/login/negotiate", Authorization=f"Negotiate {token}")
        assert answer.code == (403 if token else 401), token
        assert ("WWW-Authenticate" in answer.headers) is (not token)
    answer = await browser.get("/hub/login/negotiate", Authorization="Negotiate " + "A" * 80_000)
    assert answer.code == 431
    # A script of a notebook cannot sign its visitor in as somebody else.
    answer = await browser.get(
        "/hub/login/negotiate", Authorization="Negotiate YII=", Sec_Fetch_Mode="cors", Sec_Fetch_Site="same-origin"
    )
    assert answer.code == 403
    browser.has("did not come from it")


async def test_with_nothing_else_there_is_no_button_to_press(realm: Kdc) -> None:
    way = KerberosAuthenticator(keytab=realm.keytab, service="HTTP@localhost", realms=[HOME], allow_all=True)
    site = open_site(WebSettings(auto_login=True), more={"kerberos": way}, without=("plain", "link"))
    try:
        answer = await site.browser().get("hub/login?next=/hub/token")
        assert answer.headers["Location"] == "/hub/login/negotiate?next=%2Fhub%2Ftoken"
        assert (await site.browser().get("hub/login?out=1")).code == 200, "who signed out stays out"
    finally:
        site.server.stop()
        await site.server.close_all_connections()


async def test_tries_are_counted(whole: Whole) -> None:
    browser, codes = Browser(whole), []  # type: ignore[arg-type]
    for _ in range(200):
        codes.append((await browser.get("/hub/login/negotiate", Authorization="Negotiate YII=")).code)
        if codes[-1] == 429:
            break
    assert codes[-1] == 429
    assert (await browser.get("/hub/login/negotiate")).code == 401, "asking is no try"


async def test_a_notebook_never_gets_a_token(whole: Whole) -> None:
    async with running(App()) as app:
        whole.world.route(f"/user/{NAME}", app.port, owner=NAME)
        browser = await whole.signed_in()
        assert (await browser.get(f"/hub/access?next=/user/{NAME}/")).code == 302
        answer = await browser.get(f"/user/{NAME}/x", Authorization="Negotiate YIIsecret")
        assert answer.body == b"ok"
        assert [request.header("authorization") for request in app.requests] == [None]
