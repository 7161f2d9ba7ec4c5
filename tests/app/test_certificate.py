"""A certificate that works and that browsers would refuse all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchhub.app.certificate import doubts, names_needed
from batchhub.core.hosts import read_origin
from tests.proxy.certificates import Authority

NOW = datetime.now(UTC)  # noqa: TID251 - a certificate is signed for the real time


@pytest.mark.parametrize(
    ("host", "origin", "days", "words"),
    [
        ("hub.example.org", "", 0, []),
        ("hub.example.org", "", 4000, ["which is not now"]),
        ("hub.example.org", "", -4000, ["which is not now"]),
        ("hub.example.org", "https://hub.example.org", 0, ["is not for *.hub.example.org, but for hub.example.org"]),
        ("*.example.org", "https://hub.example.org", 0, ["is not for *.hub.example.org, but for *.example.org"]),
        ("", "https://hub.example.org:8443", 0, ["hub.example.org, but for no host at all", "not for *.hub"]),
    ],
)
def test_what_browsers_would_refuse(tmp_path: Path, host: str, origin: str, days: int, words: list[str]) -> None:
    chain, _ = Authority(tmp_path).sign("hub", host)
    now = NOW + timedelta(days=days)
    found = list(doubts(chain, names_needed(read_origin(origin) if origin else None), now))
    assert len(found) == len(words)
    assert all(part in sentence for part, sentence in zip(words, found, strict=True))


def test_what_cannot_be_read_is_told_elsewhere(tmp_path: Path) -> None:
    assert list(doubts(tmp_path / "none", ("hub",), NOW)) == []
    (tmp_path / "nonsense").write_text("nonsense")
    assert list(doubts(tmp_path / "nonsense", ("hub",), NOW)) == []
