"""A proxy in a process of its own, so that its memory can be measured: ``python -m tests.proxy.pump STATE PORT [SSH]``.

It prints its port and serves until its input ends. Everything goes to PORT; if SSH (the settings of a connection as JSON) is given,
through a tunnel.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from batchhub.core.ports import Tunnel
from batchhub.proxy.book import read_route
from batchhub.proxy.server import Proxy
from batchhub.transport.pool import SSHPool
from batchhub.transport.settings import SSHSettings
from batchhub.tunnel.login import LoginTunnel
from tests.proxy.harness import settings


def now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - a program of its own


async def nobody(_token: str, _path: str) -> None:
    return None


async def main(state: str, port: str, ssh: str = "") -> None:
    tunnels: dict[tuple[str, str], Tunnel] = {}
    fields: dict[str, object] = {"target": f"http://127.0.0.1:{port}"}
    if ssh:
        read = json.loads(ssh)
        chosen = SSHSettings(**{**read, "client_keys": tuple(read["client_keys"])})
        tunnels["c1", "login"] = LoginTunnel(SSHPool(chosen, now))
        fields["tunnel"] = {"cluster": "c1", "kind": "login", "account": "alice"}
        fields["endpoint"] = {"host": "127.0.0.1", "port": int(port)}
    proxy = Proxy(settings(Path(state)), tunnels=tunnels, token_checker=nobody, clock=now)
    await proxy.start()
    proxy.context.book.add(read_route("/", fields, now()))
    print(proxy.public_port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await proxy.close()
    for tunnel in tunnels.values():
        await tunnel.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
