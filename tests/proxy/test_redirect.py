"""The port that sends plain HTTP on to https."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from batchhub.proxy.redirect import Redirects
from batchhub.proxy.settings import Redirect
from tests.proxy.harness import parse


@asynccontextmanager
async def listening(to: int) -> AsyncIterator[tuple[Redirects, int]]:
    redirects = Redirects(Redirect(1, to))
    own = socket.create_server(("127.0.0.1", 0))
    await redirects.start([own])
    try:
        yield redirects, own.getsockname()[1]
    finally:
        redirects.close()


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("to", "host", "target", "address"),
    [
        (443, "hub.test", "/a/b?c=%20d", "https://hub.test/a/b?c=%20d"),
        (443, "hub.test:80", "/", "https://hub.test/"),
        (8443, "hub.test:80", "/a", "https://hub.test:8443/a"),
        (8443, "[::1]:80", "/a", "https://[::1]:8443/a"),
        (8443, "[::1]", "/a", "https://[::1]:8443/a"),
        (443, "hub.test", "//evil.test/", "https://hub.test//evil.test/"),
    ],
)
async def test_the_same_address_by_https(to: int, host: str, target: str, address: str) -> None:
    async with listening(to) as (_, port):
        answer = await ask(port, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        status, headers, _ = parse(answer)
        assert (status, headers["location"], headers["connection"]) == (301, address, "close")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 20000, 431),
    ],
)
async def test_what_cannot_be_read_is_refused(data: bytes, status: int) -> None:
    async with listening(443) as (_, port):
        answer = await ask(port, data)
        assert parse(answer)[0] == status
        assert b"location" not in answer.lower()


async def test_the_end_cuts_whoever_is_still_talking() -> None:
    async with listening(443) as (redirects, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HT")
        while not redirects.open:
            await asyncio.sleep(0.005)
        redirects.close()
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        assert await _emptied(redirects)


async def _emptied(redirects: Redirects) -> bool:
    for _ in range(1000):
        if not redirects.open:
            return True
        await asyncio.sleep(0.005)
    return False
