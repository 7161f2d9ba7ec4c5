"""Who may pass, as a matrix, and then through the real proxy."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from batchhub.core.tickets import sign, verify
from batchhub.proxy.access import Allow, AskHub, Decision, Facts, Redirect, Refuse, Rule, Tickets, check, same_host
from tests.proxy.harness import HOUR, KEY, NOW, TICKET, App, running, ticket_cookie, world

ALICE = Rule("/user/alice", "alice")
LAB = Rule("/user/alice/lab", "alice")
PAGE = Facts("GET", "/user/alice/lab?x=1&y=/", "hub.test", fetch_mode="navigate")
CALL = Facts("GET", "/user/alice/api", "hub.test", fetch_mode="cors", fetch_site="same-origin")
SOCKET = Facts("GET", "/user/alice/ws", "hub.test", origin="https://hub.test", upgrade=True)
POST = Facts("POST", "/user/alice/api", "hub.test", origin="http://hub.test")
LOGIN = Redirect("/hub/access?next=%2Fuser%2Falice%2Flab%3Fx%3D1%26y%3D%2F")
OTHER_KEY = b"o" * 32
PASSES = Allow("alice", "s1", None, NOW + 12 * HOUR)


def decide(
    facts: Facts, rule: Rule = ALICE, *, after: timedelta = timedelta(0), revoked: frozenset[str] = frozenset()
) -> Decision:
    return check(facts, rule, NOW + after, Tickets([KEY]), revoked, secure=True, hub="/hub/")


def signed(key: bytes = KEY, **changes: object) -> str:
    return sign(key, replace(TICKET, **changes))  # type: ignore[arg-type]


GOOD = signed()
BAD = {
    "none": [],
    "of another user": [signed(user="bob")],
    "for another path": [signed(path="/user/bob/")],
    "for a longer path": [signed(path="/user/alice/lab/")],
    "for a name that begins alike": [signed(path="/user/al/")],
    "expired": [signed(issued=NOW - 2 * HOUR, expires=NOW)],
    "of the future": [signed(issued=NOW + HOUR, expires=NOW + 2 * HOUR)],
    "past its absolute end": [signed(absolute=NOW)],
    "revoked": [signed(session="gone")],
    "by another key": [signed(OTHER_KEY)],
    "tampered": [GOOD[:-1] + ("A" if GOOD[-1] != "A" else "B")],
    "nonsense": ["x", "v1.e30.e30"],
}


@pytest.mark.parametrize("which", BAD)
def test_without_a_good_ticket(which: str) -> None:
    revoked = frozenset({"gone"})
    assert decide(replace(PAGE, tickets=BAD[which]), revoked=revoked) == LOGIN
    for facts in (CALL, SOCKET, POST, replace(PAGE, method="POST"), replace(CALL, accept="text/html")):
        assert isinstance(got := decide(replace(facts, tickets=BAD[which]), revoked=revoked), Refuse)
        # The server's own page is told in a way that JupyterLab waits for the person to come back; a WebSocket's status nobody sees.
        assert got.status == (424 if facts.fetch_site == "same-origin" and not facts.upgrade else 403)
    asked = decide(replace(CALL, tickets=BAD[which], authorization="Bearer abc"), revoked=revoked)
    assert asked == AskHub("abc")


@pytest.mark.parametrize("facts", [PAGE, CALL, SOCKET, POST])
def test_with_a_good_ticket(facts: Facts) -> None:
    assert decide(replace(facts, tickets=[GOOD])) == PASSES
    assert decide(replace(facts, tickets=[GOOD]), LAB) == PASSES
    assert decide(replace(facts, tickets=["junk", signed(user="bob"), GOOD])) == PASSES
    assert decide(replace(facts, tickets=[GOOD], authorization="token of-the-notebook")) == PASSES


@pytest.mark.parametrize("query", ["", "?next=/x"])
def test_signing_out_of_the_application_is_signing_out_of_the_hub(query: str) -> None:
    leaving = replace(PAGE, target=f"/user/alice/logout{query}", tickets=[GOOD])
    assert decide(leaving) == Redirect("/hub/logout")
    assert decide(replace(leaving, target="/user/alice/lab/logout"), LAB) == Redirect("/hub/logout")
    assert decide(replace(leaving, fetch_mode="cors")) == PASSES
    assert decide(replace(leaving, method="POST")) == PASSES
    assert decide(replace(leaving, target="/user/alice/files/logout")) == PASSES
    assert decide(replace(leaving, target="/user/alice/logout/x")) == PASSES
    stranger = decide(replace(leaving, tickets=[]))
    assert isinstance(stranger, Redirect)
    assert stranger.url.startswith("/hub/access?next=")


def test_a_revoked_session_is_refused_even_if_its_ticket_was_seen_before() -> None:
    tickets = Tickets([KEY])
    facts = replace(CALL, tickets=[GOOD])
    assert isinstance(check(facts, ALICE, NOW, tickets, (), secure=False, hub="/hub/"), Allow)
    assert isinstance(check(facts, ALICE, NOW, tickets, {"s1"}, secure=False, hub="/hub/"), Refuse)
    assert isinstance(check(facts, ALICE, NOW + HOUR, tickets, (), secure=False, hub="/hub/"), Refuse)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"origin": "https://evil.test"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://hub.test:8443"}, False),
        ({"origin": "https://hub.test.evil"}, False),
        ({"origin": "https://user@hub.test:443"}, True),
        ({"origin": "https://HUB.test:443"}, True),
        ({"origin": "https://[bad"}, False),
        ({"origin": None}, True),
        ({"fetch_site": "cross-site", "origin": None}, False),
        ({"fetch_site": "cross-site"}, False),
        ({"fetch_site": "same-origin"}, True),
        ({"fetch_site": "none"}, True),
    ],
)
@pytest.mark.parametrize("facts", [SOCKET, POST])
def test_foreign_pages(facts: Facts, changes: dict[str, str | None], passes: bool) -> None:
    got = decide(replace(facts, tickets=[GOOD], **changes))  # type: ignore[arg-type]
    assert isinstance(got, Allow if passes else Refuse)
    if not passes:
        with_token = replace(facts, tickets=[GOOD], authorization="token x", **changes)  # type: ignore[arg-type]
        assert decide(with_token) == AskHub("x"), "a program with a token is nobody's victim"


def test_a_link_from_elsewhere_may_be_followed() -> None:
    facts = replace(PAGE, tickets=[GOOD], fetch_site="cross-site")
    assert isinstance(decide(facts), Allow)


def test_hosts() -> None:
    assert same_host("http://[::1]:8000", "[::1]:8000")
    assert not same_host("file://hub.test", "hub.test")


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("token abc", "abc"),
        ("Token abc", "abc"),
        ("bearer abc", "abc"),
        ("Basic abc", ""),
        ("abc", ""),
        ("token ", ""),
        ("token " + "x" * 600, ""),
    ],
)
def test_tokens(header: str, token: str) -> None:
    got = decide(replace(CALL, authorization=header))
    assert got == AskHub(token) if token else isinstance(got, Refuse)


def test_old_browsers_say_by_accept_that_a_person_looks() -> None:
    assert decide(replace(PAGE, fetch_mode="", accept="text/html,*/*")) == LOGIN
    assert isinstance(decide(replace(PAGE, fetch_mode="", accept="*/*")), Refuse)


def test_renewal() -> None:
    facts = replace(CALL, tickets=[GOOD])
    assert decide(facts, after=timedelta(minutes=19)) == PASSES
    got = decide(facts, after=timedelta(minutes=30))
    assert isinstance(got, Allow)
    assert got.renew is not None
    name, _, rest = got.renew.partition("=")
    text, *attributes = rest.split("; ")
    assert (name, attributes) == (
        "batchhub-access",
        ["Path=/user/alice/", "Max-Age=3600", "HttpOnly", "SameSite=Lax", "Secure"],
    )
    fresh = verify([KEY], text, NOW + HOUR)
    assert fresh == replace(TICKET, issued=NOW + HOUR / 2, expires=NOW + 3 * HOUR / 2)


def test_ownerless_routes_are_open() -> None:
    assert decide(SOCKET, Rule("/x", "")) == Allow()


# ---------------------------------------------------------------- through the proxy


async def test_the_owner_passes_without_hub_credentials_and_with_the_servers_own(tmp_path: Path) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: batchhub-session=evil; Path=/\r\nSet-Cookie: batchhub-access=x\r\nSet-Cookie: own=1\r\n"
        b'Service-Worker-Allowed: /\r\nClear-Site-Data: "*"\r\n'
        b"Content-Length: 2\r\n\r\nok"
    )
    async with running(App(answer=answer)) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization="token of-the-server")
        cookies = f"{ticket_cookie()}; batchhub-session=s; a=1; batchhub-xsrf=x; b=2;batchhub-access=y"
        status, headers, _ = await w.get("/user/alice/x?token=t", cookies, "Authorization: token of-the-hub")
        assert (status, headers["set-cookie"]) == (200, "own=1")
        assert not {"service-worker-allowed", "clear-site-data"} & set(headers)
        request = app.requests[0]
        assert request.target == "/user/alice/x?token=t"
        assert request.header("authorization") == "token of-the-server"
        assert request.header("cookie") == "a=1; b=2"
        assert b"batchhub" not in request.raw
        w.route("/user/alice", app.port, owner="alice")
        await w.get("/user/alice/x", ticket_cookie(), "Authorization: token of-the-hub")
        assert app.requests[1].header("authorization") is None
        assert app.requests[1].header("cookie") is None


async def test_connection_header_cannot_take_the_check_away(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization="token s")
        assert (await w.get("/user/alice/x", "Connection: cookie, authorization, origin"))[0] == 403
        await w.get("/user/alice/x", ticket_cookie(), "Connection: authorization, x-forwarded-for")
        assert app.requests[0].header("authorization") == "token s"
        assert app.requests[0].header("x-forwarded-for") == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        "/user/bob/",
        "/user/alice/../bob/",
        "/user/alice/%2e%2e/bob/",
        "/user/alice/..%2fbob/",
        "/user/alice/..%2f..%2fuser/bob/",
        "/user//bob/",
        "/user/%62ob/",
        "/user/bob%2f",
        "/user/bob;/",
        "//user/bob/",
        "/./user/bob/",
        "/hub/../user/bob/",
        "/user/bob/%2e",
        "/user/alice/..;/bob/",
        "/user\\bob/",
        "/user/alice%2f..%2fbob/",
        "/USER/bob/",
    ],
)
async def test_no_spelling_of_a_path_leads_to_another_users_server(tmp_path: Path, path: str) -> None:
    async with running(App()) as alices, running(App()) as bobs, running(App()) as hub, world(tmp_path) as w:
        w.route("/", hub.port)
        w.route("/user/alice", alices.port, owner="alice")
        w.route("/user/bob", bobs.port, owner="bob")
        await w.get(path, ticket_cookie())
        assert bobs.requests == []
        # What the hub and Alice's server see can be read by no normaliser as Bob's.
        for request in hub.requests + alices.requests:
            assert not request.target.startswith("/user/bob/")
            assert ".." not in request.target.split(";")[0].split("/")


async def test_a_browser_is_sent_to_the_hub_and_a_program_gets_json(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.route("/user/alice", 1, owner="alice")
        status, headers, _ = await w.get("/user/alice/a%20b/./c?x=1", "Sec-Fetch-Mode: navigate")
        assert (status, headers["location"]) == (302, "/hub/access?next=%2Fuser%2Falice%2Fa%2520b%2Fc%3Fx%3D1")
        status, headers, body = await w.get("/user/alice/api")
        assert (status, headers["content-type"]) == (403, "application/json")
        assert body.startswith(b'{"status": 403, "message": "')


async def test_tokens_are_asked_of_the_hub_and_remembered(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice", authorization="token s")

        async def status(token: str) -> int:
            return (await w.get("/user/alice/x", f"Authorization: token {token}"))[0]

        assert [await status(token) for token in ("alices", "alices", "bobs", "none", "none")] == [
            200,
            200,
            403,
            403,
            403,
        ]
        assert w.asked == [(token, "/user/alice") for token in ("alices", "bobs", "none")]
        own_page = await w.get("/user/alice/x", "Authorization: token none", "Sec-Fetch-Site: same-origin")
        assert own_page[0] == 424
        w.clock.now += timedelta(seconds=6)
        assert [await status(token) for token in ("alices", "none")] == [200, 403]
        assert len(w.asked) == 4
        w.clock.now += timedelta(seconds=25)
        assert await status("alices") == 200
        assert len(w.asked) == 5
        assert all(request.header("authorization") == "token s" for request in app.requests)


async def test_a_ticket_is_renewed_on_the_way(tmp_path: Path) -> None:
    async with running(App()) as app, world(tmp_path) as w:
        w.route("/user/alice", app.port, owner="alice")
        assert "set-cookie" not in (await w.get("/user/alice/", ticket_cookie()))[1]
        w.clock.now += HOUR / 2
        cookie = (await w.get("/user/alice/", ticket_cookie()))[1]["set-cookie"]
        assert cookie.startswith("batchhub-access=v1.")
        assert "Secure" not in cookie
        w.clock.now += HOUR / 2
        assert (await w.get("/user/alice/", ticket_cookie()))[0] == 403
        assert (await w.get("/user/alice/", f"Cookie: {cookie.partition(';')[0]}"))[0] == 200


async def test_session_cookies_stay_with_the_hub(tmp_path: Path) -> None:
    async with running(App()) as hub, running(App()) as service, world(tmp_path) as w:
        w.route("/", hub.port)
        w.route("/services/x", service.port)
        cookie = "Cookie: batchhub-session=s; batchhub-access=a; batchhub-xsrf=x; jupyterhub-session-id=j"
        await w.get("/hub/home", cookie)
        await w.get("/services/x/", cookie)
        assert hub.requests[0].header("cookie") == "batchhub-session=s; batchhub-xsrf=x; jupyterhub-session-id=j"
        assert service.requests[0].header("cookie") == "jupyterhub-session-id=j"


async def test_the_access_log_names_user_address_and_path_but_no_query_and_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO", logger="batchhub.proxy.access"):
        async with running(App()) as app, world(tmp_path, trusted_proxies=("127.0.0.1",)) as w:
            w.route("/user/alice", app.port, owner="alice", authorization="token of-the-server")
            front = "X-Forwarded-For: 192.0.2.66, 203.0.113.9"  # the first is what the browser itself said
            await w.get("/user/./alice/x?token=hidden", ticket_cookie(), front)
    written = capsys.readouterr().err
    assert " I batchhub.proxy.access: GET /user/alice/x 200 alice 203.0.113.9 2 bytes " in written, (
        "all is written when it has ended"
    )
    assert "hidden" not in written
    assert "of-the-server" not in written
