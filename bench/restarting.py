"""A site with many running servers for bench/restart.py: made in the database and the fake cluster, served by real processes."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import requests

from batchhub.app.state import StateDirectory
from batchhub.core.model import Endpoint, JobId, Phase, Server, UserName, new_server_id
from batchhub.core.tickets import Ticket, sign
from batchhub.store.store import Store
from bench.machine import PYTHON, Unfit, environment, raise_file_limit
from tests.e2e.parts import HubUnderTest, python_config
from tests.fakesched.engine import Cluster
from tests.ports import free_port

PATIENCE = 120.0
SEEN = re.compile(r'^batchhub_servers_seen\{cluster="hpc",truth="seen"\} (\S+)$', re.MULTILINE)
NODES = {"n1": {"cores": 100_000}}


def measure(servers: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it. Raises Unfit."""
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="batchhub-restart-") as place, contextlib.ExitStack() as ends:
        directory = Path(place)
        cluster = Cluster(directory / "cluster").create({"nodes": NODES, "users": [getpass.getuser()]})
        ends.callback(cluster.shutdown)
        application = ends.enter_context(_application())
        hub = _hub(directory, cluster)
        ends.callback(hub.stop)
        say(f"putting {servers} servers into the database and the cluster")
        asyncio.run(_fill(hub, cluster, servers, application))
        hub.start()
        _soon(lambda: _seen(hub) == servers, "the first hub has seen every job")
        _soon(lambda: _routes(hub) >= servers, "the first hub has published every route")
        say(f"opening {servers} WebSockets")
        return asyncio.run(_restart(hub, cluster, servers, say))


@contextlib.contextmanager
def _application() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([PYTHON, "-m", "bench.application", str(port)], env=environment())
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _hub(directory: Path, cluster: Cluster) -> HubUnderTest:
    commands = cluster.install("slurm", directory / "bin")
    table = {"scheduler": "slurm", "scheduler_options": {"bin_dir": commands}, "tunnel": "direct"}
    config = python_config(
        {
            "BatchHub.authenticator_class": "dictionary",
            "BatchHub.clusters": {"hpc": table},
            "BatchHub.profiles": [{"name": "lab", "fields": {}}],
        }
    )
    return HubUnderTest(directory, config, debug=False)


async def _fill(hub: HubUnderTest, cluster: Cluster, servers: int, application: int) -> None:
    """Ready servers, each of a person of their own; the jobs are all of the account that runs this, which is all it may act as."""
    me = getpass.getuser()
    ids = cluster.fill(servers, user=me)
    job = cluster.job(ids[0])
    began = datetime.fromtimestamp(job.start, UTC)
    store = Store(StateDirectory.open(str(hub.state)).database, clock=lambda: began)
    await store.open()
    for number, job_id in enumerate(ids):
        await store.add_server(
            Server(
                id=new_server_id(),
                user=UserName(_person(number)),
                name="",
                cluster="hpc",
                profile="lab",
                account=me,
                created=began,
                since=began,
                phase=Phase.READY,
                directory=str(hub.directory),
                job_id=JobId(str(job_id)),
                submit_tried=began,
                submit_count=1,
                host=job.host,
                endpoint=Endpoint("127.0.0.1", application),
                nonce="0" * 32,
                started=began,
                answered=began,
            )
        )
    await store.close()


def _person(number: int) -> str:
    return f"person{number}"


async def _restart(hub: HubUnderTest, cluster: Cluster, servers: int, say: Callable[[str], None]) -> dict[str, Any]:
    sockets = await _open(hub, servers)
    try:
        before = {word: cluster.count(word) for word in ("sbatch", "scancel")}
        say("killing the hub")
        hub.kill_hub()
        asked = cluster.count("squeue")
        first, verified = await asyncio.to_thread(_start_again, hub, cluster, asked, servers)
        await asyncio.to_thread(_settle, hub, cluster)
        cut = servers - sum(await asyncio.gather(*(one.echoes() for one in sockets)))
        return {
            "servers": servers,
            "websockets": len(sockets),
            "first_answer_s": round(first, 3),
            "verified_ticks": verified,
            "cut": cut,
            "submits": cluster.count("sbatch") - before["sbatch"],
            "cancels": cluster.count("scancel") - before["scancel"],
            "routes": _routes(hub),
            "hub_mib": _mib(hub.pid("hub")),
            "proxy_mib": _mib(hub.pid("proxy")),
        }
    finally:
        for one in sockets:
            one.writer.close()


def _start_again(hub: HubUnderTest, cluster: Cluster, asked: int, servers: int) -> tuple[float, int]:
    began = time.monotonic()
    hub.spawn("hub")
    _soon(lambda: _status(hub) == 200, "the hub answers", every=0.01)
    first = time.monotonic() - began
    _soon(lambda: _seen(hub) == servers, "every job was seen again", every=0.01)
    return first, cluster.count("squeue") - asked


def _settle(hub: HubUnderTest, cluster: Cluster) -> None:
    """Two further questions: what is done by mistake after a restart is done by then."""
    asked = cluster.count("squeue")
    _soon(lambda: cluster.count("squeue") >= asked + 2, "the scheduler is asked again")
    if _status(hub) != 200:
        raise Unfit("The hub answers no more.")


@dataclass(slots=True)
class _Socket:
    """A WebSocket as a byte stream: the application echoes what comes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echoes(self) -> bool:
        """Whether it still does."""
        frame = b"\x82\x84\0\0\0\0ping"
        try:
            self.writer.write(frame)
            async with asyncio.timeout(PATIENCE):
                return await self.reader.readexactly(len(frame)) == frame
        except (OSError, EOFError, TimeoutError):
            return False


async def _open(hub: HubUnderTest, servers: int) -> list[_Socket]:
    key = StateDirectory.open(str(hub.state)).key("tickets")
    gate = asyncio.Semaphore(50)

    async def one(number: int) -> _Socket:
        async with gate:
            return await _connect(hub, key, _person(number))

    return list(await asyncio.gather(*(one(number) for number in range(servers))))


async def _connect(hub: HubUnderTest, key: bytes, person: str) -> _Socket:
    now = datetime.now(UTC)  # noqa: TID251 - a program of its own
    path, later = f"/user/{person}/", now + timedelta(hours=1)
    cookie = sign(key, Ticket(person, "0" * 64, path, now, later, later))
    reader, writer = await asyncio.open_connection(hub.host, hub.port)
    head = (
        f"GET {path}api/kernels/x/channels HTTP/1.1\r\nHost: {hub.host}:{hub.port}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Origin: {hub.url}\r\nCookie: batchhub-access={cookie}\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in answer.partition(b"\r\n")[0]:
        raise Unfit(f"No WebSocket for {person}: {answer[:200]!r}")
    return _Socket(reader, writer)


# ---------------------------------------------------------------- looking from outside


def _soon(true: Callable[[], bool], what: str, every: float = 0.1) -> None:
    ends = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > ends:
            raise Unfit(f"Not within {PATIENCE:g} s: {what}.")
        time.sleep(every)


def _status(hub: HubUnderTest) -> int:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{hub.url}/hub/login", timeout=2, allow_redirects=False).status_code
    return 0


def _seen(hub: HubUnderTest) -> int:
    """Servers whose jobs the hub has seen, by its own figures."""
    with contextlib.suppress(requests.RequestException):
        answer = requests.get(f"http://127.0.0.1:{hub.hub_port}/hub/metrics", timeout=5)
        if found := SEEN.search(answer.text):
            return int(float(found[1]))
    return 0


def _routes(hub: HubUnderTest) -> int:
    token = StateDirectory.open(str(hub.state)).api_token
    url = f"http://127.0.0.1:{hub.api_port}/api/routes"
    answer = requests.get(url, headers={"Authorization": f"token {token}"}, timeout=10)
    return sum(path.startswith("/user/") for path in answer.json())


def _mib(pid: int) -> int:
    """Resident, with its children."""
    process = psutil.Process(pid)
    return round(sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20)
