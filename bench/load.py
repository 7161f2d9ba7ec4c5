"""The load: ``python -m bench.load KIND PORT …`` makes one kind of it and prints what it saw as JSON.

Each runs as a process of its own on the load's core. It must cost little, so it is blocking sockets under one epoll and no
HTTP library: an answer is looked at only as far as it takes to know that it is the right one. Whatever is wrong ends it with status 1.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

from bench.application import END, PIECE

MESSAGE = b"\x82\xe4" + b"mask" + b"x" * 100
"""One masked frame of 100 bytes (RFC 6455, 5.2). The application sends it back as it is."""

TIMEOUT = 60.0


class Wrong(Exception):
    """An answer that is not what it must be."""


# ---------------------------------------------------------------- WebSockets


def upgraded(port: int, path: str) -> socket.socket:
    """A connection on which messages can be sent."""
    client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" % path.encode()
    )
    head = b""
    while END not in head:
        data = client.recv(4096)
        if not data:
            break
        head += data
    if not head.startswith(b"HTTP/1.1 101 ") or not head.endswith(END):
        raise Wrong(f"an upgrade was answered with {head[:60]!r}")
    return client


def echo(port: int, path: str, connections: int, seconds: float) -> dict[str, float]:
    """One message in flight on each connection, sent again when it is back."""
    clients = {client.fileno(): client for client in (upgraded(port, path) for _ in range(connections))}
    poll = select.epoll()
    size, count = len(MESSAGE), 0
    sent, missing, late = {}, {}, []
    begun = time.perf_counter()
    ends = begun + seconds
    for descriptor in clients:
        poll.register(descriptor, select.EPOLLIN)
        missing[descriptor], sent[descriptor] = size, time.perf_counter()
        os.write(descriptor, MESSAGE)
    now = begun
    while now < ends:
        for descriptor, _ in poll.poll(TIMEOUT) or _silence():
            missing[descriptor] -= len(os.read(descriptor, 4096) or _cut())
            if not missing[descriptor]:
                now = time.perf_counter()
                late.append(now - sent[descriptor])
                missing[descriptor], sent[descriptor] = size, now
                os.write(descriptor, MESSAGE)
                count += 1
    return _waited(count, now - begun, late)


def idle(port: int, path: str, count: int) -> dict[str, float]:
    """Open, send one message and wait for it on each; say so; keep them open until standard input ends."""
    clients = []
    for _ in range(count):
        client = upgraded(port, path)
        client.sendall(MESSAGE)
        got = 0
        while got < len(MESSAGE):
            got += len(client.recv(4096) or _cut())
        clients.append(client)
    print(json.dumps({"open": count}), flush=True)
    sys.stdin.read()
    return {"open": float(len(clients))}


def _cut() -> bytes:
    raise Wrong("a connection was cut")


def _silence() -> list[tuple[int, int]]:
    raise Wrong("nothing came for a minute")


# ---------------------------------------------------------------- small requests


def requests(port: int, path: str, connections: int, seconds: float, paths: int) -> dict[str, float]:
    """One request in flight on each connection; ``paths``: a random one of so many users' instead of ``path``. In wrk's place."""
    lines = ["", *filter(None, [f"Host: 127.0.0.1:{port}", os.environ.get("BENCH_HEADER", "")]), "", ""]
    tail = b" HTTP/1.1" + "\r\n".join(lines).encode()
    asked = [f"GET /user/u{n}/api/status".encode() + tail for n in range(paths)] or [b"GET %b" % path.encode() + tail]
    chosen = random.Random(1)
    clients = [socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(connections)]
    poll, came, sent, late, count = select.epoll(), {}, {}, [], 0
    begun = now = time.perf_counter()
    for client in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(client.fileno(), select.EPOLLIN)
        came[client.fileno()], sent[client.fileno()] = b"", now
        client.sendall(asked[0])
    while now < begun + seconds:
        for descriptor, _ in poll.poll(TIMEOUT) or _silence():
            came[descriptor] += os.read(descriptor, 65536) or _cut()
            if whole(came[descriptor]):
                if not came[descriptor].startswith(b"HTTP/1.1 200 "):
                    raise Wrong(f"a request was answered with {came[descriptor][:200]!r}")
                now = time.perf_counter()
                late.append(now - sent[descriptor])
                came[descriptor], sent[descriptor] = b"", now
                os.write(descriptor, chosen.choice(asked) if paths else asked[0])
                count += 1
    return _waited(count, now - begun, late)


def _waited(count: int, took: float, late: list[float]) -> dict[str, float]:
    late.sort()
    return {
        "rate": count / took,
        "count": count,
        "took": took,
        "p50_ms": late[len(late) // 2] * 1e3,
        "p99_ms": late[len(late) * 99 // 100] * 1e3,
    }


# ---------------------------------------------------------------- large bodies


def download(port: int, path: str, size: int) -> dict[str, float]:
    """Read a body of this many bytes, to its end."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        begun = time.perf_counter()
        client.sendall(b"GET %b/download/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (path.encode(), size))
        head, rest = _head(client)
        length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
        if not head.startswith(b"HTTP/1.1 200 ") or length is None or int(length[1]) != size:
            raise Wrong(f"a download was answered with {head[:200]!r}")
        got, buffer = len(rest), bytearray(len(PIECE))
        while got < size:
            got += client.recv_into(buffer) or len(_cut())
        return _moved(size, time.perf_counter() - begun)


def upload(port: int, path: str, size: int, chunked: int) -> dict[str, float]:
    """Send a body of this many bytes, and wait for the answer."""
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        begun = time.perf_counter()
        client.sendall(b"POST %b/upload HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % (path.encode(), framing))
        for _ in range(size // len(PIECE)):
            client.sendall(piece)
        if chunked:
            client.sendall(b"0\r\n\r\n")
        head, rest = _head(client)
        took = time.perf_counter() - begun
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Wrong(f"an upload was answered with {head[:200]!r}")
        arrived = int(re.sub(rb"^[0-9a-f]+\r\n|\r\n.*", b"", rest) if b"chunked" in head.lower() else rest)
        if arrived < size:
            raise Wrong(f"of {size} bytes {arrived} arrived")
        return _moved(size, took)


def _moved(size: int, took: float) -> dict[str, float]:
    """Megabytes: a million bytes."""
    return {"rate": size / took / 1e6, "count": size / 1e6, "took": took}


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while END not in data:
        data += client.recv(65536) or _cut()
    head, _, rest = data.partition(END)
    while not rest:
        rest = client.recv(65536) or _cut()
    return head, rest


# ---------------------------------------------------------------- routes


def whole(data: bytes) -> bool:
    """Whether an answer of the control interface has come to its end."""
    head, end, body = data.partition(END)
    low = head.lower()
    if not end:
        return False
    if b"\r\ntransfer-encoding: chunked" in low:
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", low)
    return len(body) >= (int(length[1]) if length else 0)


def route_requests(count: int, target: int, token: str) -> Iterator[bytes]:
    """One POST for each route, as a hub makes them."""
    for number in range(count):
        body = json.dumps(
            {"target": f"http://127.0.0.1:{target}", "user": f"u{number}", "server_name": "", "jupyterhub": True}
        )
        yield (
            f"POST /api/routes/user/u{number} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def routes(api: int, count: int, target: int, connections: int) -> dict[str, float]:
    """Add routes over a few connections that are kept, one request in flight on each: as JupyterHub does, 10 at a time."""
    requests = route_requests(count, target, os.environ["CONFIGPROXY_AUTH_TOKEN"])
    clients = [socket.create_connection(("127.0.0.1", api), TIMEOUT) for _ in range(connections)]
    poll, came = select.epoll(), {}
    begun = time.perf_counter()
    for client in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(client.fileno(), select.EPOLLIN)
        came[client.fileno()] = b""
        client.sendall(next(requests, b""))
    done = 0
    while done < count:
        for descriptor, _ in poll.poll(TIMEOUT) or _silence():
            came[descriptor] += os.read(descriptor, 65536) or _cut()
            if whole(came[descriptor]):
                if not came[descriptor].startswith(b"HTTP/1.1 201 "):
                    raise Wrong(f"a route was answered with {came[descriptor][:200]!r}")
                came[descriptor] = b""
                done += 1
                os.write(descriptor, next(requests, b""))
    took = time.perf_counter() - begun
    return {"rate": count / took, "count": count, "took": took}


# ---------------------------------------------------------------- the program

KINDS: dict[str, Callable[..., dict[str, float]]] = {
    "requests": requests,
    "echo": echo,
    "idle": idle,
    "download": download,
    "upload": upload,
    "routes": routes,
}


def main() -> None:
    kind, *words = sys.argv[1:]
    try:
        seen = KINDS[kind](*(word if word.startswith("/") else int(word) for word in words))
    except (Wrong, OSError) as error:
        raise SystemExit(f"The load {kind!r} failed: {error}") from error
    if kind != "idle":
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
