"""What goes over the wire of an SSH connection, and in how many pieces."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import asyncssh
import pytest

from batchhub.transport.line import PIECE, SMALL, Line, without_ignored
from tests.sshd import Sshd


class Above:
    """Stands where asyncssh's connection does."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost = False

    def connection_made(self, transport: Line) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True


class Below:
    """A stream that keeps what is done to it."""

    def __init__(self, kind: int | None = None) -> None:
        self.did: list[object] = []
        self.closing = False
        self.family = kind

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" and self.family is not None else default

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.did.append((level, option, value))

    def write(self, data: bytes) -> None:
        self.did.append(data)

    def close(self) -> None:
        self.closing = True
        self.did.append("close")

    def abort(self) -> None:
        self.closing = True
        self.did.append("abort")

    def is_closing(self) -> bool:
        return self.closing


PROMPT = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def made(below: Below) -> tuple[Line, Above, list[int]]:
    heard: list[int] = []
    line = Line(Above(), lambda: heard.append(1))
    line.connection_made(below)
    return line, line.inner, heard


async def turn() -> None:
    """Two turns of the loop: what was put off, and what that put off."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_small_packets_of_one_turn_are_one_write() -> None:
    below = Below()
    line, _, _ = made(below)
    line.write(b"one ")
    line.write(b"two")
    assert below.did == []
    await turn()
    assert below.did == [b"one two"]
    line.write(b"three")
    await turn()
    assert below.did == [b"one two", b"three"]


async def test_a_large_packet_goes_at_once_and_in_order() -> None:
    below = Below()
    line, _, _ = made(below)
    large = b"x" * (SMALL + 1)
    line.write(b"before")
    line.write(large)
    line.write(b"after")
    assert below.did == [b"before", large]
    await turn()
    assert below.did == [b"before", large, b"after"]


async def test_large_reads_are_handed_on_in_pieces() -> None:
    line, above, heard = made(Below())
    data = bytes(range(256)) * 1000
    line.data_received(data)
    assert [len(piece) for piece in above.pieces] == [PIECE, PIECE, PIECE, len(data) - 3 * PIECE]
    assert b"".join(above.pieces) == data
    assert len(heard) == 1


async def test_what_is_not_answered_is_acknowledged_at_once() -> None:
    below = Below(socket.AF_INET)
    line, above, _ = made(below)
    line.data_received(b"news")
    await turn()
    assert below.did == [PROMPT]
    line.data_received(b"question")
    above.transport.write(b"answer")
    await turn()
    assert below.did == [PROMPT, b"answer"], "the answer carries the acknowledgement"
    line.data_received(b"the last")
    line.connection_lost(None)
    await turn()
    assert below.did == [PROMPT, b"answer"], "there is no socket any more"
    assert above.lost


async def test_only_tcp_has_acknowledgements() -> None:
    for below in (Below(socket.AF_UNIX), Below()):
        line, _, _ = made(below)
        line.data_received(b"news")
        await turn()
        assert below.did == []


async def test_a_farewell_is_sent_before_the_end() -> None:
    below = Below()
    line, _, _ = made(below)
    line.write(b"goodbye")
    line.abort()
    assert below.did == [b"goodbye"]
    await turn()
    assert below.did == [b"goodbye", "abort"]
    assert line.is_closing()
    line.write(b"too late")
    await turn()
    assert below.did == [b"goodbye", "abort"]


async def test_closing_sends_what_was_gathered() -> None:
    below = Below()
    line, _, _ = made(below)
    line.write(b"the rest")
    line.close()
    assert below.did == [b"the rest", "close"]


def test_without_ignored_needs_no_such_method() -> None:
    without_ignored(object())


class Way:
    async def create_connection(self, factory: Any, host: str, port: int) -> tuple[None, Any]:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: Line(factory(), lambda: None), host, port)  # type: ignore[type-var]
        return None, line.inner


async def test_a_real_connection_sends_one_packet_for_each(sshd: Sshd) -> None:
    """asyncssh would send two. It numbers the packets it sends (RFC 4253, 6.4), and begins anew with each key exchange."""
    ssh = await asyncssh.connect(
        sshd.host,
        sshd.port,
        tunnel=Way(),
        known_hosts=asyncssh.import_known_hosts(sshd.known_hosts),
        username=sshd.me,
        client_keys=[sshd.client_key],
        config=None,
    )
    async with ssh, asyncio.timeout(60):
        before: int = ssh._send_seq
        done = await ssh.run("cat", input="hello")
        assert done.stdout == "hello"
        # open, exec, data, eof, close; a window adjustment or none
        assert 5 <= ssh._send_seq - before <= 6


@pytest.mark.parametrize("ours", [True, False], ids=["we ask", "sshd asks"])
async def test_new_keys_in_the_middle_of_a_transfer(ours: bool) -> None:
    """RFC 4253, 9: meanwhile only packets of the exchange may be sent, and those that wait come afterwards, in order."""
    server = Sshd(extra=() if ours else ("RekeyLimit 100K",))
    try:
        ssh = await asyncssh.connect(
            server.host,
            server.port,
            tunnel=Way(),
            known_hosts=asyncssh.import_known_hosts(server.known_hosts),
            username=server.me,
            client_keys=[server.client_key],
            config=None,
            **({"rekey_bytes": 100_000} if ours else {}),
        )
        exchanges = 0
        new_keys = ssh.send_newkeys

        def count(*arguments: Any) -> None:
            nonlocal exchanges
            exchanges += 1
            new_keys(*arguments)

        ssh.send_newkeys = count
        sent = bytes(range(256)) * 8192
        async with ssh, asyncio.timeout(60):
            done = await ssh.run("cat", input=sent, encoding=None)
            assert done.stdout == sent
        assert exchanges > 5
    finally:
        server.close()
