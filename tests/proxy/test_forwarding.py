"""HTTP through the proxy: what goes in comes out, in both directions, and nothing that may not."""

import asyncio
from pathlib import Path

import pytest

from batchhub.proxy.settings import Limits
from tests.proxy.harness import App, parse, read_head, read_request, running, world

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_routes_by_longest_prefix_and_keeps_the_prefix(tmp_path: Path) -> None:
    async with running(App()) as one, running(App()) as two, world(tmp_path) as w:
        w.route("/", one.port)
        w.route("/user/a", two.port)
        await w.get("/user/ab/x?y=1&z=%2e")
        await w.get("/user/a/./x/%2e%2e/y?next=/../z//")
        await w.get("/user/a")
        assert [request.target for request in one.requests] == ["/user/ab/x?y=1&z=%2e"]
        assert [request.target for request in two.requests] == ["/user/a/y?next=/../z//", "/user/a"]


async def test_a_routes_path_is_taken_off_where_the_route_says_so(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/a@b/vs", app.port, strip_prefix=True)
        for path in ("/user/a@b/vs", "/user/a%40b/vs/", "/user/%61@b/vs/x%2Fy/z?q=/user/a@b/vs/"):
            await w.get(path)
        assert [request.target for request in app.requests] == ["/", "/", "/x%2Fy/z?q=/user/a@b/vs/"]


async def test_target_path_is_prepended(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/s", app.port, target=f"http://127.0.0.1:{app.port}/base/")
        await w.get("/s/x")
        assert app.requests[0].target == "/base/s/x"


async def test_request_headers_are_rewritten(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        await w.get(
            "/",
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil",
            "X_Forwarded_For: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
            "X-Real-IP: 6.6.6.6",
            "Proxy: evil",
            "Proxy-Connection: x",
            "Keep-Alive: timeout=5",
            "TE: gzip",
            "Connection: X-Secret, cookie",
            "X-Secret: 1",
            "Cookie: a=b; batchhub-access=x; batchhub-session=y",
            "Authorization: token hubs",
            "X-Kept: Yes",
        )
        request = app.requests[0]
        assert request.headers.pop("x-batchhub-vouched")
        assert request.headers == {
            "host": ["hub.test"],
            "cookie": ["a=b; batchhub-session=y"],
            "authorization": ["token hubs"],
            "x-kept": ["Yes"],
            "x-forwarded-for": ["127.0.0.1"],
            "x-forwarded-proto": ["http"],
            "x-forwarded-host": ["hub.test"],
            "x-forwarded-port": ["80"],
        }


async def test_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, trusted_proxies=("127.0.0.0/8",)) as w:
        w.route("/", app.port)
        await w.get("/", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: hub.example")
        request = app.requests[0]
        assert request.header("x-forwarded-for") == "9.9.9.9, 127.0.0.1"
        assert request.header("x-forwarded-proto") == "https"
        assert request.header("x-forwarded-host") == "hub.example"
        assert request.header("x-forwarded-port") == "443"


async def test_response_headers_are_rewritten(tmp_path: Path) -> None:
    answer = (
        b"HTTP/1.1 207 Multi\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Trailer: x\r\nContent-Length: 2\r\n\r\nok"
    )
    async with running(App(answer=answer)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        raw = await w.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert raw == (
            b"HTTP/1.1 207 Multi\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        )


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (
            "GET",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        ),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
    ],
)
async def test_response_framing_and_keep_alive(tmp_path: Path, method: str, answer: bytes, expected: bytes) -> None:
    async with running(App(answer=answer)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        for _ in range(3):
            writer.write(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert await asyncio.wait_for(reader.readexactly(len(expected)), 5) == expected
        writer.close()
        assert app.connections == 1
        assert len(app.requests) == 3


async def test_body_until_close_becomes_chunked_and_for_http_1_0_ends_with_the_connection(tmp_path: Path) -> None:
    answer = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello"
    async with running(App(answer=answer)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        once = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        assert await asyncio.wait_for(reader.readexactly(2 * len(once)), 5) == once * 2
        writer.close()
        assert await w.raw(b"GET / HTTP/1.0\r\n\r\n") == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
        assert app.requests[-1].header("host") == f"127.0.0.1:{app.port}"


@pytest.mark.parametrize("chunked", [False, True])
async def test_upload(tmp_path: Path, chunked: bool) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        body = bytes(range(256)) * 1000
        if chunked:
            framing = "Transfer-Encoding: chunked"
            sent = b"".join(
                b"%x;a=b\r\n%b\r\n" % (len(body[i : i + 999]), body[i : i + 999]) for i in range(0, len(body), 999)
            )
            sent += b"0\r\nX-Trailer: 1\r\n\r\n"
        else:
            framing, sent = f"Content-Length: {len(body)}", body
        head = f"POST /up HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
        reader, writer = await w.connect()
        data = (head + sent) * 2
        for i in range(0, len(data), 7777):
            writer.write(data[i : i + 7777])
            await writer.drain()
        assert await asyncio.wait_for(reader.readexactly(2 * len(OK)), 5) == OK * 2
        writer.close()
        assert [request.body == body for request in app.requests] == [True, True]


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            body = request.target.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/up", app.port)
        wanted = []
        for number in range(300):
            wanted += [f"/up/{number}", f"/none/{number}"]
        data = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n" for path in wanted[:-1])
        answer = await w.raw(data.encode() + b"GET /up/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [200 if path.startswith("/up") else 404 for path in wanted[:-1]] + [200]
        assert answer.endswith(b"/up/last")


async def test_expect_100_continue_is_the_applications_answer(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_head(reader)
        assert request.header("expect") == "100-continue"
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        body = await reader.readexactly(3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_early_answer_reaches_a_client_that_is_still_sending(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\nabc")
        status, headers, body = parse(await asyncio.wait_for(reader.read(), 5))
        assert (status, headers["connection"], body) == (413, "close", b"big")
        writer.close()


async def test_an_idle_connection_that_died_is_replaced(tmp_path: Path) -> None:
    """The application closes after each answer without having said so."""

    app = App()

    async def serve_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        if app.connections == 1:
            await read_head(reader)  # takes the second request and dies on it

    app.serve = serve_first
    async with running(app), world(tmp_path) as w:
        w.route("/", app.port)
        for _ in range(2):
            assert (await w.get("/"))[0] == 200
        assert app.connections == 2


async def test_only_what_may_be_repeated_goes_over_a_used_connection(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for method in ("GET", "GET", "POST", "GET", "DELETE"):
            assert (await w.get("/", method=method))[0] == 200
        assert app.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"",
    ],
)
async def test_an_unreadable_answer_is_a_502(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        status, headers, body = await w.get("/x")
        assert status == 502
        assert headers["content-type"].startswith("text/html")
        assert b"application" in body


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
    ],
)
async def test_a_truncated_answer_is_seen_to_be_truncated(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        try:
            while data := await asyncio.wait_for(reader.read(1000), 5):
                got += data
        except ConnectionError:
            pass
        writer.close()
        assert not got.endswith(b"0\r\n\r\n")
        assert len(got) < 100


async def test_no_route_no_server_no_hub(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert (await w.get("/x"))[0] == 404
        w.route("/", 1)
        status, headers, body = await w.get("/hub/home", "Accept: text/html")
        assert (status, headers["refresh"]) == (503, "4")
        assert b"hub is restarting" in body
        w.tunnel.fault = "login1 said <b>no</b>"
        w.route("/t", 1, tunnel={"cluster": "c1", "kind": "login", "account": "alice"})
        status, _, body = await w.get("/t")
        assert status == 503
        assert b"login1 said &lt;b&gt;no&lt;/b&gt;" in body
        status, headers, body = await w.get("/t/api/x")
        assert (status, headers["content-type"]) == (503, "application/json")
        w.route("/u", 1, tunnel={"cluster": "c9", "kind": "login", "account": "alice"})
        assert b"no tunnel of kind" in (await w.get("/u"))[2]


async def test_a_tunnel_that_fails_in_its_own_way_still_gets_the_client_an_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as w:
        w.tunnel.bug = "secret detail"
        w.route("/t", 1, tunnel={"cluster": "c1", "kind": "login", "account": "alice"})
        status, _, body = await w.get("/t")
        assert status == 500
        assert b"secret detail" not in body
        assert "secret detail" in caplog.text


async def test_tunnels_are_given_the_account_and_the_endpoint(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        where = {"host": "127.0.0.1", "port": app.port, "socket": ""}
        w.route("/t", 1, endpoint=where, tunnel={"cluster": "c1", "kind": "login", "account": "al"})
        assert (await w.get("/t/x"))[0] == 200
        assert [(endpoint.port, user) for endpoint, user in w.tunnel.opened] == [(app.port, "al")]


async def test_unix_socket_target_and_unix_public_socket(tmp_path: Path) -> None:
    app = App()
    server = await asyncio.start_unix_server(app, str(tmp_path / "app.sock"))
    async with world(tmp_path, public_socket=tmp_path / "proxy.sock") as w:
        w.route("/", 1, target=f"http+unix://{str(tmp_path / 'app.sock').replace('/', '%2F')}")
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "proxy.sock"))
        writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")
        writer.close()
        assert app.requests[0].header("x-forwarded-for") == "1.2.3.4, 127.0.0.1"
    server.close()


async def test_health(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert (await w.get("/_chp_healthz"))[::2] == (200, b'{"status":"OK"}')


# ---------------------------------------------------------------- time limits


async def test_slow_head_is_408_and_idle_is_closed(tmp_path: Path) -> None:
    async with world(tmp_path, limits=Limits(head_time=0.05, keep_alive=0.05, tick=0.01)) as w:
        assert (await w.raw(b"GET / HTTP/1.1\r\nHo")).startswith(b"HTTP/1.1 408 ")
        assert await w.raw(b"") == b""
        assert (await w.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 404 ")


async def test_slow_body_is_408_slow_answer_is_504(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    limits = Limits(body_idle=0.05, response_time=0.05, linger=0.05, tick=0.01)
    async with running(App(serve=serve)) as app, world(tmp_path, limits=limits) as w:
        w.route("/", app.port)
        assert (await w.raw(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")).startswith(b"HTTP/1.1 408 ")
        assert (await w.get("/"))[0] == 504


async def test_idle_application_connections_are_closed_after_a_while(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, limits=Limits(pool_idle=0.05, tick=0.01)) as w:
        w.route("/", app.port)
        await w.get("/")
        pool = w.proxy.context.pool
        for _ in range(500):
            if not len(pool):
                break
            await asyncio.sleep(0.01)
        assert len(pool) == 0


async def test_half_closed_client_gets_its_answer(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await release.wait()
        writer.write(OK)

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.write_eof()
        await asyncio.sleep(0.05)
        release.set()
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")
        writer.close()


async def test_a_client_that_leaves_ends_the_applications_work(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"data: x\n\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            left.set()

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"data: x")
        writer.transport.abort()
        await asyncio.wait_for(left.wait(), 5)


async def test_server_sent_events_are_not_held_back(tmp_path: Path) -> None:
    step = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await step.wait()
            step.clear()
            writer.write(b"9\r\ndata: x\n\n\r\n")

    async with running(App(serve=serve)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        reader, writer = await w.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"event-stream" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        for _ in range(3):
            step.set()
            assert await asyncio.wait_for(reader.readexactly(14), 5) == b"9\r\ndata: x\n\n\r\n"
        writer.close()
