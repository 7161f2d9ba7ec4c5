"""A deed is one bounded line, whatever somebody typed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.deeds import MOST_NAME, MOST_WORDS, TITLES, DeedKind, as_json, deed, one_line

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANYTHING = st.text(st.characters(), max_size=600)


@given(ANYTHING, ANYTHING, ANYTHING)
def test_whatever_was_typed_is_printable_bounded_and_json(user: str, address: str, words: str) -> None:
    done = deed(NOW, DeedKind.REFUSED, user, by="", address=address, words=words)
    for text, limit in ((done.user, MOST_NAME), (done.address, 64), (done.words, MOST_WORDS)):
        assert text == "" or text.isprintable()
        assert len(text) <= limit
    line = json.dumps(as_json(done))
    assert line.isascii()
    assert "\n" not in line


def test_what_is_not_printable_is_written_out() -> None:
    assert one_line("a\nb\x1b[2J\u202e\\n\x00\ud800", 100) == r"a\nb\x1b[2J\u202e\\n\x00\ud800"
    assert one_line("Zoë Straße", 100) == "Zoë Straße"
    assert one_line("x" * 11, 10) == "x" * 9 + "…"


def test_two_different_names_are_not_written_alike() -> None:
    assert one_line("a\nb", 100) != one_line(r"a\nb", 100)


def test_who_did_it() -> None:
    assert deed(NOW, DeedKind.SIGN_IN, "ann").by == "ann"
    assert deed(NOW, DeedKind.REFUSED, "ann", by="").by == ""
    assert deed(NOW, DeedKind.SESSION_ENDED, "ann", by="root").by == "root"


def test_every_kind_has_a_title_and_fits_its_column() -> None:
    assert set(TITLES) == set(DeedKind)
    assert all(len(kind) <= 40 for kind in DeedKind)
