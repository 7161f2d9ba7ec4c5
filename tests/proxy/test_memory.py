"""However much goes through and however slowly it is read, the proxy's process stays small: measured from outside, in a process of its own."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sshd import Sshd

ROOT = Path(__file__).parents[2]
MIB = 2**20
BLOCK = bytes(256) * 1024  # 256 KiB
CHUNK = b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK)
BOUND = 16 * MIB
"""How much a process may grow while far more goes through it: its buffers, a channel's window, what the allocator keeps."""

SIZE = int(os.environ.get("BATCHHUB_TEST_MIB", "512")) * MIB
"""How much goes through. docs/performance.md has figures for 10 GiB, by hand."""

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def resident(pid: int, name: str) -> int:
    """VmRSS: what it holds; VmHWM: the most it ever held; in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@contextmanager
def proxy(tmp_path: Path, port: int, *ssh: str) -> Iterator[tuple[int, int]]:
    """Its process and its port."""
    argv = [sys.executable, "-m", "tests.proxy.pump", str(tmp_path), str(port), *ssh]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.stdin.close()
            assert process.wait(20) == 0


class Flow:
    """So much in one direction, by a thread that writes and a reader that begins only when the writer has come to a halt."""

    def __init__(self, sender: socket.socket, count: int, block: bytes) -> None:
        self.sent = 0
        self._thread = threading.Thread(target=self._send, args=(sender, count, block), daemon=True)
        self._thread.start()

    def _send(self, sender: socket.socket, count: int, block: bytes) -> None:
        for _ in range(count):
            sender.sendall(block)
            self.sent += 1

    def read(self, reader: socket.socket, size: int) -> int:
        """Returns how many blocks were on their way before a byte was read."""
        before, still = -1, 0
        while still < 25:
            still = still + 1 if self.sent == before else 0
            before = self.sent
            time.sleep(0.01)
        buffer = bytearray(MIB)
        while size > 0:
            got = reader.recv_into(buffer, min(size, MIB))
            assert got, "the stream ended early"
            size -= got
        self._thread.join(30)
        return before


def head(stream: socket.socket) -> bytes:
    """Up to the empty line and no further."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += stream.recv(1)
    return data


def download(client: socket.socket, app: Callable[[], socket.socket], count: int) -> None:
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    there = app()
    head(there)
    there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * len(BLOCK)))
    flow = Flow(there, count, BLOCK)
    assert b" 200 " in head(client)
    assert flow.read(client, count * len(BLOCK)) < count


def upload(client: socket.socket, app: Callable[[], socket.socket], count: int) -> None:
    """In chunks, which are taken apart and put together again."""
    client.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    flow = Flow(client, count, CHUNK)
    there = app()
    head(there)
    assert flow.read(there, count * len(BLOCK)) < count
    client.sendall(b"0\r\n\r\n")
    there.sendall(OK)
    assert b" 200 " in head(client)


def upload_with_length(client: socket.socket, app: Callable[[], socket.socket], count: int) -> None:
    client.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (count * len(BLOCK)))
    flow = Flow(client, count, BLOCK)
    there = app()
    head(there)
    assert flow.read(there, count * len(BLOCK)) < count
    there.sendall(OK)
    assert b" 200 " in head(client)


def both_ways(client: socket.socket, app: Callable[[], socket.socket], count: int) -> None:
    """After an upgrade, where bytes take the short way: one direction after the other, while the other one is full."""
    client.sendall(UPGRADE)
    there = app()
    head(there)
    there.sendall(SWITCH)
    head(client)
    up, down = Flow(client, count, BLOCK), Flow(there, count, BLOCK)
    assert up.read(there, count * len(BLOCK)) < count
    assert down.read(client, count * len(BLOCK)) < count


Scene = Callable[[socket.socket, Callable[[], socket.socket], int], None]
SCENES = pytest.mark.parametrize("scene", [download, upload, both_ways])


def play(scene: Scene, tmp_path: Path, size: int, *ssh: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        with proxy(tmp_path, listening.getsockname()[1], *ssh) as (pid, port):
            made: list[socket.socket] = []

            def app() -> socket.socket:
                made.append(listening.accept()[0])
                made[-1].settimeout(60)
                return made[-1]

            def run(count: int) -> None:
                with socket.create_connection(("127.0.0.1", port), 60) as client:
                    scene(client, app, count)
                    made.pop().close()

            with socket.create_connection(("127.0.0.1", port), 60) as client:  # once, so that everything is loaded
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                there = app()
                head(there)
                there.sendall(OK)
                assert b" 200 " in head(client)
                made.pop().close()
            before = resident(pid, "VmRSS")
            run(size // len(BLOCK))
            assert resident(pid, "VmHWM") - before < BOUND


@pytest.mark.parametrize("scene", [download, upload, upload_with_length, both_ways])
def test_much_each_way_in_constant_memory(scene: Scene, tmp_path: Path) -> None:
    play(scene, tmp_path, SIZE)


@SCENES
def test_the_same_through_an_ssh_channel(scene: Scene, tmp_path: Path) -> None:
    server = Sshd()
    try:
        ssh = {
            "host": server.host,
            "port": server.port,
            "known_hosts": server.known_hosts,
            "client_keys": [server.client_key],
        }
        play(scene, tmp_path, 128 * MIB, json.dumps(ssh))
    finally:
        server.close()
