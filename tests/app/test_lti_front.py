"""LTI 1.1 behind a front end that ends TLS: the real proxy before the real pages. The signature is over the public address, so the hub has to know it."""

from pathlib import Path
from urllib.parse import urlencode

import pytest
from traitlets.config import Config

from batchhub.app.plan import place_of
from batchhub.app.site import Site
from batchhub.auth.lti11 import LTI11Authenticator
from batchhub.config.traits import Proxy
from tests.lti_platform import SECRET, Platform
from tests.proxy.harness import world
from tests.web.fakes import Clock, open_site

PATH = "/hub/lti/launch"


@pytest.mark.parametrize(
    ("trusted", "proto", "signed", "code"),
    [
        (("127.0.0.1",), "https", "https", "303"),
        (("127.0.0.1",), "http", "http", "403"),  # over the network in the clear
        ((), "https", "https", "403"),  # a stranger says that it came by https
    ],
)
async def test_the_public_address_is_a_trusted_front_ends_word(tmp_path: Path, trusted, proto, signed, code) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    clock = Clock()
    way = LTI11Authenticator(consumers={"campus": {"secret_file": str(secret)}}, allow_all=True, clock=clock)
    site = open_site(more={"lti11": way})
    site.server.xheaders = True  # as app.hub has it
    platform = Platform(clock)
    fields = platform.launch11(f"{signed}://hub.test{PATH}")
    body = urlencode(fields)
    lines = (
        f"POST {PATH} HTTP/1.1", "Host: hub.test", f"Origin: {signed}://hub.test", "Sec-Fetch-Site: same-origin",
        f"X-Forwarded-Proto: {proto}", "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}", "Connection: close",
    )  # fmt: skip
    async with world(tmp_path, trusted_proxies=trusted) as w:
        w.route("/", site.port)
        answer = (await w.raw(("\r\n".join(lines) + "\r\n\r\n" + body).encode())).decode()
    assert answer.split()[1] == code, answer
    assert ("batchhub-session=" in answer) == (code == "303")
    site.server.stop()
    await site.server.close_all_connections()
    await platform.close()


@pytest.mark.parametrize(
    ("settings", "secure"), [({}, False), ({"ssl_cert": "/c"}, True), ({"https_in_front": True}, True)]
)
def test_authenticators_are_told_whether_browsers_come_by_https(settings, secure) -> None:
    proxy = Proxy(config=Config(Proxy=settings))
    assert place_of(proxy, bytes(32), Site((), (), {}, ())).secure is secure
