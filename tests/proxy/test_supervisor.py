"""Supervisor and workers as processes: what one does to the others, and what clients notice of it (as a rule, nothing)."""

import asyncio
import os
import signal
import ssl
from pathlib import Path

import psutil
import pytest

from tests.ports import free_ports
from tests.proxy.certificates import Authority
from tests.proxy.harness import App, parse, read_head, running
from tests.proxy.processes import Running, proxy, talk, until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # of the test; that of the processes is their own

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA" + "I" + "A" * 43


class Load:
    """Short requests without a pause, each over a connection of its own and all of them over one that is kept; none may fail."""

    def __init__(self, w: Running) -> None:
        self._w = w
        self._stop = asyncio.Event()
        self.done = 0
        self.failed: list[str] = []
        self._tasks = [asyncio.ensure_future(work()) for work in (self._fresh, self._fresh, self._kept)]

    async def _fresh(self) -> None:
        while not self._stop.is_set():
            try:
                status, body = await self._w.get("/open/x")
            except (OSError, IndexError, asyncio.IncompleteReadError) as error:
                self.failed.append(repr(error))
                return
            self._count(status, body)

    async def _kept(self) -> None:
        """As a browser does: the connection is used until the proxy says that it closes it."""
        while not self._stop.is_set():
            reader, writer = await self._w.connect()
            close = False
            while not close and not self._stop.is_set():
                writer.write(b"GET /open/x HTTP/1.1\r\nHost: hub.test\r\n\r\n")
                try:
                    async with asyncio.timeout(60):
                        status, headers, _ = parse(await reader.readuntil(b"\r\n\r\n"))
                        self._count(status, await reader.readexactly(2))
                except (OSError, asyncio.IncompleteReadError) as error:
                    self.failed.append(f"kept: {error!r}")
                    return
                close = headers.get("connection") == "close"
            writer.close()

    def _count(self, status: int, body: bytes) -> None:
        self.done += 1
        if (status, body) != (200, b"ok"):
            self.failed.append(f"{status} {body[:80]!r}")

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


async def test_a_reload_cuts_nothing_and_refuses_nobody(tmp_path: Path) -> None:
    finish = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl")
        await finish.wait()
        writer.write(b"ow")

    async with (
        running(App(serve=talk)) as app,
        running(App(serve=slow)) as slow_app,
        proxy(tmp_path, workers=2) as w,
    ):
        await w.route("/open", app)
        await w.route("/slow", slow_app)
        await w.route("/user/alice", app, owner="alice")
        supervisor, old = w.process.pid, w.workers()
        mine = await w.sockets_in_both("/user/alice/ws", w.ticket())
        other = await w.socket("/user/alice/ws", w.ticket(session="s2"))
        half, half_writer = await w.connect()
        half_writer.write(b"GET /slow HTTP/1.1\r\nHost: hub.test\r\n\r\n")
        assert (await half.readuntil(b"\r\n\r\nsl")).startswith(b"HTTP/1.1 200 ")
        load = Load(w)
        await until(lambda: load.done > 20 or load.failed, "the load runs")

        w.config(workers=1, metrics_port=0)  # the configuration is read anew
        await w.reload()
        assert w.process.pid == supervisor
        after = load.done
        await until(lambda: load.done > after + 50 or load.failed, "the load goes on")
        await load.end()
        assert load.failed == []
        assert set(old) < set(w.workers())
        assert len(w.workers()) == 3

        # What was open is still open, in the old workers; the request that was under way is finished.
        for socket in (*mine.values(), other):
            await socket.echo()
        finish.set()
        assert await asyncio.wait_for(half.readexactly(2), 60) == b"ow"
        half_writer.close()

        # New requests are the new one's: the old ones no longer listen.
        for pid in old:
            os.kill(pid, signal.SIGSTOP)
        assert await w.get("/open/x") == (200, b"ok")
        for pid in old:
            os.kill(pid, signal.SIGCONT)

        # A session that ends ends in the old ones too; others' stay.
        assert (await w.api("POST", "/api/revocations", {"session": "s1"}))[0] == 204
        for socket in mine.values():
            await socket.cut()
        await other.echo()

        # With its last connection an old worker is gone; what it counted is not.
        other.writer.close()
        await until(lambda: len(w.workers()) == 1, "the old workers end")
        assert w.process.poll() is None
        assert set(w.workers()).isdisjoint(old)
        _, metrics = await w.api("GET", "/api/metrics")
        lines = dict(line.rsplit(" ", 1) for line in metrics.decode().splitlines() if line[:1] != "#")
        assert float(lines['batchhub_proxy_requests_total{code="200",method="GET"}']) == load.done + 2
        assert float(lines['batchhub_proxy_requests_total{code="101",method="GET"}']) == 3
        assert "Traceback" not in w.log()


async def test_what_cannot_start_replaces_nothing(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path) as w:
        await w.route("/open", app)
        socket, workers = await w.socket("/open/ws"), w.workers()
        good = (tmp_path / "batchhub_config.py").read_text()
        (tmp_path / "batchhub_config.py").write_text(good + "c.Proxy.worker = 3\n")
        w.process.send_signal(signal.SIGUSR2)
        await until(lambda: "Not reloaded" in w.log(), "it is said")
        assert "worker" in w.log().partition("Not reloaded")[2]
        assert w.workers() == workers
        await socket.echo()
        assert (await w.api("GET", "/api/routes/open"))[0] == 200

        # Good when it was tried, and not when the workers start: those of before go on until it is good again.
        trap = tmp_path / "trap"
        (tmp_path / "batchhub_config.py").write_text(
            good
            + f"import os\nif os.path.exists({str(trap)!r}) and 'BATCHHUB_PROXY_WORKER' in os.environ: raise OSError('no')\n"
        )
        trap.touch()
        w.process.send_signal(signal.SIGUSR2)
        await until(lambda: "cannot serve" in w.log(), "it is said")
        await socket.echo()
        assert await w.get("/open/x") == (200, b"ok")
        assert workers[0] in w.workers()
        assert (await w.api("POST", "/api/routes/more", {"target": "http://127.0.0.1:1"}))[0] == 201
        trap.unlink()
        await until(lambda: "takes nothing new" in w.log(), "the new one serves at last")
        await socket.echo()
        assert (await w.get("/more"))[0] == 503, "a route of meanwhile is known"
        socket.writer.close()
        await until(lambda: workers[0] not in w.workers(), "the old one ends")


async def test_a_killed_worker_cuts_its_own_clients_alone(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path, workers=2) as w:
        await w.route("/open", app)
        sockets = await w.sockets_in_both("/open/ws")
        dead, alive = sockets
        os.kill(dead, signal.SIGKILL)
        await sockets[dead].cut()
        await sockets[alive].echo()
        assert await w.get("/open/x") == (200, b"ok")
        fresh = await until(lambda: [pid for pid in w.workers() if pid not in sockets], "another is started")
        assert f"worker {w.log().partition(f' (pid {dead}) ended (signal 9)')[0][-1]} (pid {dead})" in w.log()
        # It has the routes, whole: the other one is stopped.
        os.kill(alive, signal.SIGSTOP)
        assert await w.get("/open/x") == (200, b"ok")
        os.kill(alive, signal.SIGCONT)
        assert len(fresh) == 1
        sockets[alive].writer.close()


async def test_without_a_supervisor_there_are_no_workers(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path, workers=2) as w:
        await w.route("/open", app)
        workers = w.workers()
        socket = await w.socket("/open/ws")
        w.process.kill()
        await socket.cut()
        await until(lambda: not any(map(psutil.pid_exists, workers)), "the workers end")


async def test_ten_thousand_routes(tmp_path: Path) -> None:
    """Through the control API, into both workers; found after a restart."""
    count, callers = 10_000, 8
    async with running(App(serve=talk)) as app:
        async with proxy(tmp_path, workers=2) as w:

            async def each(call, numbers) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", w.api_port)
                for number in numbers:
                    await call(reader, writer, number)
                writer.close()

            async def add(reader, writer, number: int) -> None:
                path = f"/api/routes/user/u{number}"
                body = {"target": f"http://127.0.0.1:{app.port if number % 1000 == 7 else 1}"}
                assert (await w.ask(reader, writer, "POST", path, body))[0] == 201

            async def remove(reader, writer, number: int) -> None:
                assert (await w.ask(reader, writer, "DELETE", f"/api/routes/user/u{number}"))[0] == 204

            await asyncio.gather(*(each(add, range(first, count, callers)) for first in range(callers)))
            assert len((await w.api("GET", "/api/routes"))[1]) == count + 1, "and the hub's"
            first, second = w.workers()
            for stopped in (first, second):
                os.kill(stopped, signal.SIGSTOP)
                assert await w.get("/user/u4007/x") == (200, b"ok")
                assert (await w.get("/user/u4008/x"))[0] == 503
                os.kill(stopped, signal.SIGCONT)
            await asyncio.gather(*(each(remove, range(first, count // 2, callers)) for first in range(callers)))
            assert (await w.get("/user/u4007/x"))[0] == 503, "the hub's route, and no hub"
        w.start()
        await until(lambda: w.ready() > 1, "the proxy is ready again")
        try:
            assert len((await w.api("GET", "/api/routes"))[1]) == count // 2 + 1
            assert await w.get("/user/u9007/x") == (200, b"ok")
        finally:
            await w.stop()


async def test_use_of_a_route_is_told_by_the_worker_that_saw_it(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path, workers=2) as w:
        await w.route("/open", app, server_id="abc")
        sockets = await w.sockets_in_both("/open/ws")

        async def seen() -> str:
            return (await w.api("GET", "/api/routes/open"))[1]["last_activity"]

        for socket in sockets.values():
            before = await seen()
            while await seen() <= before:
                await socket.echo()
        idle = (await w.api("GET", f"/api/routes?inactiveSince={await seen()}"))[1]
        assert list(idle) == ["/"]
        before = (await w.api("GET", "/api/routes/open"))[1]["last_act"]
        assert before < await seen(), "what comes through a WebSocket is no act"
        reader, writer = await w.connect()
        writer.write(b"POST /open/x HTTP/1.1\r\nHost: hub.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert parse(await reader.read())[0] == 200
        writer.close()
        assert (await w.api("GET", "/api/routes/open"))[1]["last_act"] > before
        for socket in sockets.values():
            socket.writer.close()


async def test_a_certificate_is_renewed_for_new_connections(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    one, other = Authority(tmp_path / "tls", "one"), Authority(tmp_path / "tls", "other")
    first, renewed = (ssl.create_default_context(cafile=str(authority.file)) for authority in (one, other))
    chain, key = one.sign("hub", "hub.test")
    async with (
        running(App(serve=talk)) as app,
        proxy(tmp_path, workers=2, ssl_cert=str(chain), ssl_key=str(key)) as w,
    ):
        await w.route("/open", app)

        async def get(trust: ssl.SSLContext) -> int:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", w.port, ssl=trust, server_hostname="hub.test", limit=2**20
            )
            writer.write(b"GET /open/x HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n\r\n")
            status = parse(await reader.read())[0]
            writer.close()
            return status

        assert await get(first) == 200
        kept, kept_writer = await asyncio.open_connection("127.0.0.1", w.port, ssl=first, server_hostname="hub.test")
        chain.write_text("nonsense")
        w.process.send_signal(signal.SIGHUP)
        await until(lambda: "certificates in use stay" in w.log(), "it is said")
        assert await get(first) == 200

        assert other.sign("hub", "hub.test") == (chain, key), "in the same files"
        w.process.send_signal(signal.SIGHUP)
        await until(lambda: "New connections get the certificates" in w.log(), "it is said")
        for stopped in w.workers():
            os.kill(stopped, signal.SIGSTOP)
            assert await get(renewed) == 200
            os.kill(stopped, signal.SIGCONT)
        with pytest.raises(ssl.SSLError):
            await get(first)
        kept_writer.write(b"GET /open/x HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n\r\n")
        assert parse(await kept.read())[0] == 200
        kept_writer.close()


async def test_too_many_clients_are_told_so(tmp_path: Path) -> None:
    """With few files allowed: those beyond the room hear it, nobody spins, and a place that is free again is given."""
    async with running(App(serve=talk)) as app, proxy(tmp_path, limit=148) as w:
        assert "may have 148 files open: room for 10 client connections" in w.log()
        assert "raise the hard limit of open files to 40128" in w.log()
        await w.route("/open", app)
        sockets = [await w.socket("/open/ws") for _ in range(10)]
        refused = [await w.connect() for _ in range(200)]
        answers = []
        for reader, writer in refused:
            try:
                answers.append((await asyncio.wait_for(reader.read(12), 60)).decode())
            except ConnectionResetError:
                answers.append("")
            writer.close()
        assert set(answers) <= {"HTTP/1.1 503", ""}
        assert answers.count("HTTP/1.1 503") >= 50
        await until(lambda: "turned away" in w.log(), "it is said")
        assert w.log().count("turned away") == 1
        assert "system resource" not in w.log()
        for socket in sockets:
            await socket.echo()
        sockets[0].writer.close()

        async def again() -> bool:
            return (await w.get("/open/x"))[0] == 200

        for _ in range(500):
            if await again():
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("no place is given again")
        for socket in sockets[1:]:
            socket.writer.close()


async def test_offers_and_what_else_the_control_api_says(tmp_path: Path) -> None:
    async with running(App(serve=talk)) as app, proxy(tmp_path, workers=2) as w:
        assert (await w.api("POST", "/api/offers/abc", {"key": KEY + " a comment"}))[0] == 201
        assert await w.api("GET", "/api/offers") == (200, {"offers": {"abc": KEY}})
        for name, body in (
            ("a%20b", {"key": KEY}),
            ("x", {}),
            ("x", {"key": "ssh-rsa AAAA"}),
            ("x", {"key": KEY[:-4]}),
        ):
            assert (await w.api("POST", f"/api/offers/{name}", body))[0] == 400
        assert (await w.api("DELETE", "/api/offers/abc"))[0] == 204
        assert (await w.api("DELETE", "/api/offers/abc"))[0] == 404
        tunnels = (await w.api("GET", "/api/tunnels"))[1]["tunnels"]
        assert sorted(tunnel["worker"] for tunnel in tunnels) == sorted(w.workers())
        probe = {"target": f"http://127.0.0.1:{app.port}", "probe": "/x"}
        for _ in range(2):
            assert await w.api("POST", "/api/probe", probe) == (200, {"status": 200})
        status, answer = await w.api("POST", "/api/probe", {**probe, "target": "http://127.0.0.1:1"})
        assert (status, "cannot be reached" in answer["message"]) == (503, True)
        assert (await w.api("POST", "/api/probe", {**probe, "probe": "/\0"}))[0] == 400
        question = {"target": probe["target"], "path": "/x", "ask": {"path": "/x/y", "method": "GET"}}
        for _ in range(2):
            assert await w.api("POST", "/api/ask", question) == (200, {"status": 200, "body": "b2s="})
        assert (await w.api("POST", "/api/ask", {**question, "target": "http://127.0.0.1:1"}))[0] == 503
        assert (await w.api("POST", "/api/ask", {**question, "path": "/z"}))[0] == 400


async def test_a_worker_that_cannot_start_is_said_in_a_sentence(tmp_path: Path) -> None:
    w = Running(tmp_path, *free_ports(2))
    w.config("import os\nif 'BATCHHUB_PROXY_WORKER' in os.environ: raise OSError('no such luck')")
    w.start()
    await until(lambda: w.process.poll() is not None, "the proxy ends")
    assert w.process.returncode == 2
    assert "The proxy cannot start: it ended while it started (status 2)" in w.log()
    assert "no such luck" in w.log()
    assert "Traceback" not in w.log()
