"""Sign-in with Kerberos against a real KDC: whose tickets count, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from batchhub.app.state import utc_now
from batchhub.auth.base import Asked, Identity, Place
from batchhub.auth.kerberos import KerberosAuthenticator, name_of, read_token
from batchhub.auth.rules import sign_in
from batchhub.auth.ways import check_ways
from batchhub.core.errors import ConfigError, Denied
from tests.kdc import HOME, OTHER, Kdc, kdc

SPNEGO = "1.3.6.1.5.5.2"


@pytest.fixture(scope="module")
def realm() -> Iterator[Kdc]:
    with kdc("ann", "bob") as made:
        for name in ("ann", "Cap", "eve/admin"):
            made.kinit(name)
        made.kinit(f"ann@{OTHER}", cache="stranger")

        made.kinit("ann", "-l", "1s", cache="short")
        made.old = context(made, "short").step()
        made.made = time.monotonic()
        yield made


def place(**changes: Any) -> Place:
    return Place("127.0.0.1", b"", utc_now, **changes)


def way(realm: Kdc, **traits: Any) -> KerberosAuthenticator:
    given = {"keytab": realm.keytab, "service": "HTTP@localhost", "realms": [HOME], "allow_all": True, **traits}
    made = KerberosAuthenticator(**given)
    made.settle(place())
    return made


class Handler:
    """What an authenticator is given of a request."""

    def __init__(self) -> None:
        self.headers = HTTPHeaders()

    def set_header(self, name: str, value: str) -> None:
        self.headers[name] = value


def context(realm: Kdc, person: str, service: str = "HTTP@localhost", *, mech: str = SPNEGO) -> Any:
    """As a browser has it."""
    import gssapi

    flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.delegate_to_peer
    return gssapi.SecurityContext(
        name=gssapi.Name(service, gssapi.NameType.hostbased_service),
        creds=gssapi.Credentials(usage="initiate", store={"ccache": realm.cache(person)}),
        mech=gssapi.OID.from_int_seq(mech),
        flags=flags,
        usage="initiate",
    )


async def enter(made: KerberosAuthenticator, token: bytes, handler: Handler | None = None) -> Identity | Asked | None:
    return await sign_in(made, handler or Handler(), {"negotiate": b64encode(token).decode()})


async def test_who_has_a_ticket(realm: Kdc) -> None:
    made, handler, browser = way(realm), Handler(), context(realm, "ann")
    found = await enter(made, browser.step(), handler)
    assert isinstance(found, Identity)
    assert found.name == "ann"
    # Mutual authentication: the browser can tell that this was the host it meant.
    from base64 import b64decode

    scheme, _, answer = handler.headers["WWW-Authenticate"].partition(" ")
    assert scheme == "Negotiate"
    browser.step(b64decode(answer))
    assert browser.complete
    found = await enter(made, context(realm, "ann", mech="1.2.840.113554.1.2.2").step())
    assert isinstance(found, Identity), "Kerberos without SPNEGO around it, as Java sends it"
    made.close()


async def test_a_token_is_good_once(realm: Kdc, caplog: pytest.LogCaptureFixture) -> None:
    token = context(realm, "ann").step()
    first, second = way(realm), way(realm)
    assert await enter(first, token) is not None
    assert await enter(first, token) is None
    assert await enter(second, token) is None, "nor is the memory of it one acceptor's"
    assert "replay" in caplog.text


async def test_others_tickets(realm: Kdc, caplog: pytest.LogCaptureFixture) -> None:
    """Another realm that ours trusts, an instance, another service with a key in the same keytab, a name that could be two people's."""
    made = way(realm)
    assert await enter(made, context(realm, "stranger").step()) is None
    assert f"ann@{OTHER}" in caplog.text
    assert await enter(made, context(realm, "eve/admin").step()) is None
    assert await enter(made, context(realm, "ann", "host@localhost").step()) is None
    assert await enter(made, context(realm, "ann", "HTTP@other").step()) is None
    assert await enter(made, context(realm, "Cap").step()) is None
    found = await enter(way(realm, ignore_case=True), context(realm, "Cap").step())
    assert isinstance(found, Identity)
    assert found.name == "cap"
    found = await enter(way(realm, realms=[HOME, OTHER]), context(realm, "stranger").step())
    assert isinstance(found, Identity), "where the site says so"


async def test_what_is_no_token(realm: Kdc) -> None:
    made, good = way(realm), context(realm, "ann").step()
    broken = bytearray(good)
    broken[-5] ^= 1
    for token in (b"x", bytes(1000), good[:-9], bytes(broken), good * 50):
        assert await enter(made, token) is None
    for text in ("", "%%%", "YII=x", "A" * (64 * 1024 + 4), "é"):
        assert await sign_in(made, Handler(), {"negotiate": text}) is None
    with pytest.raises(Denied, match="NTLM"):
        await enter(made, b"NTLMSSP\0\1\0\0\0")


async def test_whom_the_rules_keep_out_keep_no_tickets_here(realm: Kdc) -> None:
    from batchhub.auth import ccache, gss

    made: list[str] = []
    real = ccache.ForwardedTickets.__init__

    def noted(self: Any, until: datetime) -> None:
        real(self, until)
        made.append(self.name)

    ccache.ForwardedTickets.__init__ = noted  # type: ignore[method-assign]
    try:
        assert await enter(way(realm, blocked_users={"ann"}), context(realm, "ann").step()) is None
        found = await enter(way(realm, pass_through=False), context(realm, "ann").step())
        assert isinstance(found, Identity)
        assert found.brought is None
        assert len(made) == 1
        found = await enter(way(realm), context(realm, "ann").step())
        assert isinstance(found, Identity)
        assert found.brought is not None
        await asyncio.to_thread(gss.reach, made[1], "localhost")
        # Nobody takes them, because something else went wrong.
        del found
        gc.collect()
        for name in made:
            with pytest.raises(gss.Expired):
                await asyncio.to_thread(gss.reach, name, "localhost")
    finally:
        ccache.ForwardedTickets.__init__ = real  # type: ignore[method-assign]


async def test_a_ticket_that_has_expired(realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchhub.auth import gss

    monkeypatch.setenv("KRB5_CONFIG", realm.strict)
    while time.monotonic() < realm.made + 3:  # the KDC's clock and libkrb5's cannot be handed in
        await asyncio.sleep(0.1)
    assert await enter(way(realm), realm.old) is None
    with pytest.raises(gss.Expired):
        await asyncio.to_thread(gss.reach, realm.cache("short"), "localhost")


# ------------------------------------------------------------ the configuration


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"realms": []}, "realms must name"),
        ({"service": "localhost"}, "'HTTP@' and the host name"),
        ({"service": "HTTP/localhost@HOME.TEST"}, "'HTTP@' and the host name"),
        ({"service": "HTTP@elsewhere.test"}, "has no key for HTTP@elsewhere"),
        ({"keytab": ""}, "keytab must be the path"),
        ({"keytab": "/nosuch-keytab"}, "cannot be read"),
    ],
)
def test_a_key_that_is_not_there(realm: Kdc, traits: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        way(realm, **traits)


def test_a_key_that_others_can_read(realm: Kdc, tmp_path: Path) -> None:
    copy = tmp_path / "keytab"
    copy.write_bytes(Path(realm.keytab).read_bytes())
    copy.chmod(0o644)
    with pytest.raises(ConfigError, match="readable for others"):
        way(realm, keytab=str(copy))


def test_a_token_could_be_read_on_the_way(realm: Kdc) -> None:
    made = KerberosAuthenticator(keytab=realm.keytab, service="HTTP@localhost", realms=[HOME])
    with pytest.raises(ConfigError, match="needs https"):
        made.settle(Place("0.0.0.0", b"", utc_now))
    made.settle(Place("0.0.0.0", b"", utc_now, secure=True))


@pytest.mark.parametrize("setting", [("KRB5RCACHENAME", "none:"), ("KRB5RCACHETYPE", "none")])
def test_used_tokens_are_remembered(realm: Kdc, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]) -> None:
    monkeypatch.setenv(*setting)
    with pytest.raises(ConfigError, match="memory of used tickets"):
        way(realm)


def test_without_the_package_the_error_names_it(realm: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "batchhub.auth.gss", None)
    with pytest.raises(ConfigError, match=r"pip install 'batchhub\[kerberos\]'"):
        way(realm)


def test_one_button(realm: Kdc) -> None:
    with pytest.raises(ConfigError, match="only one can be offered"):
        check_ways({"one": way(realm), "two": way(realm)}, same_people=True)


@pytest.mark.parametrize(
    ("principal", "name"),
    [
        ("ann@HOME.TEST", "ann"),
        ("ann@home.test", None),
        ("ann@HOME.TEST.EVIL", None),
        ("ann@XHOME.TEST", None),
        ("ann", None),
        ("@HOME.TEST", None),
        ("ann/admin@HOME.TEST", None),
        ("ann\\@OTHER.TEST@HOME.TEST", None),
        ("ann\\/x@HOME.TEST", None),
        ("ann@HOME.TEST\n", None),
        ("ann@HOME.TEST@HOME.TEST", None),
        ("WELLKNOWN/ANONYMOUS@HOME.TEST", None),
    ],
)
def test_names(principal: str, name: str | None) -> None:
    assert name_of(principal, [HOME], ignore_case=False) == name


def test_tokens_as_text() -> None:
    assert read_token("YII=") == b"`\x82"
    assert read_token("YI I=") is None
    assert read_token("A" * 64 * 1024) is not None
    assert read_token("A" * (64 * 1024 + 4)) is None
