"""TLS on the public socket."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batchhub.core.errors import ConfigError
from tests.proxy.harness import App, parse, read_head, running, ticket_cookie, world


def certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub.test")])
    now = datetime.now(UTC)  # noqa: TID251 - a certificate is checked against the real time
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hub.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / "cert.pem", directory / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


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

    chain, key = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(chain))
    async with running(App(serve=serve)) as app, world(tmp_path, certificate=chain, key=key, secure_cookies=True) as w:
        w.route("/user/alice", app.port, owner="alice")

        async def ask(lines: str, body: bytes = b"") -> bytes:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", w.proxy.public_port, ssl=trust, server_hostname="hub.test", limit=2**23
            )
            writer.write(f"{lines}\r\nHost: hub.test\r\n{ticket_cookie()}\r\n\r\n".encode() + body)
            answer = await asyncio.wait_for(reader.read(), 10)
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


async def test_a_bad_certificate_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be used"):
        async with world(tmp_path, certificate=tmp_path / "cert.pem", key=tmp_path / "cert.pem"):
            pass
