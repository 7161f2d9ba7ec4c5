"""What an application may learn from a request's head, and what it may say in an answer's."""

import asyncio
from pathlib import Path

import pytest

from tests.proxy.harness import App, parse, running, ticket_cookie, world

TICKET = ticket_cookie().partition("=")[2]
TOKEN = "bh_" + "Aa0_-" * 8 + "xyz"
SECRET = "token of-the-server"


def answering(*lines: str) -> App:
    return App(answer="\r\n".join(("HTTP/1.1 200 OK", *lines, "Content-Length: 2", "", "ok")).encode("latin-1"))


# ---------------------------------------------------------------- hop by hop

HOPS = [
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic x",
    "Proxy-Authenticate: Basic",
    "TE: gzip",
    "Trailer: X-A",
    "Upgrade: websocket",
]


@pytest.mark.parametrize(
    "connection",
    [
        ["Connection: x-one, X-Two"],
        ["Connection: X-ONE", "connection: ,x-two,"],
        ["Connection:\tkeep-alive ,\tx-two\t, x-one , TE, Trailer"],
        ["CONNECTION: x-one,x-two,close,content-length,transfer-encoding,host"],
    ],
)
async def test_hop_by_hop_headers_go_no_further(tmp_path: Path, connection: list[str]) -> None:
    named = ["X-One: 1", "x-one: 2", "X-Two: 3"]
    answer = answering(*connection, *named, *HOPS[:4], "Trailer: X", "Upgrade: h2", "X-Kept: a")
    async with running(answer) as app, world(tmp_path) as w:
        w.route("/", app.port)
        _, headers, body = await w.get("/", *connection, *named, *HOPS, "X-Kept: b", method="POST", body=b"abc")
        assert headers == {"x-kept": "a", "content-length": "2", "connection": "close"}
        assert body == b"ok"
        request = app.requests[0]
        assert request.body == b"abc"
        assert set(request.headers) == {
            "host",
            "x-batchhub-vouched",
            "x-kept",
            "content-length",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
        }


@pytest.mark.parametrize("name", ["Cookie", "Authorization", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode"])
async def test_a_client_cannot_have_what_says_who_it_is_taken_out(tmp_path: Path, name: str) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        await w.get("/", f"{name}: x=y", f"Connection: {name}")
        assert app.requests[0].header(name) == "x=y"


async def test_an_answers_own_connection_header_cannot_take_its_cookies_out(tmp_path: Path) -> None:
    async with running(answering("Connection: set-cookie", "Set-Cookie: a=1")) as app, world(tmp_path) as w:
        w.route("/", app.port)
        assert (await w.get("/"))[1]["set-cookie"] == "a=1"


# ---------------------------------------------------------------- forwarded

LIES = [
    "Forwarded: for=6.6.6.6;proto=https;host=evil",
    "X-Forwarded-For: 6.6.6.6",
    "x-forwarded-for: 7.7.7.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 1",
    "X-Real-IP: 6.6.6.6",
    "X-Scheme: https",
    "X-Forwarded-Ssl: on",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Server: evil",
    "X_Forwarded_For: 6.6.6.6",
    "X-Forwarded_For: 6.6.6.6",
    "X_Forwarded-Proto: https",
    "X_Real_IP: 6.6.6.6",
    "Proxy: http://evil",
]


@pytest.mark.parametrize("connection", ["", "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host"])
async def test_a_strangers_word_on_where_it_comes_from_is_not_passed_on(tmp_path: Path, connection: str) -> None:
    async with running(App()) as app, world(tmp_path, trusted_proxies=("10.0.0.0/8",)) as w:
        w.route("/", app.port)
        await w.get("/", *LIES, f"Connection: {connection}")
        request = app.requests[0]
        assert {
            name: values for name, values in request.headers.items() if name not in {"host", "x-batchhub-vouched"}
        } == {
            "x-forwarded-for": ["127.0.0.1"],
            "x-forwarded-proto": ["http"],
            "x-forwarded-host": ["hub.test"],
            "x-forwarded-port": ["80"],
        }


async def test_a_trusted_proxys_word_is_passed_on_and_added_to(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path, trusted_proxies=("127.0.0.1",)) as w:
        w.route("/", app.port)
        await w.get("/", *LIES)
        request = app.requests[0]
        assert request.header("x-forwarded-for") == "6.6.6.6, 7.7.7.7, 127.0.0.1"
        assert request.header("x-forwarded-proto") == "https"
        assert request.header("x-forwarded-host") == "evil"
        assert request.header("x-forwarded-port") == "1"
        assert request.header("host") == "hub.test"
        for name in ("forwarded", "x-real-ip", "x_forwarded_for", "x-forwarded_for", "proxy"):
            assert request.header(name) is None


async def test_an_absolute_targets_host_is_the_one_that_counts(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for target in ("http://other.test:81/a?b", "HTTPS://other.test:81?b"):
            await w.get(target)
        for request in app.requests:
            assert request.header("host") == request.header("x-forwarded-host") == "other.test:81"
            assert request.header("x-forwarded-proto") == "http"
        assert [request.target for request in app.requests] == ["/a?b", "/?b"]


# ---------------------------------------------------------------- the hub's cookies

A = f"batchhub-access={TICKET}"
COOKIES = {
    "at the end": ([f"a=1; {A}"], "a=1"),
    "in the middle": ([f"a=1; {A}; b=2"], "a=1; b=2"),
    "at the beginning": ([f"{A};a=1"], "a=1"),
    "alone": ([A], None),
    "twice": ([f"{A}; {A}; a=1"], "a=1"),
    "all of the hub's": (
        [f"batchhub-session=s; {A}; batchhub-xsrf=x; batchhub-tries=1; __Host-batchhub-x=1; a=1"],
        "a=1",
    ),
    "several headers": (["a=1", A, "batchhub-session=s", "b=2"], ["a=1", "b=2"]),
    "spaces": ([f"a=1 ;\t batchhub-session = s  ;{A} ; b=2"], "a=1 ; b=2"),
    "capitals": ([f"a=1; {A}; BatchHub-Session=s; BATCHHUB-ACCESS={TICKET}"], "a=1"),
    "quoted": ([f'a=1; {A}; batchhub-session="s"; b="2"'], 'a=1; b="2"'),
    "inside of quotes": ([f'{A}; a="1; batchhub-session=s; b=2"'], 'a="1; b=2"'),
    "a quoted name": ([f'{A}; "batchhub-session"=s; a=1'], "a=1"),
    "without a value": ([f"{A}; batchhub-session; a"], "a"),
    "without a name": ([f"{A}; =batchhub-session=s; ==batchhub-session=s; a=1"], "a=1"),
    "a name that only begins alike": ([f"{A}; batch=1; hub-session=2"], "batch=1; hub-session=2"),
    "a value that speaks of it": ([f"{A}; next=/batchhub-session"], "next=/batchhub-session"),
    "nothing between": ([f";;{A};;; a=1;"], "a=1"),
}


@pytest.mark.parametrize("name", COOKIES)
async def test_no_cookie_of_the_hub_reaches_a_server(tmp_path: Path, name: str) -> None:
    lines, expected = COOKIES[name]
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization=SECRET)
        status, _, _ = await w.get("/user/alice/x", *[f"Cookie: {line}" for line in lines])
        assert status == 200, "the ticket was found"
        request = app.requests[0]
        assert request.headers.get("cookie") == ([expected] if isinstance(expected, str) else expected)
        assert TICKET.encode() not in request.raw


# ---------------------------------------------------------------- the hub's tokens


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"?token={TOKEN}", ""),
        (f"?a=1&token={TOKEN}&b=%26", "?a=1&b=%26"),
        (f"?next=/x?token={TOKEN}#&a=1&", None),
        (f"?token={TOKEN}&token=own", "?token=own"),
        ("?token=of-the-application&a", "?token=of-the-application&a"),
        ("?token=bh_short", "?token=bh_short"),
        (f"?x=%20&y={TOKEN.replace('_', '%5F', 1)}&z=%2F", "?x=%20&z=%2F"),
        (f"?next=%2Fx%3Ftoken%3D{TOKEN}", ""),
        ("?a=%20%zz&&b", "?a=%20%zz&&b"),
        ("?", "?"),
    ],
)
async def test_a_token_in_an_address_opens_nothing_and_is_not_passed_on(
    tmp_path: Path, query: str, expected: str | None
) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization=SECRET)
        status, _, _ = await w.get(f"/user/alice/x{query}")
        assert status == (403 if expected is not None else 400)
        assert w.asked == []
        if expected is not None:
            assert (await w.get(f"/user/alice/x{query}", ticket_cookie()))[0] == 200
            assert app.requests[0].target == f"/user/alice/x{expected}"


async def test_a_token_is_taken_out_wherever_it_stands(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization=SECRET)
        await w.get(
            "/user/alice/x",
            ticket_cookie(),
            f"Authorization: token {TOKEN}",
            f"Referer: http://hub.test/user/alice/lab?token={TOKEN}&a=1",
            f"X-Api-Key: {TOKEN}",
            f"Cookie: a={TOKEN}",
        )
        request = app.requests[0]
        assert TOKEN.encode() not in request.raw
        assert request.header("authorization") == SECRET
        assert request.header("referer") == "http://hub.test/user/alice/lab?token=&a=1"


async def test_the_hub_gets_its_cookies_and_tokens_but_no_ticket(tmp_path: Path) -> None:
    async with running(App()) as hub, world(tmp_path) as w:
        w.route("/", hub.port)
        await w.get(
            f"/hub/api?token={TOKEN}",
            f"Authorization: token {TOKEN}",
            f"Cookie: batchhub-session=s; {A}; batchhub-xsrf=x",
        )
        request = hub.requests[0]
        assert request.target == f"/hub/api?token={TOKEN}"
        assert request.header("authorization") == f"token {TOKEN}"
        assert request.header("cookie") == "batchhub-session=s; batchhub-xsrf=x"


async def test_each_request_of_a_connection_is_looked_at_anew(tmp_path: Path) -> None:
    """They may have the same header lines to the letter, and yet go to others, who may learn other things."""
    async with running(App()) as hub, running(App()) as alice, running(App()) as service, world(tmp_path) as w:
        w.route("/", hub.port)
        w.route("/user/alice", alice.port, owner="alice", authorization=SECRET)
        w.route("/services/x", service.port)
        reader, writer = await w.connect()
        lines = f"Host: x\r\nCookie: batchhub-session=s; {A}; a=1\r\nReferer: {TOKEN}\r\nAuthorization: token {TOKEN}\r\n\r\n"

        async def get(path: str) -> int:
            writer.write(f"GET {path} HTTP/1.1\r\n{lines}".encode())
            status = int((await reader.readuntil(b"\r\n\r\n"))[9:12])
            assert await reader.readexactly(2) == b"ok"
            return status

        for number in range(3):
            for path in ("/hub/home", "/user/alice/a", "/services/x/"):
                assert await get(f"{path}?n={number}") == 200
        w.route("/user/alice", alice.port, owner="alice", authorization="token of-the-next-start")
        assert await get("/user/alice/b") == 200
        writer.close()
        for request in hub.requests:
            assert request.header("cookie") == "batchhub-session=s; a=1"
            assert (request.header("authorization"), request.header("referer")) == (f"token {TOKEN}", TOKEN)
        for request in alice.requests:
            assert (request.header("cookie"), request.header("referer")) == ("a=1", "")
            assert TOKEN.encode() not in request.raw
        for request in service.requests:
            assert request.header("cookie") == "a=1"
        assert [request.header("authorization") for request in alice.requests] == [SECRET] * 3 + [
            "token of-the-next-start"
        ]
        assert [request.target for request in alice.requests[:3]] == [
            f"/user/alice/a?n={number}" for number in range(3)
        ]
        assert [len(app.requests) for app in (hub, alice, service)] == [3, 4, 3]


# ---------------------------------------------------------------- what an application may not say


@pytest.mark.parametrize(
    "value",
    [
        "batchhub-session=evil; Path=/hub/",
        "batchhub-access=evil",
        " \tbatchhub-xsrf=evil",
        "BATCHHUB-SESSION=evil",
        "batchhub-new-one=evil",
        "__Host-batchhub-session=evil; Path=/; Secure",
        "batchhub-session =evil",
        '"batchhub-session"=evil',
        "batchhub-session",
        "=batchhub-session=evil",
        "==batchhub-session=evil",
        "= batchhub-session=evil",
    ],
)
async def test_an_application_cannot_set_a_cookie_of_the_hub(tmp_path: Path, value: str) -> None:
    own = "own=batchhub-session; Path=/"
    async with running(answering(f"Set-Cookie: {value}", f"Set-Cookie: {own}")) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        w.route("/", app.port)
        _, headers, _ = await w.get("/user/alice/", ticket_cookie())
        assert headers["set-cookie"] == own
        answer = await w.raw(b"GET /hub/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.count(b"Set-Cookie: ") == 2, "the hub itself can"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_what_to_upgrade_to_is_said_with_426_alone(tmp_path: Path, version: str) -> None:
    lines = b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: other/2\r\nContent-Length: 0\r\n\r\n"
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/", app.port)
        for status, offered in ((b"426 Upgrade Required", "websocket, other/2"), (b"400 Bad Request", None)):
            app.answer = b"HTTP/1.1 " + status + b"\r\n" + lines
            for close in (True, False):
                end = "Connection: close" if close else "Connection: keep-alive"
                reader, writer = await w.connect()
                writer.write(f"GET / HTTP/{version}\r\nHost: x\r\n{end}\r\n\r\n".encode())
                _, headers, _ = parse(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5))
                writer.close()
                assert headers.get("upgrade") == offered
                words = {word for word in headers.get("connection", "").split(", ") if word}
                assert ("Upgrade" in words) == (offered is not None)
                assert ("close" in words) == (close or version == "1.0")


@pytest.mark.parametrize("first", ["103 Early Hints", "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x"])
async def test_nor_with_an_answer_that_is_not_its_last(tmp_path: Path, first: str) -> None:
    answer = f"HTTP/1.1 {first}\r\nSet-Cookie: batchhub-session=evil\r\nSet-Cookie: own=1\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    async with running(App(answer=answer.encode())) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        reader, writer = await w.connect()
        lines = f"Host: x\r\nConnection: upgrade\r\nUpgrade: x\r\n{ticket_cookie()}"
        writer.write(f"GET /user/alice/ HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {first[:3]} ".encode())
        assert b"\r\nSet-Cookie: own=1\r\n" in head
        assert b"batchhub" not in head
        writer.close()


async def test_an_application_cannot_act_for_the_whole_origin(tmp_path: Path) -> None:
    lines = ["Service-Worker-Allowed: /", 'Clear-Site-Data: "*"', "X-Kept: 1"]
    async with running(answering(*lines)) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        _, headers, _ = await w.get("/user/alice/", ticket_cookie())
        assert headers == {"x-kept": "1", "content-length": "2", "connection": "close"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [("200", "200 "), ("200 ", "200 "), ("299 Sonderbar é", "299 Sonderbar é"), ("404", "404 ")],
)
async def test_the_reason_is_the_applications(tmp_path: Path, line: str, expected: str) -> None:
    raw = f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode()
    async with running(App(answer=raw)) as app, world(tmp_path) as w:
        w.route("/", app.port)
        answer = await w.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {expected}\r\n".encode())
