"""What people see when the SSH connections below their notebooks break: the proxy, its tunnels and OpenSSH's sshd, two users at once."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from batchhub.core.model import Endpoint
from batchhub.tunnel.login import LoginSettings, LoginTunnel
from tests.ports import free_port
from tests.sshd import Sshd, accounts
from tests.tunnel.conftest import pool_of
from tests.tunnel.front import Front, application, fronting

ANN, BEN = "bht-ann", "bht-ben"
MIB = 1024 * 1024

pytestmark = pytest.mark.sshd


@pytest.fixture(scope="module", autouse=True)
def people() -> Iterator[None]:
    with accounts({ANN: "/bin/sh", BEN: "/bin/sh"}):
        yield


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    number = free_port()
    with application(str(number)):
        yield number


@pytest.fixture
def login() -> Iterator[Sshd]:
    server = Sshd((ANN, BEN))
    yield server
    server.close()


@asynccontextmanager
async def two_people(login: Sshd, port: int, directory: Path, **ssh: Any) -> AsyncIterator[Front]:
    """Each over a connection of their own to the same login node."""
    tunnel = LoginTunnel(pool_of(login, **ssh), LoginSettings(as_user=True))
    async with fronting(directory, {("c", "login"): tunnel}) as front:
        for name, account in (("ann", ANN), ("ben", BEN)):
            await front.route(f"/user/{name}/", ("c", "login", account), Endpoint("127.0.0.1", port))
        yield front


def sshds_of(login: Sshd, account: str) -> list[psutil.Process]:
    """sshd's processes of that account's connection."""
    mine = [child for child in login.sessions() if account in " ".join(child.cmdline())]
    assert mine
    return [each for child in mine for each in (child, *child.children(recursive=True))]


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


async def test_a_connection_that_is_killed(login: Sshd, port: int, tmp_path: Path) -> None:
    async with two_people(login, port, tmp_path) as front:
        kernel, download = await front.upgraded("/user/ann/ws"), await front.dripping("/user/ann/")
        waiting = await front.begin("/user/ann/hang", "Connection: close\r\n")
        spared, other = await front.upgraded("/user/ben/ws"), await front.dripping("/user/ben/")
        await front.until("/user/ann/sent", 200)  # what was asked before has reached the application
        for process in sshds_of(login, ANN):
            process.kill()
        assert await kernel.end() == b""
        assert b"0\r\n\r\n" not in await download.end()  # cut, and seen to be
        page = (await waiting.end()).decode()
        assert page.startswith("HTTP/1.1 502 ")
        assert "The SSH connection bht-ann@127.0.0.1 was lost: Connection lost." in page
        assert await front.get("/user/ann/x") == (200, f"/user/ann/x {login.me}")
        await spared.say(b"still here")
        assert not other.reader.at_eof()


async def test_a_connection_that_hangs(login: Sshd, port: int, tmp_path: Path) -> None:
    """As when a firewall has forgotten it, or the login node is too busy: found out by keep-alives, not by TCP."""
    async with two_people(login, port, tmp_path, keepalive_interval=0.5, keepalive_count=2) as front:
        kernel, spared = await front.upgraded("/user/ann/ws"), await front.upgraded("/user/ben/ws")
        waiting = await front.begin("/user/ann/hang", "Connection: close\r\n")
        await front.until("/user/ann/sent", 200)
        with frozen(sshds_of(login, ANN)):
            assert await kernel.end() == b""
            page = (await waiting.end()).decode()
            assert page.startswith("HTTP/1.1 502 ")
            assert "was lost: Server not responding to keepalive" in page
            assert (await front.get("/user/ann/x"))[0] == 200
            await spared.say(b"still here")


async def test_a_login_node_that_is_booted_anew(login: Sshd, port: int, tmp_path: Path) -> None:
    async with two_people(login, port, tmp_path) as front:
        kernels = [await front.upgraded(f"/user/{name}/ws") for name in ("ann", "ben")]
        login.power_off()
        for kernel in kernels:
            assert await kernel.end() == b""
        status, page = await front.get("/user/ann/")
        assert status == 503
        assert "Not reachable just now" in page
        assert re.search(
            r"No SSH connection to the login node 127\.0\.0\.1: 127\.0\.0\.1:\d+: Connection refused", page
        )
        login.restart()
        for name in ("ann", "ben"):
            await front.until(f"/user/{name}/", 200)


async def test_a_host_key_that_has_changed(login: Sshd, port: int, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(login.known_hosts)
    other_node = Sshd((BEN,))
    tunnels = {
        ("c", "login"): LoginTunnel(pool_of(login, known_hosts=str(known))),
        ("d", "login"): LoginTunnel(pool_of(other_node)),
    }
    try:
        async with fronting(tmp_path, tunnels) as front:
            await front.route("/user/ann/", ("c", "login", ANN), Endpoint("127.0.0.1", port))
            await front.route("/user/ben/", ("d", "login", BEN), Endpoint("127.0.0.1", port))
            spared = await front.upgraded("/user/ben/ws")
            assert (await front.get("/user/ann/"))[0] == 200
            login.power_off()
            login.new_host_key()
            login.restart()
            page = await front.until("/user/ann/", 503)
            fingerprint = asyncssh.import_public_key(login.host_public).get_fingerprint()
            assert f"Host key of 127.0.0.1 is not the known one: it offers {fingerprint}" in page
            await spared.say(b"still here")
            known.write_text(login.known_hosts)
            await front.until("/user/ann/", 200)
            await spared.say(b"and still")
    finally:
        other_node.close()


async def test_who_does_not_read_holds_up_nobody_else(login: Sshd, port: int, tmp_path: Path) -> None:
    """A browser that stops reading a download stops the application's sending, all the way through SSH, and no other stream."""
    async with two_people(login, port, tmp_path) as front:
        stuck = await front.begin("/user/ann/flood")
        sent = -1
        while sent != (sent := int(await front.until("/user/ann/sent", 200))) or not sent:
            await asyncio.sleep(0.2)
        # At most what the client, the proxy, the SSH window and two sockets hold.
        assert sent < 24 * MIB
        kernel = await front.upgraded("/user/ann/ws")
        for number in range(50):
            await kernel.say(b"%d" % number)
        assert int((await front.get("/user/ann/sent"))[1]) < 24 * MIB
        for _ in range(200):
            assert await stuck.reader.readexactly(65536)
        assert int((await front.get("/user/ann/sent"))[1]) > sent


async def test_what_the_login_node_or_the_application_will_not_do(port: int, tmp_path: Path) -> None:
    strict = Sshd((ANN,), ["PermitOpen 127.0.0.1:1"])
    try:
        async with two_people(strict, port, tmp_path) as front:
            status, page = await front.get("/user/ann/")
            assert (status, "127.0.0.1 forbids connections to 127.0.0.1 port" in page) == (503, True)
            await front.route("/user/gone/", ("c", "login", ANN), Endpoint("127.0.0.1", 1))
            status, page = await front.get("/user/gone/")
            assert (status, "127.0.0.1 refused port 1 when 127.0.0.1 asked" in page) == (503, True)
    finally:
        strict.close()
