"""TLS: the public socket, the control API, and the way to applications."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batchhub.core.errors import ConfigError
from batchhub.proxy.settings import Limits
from batchhub.proxy.tls import ClientTLS, ServerTLS, client_context, server_context
from tests.proxy.certificates import Authority
from tests.proxy.harness import TOKEN, App, parse, read_head, running, ticket_cookie, world


async def test_requests_large_answers_upgrades_and_early_answers_over_tls(tmp_path: Path) -> None:
    block = b"x" * 5_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_head(reader)
        assert request.header("x-forwarded-proto") == "https"
        assert request.header("x-forwarded-port") == "443"
        if request.header("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            writer.write(await reader.readexactly(5))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(block), block))
        await writer.drain()

    authority = Authority(tmp_path)
    chain, key = authority.sign("hub", "hub.test")
    trust = ssl.create_default_context(cafile=str(authority.file))
    async with running(App(serve=serve)) as app, world(tmp_path, tls=ServerTLS(chain, key), secure_cookies=True) as w:
        w.route("/user/alice", app.port, owner="alice")

        async def ask(lines: str, body: bytes = b"") -> bytes:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", w.proxy.public_port, ssl=trust, server_hostname="hub.test", limit=2**23
            )
            writer.write(f"{lines}\r\nHost: hub.test\r\n{ticket_cookie()}\r\n\r\n".encode() + body)
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.transport.abort()
            return answer

        status, _, body = parse(await ask("GET /user/alice/ HTTP/1.1\r\nConnection: close"))
        assert (status, body == block) == (200, True)
        raw = await ask("GET /user/alice/ HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x", b"hello")
        assert raw.startswith(b"HTTP/1.1 101 ")
        assert raw.endswith(b"hello")
        assert (await ask("PUT /none HTTP/1.1\r\nContent-Length: 99", b"abc")).startswith(b"HTTP/1.1 404 ")
        w.clock.now += timedelta(minutes=30)
        assert "Secure" in parse(await ask("GET /user/alice/ HTTP/1.1\r\nConnection: close"))[1]["set-cookie"]


async def test_who_does_not_shake_hands_is_not_waited_for(tmp_path: Path) -> None:
    """Before the handshake a connection is in nobody's count, and has a file open all the same."""
    chain, key = Authority(tmp_path).sign("hub", "hub.test")
    async with world(tmp_path, tls=ServerTLS(chain, key), limits=Limits(head_time=0.3)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.proxy.public_port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


def trusting(authority: Authority, chain: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if chain is not None:
        context.load_cert_chain(*chain)
    return context


async def ask(where: int | Path, head: str, trust: ssl.SSLContext | None, name: str = "hub.test") -> bytes:
    secure: dict[str, Any] = {"ssl": trust, "server_hostname": name} if trust else {}
    if isinstance(where, Path):
        reader, writer = await asyncio.open_unix_connection(str(where), **secure)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", where, **secure)
    try:
        writer.write(f"{head}\r\nHost: hub.test\r\nConnection: close\r\n\r\n".encode())
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.transport.abort()


async def turned_away(where: int, head: str, trust: ssl.SSLContext) -> bool:
    try:
        return await ask(where, head, trust) == b""
    except (ssl.SSLError, ConnectionError):
        return True


# ---------------------------------------------------------------- clients' certificates


async def test_clients_must_show_a_certificate(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path), Authority(tmp_path, "others")
    tls = ServerTLS(*ours.sign("hub", "hub.test"), client_authority=ours.file, client_certificates=True)
    async with running(App()) as app, world(tmp_path, tls=tls) as w:
        w.route("/", app.port)
        known = trusting(ours, ours.sign("client"))
        assert parse(await ask(w.proxy.public_port, "GET / HTTP/1.1", known))[0] == 200
        for stranger in (trusting(ours), trusting(ours, others.sign("stranger"))):
            assert await turned_away(w.proxy.public_port, "GET / HTTP/1.1", stranger)
        assert len(app.requests) == 1


async def test_the_control_api_over_tls_and_a_unix_socket(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    tls = ServerTLS(*ours.sign("api", "hub.test"), client_authority=ours.file, client_certificates=True)
    known = trusting(ours, ours.sign("client"))
    request = f"GET /api/routes HTTP/1.1\r\nAuthorization: token {TOKEN}"
    async with world(tmp_path, api_tls=tls) as w:
        assert parse(await ask(w.proxy.api_port, request, known))[0] == 200
        assert await turned_away(w.proxy.api_port, request, trusting(ours))
    place = tmp_path / "api.sock"
    async with world(tmp_path, api_socket=place) as w:
        assert parse(await ask(place, request, None))[0] == 200
        assert parse(await ask(place, "GET /api/routes HTTP/1.1", None))[0] == 403
    assert not place.exists()


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    public, application = tmp_path / "public.sock", tmp_path / "a b.sock"
    app = App()
    server = await asyncio.start_unix_server(app, str(application))
    async with server, world(tmp_path, standalone=True, public_socket=public) as w:
        w.route("/user/a", 1, target=f"http+unix://{str(application).replace('/', '%2F').replace(' ', '%20')}")
        assert parse(await ask(public, "GET /user/a/x HTTP/1.1", None))[0] == 200
        (request,) = app.requests
        assert (request.target, request.header("host")) == ("/user/a/x", "hub.test")


# ---------------------------------------------------------------- applications


@contextlib.asynccontextmanager
async def secured(app: App, context: ssl.SSLContext) -> AsyncIterator[App]:
    server = await asyncio.start_server(app, "127.0.0.1", 0, ssl=context)
    app.port = server.sockets[0].getsockname()[1]
    async with server:
        yield app


async def test_an_application_that_speaks_tls_and_asks_who_we_are(tmp_path: Path) -> None:
    """JupyterHub's internal_ssl: its servers take nobody but the proxy, which takes nobody but its servers."""
    ours = Authority(tmp_path)
    theirs = server_context(
        ServerTLS(*ours.sign("server", "127.0.0.1"), client_authority=ours.file, client_certificates=True)
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert writer.get_extra_info("peercert")["subject"][0][0][1] == "proxy"
        head = await read_head(reader)
        if head.header("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            writer.write(await reader.readexactly(5))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure")
        await writer.drain()
        writer.close()

    own = ours.sign("proxy")
    async with (
        secured(App(serve=serve), theirs) as app,
        world(tmp_path, standalone=True, client_tls=ClientTLS(*own, authority=ours.file)) as w,
    ):
        w.route("/user/a", 1, target=f"https://127.0.0.1:{app.port}")
        status, _, body = await w.get("/user/a/x")
        assert (status, body) == (200, b"secure")
        upgrade = b"GET /user/a/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello"
        answer = await w.raw(upgrade)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert answer.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    ("host", "client", "status"),
    [
        ("127.0.0.1", {"authority": True}, 200),
        ("127.0.0.1", {}, 503),  # nobody the system knows has signed it
        ("127.0.0.1", {"authority": "others"}, 503),
        ("other.test", {"authority": True}, 503),  # somebody else's certificate
        ("other.test", {"verify": False}, 200),
        ("127.0.0.1", {"authority": "others", "verify": False}, 200),
    ],
)
async def test_an_applications_certificate_is_checked(
    tmp_path: Path, host: str, client: dict[str, Any], status: int
) -> None:
    ours, others = Authority(tmp_path), Authority(tmp_path, "others")
    named = {True: ours.file, "others": others.file}
    options = ClientTLS(authority=named.get(client.get("authority", "")), verify=client.get("verify", True))
    theirs = server_context(ServerTLS(*ours.sign("server", host)))
    async with secured(App(), theirs) as app, world(tmp_path, standalone=True, client_tls=options) as w:
        w.route("/user/a", 1, target=f"https://127.0.0.1:{app.port}")
        assert (await w.get("/user/a/"))[0] == status
        assert len(app.requests) == (status == 200)


# ---------------------------------------------------------------- files and options


def test_what_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    chain, key = ours.sign("a")
    locked = ours.sign("b", passphrase="open sesame")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for tls, words in (
        (ServerTLS(nonsense, nonsense), f"certificate {nonsense} .* cannot be used"),
        (ServerTLS(chain, locked[1]), "needs a passphrase"),
        (ServerTLS(*locked, passphrase="wrong"), "cannot be used"),
        (ServerTLS(chain, key, protocol="SSLv3"), "'SSLv3' is not offered; choose from: TLS, TLSv1_2, TLSv1_3"),
        (ServerTLS(chain, key, ciphers="NONE-SUCH"), "name none that there is"),
        (ServerTLS(chain, key, dh_parameters=nonsense), "Diffie-Hellman"),
        (ServerTLS(chain, key, client_authority=nonsense), "authority .* cannot be used"),
        (ServerTLS(chain, tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(ConfigError, match=words):
            server_context(tls)
    for client, words in (
        (ClientTLS(nonsense, nonsense), "cannot be used"),
        (ClientTLS(authority=nonsense), "authority .* cannot be used"),
    ):
        with pytest.raises(ConfigError, match=words):
            client_context(client)
    assert server_context(ServerTLS(*locked, passphrase="open sesame"))


def test_protocols(tmp_path: Path) -> None:
    chain, key = Authority(tmp_path).sign("a")
    assert server_context(ServerTLS(chain, key)).minimum_version is ssl.TLSVersion.TLSv1_2
    only = server_context(ServerTLS(chain, key, protocol="TLSv1_2"))
    assert only.maximum_version is ssl.TLSVersion.TLSv1_2
    assert server_context(ServerTLS(chain, key, protocol="TLSv1_3")).minimum_version is ssl.TLSVersion.TLSv1_3
    some = server_context(ServerTLS(chain, key, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256"))
    offered = {each["name"] for each in some.get_ciphers() if each["protocol"] == "TLSv1.2"}
    assert offered == {"ECDHE-ECDSA-AES128-GCM-SHA256"}


async def test_a_bad_certificate_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be used"):
        async with world(tmp_path, tls=ServerTLS(tmp_path / "cert.pem", tmp_path / "cert.pem")):
            pass
