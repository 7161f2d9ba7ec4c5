"""Which host a request has to come to: a server's own and no other, and nothing else there."""

from dataclasses import replace

import pytest

from batchhub.core.hosts import read_origin
from batchhub.core.tickets import sign
from batchhub.proxy.access import Allow, Decision, Facts, Knock, Redirect, Refuse, Rule, Tickets, check
from batchhub.proxy.gate import placed
from tests.proxy.harness import HOUR, KEY, NOW, TICKET

ORIGIN = read_origin("https://hub.test:8443")
ALICE = Rule("/user/alice", "alice", "alice.hub.test")
BOB = Rule("/user/bob", "bob", "bob.hub.test")
HUB = Rule("", "")
PAGE = Facts("GET", "/user/alice/lab?a=%2F", "alice.hub.test:8443", fetch_mode="navigate")
CALL = replace(PAGE, fetch_mode="cors")
SOCKET = replace(PAGE, fetch_mode="websocket", upgrade=True)
POST = replace(PAGE, method="POST")


def at(facts: Facts, host: str, target: str = "") -> Facts:
    return replace(facts, host=host, target=target or facts.target)


def place(facts: Facts, rule: Rule) -> Decision | None:
    return placed(facts, rule, ORIGIN, "/hub/")


@pytest.mark.parametrize("host", ["alice.hub.test:8443", "alice.hub.test", "ALICE.Hub.test", "alice.hub.test:1"])
@pytest.mark.parametrize("facts", [PAGE, CALL, SOCKET, POST])
def test_at_its_own_host_a_server_is_served(facts: Facts, host: str) -> None:
    assert place(at(facts, host), ALICE) is None


@pytest.mark.parametrize(
    "host",
    ["hub.test:8443", "bob.hub.test", "127.0.0.1:8000", "", "alice.hub.test.", "alice.hub.test.evil", "x.alice.hub.test", "hub.test"],
)  # fmt: skip
def test_at_another_host_people_are_led_there_and_nobody_else(host: str) -> None:
    assert place(at(PAGE, host), ALICE) == Redirect("https://alice.hub.test:8443/user/alice/lab?a=%2F")
    for facts in (CALL, SOCKET, POST):
        assert isinstance(got := place(at(facts, host), ALICE), Refuse)
        assert got.status == 403


@pytest.mark.parametrize("host", ["hub.test", "hub.test:8443", "127.0.0.1", "", "elsewhere.test"])
@pytest.mark.parametrize("facts", [PAGE, CALL, SOCKET, POST])
def test_the_hub_is_served_at_every_host_that_is_not_a_servers(facts: Facts, host: str) -> None:
    assert place(at(facts, host, "/hub/home"), HUB) is None


@pytest.mark.parametrize("host", ["alice.hub.test:8443", "nobody.hub.test", "ALICE.hub.test", "alice.hub.test."])
def test_at_a_servers_host_there_is_no_hub(host: str) -> None:
    for target in ("/hub/home?x=1", "/", "/user/alice/lab"):
        assert place(at(PAGE, host, target), HUB) == Redirect(f"https://hub.test:8443{target}")
    for facts in (CALL, SOCKET, POST):
        for target, status in (("/hub/api/user", 404), ("/", 404), ("/services/x/", 404), ("/user/alice/api", 424)):
            assert isinstance(got := place(at(facts, host, target), HUB), Refuse)
            assert got.status == status
    assert isinstance(place(at(PAGE, host, "/services/x/"), HUB), Refuse)
    assert isinstance(place(at(PAGE, host, "/hubris"), HUB), Refuse)


def test_what_cannot_stand_in_a_header_is_escaped() -> None:
    got = place(at(PAGE, "hub.test", "/user/alice/?q=\xe9\xff"), ALICE)
    assert got == Redirect("https://alice.hub.test:8443/user/alice/?q=%E9%FF")


@pytest.mark.parametrize("facts", [PAGE, CALL])
def test_a_hub_and_a_proxy_that_disagree_serve_no_server(facts: Facts) -> None:
    """Else a notebook would have the hub's origin, or be shown the hub at its own."""
    for got in (place(facts, replace(ALICE, host="")), placed(facts, ALICE, None, "/hub/")):
        assert isinstance(got, Refuse)
        assert got.status == 503
    assert placed(facts, replace(ALICE, host=""), None, "/hub/") is None
    assert placed(at(facts, "any.test"), HUB, None, "/hub/") is None


# ---------------------------------------------------------------- tickets of a host


def decide(facts: Facts, rule: Rule = ALICE) -> Decision:
    return check(facts, rule, NOW, Tickets([KEY]), (), secure=True, hub="https://hub.test:8443/hub/")


def ticket(**changes: object) -> str:
    return sign(KEY, replace(TICKET, **{"host": "alice.hub.test", **changes}))  # type: ignore[arg-type]


def test_a_ticket_opens_its_host_alone() -> None:
    assert decide(replace(CALL, tickets=[ticket()])) == Allow("alice", "s1", None, NOW + 12 * HOUR)
    for other in (
        ticket(host=""),
        ticket(host="alice--lab.hub.test"),
        ticket(user="bob"),
        ticket(path="/user/alice/lab/"),
    ):
        assert isinstance(decide(replace(CALL, tickets=[other])), Refuse)
    assert isinstance(decide(replace(CALL, tickets=[ticket()]), replace(ALICE, host="")), Refuse)
    lab = Rule("/user/alice/lab", "alice", "alice--lab.hub.test")
    assert isinstance(decide(replace(CALL, tickets=[ticket()]), lab), Refuse), "not even one's own other server"


def test_who_has_none_is_sent_to_knock() -> None:
    got = decide(PAGE, Rule("/user/alice/big one", "alice", "alice.hub.test"))
    assert got == Knock(
        "https://hub.test:8443/hub/access?next=%2Fuser%2Falice%2Flab%3Fa%3D%252F&at=%2Fuser%2Falice%2Fbig%20one%2F"
    )
    assert isinstance(decide(CALL), Refuse)


def test_signing_out_leads_to_the_hubs_host() -> None:
    leaving = replace(PAGE, target="/user/alice/logout", tickets=[ticket()])
    assert decide(leaving) == Redirect("https://hub.test:8443/hub/logout")


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_pages_of_a_neighbouring_host_may_lead_here_but_read_nothing(site: str) -> None:
    """Hosts below one name are one site, so cookies come along with what a neighbour's page asks for."""
    mine = replace(CALL, tickets=[ticket()], fetch_site=site, fetch_mode="no-cors")
    assert isinstance(decide(mine), Refuse)
    assert isinstance(decide(replace(mine, fetch_mode="navigate")), Allow)
    assert isinstance(decide(replace(mine, fetch_site="same-origin")), Allow)
    neighbour = "https://alice--lab.hub.test:8443"
    for facts in (replace(mine, method="POST", origin=neighbour), replace(mine, upgrade=True, origin=neighbour)):
        assert isinstance(decide(facts), Refuse)
