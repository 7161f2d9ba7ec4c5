"""Access tickets: only ours, only in time, only whole."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import BadInput, Denied
from batchhub.core.tickets import (
    ENTRY_LIFE,
    MAX_LENGTH,
    Entry,
    Ticket,
    door_of,
    renewable_from,
    renewed,
    sign,
    sign_entry,
    valid_between,
    verify,
    verify_entry,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY, OTHER = b"k" * 32, b"o" * 32
TICKET = Ticket("alice", "s1", "/user/alice/", NOW, NOW + HOUR, NOW + 12 * HOUR)


def test_round_trip() -> None:
    text = sign(KEY, TICKET)
    assert text.startswith("v1.")
    assert verify([KEY], text, NOW) == TICKET
    assert verify([KEY], sign(KEY, replace(TICKET, user="\u00e9va@x")), NOW).user == "\u00e9va@x"


def test_a_ticket_may_be_for_one_host_alone() -> None:
    bound = replace(TICKET, host="ann.hub.test")
    assert verify([KEY], sign(KEY, bound), NOW) == bound
    assert verify([KEY], sign(KEY, TICKET), NOW).host == ""


def test_rotation() -> None:
    assert verify([OTHER, KEY], sign(KEY, TICKET), NOW) == TICKET
    for keys in ([OTHER], []):
        with pytest.raises(Denied):
            verify(keys, sign(KEY, TICKET), NOW)


@pytest.mark.parametrize(
    ("after", "good"),
    [(-61, False), (-59, True), (0, True), (3599, True), (3600, False), (10**6, False)],
)
def test_times(after: int, good: bool) -> None:
    now = NOW + timedelta(seconds=after)
    if good:
        assert verify([KEY], sign(KEY, TICKET), now) == TICKET
    else:
        with pytest.raises(Denied, match="expired"):
            verify([KEY], sign(KEY, TICKET), now)


def test_absolute_ends_it_whatever_expires_says() -> None:
    with pytest.raises(Denied):
        verify([KEY], sign(KEY, replace(TICKET, expires=NOW + 99 * HOUR)), NOW + 13 * HOUR)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "v1.",
        "v1..",
        "v1.a.b",
        "v2" + sign(KEY, TICKET)[2:],
        "x" * (MAX_LENGTH + 1),
        "v1.é.x",
        sign(KEY, TICKET) + "=",
    ],
)
def test_nonsense(text: str) -> None:
    with pytest.raises(Denied):
        verify([KEY], text, NOW)


@given(st.integers(min_value=0), st.characters(codec="latin-1"))
def test_no_change_of_one_character_passes(at: int, char: str) -> None:
    text = sign(KEY, TICKET)
    at %= len(text)
    changed = text[:at] + char + text[at + 1 :]
    if changed != text:
        with pytest.raises(Denied):
            verify([KEY], changed, NOW)


@given(st.text(max_size=60))
def test_any_text_is_denied(text: str) -> None:
    with pytest.raises(Denied):
        verify([KEY], text, NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"nonsense",
        b'[1,"s","/",1,2,3]',
        b'["a","s","/",1e400,2,3]',
        b'["a","s","/","x",2,3]',
        b'["a","s","/",1,2,3,4]',
        b'["a","s","/",1,2,3,"h","more"]',
        b"7",
    ],
)
def test_signed_but_unreadable(body: bytes) -> None:
    from batchhub.core import tickets

    text = tickets._encode(body)
    with pytest.raises(Denied, match="cannot be read"):
        verify([KEY], f"v1.{text}.{tickets._encode(tickets._mac(KEY, tickets._ACCESS, text))}", NOW)
    with pytest.raises(Denied, match="cannot be read"):
        verify_entry([KEY], f"v1.{text}.{tickets._encode(tickets._mac(KEY, tickets._ENTRY, text))}", NOW)


def test_what_cannot_be_signed() -> None:
    with pytest.raises(BadInput, match="32 bytes"):
        sign(b"short", TICKET)
    with pytest.raises(BadInput, match="longer"):
        sign(KEY, replace(TICKET, session="s" * MAX_LENGTH))
    with pytest.raises(BadInput, match="'/'"):
        sign(KEY, replace(TICKET, path="/user/alice"))


def test_renewal_begins_after_a_third_and_ends_at_absolute() -> None:
    assert renewed(TICKET, NOW + timedelta(minutes=19)) is None
    fresh = renewed(TICKET, NOW + timedelta(minutes=20))
    assert fresh == replace(TICKET, issued=NOW + timedelta(minutes=20), expires=NOW + timedelta(minutes=80))
    near = replace(TICKET, absolute=NOW + timedelta(minutes=70))
    last = renewed(near, NOW + timedelta(minutes=30))
    assert last is not None
    assert last.expires == near.absolute
    assert renewed(last, NOW + timedelta(minutes=65)) is None


def test_what_follows_from_the_times() -> None:
    begin, end = valid_between(TICKET)
    assert (begin, end) == (NOW - timedelta(seconds=60), NOW + HOUR)
    assert valid_between(replace(TICKET, absolute=NOW + HOUR / 2))[1] == NOW + HOUR / 2
    assert renewable_from(TICKET) == NOW + HOUR / 3
    assert renewable_from(replace(TICKET, absolute=TICKET.expires)) is None


# ---------------------------------------------------------------- entries

ENTRY = Entry(replace(TICKET, host="ann.hub.test"), door_of("secret"), NOW + ENTRY_LIFE)


def test_an_entry_comes_back_whole() -> None:
    assert verify_entry([OTHER, KEY], sign_entry(KEY, ENTRY), NOW) == ENTRY


def test_an_entry_is_no_ticket_and_a_ticket_no_entry() -> None:
    with pytest.raises(Denied, match="not ours"):
        verify([KEY], sign_entry(KEY, ENTRY), NOW)
    with pytest.raises(Denied, match="not ours"):
        verify_entry([KEY], sign(KEY, ENTRY.ticket), NOW)


@pytest.mark.parametrize(("after", "good"), [(-59, True), (0, True), (59, True), (60, False), (3000, False)])
def test_an_entry_is_good_for_a_minute(after: int, good: bool) -> None:
    now = NOW + timedelta(seconds=after)
    if good:
        assert verify_entry([KEY], sign_entry(KEY, ENTRY), now) == ENTRY
    else:
        with pytest.raises(Denied, match="too long"):
            verify_entry([KEY], sign_entry(KEY, ENTRY), now)


def test_an_entry_that_claims_to_be_good_for_long_is_not() -> None:
    with pytest.raises(Denied, match="too long"):
        verify_entry([KEY], sign_entry(KEY, replace(ENTRY, until=NOW + HOUR)), NOW)


def test_an_entry_ends_with_its_ticket() -> None:
    old = replace(ENTRY, ticket=replace(ENTRY.ticket, absolute=NOW))
    with pytest.raises(Denied, match="expired"):
        verify_entry([KEY], sign_entry(KEY, old), NOW)


def test_entries_that_cannot_be_signed() -> None:
    with pytest.raises(BadInput, match="longer"):
        sign_entry(KEY, replace(ENTRY, door="d" * MAX_LENGTH))
    with pytest.raises(BadInput, match="'/'"):
        sign_entry(KEY, replace(ENTRY, ticket=replace(TICKET, path="user/")))


def test_doors_differ_and_do_not_tell_the_secret() -> None:
    assert door_of("a") != door_of("b")
    assert "secret" not in door_of("secret")
