"""Connections: shared, lost, made again, closed."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchhub.core.errors import Unreachable
from batchhub.core.ports import Command
from batchhub.transport.pool import SSHPool
from tests.sshd import Sshd
from tests.transport.conftest import NOW, settings_of, ssh_transport, until

TRUE = Command(("true",))


@pytest.fixture
def own(people: dict[str, Path]) -> Iterator[Sshd]:
    """An sshd for one test, to be stopped and cut."""
    server = Sshd(("bht-bash", "bht-dash"))
    yield server
    server.close()


def signed_in(server: Sshd) -> int:
    return sum("Accepted publickey" in row for row in server.log)


async def test_many_commands_share_one_connection(own: Sshd) -> None:
    """Far more at one time than sshd's MaxSessions of 10, none of them refused."""
    async with ssh_transport(own) as (transport, pool):
        done = await asyncio.gather(*(transport.run(Command(("echo", str(n))), "bht-dash") for n in range(60)))
        assert [answer.out for answer in done] == [f"{n}\n" for n in range(60)]
        assert signed_in(own) == 1
        view = pool.connections()[0]
        assert (view.host, view.identity, view.state, view.channels) == ("127.0.0.1", "bht-dash", "idle", 0)
        assert transport.state() == {f"bht-dash@127.0.0.1:{own.port}": "idle since 2026-01-02T03:04:05Z, 0 channels"}


async def test_each_identity_has_its_own(own: Sshd) -> None:
    async with ssh_transport(own) as (transport, pool):
        users = ["bht-bash", "bht-dash", None]
        await asyncio.gather(*(transport.run(TRUE, user) for user in users * 3))
        assert signed_in(own) == 3
        assert {view.identity for view in pool.connections()} == {"", "bht-bash", "bht-dash"}


async def test_a_lower_max_sessions_is_found_out(people: dict[str, Path]) -> None:
    server = Sshd(("bht-dash",), ["MaxSessions 2"])
    try:
        async with ssh_transport(server) as (transport, _):
            done = await asyncio.gather(*(transport.run(Command(("echo", str(n))), "bht-dash") for n in range(20)))
            assert [answer.out for answer in done] == [f"{n}\n" for n in range(20)]
            assert signed_in(server) == 1
    finally:
        server.close()


async def test_no_sessions_at_all(people: dict[str, Path]) -> None:
    server = Sshd(("bht-dash",), ["MaxSessions 0"])
    try:
        async with ssh_transport(server) as (transport, _):
            with pytest.raises(Unreachable, match=r"bht-dash@127\.0\.0\.1 opened no session: open failed\."):
                await transport.run(TRUE, "bht-dash")
    finally:
        server.close()


async def test_after_a_cut_the_next_command_works(own: Sshd) -> None:
    async with ssh_transport(own) as (transport, pool):
        assert (await transport.run(TRUE)).code == 0
        own.cut()
        assert (await transport.run(TRUE)).code == 0
        assert signed_in(own) == 2
        assert len(pool.connections()) == 1


async def test_a_command_that_was_cut_is_never_run_twice(own: Sshd, people: dict[str, Path]) -> None:
    marks = people["bht-bash"] / "marks"
    async with ssh_transport(own) as (transport, _):
        task = asyncio.ensure_future(transport.run(Command(("sh", "-c", f"echo x >>{marks}; sleep 300")), "bht-bash"))
        await until(marks.exists)
        own.cut()
        with pytest.raises(Unreachable, match="what became of a command is not known, the connection broke"):
            await task
        assert (await transport.run(TRUE, "bht-bash")).code == 0
        assert marks.read_text() == "x\n"


async def test_while_the_node_is_away_it_is_said_at_once(own: Sshd) -> None:
    async with ssh_transport(own) as (transport, pool):
        assert (await transport.run(TRUE)).code == 0
        own.cut()
        own.stop()
        answers = await asyncio.gather(*(transport.run(TRUE) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(answer, Unreachable) for answer in answers)
        with pytest.raises(Unreachable, match=r"Connection refused\. So since 03:04:05 UTC; next try in 1 s\."):
            await transport.run(TRUE)
        view = pool.connections()[0]
        assert (view.state, view.since) == ("backing off", NOW)
        assert "Connection refused" in str(view)
        own.restart()
        code = None
        async with asyncio.timeout(60):
            while code is None:
                with contextlib.suppress(Unreachable):
                    code = (await transport.run(TRUE)).code
                await asyncio.sleep(0.05)
        assert code == 0
        assert pool.connections()[0].state == "idle"


async def test_a_silent_connection_is_replaced_if_nothing_was_started(own: Sshd) -> None:
    """As after a firewall forgot it: no answer to the request for a channel."""
    async with ssh_transport(own, open_timeout=0.3) as (transport, _):
        assert (await transport.run(TRUE, "bht-bash")).code == 0
        with own.stalled():
            assert (await transport.run(Command(("echo", "once")), "bht-bash")).out == "once\n"
            assert signed_in(own) == 2


async def test_a_dead_peer_is_found_by_keep_alive(own: Sshd) -> None:
    async with ssh_transport(own, keepalive_interval=0.1, keepalive_count=2) as (transport, pool):
        task = asyncio.ensure_future(transport.run(Command(("sleep", "300"), deadline=60.0)))
        await until(lambda: bool(pool.connections()) and pool.connections()[0].channels > 0)
        with own.stalled(), pytest.raises(Unreachable, match="not responding to keepalive"):
            await task


async def test_a_person_s_idle_connection_is_closed_and_the_service_s_stays(own: Sshd) -> None:
    async with ssh_transport(own, idle_seconds=0.05) as (transport, pool):
        await transport.run(TRUE)
        await transport.run(TRUE, "bht-bash")
        await until(lambda: len(pool.connections()) == 1)
        assert [view.identity for view in pool.connections()] == [""]
        await until(lambda: len(own.sessions()) == 1)
        assert (await transport.run(TRUE, "bht-bash")).code == 0


async def test_close_ends_what_waits(own: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool = SSHPool(settings_of(own, port=silent.getsockname()[1]), lambda: NOW)
        task = asyncio.ensure_future(pool.execute(None, lambda left: "true", b"", 100, 30.0))
        await until(lambda: bool(pool.connections()) and pool.connections()[0].state == "connecting")
        await pool.close()
        with pytest.raises(Unreachable, match="closed"):
            await task
        with pytest.raises(Unreachable, match="closed"):
            await pool.execute(None, lambda left: "true", b"", 100, 30.0)
