"""A small web application, as a program for nodes: ``application.py PORT [ADDRESS]`` or ``application.py /SOCKET``.

It answers with the path it was asked for and the account it runs as. ``…/hang`` never answers, ``…/drip`` begins to, ``…/flood`` sends
without end and ``…/sent`` says how much of that went out. An upgrade is answered with an echo. Standard library only.
"""

import getpass
import http.server
import os
import socket
import socketserver
import sys
import threading

FOREVER = threading.Event()
SENT = [0]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.echo()
        elif self.path.endswith("/hang"):
            FOREVER.wait()
        elif self.path.endswith("/drip"):
            self.begin("Transfer-Encoding", "chunked")
            self.wfile.write(b"5\r\nfirst\r\n")
            FOREVER.wait()
        elif self.path.endswith("/flood"):
            self.begin("Content-Length", str(1 << 40))
            SENT[0] = 0
            while True:
                SENT[0] += self.connection.send(bytes(65536))
        else:
            body = str(SENT[0]) if self.path.endswith("/sent") else self.path + " " + getpass.getuser()
            self.begin("Content-Length", str(len(body)))
            self.wfile.write(body.encode())

    def begin(self, name, value):
        self.send_response(200)
        self.send_header(name, value)
        self.end_headers()

    def echo(self):
        self.send_response(101)
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        while True:
            data = self.connection.recv(65536)
            if not data:
                break
            self.connection.sendall(data)
        self.close_connection = True

    def address_string(self):
        return "client"

    def log_message(self, *_words):
        pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, *_request):
        pass  # a client that has gone


def main():
    where = sys.argv[1]
    if where.startswith("/"):
        Server.address_family = socket.AF_UNIX
        address = where
        os.umask(0o077)
    else:
        address = (sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", int(where))
    with Server(address, Handler) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
