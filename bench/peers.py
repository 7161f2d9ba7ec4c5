"""Who is measured: ours as a user starts it, configurable-http-proxy (CHP), nginx and HAProxy, each as well set up as one process can be.

All forward ``/user/…`` to the same application over kept connections, pass WebSockets, write no access log and listen on loopback.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import PYTHON, installed, program, raise_file_limit, running, said
from tests.ports import free_ports

HERE = Path(__file__).parent
TOKEN = "benchmark-token-0123456789abcdef"
SECRET = {"CONFIGPROXY_AUTH_TOKEN": TOKEN}
CHP = "configurable-http-proxy@5"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of a peer listens, what it forwards to, and a directory of its own."""

    port: int
    api: int
    application: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy. ``prepare`` writes its configuration and gives its command; without ``api`` the routes stand in that configuration."""

    name: str
    prepare: Callable[[Place], list[str]]
    version: str = ""
    api: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that listens."""

    name: str
    pid: int
    place: Place


@contextlib.contextmanager
def started(peer: Peer, application: int, core: int, directory: Path) -> Iterator[Running]:
    """The peer on this core, with a route to the application."""
    place = Place(*free_ports(2), application, directory)
    directory.mkdir()
    ports = [place.api, place.port] if peer.api else [place.port]
    with running(peer.prepare(place), core, ports, peer.secrets) as pid:
        if peer.api:
            add_route(place.api, "/user/bench", application)
        yield Running(peer.name, pid, place)


def add_route(api: int, path: str, application: int, **fields: object) -> None:
    """One route, as a hub adds it."""
    body = json.dumps({"target": f"http://127.0.0.1:{application}", **fields}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{api}/api/routes{path}", body, {"Authorization": f"token {TOKEN}"}, method="POST"
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(request, timeout=20).close()


# ---------------------------------------------------------------- ours

VERSION = installed("batchhub").get("batchhub", "this checkout")
LOCAL = {"here": {"scheduler": "local"}}


def ours() -> Peer:
    """The command in CHP's place: supervisor and one worker, no access log, routes in memory."""

    def prepare(place: Place) -> list[str]:
        listen = ["--ip=127.0.0.1", f"--port={place.port}", "--api-ip=127.0.0.1", f"--api-port={place.api}"]
        return [PYTHON, "-m", "batchhub", "proxy", *listen, "--log-level=error"]

    return Peer("ours", prepare, VERSION, api=True, secrets=SECRET)


def ours_checked() -> Peer:
    """The command beside a hub of ours, whose routes belong to somebody: tickets are checked, routes are kept on disk."""
    return Peer("ours_checked", lambda place: _with_configuration(place, LOCAL), VERSION, api=True, secrets=SECRET)


def ours_tunnelled(host: str, port: int, known_hosts: str, key: str, account: str) -> Peer:
    """The same with a cluster behind a login node, so with tunnels of kind ``login``."""
    ssh = {
        "host": host,
        "port": port,
        "known_hosts": known_hosts,
        "client_keys": [key],
        "service_username": account,
    }
    table = {"far": {"transport": "ssh", "ssh": ssh, "tunnel": "login"}}
    return Peer("ours", lambda place: _with_configuration(place, table), VERSION, api=True, secrets=SECRET)


def _with_configuration(place: Place, clusters: Mapping[str, object]) -> list[str]:
    path = place.directory / "batchhub_config.py"
    state = place.directory / "state"
    lines = [
        "c = get_config()",
        f"c.BatchHub.clusters = {clusters!r}",
        f"c.BatchHub.state_dir = {str(state)!r}",
        f"c.Proxy.api_port = {place.api}",
    ]
    path.write_text("\n".join(lines) + "\n")
    options = [f"--config={path}", "--ip=127.0.0.1", f"--port={place.port}", "--log-level=error"]
    return [PYTHON, "-m", "batchhub", "proxy", *options]


def ticket_key(place: Place) -> bytes:
    """What a running proxy of ours signs and checks its access cookies with."""
    return bytes.fromhex((place.directory / "state" / "tickets.key").read_text().strip())


# ---------------------------------------------------------------- CHP


def chp() -> tuple[Peer | None, str]:
    """CHP, installed at the first call; or why there is none."""
    node, npm = program("node"), program("npm")
    if node is None:
        return None, "CHP: node is not installed: apt-get install nodejs npm"
    package = HERE / "node_modules" / "configurable-http-proxy"
    if not package.exists():
        if npm is None:
            return None, "CHP: npm is not installed: apt-get install npm"
        argv = [npm, "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", f"--prefix={HERE}", CHP]
        try:
            done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            return None, f"CHP: npm did not install {CHP} within five minutes"
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return None, f"CHP: npm could not install {CHP}: {last}"
    script = str(package / "bin" / "configurable-http-proxy")

    def prepare(place: Place) -> list[str]:
        listen = ["--ip=127.0.0.1", f"--port={place.port}", "--api-ip=127.0.0.1", f"--api-port={place.api}"]
        return [node, script, *listen, "--log-level=error"]

    own = str(json.loads((package / "package.json").read_text())["version"])
    engine = said([node, "--version"], r"v([\d.]+)")
    return Peer("chp", prepare, f"{own} on Node {engine}", api=True, secrets={**SECRET, "NODE_ENV": "production"}), ""


# ---------------------------------------------------------------- nginx and HAProxy

NGINX = """\
daemon off; master_process off; worker_processes 1;
pid {directory}/pid; error_log stderr crit;
events {{ worker_connections {descriptors}; }}
http {{
  access_log off; tcp_nodelay on; client_max_body_size 0;
  keepalive_timeout 600; keepalive_requests 100000000;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream application {{ server 127.0.0.1:{application}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location /user/ {{
      proxy_pass http://application; proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_read_timeout 1h; proxy_send_timeout 1h;
    }}
  }}
}}
"""

HAPROXY = """\
global
  nbthread 1
  maxconn {clients}
defaults
  mode http
  option http-keep-alive
  option forwardfor
  http-reuse always
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend public
  bind 127.0.0.1:{port} backlog 1024
  default_backend application
backend application
  server one 127.0.0.1:{application}
"""


def nginx() -> tuple[Peer | None, str]:
    """nginx, one worker; or why there is none."""
    path = program("nginx")
    if path is None:
        return None, "nginx is not installed: apt-get install nginx-light"

    def prepare(place: Place) -> list[str]:
        file = _write(place, "nginx.conf", NGINX)
        return [path, "-p", str(place.directory), "-c", str(file), "-e", "stderr"]

    return Peer("nginx", prepare, said([path, "-v"], r"nginx/([\d.]+)")), ""


def haproxy() -> tuple[Peer | None, str]:
    """HAProxy, one thread; or why there is none."""
    path = program("haproxy")
    if path is None:
        return None, "HAProxy is not installed: apt-get install haproxy"

    def prepare(place: Place) -> list[str]:
        return [path, "-db", "-q", "-f", str(_write(place, "haproxy.cfg", HAPROXY))]

    return Peer("haproxy", prepare, said([path, "-v"], r"version ([\d.]+)")), ""


def _write(place: Place, name: str, template: str) -> Path:
    file = place.directory / name
    descriptors = min(raise_file_limit(), 16000)
    clients = descriptors // 2 - 100  # each has a connection to the application beside its own
    values = {"directory": place.directory, "port": place.port, "application": place.application}
    file.write_text(template.format(descriptors=descriptors, clients=clients, **values))
    return file


def find_peers(names: Sequence[str]) -> tuple[list[Peer], list[str]]:
    """Those of these who are here, ours first; and why the others are not."""
    found, skipped = [ours()], []
    for name, look in (("chp", chp), ("nginx", nginx), ("haproxy", haproxy)):
        if name not in names:
            continue
        peer, why = look()
        if peer is None:
            skipped.append(why)
        else:
            found.append(peer)
    return found, skipped
