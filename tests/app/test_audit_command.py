"""`batchhub audit` as an admin types it, with no hub running, and what other commands leave in the trail."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from batchhub.app.audit_command import read_since
from batchhub.core.deeds import Deed, DeedKind, DeedScope, deed
from batchhub.core.errors import BadInput
from batchhub.store.audit import AuditStore
from batchhub.store.store import Store

T0 = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def on_store(home, work):
    """Run ``work`` on the audit store of this home's database."""

    async def act():
        store = Store(f"sqlite:///{home / 'state' / 'batchhub.sqlite'}", clock=lambda: T0)
        await store.open()
        try:
            return await work(AuditStore(store))
        finally:
            await store.close()

    return asyncio.run(act())


@pytest.fixture
def filled(inside):
    inside.config()
    (inside.home / "state").mkdir(mode=0o700)
    deeds = [
        deed(T0, DeedKind.SIGN_IN, "ann", address="192.0.2.7", words="pam; Firefox on Linux"),
        deed(
            T0 + timedelta(hours=1), DeedKind.REFUSED, "b\x1b[2Job\n", by="", address="192.0.2.8", words="pam: blocked"
        ),
        Deed(T0 + timedelta(hours=2), "session ended", "ann", "root", "192.0.2.9", "written \x1b[31mby others"),
    ]
    on_store(inside.home, lambda audit: audit.add(deeds))
    return inside


def said(done) -> list[str]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_table_is_in_order_and_obeys_nobody(filled) -> None:
    head, *lines = said(filled("audit"))
    assert head.split() == ["TIME", "(UTC)", "KIND", "ABOUT", "BY", "FROM", "WORDS"]
    assert [line.split()[:2] for line in lines] == [["2026-03-01", f"{9 + n:02}:30:00"] for n in range(3)]
    assert r"b\x1b[2Job\n" in lines[1]
    assert "\x1b" not in "".join(lines)
    assert lines[2].endswith("written [31mby others")


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["--user=ann"], ["sign-in", "session ended"]),
        (["--user", "root"], ["session ended"]),
        (["--user=b\x1b[2Job\n"], ["sign-in refused"]),
        (["--kind=sign-in refused"], ["sign-in refused"]),
        (["--since=2026-03-01T10:00"], ["sign-in refused", "session ended"]),
        (["--since=2026-03-01T12:00+01:00"], ["session ended"]),
        (["--since=1h"], []),
        (["--limit=1"], ["session ended"]),
        (["--user=ann", "--kind=sign-in"], ["sign-in"]),
    ],
)
def test_filters_and_json(filled, options: list[str], kinds: list[str]) -> None:
    found = [json.loads(line) for line in said(filled("audit", "--json", *options))]
    assert [one["kind"] for one in found] == kinds
    assert all(list(one) == ["time", "kind", "user", "by", "address", "words"] for one in found)


def test_nothing_is_said_so(filled) -> None:
    assert said(filled("audit", "--user=nobody")) == ["Nothing."]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ann"], "takes options only, not 'ann'"),
        (["--kind=sign in"], "--kind=sign in: there is no such kind; did you mean 'sign-in'"),
        (["--since=yesterday"], "--since=yesterday: a day (2026-11-28), a moment"),
        (["--limit=0"], "limit"),
    ],
)
def test_what_is_senseless_is_said(filled, words: list[str], told: str) -> None:
    done = filled("audit", *words)
    assert done.returncode != 0
    assert told in done.stderr


def test_looking_makes_no_database(inside) -> None:
    inside.config()
    done = inside("audit")
    assert "no hub has run with this configuration yet" in done.stderr
    assert not (inside.home / "state" / "batchhub.sqlite").exists()


def test_how_long_ago() -> None:
    assert read_since("1d 12h", T0) == T0 - timedelta(hours=36)
    for text in ("", "99999999999d", "9" * 500, "0h", "now"):
        with pytest.raises(BadInput):
            read_since(text, T0)


def test_what_is_done_at_the_command_line_is_in_it(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "carla\nx")
    assert filled("ssh-ca", "create").returncode == 0
    assert filled("ssh-ca", "print").returncode == 0
    assert filled("ssh-ca", "revoke", "eve").returncode == 0
    assert filled("vault", "rotate").returncode == 0
    assert filled("vault", "status").returncode == 0
    found = on_store(filled.home, lambda audit: audit.find(DeedScope(user="command line"), 10))
    kinds = [(line.deed.kind, line.deed.words.partition(";")[0]) for line in reversed(found)]
    assert kinds == [("ssh-ca", "create"), ("ssh-ca", "revoke eve"), ("vault rotated", "rotate")]
    assert found[0].deed.words.endswith(r"(sudo: carla\nx)")


def test_a_chore_before_the_first_hub_needs_no_trail_and_one_that_fails_is_no_failure(inside) -> None:
    inside.config()
    assert inside("ssh-ca", "create").stderr == ""
    assert not (inside.home / "state" / "batchhub.sqlite").exists()
    (inside.home / "state" / "batchhub.sqlite").write_text("no database")
    done = inside("ssh-ca", "rotate")
    assert done.returncode == 0
    assert "The audit trail does not know of it" in done.stderr
