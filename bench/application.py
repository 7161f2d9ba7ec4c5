"""The application behind every proxy: ``python -m bench.application PORT``. It must cost little, so that the proxy is the limit.

One loop over epoll answers small requests with the same few bytes and echoes after an upgrade, without parsing more than it must.
``…/download/N`` sends N bytes, a POST takes a body of any framing and answers with the bytes that came; each in a thread of its own.
"""

from __future__ import annotations

import os
import re
import select
import socket
import sys
import threading

BODY = b'{"started": "2026-01-01T00:00:00Z", "connections": 1, "kernels": 2}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
PIECE = b"x" * (256 * 1024)
END = b"\r\n\r\n"


class Application:
    """Connections by file descriptor; those in ``raw`` were upgraded."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.open: dict[int, socket.socket] = {}
        self.raw: set[int] = set()
        self.begun: dict[int, bytes] = {}
        self.poll = select.epoll()
        self.poll.register(listener.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """For ever."""
        listening = self.listener.fileno()
        while True:
            for descriptor, _ in self.poll.poll():
                if descriptor == listening:
                    self.accept()
                    continue
                try:
                    data = os.read(descriptor, 65536)
                    if not data:
                        self.close(descriptor)
                    elif descriptor in self.raw:
                        os.write(descriptor, data)
                    else:
                        self.request(descriptor, data)
                except OSError:
                    self.close(descriptor)

    def accept(self) -> None:
        """A new connection."""
        client, _ = self.listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open[client.fileno()] = client
        self.poll.register(client.fileno(), select.EPOLLIN)

    def close(self, descriptor: int) -> None:
        """An ended one."""
        self.raw.discard(descriptor)
        self.begun.pop(descriptor, None)
        self.open.pop(descriptor).close()

    def request(self, descriptor: int, data: bytes) -> None:
        """A head, or the begin of one."""
        if descriptor in self.begun:
            data = self.begun.pop(descriptor) + data
        if END not in data:
            self.begun[descriptor] = data
        elif data.startswith(b"POST") or b"/download/" in data:
            self.poll.unregister(descriptor)
            client = self.open.pop(descriptor)
            work = take if data.startswith(b"POST") else send
            threading.Thread(target=work, args=(client, data), daemon=True).start()
        elif b"\r\nupgrade: websocket" in data.lower():
            self.raw.add(descriptor)
            os.write(descriptor, SWITCH)
        else:
            os.write(descriptor, ANSWER)


def send(client: socket.socket, head: bytes) -> None:
    """A download."""
    asked = re.search(rb"/download/(\d+)", head)
    left = int(asked[1]) if asked else 0
    with client:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % left)
        while left:
            piece = PIECE if left >= len(PIECE) else PIECE[:left]
            client.sendall(piece)
            left -= len(piece)


def take(client: socket.socket, data: bytes) -> None:
    """An upload. The body is all ``x``, so a chunked one is whole when it ends with the last chunk."""
    head, _, rest = data.partition(END)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    wanted = int(length[1]) if length else None
    got, tail = len(rest), rest[-5:]
    buffer = bytearray(len(PIECE))
    with client:
        while got < wanted if wanted is not None else tail != b"0\r\n\r\n":
            count = client.recv_into(buffer)
            if not count:
                return
            got += count
            tail = (tail + bytes(buffer[max(0, count - 5) : count]))[-5:]
        answer = b"%d" % got
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(answer), answer))


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listener:
        Application(listener).serve()


if __name__ == "__main__":
    main()
